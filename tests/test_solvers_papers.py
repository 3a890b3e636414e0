"""The papers' own solvers against Gauss–Newton, exact geodesics and flat space; how each fails."""

from __future__ import annotations

import math

import pytest
import torch

from lib import paths
from lib.exact import sphere_geodesic
from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import FunctionScore, GaussianMixtureScore, SphereScore
from lib.solvers import (
    ConvergenceWarning,
    FunctionalGradient,
    Georce,
    Relaxation,
    Shooting,
    geodesic,
)
from lib.solvers.relaxation import FrozenScore

ANGLE = 2.0
A = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
B = torch.tensor([[math.cos(ANGLE), math.sin(ANGLE), 0]], dtype=torch.float64)
FLAT = FunctionalGradient(spherical=False, step=0.1)
LBFGS = Relaxation(optimizer="lbfgs")


def mixture() -> tuple[GaussianMixtureScore, torch.Tensor, torch.Tensor]:
    """Three wide modes in the plane and two pairs whose geodesic is unique."""
    means = torch.tensor([[0.0, 0.0], [2.0, 0.5], [1.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([[-0.5, 0.8], [0.2, -0.9]], dtype=torch.float64)
    return (
        GaussianMixtureScore(means, 1.0),
        start,
        torch.tensor([[2.2, 1.0], [1.2, 2.4]], dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(LBFGS, 5e-4), (Georce(), 5e-3), (Shooting(), 1e-4), (Shooting(newton_dim=0), 1e-4)],
    ids=["lbfgs", "georce", "newton", "broyden"],
)
@pytest.mark.parametrize(("lam", "alpha"), [(2.0, 0.0), (0.0, 0.5), (1.0, 0.3)])
def test_agrees_with_gauss_newton(solver, tolerance, lam, alpha):
    score, a, b = mixture()
    metric = ScoreMetric(score, lam=lam, alpha=alpha)
    expected = geodesic(metric, a, b, points=17)
    found = geodesic(metric, a, b, points=17, solver=solver)
    assert bool(found.converged.all()), found.reason
    assert torch.allclose(found.energy, expected.energy, rtol=tolerance)
    assert torch.equal(found.points[:, 0], a) and torch.equal(found.points[:, -1], b)
    before = metric.speed_squared(paths.lerp(a, b, 17)).mean(1)
    assert bool((found.energy < before).all())


@pytest.mark.parametrize(
    "solver", [LBFGS, Relaxation(), Georce(), Shooting()], ids=lambda s: s.name
)
def test_flat_space_gives_the_straight_line(solver):
    found = geodesic(ScoreMetric(SphereScore(), lam=0, alpha=0), A, B, points=17, solver=solver)
    assert bool(found.converged.all())
    assert torch.allclose(found.points, paths.lerp(A, B, 17), atol=1e-10)


@pytest.mark.parametrize("lam", [1.0, 10.0, 1000.0])
def test_lbfgs_finds_the_exact_sphere_geodesic(lam):
    found = geodesic(SteinMetric(SphereScore(1.0, 0.1), lam), A, B, solver=LBFGS)
    assert float(found.energy) == pytest.approx(sphere_geodesic(ANGLE, lam=lam).energy, rel=1e-3)


def test_preconditioned_lbfgs_needs_no_more_evaluations_for_more_points():
    """The chain's stiffness spoils plain L-BFGS as points are added; in its own coordinates not."""
    metric = SteinMetric(SphereScore(1.0, 0.1), 1.0)

    def solve(points, preconditioned):
        bent = paths.slerp(A, B, points) * 1.1
        solver = Relaxation(optimizer="lbfgs", preconditioned=preconditioned, window=10)
        # Its ends are set right.
        return geodesic(metric, A, B, points=points, init=bent, solver=solver)

    few, many = (solve(points, preconditioned=True) for points in (33, 129))
    with pytest.warns(ConvergenceWarning):
        plain = solve(129, preconditioned=False)
    assert float(many.energy) == pytest.approx(sphere_geodesic(ANGLE, lam=1.0).energy, rel=1e-5)
    assert many.score_batches <= 1.2 * few.score_batches
    assert many.score_batches < plain.score_batches / 2 and many.energy < plain.energy


def test_georce_is_of_first_order():
    """The left-point energy is off by about 1/T (between ends of equal score its error cancels)."""
    score, a, b = mixture()
    metric = SteinMetric(score, 2.0)
    exact = geodesic(metric, a, b, points=129, tol=1e-9).energy
    own = [
        torch.tensor(geodesic(metric, a, b, points=n, solver=Georce()).history[-1]["energy"])
        for n in (17, 33, 65)
    ]
    coarse, middle, fine = ((e - exact).abs() for e in own)
    for slope in ((coarse / middle).log2(), (middle / fine).log2()):
        assert bool(((slope > 0.8) & (slope < 1.3)).all()), slope


def test_georce_under_resolved_leaves_a_point_of_zero_score_for_nothing():
    """At T = 32, lam 10 the left-point energy is below the exact one: s(x_0) = 0 costs nothing."""
    exact = sphere_geodesic(ANGLE, lam=10).energy
    with pytest.warns(ConvergenceWarning):
        found = geodesic(
            SteinMetric(SphereScore(1.0, 0.1), 10.0), A, B, solver=Georce(max_iter=600)
        )
    assert found.history[-1]["energy"][0] < exact < 0.5 * float(found.energy)
    with pytest.warns(ConvergenceWarning, match="raise points="):  # solved, but not worth trusting
        geodesic(SteinMetric(SphereScore(1.0, 0.1), 1.0), A, B, solver=Georce())


def test_adam_at_the_papers_settings_does_not_converge_and_says_so():
    metric = SteinMetric(SphereScore(1.0, 0.1), 1000.0)
    with pytest.warns(ConvergenceWarning, match="max_iter reached"):
        found = geodesic(metric, A, B, points=17, solver="relaxation")
    assert float(metric.energy(found.points)) < float(metric.energy(paths.lerp(A, B, 17)))
    assert (
        found.score_batches == 504 and found.derivative_evaluations == 501 * 16
    )  # start, check, 501 iterates; then measured


def test_adam_converges_from_the_great_circle():
    found = geodesic(
        SteinMetric(SphereScore(1.0, 0.1), 10.0), A, B, solver="relaxation", init="slerp"
    )
    assert float(found.energy) == pytest.approx(sphere_geodesic(ANGLE, lam=10).energy, rel=5e-4)


def test_frozen_derivative_has_the_value_of_the_score_and_the_derivative_of_one_point():
    score, x = SphereScore(1.0, 0.2), torch.tensor([[0.7, 0.1, 0.2]], dtype=torch.float64)
    frozen, v = FrozenScore(score), torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64)
    assert torch.equal(frozen(x), score(x))
    y = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad((frozen(y) * v).sum(), y)
    assert torch.allclose(pulled, -v / 0.04)
    assert frozen.counter is score.counter and frozen.at(0.5).sigma == 0.5


def test_frozen_and_exact_relaxation_differ():
    """The false pull along the sphere: frozen stays above exact, neither goes above its start."""
    metric, start = SteinMetric(SphereScore(1.0, 0.1), 10.0), paths.slerp(A, B)
    exact = geodesic(metric, A, B, solver=Relaxation(), init="slerp")
    with pytest.warns(ConvergenceWarning):
        frozen = geodesic(metric, A, B, solver=Relaxation(derivative="frozen"), init="slerp")
    energies = [float(metric.energy(p)) for p in (exact.points, frozen.points, start)]
    assert energies[0] < energies[1] - 1e-2 < energies[1] <= energies[2]
    assert frozen.derivative_evaluations == 0 < exact.derivative_evaluations


def test_relaxation_solves_any_metric():
    found = geodesic(EuclideanMetric(), A, B, points=9, solver=LBFGS, init="slerp")
    assert float(found.energy) == pytest.approx(float((B - A).pow(2).sum()), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_functional_gradient_finds_the_exact_geodesic_of_the_tube(alpha):
    metric = DensityMetric(SphereScore(1.0, 0.1), alpha)
    found = geodesic(metric, A, B, solver=FunctionalGradient(spherical=False, step=0.01))
    assert bool(found.converged.all())
    assert float(found.energy) == pytest.approx(
        sphere_geodesic(ANGLE, alpha=alpha).energy, rel=1e-3
    )
    assert float(found.speed_variation) < 0.02


def test_functional_gradient_too_long_a_step_is_dropped():
    with pytest.warns(ConvergenceWarning, match="lower step="):
        found = geodesic(DensityMetric(SphereScore(1.0, 0.1), 0.5), A, B, solver=FLAT)
    assert bool(torch.isfinite(found.points).all())


@pytest.mark.filterwarnings("ignore:.*skip rule:lib.solvers.geodesic.ConvergenceWarning")
def test_spherical_form_stays_on_the_sphere_and_carries_the_norms():
    """Modes off the equator pull the path; ends of different norm are met, norms are linear."""
    means = torch.tensor([[0.5, 0.5, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    metric = DensityMetric(GaussianMixtureScore(means, 0.7), 0.5)
    for end in (B, 1.5 * B):
        plain = metric.energy(paths.slerp(A, end))
        found = geodesic(metric, A, end, solver=FunctionalGradient(step=0.3))
        assert float(found.length) ** 2 < float(plain)
        assert float(found.points[0, 16, 2]) > 0.05  # towards the modes
        radii = found.points.norm(dim=2)[0]
        assert float(radii.min()) > 1 - 1e-3 and float(radii.max()) < float(end.norm()) + 1e-3
        assert torch.equal(found.points[:, 0], A) and torch.equal(found.points[:, -1], end)


def test_functional_gradient_on_a_level_sphere_is_the_great_circle():
    found = geodesic(DensityMetric(SphereScore(1.0, 0.1), 0.5), A, B, solver="functional_gradient")
    assert bool(found.converged.all())
    assert torch.allclose(found.points, paths.slerp(A, B), atol=1e-3)


def test_shooting_needs_a_guess_and_says_where_it_lands():
    metric = DensityMetric(SphereScore(1.0, 0.1), 0.5)
    with pytest.warns(ConvergenceWarning, match="distance away"):
        lost = geodesic(metric, A, B, points=17, solver=Shooting(max_iter=8))
    assert torch.equal(lost.points[:, 0], A) and not torch.allclose(
        lost.points[:, -1], B, atol=1e-3
    )
    solved = geodesic(metric, A, B, points=17)
    found = geodesic(metric, A, B, points=17, solver=Shooting(substeps=8), init=solved.points)
    assert float(found.energy) == pytest.approx(float(solved.energy), rel=1e-3)
    assert torch.equal(found.points[:, -1], B)


def test_shooting_takes_the_guess_it_is_given():
    score, a, b = mixture()
    metric = DensityMetric(score, 0.5)
    answer = geodesic(metric, a, b, points=9, solver=Shooting(substeps=4))
    v = (answer.points[:, 1] - answer.points[:, 0]) * 8
    given = v + 0.1
    kept = given.clone()
    again = geodesic(metric, a, b, points=9, solver=Shooting(substeps=4, guess=given))
    assert torch.allclose(again.points, answer.points, atol=1e-5)
    assert torch.equal(given, kept)


@pytest.mark.parametrize(
    "solver",
    [
        Relaxation(max_iter=60, window=10),
        Relaxation(optimizer="lbfgs", window=10),
        Georce(),
        Shooting(),
        Shooting(newton_dim=0),
        FLAT,
    ],
    ids=lambda s: s.name,
)
@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
def test_a_batch_gives_what_the_pairs_give(solver):
    score, a, b = mixture()
    metric = DensityMetric(score, 0.3)
    both = geodesic(metric, a, b, points=17, solver=solver)
    for i in range(2):
        one = geodesic(metric, a[i : i + 1], b[i : i + 1], points=17, solver=solver)
        assert torch.allclose(one.points[0], both.points[i], atol=1e-6)
        assert one.reason[0] == both.reason[i]


@pytest.mark.parametrize(
    "solver", [Relaxation(), LBFGS, Georce(), FLAT, Shooting()], ids=lambda s: s.name
)
def test_a_callback_stops_and_nothing_of_the_caller_changes(solver):
    score, a, b = mixture()
    path = paths.lerp(a, b, 17)
    kept = path.clone()
    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        geodesic(
            DensityMetric(score, 0.3),
            a,
            b,
            points=17,
            solver=solver,
            init=path,
            tol=1e-12,
            callback=lambda *_: True,
        )
    assert torch.equal(path, kept)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FunctionalGradient(levels=(1, 2)),
        lambda: FunctionalGradient(levels=()),
        lambda: FunctionalGradient(step=-1),
        lambda: Georce(tol=0.0),
        lambda: Shooting(substeps=0),
    ],
)
def test_bad_settings(make):
    with pytest.raises(ValueError):
        make()


def test_metrics_that_a_solver_cannot_do():
    frozen, unknown = Relaxation(derivative="frozen"), FunctionScore(lambda x: -x)
    cases = [
        (FunctionalGradient(), SteinMetric(SphereScore()), ValueError, "gauss_newton"),
        (FunctionalGradient(), EuclideanMetric(), TypeError, "relaxation"),
        (Georce(), EuclideanMetric(), TypeError, "relaxation"),
        (frozen, EuclideanMetric(), TypeError, "exact"),
        (frozen, SteinMetric(unknown), ValueError, "noise level"),
        (Relaxation(), SteinMetric(FunctionScore(lambda x: -x.detach())), ValueError, "frozen"),
        (FunctionalGradient(), DensityMetric(unknown), ValueError, "origin"),
    ]
    for solver, metric, error, words in cases:
        start = A * 0 if "origin" in words else A
        with pytest.raises(error, match=words):
            geodesic(metric, start, B, solver=solver)


def test_a_bad_guess():
    score, a, b = mixture()
    for guess, words in (
        (torch.zeros_like(a), "guess is zero"),
        (a[:, :1], "shape"),
        (a * torch.nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            geodesic(DensityMetric(score, 0.3), a, b, solver=Shooting(guess=guess))
