"""Front doors: a mistake is named, and the caller's tensors and generator stay as they are."""

import pytest
import torch

from lib import (
    DensityMetric,
    FunctionScore,
    SphereScore,
    SteinMetric,
    distance,
    extrapolate,
    geodesic,
    interpolate,
    shoot,
)
from lib.calculus import frechet_mean, logarithm, parallel_transport
from lib.paths import resample, slerp

SPHERE = SphereScore(sigma=0.5)
METRIC = SteinMetric(SPHERE, lam=2.0)
STEEP = DensityMetric(FunctionScore(lambda x: x**3))


@pytest.fixture
def pair():
    """Two points (1, 2) near the unit circle, which a test must leave as they are."""
    a = torch.tensor([[1.0, 0.2]])
    b = torch.tensor([[-0.3, 1.0]])
    before = [x.clone() for x in (a, b, torch.get_rng_state())]
    yield a, b
    for now, then in zip((a, b, torch.get_rng_state()), before, strict=True):
        assert torch.equal(now, then)
    assert torch.get_default_dtype() == torch.float32


# what is wrong: what provokes it, the error, and a word that names the culprit or the mend
MISTAKES = {
    "NaN": (lambda a, b: geodesic(METRIC, a * torch.nan, b), ValueError, "clean the input"),
    "whole numbers": (lambda a, b: geodesic(METRIC, a.long(), b.long()), TypeError, r"\.float\(\)"),
    "equal ends": (lambda a, b: geodesic(METRIC, a, a), ValueError, "drop these pairs"),
    "a score for a metric": (lambda a, b: geodesic(SPHERE, a, b), TypeError, "SteinMetric"),
    "two dtypes": (lambda a, b: distance(METRIC, a, b.double()), TypeError, "convert"),
    "a velocity of zero": (lambda a, b: shoot(METRIC, a, 0 * b), ValueError, "drop these rows"),
    "a blow-up": (lambda a, b: shoot(STEEP, a, 50 * b, steps=20), ArithmeticError, "smaller time="),
    "two shapes": (lambda a, b: logarithm(METRIC, a, b[:, :1]), ValueError, "shape"),
    "one point's mean": (lambda a, b: frechet_mean(METRIC, a), ValueError, "m ≥ 2"),
    "no path": (lambda a, b: parallel_transport(METRIC, a[:, None], b), ValueError, "N ≥ 2"),
    "one point of a path": (lambda a, b: resample(torch.stack([a, b], 1), 1), ValueError, "count"),
    "a method": (lambda a, b: interpolate(SPHERE, a, b, method="stien"), ValueError, "'stein'"),
    "time backwards": (lambda a, b: extrapolate(SPHERE, a, b, time=-1.0), ValueError, "time"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, pair):
    act, error, word = MISTAKES[mistake]
    with pytest.raises(error, match=word):
        act(*pair)


FRONT_DOORS = {
    "geodesic": lambda a, b: geodesic(METRIC, a, b, points=9),
    "start path": lambda a, b: geodesic(METRIC, a, b, points=9, init=slerp(a, b, 9)),
    "distance": lambda a, b: distance(METRIC, a, b, points=9),
    "shoot": lambda a, b: shoot(METRIC, a, b, steps=9),
    "logarithm": lambda a, b: logarithm(METRIC, a, b, tol=1e-3),
    "frechet_mean": lambda a, b: frechet_mean(METRIC, torch.cat([a, b]), points=9),
    "parallel_transport": lambda a, b: parallel_transport(METRIC, slerp(a, b, 9), b, tol=1e-3),
    "resample": lambda a, b: resample(slerp(a, b, 9), 5, METRIC),
    "interpolate": lambda a, b: interpolate(SPHERE, a, b, frames=5, lam=2.0),
    "extrapolate": lambda a, b: extrapolate(SPHERE, a, b, frames=5),
}


@pytest.mark.parametrize("name", FRONT_DOORS)
def test_the_callers_things_stay_as_they_are(name, pair):
    FRONT_DOORS[name](*pair)


def test_many_dimensions_give_the_geodesic_of_the_plane():
    metric = SteinMetric(SphereScore(sigma=0.3))
    a, b = torch.eye(2, 16384, dtype=torch.float64).split(1)
    path = geodesic(metric, a, b, points=17)
    plane = geodesic(metric, a[:, :2], b[:, :2], points=17)
    assert path.converged.all()
    assert torch.allclose(path.points[..., :2], plane.points, atol=1e-6)


def test_a_huge_lam_keeps_to_equal_log_density():
    a, b = torch.eye(2, dtype=torch.float64).split(1)
    path = geodesic(SteinMetric(SphereScore(sigma=0.5), lam=1e12), a, b, init="slerp")
    assert path.converged.all() and torch.isfinite(path.energy).all()
    assert path.log_density.abs().max() < 1e-4
