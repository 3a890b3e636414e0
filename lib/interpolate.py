"""What a user starts from: frames between two points, or beyond one, by the name of a method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import baselines, checks, paths
from .metrics import DensityMetric, JacobianMetric, Metric, ScoreMetric, SpaceTimeMetric, SteinMetric
from .scores import Score, as_score
from .solvers import FunctionalGradient, Geodesic, Georce, Relaxation, Shooting, geodesic, shoot
from .solvers.base import Solver


@dataclass(frozen=True)
class Preset:
    """A method: its metric with default settings, and defaults of `geodesic`. summary: what it is, with its source."""

    metric: type[Metric]
    summary: str
    metric_settings: dict = field(default_factory=dict)
    solver: str | Solver = "gauss_newton"
    settings: dict = field(default_factory=dict)


METHODS: dict[str, Preset] = {
    "stein": Preset(SteinMetric, "Stein score metric, Gauss–Newton", {"lam": 1000.0}),
    "density": Preset(DensityMetric, "probability density metric, Gauss–Newton", {"alpha": 1.0}),
    "both": Preset(ScoreMetric, "both metrics multiplied, Gauss–Newton", {"lam": 10.0, "alpha": 0.2}),
    "azeglio2025": Preset(SteinMetric, "arXiv 2505.11128: SLERP start, 10 points, Adam, score derivative frozen at −I/sigma²",
                          {"lam": 1000.0}, Relaxation(optimizer="adam", derivative="frozen"), {"points": 10, "init": "slerp"}),
    "yu2025": Preset(DensityMetric, "arXiv 2504.06675: density metric, functional gradient on spherical control points",
                     {"alpha": 0.002}, FunctionalGradient(), {"points": 17, "init": "slerp"}),
    "jacobian": Preset(JacobianMetric, "arXiv 2510.05509: pullback by the score; L-BFGS", {},
                       Relaxation(optimizer="lbfgs"), {"points": 17}),
    "spacetime": Preset(SpaceTimeMetric, "arXiv 2505.17517: Fisher–Rao metric on (x, sigma); L-BFGS", {},
                        Relaxation(optimizer="lbfgs"), {"points": 17}),
    "georce": Preset(SteinMetric, "Stein metric by GEORCE, arXiv 2505.05961", {"lam": 1000.0}, Georce()),
    "shooting": Preset(SteinMetric, "Stein metric by shooting", {"lam": 1000.0}, Shooting()),
}


@dataclass
class Frames:
    """frames (batch, frames, *event); path: the Geodesic behind them, or None for a baseline; evaluations of the score."""

    frames: Tensor
    method: str
    path: Geodesic | None
    evaluations: int
    settings: dict


def interpolate(model: Score | Callable[[Tensor], Tensor], start: Tensor, end: Tensor, *, method: str = "stein",
                frames: int = 17, sigma: float | None = None, **settings) -> Frames:
    """Frames from `start` to `end` (batch, *event), or one pair (*event), both ends included.

    model: a score, or a function x -> grad log p(x) of vectors (a function of images: FunctionScore(f, event_shape=(c, h, w)),
    which tells one image from a batch). method: a name of METHODS or a baseline ("lerp", "slerp").
    frames: how many (≥ 2). sigma: noise level to work at (the model's own by default).
    settings: of the metric (lam, alpha, …), a `solver`, and of `geodesic` (points, noise_levels, init, samples, tol, …);
    an unknown name raises TypeError. Frames lie at equal steps of the path's parameter, equal Riemannian distances for a
    converged geodesic.
    """
    score, frames = _at(model, sigma), checks.count("frames", frames, least=2)
    checks.choice("method", method, [*METHODS, *baselines.INTERPOLATIONS])
    start, end = checks.end_points(start, end, score.event_shape)
    if method in baselines.INTERPOLATIONS:
        _no_settings(method, settings)
        return Frames(baselines.INTERPOLATIONS[method](start, end, frames), method, None, 0, {})
    preset = METHODS[method]
    if preset.metric is SpaceTimeMetric and score.event_shape is None:
        score = copy.copy(score)
        score.event_shape = tuple(start.shape[1:])
    metric, rest = _metric(preset, score, settings)
    rest = {"solver": preset.solver, **preset.settings, **rest}
    lifted = isinstance(metric, SpaceTimeMetric)
    a, b = (metric.lift(x, score.sigma) if lifted else x for x in (start, end))
    path = geodesic(metric, a, b, **rest)
    points = paths.evaluate(path.points, torch.linspace(0, 1, frames, dtype=torch.float64))
    shown = metric.project(points.flatten(0, 1))[0].reshape(*points.shape[:2], *start.shape[1:]) if lifted else points
    return Frames(shown, method, path, path.score_evaluations, path.settings)


def extrapolate(model: Score | Callable[[Tensor], Tensor], start: Tensor, velocity: Tensor, *, method: str = "stein",
                frames: int = 17, time: float = 1.0, sigma: float | None = None, **settings) -> Frames:
    """Frames that leave `start` with `velocity` (batch, *event) and run for `time`, the first of them the start.

    method: "stein", "density", "both" or "yu2025" (exponential map of that metric), or a baseline ("straight", "guided_walk").
    settings: of the metric, and of `shoot` (steps, form, radius, …; its method, rk4 or dopri5, as `ode`) or of the baseline.
    """
    score, frames = _at(model, sigma), checks.count("frames", frames, least=2)
    known = ["stein", "density", "both", "yu2025"]
    checks.choice("method", method, [*known, *baselines.EXTRAPOLATIONS])
    start, velocity = (checks.batched(n, x, score.event_shape) for n, x in (("start", start), ("velocity", velocity)))
    checks.positive("time", time)
    before = score.counter.evaluations
    if method in baselines.EXTRAPOLATIONS:
        shown, path = baselines.EXTRAPOLATIONS[method](score, start, velocity, frames, time, **settings), None
    else:
        metric, rest = _metric(METHODS[method], score, settings)
        if "ode" in rest:
            rest["method"] = rest.pop("ode")
        form = {"form": "yu2025"} if method == "yu2025" else {}
        path = shoot(metric, start, velocity, time=time, **{**form, **rest})
        shown = paths.evaluate(path.points, torch.linspace(0, 1, frames, dtype=torch.float64))
    return Frames(shown, method, path, score.counter.evaluations - before, {} if path is None else path.settings)


def _at(model: Score | Callable[[Tensor], Tensor], sigma: float | None) -> Score:
    score = as_score(model)
    return score if sigma is None else score.at(sigma)


def _metric(preset: Preset, score: Score, settings: dict) -> tuple[Metric, dict]:
    """Split the settings into those of the preset's metric and the rest."""
    names = {"lam", "alpha"} & set(preset.metric_settings) or set(preset.metric_settings)
    names |= {"regularisation"} if preset.metric is JacobianMetric else {"probes"} if preset.metric is SpaceTimeMetric else set()
    own = {k: v for k, v in settings.items() if k in names}
    rest = {k: v for k, v in settings.items() if k not in names}
    foreign = {"lam", "alpha"} & set(rest)
    if foreign:
        raise TypeError(f"{', '.join(sorted(foreign))} is no setting of {preset.metric.__name__}; "
                        "use method='both' for lam and alpha")
    return preset.metric(score, **{**preset.metric_settings, **own}), rest


def _no_settings(method: str, settings: dict) -> None:
    if settings:
        raise TypeError(f"method {method!r} takes no settings, got {', '.join(sorted(settings))}")
