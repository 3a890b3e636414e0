"""One family holds both papers' metrics:  G(x) = exp(−2 alpha f(x)) · (I + lam · s(x) s(x)^T),  f = log p, s = grad f.

alpha = 0: the Stein score metric (Azeglio & Di Bernardo 2025, arXiv 2505.11128).
lam = 0: the probability density metric with norm ‖v‖/p(x)^alpha (Yu et al., CVPR 2025, arXiv 2504.06675).
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
from .base import Metric, dot, scale


class ScoreMetric(Metric):
    """G = exp(−2 alpha f)(I + lam s s^T) from a score.

    lam: weight of a change of log-density, in units of length² (≥ 0). alpha: power of the density (≥ 0).
    For alpha > 0 the point-wise methods need f: from the score's closed form, or as `log_density=` (n,), known up to a
    constant. Along a path none is needed, since differences of f are line integrals of s.
    """

    def __init__(
        self, score: Score | Callable[[Tensor], Tensor], lam: float = 0.0, alpha: float = 0.0
    ) -> None:
        self.score = as_score(score)
        self.lam, self.alpha = (
            checks.positive("lam", lam, zero=True),
            checks.positive("alpha", alpha, zero=True),
        )

    @property
    def name(self) -> str:
        return f"{self.kind}(lam={self.lam:g}, alpha={self.alpha:g})"

    @property
    def kind(self) -> str:
        """stein, density, both or euclidean."""
        names = {
            (True, True): "both",
            (True, False): "stein",
            (False, True): "density",
            (False, False): "euclidean",
        }
        return names[self.lam > 0, self.alpha > 0]

    def weight(self, x: Tensor, log_density: Tensor | None = None) -> Tensor:
        """exp(−2 alpha f) at x, (n,)."""
        if self.alpha == 0:
            return torch.ones_like(x.flatten(1)[:, 0])
        if log_density is None and not self.score.has_log_density:
            raise ValueError(
                f"the density metric at single points needs f = log p, and {self.score.name} has no closed form: "
                "pass log_density=, for instance from lib.density.along_path"
            )
        f = self.score.log_density(x) if log_density is None else log_density
        return (-2 * self.alpha * f).exp()

    def apply(self, x: Tensor, v: Tensor, log_density: Tensor | None = None) -> Tensor:
        """G v = exp(−2 alpha f)(v + lam (s·v) s)."""
        s = self.score(x)
        return scale(self.weight(x, log_density), v + scale(self.lam * dot(s, v), s))

    def solve(self, x: Tensor, w: Tensor, log_density: Tensor | None = None) -> Tensor:
        """G^-1 w = exp(2 alpha f)(w − lam (s·w) s / (1 + lam ‖s‖²))  (Sherman–Morrison)."""
        s = self.score(x)
        return scale(
            1 / self.weight(x, log_density),
            w - scale(self.lam * dot(s, w) / (1 + self.lam * dot(s, s)), s),
        )

    def inner(self, x: Tensor, u: Tensor, v: Tensor, log_density: Tensor | None = None) -> Tensor:
        """u^T G v = exp(−2 alpha f)(u·v + lam (s·u)(s·v)); one score, or none if lam = 0."""
        rank_one = 0.0
        if self.lam > 0:
            s = self.score(x)
            rank_one = self.lam * dot(s, u) * dot(s, v)
        return self.weight(x, log_density) * (dot(u, v) + rank_one)

    def acceleration(self, x: Tensor, v: Tensor, score: Tensor | None = None) -> Tensor:
        """x'' = −lam (v^T H v) s/(1+lam‖s‖²) + 2 alpha (s·v) v − alpha (‖v‖² + lam (s·v)²)(I − lam s s^T/(1+lam‖s‖²)) s.

        One score (none if `score` (n, *event) at x is given) and, for lam > 0, one directional derivative H v.
        Since (I − lam s s^T/(1+lam‖s‖²)) s = s/(1+lam‖s‖²), everything but the tangential term points along s.
        """
        s = self.score(x) if score is None else score
        sv, shrink = dot(s, v), 1 / (1 + self.lam * dot(s, s))
        curvature = dot(v, self.score.derivative(x, v)) if self.lam > 0 else 0.0
        along_score = -self.lam * curvature - self.alpha * (dot(v, v) + self.lam * sv**2)
        return scale(along_score * shrink, s) + scale(2 * self.alpha * sv, v)

    def at(self, sigma: float | Tensor) -> ScoreMetric:
        """The metric at another noise level, with lam · sigma² held fixed (the score shrinks as 1/sigma²)."""
        other = copy.copy(self)
        other.score = self.score.at(sigma)
        if (
            self.lam > 0
            and not isinstance(sigma, Tensor)
            and not isinstance(self.score.sigma, Tensor)
        ):
            other.lam = self.lam * (self.score.sigma / sigma) ** 2 if self.score.sigma else self.lam
        return other

    def energy(self, points: Tensor) -> Tensor:
        """Paper A's discrete energy, T Σ w_i (‖u_i‖² + lam (s(mid_i)·u_i)²), with w_i = exp(−2 alpha f(mid_i)); differentiable.

        f is the sum of s(mid)·u, zero on average over the two ends. points (batch, N, *event) -> (batch,).
        """
        batch, n = points.shape[:2]
        step = (points[:, 1:] - points[:, :-1]).flatten(0, 1)
        middle = ((points[:, 1:] + points[:, :-1]) / 2).flatten(0, 1)
        d = dot(self.score.along(elements(n, 1).M @ elements(n).times)(middle), step).reshape(
            batch, n - 1
        )
        q = dot(step, step).reshape(batch, n - 1) + self.lam * d**2
        f = d.cumsum(1) - d / 2 - d.sum(1, keepdim=True) / 2
        return ((-2 * self.alpha * f).exp() * q).sum(1) * (n - 1)

    def speed_squared(
        self, points: Tensor, degree: int = 2, scores: Tensor | None = None
    ) -> Tensor:
        """‖γ'‖²_G at the quadrature points from the scores at the nodes alone (no score between nodes, no log-density)."""
        e, x = elements(points.shape[1], degree), points.flatten(2).double()
        s = self.scores_along(points) if scores is None else scores
        f = e.line_integral(x, s.flatten(2).double())
        f = f - (f[:, :1] + f[:, -1:]) / 2
        D, M = e.D.to(x), e.M.to(x)
        return (-2 * self.alpha * f @ M.T).exp() * (
            (D @ x).pow(2).sum(-1) + self.lam * (f @ D.T) ** 2
        )


class SteinMetric(ScoreMetric):
    """The Stein score metric I + lam s s^T: the graph of sqrt(lam) · log p (arXiv 2505.11128, lam = 1000 there)."""

    def __init__(self, score: Score | Callable[[Tensor], Tensor], lam: float = 1000.0) -> None:
        super().__init__(score, lam=checks.positive("lam", lam), alpha=0.0)


class DensityMetric(ScoreMetric):
    """The probability density metric ‖v‖/p(x)^alpha (arXiv 2504.06675; alpha = 1 in its theory, 0.002 in its code)."""

    def __init__(self, score: Score | Callable[[Tensor], Tensor], alpha: float = 1.0) -> None:
        super().__init__(score, lam=0.0, alpha=checks.positive("alpha", alpha))
