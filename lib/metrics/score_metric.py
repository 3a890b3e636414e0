"""One family holds both papers' metrics, with f = log p and s = grad f:

    G(x) = exp(−2 alpha f(x)) · (I + lam · s(x) s(x)^T).

alpha = 0: the Stein score metric (Azeglio & Di Bernardo 2025, arXiv 2505.11128).
lam = 0: the probability density metric ‖v‖/p(x)^alpha (Yu et al., CVPR 2025, arXiv 2504.06675).
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
from .base import Metric, dot, level_ratio, scale, segments


class ScoreMetric(Metric):
    """G = exp(−2 alpha f)(I + lam s s^T) from a score.

    For alpha > 0 the methods at single points need the score's closed form of f. Along a path none
    is needed, since differences of f are line integrals of s.

    Args:
        score: A score, or a function x -> grad log p(x).
        lam: Weight ≥ 0 of a change of log-density, in units of length².
        alpha: Power ≥ 0 of the density.

    Example:
        >>> import torch
        >>> from lib import GaussianScore, ScoreMetric
        >>> metric = ScoreMetric(GaussianScore(torch.zeros(2)), lam=3.0, alpha=0.0)
        >>> x = torch.tensor([[1.0, 0.0]])  # the score is −x
        >>> metric.norm_squared(x, torch.tensor([[1.0, 0.0]]))  # along the score: 1 + lam
        tensor([4.])
        >>> metric.norm_squared(x, torch.tensor([[0.0, 1.0]]))  # across it
        tensor([1.])
    """

    def __init__(
        self, score: Score | Callable[[Tensor], Tensor], lam: float = 0.0, alpha: float = 0.0
    ) -> None:
        self.score = as_score(score)
        self.lam = checks.positive("lam", lam, zero=True)
        self.alpha = checks.positive("alpha", alpha, zero=True)

    @property
    def name(self) -> str:
        """With its weights."""
        return f"{self.kind}(lam={self.lam:g}, alpha={self.alpha:g})"

    @property
    def kind(self) -> str:
        """stein, density, both or euclidean."""
        if self.lam > 0:
            return "both" if self.alpha > 0 else "stein"
        return "density" if self.alpha > 0 else "euclidean"

    def weight(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n"]:
        """exp(−2 alpha f) at x."""
        if self.alpha == 0:
            return torch.ones_like(x.flatten(1)[:, 0])
        if not self.score.has_log_density:
            raise ValueError(
                "the density metric at single points needs f = log p, and "
                f"{self.score.name} has no closed form: FunctionScore(..., log_density=...) has one"
            )
        return (-2 * self.alpha * self.score.log_density(x)).exp()

    def apply(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G v = exp(−2 alpha f)(v + lam (s·v) s)."""
        s = self.score(x)
        return scale(self.weight(x), v + scale(self.lam * dot(s, v), s))

    def solve(
        self, x: Float[Tensor, "n *event"], w: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G^-1 w = exp(2 alpha f)(w − lam (s·w) s / (1 + lam ‖s‖²))  (Sherman–Morrison)."""
        s = self.score(x)
        along_score = self.lam * dot(s, w) / (1 + self.lam * dot(s, s))
        return scale(1 / self.weight(x), w - scale(along_score, s))

    def inner(
        self,
        x: Float[Tensor, "n *event"],
        u: Float[Tensor, "n *event"],
        v: Float[Tensor, "n *event"],
    ) -> Float[Tensor, "n"]:
        """u^T G v = exp(−2 alpha f)(u·v + lam (s·u)(s·v)); one score, or none if lam = 0."""
        product = dot(u, v)
        if self.lam > 0:
            s = self.score(x)
            product = product + self.lam * dot(s, u) * dot(s, v)
        return self.weight(x) * product

    def acceleration(
        self,
        x: Float[Tensor, "n *event"],
        v: Float[Tensor, "n *event"],
        score: Float[Tensor, "n *event"] | None = None,
    ) -> Float[Tensor, "n *event"]:
        """Right side of the geodesic equation, with H = ds/dx and S = 1 + lam ‖s‖²:

            x'' = 2 alpha (s·v) v − (lam v^T H v + alpha (‖v‖² + lam (s·v)²)) s/S.

        The gradient of the density enters as (I − lam s s^T/S) s = s/S, so everything but the
        tangential term points along s. One score, and for lam > 0 one directional derivative H v.

        Args:
            x: Points.
            v: Velocities there.
            score: s at x where it is known, which saves its evaluation.
        """
        s = self.score(x) if score is None else score
        sv = dot(s, v)
        along_score = -self.alpha * (dot(v, v) + self.lam * sv**2)
        if self.lam > 0:
            along_score = along_score - self.lam * dot(v, self.score.derivative(x, v))
        shrink = 1 / (1 + self.lam * dot(s, s))
        return scale(along_score * shrink, s) + scale(2 * self.alpha * sv, v)

    def at(self, sigma: float | Tensor) -> ScoreMetric:
        """The metric at another noise level, lam · sigma² held fixed (s shrinks as 1/sigma²)."""
        other = self.with_score(self.score.at(sigma))
        other.lam = self.lam * level_ratio(self.score, sigma) ** 2
        return other

    def energy(self, points: Float[Tensor, "batch points *event"]) -> Float[Tensor, "batch"]:
        """Paper A's discrete energy, of steps u_i with midpoints m_i; differentiable:

            T Σ_i exp(−2 alpha f(m_i)) (‖u_i‖² + lam (s(m_i)·u_i)²).

        f is the sum of s(m)·u, zero on average over the two ends.
        """
        batch = len(points)
        step, middle, times = segments(points)
        rise = dot(self.score.along(times)(middle), step).reshape(batch, -1)
        squared = dot(step, step).reshape(batch, -1) + self.lam * rise**2
        f = rise.cumsum(1) - rise / 2 - rise.sum(1, keepdim=True) / 2
        return ((-2 * self.alpha * f).exp() * squared).sum(1) * (points.shape[1] - 1)

    def speed_squared(
        self,
        points: Float[Tensor, "batch points *event"],
        degree: int = 2,
        scores: Float[Tensor, "batch points *event"] | None = None,
    ) -> Float[Tensor, "batch segments"]:
        """‖γ'‖²_G at the quadrature points, from the scores at the nodes alone.

        f is the line integral of the score, zero on average over the two ends; (s·γ')² is (df/dt)².

        Args:
            points: The paths.
            degree: Degree of the elements between the points, 1 to 4.
            scores: Scores at the points where they are known, which saves their evaluation.
        """
        path = elements(points.shape[1], degree)
        x = points.flatten(2).to(working_dtype(points))
        s = self.scores_along(points) if scores is None else scores
        f = path.line_integral(x, s.flatten(2).to(x))
        f = f - (f[:, :1] + f[:, -1:]) / 2
        D = path.D.to(x)
        M = path.M.to(x)
        weight = (-2 * self.alpha * f @ M.T).exp()
        return weight * ((D @ x).pow(2).sum(-1) + self.lam * (f @ D.T) ** 2)


class SteinMetric(ScoreMetric):
    """The Stein score metric I + lam s s^T: the graph of sqrt(lam) · log p (arXiv 2505.11128).

    Args:
        score: A score, or a function x -> grad log p(x).
        lam: Weight > 0 of a change of log-density, in units of length²; 1000 in the paper.

    Example:
        >>> import torch
        >>> from lib import SphereScore, SteinMetric, distance
        >>> metric = SteinMetric(SphereScore(), lam=1000.0)  # data near the unit sphere
        >>> a, b = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> round(distance(metric, a, b).item(), 2)  # a quarter turn on the sphere, π/2
        1.57
    """

    def __init__(self, score: Score | Callable[[Tensor], Tensor], lam: float = 1000.0) -> None:
        super().__init__(score, lam=checks.positive("lam", lam), alpha=0.0)


class DensityMetric(ScoreMetric):
    """The probability density metric, norm ‖v‖/p(x)^alpha (arXiv 2504.06675).

    Args:
        score: A score, or a function x -> grad log p(x).
        alpha: Power > 0 of the density; 1 in the paper's theory, 0.002 in its code.

    Example:
        >>> import torch
        >>> from lib import DensityMetric, GaussianScore, geodesic
        >>> metric = DensityMetric(GaussianScore(torch.zeros(2)), alpha=0.5)
        >>> a, b = torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0])
        >>> middle = geodesic(metric, a, b).points[0, 16]  # bent towards the mode at 0
        >>> bool(middle[1] < 0.9)
        True
    """

    def __init__(self, score: Score | Callable[[Tensor], Tensor], alpha: float = 1.0) -> None:
        super().__init__(score, lam=0.0, alpha=checks.positive("alpha", alpha))
