"""The methods by name: a metric, a solver, and the settings of the paper that each comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..metrics import (
    DensityMetric,
    JacobianMetric,
    Metric,
    ScoreMetric,
    SpaceTimeMetric,
    SteinMetric,
)
from ..solvers import FunctionalGradient, Georce, Relaxation, Shooting
from ..solvers.base import Solver


@dataclass(frozen=True)
class Preset:
    """A method: its metric with default settings, and defaults of `geodesic`. summary: what it is, with its source.

    On a learned score (one with a `noise_range`) the paper's pipeline is the default: space, at the noise level of `time`, a
    fraction of the model's time steps, with the settings `learned`. A score in closed form is met where it stands.
    distilled: a text-to-image model lends its distillation direction (`DistillationScore`) in place of its score.
    """

    metric: type[Metric]
    summary: str
    metric_settings: dict = field(default_factory=dict)
    solver: str | Solver = "gauss_newton"
    settings: dict = field(default_factory=dict)
    space: str = "clean"
    time: float | None = None
    learned: dict = field(default_factory=dict)
    distilled: bool = False


METHODS: dict[str, Preset] = {
    "stein": Preset(SteinMetric, "Stein score metric, Gauss–Newton", {"lam": 1000.0}),
    "density": Preset(DensityMetric, "probability density metric, Gauss–Newton", {"alpha": 1.0}),
    "both": Preset(
        ScoreMetric, "both metrics multiplied, Gauss–Newton", {"lam": 10.0, "alpha": 0.2}
    ),
    "azeglio2025": Preset(
        SteinMetric,
        "arXiv 2505.11128: SLERP start, 10 points, Adam, score derivative frozen at −I/sigma²; on a learned score "
        "between ends noised with the same noise to t = 400 of 1000, denoised deterministically",
        {"lam": 1000.0},
        Relaxation(optimizer="adam", derivative="frozen"),
        {"points": 10, "init": "slerp"},
        space="shared_noise",
        time=0.4,
    ),
    "yu2025": Preset(
        DensityMetric,
        "arXiv 2504.06675: density metric, functional gradient on spherical control points; on a learned score "
        "after DDIM inversion to t = 581 of 1000 (30 of 50 steps), on a text-to-image model by the distillation direction",
        {"alpha": 0.002},
        FunctionalGradient(),
        {"points": 17, "init": "slerp"},
        space="ddim",
        time=0.581,
        distilled=True,
    ),
    "jacobian": Preset(
        JacobianMetric,
        "arXiv 2510.05509: pullback by the score; L-BFGS, on a learned score Adam from SLERP after DDIM "
        "inversion to t = 600 of 1000",
        {},
        Relaxation(optimizer="lbfgs"),
        {"points": 17},
        space="ddim",
        time=0.6,
        learned={"points": 11, "init": "slerp", "solver": Relaxation(optimizer="adam")},
    ),
    "spacetime": Preset(
        SpaceTimeMetric,
        "arXiv 2505.17517: Fisher–Rao metric on (x, sigma); L-BFGS, on a learned score with one "
        "Hutchinson probe",
        {},
        Relaxation(optimizer="lbfgs"),
        {"points": 17},
        learned={"probes": 1},
    ),
    "georce": Preset(
        SteinMetric, "Stein metric by GEORCE, arXiv 2505.05961", {"lam": 1000.0}, Georce()
    ),
    "shooting": Preset(SteinMetric, "Stein metric by shooting", {"lam": 1000.0}, Shooting()),
}
