"""The distillation direction that Yu et al. (CVPR 2025, arXiv 2504.06675) take for the score."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Score, WrappedScore
from .pipeline import PipelineScore, Prompt, in_words
from .schedule import double_levels
from .variance_preserving import VariancePreservingScore

# The negative prompt of the paper's released code, model/score.py.
NEGATIVE = (
    "A doubling image, unrealistic, artifacts, distortions, unnatural blending, ghosting effects, "
    "overlapping edges, harsh transitions, motion blur, poor resolution, low detail"
)


class DistillationScore(WrappedScore):
    """Half the difference of two noise predictions, in the place of a score (arXiv 2504.06675):

        g = ½ (eps(y', t', negative) − eps(y', t', prompt)),   y' = y + (sigma' − sigma)·noise,

    where y' is the point noised anew, its clean part estimated with fresh noise, at a random time
    t' in [t − spread, t + spread), kept in the schedule. It is not the score of a density. It is
    scaled, s = √ᾱ g, such that it is g in the variance-preserving coordinates of its level, where
    the released code adds it to the latents.

    A call draws one time, and a noise for each place on a path, the same for all pairs. It counts
    two network inputs a point. Defaults are those of the released code.

    Args:
        score: of a text-to-image model at one noise level.
        negative: by default the score's own negative prompt, or the paper's where that is empty.
        spread: half the range of times, in the time steps of `NoiseSchedule.in_steps`.
        seed: of times and noises.
        fresh: draw anew at each call, as in the paper; False makes one fixed field of it.

    Raises:
        ValueError: one noise level a point, or a negative prompt that does not fit the model.
    """

    def __init__(
        self,
        score: PipelineScore,
        *,
        negative: Prompt | None = None,
        spread: int = 100,
        seed: int = 0,
        fresh: bool = True,
    ) -> None:
        if isinstance(score.sigma, Tensor):
            raise ValueError("the distillation direction needs one noise level")
        super().__init__(score)
        self.name = f"{score.name}, distilled"
        if negative is None:
            own = score.negative
            is_empty = isinstance(own, str) and own == "" and score.family.has_words
            negative = NEGATIVE if is_empty else own
        self.negative = negative
        try:
            self.negative_text = score.read(negative, negative=True)
        except ValueError as error:
            raise ValueError(
                f"the negative prompt does not fit this model ({error}); give one that does: "
                "negative="
            ) from error
        self.spread = checks.count("spread", spread)
        self.seed = seed
        self.fresh = fresh

    @property
    def settings(self) -> dict[str, Any]:
        own = {
            "negative": in_words(self.negative),
            "spread": self.spread,
            "seed": self.seed,
            "fresh": self.fresh,
        }
        return {**self.score.settings, "distillation": own}

    def at(self, sigma: float) -> "DistillationScore":
        return super().at(checks.positive("sigma", sigma))

    def denoise(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Posterior mean of the model itself: the direction denoises nothing."""
        return self.score.denoise(x)

    def evaluate(self, x: Tensor) -> Tensor:
        sigma = self.sigma
        schedule = self.score.schedule.in_steps()
        calls = self.counter.batches if self.fresh else 0
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + calls)

        time = float(schedule.timestep(double_levels(sigma).reshape(1)))
        time += int(torch.randint(-self.spread, self.spread, (), generator=generator))
        level = schedule.sigma(min(max(time, 0.0), float(schedule.last_step)))
        lowest, highest = self.noise_range
        level = min(max(level, lowest), highest)

        places = len(x) if self.score.times is None else self.score.times.shape[-1]
        size = (places, *x.shape[1:])
        noise = torch.randn(size, generator=generator, dtype=torch.float64).to(x)
        noise = noise.repeat(len(x) // places, *[1] * (x.ndim - 1))
        y = x + (level - sigma) * noise

        texts = [self.negative_text, self.score.texts(len(x))]
        levels = double_levels(level).expand(len(x))
        negative, positive = self.score.posterior_means(y, levels, texts)
        # eps = (y' − D)/sigma', and √ᾱ = 1/√(1 + sigma²).
        return (positive - negative) / (2 * level) / (1 + sigma**2) ** 0.5

    def count(self, x: Tensor) -> None:
        # Two network inputs a point, whatever the guidance of the score itself.
        self.check_points(x)
        self.counter.evaluations += 2 * len(x)
        self.counter.batches += 1


def distilled(score: Score) -> Score:
    """The distillation direction of the score of a pipeline; other scores as they are."""
    if isinstance(score, VariancePreservingScore):
        return score.wrap(distilled(score.score))
    if isinstance(score, PipelineScore):
        return DistillationScore(score)
    return score
