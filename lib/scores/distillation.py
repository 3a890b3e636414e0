"""Paper B's distillation direction (Yu et al., CVPR 2025, arXiv 2504.06675), which its code takes for the score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks
from .base import Score, WrappedScore
from .schedule import double_levels
from .stable_diffusion import StableDiffusionScore, in_words
from .variance_preserving import VariancePreservingScore

NEGATIVE = (
    "A doubling image, unrealistic, artifacts, distortions, unnatural blending, ghosting effects, overlapping edges, "
    "harsh transitions, motion blur, poor resolution, low detail"
)  # paper B, released code, model/score.py


class DistillationScore(WrappedScore):
    """Paper B's direction in place of the score, half the difference of two noise predictions (arXiv 2504.06675):

        g = ½ (eps(y', t', negative) − eps(y', t', prompt)),   y' = y + (sigma' − sigma)·noise,

    y' is the point with its clean part, estimated with fresh noise, noised anew to a random time t' in [t − spread, t + spread),
    kept in the schedule. Not the score of a density. s is returned such that in the variance-preserving coordinates of its
    level, where the released code adds it to the latents, it is g: s = √ᾱ g.

    score: a `StableDiffusionScore` at one noise level. Defaults are those of the released code (model/score.py): negative prompt,
    grad_sample_range 100, equal weights; a score that has a negative prompt of its own keeps it. One time a call, noise for
    each place on a path, the same for all pairs; drawn from seed and, if `fresh`, from the number of calls so far, as in the
    paper; fresh=False makes it one fixed field. Two network inputs a point.
    """

    def __init__(
        self,
        score: StableDiffusionScore,
        *,
        negative: str | Tensor | None = None,
        spread: int = 100,
        seed: int = 0,
        fresh: bool = True,
    ) -> None:
        if score.schedule.edm or isinstance(score.sigma, Tensor):
            raise ValueError(
                "the distillation direction needs a scheduler with discrete times and one noise level"
            )
        super().__init__(score)
        self.name = "Stable Diffusion, distilled"
        own = score.said[2]
        self.against = (
            negative
            if negative is not None
            else NEGATIVE
            if isinstance(own, str) and not own
            else own
        )
        try:
            self.negative = score.embed(self.against)
        except ValueError as error:
            raise ValueError(
                f"the negative prompt does not fit this model ({error}); give one that does: negative="
            ) from error
        self.spread = checks.count("spread", spread)
        self.seed = seed
        self.fresh = fresh

    @property
    def settings(self) -> dict[str, Any]:
        """For result files."""
        own = {name: getattr(self, name) for name in ("spread", "seed", "fresh")}
        return {**self.score.settings, "distillation": {"negative": in_words(self.against), **own}}

    def at(self, sigma: float | Tensor) -> DistillationScore:
        return super().at(checks.positive("sigma", sigma))

    def denoise(self, x: Tensor) -> Tensor:
        """Of the model itself: the direction denoises nothing."""
        return self.score.denoise(x)

    def evaluate(self, x: Tensor) -> Tensor:
        sigma, places = (
            self.sigma,
            len(x) if self.score.times is None else self.score.times.shape[-1],
        )
        calls = self.counter.batches if self.fresh else 0
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + calls)
        near = float(self.score.schedule.timestep(double_levels(sigma).reshape(1))) + float(
            torch.randint(-self.spread, self.spread, (), generator=generator)
        )
        level = self.score.schedule.sigma(min(max(near, 0.0), float(self.score.schedule.last_step)))
        noise = torch.randn(places, *x.shape[1:], generator=generator, dtype=torch.float64).to(x)
        y = x + (level - sigma) * noise.repeat(len(x) // places, *[1] * (x.ndim - 1))
        clean = self.score.denoised(
            y, double_levels(level).expand(len(x)), [self.negative, self.score.text(len(x))]
        )
        return (clean[1] - clean[0]) / (2 * level) / (1 + sigma**2) ** 0.5  # eps = (y' − D)/sigma'

    def count(self, x: Tensor) -> None:
        # Two network inputs a point, whatever the guidance of the score itself.
        self.check_points(x)
        self.counter.evaluations += 2 * len(x)
        self.counter.batches += 1


def distilled(score: Score) -> Score:
    """Paper B's direction of a `StableDiffusionScore`, in its coordinates; any other score as it is."""
    if isinstance(score, VariancePreservingScore):
        return score.wrap(distilled(score.score))
    return DistillationScore(score) if isinstance(score, StableDiffusionScore) else score
