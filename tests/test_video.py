"""Videos as paths: deviations in closed form, and the next frames."""

import itertools
import math

import pytest
import torch

from lib import paths
from lib.video import deviation, monotone_matching, turning, velocity


def arc(angle, frames=9, dim=5, radius=1.0):
    """A video that turns: (1, frames, dim) on a circle, symmetric about the first axis."""
    phi = torch.linspace(-angle / 2, angle / 2, frames, dtype=torch.float64)
    video = torch.zeros(1, frames, dim, dtype=torch.float64)
    video[0, :, 0] = radius * phi.cos()
    video[0, :, 1] = radius * phi.sin()
    return video


def noisy(video, rms, seed=0):
    noise = torch.randn(
        video.shape, generator=torch.Generator().manual_seed(seed), dtype=video.dtype
    )
    out = video + rms * noise
    out[:, [0, -1]] = video[:, [0, -1]]
    return out


def line(video, frames=2):
    return paths.lerp(video[:, 0], video[:, -1], frames)


# ---- deviation


@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5])
def test_an_arc_lies_off_its_chord_as_the_closed_form_says(angle):
    """Matched: (cos φ − cos θ/2) / (2 sin θ/2), in the middle ½ tan θ/4.

    Its foot divides the chord as sin φ does.
    """
    video = arc(angle)
    phi = torch.linspace(-angle / 2, angle / 2, 9, dtype=torch.float64)
    chord = 2 * math.sin(angle / 2)
    found = deviation(line(video), video, fine=1024)
    torch.testing.assert_close(
        found.matched[0], (phi.cos() - math.cos(angle / 2)) / chord, rtol=1e-4, atol=3e-4
    )
    torch.testing.assert_close(found.times[0], 0.5 + phi.sin() / chord, rtol=0, atol=1 / 1024)
    assert abs(found.matched[0, 4].item() - math.tan(angle / 4) / 2) < 1e-7
    along = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64) * chord
    late = ((phi.cos() - math.cos(angle / 2)) ** 2 + (phi.sin() - along) ** 2).sqrt() / chord
    torch.testing.assert_close(found.equal[0], late, rtol=1e-9, atol=1e-12)


def test_a_speed_of_its_own_is_no_deviation_from_the_curve():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    ends = torch.zeros(1, 6).double(), torch.ones(1, 6).double()
    video = paths.lerp(*ends, t**2)
    found = deviation(paths.lerp(*ends, 33), video)
    torch.testing.assert_close(found.equal[0], t - t**2, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.times[0], t**2, rtol=0, atol=1 / 512 + 1e-12)
    assert found.matched.max() <= 1 / 512 + 1e-12


def test_times_never_go_back():
    """A video that runs to 0.8, back to 0.2 and on: in the least squares it waits."""
    place = torch.tensor([0, 0.8, 0.2, 1.0], dtype=torch.float64)
    video = paths.lerp(torch.zeros(1, 3).double(), torch.ones(1, 3).double(), place)
    found = deviation(line(video), video, fine=100)
    assert found.times[0].tolist() == pytest.approx([0, 0.5, 0.5, 1])
    torch.testing.assert_close(
        found.matched[0], torch.tensor([0, 0.3, 0.3, 0], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_matching_is_the_best_of_all_matchings(generator):
    cost = torch.rand(3, 4, 6, generator=generator)
    best = monotone_matching(cost)
    for row, found in zip(cost, best, strict=True):
        totals = {}
        for inner in itertools.combinations_with_replacement(range(6), 2):
            places = (0, *inner, 5)
            totals[places] = float(row[torch.arange(4), torch.tensor(places)].sum())
        assert tuple(found.tolist()) == min(totals, key=totals.get)


def test_deviation_is_relative_and_knows_no_axes(generator):
    video = noisy(torch.cat([arc(1.0), arc(2.0)]), 0.05)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    plain = deviation(line(video), video)
    turned = deviation(line(7 * video @ turn + 3), 7 * video @ turn + 3)
    torch.testing.assert_close(plain.equal, turned.equal, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plain.matched, turned.matched, rtol=1e-9, atol=1e-12)
    alone = deviation(line(video[1:]), video[1:])
    assert torch.equal(alone.matched[0], plain.matched[1])
    assert bool((plain.matched <= plain.equal + 1 / 512).all())


def test_turning_is_the_angle_between_steps():
    torch.testing.assert_close(
        turning(arc(2.4, frames=9)), torch.full((1, 7), math.degrees(2.4 / 8)).double()
    )
    assert turning(line(arc(1.0), 5)).abs().max() < 1e-6


# ---- the next frames


def test_velocity_is_the_slope_of_the_fit():
    t = torch.arange(6).double()
    a = torch.tensor([1.0, -2]).double()
    b = torch.tensor([0.5, 3]).double()
    bent = (t[:, None] * a + t[:, None] ** 2 * b)[None]
    torch.testing.assert_close(velocity((t[:, None] * a)[None], last=5), a[None])
    torch.testing.assert_close(velocity(bent, last=2), bent[:, -1] - bent[:, -2])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda v: deviation(v[..., :3], v), ValueError, r"must be \(batch, N"),
        (
            lambda v: deviation(v, torch.cat([v, v[:, :1]], 1)),
            ValueError,
            "first frame equals its last",
        ),
        (lambda v: deviation(v, v * torch.nan), ValueError, "NaN"),
        (lambda v: velocity(v, last=10), ValueError, "at most the video's 9"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call(arc(1.0))
