"""What a boundary value solver is: it improves a path between fixed ends under a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..metrics.base import Metric

Callback = Callable[
    [int, Tensor, Tensor], bool | None
]  # (iteration, points, energy (batch,)) -> True stops the solver


@dataclass
class Solution:
    """points (batch, N, *event); converged (batch,); reason, one a pair; scores at the points where the solver has them."""

    points: Tensor
    converged: Tensor
    reason: list[str]
    scores: Tensor | None = None
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Solver:
    """Subclasses have a `name` and `solve`; one with further settings is a frozen dataclass of its own.

    `tol` and `max_iter` mean what the subclass says. `level_tol` is the looser tolerance at the noise levels before the last,
    `degree` that of the elements by which the result is measured.
    """

    tol: float = 1e-6
    max_iter: int = 100
    name: ClassVar[str] = "solver"
    degree: ClassVar[int] = 2
    level_tol: ClassVar[float] = 1e-3

    def anneal(
        self,
        metric: Metric,
        path: Tensor,
        levels: Sequence[float],
        callback: Callback | None = None,
    ) -> Solution:
        """Solve at each noise level in turn, each from the last one's path, then under `metric` itself."""
        looser = replace(self, tol=max(self.tol, self.level_tol))
        for sigma in levels:
            if sigma != metric.sigma:
                path = looser.solve(metric.at(sigma), path, callback).points
        return self.solve(metric, path, callback)

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """Improve `path` (batch, N, *event), ends fixed, until `tol` is met or `max_iter` is spent."""
        raise NotImplementedError


def stopped(callback: Callback | None, iteration: int, points: Tensor, energy: Tensor) -> bool:
    """Call the callback, if there is one; True if it asks to stop."""
    return bool(callback is not None and callback(iteration, points, energy))


def unfinished(batch: int, reason: str) -> tuple[Tensor, list[str]]:
    """Flags and reasons of a batch of which nothing has converged yet."""
    return torch.zeros(batch, dtype=torch.bool), [reason] * batch
