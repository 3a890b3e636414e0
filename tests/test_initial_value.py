"""`shoot` against closed forms, autodiff's Christoffel symbols, and its own conserved speed."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import jacfwd, vmap

from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import FunctionScore, GaussianMixtureScore, SphereScore
from lib.solvers import ConvergenceWarning, Geodesic, shoot
from lib.solvers.initial_value import geodesic_flow

FAMILY = [(0.0, 0.0), (4.0, 0.0), (0.0, 0.7), (4.0, 0.7), (1000.0, 0.0)]


def half_plane(alpha: float = 1.0) -> DensityMetric:
    """The hyperbolic plane exactly: log p = log(y)/alpha makes exp(−2 alpha f) = 1/y²."""
    score = FunctionScore(
        lambda x: torch.stack([0 * x[:, 0], 1 / (alpha * x[:, 1])], 1),
        event_shape=(2,),
        log_density=lambda x: x[:, 1].log() / alpha,
    )
    return DensityMetric(score, alpha)


def semicircle(time: float, steps: int) -> torch.Tensor:
    """Unit-speed geodesic of the half-plane from (0, 1) to the right: (tanh t, 1/cosh t)."""
    t = torch.linspace(0, time, steps + 1, dtype=torch.float64)
    return torch.stack([t.tanh(), 1 / t.cosh()], 1)


def mixture(generator: torch.Generator) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.randn(3, 3, dtype=torch.float64, generator=generator), 0.8)


def pair(generator: torch.Generator, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(n, 3, dtype=torch.float64, generator=generator) for _ in range(2))


UP = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
RIGHT = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("lam, alpha", FAMILY)
def test_acceleration_is_that_of_the_christoffel_symbols(lam, alpha, generator):
    """The closed form against Γ of the dense metric, by differentiation of log p alone."""
    score = mixture(generator)

    def f(y):
        return score.evaluate_log_density(y[None])[0]

    def dense(y):
        s = torch.func.grad(f)(y)
        return torch.exp(-2 * alpha * f(y)) * (
            torch.eye(3, dtype=y.dtype) + lam * torch.outer(s, s)
        )

    def exact(y, u):
        dG = jacfwd(dense)(y)
        change = torch.einsum("ijk,j,k->i", dG, u, u) - torch.einsum("jki,j,k->i", dG, u, u) / 2
        return -torch.linalg.solve(dense(y), change)

    x, v = pair(generator)
    reference = vmap(exact)(x, v)
    error = (
        ScoreMetric(score, lam, alpha).acceleration(x, v) - reference
    ).abs().max() / reference.abs().max().clamp_min(1)
    assert error < 1e-11


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("method, tol", [("rk4", 1e-8), ("dopri5", 1e-7)])
def test_half_plane(alpha, method, tol):
    result = shoot(half_plane(alpha), UP, RIGHT, time=1.5, method=method)
    assert (result.points[0] - semicircle(1.5, 100)).abs().max() < tol
    assert max(result.settings["speed_drift"]) < 1e-7
    # log p(start) = 0 at y = 1, so relative and absolute log-density agree.
    assert (result.log_density[0] - result.points[0, :, 1].log() / alpha).abs().max() < 1e-6


def test_rk4_has_order_four():
    end = semicircle(1.5, 1)[-1]
    errors = [
        (shoot(half_plane(), UP, RIGHT, time=1.5, steps=n).points[0, -1] - end).norm()
        for n in (10, 20, 40)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(3.7 < order < 4.3 for order in orders), orders


@pytest.mark.parametrize("lam, alpha", FAMILY[:4])
def test_speed_is_conserved(lam, alpha, generator):
    metric, (x, v) = ScoreMetric(mixture(generator), lam, alpha), pair(generator)
    result = shoot(metric, x, 0.5 * v, steps=200)
    assert max(result.settings["speed_drift"]) < 1e-6
    assert bool(result.converged.all()) and bool((result.speed_variation < 1e-3).all())


def test_speed_drift_is_that_of_the_dense_metric(generator):
    """The reported drift, from scores and the integrated f, against v^T G v in closed form."""
    metric, (x, v) = ScoreMetric(mixture(generator), 4.0, 0.7), pair(generator)
    points, velocities, _ = geodesic_flow(metric, x, v / 2, steps=6)
    speed = (
        metric.inner(*(a.flatten(0, 1) for a in (points, velocities, velocities)))
        .sqrt()
        .reshape(4, 7)
    )
    drift = (speed / speed[:, :1] - 1).abs().amax(1)
    reported = torch.tensor(
        shoot(metric, x, v / 2, steps=6).settings["speed_drift"], dtype=torch.float64
    )
    assert bool((drift > 1e-7).all()) and bool(((reported / drift - 1).abs() < 0.5).all())


def test_a_coarse_integration_is_not_called_converged(generator):
    metric, (x, v) = SteinMetric(mixture(generator), lam=1000.0), pair(generator)
    with pytest.warns(ConvergenceWarning, match="conserved speed drifts"):
        result = shoot(metric, x, 5 * v, steps=5)
    assert not bool(result.converged.all())


def test_euclidean_geodesics_are_straight():
    x, v = torch.zeros(2, 5, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    result = shoot(EuclideanMetric(), x, v, time=2.0, steps=10)
    assert torch.allclose(result.points[:, -1], 2 * v) and torch.allclose(
        result.length, 2 * v.norm(dim=1)
    )
    assert result.score_evaluations == 0 and result.log_density is None


def test_constant_euclidean_speed_is_the_same_curve():
    """The paper's form goes round the semicircle at Euclidean speed 1: the angle is the time."""
    result = shoot(half_plane(), UP, RIGHT, time=1.2, form="yu2025")
    angle = torch.linspace(0, 1.2, 101, dtype=torch.float64)
    assert (result.points[0] - torch.stack([angle.sin(), angle.cos()], 1)).abs().max() < 1e-8
    assert max(result.settings["speed_drift"]) < 1e-8


@pytest.mark.parametrize("radius", ["start", 1.3])
def test_projection_keeps_the_sphere_and_a_great_circle(radius):
    """A radial score has no tangent part on the sphere: the walk is the great circle."""
    metric = DensityMetric(SphereScore(radius=1.0, sigma=0.5), alpha=0.3)
    start = torch.tensor([[1.3, 0, 0]], dtype=torch.float64)
    # The radial part is taken out, the norm stays.
    velocity = torch.tensor([[0.2, 0.0, 1.3]], dtype=torch.float64)
    result = shoot(metric, start, velocity, form="yu2025", radius=radius, steps=200)
    angle = torch.linspace(0, float(velocity.norm()) / 1.3, 201, dtype=torch.float64)
    exact = 1.3 * torch.stack([angle.cos(), 0 * angle, angle.sin()], 1)
    assert (result.points[0].norm(dim=1) - 1.3).abs().max() < 1e-12
    assert (result.points[0] - exact).abs().max() < 1e-4
    assert 0 < result.settings["speed_drift"][0] < 1e-4


def test_batch_is_one_by_one_and_a_single_start_works(generator):
    metric, (x, v) = ScoreMetric(mixture(generator), 4.0, 0.2), pair(generator)
    both = shoot(metric, x, v, steps=40)
    for i in range(len(x)):
        one = shoot(metric, x[i], v[i], steps=40)
        assert one.points.shape == (1, 41, 3)
        assert torch.allclose(one.points[0], both.points[i], atol=1e-12)
        assert math.isclose(
            one.settings["speed_drift"][0],
            both.settings["speed_drift"][i],
            rel_tol=1e-6,
            abs_tol=1e-12,
        )


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_float32(method, generator):
    metric, (x, v) = ScoreMetric(mixture(generator), 4.0, 0.2), pair(generator)
    low, high = shoot(metric, x.float(), v.float(), method=method), shoot(metric, x, v)
    assert low.points.dtype == torch.float32 and (low.points - high.points).abs().max() < 1e-3


def test_counts_one_score_a_stage(generator):
    metric, (x, v) = ScoreMetric(mixture(generator), 4.0, 0.2), pair(generator)
    result = shoot(metric, x, 0.1 * v, steps=10)
    assert result.score_batches == 4 * 10 + 1  # and one for the points of the result
    assert result.score_evaluations == 4 * 40 + 4 * 11 and result.derivative_evaluations == 4 * 40


def test_rotating_the_problem_rotates_the_answer(generator):
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))[0]
    means, (x, v) = torch.randn(3, 3, dtype=torch.float64, generator=generator), pair(generator)
    shots = [
        shoot(ScoreMetric(GaussianMixtureScore(means @ r, 0.8), 2.0, 0.3), x @ r, v @ r).points
        @ r.T
        for r in (torch.eye(3, dtype=torch.float64), rotation)
    ]
    assert torch.allclose(*shots, atol=1e-10)


def test_result_is_saved_and_loaded(tmp_path):
    result = shoot(half_plane(), UP, RIGHT, steps=10)
    again = Geodesic.load(result.save(tmp_path / "shot.safetensors"))
    assert (
        torch.equal(again.points, result.points)
        and again.settings["speed_drift"] == result.settings["speed_drift"]
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"velocity": torch.zeros(1, 2, dtype=torch.float64)}, "velocity is zero"),
        ({"velocity": torch.ones(1, 3, dtype=torch.float64)}, "the score takes"),
        ({"velocity": torch.ones(2, 2, dtype=torch.float64)}, "differ in shape"),
        ({"velocity": torch.full((1, 2), math.nan, dtype=torch.float64)}, "NaN"),
        ({"start": torch.tensor([[0.0, math.inf]], dtype=torch.float64)}, "infinite"),
        ({"method": "rk5"}, "did you mean 'rk4'"),
        ({"form": "open"}, "unknown form"),
        ({"time": 0.0}, "time must be"),
        ({"time": -1.0}, "time must be"),
        ({"steps": 0}, "steps must be"),
        ({"method": "dopri5", "rtol": -1.0}, "rtol must be"),
        ({"radius": "start"}, "belongs to form"),
        ({"radius": -1.0, "form": "yu2025"}, "radius must be"),
        ({"radius": "end", "form": "yu2025"}, "unknown radius"),
        ({"radius": 1.0, "form": "yu2025", "method": "dopri5"}, "belongs to form"),
        ({"radius": 1.0, "form": "yu2025", "velocity": UP}, "along the radius"),
    ],
)
def test_bad_input(change, message):
    arguments = {"start": UP, "velocity": RIGHT} | change
    with pytest.raises(ValueError, match=message):
        shoot(half_plane(), **arguments)


def test_dtypes_and_metrics_that_do_not_fit(generator):
    with pytest.raises(TypeError, match="dtype"):
        shoot(half_plane(), UP, RIGHT.float())
    with pytest.raises(ValueError, match="density metric's equation"):
        shoot(SteinMetric(mixture(generator)), *pair(generator), form="yu2025")


@pytest.mark.parametrize("method, message", [("rk4", "row 1 .* step"), ("dopri5", "gave up")])
def test_blow_up_is_an_error_that_says_where(method, message):
    """s = 1, alpha = 1 gives v' = v² on the line: infinity at time 1 for v = 1."""
    metric = DensityMetric(FunctionScore(torch.ones_like), alpha=1.0)
    start, velocity = (
        torch.zeros(2, 1, dtype=torch.float64),
        torch.tensor([[0.1], [1.0]], dtype=torch.float64),
    )
    with pytest.raises(ArithmeticError, match=message):
        shoot(metric, start, velocity, time=5.0, method=method)


def test_the_callers_tensors_stay(generator):
    x, v = pair(generator)
    before = x.clone(), v.clone()
    shoot(SteinMetric(mixture(generator), lam=2.0), x, v, steps=10)
    assert torch.equal(x, before[0]) and torch.equal(v, before[1])


def test_flow_is_differentiable():
    """d exp/dv against a central difference."""
    metric, step = half_plane(), 1e-5

    def end(v):
        return geodesic_flow(metric, UP, v, steps=20).points[:, -1]

    direction = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    exact = torch.func.jvp(end, (RIGHT,), (direction,))[1]
    assert torch.allclose(
        exact,
        (end(RIGHT + step * direction) - end(RIGHT - step * direction)) / (2 * step),
        atol=1e-8,
    )
