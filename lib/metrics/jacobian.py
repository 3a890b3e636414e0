"""The Jacobian metric G = J^T J + reg I with J = ds/dx: a path is long where the score changes along it.

Saito & Matsubara 2025 (arXiv 2510.05509); arXiv 2504.20288 adds the multiple of the identity. It is the metric that the
map x ↦ (s(x), sqrt(reg) x) pulls back from flat space, so its energy needs scores only, and its geodesic equation is

    G x'' = −J^T D²s[x', x'].
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from .. import checks
from ..elements import elements
from ..scores.base import Score
from ..scores.function import as_score
from .base import Metric, dot


class JacobianMetric(Metric):
    """G = J^T J + reg I from a score.

    regularisation: reg ≥ 0 in units of J², 1/length⁴; without it G is singular wherever the score does not change.
    symmetric: J^T = J, true for the gradient of a log-density, forward mode only; False takes the transpose in reverse mode.
    """

    def __init__(
        self,
        score: Score | Callable[[Tensor], Tensor],
        regularisation: float = 0.0,
        *,
        symmetric: bool = True,
    ) -> None:
        self.score, self.symmetric = as_score(score), symmetric
        self.regularisation = checks.positive("regularisation", regularisation, zero=True)

    @property
    def name(self) -> str:
        return f"jacobian(regularisation={self.regularisation:g})"

    def apply(self, x: Tensor, v: Tensor) -> Tensor:
        """G v = J^T (J v) + reg v: two directional derivatives."""
        return self._transposed(x, self.score.derivative(x, v)) + self.regularisation * v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T G v = (J u)·(J v) + reg u·v."""
        Ju = self.score.derivative(x, u)
        return dot(Ju, Ju if v is u else self.score.derivative(x, v)) + self.regularisation * dot(
            u, v
        )

    def acceleration(self, x: Tensor, v: Tensor) -> Tensor:
        """x'' = −G^-1 J^T D²s[v, v]; raises ArithmeticError where G is singular."""
        second = torch.func.jvp(lambda y: self.score.derivative(y, v), (x,), (v,))[1]
        return -self.solve(x, self._transposed(x, second))

    def at(self, sigma: float | Tensor) -> JacobianMetric:
        """The metric at another noise level, with reg · sigma⁴ held fixed (J shrinks as 1/sigma²)."""
        other = copy.copy(self)
        other.score = self.score.at(sigma)
        if (
            self.score.sigma
            and not isinstance(sigma, Tensor)
            and not isinstance(self.score.sigma, Tensor)
        ):
            other.regularisation = self.regularisation * (self.score.sigma / sigma) ** 4
        return other

    def energy(self, points: Tensor) -> Tensor:
        """T Σ_i (‖s_{i+1} − s_i‖² + reg ‖x_{i+1} − x_i‖²), scores only; differentiable. (batch, N, *event) -> (batch,)."""
        steps = lambda nodes: nodes.diff(dim=1).flatten(1).pow(2).sum(1)
        return (steps(self.scores_along(points)) + self.regularisation * steps(points)) * (
            points.shape[1] - 1
        )

    def speed_squared(self, points: Tensor, degree: int = 2) -> Tensor:
        """‖ds/dt‖² + reg ‖dx/dt‖² at the quadrature points, from the scores at the nodes alone: (batch, N − 1)."""
        D, s = (
            elements(points.shape[1], degree).D.to(points.device),
            self.scores_along(points).flatten(2).double(),
        )
        rate = lambda nodes: (D @ nodes).pow(2).sum(-1)
        return rate(s) + self.regularisation * rate(points.flatten(2).double())

    def _transposed(self, x: Tensor, w: Tensor) -> Tensor:
        """J^T w."""
        if self.symmetric:
            return self.score.derivative(x, w)
        self.score.counter.derivatives += len(x)
        return torch.func.vjp(self.score.evaluate, x)[1](w)[0]
