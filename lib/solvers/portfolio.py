"""Many starts, one winner: solve from a portfolio of paths, keep the path of least energy.

Gauss–Newton finds the nearest basin. The starts here come from the model itself: the middle of the straight line plus
noise, denoised by Tweedie's formula D(x) = x + sigma² s_sigma(x), is a blurred draw from the distribution, and a path
bent through it lies in some basin. All starts are refined under the same metric, so that their energies are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks, paths
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import Callback, Solution, Solver
from .gauss_newton import GaussNewton
from .geodesic import measure


def denoised_waypoints(
    metric: Metric, start: Tensor, end: Tensor, sigma: float, noise: Tensor
) -> Tensor:
    """Way-points D(½(start + end) + sigma·noise), D(x) = x + sigma² s_sigma(x): noise (k, *event) -> (batch, k, *event).

    Every pair gets the same noise, so that a batch of pairs gives what the pairs give one by one.
    """
    x = (start + end)[:, None] / 2 + sigma * noise.to(start)
    flat = x.flatten(0, 1)
    with torch.no_grad():
        score = metric.score.at(sigma).along(torch.full((len(noise),), 0.5))
        return (flat + sigma**2 * score(flat)).reshape(x.shape)


@dataclass(frozen=True)
class Portfolio(Solver):
    """The given path and `starts` paths bent through denoised way-points, solved in one batch; the least energy wins.

    noise: sigma of the way-points, in the units of x; the middle one of the noise levels if None. A bent path enters the
    annealing at this level, where its basin is already distinct. alpha, lam: anneal under this member of the metric family
    instead of the final one (None keeps it); the last solve is always under the final metric. seed: of the noise. inner: what
    solves each path, with the portfolio's own tol, max_iter and level_tol.
    """

    name: ClassVar[str] = "portfolio"
    starts: int = 8
    noise: float | None = None
    lam: float | None = None
    alpha: float | None = None
    seed: int = 0
    inner: GaussNewton = field(default_factory=GaussNewton)
    tol: float = 1e-6
    max_iter: int = 100
    level_tol: float = 1e-2

    @property
    def degree(self) -> int:
        return self.inner.degree

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """Without noise levels there is nothing to bend with: raises ValueError."""
        raise ValueError(
            "solver='portfolio' needs noise_levels=: its starts are denoised way-points"
        )

    def anneal(
        self,
        metric: Metric,
        path: Tensor,
        levels: Sequence[float],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.anneal`; raises TypeError for a metric outside the score metric family."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(f"portfolio solves the score metric family, not {metric.name}")
        if not levels:
            return self.solve(metric, path)
        inner = replace(self.inner, tol=self.tol, max_iter=self.max_iter, level_tol=self.level_tol)
        guide = ScoreMetric(
            metric.score,
            lam=metric.lam if self.lam is None else self.lam,
            alpha=metric.alpha if self.alpha is None else self.alpha,
        )
        first = inner.anneal(guide, path, levels, callback).points
        candidates = [first[:, None]]
        if self.starts:
            candidates.append(self._bent(guide, path, levels, inner, callback))
        every = torch.cat(candidates, 1)
        batch, k = every.shape[:2]
        metric = metric.pick(torch.arange(batch).repeat_interleave(k))
        solution = inner.solve(metric, every.flatten(0, 1), callback)
        measured = measure(metric, solution, degree=self.degree)
        # a path that the quadrature does not resolve may look short: it wins only where none has converged
        energy, sound = (
            measured.energy.nan_to_num(nan=torch.inf).cpu().reshape(batch, k),
            solution.converged.reshape(batch, k),
        )
        best = energy.where(sound | ~sound.any(1, keepdim=True), torch.inf).argmin(1)
        rows = torch.arange(batch) * k + best
        return Solution(
            solution.points[rows],
            solution.converged[rows],
            [solution.reason[i] for i in rows.tolist()],
            None if solution.scores is None else solution.scores[rows],
            solution.history
            + [{"energies": measured.energy.reshape(batch, k).tolist(), "winner": best.tolist()}],
        )

    def _bent(
        self,
        guide: ScoreMetric,
        path: Tensor,
        levels: Sequence[float],
        inner: GaussNewton,
        callback: Callback | None,
    ) -> Tensor:
        """Annealed paths through the way-points: (batch, starts, points, *event)."""
        sigma = (
            levels[len(levels) // 2] if self.noise is None else checks.positive("noise", self.noise)
        )
        checks.count("starts", self.starts)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.starts, *path.shape[2:], generator=generator, dtype=torch.float64)
        middle = denoised_waypoints(guide, path[:, 0], path[:, -1], sigma, noise).flatten(0, 1)
        start, end = (path[:, i].repeat_interleave(self.starts, 0) for i in (0, -1))
        half = path.shape[1] // 2
        bent = torch.cat(
            [
                paths.lerp(start, middle, half + 1),
                paths.lerp(middle, end, path.shape[1] - half)[:, 1:],
            ],
            1,
        )
        guide = guide.pick(torch.arange(len(path)).repeat_interleave(self.starts))
        solved = inner.anneal(guide, bent, [s for s in levels if s <= sigma], callback).points
        return solved.reshape(len(path), self.starts, *path.shape[1:])
