"""A score in the variance-preserving coordinates of its model, where the papers' solvers work."""

import copy
import math

from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Score, WrappedScore


class VariancePreservingScore(WrappedScore):
    """The score of z = √ᾱ y, y = scale·x + shift for points x in the user's units.

        z = √ᾱ y_0 + √(1−ᾱ) noise,   ᾱ = 1/(1 + (scale·sigma_x)²),   s_z(z) = s_x(x)/(√ᾱ scale)

    (Song et al. 2021). (s·v) is the same number in both coordinates and ‖dz‖ = √ᾱ scale ‖dx‖, so
    that lam in z does what lam/(ᾱ scale²) does in x. The coordinates stay when `at(sigma)` changes
    the noise level.

    Args:
        score: at a single noise level > 0; calls go on its counter.
        scale: the score's own by default.
        shift: the score's own by default.

    Attributes:
        alpha_bar: ᾱ.
        unit: √ᾱ scale, the length in z of a unit of x.
        sigma: of the noise in z, √(1−ᾱ) at first.

    Raises:
        ValueError: a score without a noise level, or with one level a point.
    """

    sigma: float | Tensor | None = None

    def __init__(
        self, score: Score, scale: float | None = None, shift: float | None = None
    ) -> None:
        if score.sigma is None or isinstance(score.sigma, Tensor):
            raise ValueError(
                "variance-preserving coordinates belong to one noise level: give "
                f"{score.name}.at(a number)"
            )
        super().__init__(score)
        self.name = f"{score.name}, variance preserving"
        scale = checks.positive("scale", score.scale if scale is None else scale)
        shift = score.shift if shift is None else shift
        self.alpha_bar = 1 / (1 + (scale * checks.positive("sigma", score.sigma)) ** 2)
        self.unit = math.sqrt(self.alpha_bar) * scale
        self.offset = math.sqrt(self.alpha_bar) * shift
        self.sigma = self.unit * score.sigma
        # Points z are taken as they are: nothing is left of the model's units.
        self.scale = 1.0
        self.shift = 0.0
        self.noise_range = None
        self.schedule = None

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """z = √ᾱ (scale·x + shift)."""
        return self.unit * x + self.offset

    def decode(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """x, the inverse of `encode`."""
        return (z - self.offset) / self.unit

    def at(self, sigma: float | Tensor) -> "VariancePreservingScore":
        """The score at another noise level of z, in the same coordinates."""
        other = copy.copy(self)
        other.sigma = checks.noise_level(sigma)
        other.score = self.score.at(sigma / self.unit)
        return other

    @property
    def has_log_density(self) -> bool:
        return self.score.has_log_density

    def evaluate(self, z: Tensor) -> Tensor:
        return self.score.evaluate(self.decode(z)) / self.unit

    def evaluate_log_density(self, z: Tensor) -> Tensor:
        dimension = z[0].numel()
        return self.score.evaluate_log_density(self.decode(z)) - dimension * math.log(self.unit)

    def derivative(
        self, z: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """J_z v = J_x (v/(√ᾱ scale))/(√ᾱ scale), as the wrapped score takes it."""
        return self.score.derivative(self.decode(z), v / self.unit) / self.unit
