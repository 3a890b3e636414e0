"""Geodesics of many Stein metrics at once: one weight lam a path, all in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import checks
from lib.metrics import SteinMetric
from lib.metrics.base import scale
from lib.scores import Score, as_score
from lib.solvers import Geodesic, geodesic


def stein_family(
    score: Score, start: Tensor, end: Tensor, weights: Sequence[float] | Tensor, **settings
) -> Geodesic:
    """The Stein geodesics between one pair (*event) for every lam of `weights`, a batch of len(weights) paths.

    lam s s^T is the rank-one term of weight 1 of the score sqrt(lam) s, so that one batch with its own score a path is enough:
    as many evaluations as one by one, in no more calls than the slowest alone. settings go to `geodesic`; solver: gauss_newton
    or relaxation, which know whose points they ask for. ValueError: another solver, or a weight that is not positive.
    """
    solver = settings.get("solver", "gauss_newton")
    checks.choice(
        "solver of a family", getattr(solver, "name", solver), ("gauss_newton", "relaxation")
    )
    weights = torch.as_tensor(
        [checks.positive("weights", lam) for lam in weights], dtype=torch.float64
    )
    score = as_score(score)
    pairs = (x.expand(len(weights), *x.shape) for x in (start, end))
    found = geodesic(SteinMetric(_Weighted(score, weights), 1.0), *pairs, **settings)
    found.log_density = found.log_density / weights.sqrt()[:, None]
    found.settings |= {"metric": "stein", "lam": weights.tolist()}
    return found


class _Weighted(Score):
    """sqrt(lam) s, with one lam for each path of a batch; evaluations are those of s."""

    def __init__(self, score: Score, weights: Tensor) -> None:
        self.score, self.weights, self.counter = score, weights, score.counter
        self.event_shape, self.sigma, self.name, self.moves = (
            score.event_shape,
            score.sigma,
            score.name,
            score.moves,
        )

    def __call__(self, x: Tensor) -> Tensor:
        return scale(self._roots(x), self.score(x))

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        return scale(self._roots(x), self.score.derivative(x, v))

    def _roots(self, x: Tensor) -> Tensor:
        return self.weights.to(x).sqrt().repeat_interleave(len(x) // len(self.weights))

    def at(self, sigma: float | Tensor) -> Score:
        return _Weighted(self.score.at(sigma), self.weights)

    def pick(self, rows: Tensor) -> Score:
        return _Weighted(self.score.pick(rows), self.weights[rows.to(self.weights.device)])

    def along(self, times: Tensor) -> Score:
        return _Weighted(self.score.along(times), self.weights)
