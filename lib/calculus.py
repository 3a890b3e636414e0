"""Calculus on the manifold: logarithm, mean and parallel transport, for any metric."""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import checks
from .elements import elements, working_dtype
from .metrics.base import Metric
from .metrics.score_metric import ScoreMetric
from .solvers.geodesic import ConvergenceWarning, Geodesic
from .solvers.initial_value import geodesic_flow
from .solvers.shooting import aim
from .solvers.solve import geodesic


def initial_velocity(
    points: Float[Tensor, "batch points *event"],
) -> Float[Tensor, "batch *event"]:
    """γ'(0) of paths: the one-sided difference of fourth order over five points."""
    n = min(5, points.shape[1])
    first = points[:, :n].to(working_dtype(points))
    slope = elements(n, n - 1).V[0].to(first) * ((points.shape[1] - 1) / (n - 1))
    return torch.einsum("n,bn...->b...", slope, first).to(points)


def logarithm(
    metric: Metric,
    a: Float[Tensor, "*batch_event"],
    b: Float[Tensor, "*batch_event"],
    *,
    tol: float = 1e-6,
    corrections: int = 30,
    steps: int = 100,
    **settings: Any,
) -> Float[Tensor, "batch *event"]:
    """Riemannian logarithm: the velocity v with exp_a(v) = b at time 1.

    The initial velocity of the geodesic between the points, then corrected on the end point of its
    flow. Equal points have logarithm 0. Warns `ConvergenceWarning` where tol is not met; the best
    velocity is returned there.

    Args:
        metric: The metric.
        a: Points, or one point.
        b: The points to be reached.
        tol: The flow may miss b by tol·‖b − a‖ (raised to rounding in float32).
        corrections: At most so many quasi-Newton steps.
        steps: RK4 steps of the flow.
        **settings: Of `geodesic`.

    Returns:
        The velocities.

    Raises:
        ValueError: Points that do not fit each other or the score, or are not finite.

    Example:
        >>> import torch
        >>> from lib import DensityMetric
        >>> from lib.calculus import logarithm
        >>> half_plane = DensityMetric(lambda x: torch.tensor([0.0, 1.0]) / x[:, 1:])  # p = y
        >>> v = logarithm(half_plane, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]))
        >>> v.norm().allclose(torch.tensor(2.0).log())  # the hyperbolic distance
        True
    """
    a, b = checks.pair("a", a, "b", b, metric.event_shape)
    checks.count("corrections", corrections)
    tol = _above_rounding(tol, a)
    v = torch.zeros_like(a)
    apart = ~(a == b).flatten(1).all(1)
    if not bool(apart.any()):
        return v
    metric = metric.pick(apart.nonzero().flatten())
    a = a[apart]
    b = b[apart]
    v[apart] = initial_velocity(geodesic(metric, a, b, **settings).points)
    v[apart], miss = aim(metric, a, b, v[apart], steps=steps, tol=tol, max_iter=corrections)
    if bool((miss > tol).any()):
        warnings.warn(
            f"exp(log) misses by up to {float(miss.max()):.1e}·‖b − a‖, above tol = {tol:g}; "
            "raise corrections=, steps= or points=",
            ConvergenceWarning,
            stacklevel=2,
        )
    return v


def _above_rounding(tol: float, like: Tensor) -> float:
    return max(checks.positive("tol", tol), 20 * torch.finfo(like.dtype).eps)


@dataclass(frozen=True)
class FrechetMean:
    """The mean of points on a manifold.

    Attributes:
        point: The mean.
        variance: Σ w_i d(point, x_i)²; a density metric counts from log p = 0 at the mean.
        residual: ‖Σ w_i log(x_i)‖ relative to the weighted mean ‖log(x_i)‖.
        converged: Whether the residual is at most tol.
        iterations: Steps.
        geodesics: From the mean to each point that differs from it, one batch.
    """

    point: Float[Tensor, "*event"]
    variance: float
    residual: float
    converged: bool
    iterations: int
    geodesics: Geodesic


def frechet_mean(
    metric: Metric,
    points: Float[Tensor, "m *event"],
    /,
    weights: Float[Tensor, "m"] | None = None,
    *,
    tol: float = 1e-4,
    max_iter: int = 50,
    **settings: Any,
) -> FrechetMean:
    """Minimiser of Σ w_i d(x, x_i)² over x, by the Karcher flow x ← x + τ Σ w_i log_x(x_i).

    τ = 1 halves where the sum grows. The m geodesics of a step are solved as one batch, so a step
    costs the score batches of one geodesic, and each starts from the last step's path. Where the
    mean is not unique it depends on the start, the weighted mean of R^d. Warns `ConvergenceWarning`
    if tol is not met.

    Args:
        metric: The metric.
        points: At least two points x_i.
        weights: Of the points, > 0; equal unless given.
        tol: Stop when ‖Σ w_i log(x_i)‖ ≤ tol Σ w_i ‖log(x_i)‖.
        max_iter: Most steps.
        **settings: Of `geodesic`. Gauss–Newton solves to tol², another solver to its object's own
            tol.

    Returns:
        The mean, with what it took.

    Raises:
        ValueError: Bad points or weights.
    """
    points, weights = _weighted(metric, points, weights)
    if settings.get("solver", "gauss_newton") == "gauss_newton":
        # A path off by e has an energy off by e².
        settings["tol"] = max(checks.positive("tol", tol) ** 2, 1e-14)
    x = torch.einsum("m,m...->...", weights, points)
    best = None
    step_length = 1.0
    start = {}
    for iteration in range(1, checks.count("max_iter", max_iter) + 1):  # noqa: B007
        candidate = _candidate(metric, x, points, weights, settings | start)
        if best is None or candidate.residual < best.residual:
            best = candidate
        else:
            step_length /= 2
        if best.residual <= tol:
            break
        step = step_length * best.direction
        x = best.point + step
        start = {"init": _moved(best.geodesics.points, step)} if bool(best.apart.all()) else {}
    if best.residual > tol:
        warnings.warn(
            f"the mean's residual is {best.residual:.1e}, above tol = {tol:g}; raise max_iter= or "
            "points=",
            ConvergenceWarning,
            stacklevel=2,
        )
    squared = _squared_lengths(metric, best.geodesics)
    return FrechetMean(
        point=best.point,
        variance=float(weights[best.apart].to(squared) @ squared),
        residual=best.residual,
        converged=best.residual <= tol,
        iterations=iteration,
        geodesics=best.geodesics,
    )


class _Candidate(NamedTuple):
    """A candidate for the mean: the direction Σ w log there, and the geodesics to other points."""

    point: Tensor
    direction: Tensor
    residual: float
    apart: Tensor
    geodesics: Geodesic


def _candidate(
    metric: Metric, x: Tensor, points: Tensor, weights: Tensor, settings: dict[str, Any]
) -> _Candidate:
    apart = ~(points == x).flatten(1).all(1)
    if not bool(apart.any()):
        raise ValueError("the points are all equal: their mean is that point")
    geodesics = geodesic(metric, x.expand_as(points)[apart], points[apart], **settings)
    logarithms = torch.zeros_like(points)
    logarithms[apart] = initial_velocity(geodesics.points)
    direction = torch.einsum("m,m...->...", weights, logarithms)
    residual = float(direction.norm() / (weights @ logarithms.flatten(1).norm(dim=1)))
    return _Candidate(x, direction, residual, apart, geodesics)


def _weighted(metric: Metric, points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check points (m, *event) and weights; the weights sum to 1."""
    points = checks.batched("points", points, metric.event_shape)
    if len(points) < 2:
        raise ValueError(f"a mean needs points (m ≥ 2, *event), got {tuple(points.shape)}")
    if weights is None:
        weights = points.new_ones(len(points))
    weights = checks.finite("weights", weights).to(points)
    if weights.shape != points.shape[:1] or bool((weights <= 0).any()):
        raise ValueError(f"weights must be {len(points)} positive numbers, got {weights.tolist()}")
    return points, weights / weights.sum()


def _moved(points: Tensor, shift: Tensor) -> Tensor:
    """Paths whose start moves by `shift` and whose end stays."""
    fade = torch.linspace(1, 0, points.shape[1]).to(points).reshape(-1, *[1] * shift.ndim)
    return points + fade * shift


def _squared_lengths(metric: Metric, paths: Geodesic) -> Tensor:
    """Squared lengths where f = 0 at the start; a path's own has f = 0 on average at its ends."""
    squared = paths.length**2
    if isinstance(metric, ScoreMetric) and metric.alpha > 0:
        squared = squared * (-metric.alpha * paths.log_density[:, -1]).exp()
    return squared


def parallel_transport(
    metric: Metric,
    points: Float[Tensor, "batch points *event"],
    vector: Float[Tensor, "*batch_event"],
    *,
    steps: int = 2,
    tol: float = 1e-10,
) -> Float[Tensor, "batch points *event"]:
    """Parallel transport of vectors along paths, by the pole ladder (Lorenzi & Pennec 2014).

    One rung a segment x → y: with m their geodesic midpoint and p = exp_x(v), the geodesic
    reflection q of p through m gives the transported vector −log_y(q). Exact on symmetric spaces,
    of second order in the segment length elsewhere (Guigui & Pennec 2022). The vector is scaled to
    the length of a segment and back, since transport is linear.

    Args:
        metric: The metric.
        points: The paths.
        vector: Tangent vectors at their starts.
        steps: RK4 steps of each exponential.
        tol: Relative tolerance of each logarithm.

    Returns:
        The vectors at all points of the paths.

    Raises:
        ValueError: Paths and vectors that do not fit each other.
        ArithmeticError: A logarithm fails: the path needs more points.
    """
    checks.finite("points", checks.floating("points", points))
    vector = checks.batched("vector", vector, metric.event_shape)
    if points.ndim != vector.ndim + 1 or points.shape[1] < 2:
        raise ValueError(
            "points must have shape (batch, N ≥ 2, *event) and vector (batch, *event), got "
            f"{tuple(points.shape)} and {tuple(vector.shape)}"
        )
    checks.same_layout("points[:, 0]", points[:, 0], "vector", vector)
    tol = _above_rounding(tol, vector)
    segment = points.diff(dim=1).flatten(2).norm(dim=2).mean(1)
    length = vector.flatten(1).norm(dim=1)
    scale = torch.where(length > 0, segment / length, 0.0).reshape(-1, *[1] * (vector.ndim - 1))
    transported = [vector * scale]
    for x, y in zip(points[:, :-1].unbind(1), points[:, 1:].unbind(1), strict=True):
        transported.append(_rung(metric, x, y, transported[-1], steps, tol))
    back = torch.where(scale > 0, 1 / scale, 0.0)
    return torch.stack(transported, 1) * back[:, None]


@torch.no_grad()
def _rung(metric: Metric, x: Tensor, y: Tensor, v: Tensor, steps: int, tol: float) -> Tensor:
    """One rung of the pole ladder."""

    def exp(a: Tensor, u: Tensor) -> Tensor:
        return geodesic_flow(metric, a, u, steps=steps).points[:, -1]

    def log(a: Tensor, b: Tensor) -> Tensor:
        velocity, miss = aim(metric, a, b, b - a, steps=steps, tol=tol, max_iter=30)
        if bool((miss > 1e3 * tol).any()):
            raise ArithmeticError(
                "a rung of the ladder is too long for its logarithm; give the path more points"
            )
        return velocity

    middle = exp(x, log(x, y) / 2)
    reflected = exp(middle, -log(middle, exp(x, v)))
    return -log(y, reflected)
