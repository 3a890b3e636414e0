"""Solvers on one problem: what a path costs on its way, and how far it is from the best."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib import Geodesic, geodesic, paths
from lib.metrics import ScoreMetric

# Iterates of a run that are measured.
MEASURED = 24
# A path that ends farther from its end point has not arrived.
ARRIVED = 1e-5


@dataclass(frozen=True)
class Run:
    """A solver's way to its answer.

    Attributes:
        costs: Scores and derivatives of the score up to each iterate.
        paths: The iterates, (1, points, *event) each.
        geodesic: The answer.
    """

    costs: list[int]
    paths: list[Tensor]
    geodesic: Geodesic

    @property
    def chosen(self) -> list[int]:
        """At most `MEASURED` iterates, evenly spread in the logarithm of their number."""
        numbers = np.geomspace(1, len(self.costs), MEASURED).round().astype(int)
        return (np.unique(numbers) - 1).tolist()


def run(
    metric: ScoreMetric,
    start: Float[Tensor, "1 *event"],
    end: Float[Tensor, "1 *event"],
    **settings: Any,
) -> Run:
    """A geodesic, with every iterate on the way and what it has cost.

    Args:
        metric: New, or its counter is that of earlier runs, too.
        start: One point.
        end: One point.
        **settings: Of `geodesic`.
    """
    counter = metric.counter
    before = counter.evaluations + counter.derivatives
    costs: list[int] = []
    iterates: list[Tensor] = []

    def note(_iteration: int, points: Tensor, _energy: Tensor | None) -> None:
        costs.append(counter.evaluations + counter.derivatives - before)
        iterates.append(points.clone())

    found = geodesic(metric, start, end, callback=note, **settings)
    note(-1, found.points, None)
    return Run(costs, iterates, found)


def ruler(
    metric: ScoreMetric, path: Float[Tensor, "batch points *event"], fine: int = 1000
) -> Float[Tensor, "batch"]:
    """Squared length of the curve through the points of a path, the same for every solver.

    The better of the chain of segments and the chain of parabolas, on at least `fine` segments.
    """
    segments = path.shape[1] - 1
    times = torch.linspace(0, 1, -(-fine // segments) * segments + 1, dtype=torch.float64)
    with torch.no_grad():
        lengths = [
            paths.length(paths.evaluate(path, times, degree), metric, degree) for degree in (1, 2)
        ]
    return torch.stack(lengths).amin(0) ** 2


def excess(
    metric: ScoreMetric, run: Run, end: Float[Tensor, "1 *event"], best: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cost of each iterate, and how far the least energy so far is above the best.

    A path that misses its end has no energy.

    Returns:
        Two arrays, a value for each of `run.chosen`.
    """
    over = []
    for number in run.chosen:
        path = run.paths[number]
        arrived = bool((path[:, -1] - end).norm() < ARRIVED)
        over.append(ruler(metric, path).item() / best - 1 if arrived else np.nan)
    costs = np.array([run.costs[number] for number in run.chosen])
    return costs, np.fmin.accumulate(over)


def cost_to(costs: np.ndarray, over: np.ndarray, level: float) -> float:
    """Cost until the excess energy is at most a level; NaN if it never is."""
    reached = over <= level
    return float(costs[reached.argmax()]) if reached.any() else np.nan
