"""Initial value problem: follow the geodesic that leaves a point with a given velocity (exponential map, extrapolation).

The state is (x, v, f) with x' = v, v' = a(x, v), f' = s·v, where f = log p(x) − log p(start). Along a solution
v^T G v = exp(−2 alpha f)(‖v‖² + lam (s·v)²) is constant; how far it drifts measures the error of the integration.

form="yu2025" is the equation of the released code of arXiv 2504.06675, the density geodesic at constant *Euclidean* speed,
v' = −alpha‖v‖² (s − (s·v) v/‖v‖²): the same curve under another parameter.

A score that changes along the path by itself (a moving prompt) is asked at the place reached, and nothing is conserved then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .. import checks
from ..metrics.base import Metric, dot, scale
from ..metrics.score_metric import ScoreMetric
from ..ode import METHODS, integrate
from .base import Solution
from .geodesic import Geodesic, add_cost, measure, warn_unconverged

FORMS = ("closed", "yu2025")
DRIFT = 1e-2  # largest relative change of the conserved speed that still counts as converged


def shoot(
    metric: Metric,
    start: Tensor,
    velocity: Tensor,
    *,
    time: float = 1.0,
    steps: int = 100,
    method: str = "rk4",
    form: str = "closed",
    radius: float | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Geodesic:
    """Geodesics from `start` with `velocity`, (batch, *event) each or one of each (*event), over `time` > 0.

    steps: the result has steps + 1 points at equal times. method: "rk4" (one step between two points, fourth order) or
    "dopri5" (adaptive to rtol and atol: 1e-8 and 1e-10, in float32 1e-5 and 1e-7). form: "closed" or "yu2025" (only for a
    density metric). radius, with "yu2025" and "rk4": after each step the point is put back on the sphere of this norm
    (a number, or "start" for the start's own) and the velocity made tangent with its norm unchanged.

    Returns a `Geodesic` whose t in [0, 1] stands for [0, time]; settings["speed_drift"] holds the largest relative change
    of the conserved speed, one a row (with `radius`, of the change that a step makes before it is undone). A drift above
    1e-2 counts as not converged. Raises ValueError or TypeError for bad input, ArithmeticError if the solution blows up.
    """
    start, velocity = _initial(metric, start, velocity)
    _check(metric, method, form, radius)
    before, settings = (
        replace(metric.counter),
        dict(time=time, steps=steps, method=method, form=form, rtol=rtol, atol=atol),
    )
    with torch.no_grad():
        if radius is None:
            points, velocities, f = flow(metric, start, velocity, **settings)
        else:
            points, velocities, f, drift = _on_sphere(metric, start, velocity, radius, time, steps)
        _finite(points, velocities, time)
        scores = metric.scores_along(points) if isinstance(metric, ScoreMetric) else None
        if radius is None:
            drift = _drift(_log_speed(metric, form, points, velocities, f, scores))
        settings |= {
            "metric": metric.name,
            "solver": "shoot",
            "radius": radius,
            "speed_drift": drift.tolist(),
        }
        converged = (drift <= DRIFT).cpu()
        mend = (
            "the score moves along the path, which conserves no speed"
            if metric.score.moves
            else "raise steps= or use method='dopri5'"
        )
        reason = [
            ("integrated" if ok else f"the conserved speed drifts by {d:.1%}; {mend}")
            for ok, d in zip(converged, settings["speed_drift"], strict=True)
        ]
        solution = Solution(points, converged, reason, scores)
        result = measure(metric, solution, settings=settings)
    add_cost(result, metric, before)
    warn_unconverged(result)
    return result


def flow(
    metric: Metric,
    x: Tensor,
    v: Tensor,
    *,
    time: float = 1.0,
    steps: int = 100,
    method: str = "rk4",
    form: str = "closed",
    rtol: float | None = None,
    atol: float | None = None,
    part: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """The geodesic flow itself, unwrapped and differentiable: x, v (batch, *event) -> points and velocities
    (batch, steps + 1, *event) and log p − log p(start) (batch, steps + 1), which stays 0 for a metric without f.

    part: which part of a path in [0, 1] this is, for a score that must be told (see `Score.along`).
    A row that blows up is left as it is with "rk4"; with "dopri5" ArithmeticError is raised for the batch.
    """
    checks.positive("time", time), checks.count("steps", steps)
    times = torch.linspace(0, time, steps + 1, dtype=torch.float64, device=x.device)
    place = lambda t: (part[0] + (part[1] - part[0]) * t / time).reshape(1)
    y = integrate(_equation(metric, form, x.shape, place), _pack(x, v), times, method, rtol, atol)
    points, velocities, f = y.tensor_split([x[0].numel(), 2 * x[0].numel()], dim=2)
    shape = (len(x), len(times), *x.shape[1:])
    return points.reshape(shape), velocities.reshape(shape), f[..., 0]


def _equation(
    metric: Metric, form: str, shape: torch.Size, place: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Right side of the packed system (batch, 2d + 1); one score a call."""

    def right_side(t: Tensor, y: Tensor) -> Tensor:
        x, v = (part.reshape(shape) for part in y[:, :-1].chunk(2, dim=1))
        here = metric.along(place(t))
        if not isinstance(metric, ScoreMetric):
            return _pack(v, here.acceleration(x, v))
        s = here.score(x)
        sv, vv = dot(s, v), dot(v, v)
        a = (
            here.acceleration(x, v, s)
            if form == "closed"
            else scale(metric.alpha * sv, v) - scale(metric.alpha * vv, s)
        )
        return _pack(v, a, sv)

    return right_side


def _pack(x: Tensor, v: Tensor, f: Tensor | None = None) -> Tensor:
    f = torch.zeros_like(x.flatten(1)[:, 0]) if f is None else f
    return torch.cat([x.flatten(1), v.flatten(1), f[:, None]], 1)


def _on_sphere(
    metric: ScoreMetric, x: Tensor, v: Tensor, radius: float | str, time: float, steps: int
) -> tuple[Tensor, ...]:
    """Single steps of `flow`, each followed by the projection; returns what `flow` does, and the speed's change by a step."""
    norm = lambda u: u.flatten(1).norm(dim=1)
    radius, speed, f = (
        norm(x) if radius == "start" else torch.full_like(norm(x), radius),
        norm(v),
        torch.zeros_like(norm(x)),
    )
    tangent = lambda x, v: v - scale(dot(x, v) / dot(x, x), x)
    if bool((norm(tangent(x, v)) <= 1e-6 * speed).any()):
        raise ValueError(
            "velocity points along the radius: a motion on the sphere needs a tangent part"
        )
    v = scale(speed / norm(tangent(x, v)), tangent(x, v))
    path, change = [(x, v, f)], torch.zeros_like(speed)
    for i in range(checks.count("steps", steps)):
        points, velocities, rise = flow(
            metric,
            x,
            v,
            time=time / steps,
            steps=1,
            form="yu2025",
            part=(i / steps, (i + 1) / steps),
        )
        x = scale(radius / norm(points[:, 1]), points[:, 1])
        v, f = tangent(x, velocities[:, 1]), f + rise[:, 1]
        change = torch.maximum(change, (norm(v) / speed - 1).abs())
        v = scale(speed / norm(v), v)
        path.append((x, v, f))
    return *(torch.stack(part, 1) for part in zip(*path, strict=True)), change


def _log_speed(
    metric: Metric, form: str, points: Tensor, velocities: Tensor, f: Tensor, scores: Tensor | None
) -> Tensor:
    """log of the conserved speed at every point, (batch, N): sqrt(v^T G v), or the Euclidean ‖v‖ for "yu2025"."""
    if form == "yu2025":
        return velocities.flatten(2).norm(dim=2).log()
    if scores is None:
        return (
            metric.norm_squared(points.flatten(0, 1), velocities.flatten(0, 1))
            .reshape(f.shape)
            .log()
            / 2
        )
    sv = (scores * velocities).flatten(2).sum(2)
    return (velocities.flatten(2).pow(2).sum(2) + metric.lam * sv**2).log() / 2 - metric.alpha * f


def _drift(log_speed: Tensor) -> Tensor:
    return (log_speed - log_speed[:, :1]).expm1().abs().amax(1)


def _initial(metric: Metric, start: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Check start and velocity: finite, of one layout, velocity not zero. Both as (batch, *event)."""
    start, velocity = (
        checks.batched(n, x, metric.event_shape)
        for n, x in (("start", start), ("velocity", velocity))
    )
    checks.same_layout("start", start, "velocity", velocity)
    still = (velocity == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if still:
        raise ValueError(
            f"velocity is zero in row(s) {still[:8]}: the geodesic is a point; drop these rows"
        )
    return start, velocity


def _check(metric: Metric, method: str, form: str, radius: float | str | None) -> None:
    checks.choice("method", method, METHODS)
    checks.choice("form", form, FORMS)
    if form == "yu2025" and not (isinstance(metric, ScoreMetric) and metric.lam == 0):
        raise ValueError(
            f"form='yu2025' is the density metric's equation; for {metric.name} use form='closed'"
        )
    if radius is None:
        return
    if form != "yu2025" or method != "rk4":
        raise ValueError(
            "radius= belongs to form='yu2025' with method='rk4'; the closed form has no sphere to stay on"
        )
    checks.choice("radius", radius, ("start",)) if isinstance(radius, str) else checks.positive(
        "radius", radius
    )


def _finite(points: Tensor, velocities: Tensor, time: float) -> None:
    """Raise ArithmeticError at the first step whose state is not finite."""
    ok = (torch.isfinite(points) & torch.isfinite(velocities)).flatten(2).all(2)
    if not bool(ok.all()):
        row, step = (~ok).nonzero()[(~ok).nonzero()[:, 1].argmin()].tolist()
        raise ArithmeticError(
            f"the geodesic of row {row} is NaN or infinite from step {step} of {ok.shape[1] - 1} on "
            f"(time {time * step / (ok.shape[1] - 1):.3g}); use a smaller time= or more steps="
        )
