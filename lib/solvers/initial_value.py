"""Initial value problem: follow the geodesic that leaves a point with a given velocity.

The state is (x, v, f) with

    x' = v,   v' = a(x, v),   f' = s·v,   f = log p(x) − log p(start).

Along a solution v^T G v = exp(−2 alpha f)(‖v‖² + lam (s·v)²) is constant; how far it drifts
measures the error of the integration.

form="yu2025" is the equation of the released code of arXiv 2504.06675, the density geodesic at
constant *Euclidean* speed,

    v' = −alpha ‖v‖² (s − (s·v) v/‖v‖²),

the same curve under another parameter.

A score that changes along the path by itself (a moving prompt) is evaluated at the place reached,
and nothing is conserved then.
"""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..elements import working_dtype
from ..metrics.base import Metric, dot, scale
from ..metrics.score_metric import ScoreMetric
from ..ode import integrate
from .base import Solution
from .geodesic import Geodesic, add_cost, measure, warn_unconverged

FORMS = ("closed", "yu2025")

# Largest relative change of the conserved speed that still counts as converged.
MAX_DRIFT = 1e-2


class Trajectory(NamedTuple):
    """A solution at equal times, the start among them.

    Attributes:
        points: Positions.
        velocities: Their derivatives with respect to time.
        log_density: log p − log p(start); 0 for a metric without a log-density.
    """

    points: Float[Tensor, "batch points *event"]
    velocities: Float[Tensor, "batch points *event"]
    log_density: Float[Tensor, "batch points"]


def shoot(
    metric: Metric,
    start: Float[Tensor, "*batch_event"],
    velocity: Float[Tensor, "*batch_event"],
    *,
    time: float = 1.0,
    steps: int = 100,
    method: str = "rk4",
    form: str = "closed",
    radius: float | Literal["start"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Geodesic:
    """Geodesics from `start` with `velocity`: the exponential map, extrapolation.

    Args:
        metric: The metric.
        start: Where they begin, (batch, *event) or one point (*event).
        velocity: dγ/dt there, of the same shape, not zero.
        time: How long each is followed, > 0.
        steps: The result has steps + 1 points at equal times.
        method: "rk4", one step of fourth order between two points, or "dopri5", adaptive.
        form: "closed", or "yu2025" (density metric only).
        radius: With form="yu2025" and "rk4": after each step the point is put back on the sphere of
            this norm ("start": the start's own) and the velocity made tangent, its norm unchanged.
        rtol: Relative tolerance of "dopri5", 1e-8 unless given (float32: 1e-5).
        atol: Absolute tolerance of "dopri5", 1e-10 unless given (float32: 1e-7).

    Returns:
        A `Geodesic` whose t in [0, 1] stands for [0, time]. settings["speed_drift"] holds the
        largest relative change of the conserved speed, one number a row (with `radius`, of the
        change that a step makes before it is undone); above `MAX_DRIFT` a row has not converged.

    Raises:
        ValueError: A value out of range, or a velocity of zero.
        TypeError: Tensors that are not floating or differ in dtype.
        ArithmeticError: The solution blows up.

    Example:
        >>> import torch
        >>> from lib import SphereScore, SteinMetric, shoot
        >>> start, velocity = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5])
        >>> ahead = shoot(SteinMetric(SphereScore(), lam=1000.0), start, velocity)
        >>> ahead.points.shape  # it follows the circle on which p is largest
        torch.Size([1, 101, 2])
        >>> bool(((ahead.points.norm(dim=2) - 1).abs() < 1e-2).all())
        True
    """
    start, velocity = checks.pair("start", start, "velocity", velocity, metric.event_shape)
    checks.nonzero("velocity", velocity)
    _check_settings(metric, method, form, radius)
    before = replace(metric.counter)
    settings = {
        "time": time,
        "steps": steps,
        "method": method,
        "form": form,
        "rtol": rtol,
        "atol": atol,
    }
    with torch.no_grad():
        if radius is None:
            trajectory = geodesic_flow(metric, start, velocity, **settings)
        else:
            trajectory, drift = _walk_on_sphere(metric, start, velocity, radius, time, steps)
        _check_finite(trajectory, time)
        scores = None
        if isinstance(metric, ScoreMetric):
            scores = metric.scores_along(trajectory.points)
        if radius is None:
            log_speed = _log_speed(metric, form, trajectory, scores)
            drift = (log_speed - log_speed[:, :1]).expm1().abs().amax(1)
        settings |= {
            "metric": metric.name,
            "solver": "shoot",
            "radius": radius,
            "speed_drift": drift.tolist(),
        }
        converged = (drift <= MAX_DRIFT).cpu()
        reasons = [_reason(metric, change) for change in drift.tolist()]
        solution = Solution(trajectory.points, converged, reasons, scores)
        result = measure(metric, solution, settings=settings)
    add_cost(result, metric, before)
    warn_unconverged(result)
    return result


def geodesic_flow(
    metric: Metric,
    x: Float[Tensor, "batch *event"],
    v: Float[Tensor, "batch *event"],
    *,
    time: float = 1.0,
    steps: int = 100,
    form: str = "closed",
    part: tuple[float, float] = (0.0, 1.0),
    **ode: Any,
) -> Trajectory:
    """The geodesic flow itself, unwrapped and differentiable.

    A row that blows up is left as it is with "rk4"; with "dopri5" ArithmeticError is raised for the
    whole batch.

    Args:
        metric: The metric.
        x: Where the geodesics begin.
        v: Their velocities there.
        time: How long they are followed, > 0.
        steps: Of equal length.
        form: See `shoot`.
        part: Which part of a path in [0, 1] this is, for a score that moves (see `Score.along`).
        **ode: Of `lib.ode.integrate`: method, rtol, atol.

    Returns:
        The trajectory, steps + 1 points each.
    """
    checks.positive("time", time)
    steps = checks.count("steps", steps)
    first, last = part
    times = torch.linspace(0, time, steps + 1, dtype=working_dtype(x), device=x.device)

    def right_side(t: Tensor, y: Tensor) -> Tensor:
        """(x, v, f)' = (v, a(x, v), s·v), packed (batch, 2d + 1); one score a call."""
        x, v = (half.reshape(shape) for half in y[:, :-1].chunk(2, dim=1))
        here = metric.along((first + (last - first) * t / time).reshape(1))
        if not isinstance(metric, ScoreMetric):
            return _pack(v, here.acceleration(x, v), torch.zeros_like(y[:, 0]))
        s = here.score(x)
        rise = dot(s, v)
        if form == "closed":
            return _pack(v, here.acceleration(x, v, s), rise)
        a = scale(metric.alpha * rise, v) - scale(metric.alpha * dot(v, v), s)
        return _pack(v, a, rise)

    shape = x.shape
    y = _pack(x, v, torch.zeros_like(x.flatten(1)[:, 0]))
    path = integrate(right_side, y, times, **ode)
    points, velocities = (
        half.reshape(len(x), len(times), *x.shape[1:]) for half in path[..., :-1].chunk(2, dim=2)
    )
    return Trajectory(points, velocities, path[..., -1])


def _pack(x: Tensor, v: Tensor, f: Tensor) -> Tensor:
    return torch.cat([x.flatten(1), v.flatten(1), f[:, None]], 1)


def _walk_on_sphere(
    metric: ScoreMetric, x: Tensor, v: Tensor, radius: float | str, time: float, steps: int
) -> tuple[Trajectory, Tensor]:
    """Steps of the flow, each put back on the sphere, and the largest change of speed by one."""
    speed = _norm(v)
    radius = _norm(x) if radius == "start" else torch.full_like(speed, radius)
    v = _tangent(x, v)
    if bool((_norm(v) <= 1e-6 * speed).any()):
        raise ValueError(
            "velocity points along the radius: a motion on the sphere needs a tangent part"
        )
    v = scale(speed / _norm(v), v)
    f = torch.zeros_like(speed)
    drift = torch.zeros_like(speed)
    states = [(x, v, f)]
    for i in range(checks.count("steps", steps)):
        part = (i / steps, (i + 1) / steps)
        step = geodesic_flow(metric, x, v, time=time / steps, steps=1, form="yu2025", part=part)
        x = scale(radius / _norm(step.points[:, 1]), step.points[:, 1])
        v = _tangent(x, step.velocities[:, 1])
        f = f + step.log_density[:, 1]
        drift = torch.maximum(drift, (_norm(v) / speed - 1).abs())
        v = scale(speed / _norm(v), v)
        states.append((x, v, f))
    xs, vs, fs = (torch.stack(column, 1) for column in zip(*states, strict=True))
    return Trajectory(xs, vs, fs), drift


def _norm(u: Tensor) -> Tensor:
    return u.flatten(1).norm(dim=1)


def _tangent(x: Tensor, v: Tensor) -> Tensor:
    """v without its part along x."""
    return v - scale(dot(x, v) / dot(x, x), x)


def _log_speed(metric: Metric, form: str, trajectory: Trajectory, scores: Tensor | None) -> Tensor:
    """log of the conserved speed at every point, (batch, N): sqrt(v^T G v), or ‖v‖ for "yu2025"."""
    points, velocities, f = trajectory
    if form == "yu2025":
        return velocities.flatten(2).norm(dim=2).log()
    if scores is None:
        squared = metric.norm_squared(points.flatten(0, 1), velocities.flatten(0, 1))
        return squared.reshape(f.shape).log() / 2
    rise = (scores * velocities).flatten(2).sum(2)
    squared = velocities.flatten(2).pow(2).sum(2) + metric.lam * rise**2
    return squared.log() / 2 - metric.alpha * f


def _reason(metric: Metric, drift: float) -> str:
    if drift <= MAX_DRIFT:
        return "integrated"
    mend = "raise steps= or use method='dopri5'"
    if metric.score is not None and metric.score.moves:
        mend = "the score moves along the path, which conserves no speed"
    return f"the conserved speed drifts by {drift:.1%}; {mend}"


def _check_settings(metric: Metric, method: str, form: str, radius: float | str | None) -> None:
    checks.choice("form", form, FORMS)
    if form == "yu2025" and not (isinstance(metric, ScoreMetric) and metric.lam == 0):
        raise ValueError(
            f"form='yu2025' is the density metric's equation; for {metric.name} use form='closed'"
        )
    if radius is None:
        return
    if form != "yu2025" or method != "rk4":
        raise ValueError(
            "radius= belongs to form='yu2025' with method='rk4'; the closed form stays on no sphere"
        )
    if isinstance(radius, str):
        checks.choice("radius", radius, ("start",))
    else:
        checks.positive("radius", radius)


def _check_finite(trajectory: Trajectory, time: float) -> None:
    """Raise ArithmeticError at the first step whose state is not finite."""
    finite = torch.isfinite(trajectory.points) & torch.isfinite(trajectory.velocities)
    bad = (~finite.flatten(2).all(2)).nonzero()
    if len(bad) > 0:
        row, step = bad[bad[:, 1].argmin()].tolist()
        steps = finite.shape[1] - 1
        raise ArithmeticError(
            f"the geodesic of row {row} is NaN or infinite from step {step} of {steps} on "
            f"(time {time * step / steps:.3g}); use a smaller time= or more steps="
        )
