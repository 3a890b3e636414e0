"""Calculus on the manifold: logarithm, mean and parallel transport, for any metric."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import checks
from .elements import elements
from .metrics.base import Metric
from .metrics.score_metric import ScoreMetric
from .solvers.geodesic import ConvergenceWarning, Geodesic
from .solvers.initial_value import flow
from .solvers.solve import geodesic


def initial_velocity(points: Tensor) -> Tensor:
    """γ'(0) of paths (batch, N, *event) -> (batch, *event): the one-sided difference of fourth order over five points."""
    n = min(5, points.shape[1])
    row = elements(n, n - 1).V[0].to(points.device) * ((points.shape[1] - 1) / (n - 1))
    return torch.einsum("n,bn...->b...", row, points[:, :n].double()).to(points)


def logarithm(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    tol: float = 1e-6,
    corrections: int = 30,
    steps: int = 100,
    **settings,
) -> Tensor:
    """Riemannian logarithm: v (batch, *event) with exp_a(v) = b over time 1, for a, b (batch, *event) or one pair.

    The initial velocity of `geodesic(metric, a, b, **settings)`, then at most `corrections` quasi-Newton steps on the end
    point of the flow (RK4, `steps` steps) until it misses b by at most tol·‖b − a‖ (raised to rounding in float32);
    corrections=0 leaves them out. Equal points have logarithm 0. Warns `ConvergenceWarning` where tol is not met; the best
    velocity is returned there.
    """
    a, b = (checks.batched(n, x, metric.event_shape) for n, x in (("a", a), ("b", b)))
    checks.same_layout("a", a, "b", b)
    apart, v = ~(a == b).flatten(1).all(1), torch.zeros_like(a)
    tol = _reachable(checks.positive("tol", tol), a)
    if bool(apart.any()):
        v[apart] = initial_velocity(geodesic(metric, a[apart], b[apart], **settings).points)
        if checks.count("corrections", corrections, least=0):
            v[apart], miss = _aim(metric, a[apart], b[apart], v[apart], steps, tol, corrections)
            if bool((miss > tol).any()):
                warnings.warn(
                    f"exp(log) misses by up to {float(miss.max()):.1e}·‖b − a‖, above tol = {tol:g}; raise "
                    "corrections=, steps= or points=",
                    ConvergenceWarning,
                    stacklevel=2,
                )
    return v


def _reachable(tol: float, like: Tensor) -> float:
    return max(tol, 20 * torch.finfo(like.dtype).eps)


@torch.no_grad()
def _aim(
    metric: Metric, a: Tensor, b: Tensor, v: Tensor, steps: int, tol: float, most: int
) -> tuple[Tensor, Tensor]:
    """Broyden's method on exp_a(v) − b = 0, from the flat Jacobian I, each row on its own: the best v, its relative miss."""
    row = lambda x: x.flatten(1)
    end = lambda u: row(flow(metric, a, u.reshape(a.shape), steps=steps)[0][:, -1] - b)
    u, scale = row(v).clone(), row(b - a).norm(dim=1)
    F, shrink = end(u), torch.ones_like(scale)[:, None]
    best, least, updates = u.clone(), F.norm(dim=1).nan_to_num(torch.inf), []
    # the inverse Jacobian is I + Σ left right^T
    apply = lambda w: w + sum(left * (right * w).sum(1, keepdim=True) for left, right in updates)
    transposed = lambda w: (
        w + sum(right * (left * w).sum(1, keepdim=True) for left, right in updates)
    )
    for _ in range(most):
        going = (least > tol * scale)[:, None]
        if not bool(going.any()):
            break
        du = torch.where(going, -apply(F), 0.0)
        du = (
            du * (scale[:, None] / du.norm(dim=1, keepdim=True)).clamp_max(1.0) * shrink
        )  # no leap beyond ‖b − a‖
        new = end(u + du)
        finite = torch.isfinite(new).all(1, keepdim=True)
        ok, shrink = going & finite, torch.where(finite, 1.0, shrink / 4)
        change = torch.where(ok, new - F, 0.0)
        Hy, right = apply(change), transposed(du)
        below = (du * Hy).sum(1, keepdim=True)
        sound = ok & (
            below.abs() > 1e-12 * du.norm(dim=1, keepdim=True) * Hy.norm(dim=1, keepdim=True)
        )
        updates.append((torch.where(sound, (du - Hy) / below, 0.0), torch.where(sound, right, 0.0)))
        u, F = torch.where(ok, u + du, u), torch.where(ok, new, F)
        better = F.norm(dim=1) < least
        best[better], least[better] = u[better], F.norm(dim=1)[better]
    return best.reshape(v.shape), least / scale


@dataclass(frozen=True)
class FrechetMean:
    """point (*event), the mean. residual: ‖Σ w log‖ relative to the weighted mean ‖log‖. geodesics: from the mean to each
    point that differs from it, one batch. variance: Σ w_i d(point, x_i)² (a density metric counts from log p = 0 at the mean)."""

    point: Tensor
    variance: float
    residual: float
    converged: bool
    iterations: int
    geodesics: Geodesic
    score_evaluations: int
    score_batches: int


def frechet_mean(
    metric: Metric,
    points: Tensor,
    /,
    weights: Tensor | None = None,
    *,
    tol: float = 1e-4,
    max_iter: int = 50,
    **settings,
) -> FrechetMean:
    """Minimiser of Σ w_i d(x, x_i)² over x, for points (m, *event), m ≥ 2, and weights (m,) > 0 (equal unless given).

    Karcher flow x ← x + τ Σ w_i log_x(x_i), which stops when the sum is below tol relative to the mean ‖log‖; τ = 1 halves
    where the sum grows. The m geodesics of a step are solved as one batch, so a step costs the score batches of one geodesic,
    and each starts from the last step's path. settings go to `geodesic` (Gauss–Newton solves to tol², another solver to its
    object's own tol). Where the mean is not unique it depends on the start, the weighted mean of R^d.
    Warns `ConvergenceWarning` if tol is not met. Raises ValueError for bad points or weights.
    """
    points, w = _weighted(metric, points, weights)
    before, combine = replace(metric.counter), lambda v: torch.einsum("m,m...->...", w, v)
    if settings.get("solver", "gauss_newton") == "gauss_newton":
        settings["tol"] = max(
            checks.positive("tol", tol) ** 2, 1e-14
        )  # a path off by e has an energy off by e²
    x, tau, best, start = combine(points), 1.0, None, {}
    for iteration in range(1, checks.count("max_iter", max_iter) + 1):  # noqa: B007
        logs, apart, paths = _logarithms(metric, x, points, settings | start)
        total = combine(logs)
        residual = float(total.norm() / (w @ logs.flatten(1).norm(dim=1)))
        if best is None or residual < best[0]:
            best = residual, x, total, apart, paths
        else:
            tau /= 2
        if best[0] <= tol:
            break
        x = best[1] + tau * best[2]
        start = {"init": _moved(best[4].points, tau * best[2])} if bool(best[3].all()) else {}
    residual, x, _, apart, paths = best
    if residual > tol:
        warnings.warn(
            f"the mean's residual is {residual:.1e}, above tol = {tol:g}; raise max_iter= or points=",
            ConvergenceWarning,
            stacklevel=2,
        )
    after, variance = metric.counter, float(w[apart].double() @ _squared(metric, paths))
    return FrechetMean(
        x,
        variance,
        residual,
        residual <= tol,
        iteration,
        paths,
        after.evaluations - before.evaluations,
        after.batches - before.batches,
    )


def _logarithms(
    metric: Metric, x: Tensor, points: Tensor, settings: dict
) -> tuple[Tensor, Tensor, Geodesic]:
    """log_x of all points in one batch, which of them differ from x, and the geodesics to those."""
    apart, logs = ~(points == x).flatten(1).all(1), torch.zeros_like(points)
    if not bool(apart.any()):
        raise ValueError("the points are all equal: their mean is that point")
    paths = geodesic(metric, x.expand_as(points)[apart], points[apart], **settings)
    logs[apart] = initial_velocity(paths.points)
    return logs, apart, paths


def _weighted(metric: Metric, points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check points (m, *event) and weights; the weights sum to 1."""
    points = checks.batched("points", points, metric.event_shape)
    if len(points) < 2:
        raise ValueError(f"a mean needs points (m ≥ 2, *event), got {tuple(points.shape)}")
    weights = (
        points.new_ones(len(points))
        if weights is None
        else checks.finite("weights", weights).to(points)
    )
    if weights.shape != points.shape[:1] or bool((weights <= 0).any()):
        raise ValueError(f"weights must be {len(points)} positive numbers, got {weights.tolist()}")
    return points, weights / weights.sum()


def _moved(points: Tensor, shift: Tensor) -> Tensor:
    """Paths whose start moves by `shift` and whose end stays."""
    fade = torch.linspace(1, 0, points.shape[1]).to(points).reshape(-1, *[1] * shift.ndim)
    return points + fade * shift


def _squared(metric: Metric, paths: Geodesic) -> Tensor:
    """Squared lengths in one unit. A path's own unit is f = 0 on average over its ends; here f = 0 at its start."""
    squared = paths.length**2
    if isinstance(metric, ScoreMetric) and metric.alpha > 0:
        squared = squared * (-metric.alpha * paths.log_density[:, -1]).exp()
    return squared


def parallel_transport(
    metric: Metric, points: Tensor, vector: Tensor, *, steps: int = 2, tol: float = 1e-10
) -> Tensor:
    """Parallel transport of `vector` (batch, *event) along paths (batch, N, *event), from points[:, 0]: (batch, N, *event).

    Pole ladder (Lorenzi & Pennec 2014), one rung a segment x → y: with m their geodesic midpoint and p = exp_x(v), the
    geodesic reflection q of p through m gives the transported vector −log_y(q). Exact on symmetric spaces, of second order in
    the segment length elsewhere (Guigui & Pennec 2022). The vector is scaled to the length of a segment and back, since
    transport is linear. Each exponential takes `steps` RK4 steps, each logarithm quasi-Newton steps to the relative `tol`.
    Raises ArithmeticError if a logarithm fails: the path needs more points.
    """
    points, vector = (
        checks.floating("points", points),
        checks.batched("vector", vector, metric.event_shape),
    )
    if points.ndim != vector.ndim + 1 or points.shape[1] < 2:
        raise ValueError(
            "points must have shape (batch, N ≥ 2, *event) and vector (batch, *event), got "
            f"{tuple(points.shape)} and {tuple(vector.shape)}"
        )
    checks.same_layout("points[:, 0]", checks.finite("points", points)[:, 0], "vector", vector)
    shape, rung = (-1, *[1] * (vector.ndim - 1)), points.diff(dim=1).flatten(2).norm(dim=2).mean(1)
    length, tol = vector.flatten(1).norm(dim=1), _reachable(checks.positive("tol", tol), vector)
    scale = torch.where(length > 0, rung / length, 0.0).reshape(shape)
    carried, back = [vector * scale], torch.where(scale > 0, 1 / scale, 0.0)
    for x, y in zip(points[:, :-1].unbind(1), points[:, 1:].unbind(1), strict=True):
        carried.append(_pole(metric, x, y, carried[-1], steps, tol))
    return torch.stack(carried, 1) * back[:, None]


@torch.no_grad()
def _pole(metric: Metric, x: Tensor, y: Tensor, v: Tensor, steps: int, tol: float) -> Tensor:
    """One rung of the pole ladder."""

    def exp(a: Tensor, u: Tensor) -> Tensor:
        return flow(metric, a, u, steps=steps)[0][:, -1]

    def log(a: Tensor, b: Tensor) -> Tensor:
        u, miss = _aim(metric, a, b, b - a, steps, tol, 30)
        if bool((miss > 1e3 * tol).any()):
            raise ArithmeticError(
                "a rung of the ladder is too long for its logarithm; give the path more points"
            )
        return u

    middle = exp(x, log(x, y) / 2)
    return -log(y, exp(middle, -log(middle, exp(x, v))))
