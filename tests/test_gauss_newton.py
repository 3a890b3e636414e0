"""Gauss–Newton, annealing, graph and portfolio against exact geodesics."""

import math
import warnings

import pytest
import torch

from lib import paths
from lib.exact import sphere_geodesic
from lib.metrics import DensityMetric, ScoreMetric, SteinMetric
from lib.scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    SphereScore,
    helix,
    helix_point,
)
from lib.solvers import ConvergenceWarning, GaussNewton, Portfolio, distance, geodesic
from lib.solvers.gauss_newton import DiscreteEnergy, starting_curvature


def ends(dim=3, angle=2.0, dtype=torch.float64):
    """Two points of the unit sphere."""
    start, end = torch.zeros(2, dim, dtype=dtype)
    start[0] = 1
    end[0] = math.cos(angle)
    end[1] = math.sin(angle)
    return start, end


FAMILY = {"stein": (50.0, 0.0), "density": (0.0, 0.5), "both": (5.0, 0.3)}


# ---- closed forms


@pytest.mark.parametrize("lam", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("dim", [2, 3, 1000])
def test_stein_geodesic_on_the_sphere_is_clairauts(lam, dim):
    exact = sphere_geodesic(2.0, lam=lam)
    found = geodesic(SteinMetric(SphereScore(), lam), *ends(dim), points=51)
    assert bool(found.converged) and found.score_batches <= 13
    assert float(found.energy) == pytest.approx(exact.energy, rel=1e-4)
    assert 1 - float(found.points.norm(dim=2).min()) == pytest.approx(exact.dip, abs=1e-4)
    # the whole path, parametrisation included
    assert float((found.points[0] - exact.path(51, dim)).norm(dim=1).max()) < 5e-3
    assert float(found.speed_variation) < 0.01


@pytest.mark.parametrize("alpha, lam", [(0.5, 0.0), (1.0, 0.0), (0.5, 10.0), (0.2, 1000.0)])
def test_density_and_both_on_the_sphere_are_clairauts(alpha, lam):
    exact = sphere_geodesic(2.0, lam=lam, alpha=alpha)
    found = geodesic(ScoreMetric(SphereScore(), lam=lam, alpha=alpha), *ends(), points=65)
    assert bool(found.converged)
    assert float(found.energy) == pytest.approx(exact.energy, rel=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_thin_sphere_is_solved_by_annealing(alpha):
    metric = DensityMetric(SphereScore(sigma=0.05), alpha)
    found = geodesic(metric, *ends(), points=65, noise_levels=(0.4, 0.2, 0.1, 0.05))
    exact = sphere_geodesic(2.0, alpha=alpha, sigma=0.05)
    assert bool(found.converged)
    assert float(found.energy) == pytest.approx(exact.energy, rel=2e-3)


@pytest.mark.parametrize("degree, least, most", [(1, 1.8, 2.2), (2, 3.3, 5.0)])
def test_order_of_the_energy_in_the_segment_length(degree, least, most):
    metric = SteinMetric(SphereScore(sigma=0.3), 1.0)
    exact = sphere_geodesic(1.0, lam=1.0, sigma=0.3).energy
    # below what rounding lets a step promise, so that some runs end without a verdict
    solver = GaussNewton(degree=degree, tol=1e-13)
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for points in (17, 33, 65):
            found = geodesic(metric, *ends(angle=1.0), points=points, solver=solver)
            errors.append(abs(float(found.energy) - exact))
    slope = math.log2(errors[1] / errors[2])
    assert least < slope < most, (slope, errors)


def test_flat_space_is_solved_by_the_straight_line_in_one_batch():
    a, b = ends(5)
    found = geodesic(ScoreMetric(SphereScore()), a, b, points=9)
    torch.testing.assert_close(found.points, paths.lerp(a[None], b[None], 9))
    assert found.score_batches == 1
    assert float(found.length) == pytest.approx(float((b - a).norm()), abs=1e-12)


def test_lower_bound_of_the_stein_distance(generator):
    """distance² ≥ ‖b − a‖² + lam (f(b) − f(a))², the chord of the graph of sqrt(lam) log p."""
    score = GaussianMixtureScore(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    a, b = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)
    rise = score.log_density(b) - score.log_density(a)
    chord = (b - a).pow(2).sum(1) + 20 * rise**2
    assert (distance(SteinMetric(score, 20.0), a, b) ** 2 >= chord * (1 - 1e-6)).all()


# ---- the step


@pytest.mark.parametrize("lam, alpha", FAMILY.values(), ids=FAMILY)
def test_gradient_and_step_are_those_of_the_energy_in_a_linear_field(lam, alpha, generator):
    """Where the score is the same everywhere, dF = s·Δ exactly: the gradient by differences."""
    field = torch.randn(3, generator=generator, dtype=torch.float64)
    metric = ScoreMetric(FunctionScore(lambda x: field.expand_as(x)), lam, alpha)
    x = torch.randn(2, 8, 3, generator=generator, dtype=torch.float64)
    energy = DiscreteEnergy(metric, x)
    s = field.expand_as(x)
    state = energy.state(x, s)
    scale = state.log_energy.exp() / state.scaled_energy
    direction = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)

    def energy_along(h):
        moved = x.clone()
        moved[:, 1:-1] += h * direction
        return energy.state(moved, s).log_energy.exp()

    slope = (energy_along(1e-5) - energy_along(-1e-5)) / 2e-5
    found = 2 * scale * (energy.half_gradient(state) * direction).flatten(1).sum(1)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-6)

    # a step that is damped a lot is a short one down the slope, where the quadratic model is exact
    damping = torch.full((2,), 1e6, dtype=torch.float64)
    step, promised_fall = energy.step(state, damping, starting_curvature(metric, x))
    moved = x.clone()
    moved[:, 1:-1] += step
    new = energy.state(moved, s)
    fall = -(new.log_energy - state.log_energy).expm1()
    torch.testing.assert_close(fall, promised_fall, rtol=1e-3, atol=0)
    assert (fall > 0).all()


# ---- invariants


@pytest.mark.parametrize("lam, alpha", FAMILY.values(), ids=FAMILY)
def test_invariants(lam, alpha, generator):
    """The energy never rises; a batch gives what pairs give; turning the problem turns the answer;
    d(a, b) = d(b, a)."""
    means = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    a, b = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    metric = ScoreMetric(GaussianMixtureScore(means, 0.8), lam, alpha)
    together = geodesic(metric, a, b, points=17)

    energies = torch.tensor([entry["energy"] for entry in together.history])
    assert (energies[1:] <= energies[:-1] * (1 + 1e-12)).all()

    for i in range(5):
        alone = geodesic(metric, a[i], b[i], points=17)
        torch.testing.assert_close(alone.points[0], together.points[i], rtol=0, atol=1e-9)

    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    turned_metric = ScoreMetric(GaussianMixtureScore(means @ turn.T, 0.8), lam, alpha)
    turned = geodesic(turned_metric, a @ turn.T, b @ turn.T, points=17)
    torch.testing.assert_close(turned.points, together.points @ turn.T, rtol=0, atol=1e-8)

    there = distance(metric, a, b, points=33, tol=1e-10)
    back = distance(metric, b, a, points=33, tol=1e-10)
    torch.testing.assert_close(there, back, rtol=1e-6, atol=0)


def test_float32_agrees_with_float64_and_ends_are_exact():
    metric = SteinMetric(SphereScore(), 100.0)
    a, b = ends(dtype=torch.float32)
    single = geodesic(metric, a, b, points=21)
    double = geodesic(metric, *ends(), points=21)
    assert single.points.dtype == torch.float32
    assert float(single.energy) == pytest.approx(float(double.energy), rel=1e-4)
    assert torch.equal(single.points[0, 0], a) and torch.equal(single.points[0, -1], b)


def test_points_may_have_any_shape():
    metric = SteinMetric(SphereScore(), 100.0)
    a, b = (x.reshape(1, 1, 2, 2) for x in ends(4))
    found = geodesic(metric, a, b, points=9)
    flat = geodesic(metric, *ends(4), points=9)
    torch.testing.assert_close(found.points.flatten(2), flat.points, rtol=0, atol=1e-12)


def test_only_the_pairs_still_at_work_are_evaluated():
    metric = SteinMetric(SphereScore(), 1000.0)
    (a, b), (c, d) = ends(), ends(angle=0.7)
    both = geodesic(metric, torch.stack([a, c]), torch.stack([b, d]), points=21)
    one = geodesic(metric, a, b, points=21)
    other = geodesic(metric, c, d, points=21)
    assert both.score_evaluations == one.score_evaluations + other.score_evaluations
    assert both.score_batches == max(one.score_batches, other.score_batches)


def test_max_iter_counts_batches_after_the_first():
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        found = geodesic(SteinMetric(SphereScore()), *ends(), points=17, max_iter=2)
    assert not bool(found.converged) and found.score_batches == 3


def test_coarse_to_fine_needs_fewer_evaluations_for_the_same_path():
    metric = SteinMetric(SphereScore(), 1000.0)
    direct = geodesic(metric, *ends(), points=65, solver=GaussNewton(tol=1e-8))
    coarse = geodesic(metric, *ends(), points=65, solver=GaussNewton(tol=1e-8, coarse=(9, 17, 33)))
    assert coarse.score_evaluations < 0.7 * direct.score_evaluations
    torch.testing.assert_close(coarse.points, direct.points, rtol=0, atol=1e-3)


# ---- global starts


def test_graph_start_walks_round_a_helix_where_the_straight_start_fails():
    t = torch.linspace(-1, 5.5, 400, dtype=torch.float64)
    score = helix(sigma=0.1)
    a, b = helix_point(torch.tensor([0.0, 4.5]).double(), 50)
    metric = SteinMetric(score, 100.0)
    walked = geodesic(metric, a, b, points=49, init="graph", samples=helix_point(t, 50))
    with pytest.warns(ConvergenceWarning):
        straight = geodesic(metric, a, b, points=49)
    assert float(score.distance(walked.points[0]).max()) < 0.1
    assert float(score.distance(straight.points[0]).max()) > 0.1
    assert float(walked.energy) < float(straight.energy)


def test_portfolio_keeps_the_path_of_least_energy():
    """On a ring of points that is the short way round, for a pair alone and in a batch."""
    t = torch.linspace(0, 2 * math.pi, 181)[:-1].double()
    ring = EmpiricalScore(2 * torch.stack([t.cos(), t.sin()], -1), sigma=0.3)
    metric = SteinMetric(ring, 100.0)
    a = torch.tensor([[2.0, 0.0]]).double()
    b = torch.tensor([[2 * math.cos(2.5), 2 * math.sin(2.5)]]).double()
    how = {"points": 25, "noise_levels": (1.5, 1.0, 0.7, 0.5, 0.3), "solver": Portfolio(starts=6)}
    found = geodesic(metric, a, b, **how)
    energies = found.history[-1]["energies"][0]
    assert len(energies) == 7
    assert float(found.energy) == pytest.approx(min(energies), rel=1e-12)
    assert float(found.length) == pytest.approx(2 * 2.5, rel=0.05)
    both = geodesic(metric, a.repeat(2, 1), torch.cat([b, -b]), **how)
    torch.testing.assert_close(both.points[:1], found.points, rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_a_tolerance_below_the_noise_of_the_score_ends_and_ends_honestly(noise):
    """A score with rounding noise of this relative size, another one at each call."""
    generator = torch.Generator().manual_seed(0)
    exact = SphereScore()

    def rounded(x):
        s = exact.evaluate(x)
        return s * (1 + noise * torch.randn(s.shape, generator=generator, dtype=s.dtype))

    metric = SteinMetric(FunctionScore(rounded), 100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = geodesic(metric, *ends(), points=33, tol=1e-14, max_iter=200)
    best = geodesic(SteinMetric(exact, 100.0), *ends(), points=33, tol=1e-10)
    assert found.score_batches < 60
    assert "max_iter" not in found.reason[0]
    # what it calls converged is as near to the minimum as the noise lets it see
    above = float(found.energy / best.energy) - 1
    assert not bool(found.converged) or above < 10 * noise


@pytest.mark.parametrize(
    "lam, curl, reason", [(1.0, 0.0, "converged"), (1.0, 3.0, "curl"), (100.0, 1.0, "curl")]
)
def test_a_field_with_curl_ends_where_its_gradient_is_no_gradient(lam, curl, reason):
    """s = −x plus a field that no density has: the energy falls no further, and the reason is told.

    The straight start under a helix (above) also falls no further, for want of points, and is not
    converged.
    """
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    score = FunctionScore(lambda x: -x + curl * torch.tanh(x) @ turned)
    a = torch.tensor([[-1.0, 0.4]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0.8]], dtype=torch.float64)
    found = geodesic(SteinMetric(score, lam), a, b, points=33)
    assert bool(found.converged)
    assert reason in found.reason[0]


@pytest.mark.parametrize("lam", [10.0, 1000.0])
def test_parts_of_the_undamped_step_go_on_where_no_damping_does(lam):
    """In a field with curl the damped step turns into a gradient that is none.

    Damping alone stops here at 1.4 and 1.3 times the energy.
    """
    generator = torch.Generator().manual_seed(16)
    root = torch.randn(3, 3, generator=generator).double()
    well = root @ root.T + 0.1 * torch.eye(3)
    turned = torch.randn(3, 3, generator=generator).double()
    turned = turned - turned.T
    score = FunctionScore(lambda x: -torch.tanh(x @ well) + 2 * torch.tanh(2 * x) @ turned)
    start = torch.randn(1, 3, generator=torch.Generator().manual_seed(16)).double()
    found = geodesic(SteinMetric(score, lam), start, -start.flip(1), points=33, tol=1e-4)
    assert found.reason == ["converged"]
