"""Paper B's distillation direction (Yu et al., CVPR 2025, arXiv 2504.06675), which its code takes for the score."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .base import Score
from .denoiser import _double
from .stable_diffusion import StableDiffusionScore, in_words
from .variance_preserving import VariancePreservingScore

NEGATIVE = (
    "A doubling image, unrealistic, artifacts, distortions, unnatural blending, ghosting effects, overlapping edges, "
    "harsh transitions, motion blur, poor resolution, low detail"
)  # paper B, released code, model/score.py


class DistillationScore(Score):
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

    name = "Stable Diffusion, distilled"

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
        self.score, self.counter, self.event_shape, self.origin = (
            score,
            score.counter,
            score.event_shape,
            score.origin,
        )
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
        self.seed, self.fresh, self.noise_range = seed, fresh, score.noise_range

    sigma = property(lambda self: self.score.sigma)
    moves = property(lambda self: self.score.moves)

    @property
    def settings(self) -> dict[str, Any]:
        """For result files."""
        own = {name: getattr(self, name) for name in ("spread", "seed", "fresh")}
        return {**self.score.settings, "distillation": {"negative": in_words(self.against), **own}}

    def at(self, sigma: float | Tensor) -> DistillationScore:
        return self._of(self.score.at(checks.positive("sigma", sigma)))

    def pick(self, rows: Tensor) -> DistillationScore:
        return self._of(self.score.pick(rows))

    def along(self, times: Tensor) -> DistillationScore:
        return self._of(self.score.along(times))

    def denoise(self, x: Tensor) -> Tensor:
        """Of the model itself: the direction denoises nothing."""
        return self.score.denoise(x)

    def _of(self, score: StableDiffusionScore) -> DistillationScore:
        other = copy.copy(self)
        other.score = score
        return other

    def _score(self, x: Tensor) -> Tensor:
        sigma, places = (
            self.sigma,
            len(x) if self.score.times is None else self.score.times.shape[-1],
        )
        calls = self.counter.batches if self.fresh else 0
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + calls)
        near = float(self.score.schedule.timestep(_double(sigma).reshape(1))) + float(
            torch.randint(-self.spread, self.spread, (), generator=generator)
        )
        level = self.score.schedule.sigma(
            min(max(near, 0.0), len(self.score.schedule.log_sigmas) - 1.0)
        )
        noise = torch.randn(places, *x.shape[1:], generator=generator, dtype=torch.float64).to(x)
        y = x + (level - sigma) * noise.repeat(len(x) // places, *[1] * (x.ndim - 1))
        clean = self.score.denoised(
            y, _double(level).expand(len(x)), [self.negative, self.score.text(len(x))]
        )
        return (clean[1] - clean[0]) / (2 * level) / (1 + sigma**2) ** 0.5  # eps = (y' − D)/sigma'

    def _count(self, x: Tensor) -> None:
        super()._count(x)
        self.counter.evaluations += len(x)


def distilled(score: Score) -> Score:
    """Paper B's direction of a `StableDiffusionScore`, in its coordinates; any other score as it is."""
    if isinstance(score, VariancePreservingScore):
        return score.of(distilled(score.score))
    return DistillationScore(score) if isinstance(score, StableDiffusionScore) else score
