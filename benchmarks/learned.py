"""The bundled learned scores: what each part of the default saves, and the noise of the energy.

Ends are drawn from the model itself. Every variant solves the same pairs at the same last level.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor

from lib import flow, paths
from lib.elements import elements
from lib.methods.annealing import Annealing, annealing_schedule
from lib.metrics import DensityMetric, ScoreMetric, SteinMetric
from lib.scores import Score, load
from lib.solvers import GaussNewton, gauss_newton, geodesic

from . import Claim, Result, table

TOLERANCE = 1e-4
# of the last level, relative to the model's own
LEVELS = {"rotated-mnist": 1.0, "hands": 2.0}
# points of a path at the last level
POINTS = {"stein": 33, "density": 17}
FLOOR = 1e-5


def fixed_factor(mu: Tensor, ratio: Tensor) -> Tensor:
    """Damping that falls by one factor after every fall of the energy, whatever was promised."""
    return torch.where(mu > gauss_newton.LEAST_DAMPING, mu / 4, torch.zeros_like(mu))


def variants(schedule: Annealing) -> dict[str, Annealing]:
    """The default schedule, and the same without each of its parts."""
    last = schedule.noise_levels[-1:]
    return {
        "default": schedule,
        "no gain ratio": schedule,
        "no coarse grids": replace(schedule, coarse=()),
        "no noise levels": replace(schedule, noise_levels=last),
        "neither grids nor levels": replace(schedule, coarse=(), noise_levels=last),
    }


def metrics(score: Score) -> dict[str, ScoreMetric]:
    dimension = score.event_shape[0] * score.event_shape[1] * score.event_shape[2]
    return {
        "stein": SteinMetric(score, 100 * score.sigma**2),
        "density": DensityMetric(score, 10 / dimension),
    }


def drawn_pairs(score: Score, pairs: int, steps: int = 8) -> tuple[Tensor, Tensor]:
    """Ends of paths: draws from the model, the first half and the second."""
    ends = flow.sample(score, 2 * pairs, torch.Generator().manual_seed(5), steps=steps)
    return ends[:pairs], ends[pairs:]


def ablation(quick: bool = False) -> Result:
    """Evaluations a path of the default schedule, and without each of its parts."""
    pairs = 1 if quick else 4
    models = ["rotated-mnist"] if quick else list(LEVELS)
    rows = []
    for model in models:
        score = load(model)
        score = score.at(LEVELS[model] * score.sigma)
        start, end = drawn_pairs(score, pairs)
        for name, metric in metrics(score).items():
            points = 9 if quick else POINTS[name]
            schedule = annealing_schedule(score, points=points)
            for variant, how in variants(schedule).items():
                damping = nullcontext()
                if variant == "no gain ratio":
                    damping = mock.patch.object(gauss_newton, "relaxed_damping", fixed_factor)
                solver = GaussNewton(tol=TOLERANCE, coarse=how.coarse)
                with damping:
                    path = geodesic(
                        metric,
                        start,
                        end,
                        points=points,
                        noise_levels=how.noise_levels,
                        solver=solver,
                    )
                rows.append(
                    {
                        "model": model,
                        "metric": name,
                        "points": points,
                        "sigma": score.sigma,
                        "variant": variant,
                        "evaluations a path": path.score_evaluations / pairs,
                        "converged": path.converged.double().mean().item(),
                        "median energy": path.energy.median().item(),
                    }
                )
    frame = table(rows)
    default = frame[frame.variant == "default"]
    share = default.converged.mean()
    claim = Claim("95 % of the default's paths converge", f"{100 * share:.0f} %", share >= 0.95)
    title = f"Learned scores: {pairs} pairs of draws, tolerance {TOLERANCE:g}"
    return Result("ablation_learned", title, frame, [claim])


def noise_floor(quick: bool = False) -> Result:
    """Relative difference of a path's energy in float32 from that in float64."""
    rows = []
    for model in ["rotated-mnist"] if quick else list(LEVELS):
        score = load(model)
        start, end = drawn_pairs(score, 1 if quick else 3)
        line = paths.lerp(start, end, 9)
        double = copy.copy(score)
        double.model = copy.deepcopy(score.model).double()
        if model == "hands":
            double.guarded_network = type(score.guarded_network)(double.model)
        for name, metric in metrics(score).items():
            single_energy = energy(metric, line)
            double_energy = energy(metric.with_score(double), line.double())
            error = (single_energy / double_energy - 1).abs().max().item()
            rows.append({"model": model, "metric": name, "relative noise": error})
    frame = table(rows)
    worst = frame["relative noise"].max()
    claim = Claim(
        f"the noise of float32 stays below {FLOOR:g}, the least sensible tolerance",
        f"{worst:.1e}",
        worst < FLOOR,
    )
    title = "Noise of the energy of a straight line through a float32 network"
    return Result("noise_floor", title, frame, [claim])


def energy(metric: ScoreMetric, points: Tensor) -> Tensor:
    with torch.no_grad():
        return metric.speed_squared(points) @ elements(points.shape[1]).w
