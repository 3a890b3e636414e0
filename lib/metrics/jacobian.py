"""The Jacobian metric G = J^T J + reg I with J = ds/dx: a path is long where the score changes.

Saito & Matsubara 2025 (arXiv 2510.05509); arXiv 2504.20288 adds the multiple of the identity. It
is the metric that the map x ↦ (s(x), sqrt(reg) x) pulls back from flat space, so its energy needs
scores only, and its geodesic equation is

    G x'' = −J^T D²s[x', x'].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..elements import elements, working_dtype
from ..scores.base import Score
from ..scores.function import as_score
from .base import Metric, dot, level_ratio


class JacobianMetric(Metric):
    """G = J^T J + reg I from a score, with J^T = J, as for the gradient of a log-density.

    Args:
        score: A score, or a function x -> grad log p(x).
        regularisation: reg ≥ 0 in units of J², 1/length⁴. Without it G is singular wherever the
            score does not change.

    Example:
        >>> import torch
        >>> from lib import GaussianScore, JacobianMetric
        >>> metric = JacobianMetric(GaussianScore(torch.zeros(2), 0.5))  # J = −I/0.5² = −4 I
        >>> x, v = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> metric.norm_squared(x, v)
        tensor([16.])
    """

    def __init__(
        self, score: Score | Callable[[Tensor], Tensor], regularisation: float = 0.0
    ) -> None:
        self.score = as_score(score)
        self.regularisation = checks.positive("regularisation", regularisation, zero=True)

    @property
    def name(self) -> str:
        """With its regularisation."""
        return f"jacobian(regularisation={self.regularisation:g})"

    def apply(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G v = J (J v) + reg v: two directional derivatives."""
        return self.score.derivative(x, self.score.derivative(x, v)) + self.regularisation * v

    def inner(
        self,
        x: Float[Tensor, "n *event"],
        u: Float[Tensor, "n *event"],
        v: Float[Tensor, "n *event"],
    ) -> Float[Tensor, "n"]:
        """u^T G v = (J u)·(J v) + reg u·v: two directional derivatives."""
        changes = dot(self.score.derivative(x, u), self.score.derivative(x, v))
        return changes + self.regularisation * dot(u, v)

    def norm_squared(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n"]:
        """‖v‖²_G = ‖J v‖² + reg ‖v‖²: one directional derivative."""
        change = self.score.derivative(x, v)
        return dot(change, change) + self.regularisation * dot(v, v)

    def acceleration(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """x'' = −G^-1 J^T D²s[v, v]; raises ArithmeticError where G is singular."""
        second = torch.func.jvp(lambda y: self.score.derivative(y, v), (x,), (v,))[1]
        return -self.solve(x, self.score.derivative(x, second))

    def at(self, sigma: float | Tensor) -> JacobianMetric:
        """The metric at another noise level, reg · sigma⁴ held fixed (J shrinks as 1/sigma²)."""
        other = self.with_score(self.score.at(sigma))
        other.regularisation = self.regularisation * level_ratio(self.score, sigma) ** 4
        return other

    def energy(self, points: Float[Tensor, "batch points *event"]) -> Float[Tensor, "batch"]:
        """T Σ_i (‖s_{i+1} − s_i‖² + reg ‖x_{i+1} − x_i‖²), scores only; differentiable."""

        def squared_steps(nodes: Tensor) -> Tensor:
            return nodes.diff(dim=1).flatten(1).pow(2).sum(1)

        steps = points.shape[1] - 1
        scores = self.scores_along(points)
        return (squared_steps(scores) + self.regularisation * squared_steps(points)) * steps

    def speed_squared(
        self, points: Float[Tensor, "batch points *event"], degree: int = 2
    ) -> Float[Tensor, "batch segments"]:
        """‖ds/dt‖² + reg ‖dx/dt‖² at the quadrature points, from the scores at the nodes alone."""
        D = elements(points.shape[1], degree).D.to(points.device, working_dtype(points))

        def squared_rate(nodes: Tensor) -> Tensor:
            return (D @ nodes.flatten(2).to(D)).pow(2).sum(-1)

        scores = self.scores_along(points)
        return squared_rate(scores) + self.regularisation * squared_rate(points)
