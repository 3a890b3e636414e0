"""The front door: frames between two points, or beyond one, by the name of a method."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks, paths
from ..metrics import Metric, SpaceTimeMetric
from ..scores import Score, as_score
from ..solvers import Geodesic, geodesic, shoot
from .annealing import annealing_schedule
from .baselines import EXTRAPOLATIONS, INTERPOLATIONS, Baseline, denoise_inner
from .presets import METHODS, Preset
from .spaces import Method, NoisedSpace, Space, working_space


@dataclass
class Frames:
    """The result of `interpolate` and `extrapolate`.

    Attributes:
        frames: The frames of each pair.
        method: Name of the method.
        path: The geodesic behind the frames, in the space where the method works; None for a
            baseline.
        evaluations: Points at which the score was computed, including noising and denoising.
        settings: All settings that were used. "ends" says whether the first and last frames (of
            an extrapolation, the first alone) are "given" or "reconstructed".

    Example:
        >>> import torch
        >>> from lib import GaussianScore, interpolate
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> result = interpolate(GaussianScore(torch.zeros(2)), a, b, method="lerp", frames=3)
        >>> result.frames
        tensor([[[1.0000, 0.0000],
                 [0.5000, 0.5000],
                 [0.0000, 1.0000]]])
        >>> result.evaluations  # a straight line asks no score
        0
    """

    frames: Float[Tensor, "batch frames *event"]
    method: str
    path: Geodesic | None
    evaluations: int
    settings: dict[str, Any]


def interpolate(
    model: Score | Callable[[Tensor], Tensor],
    start: Float[Tensor, "*batch_event"],
    end: Float[Tensor, "*batch_event"],
    *,
    method: str = "stein",
    frames: int = 17,
    sigma: float | None = None,
    space: str | None = None,
    seed: int = 0,
    flow_steps: int = 30,
    flow_method: str = "ddim",
    **settings: Any,
) -> Frames:
    """Frames from one point to another, both ends included.

    Frames lie at equal steps of the path's parameter. On a converged geodesic these are equal
    Riemannian distances. In a noised space the method works in the model's variance-preserving
    coordinates (`lib.methods.spaces`): lam, alpha and the solver's settings then refer to these
    coordinates, while lengths and points among the settings refer to the clean space. The
    probability flow brings all frames back, so both ends are reconstructions there.

    Args:
        model: A score, or a function x -> grad log p(x) of vectors. A function of images needs
            `FunctionScore(f, event_shape=(c, h, w))`, which tells one image from a batch.
        start: Points (batch, *event), or one point (*event).
        end: Points of the same shape as `start`.
        method: A name in `METHODS` or in `lib.methods.baselines.INTERPOLATIONS`.
        frames: Number of frames, at least 2.
        sigma: Noise level to work at, in the units of x. None: the method's own level if it has
            one, else the model's.
        space: "clean": the points as they are. "shared_noise": both ends with the same noise.
            "ddim": both ends inverted to sigma. None: for a learned score the space in which the
            method's paper works, else the clean space.
        seed: Seed of the shared noise.
        flow_steps: Noise levels of the probability flow, at least 2.
        flow_method: "ddim" or "heun".
        **settings: Settings of the metric (lam, alpha, …), a `solver`, and settings of `geodesic`
            (points, noise_levels, init, samples, tol, …). On a learned score "stein", "density"
            and "both" default to lam = 100 sigma² (10 sigma² for "both") and alpha = 10/d, and
            `annealing_schedule` chooses points, noise levels and the solver's coarse grids.

    Returns:
        The frames, the geodesic behind them, and what they cost.

    Raises:
        TypeError: The method has no such setting.
        ValueError: Unsuitable points, an unknown name, or images far outside [0, 1].

    Example:
        >>> import torch
        >>> from lib import SphereScore, interpolate
        >>> a, b = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> result = interpolate(SphereScore(), a, b, method="stein", frames=5)
        >>> result.frames.shape
        torch.Size([1, 5, 3])
        >>> bool((result.frames.norm(dim=2) > 0.99).all())  # the frames stay near the sphere
        True
    """
    score = as_score(model)
    frames = checks.count("frames", frames, least=2)
    checks.choice("method", method, [*METHODS, *INTERPOLATIONS])
    start, end = checks.end_points(start, end, score.event_shape)
    if score.event_shape is None:
        score = copy.copy(score)
        score.event_shape = tuple(start.shape[1:])
    evaluations = score.counter.evaluations

    plan = INTERPOLATIONS[method] if method in INTERPOLATIONS else METHODS[method].on(score)
    room = working_space(
        score,
        _space(method, plan, score, space),
        sigma,
        plan.time,
        seed=seed,
        steps=flow_steps,
        method=flow_method,
    )
    _refuse_bytes(room, score, start=start, end=end)
    if isinstance(plan, Baseline):
        _refuse_foreign(method, settings, [])
        path = None
        points = _baseline_path(plan, room, start, end, frames)
    else:
        path, points = _geodesic_path(method, plan, room, start, end, frames, settings)
    shown = _clean_frames(room, points)

    used = {} if path is None else path.settings
    return Frames(
        shown,
        method,
        path,
        evaluations=score.counter.evaluations - evaluations,
        settings={**used, **score.settings, **room.settings},
    )


def extrapolate(
    model: Score | Callable[[Tensor], Tensor],
    start: Float[Tensor, "*batch_event"],
    velocity: Float[Tensor, "*batch_event"],
    *,
    method: str = "stein",
    frames: int = 17,
    time: float = 1.0,
    sigma: float | None = None,
    space: str = "clean",
    seed: int = 0,
    flow_steps: int = 30,
    flow_method: str = "ddim",
    **settings: Any,
) -> Frames:
    """Frames that leave a point with a given velocity; the first frame is the start.

    Args:
        model: As for `interpolate`.
        start: Points (batch, *event), or one point (*event).
        velocity: One velocity for each point. A noised space carries it along (`Space.carry`);
            "ddim" does so by the derivative of the inversion, at the cost of two more inversions.
        method: "stein", "density", "both" or "yu2025" (exponential map of that metric), or a
            baseline ("straight", "guided_walk").
        frames: Number of frames, at least 2.
        time: Length of the walk: the straight line ends at start + time · velocity; > 0.
        sigma: Noise level to work at, in the units of x. None: the model's.
        space: As for `interpolate`.
        seed: As for `interpolate`.
        flow_steps: As for `interpolate`.
        flow_method: As for `interpolate`.
        **settings: Settings of the metric and of `shoot` (steps, form, radius, …), all in the
            working space. The integrator, rk4 or dopri5, is called `ode` here.

    Returns:
        The frames, the geodesic behind them, and what they cost.

    Raises:
        TypeError: The method has no such setting.
        ValueError: Unsuitable points, an unknown name, or images far outside [0, 1].

    Example:
        >>> import torch
        >>> from lib import SphereScore, extrapolate
        >>> x, v = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> ahead = extrapolate(SphereScore(), x, v, method="stein", frames=3).frames[0, -1]
        >>> bool(abs(ahead.norm() - 1) < 0.1)  # a straight line would be at 1.41
        True
    """
    score = as_score(model)
    frames = checks.count("frames", frames, least=2)
    shooting = [name for name, preset in METHODS.items() if preset.form is not None]
    checks.choice("method", method, [*shooting, *EXTRAPOLATIONS])
    start, velocity = checks.pair("start", start, "velocity", velocity, score.event_shape)
    time = checks.positive("time", time)
    evaluations = score.counter.evaluations

    room = working_space(score, space, sigma, seed=seed, steps=flow_steps, method=flow_method)
    _refuse_bytes(room, score, start=start)
    at_start = room.along(torch.zeros(1))
    x = at_start.enter(start)
    v = at_start.carry(start, velocity)
    if method in EXTRAPOLATIONS:
        _refuse_foreign(method, settings, [])
        path = None
        points = EXTRAPOLATIONS[method](room.score, x, v, frames, time)
        used = {"time": time}
    else:
        preset = METHODS[method].on(score)
        own = preset.score_of(room.score)
        metric, rest = _metric(method, preset, own, settings, [*keyword_names(shoot), "ode"])
        rest = {"form": preset.form, **rest}
        if "ode" in rest:
            rest["method"] = rest.pop("ode")
        path = shoot(metric, x, v, time=time, **rest)
        points = _points_of(path, frames)
        used = path.settings | own.settings
    shown = _clean_frames(room, points)

    return Frames(
        shown,
        method,
        path,
        evaluations=score.counter.evaluations - evaluations,
        settings={**used, **score.settings, **room.settings},
    )


def _space(method: str, plan: Method, score: Score, space: str | None) -> str:
    """The space to work in: the user's, else the method's own where it is that of the score."""
    if plan.only_there and space not in (None, plan.space):
        raise ValueError(
            f"method {method!r} works in the space {plan.space!r} alone, got {space!r}; "
            "leave space= out"
        )
    if space is not None:
        return space
    return plan.space if plan.only_there or score.noise_range is not None else "clean"


def _baseline_path(
    baseline: Baseline, room: Space, start: Tensor, end: Tensor, frames: int
) -> Tensor:
    """Its points (batch, frames, *event) in the working space."""
    a, b = _enter(room, start, end)
    if baseline.mixes:
        return baseline.path(a, b, frames, room.score.encode(start), room.score.encode(end))
    points = baseline.path(a, b, frames)
    return denoise_inner(room.score, points) if baseline.denoises else points


def _geodesic_path(
    method: str,
    preset: Preset,
    room: Space,
    start: Tensor,
    end: Tensor,
    frames: int,
    settings: dict[str, Any],
) -> tuple[Geodesic, Tensor]:
    """The geodesic in the working space, and its points (batch, frames, *event) there."""
    score = preset.score_of(room.score)
    metric, rest = _metric(method, preset, score, settings, keyword_names(geodesic))
    defaults = {"solver": preset.solver, "points": preset.points, "init": preset.init}
    if preset.annealed:
        defaults |= _learned_defaults(preset, room, rest)
    rest = _in_units_of(room, start.shape[1:], {**defaults, **rest})
    a, b = _enter(room, start, end)
    if isinstance(metric, SpaceTimeMetric):
        a = metric.lift(a, room.score.sigma)
        b = metric.lift(b, room.score.sigma)
    path = geodesic(metric, a, b, **rest)
    path.settings |= score.settings
    points = _points_of(path, frames)
    if isinstance(metric, SpaceTimeMetric):
        points, _ = metric.project(points)
    return path, points


def _learned_defaults(preset: Preset, room: Space, settings: dict[str, Any]) -> dict[str, Any]:
    """Points, noise levels and coarse grids for a learned score.

    A start of the user's own is solved at the last level alone, on its own points: large noise
    would forget it.
    """
    noised = isinstance(room, NoisedSpace)
    model = room.model if noised else room.score
    level = room.level if noised else None
    schedule = annealing_schedule(
        model, sigma=level, points=settings.get("points"), least=preset.points
    )
    if "init" in settings:
        init = settings["init"]
        count = init.shape[-1 - len(model.event_shape)] if isinstance(init, Tensor) else None
        return {"points": count or schedule.points}
    return {
        "noise_levels": schedule.noise_levels,
        "points": schedule.points,
        "solver": replace(preset.solver, coarse=schedule.coarse),
    }


def _metric(
    method: str, preset: Preset, score: Score, settings: dict[str, Any], known: list[str]
) -> tuple[Metric, dict[str, Any]]:
    """The preset's metric with the user's settings of it, and the other settings, all known."""
    names = preset.metric_settings
    _refuse_foreign(method, settings, [*names, *known])
    own = {name: value for name, value in settings.items() if name in names}
    rest = {name: value for name, value in settings.items() if name not in names}
    return preset.metric(score, **own), rest


def keyword_names(function: Callable) -> list[str]:
    """Names of its keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _refuse_foreign(method: str, settings: dict[str, Any], known: list[str]) -> None:
    """TypeError for a setting that the method does not have, with its mend."""
    for name in settings:
        if name in known:
            continue
        owners = [other for other, preset in METHODS.items() if name in preset.metric_settings]
        near = checks.nearest(name, known)
        if owners:
            mend = f"it belongs to {', '.join(map(repr, owners))}"
        elif near:
            mend = f"did you mean {near!r}?"
        else:
            mend = f"known: {', '.join(sorted(known)) or 'none'}"
        raise TypeError(f"{name} is no setting of method {method!r}; {mend}")


def _in_units_of(room: Space, event: torch.Size, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with lengths and points of the clean space carried into the working space."""
    if not isinstance(room, NoisedSpace):
        return settings
    carried = {**settings, "noise_levels": room.levels(settings.get("noise_levels"))}
    for name in ("init", "samples"):
        value = settings.get(name)
        # Points of another shape are refused by `geodesic`.
        if isinstance(value, Tensor) and value.shape[-len(event) :] == event:
            carried[name] = room.enter(value.reshape(-1, *event)).reshape(value.shape)
    return carried


def _enter(room: Space, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends in the working space."""
    at_start = room.along(torch.tensor([0.0]))
    at_end = room.along(torch.tensor([1.0]))
    return at_start.enter(start), at_end.enter(end)


def _points_of(path: Geodesic, frames: int) -> Tensor:
    """The path at equal steps of its parameter."""
    return paths.evaluate(path.points, torch.linspace(0, 1, frames, dtype=torch.float64))


def _clean_frames(room: Space, points: Tensor) -> Tensor:
    """Points (batch, frames, *event) of the working space as frames."""
    times = torch.linspace(0, 1, points.shape[1])
    return room.along(times).leave(points.flatten(0, 1)).reshape(points.shape)


def _refuse_bytes(room: Space, score: Score, **points: Tensor) -> None:
    """Refuse images in 0..255 for a model of pixels in [0, 1], which counts in y = 2x − 1.

    A model may overshoot by 1. In the clean space points are as noisy as the level they are met at,
    which is 6 sigma more (one pixel in 10⁹ has more).
    """
    if (score.scale, score.shift) != (2.0, -1.0):
        return
    slack = 1.0
    if not isinstance(room, NoisedSpace):
        slack += 6 * float(torch.as_tensor(room.score.sigma).max())
    for name, x in points.items():
        if x.min() < -slack or x.max() > 1 + slack:
            raise ValueError(
                f"{name} has values from {x.min():.4g} to {x.max():.4g}, but this model's pixels "
                "lie in [0, 1]: divide images in 0..255 by 255 (a model in other units has another "
                "scale= and shift=)"
            )
