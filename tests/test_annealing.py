"""Noise levels and numbers of points of a learned score: the rule, and that its paths converge."""

import pytest
import torch

from lib import DensityMetric, SphereScore, SteinMetric, flow, interpolate
from lib.methods.annealing import annealing_schedule, data_spread
from lib.scores import load


@pytest.fixture(scope="module")
def digits():
    return load("rotated-mnist")


@pytest.fixture(scope="module")
def hands():
    return load("hands", prompt="")


def test_adjacent_points_are_about_two_noise_levels_apart(hands, digits):
    # 4·16·16 latents of unit spread: draws are √2048 = 45.3 apart
    schedule = annealing_schedule(hands, sigma=0.7)
    assert schedule.noise_levels == pytest.approx((5.6, 2.8, 1.4, 0.7))
    assert (schedule.points, schedule.coarse) == (33, (5, 9, 17))
    # bounded
    assert annealing_schedule(hands, sigma=0.1).points == 65
    large = annealing_schedule(hands, sigma=10.0)
    assert (large.noise_levels, large.points, large.coarse) == ((10.0,), 17, (5, 9))
    # EDM's sigma_data 0.6 in the model's units, of which a pixel has 2
    assert data_spread(digits) == pytest.approx(0.3)
    near = annealing_schedule(digits, sigma=0.5, distance=4.0)
    assert (near.noise_levels, near.points) == ((2.0, 1.0, 0.5), 17)
    assert annealing_schedule(digits, sigma=0.5, distance=4.0, least=33).points == 33
    # never above the noise that the model knows
    far = annealing_schedule(hands, sigma=2.0, distance=1e4)
    assert far.noise_levels[0] <= hands.noise_range[1] < 2 * far.noise_levels[0]
    assert annealing_schedule(hands, sigma=0.7, points=20).coarse == (5, 10)


def test_a_score_that_is_not_learned_has_no_schedule():
    with pytest.raises(ValueError, match="noise_levels="):
        annealing_schedule(SphereScore())


def test_what_was_chosen_stands_in_the_settings_and_explicit_settings_win(digits):
    a, b = torch.rand(2, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loose = {"tol": 1e9, "max_iter": 1}
    chosen = interpolate(digits, a, b, **loose).settings
    assert chosen["noise_levels"] == pytest.approx([digits.sigma * 2**k for k in (3, 2, 1, 0)])
    assert (chosen["points"], chosen["coarse"]) == (33, (5, 9, 17))
    assert chosen["metric"] == SteinMetric(digits, 100 * digits.sigma**2).name
    dense = interpolate(digits, a, b, method="density", **loose).settings
    assert (dense["points"], dense["coarse"]) == (17, (5, 9))
    assert dense["metric"] == DensityMetric(digits, 10 / 784).name
    own = interpolate(digits, a, b, points=9, noise_levels=None, lam=3.0, **loose).settings
    assert (own["points"], own["noise_levels"], own["metric"]) == (9, [], "stein(lam=3, alpha=0)")
    # a start of one's own is not forgotten in large noise
    line = torch.lerp(a, b, torch.linspace(0, 1, 17).reshape(17, 1, 1, 1))[None]
    kept = interpolate(digits, a[0], b[0], init=line, **loose).settings
    assert (kept["points"], kept["noise_levels"], kept["coarse"]) == (17, [], ())


@pytest.mark.parametrize(
    "model, method, pairs, settings",
    [
        ("digits", "stein", 2, {}),
        ("digits", "density", 3, {}),
        ("digits", "both", 1, {}),
        ("hands", "stein", 1, {}),
        # at a higher level, where a path costs less
        ("hands", "density", 2, {"sigma": 1.3}),
    ],
)
def test_the_default_converges_on_fresh_pairs(model, method, pairs, settings, request):
    score = request.getfixturevalue(model)
    ends = flow.sample(score, 2 * pairs, torch.Generator().manual_seed(11), steps=8)
    found = interpolate(score, ends[:pairs], ends[pairs:], method=method, **settings)
    assert bool(found.path.converged.all()), found.path.reason
    # a geodesic has a constant speed
    assert bool((found.path.speed_variation < 0.5).all())
