"""Logarithm, mean and parallel transport: the hyperbolic plane, where all are known; invariants."""

import math
from itertools import pairwise

import pytest
import torch

from lib.calculus import frechet_mean, initial_velocity, logarithm, parallel_transport
from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import FunctionScore, GaussianMixtureScore
from lib.solvers import ConvergenceWarning, distance, geodesic, shoot
from lib.solvers.gauss_newton import GaussNewton
from lib.solvers.initial_value import geodesic_flow


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def half_plane() -> DensityMetric:
    """log p = log y and alpha = 1: the metric is (dx² + dy²)/y², the hyperbolic plane."""
    score = FunctionScore(
        lambda x: torch.stack([0 * x[:, 0], 1 / x[:, 1]], 1),
        event_shape=(2,),
        log_density=lambda x: x[:, 1].log(),
    )
    return DensityMetric(score, 1.0)


def hyperbolic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance in the half-plane, (..., 2) -> (...)."""
    return torch.acosh(1 + (a - b).pow(2).sum(-1) / (2 * a[..., 1] * b[..., 1]))


def mixture(generator: torch.Generator) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.randn(3, 3, dtype=torch.float64, generator=generator), 0.8)


A, B = double([0, 1], [0, 1], [0.3, 0.5]), double([1, 1], [0, 2], [1.2, 1.5])
CLOUD = double([0, 1], [2, 1], [1, 3], [0.5, 0.4])


def test_half_plane_distance():
    """The library counts from f = 0 on average over both ends, the half-plane from y = 1."""
    unit = (A[:, 1] * B[:, 1]).sqrt()
    assert torch.allclose(
        distance(half_plane(), A, B, points=65, tol=1e-12) / unit, hyperbolic(A, B), rtol=1e-6
    )


def test_half_plane_logarithm():
    """‖log_a(b)‖ is the distance; it points along the circle through both points about the axis."""
    v = logarithm(half_plane(), A, B, tol=1e-9)
    assert torch.allclose(v.norm(dim=1) / A[:, 1], hyperbolic(A, B), rtol=1e-7)
    centre = (B[0] - A[0]).dot(B[0] + A[0]) / (2 * (B[0, 0] - A[0, 0]))
    assert abs(v[0].dot(A[0] - double(float(centre), 0))) < 1e-7 and v[0, 0] > 0
    assert torch.allclose(v[1], double(0, math.log(2)), atol=1e-8)


@pytest.mark.parametrize("lam, alpha", [(0.0, 0.5), (5.0, 0.0), (3.0, 0.3)])
def test_exp_of_log_is_the_point(lam, alpha, generator):
    metric = ScoreMetric(mixture(generator), lam, alpha)
    a, b = (torch.randn(3, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    v = logarithm(metric, a, b, steps=25)
    miss = (shoot(metric, a, v, steps=25).points[:, -1] - b).norm(dim=1)
    assert bool((miss < 1e-5).all()), miss


def test_log_of_exp_is_the_velocity(generator):
    metric, a = half_plane(), A.clone()
    v = 0.5 * torch.randn(3, 2, dtype=torch.float64, generator=generator)
    assert torch.allclose(
        logarithm(metric, a, shoot(metric, a, v).points[:, -1], tol=1e-9), v, atol=1e-7
    )


def test_the_initial_velocity_of_a_geodesic_converges_with_the_points():
    exact = logarithm(half_plane(), A, B, tol=1e-10)
    solver = GaussNewton(tol=1e-14)
    rough = [
        initial_velocity(geodesic(half_plane(), A, B, points=n, solver=solver).points)
        for n in (17, 33, 65)
    ]
    errors = [(v - exact).norm() for v in rough]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[1] < 1e-4 and all(order > 2.5 for order in orders), (errors, orders)


def test_logarithm_of_equal_points_and_of_one_pair():
    b = torch.stack([B[0], A[1], B[2]])
    v = logarithm(half_plane(), A, b)
    assert torch.equal(v[1], torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(logarithm(half_plane(), A[0], b[0]), v[:1], atol=1e-6)


def test_batch_of_logarithms_is_one_by_one(generator):
    metric = SteinMetric(mixture(generator), lam=5.0)
    a, b = (torch.randn(3, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    both = logarithm(metric, a, b, steps=10)
    rows = torch.cat([logarithm(metric, a[i], b[i], steps=10) for i in range(3)])
    assert torch.allclose(both, rows, atol=1e-8)


def test_logarithm_in_float32():
    v = logarithm(half_plane(), A.float(), B.float(), tol=1e-4)
    assert v.dtype == torch.float32 and torch.allclose(
        v.double(), logarithm(half_plane(), A, B), atol=1e-3
    )


def test_logarithm_that_misses_warns(generator):
    metric = SteinMetric(mixture(generator), lam=100.0)
    a, b = (2 * torch.randn(2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    with pytest.warns(ConvergenceWarning, match=r"exp\(log\) misses"):
        logarithm(metric, a, b, corrections=1, tol=1e-12, steps=20)


def test_initial_velocity_is_exact_for_a_quartic():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[None, :, None]
    path = 2 * t - t**2 + 3 * t**4
    assert torch.allclose(initial_velocity(path), double([2.0]))
    assert torch.allclose(initial_velocity((2 * t - t**2)[:, ::4]), double([2.0]))


def test_mean_of_two_points_is_the_midpoint():
    mean = frechet_mean(half_plane(), CLOUD[:2], tol=1e-5)
    assert mean.converged and (mean.point - double(1, math.sqrt(2))).abs().max() < 1e-4


def test_half_plane_mean():
    """The exact Fréchet function has no gradient at the mean; the variance is its value."""
    mean = frechet_mean(half_plane(), CLOUD, tol=1e-6)
    x = mean.point.clone().requires_grad_()
    function = hyperbolic(x, CLOUD).pow(2).mean()
    (gradient,) = torch.autograd.grad(function, x)
    assert gradient.norm() < 1e-4
    # The variance is in units of p = y at the mean.
    assert math.isclose(mean.variance, float((function * x[1] ** 2).detach()), rel_tol=1e-5)
    assert mean.residual <= 1e-6 and len(mean.geodesics) == 4


def test_weights_move_the_mean():
    weights = double(1, 3)
    mean = frechet_mean(half_plane(), CLOUD[:2], weights, tol=1e-5)
    near, far = (hyperbolic(mean.point, CLOUD[i]) for i in (1, 0))
    assert math.isclose(float(near / (near + far)), 0.25, abs_tol=1e-4)
    scaled = frechet_mean(half_plane(), CLOUD[:2], 10 * weights, tol=1e-5)
    assert torch.allclose(scaled.point, mean.point, atol=1e-9)


def test_mean_shares_its_score_batches():
    """Four geodesics at once cost about the batches of the longest one, not four times as many."""
    metric = half_plane()
    all_at_once = frechet_mean(metric, CLOUD)
    assert metric.counter.batches <= 6 * all_at_once.iterations
    assert metric.counter.evaluations > 4 * 30 * metric.counter.batches / 2


def test_mean_that_starts_on_a_point():
    """The start, the mean of R^d, is one of the points: its logarithm is zero, not an error."""
    points = double([-1, 0], [0, 0], [1, 0])
    metric = DensityMetric(lambda x: -x, alpha=0.1)
    mean = frechet_mean(metric, points)
    assert torch.allclose(mean.point, double(0, 0), atol=1e-8) and len(mean.geodesics) == 2


def test_mean_in_flat_space_is_the_mean():
    mean = frechet_mean(ScoreMetric(lambda x: -x), CLOUD, double(1, 2, 3, 4))
    assert torch.allclose(mean.point, double(1, 2, 3, 4) @ CLOUD / 10) and mean.iterations == 1


def test_mean_that_does_not_converge_warns():
    with pytest.warns(ConvergenceWarning, match="residual"):
        assert not frechet_mean(half_plane(), CLOUD, max_iter=1).converged


def walk(metric, start, velocity, segments):
    """A geodesic finer than its rungs: points and velocities at segments + 1 times."""
    points, velocities, _ = geodesic_flow(metric, start, velocity, steps=8 * segments)
    return points[:, ::8], velocities[:, ::8]


def carried(points: torch.Tensor, velocities: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Transport in the half-plane along a geodesic keeps the angle to the velocity and length/y."""

    def heading(u: torch.Tensor) -> torch.Tensor:
        return torch.atan2(u[..., 1], u[..., 0])

    angle = heading(velocities) + (heading(vector) - heading(velocities[:, 0]))[:, None]
    length = (vector.norm(dim=1) / points[:, 0, 1])[:, None] * points[..., 1]
    return length[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


def test_transport_in_the_half_plane():
    metric, w = half_plane(), double([0.2, -0.7], [1.0, 1.0])
    errors = []
    for segments in (4, 8, 16):
        points, velocities = walk(metric, A[:2], 1.5 * double([1, 0], [0.5, 0.4]), segments)
        errors.append(
            (parallel_transport(metric, points, w) - carried(points, velocities, w)).abs().max()
        )
    assert errors[-1] < 1e-5 and errors[0] / errors[2] > 16, errors  # second order or better


def test_transport_keeps_inner_products_and_velocity(generator):
    """Angles and lengths stay, a geodesic's velocity goes over into itself: second order in 1/N."""
    metric = ScoreMetric(mixture(generator), 3.0, 0.3)
    x, v, w = (torch.randn(1, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    errors = []
    for segments in (3, 6):
        points, velocities = walk(metric, x, 0.4 * v, segments)
        end = points[:, -1]
        moved = [
            parallel_transport(metric, points, u, steps=1, tol=1e-7)[:, -1]
            for u in (velocities[:, 0], w)
        ]
        assert torch.allclose(moved[0], velocities[:, -1], atol=1e-3)
        errors.append(
            (metric.inner(end, moved[1], moved[1]) / metric.inner(x, w, w) - 1).abs()
            + (
                metric.inner(end, moved[0], moved[1]) / metric.inner(x, velocities[:, 0], w) - 1
            ).abs()
        )
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 2.5, errors


def test_transport_is_linear_and_zero_stays_zero():
    points, _ = walk(half_plane(), A[:1], double([1, 0.2]), 4)
    v, w = double([0.3, 1.0]), double([-1.0, 0.2])

    def carry(u: torch.Tensor) -> torch.Tensor:
        return parallel_transport(half_plane(), points, u)

    assert torch.allclose(carry(2 * v - w), 2 * carry(v) - carry(w), atol=1e-3)
    assert torch.equal(carry(0 * v), torch.zeros(1, 5, 2, dtype=torch.float64))


def test_transport_in_flat_space_changes_nothing():
    w = double([3, -4])
    moved = parallel_transport(EuclideanMetric(), torch.stack([A[:1], B[:1], A[1:2] + 2], 1), w)
    assert torch.allclose(moved, w.expand(1, 3, 2))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: logarithm(half_plane(), A, B[:2]), "differ in shape"),
        (lambda: logarithm(half_plane(), A * math.nan, B), "NaN"),
        (lambda: logarithm(half_plane(), A, B, corrections=-1), "corrections must be"),
        (lambda: logarithm(half_plane(), A, B, solver="newton"), "unknown solver"),
        (lambda: frechet_mean(half_plane(), CLOUD[0]), "m ≥ 2"),
        (lambda: frechet_mean(half_plane(), CLOUD[:1].expand(3, 2)), "all equal"),
        (lambda: frechet_mean(half_plane(), CLOUD, double(1, 1)), "4 positive numbers"),
        (lambda: frechet_mean(half_plane(), CLOUD, double(1, 1, 0, 1)), "4 positive numbers"),
        (lambda: frechet_mean(half_plane(), CLOUD, tol=0.0), "tol must be"),
        (lambda: parallel_transport(half_plane(), A, A), "points must have shape"),
        (lambda: parallel_transport(half_plane(), A[:, None], A), "points must have shape"),
        (
            lambda: parallel_transport(half_plane(), torch.stack([A, B], 1), A[:2]),
            "differ in shape",
        ),
        (
            lambda: parallel_transport(half_plane(), torch.stack([A, B], 1) * math.inf, A),
            "infinite",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_ladder_with_too_few_rungs_says_so():
    """From (0, 1) straight across to (40, 0.02): no logarithm of one rung finds its way."""
    points = double([0, 1], [40, 0.02])[None]
    with pytest.raises(ArithmeticError, match="more points"):
        parallel_transport(half_plane(), points, double([1.0, 0]))
