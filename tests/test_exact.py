"""The oracles themselves: known numbers, flat space, closed forms, the grid's shortest paths."""

import math

import pytest
import torch

from lib import exact
from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import FunctionScore, GaussianScore, SphereScore


def point(*x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize(
    "lam, dip, energy",
    [(1.0, 4.577478e-2, 3.799043), (1000.0, 4.796196e-3, 3.977286), (1e5, 1.038404e-3, 3.995033)],
)
def test_the_sphere_numbers_of_the_formulas(lam, dip, energy):
    truth = exact.sphere_geodesic(2.0, lam=lam, sigma=0.1)
    assert truth.dip == pytest.approx(dip, rel=1e-6) and truth.energy == pytest.approx(
        energy, rel=1e-6
    )


def test_flat_space_gives_the_chord():
    truth = exact.sphere_geodesic(2.0, radius=3.0)
    assert truth.length == pytest.approx(6 * math.sin(1)) and truth.least_radius == pytest.approx(
        3 * math.cos(1)
    )


@pytest.mark.parametrize("family", [{"lam": 1e-9}, {"alpha": 1e-9}])
def test_vanishing_lam_and_alpha_tend_to_the_chord(family):
    assert exact.sphere_geodesic(2.0, sigma=0.1, **family).length == pytest.approx(
        2 * math.sin(1), rel=1e-6
    )


@pytest.mark.parametrize("family", [{"lam": 10.0}, {"alpha": 0.5}, {"lam": 10.0, "alpha": 0.3}])
def test_the_exact_path_has_the_exact_length(family):
    truth = exact.sphere_geodesic(1.5, sigma=0.2, **family)
    path = truth.path(2001)
    middle, step = (path[1:] + path[:-1]) / 2, path.diff(dim=0)
    speed = ScoreMetric(SphereScore(sigma=0.2), **family).inner(middle, step, step).sqrt()
    assert float(speed.sum()) == pytest.approx(truth.length, rel=1e-4)
    assert float((speed.max() - speed.min()) / speed.mean()) < 1e-2
    ends = torch.stack([point(1, 0, 0), point(math.cos(1.5), math.sin(1.5), 0)])
    torch.testing.assert_close(path[[0, -1]], ends, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "angle, family, words",
    [
        (math.pi, {}, "below pi"),
        (0.0, {}, "angle"),
        (1.0, {"lam": -1.0}, "lam"),
        (1.0, {"sigma": 0.0}, "sigma"),
        (2.0, {"alpha": 1.0, "sigma": 0.01}, "too steep"),
    ],
)
def test_bad_input_of_the_sphere(angle, family, words):
    with pytest.raises(ValueError, match=words):
        exact.sphere_geodesic(angle, **family)


@pytest.mark.parametrize("reach, excess", [(2, 0.028), (3, 0.0132), (5, 0.0050), (8, 0.0020)])
def test_grid_in_flat_space_is_an_upper_bound_of_known_tightness(reach, excess):
    field = exact.grid_distance(
        EuclideanMetric(), point(0, 0), lower=-1, upper=1, cells=60, reach=reach
    )
    true = torch.cartesian_prod(torch.from_numpy(field.x), torch.from_numpy(field.y)).norm(dim=1)
    ratio = torch.from_numpy(field.distance).flatten()[true > 0.2] / true[true > 0.2]
    assert ratio.min() > 1 - 1e-12 and ratio.max() < 1 + excess


def test_grid_meets_the_half_plane():
    """p = y, alpha = 1 is Poincaré's half-plane: distance arcosh(1 + ‖b − a‖²/2 y_a y_b)."""
    score = FunctionScore(
        lambda x: torch.stack([0 * x[:, 0], 1 / x[:, 1]], 1),
        log_density=lambda x: x[:, 1].clamp_min(1e-9).log(),
    )
    field = exact.grid_distance(DensityMetric(score, 1.0), point(1, 1), lower=0, upper=4, cells=80)
    end, true = point(3, 1), math.acosh(1 + 2**2 / 2)
    assert true - 1e-4 < field.to(end) < 1.006 * true
    path = field.path(end)
    torch.testing.assert_close(path[[0, -1]], torch.stack([point(1, 1), end]))
    assert (
        float(((path - point(2, 0)).norm(dim=1) / math.sqrt(2) - 1).abs().max()) < 0.1
    )  # near the half-circle


def test_grid_distance_is_symmetric_for_an_anisotropic_metric():
    metric = SteinMetric(GaussianScore(point(0.2, 0.1), 0.7), lam=3.0)
    a, b = point(-0.5, 0), point(1, 0.5)
    there, back = (
        exact.grid_distance(metric, start, lower=-2, upper=2, cells=40).to(end)
        for start, end in ((a, b), (b, a))
    )
    assert there == pytest.approx(back, rel=1e-12)
    assert there**2 >= float(
        (b - a).pow(2).sum() + 3 * metric.score.log_density(torch.stack([a, b])).diff() ** 2
    )


@pytest.mark.parametrize(
    "start, settings, words",
    [
        ((0.013, 0), {}, "no node"),
        ((5, 0), {}, "no node"),
        ((0, 0), {"cells": 7}, "cells"),
        ((0, 0), {"reach": 0}, "reach"),
        ((0, 0), {"upper": -1.0}, "upper"),
    ],
)
def test_bad_input_of_the_grid(start, settings, words):
    with pytest.raises(ValueError, match=words):
        exact.grid_distance(
            EuclideanMetric(),
            point(*start),
            **{"lower": -1.0, "upper": 1.0, "cells": 20} | settings,
        )
