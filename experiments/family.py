"""Geodesics of many Stein metrics at once: one weight lam a path, all in one batch."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lib import Geodesic, Score, SteinMetric, checks, geodesic
from lib.metrics.base import scale
from lib.scores import WrappedScore, as_score


def stein_family(
    score: Score,
    start: Float[Tensor, "*event"],
    end: Float[Tensor, "*event"],
    weights: Sequence[float] | Tensor,
    **settings: Any,
) -> Geodesic:
    """The Stein geodesics between one pair of points for every weight lam, as one batch of paths.

    lam s s^T is the rank-one term of weight 1 of the score sqrt(lam) s, so that a batch in which
    each path has its own score is enough: as many evaluations as one by one, in no more calls than
    the slowest path takes alone.

    Args:
        score: s = grad log p.
        start: a point.
        end: a point.
        weights: lam > 0, one a path.
        **settings: of `geodesic`. Its solver must know whose points it asks for: "gauss_newton" or
            "relaxation".

    Raises:
        ValueError: another solver, or a weight that is not positive.
    """
    solver = settings.get("solver", "gauss_newton")
    solver_name = solver if isinstance(solver, str) else solver.name
    checks.choice("solver of a family", solver_name, ("gauss_newton", "relaxation"))
    positive = [checks.positive("weights", weight) for weight in weights]
    lam = torch.tensor(positive, dtype=torch.float64)
    metric = SteinMetric(_RootWeighted(as_score(score), lam), lam=1.0)
    starts = start.expand(len(lam), *start.shape)
    ends = end.expand(len(lam), *end.shape)
    family = geodesic(metric, starts, ends, **settings)
    # That of s, whose multiple the solver saw
    family.log_density = family.log_density / lam.sqrt()[:, None]
    family.settings |= {"metric": "stein", "lam": lam.tolist()}
    return family


class _RootWeighted(WrappedScore):
    """sqrt(lam) s with one lam for each path of a batch; evaluations are those of s."""

    def __init__(self, score: Score, lam: Tensor) -> None:
        super().__init__(score)
        self.lam = lam

    def evaluate(self, x: Tensor) -> Tensor:
        return scale(self.roots(x), self.score.evaluate(x))

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        return scale(self.roots(x), self.score.derivative(x, v))

    def roots(self, x: Tensor) -> Tensor:
        """sqrt(lam) of each point, the points of a path one after the other."""
        return self.lam.to(x).sqrt().repeat_interleave(len(x) // len(self.lam))

    def pick(self, rows: Tensor) -> "_RootWeighted":
        return _RootWeighted(self.score.pick(rows), self.lam[rows.to(self.lam.device)])
