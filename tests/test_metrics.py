"""Metrics against dense matrices by automatic differentiation, each other, and closed forms."""

import math

import pytest
import torch
from torch.func import jacfwd, vmap

from lib.metrics import (
    DensityMetric,
    EuclideanMetric,
    JacobianMetric,
    ScoreMetric,
    SpaceTimeMetric,
    SteinMetric,
)
from lib.metrics.base import Metric, conjugate_gradients, dot
from lib.scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    GaussianScore,
    SphereScore,
)
from lib.solvers import geodesic, shoot
from lib.solvers.relaxation import Relaxation


def double(*values: float | list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mixture(generator: torch.Generator, d: int = 3, sigma: float = 0.0) -> GaussianMixtureScore:
    return GaussianMixtureScore(
        torch.randn(3, d, dtype=torch.float64, generator=generator), 0.8, sigma=sigma
    )


def vectors(generator: torch.Generator, count: int = 3, d: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, d, dtype=torch.float64, generator=generator) for _ in range(count)]


def family(generator: torch.Generator) -> list[Metric]:
    score = mixture(generator)
    space_time = SpaceTimeMetric(mixture(generator, d=2, sigma=0.5))
    return [
        EuclideanMetric(),
        SteinMetric(score, lam=5.0),
        DensityMetric(score, alpha=0.7),
        ScoreMetric(score, 5.0, 0.7),
        JacobianMetric(score, 0.1),
        space_time,
        SpaceTimeMetric(space_time.score, probes=3),
    ]


@pytest.mark.parametrize("index", range(7))
def test_apply_solve_and_inner_belong_together(index, generator):
    metric = family(generator)[index]
    x, u, v = vectors(generator)
    assert torch.allclose(metric.inner(x, u, v), dot(u, metric.apply(x, v)), atol=1e-12)
    assert torch.allclose(metric.inner(x, u, v), metric.inner(x, v, u), atol=1e-12)
    assert torch.allclose(metric.norm_squared(x, v), metric.inner(x, v, v), atol=1e-12)
    if index != 6:  # random probes need not leave the Fisher metric positive
        assert bool((metric.norm_squared(x, v) > 0).all())
        assert torch.allclose(metric.solve(x, metric.apply(x, v)), v, atol=1e-9)


@pytest.mark.parametrize("index", range(5))
def test_acceleration_is_that_of_the_generic_metric(index, generator):
    """Closed forms against the geodesic equation of `apply` by reverse and forward mode."""
    metric = family(generator)[index]
    x, v = vectors(generator, 2)
    assert torch.allclose(
        metric.acceleration(x, v), Metric.acceleration(metric, x, v), atol=1e-10, rtol=1e-10
    )


@pytest.mark.parametrize("index", [1, 3, 4, 5])
def test_batch_is_one_by_one(index, generator):
    metric = family(generator)[index]
    x, u, v = vectors(generator)
    methods = [
        (metric.inner, (x, u, v)),
        (metric.apply, (x, v)),
        (metric.solve, (x, v)),
        (metric.acceleration, (x, v)),
    ]
    for method, arguments in methods:
        rows = torch.cat([method(*(a[i : i + 1] for a in arguments)) for i in range(len(x))])
        assert torch.allclose(method(*arguments), rows, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("index", [1, 3, 4, 5])
def test_float32(index, generator):
    metric = family(generator)[index]
    x, u, v = vectors(generator)
    low = [
        metric.inner(x.float(), u.float(), v.float()),
        metric.apply(x.float(), v.float()),
        metric.solve(x.float(), v.float()),
    ]
    high = [metric.inner(x, u, v), metric.apply(x, v), metric.solve(x, v)]
    for a, b in zip(low, high, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 2e-3 * b.norm()


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5])
def test_energy_and_speed_agree_on_a_fine_path(index, generator):
    """Discrete energy, quadrature of `speed_squared`, the exact velocity: one number in the limit.

    The family's own unit (f = 0 on average over the ends) is put back by hand for alpha > 0.
    """
    metric, t = family(generator)[index], torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
    path = torch.cat([(1.3 * t).sin(), t**2 - 0.4, 0.3 * t], 1)[None]
    velocity = torch.cat([1.3 * (1.3 * t).cos(), 2 * t, 0.3 + 0 * t], 1)
    speed = metric.inner(path[0], velocity, velocity)
    if getattr(metric, "alpha", 0) > 0:
        f = metric.score.log_density(path[0])
        speed = speed * (metric.alpha * (f[0] + f[-1])).exp()
    truth = torch.trapezoid(speed, dx=1 / 200)
    assert torch.allclose(metric.energy(path)[0], truth, rtol=1e-3)
    assert torch.allclose(metric.speed_squared(path).mean(), truth, rtol=1e-3)


@pytest.mark.parametrize("index", [3, 4, 5])
def test_energy_is_differentiable(index, generator):
    metric = family(generator)[index]
    points = torch.randn(1, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(metric.energy, (points,), atol=1e-5, rtol=1e-4)


def test_energy_of_jacobian_metric_needs_one_score_a_point(generator):
    metric = JacobianMetric(mixture(generator), 0.1)
    metric.energy(torch.randn(2, 5, 3, dtype=torch.float64, generator=generator))
    assert (metric.counter.evaluations, metric.counter.batches, metric.counter.derivatives) == (
        10,
        1,
        0,
    )


def test_jacobian_metric_of_a_gaussian_is_flat():
    """s = −x/c²: G = (1/c⁴ + reg) I, geodesics are straight lines of that length."""
    metric = JacobianMetric(GaussianScore(torch.zeros(3, dtype=torch.float64), 0.5), 2.0)
    a, b = double([0, 0, 0]), double([1, 2, 2])
    result = geodesic(metric, a, b, points=9, solver=Relaxation(optimizer="lbfgs"))
    assert torch.allclose(result.length, double(3 * math.sqrt(16 + 2)))
    assert torch.allclose(shoot(metric, a, b, steps=5).points[0, -1], b[0])


def test_singular_metric_says_so():
    """Along the sphere the tube's score does not change: J is singular, its inverse an error."""
    metric, x = JacobianMetric(SphereScore(1.0, 0.1)), double([1, 0, 0])
    with pytest.raises(ArithmeticError, match="identity"):
        metric.solve(x, double([0, 1, 0]))
    assert torch.isfinite(
        JacobianMetric(SphereScore(1.0, 0.1), 1.0).solve(x, double([0, 1, 0]))
    ).all()


def posterior(z: torch.Tensor, c: float) -> torch.Tensor:
    """Mean and standard deviation of x_0 given x for data N(0, c² I), as (n, d + 1)."""
    variance = (2 * z[:, -1:]).exp()
    return torch.cat(
        [z[:, :-1] * c**2 / (c**2 + variance), (c**2 * variance / (c**2 + variance)).sqrt()], 1
    )


@pytest.mark.parametrize("d", [1, 3])
def test_space_time_is_the_fisher_metric_of_the_posterior(d, generator):
    """p(x_0 | x) = N(m, V I), whose Fisher metric is dm²/V + 2 d dτ²/τ² with τ² = V."""
    c, metric = (
        0.8,
        SpaceTimeMetric(GaussianScore(torch.zeros(d, dtype=torch.float64), 0.8, sigma=0.1)),
    )
    z, u, v = vectors(generator, 3, d + 1)
    du, dv = (torch.func.jvp(lambda z: posterior(z, c), (z,), (w,))[1] for w in (u, v))
    spread = posterior(z, c)[:, -1]
    truth = (dot(du[:, :-1], dv[:, :-1]) + 2 * d * du[:, -1] * dv[:, -1]) / spread**2
    assert torch.allclose(metric.inner(z, u, v), truth, rtol=1e-10)


def gaussian_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Fisher–Rao distance of 1-D Gaussians (mean, sigma): sqrt(2) times that of the half-plane."""
    mean_a, sigma_a = a.unbind(1)
    mean_b, sigma_b = b.unbind(1)
    squared = (mean_a - mean_b) ** 2 / 2 + (sigma_a - sigma_b) ** 2
    return math.sqrt(2) * torch.acosh(1 + squared / (2 * sigma_a * sigma_b))


def test_space_time_geodesics_of_a_gaussian(generator):
    """Length against the closed Fisher–Rao distance, of second order in 1/T; exp arrives too."""
    metric = SpaceTimeMetric(GaussianScore(torch.zeros(1, dtype=torch.float64), 0.8, sigma=0.1))
    z = metric.lift(double([0.3], [-0.5]), double(0.4, 1.0))
    truth = gaussian_distance(posterior(z[:1], 0.8), posterior(z[1:], 0.8))
    solver = Relaxation(optimizer="lbfgs", tol=1e-6, max_iter=1000)
    errors = [
        float((geodesic(metric, z[:1], z[1:], points=n, solver=solver).length - truth).abs())
        for n in (7, 13)
    ]
    assert errors[0] < 2e-4 and errors[1] < errors[0] / 4
    shot = shoot(metric, z[:1], double([0.2, 0.3]), steps=10)
    reached = gaussian_distance(posterior(z[:1], 0.8), posterior(shot.points[:, -1], 0.8))
    assert (
        torch.allclose(shot.length, reached, rtol=1e-5) and max(shot.settings["speed_drift"]) < 1e-6
    )


def test_space_time_expectations_are_those_of_the_data(generator):
    """μ = (E[x_0], E‖x_0‖²) of the posterior over a finite data set, summed directly."""
    data = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    metric = SpaceTimeMetric(EmpiricalScore(data, sigma=0.5))
    x, sigma = (
        torch.randn(4, 3, dtype=torch.float64, generator=generator),
        double(0.3, 0.6, 1.0, 2.0),
    )
    weights = (-(torch.cdist(x, data) ** 2) / (2 * sigma[:, None] ** 2)).softmax(1)
    truth = torch.cat([weights @ data, (weights @ (data**2).sum(1))[:, None]], 1)
    assert torch.allclose(metric.expectation(metric.lift(x, sigma)), truth, atol=1e-10)


def test_probes_estimate_the_divergence(generator):
    """Rademacher probes: right on average, exact where the Jacobian is diagonal, fixed."""
    score = mixture(generator, d=4, sigma=0.5)
    z = SpaceTimeMetric(score).lift(
        torch.randn(3, 4, dtype=torch.float64, generator=generator), 0.7
    )
    truth = SpaceTimeMetric(score).expectation(z)
    many = SpaceTimeMetric(score, probes=4000)
    assert torch.allclose(many.expectation(z), truth, rtol=0.05)
    assert torch.equal(many.expectation(z), many.expectation(z))
    diagonal = GaussianScore(torch.zeros(4, dtype=torch.float64), 0.5, sigma=0.5)
    assert torch.allclose(
        SpaceTimeMetric(diagonal, probes=1).expectation(z), SpaceTimeMetric(diagonal).expectation(z)
    )


def test_lift_and_project_are_inverse(generator):
    metric = SpaceTimeMetric(EmpiricalScore(torch.rand(5, 1, 2, 2, generator=generator), sigma=0.5))
    x, sigma = (
        torch.rand(3, 7, 1, 2, 2, generator=generator),
        torch.rand(3, 7, generator=generator) + 0.1,
    )
    z = metric.lift(x, sigma)
    assert z.shape == (3, 7, 5) and metric.event_shape == (5,)
    assert torch.equal(metric.project(z)[0], x) and torch.allclose(metric.project(z)[1], sigma)
    assert metric.lift(x, 0.3).shape == (3, 7, 5)
    assert metric.energy(z).shape == (3,) and bool(torch.isfinite(metric.energy(z)).all())


def test_other_noise_levels(generator):
    """lam σ² and reg σ⁴ stay fixed: the metric of N(0, σ² I) scales as one."""
    metric = JacobianMetric(
        GaussianMixtureScore(torch.zeros(1, 2, dtype=torch.float64), 1e-9, sigma=0.5), 3.0
    )
    x, v = (torch.randn(2, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.allclose(metric.at(1.0).apply(x, v), metric.apply(x, v) / 16)
    with pytest.raises(ValueError, match="noise_levels"):
        SpaceTimeMetric(metric.score).at(1.0)


@pytest.mark.parametrize(
    "make, error, culprit",
    [
        (lambda score: JacobianMetric(score, -1.0), ValueError, "regularisation"),
        (lambda score: JacobianMetric(3.0), TypeError, "score"),
        (lambda score: SpaceTimeMetric(FunctionScore(lambda x: -x)), TypeError, "noise levels"),
        (
            lambda score: SpaceTimeMetric(FunctionScore(lambda x, sigma: -x, sigma=1.0)),
            ValueError,
            "event_shape",
        ),
        (lambda score: SpaceTimeMetric(score, probes=0), ValueError, "probes"),
        (lambda score: SpaceTimeMetric(score).lift(torch.zeros(2, 3), 0.0), ValueError, "sigma"),
        (lambda score: SpaceTimeMetric(score).lift(torch.zeros(2, 4), 1.0), ValueError, "shape"),
        (
            lambda score: shoot(SpaceTimeMetric(score), torch.zeros(2, 3), torch.ones(2, 3)),
            ValueError,
            "the score takes",
        ),
        (
            lambda score: DensityMetric(lambda x: -x).inner(*torch.ones(3, 1, 2)),
            ValueError,
            "log_density=",
        ),
    ],
)
def test_bad_input_is_named(make, error, culprit, generator):
    with pytest.raises(error, match=culprit):
        make(mixture(generator, sigma=0.5))


def test_conjugate_gradients_solve_every_row_on_its_own(generator):
    root = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    matrix = root @ root.mT + torch.eye(6, dtype=torch.float64)
    w = torch.randn(2, 6, dtype=torch.float64, generator=generator) * double(1e-6, 1e6)[:, None]
    solution = conjugate_gradients(lambda v: torch.einsum("nij,nj->ni", matrix, v), w)
    assert torch.allclose(solution, torch.linalg.solve(matrix, w), rtol=1e-8)


def test_dense_stein_metric(generator):
    """G = I + lam s s^T as a matrix, s by differentiating the log-density."""
    score = mixture(generator)
    x, v = vectors(generator, 2)
    s = vmap(jacfwd(lambda y: score.evaluate_log_density(y[None])[0]))(x)
    dense = torch.eye(3, dtype=torch.float64) + 5.0 * s[:, :, None] * s[:, None, :]
    metric = SteinMetric(score, lam=5.0)
    assert torch.allclose(metric.apply(x, v), torch.einsum("nij,nj->ni", dense, v))
    assert torch.allclose(metric.solve(x, v), torch.linalg.solve(dense, v))
