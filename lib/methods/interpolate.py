"""What a user starts from: frames between two points, or beyond one, by the name of a method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import checks, paths
from ..metrics import JacobianMetric, Metric, SpaceTimeMetric
from ..scores import Counter, Score, as_score
from ..scores.distillation import distilled
from ..solvers import Geodesic, geodesic, shoot
from . import baselines
from .presets import METHODS, Preset
from .spaces import Space, working_space


@dataclass
class Frames:
    """frames (batch, frames, *event); path: the Geodesic behind them in the space the method works in, None for a baseline.

    evaluations: points at which the score was computed for all of it, noising and denoising too; batches: calls.
    settings: what was used; its "ends" (beyond one point, "start") says whether the first and last frame (the first) are
    "given" or "reconstructed".
    """

    frames: Tensor
    method: str
    path: Geodesic | None
    evaluations: int
    settings: dict
    batches: int = 0


def interpolate(
    model: Score | Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    *,
    method: str = "stein",
    frames: int = 17,
    sigma: float | None = None,
    space: str | None = None,
    seed: int = 0,
    flow_steps: int = 30,
    flow_method: str = "ddim",
    **settings,
) -> Frames:
    """Frames from `start` to `end` (batch, *event), or one pair (*event), both ends included.

    model: a score, or a function x -> grad log p(x) of vectors (a function of images: FunctionScore(f, event_shape=(c, h, w)),
    which tells one image from a batch). method: a name of METHODS or of baselines.INTERPOLATIONS. frames: how many (≥ 2).
    sigma: noise level to work at, in the units of x (the method's, else the model's own, by default).
    space: "clean", the points as they are; "shared_noise", both ends with the same noise (of `seed`) of level sigma; "ddim", both
    ends inverted to sigma. There the method runs in the model's variance-preserving coordinates (lib.methods.spaces), which its lam,
    alpha and solver settings then belong to; frames come back by the probability flow (flow_steps, flow_method: lib.flow),
    the ends among them, so that these are reconstructions. By default a learned score is met where the method's paper does
    (METHODS, INTERPOLATIONS), any other in the clean space.
    settings: of the metric (lam, alpha, …), a `solver`, and of `geodesic` (points, noise_levels, init, samples, tol, …), lengths
    and points among them those of the clean space; an unknown name raises TypeError, images far outside [0, 1] ValueError.
    Frames lie at equal steps of the path's parameter, equal Riemannian distances for a converged geodesic.
    """
    score, frames = as_score(model), checks.count("frames", frames, least=2)
    checks.choice("method", method, [*METHODS, *baselines.INTERPOLATIONS])
    start, end = checks.end_points(start, end, score.event_shape)
    if score.event_shape is None:
        score = copy.copy(score)
        score.event_shape = tuple(start.shape[1:])
    before = replace(score.counter)
    room = working_space(
        score,
        _space(method, score, space),
        sigma,
        _plan(method).time,
        seed=seed,
        steps=flow_steps,
        method=flow_method,
    )
    _in_units(room, score, start=start, end=end)
    run = _baseline if method in baselines.INTERPOLATIONS else _geodesic
    points, path = run(method, room, start, end, frames, settings)
    shown = (
        room.along(torch.linspace(0, 1, frames)).leave(points.flatten(0, 1)).reshape(points.shape)
    )
    used = {
        **({} if path is None else path.settings),
        **score.settings,
        **room.settings,
    }
    return Frames(shown, method, path, settings=used, **_spent(score, before))


def _plan(method: str) -> Preset | baselines.Baseline:
    return METHODS[method] if method in METHODS else baselines.INTERPOLATIONS[method]


def _space(method: str, score: Score, asked: str | None) -> str:
    """The space asked for, else the method's: a baseline's own, a preset's where the score is learned."""
    fixed = method in baselines.INTERPOLATIONS and _plan(method).space != "clean"
    if asked is None:
        return _plan(method).space if fixed or score.noise_range is not None else "clean"
    if (fixed and asked != _plan(method).space) or (method == "spacetime" and asked != "clean"):
        raise ValueError(
            f"method {method!r} works in the space {_plan(method).space!r} alone, got {asked!r}; leave space= out"
        )
    return asked


def _baseline(
    method: str, room: Space, start: Tensor, end: Tensor, frames: int, settings: dict
) -> tuple[Tensor, None]:
    if settings:
        raise TypeError(f"method {method!r} takes no settings, got {', '.join(sorted(settings))}")
    clean = [room.score.encode(x) for x in (start, end)] if _plan(method).mixes else []
    return _plan(method).path(*_entered(room, start, end), frames, *clean), None


def _entered(room: Space, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(room.along(torch.tensor([t])).enter(x) for t, x in ((0.0, start), (1.0, end)))


def _geodesic(
    method: str, room: Space, start: Tensor, end: Tensor, frames: int, settings: dict
) -> tuple[Tensor, Geodesic]:
    """Points of the method's geodesic (batch, frames, *event) in the working space, and the geodesic."""
    preset = METHODS[method]
    score = _lent(preset, room.score)
    metric, rest = _metric(preset, score, {**(preset.learned if room.learned else {}), **settings})
    rest = _carried(room, start, {"solver": preset.solver, **preset.settings, **rest})
    a, b = _entered(room, start, end)
    lifted = isinstance(metric, SpaceTimeMetric)
    path = geodesic(
        metric, *(metric.lift(x, room.score.sigma) if lifted else x for x in (a, b)), **rest
    )
    path.settings |= score.settings
    points = paths.evaluate(path.points, torch.linspace(0, 1, frames, dtype=torch.float64))
    return (metric.project(points)[0] if lifted else points), path


def _lent(preset: Preset, score: Score) -> Score:
    return distilled(score) if preset.distilled else score


def _carried(room: Space, start: Tensor, settings: dict) -> dict:
    """Lengths and points among the settings, in the working space."""
    if room.kind == "clean":
        return settings
    levels = checks.noise_schedule(settings.get("noise_levels"), room.level)
    carried = {**settings, "noise_levels": [room.score.unit * s for s in levels] or None}
    for name in ("init", "samples"):
        if isinstance(x := settings.get(name), Tensor):
            carried[name] = room.enter(x.reshape(-1, *start.shape[1:])).reshape(x.shape)
    return carried


def extrapolate(
    model: Score | Callable[[Tensor], Tensor],
    start: Tensor,
    velocity: Tensor,
    *,
    method: str = "stein",
    frames: int = 17,
    time: float = 1.0,
    sigma: float | None = None,
    space: str = "clean",
    seed: int = 0,
    flow_steps: int = 30,
    flow_method: str = "ddim",
    **settings,
) -> Frames:
    """Frames that leave `start` with `velocity` (batch, *event) and run for `time`, the first of them the start.

    method: "stein", "density", "both" or "yu2025" (exponential map of that metric), or a baseline ("straight", "guided_walk").
    space, seed, flow_steps, flow_method: as for `interpolate`; the velocity is carried along (`Space.carry`), by the derivative
    of the inversion for "ddim", which costs two more.
    settings: of the metric, and of `shoot` (steps, form, radius, …; its method, rk4 or dopri5, as `ode`) or of the baseline,
    all of that space.
    """
    score, frames = as_score(model), checks.count("frames", frames, least=2)
    known = ["stein", "density", "both", "yu2025"]
    checks.choice("method", method, [*known, *baselines.EXTRAPOLATIONS])
    start, velocity = (
        checks.batched(n, x, score.event_shape)
        for n, x in (("start", start), ("velocity", velocity))
    )
    checks.positive("time", time)
    before = replace(score.counter)
    room = working_space(score, space, sigma, seed=seed, steps=flow_steps, method=flow_method)
    _in_units(room, score, start=start)
    first = room.along(torch.zeros(1))
    x, v = first.enter(start), first.carry(start, velocity)
    if method in baselines.EXTRAPOLATIONS:
        walk, path = baselines.EXTRAPOLATIONS[method], None
        used = {"time": time, **(walk.__kwdefaults__ or {}), **settings}
        points = walk(room.score, x, v, frames, time, **settings)
    else:
        metric, rest = _metric(METHODS[method], _lent(METHODS[method], room.score), settings)
        if "ode" in rest:
            rest["method"] = rest.pop("ode")
        form = {"form": "yu2025"} if method == "yu2025" else {}
        path = shoot(metric, x, v, time=time, **{**form, **rest})
        points = paths.evaluate(path.points, torch.linspace(0, 1, frames, dtype=torch.float64))
        used = path.settings | metric.score.settings
    shown = (
        room.along(torch.linspace(0, 1, frames)).leave(points.flatten(0, 1)).reshape(points.shape)
    )
    used = {**score.settings, **used, **room.settings}
    used["start"] = used.pop("ends")
    return Frames(shown, method, path, settings=used, **_spent(score, before))


def _in_units(room: Space, score: Score, **points: Tensor) -> None:
    """Refuse images in 0..255 for a model of pixels in [0, 1], y = 2x − 1: more than 1 outside, what a model may overshoot, and
    in the clean space 6 sigma, for points as noisy as the level they are met at (one pixel in 10⁹ has more)."""
    if (score.scale, score.shift) != (2.0, -1.0):
        return
    slack = 1 + 6 * float(torch.as_tensor(room.score.sigma).max()) if room.kind == "clean" else 1.0
    for name, x in points.items():
        if x.min() < -slack or x.max() > 1 + slack:
            raise ValueError(
                f"{name} has values from {x.min():.4g} to {x.max():.4g}, but this model's pixels lie in [0, 1]: "
                "divide images in 0..255 by 255 (a model in other units has another scale= and shift=)"
            )


def _spent(score: Score, before: Counter) -> dict[str, int]:
    return {
        name: getattr(score.counter, name) - getattr(before, name)
        for name in ("evaluations", "batches")
    }


def _metric(preset: Preset, score: Score, settings: dict) -> tuple[Metric, dict]:
    """Split the settings into those of the preset's metric and the rest."""
    names = {"lam", "alpha"} & set(preset.metric_settings) or set(preset.metric_settings)
    names |= (
        {"regularisation"}
        if preset.metric is JacobianMetric
        else {"probes"}
        if preset.metric is SpaceTimeMetric
        else set()
    )
    own = {k: v for k, v in settings.items() if k in names}
    rest = {k: v for k, v in settings.items() if k not in names}
    foreign = {"lam", "alpha"} & set(rest)
    if foreign:
        raise TypeError(
            f"{', '.join(sorted(foreign))} is no setting of {preset.metric.__name__}; "
            "use method='both' for lam and alpha"
        )
    return preset.metric(score, **{**preset.metric_settings, **own}), rest
