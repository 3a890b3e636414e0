"""Which digit is it, however it is turned? The classifier behind FID, KID and the perceptual distance of digits."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import data
from ..training.loop import Settings
from .base import Classifier, Draw, HeldOut

CLASSES = ("0", "1", "2", "3", "4", "5", "6 or 9", "7", "8")
SETTINGS = Settings(
    steps=2500, batch=128, rate=3e-3, warmup=0, ema=0.0, clip=1e6
)  # plain AdamW: no averaging, no clipping


class DigitClassifier(Classifier):
    """Three stages at 28², 14² and 7² pixels; images (n, 1, 28, 28) in [0, 1], ink is 1 → nine classes, features (n, 64)."""

    kind, event_shape, classes, widths, settings = (
        "digit-classifier",
        (1, 28, 28),
        CLASSES,
        (24, 48, 64),
        SETTINGS,
    )
    about = "Tells digits turned by any angle apart; a 6 and a 9 are one class, because turning makes one of the other."
    against = "turned held-out digits"

    @classmethod
    def training_draw(cls, source: str | None = None) -> tuple[Draw, str]:
        """Training digits of `source` (as in `data.digits`; MNIST if None), each turned by its own uniform angle."""
        digits = data.digits(source or "mnist", split="train")

        def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            pick = torch.randint(len(digits), (n,), generator=generator)
            return turned(digits.images[pick], generator), digits.labels[pick]

        return (
            draw,
            f"{digits.source.name}, {len(digits):,} digits, turned by a new uniform random angle at each draw",
        )

    @classmethod
    def held_out(cls, source: str | None = None) -> HeldOut:
        """Every test digit, turned once (seed 1); for the reference turned anew."""
        test = data.digits(source or "mnist", split="test")
        return HeldOut(
            turned(test.images, torch.Generator().manual_seed(1)),
            test.labels,
            f"{len(test):,} digits ({test.source.name}), each turned once by a uniform random angle",
            lambda generator: turned(test.images, generator),
            f"{len(test):,} test digits ({test.source.name}), each turned by a uniform angle",
        )

    def target(self, labels: Tensor) -> Tensor:
        return to_class(labels)


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each turned by its own angle, uniform in [0°, 360°)."""
    return data.rotate(
        images, 360 * torch.rand(len(images), generator=generator, dtype=torch.float64)
    )


def to_class(labels: Tensor) -> Tensor:
    """Index into CLASSES of digits (n,) in 0..9: a 9 is a turned 6."""
    return torch.where(labels == 9, 6, labels)
