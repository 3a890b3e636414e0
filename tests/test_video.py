"""Videos as paths: deviations in closed form, smoothing on flat space and on the sphere."""

import itertools
import math

import pytest
import torch

from lib import paths
from lib.elements import elements
from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric
from lib.scores import FunctionScore, GaussianScore, SphereScore
from lib.video import (
    MOVED,
    SETTLED,
    deviation,
    functional_smooth,
    monotone_matching,
    smooth,
    turning,
    velocity,
)


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


# ---- a whole sequence improved

FLAT = ScoreMetric(FunctionScore(lambda x: -x), 0.0, 0.0)


def test_a_step_in_flat_space_is_the_linear_filter_of_the_docstring():
    video = noisy(arc(1.0), 0.1)
    e = elements(9)
    D = e.D[:, 1:-1]
    A = D.T @ (e.w[:, None] * D)
    gradient = D.T @ (e.w[:, None] * (e.D @ video[0]))
    expected = video[0, 1:-1] - torch.linalg.solve(A + torch.diag(A.diagonal()), gradient)
    found = smooth(FLAT, video, distance=10.0, max_iter=1)
    torch.testing.assert_close(found.frames[0, 1:-1], expected, rtol=1e-10, atol=1e-12)
    assert found.steps.tolist() == [1] and "max_iter" in found.reason[0]
    values = 1 / (1 + torch.linalg.eigvals(torch.linalg.solve(torch.diag(A.diagonal()), A)).real)
    assert abs(1 - values.max() - 0.06) < 0.01 and abs(1 - values.min() - 2 / 3) < 0.03


def test_smoothing_stops_at_the_noise():
    video = noisy(arc(1.0, dim=40), 0.05)
    found = smooth(FLAT, video, distance=0.03)
    assert found.moved.item() == pytest.approx(0.03, abs=1e-9) and found.reason == [MOVED.text]
    far = smooth(FLAT, video, distance=10.0, damping=1e-3, max_iter=50)
    # the geodesic of flat space
    torch.testing.assert_close(far.frames, line(video, 9), rtol=0, atol=1e-3)
    assert far.reason == [SETTLED.text]


@pytest.mark.parametrize(
    "lam, alpha", [(10.0, 0.0), (0.0, 0.05), (5.0, 0.05)], ids=["stein", "density", "both"]
)
def test_noise_on_frames_of_the_sphere_is_taken_away(lam, alpha):
    """Frames nearer to the truth, each video as if it were alone, nothing of the caller changed."""
    metric = ScoreMetric(SphereScore(sigma=0.1), lam, alpha)
    truth = torch.cat([arc(1.0), arc(2.0)])
    video = noisy(truth, 0.05)
    before = video.clone()
    found = smooth(metric, video, distance=0.05)
    assert torch.equal(video, before) and torch.equal(found.frames[:, [0, -1]], video[:, [0, -1]])
    error = (found.frames - truth).flatten(1).norm(dim=1)
    error_before = (video - truth).flatten(1).norm(dim=1)
    assert bool((error < 0.8 * error_before).all())
    for i in range(2):
        alone = smooth(metric, video[[i]], distance=0.05)
        torch.testing.assert_close(alone.frames[0], found.frames[i], rtol=1e-9, atol=1e-10)
        assert alone.steps[0] == found.steps[i] and alone.reason[0] == found.reason[i]


def test_the_papers_update_leaves_a_great_circle_and_smooths_what_jumps():
    """The Gaussian's score is radial: only the bend acts, and by the rule nothing moves."""
    metric = DensityMetric(GaussianScore(torch.zeros(5).double()), 1.0)
    video = arc(1.5, radius=2.0)
    torch.testing.assert_close(
        functional_smooth(metric, video, rule=False).frames, video, rtol=0, atol=1e-9
    )
    rough = noisy(video, 0.1)
    settings = {"iterations": 200, "step": 0.02, "rule": False}
    found = functional_smooth(metric, rough, **settings)
    assert turning(found.frames).mean() < 0.6 * turning(rough).mean()
    torch.testing.assert_close(found.frames.norm(dim=2), rough.norm(dim=2), rtol=1e-12, atol=0)
    assert torch.equal(found.frames[:, [0, -1]], rough[:, [0, -1]])
    assert torch.equal(functional_smooth(metric, rough, **settings).frames, found.frames)
    still = functional_smooth(metric, rough)
    assert still.steps.tolist() == [0] and still.moved.item() < 1e-12


def test_the_papers_update_goes_where_the_density_rises():
    """On a sphere with one pole favoured, a video at equal latitude climbs."""
    pole = torch.zeros(5).double()
    pole[2] = 1
    score = FunctionScore(lambda x: 5 * pole.expand_as(x))
    both = torch.cat([arc(1.0), arc(0.6)])
    found = functional_smooth(DensityMetric(score, 50.0), both, iterations=20)
    assert bool((found.frames[:, 1:-1, 2] > 0).all()) and bool((found.steps >= 15).all())
    alone = functional_smooth(DensityMetric(score, 50.0), both[1:], iterations=20)
    torch.testing.assert_close(alone.frames[0], found.frames[1], rtol=1e-12, atol=1e-14)


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
        (lambda v: smooth(EuclideanMetric(), v, distance=1.0), TypeError, "ScoreMetric"),
        (lambda v: smooth(FLAT, v[0], distance=1.0), ValueError, "one: frames"),
        (lambda v: smooth(FLAT, v, distance=0.0), ValueError, "distance"),
        (lambda v: functional_smooth(FLAT, v), ValueError, "needs a DensityMetric"),
        (lambda v: velocity(v, last=10), ValueError, "at most the video's 9"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call(arc(1.0))
