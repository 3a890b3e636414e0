"""The methods by name: a metric, a solver, and the settings of the paper that each comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..metrics import (
    DensityMetric,
    JacobianMetric,
    Metric,
    ScoreMetric,
    SpaceTimeMetric,
    SteinMetric,
)
from ..scores.base import Score
from ..scores.distillation import distilled
from ..solvers import FunctionalGradient, GaussNewton, Georce, Relaxation, Shooting
from ..solvers.base import Solver
from .spaces import Method


@dataclass(frozen=True, kw_only=True)
class Preset(Method):
    """A method: how a metric is made of a score, and how its geodesics are found.

    Attributes:
        metric: Makes the metric of a score; a `functools.partial`, whose keywords are the metric's
            settings with their defaults.
        solver: Finds the geodesic.
        points: Points of its path; the least number where it is annealed.
        annealed: Whether points, noise levels and coarse grids are those of `annealing_schedule`.
        init: Path that the solver starts from.
        form: Form of the geodesic equation by which `extrapolate` shoots; None where the method is
            not for extrapolation.
        distilled: Whether a text-to-image model gives its distillation direction in place of its
            score (see `lib.scores.distillation`).
        learned: The preset to use in its place on a learned score, where it has other settings.
    """

    metric: Callable[..., Metric]
    solver: Solver = field(default_factory=GaussNewton)
    points: int = 33
    init: str = "lerp"
    form: str | None = None
    distilled: bool = False
    annealed: bool = False
    learned: Preset | None = None

    @property
    def metric_settings(self) -> dict[str, Any]:
        """The settings of the metric with their defaults."""
        return dict(self.metric.keywords) if isinstance(self.metric, partial) else {}

    def score_of(self, score: Score) -> Score:
        """The score that its metric is made of, where it works on this one."""
        return distilled(score) if self.distilled else score

    def on(self, score: Score) -> Preset:
        """The preset to use on this score: another where it is learned and there is one."""
        if self.learned is None or score.noise_range is None:
            return self
        return self.learned


def stein_of_noise(score: Score, lam: float | None = None) -> ScoreMetric:
    """The Stein metric, lam = 100 sigma² by default: a score grows as 1/sigma.

    With ten times as much a turn of an MNIST digit takes 65 points and two and a half times as many
    evaluations.
    """
    return SteinMetric(score, 100.0 * score.sigma**2 if lam is None else lam)


def density_of_dimension(score: Score, alpha: float | None = None) -> ScoreMetric:
    """The density metric, alpha = 10/d by default: log p grows with the dimension d."""
    return DensityMetric(score, _alpha(score) if alpha is None else alpha)


def both_of_noise(
    score: Score, lam: float | None = None, alpha: float | None = None
) -> ScoreMetric:
    """Both metrics multiplied, by default lam = 10 sigma² and alpha = 10/d."""
    lam = 10.0 * score.sigma**2 if lam is None else lam
    return ScoreMetric(score, lam, _alpha(score) if alpha is None else alpha)


def _alpha(score: Score) -> float:
    return 10.0 / math.prod(score.event_shape)


# of the methods on a learned score; its float32 network bounds the tolerance (see `GaussNewton`)
LEARNED: dict[str, Any] = {"solver": GaussNewton(tol=1e-4), "annealed": True}

STEIN = Preset(
    summary="Stein score metric, Gauss–Newton",
    metric=partial(SteinMetric, lam=1000.0),
    form="closed",
)

DENSITY = Preset(
    summary="probability density metric, Gauss–Newton",
    metric=partial(DensityMetric, alpha=1.0),
    form="closed",
)

BOTH = Preset(
    summary="both metrics multiplied, Gauss–Newton",
    metric=partial(ScoreMetric, lam=10.0, alpha=0.2),
    form="closed",
)

JACOBIAN = Preset(
    summary="arXiv 2510.05509: pullback by the score; L-BFGS, on a learned score Adam from SLERP "
    "after DDIM inversion to t = 600 of 1000",
    metric=partial(JacobianMetric, regularisation=0.0),
    solver=Relaxation(optimizer="lbfgs"),
    points=17,
    space="ddim",
    time=0.6,
)

SPACETIME = Preset(
    summary="arXiv 2505.17517: Fisher–Rao metric on (x, sigma); L-BFGS, on a learned score with "
    "one Hutchinson probe",
    metric=partial(SpaceTimeMetric, probes=None),
    solver=Relaxation(optimizer="lbfgs"),
    points=17,
    only_there=True,
)

METHODS: dict[str, Preset] = {
    "stein": replace(
        STEIN, learned=replace(STEIN, metric=partial(stein_of_noise, lam=None), **LEARNED)
    ),
    "density": replace(
        DENSITY,
        learned=replace(
            DENSITY, metric=partial(density_of_dimension, alpha=None), points=17, **LEARNED
        ),
    ),
    "both": replace(
        BOTH, learned=replace(BOTH, metric=partial(both_of_noise, lam=None, alpha=None), **LEARNED)
    ),
    "azeglio2025": Preset(
        summary="arXiv 2505.11128: SLERP start, 10 points, Adam, score derivative frozen at "
        "−I/sigma²; on a learned score between ends noised with the same noise to t = 400 of 1000, "
        "denoised deterministically",
        metric=partial(SteinMetric, lam=1000.0),
        solver=Relaxation(optimizer="adam", derivative="frozen"),
        points=10,
        init="slerp",
        space="shared_noise",
        time=0.4,
    ),
    "yu2025": Preset(
        summary="arXiv 2504.06675: density metric, functional gradient on spherical control "
        "points; on a learned score after DDIM inversion to t = 581 of 1000 (30 of 50 steps), on a "
        "text-to-image model by the distillation direction",
        metric=partial(DensityMetric, alpha=0.002),
        solver=FunctionalGradient(),
        points=17,
        init="slerp",
        form="yu2025",
        distilled=True,
        space="ddim",
        time=0.581,
    ),
    "jacobian": replace(
        JACOBIAN,
        learned=replace(JACOBIAN, solver=Relaxation(optimizer="adam"), points=11, init="slerp"),
    ),
    "spacetime": replace(
        SPACETIME, learned=replace(SPACETIME, metric=partial(SpaceTimeMetric, probes=1))
    ),
    "georce": Preset(
        summary="Stein metric by GEORCE, arXiv 2505.05961",
        metric=partial(SteinMetric, lam=1000.0),
        solver=Georce(),
    ),
    "shooting": Preset(
        summary="Stein metric by shooting",
        metric=partial(SteinMetric, lam=1000.0),
        solver=Shooting(),
    ),
}
