"""Many starts, one winner: solve from a portfolio of paths, keep the path of least energy.

Gauss–Newton finds the nearest basin. The starts here come from the model itself: the middle of the
straight line plus noise, denoised by Tweedie's formula D(x) = x + sigma² s_sigma(x), is a blurred
draw from the distribution, and a path bent through it lies in some basin. All starts are refined
under the same metric, so that their energies are comparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks, paths
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import Callback, Solution, Solver
from .gauss_newton import GaussNewton
from .geodesic import measure


@dataclass(frozen=True)
class Portfolio(Solver):
    """The given path, and others bent through denoised way-points, in one batch; the best wins.

    A bent path enters the annealing at the noise level of its way-point, where its basin is already
    distinct. The last solve is always under the metric itself.

    Attributes:
        starts: Bent paths a pair; the noise of their way-points is the middle one of the levels.
        seed: Of the noise.
        tol: See `GaussNewton`.
        max_iter: See `GaussNewton`.
        level_tol: See `GaussNewton`.
    """

    name: ClassVar[str] = "portfolio"
    starts: int = 8
    seed: int = 0
    level_tol: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("starts", self.starts, least=0)

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """Without noise levels there is nothing to bend with.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "solver='portfolio' needs noise_levels=: its starts are denoised way-points"
        )

    def anneal(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        levels: Sequence[float],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.anneal`.

        Raises:
            TypeError: The metric is not of the family exp(−2 alpha f)(I + lam s s^T).
            ValueError: There are no noise levels.
        """
        self.check_family(metric)
        if not levels:
            return self.solve(metric, path)
        inner = GaussNewton(tol=self.tol, max_iter=self.max_iter, level_tol=self.level_tol)
        straight = inner.anneal(metric, path, levels, callback).points
        candidates = straight[:, None]
        if self.starts > 0:
            bent = self._bent_paths(metric, path, levels, inner, callback)
            candidates = torch.cat([candidates, bent], 1)

        batch, count = candidates.shape[:2]
        pair_of_candidate = torch.arange(batch).repeat_interleave(count)
        final = metric.pick(pair_of_candidate)
        solution = inner.solve(final, candidates.flatten(0, 1), callback)
        energy = measure(final, solution).energy.reshape(batch, count)
        winner = _least(energy.cpu(), solution.converged.reshape(batch, count))
        rows = torch.arange(batch) * count + winner
        entry = {"energies": energy.tolist(), "winner": winner.tolist()}
        return Solution(
            points=solution.points[rows],
            converged=solution.converged[rows],
            reason=[solution.reason[row] for row in rows.tolist()],
            scores=solution.scores[rows],
            history=[*solution.history, entry],
        )

    def _bent_paths(
        self,
        metric: ScoreMetric,
        path: Tensor,
        levels: Sequence[float],
        inner: GaussNewton,
        callback: Callback | None,
    ) -> Tensor:
        """Annealed paths through the way-points: (batch, starts, points, *event)."""
        sigma = levels[len(levels) // 2]
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.starts, *path.shape[2:], generator=generator, dtype=torch.float64)
        # every pair gets the same noise, so that a batch of pairs gives what they give one by one
        noisy = (path[:, :1] + path[:, -1:]) / 2 + sigma * noise.to(path)
        middle = noisy.flatten(0, 1)
        with torch.no_grad():
            score = metric.score.at(sigma).along(torch.full((self.starts,), 0.5))
            middle = middle + sigma**2 * score(middle)
        start = path[:, 0].repeat_interleave(self.starts, 0)
        end = path[:, -1].repeat_interleave(self.starts, 0)
        half = path.shape[1] // 2
        to_middle = paths.lerp(start, middle, half + 1)
        from_middle = paths.lerp(middle, end, path.shape[1] - half)
        bent = torch.cat([to_middle, from_middle[:, 1:]], 1)
        metric = metric.pick(torch.arange(len(path)).repeat_interleave(self.starts))
        lower_levels = [level for level in levels if level <= sigma]
        solved = inner.anneal(metric, bent, lower_levels, callback).points
        return solved.reshape(len(path), self.starts, *path.shape[1:])


def _least(energy: Tensor, converged: Tensor) -> Tensor:
    """Of each row the column of least energy among the converged, or of all if none has.

    A path that the quadrature does not resolve may look short, so it may not win against others.
    """
    energy = energy.nan_to_num(nan=torch.inf)
    eligible = converged | ~converged.any(1, keepdim=True)
    return energy.where(eligible, torch.inf).argmin(1)
