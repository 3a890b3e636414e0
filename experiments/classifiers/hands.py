"""Which digit does a hand sign? Its features serve FID, KID and the perceptual distance of hands; it rates samples."""

from __future__ import annotations

import torch
from torch import Tensor

from lib import checks

from .. import hands
from ..training.loop import Settings
from .base import Classifier, Draw, HeldOut

SETTINGS = Settings(steps=1500, batch=64, rate=2e-3, warmup=50, ema=0.995, clip=1.0, every=250)
COPIES = 10  # of each held-out photograph, moved differently, in the reference
SOURCE = "sign-digits"


class HandClassifier(Classifier):
    """Four stages at 32², 16², 8² and 4² pixels; images (n, 3, 64, 64) in [0, 1] → ten digits, features (n, 64)."""

    kind, event_shape, classes, widths = (
        "hand-classifier",
        (3, hands.SIZE, hands.SIZE),
        hands.WORDS,
        (24, 48, 64, 64),
    )
    first_stride, smoothing, settings = 2, 0.05, SETTINGS
    about = (
        "Tells which digit, zero to nine, a hand signs in a photograph (Turkish sign language, plain background).\n"
        "Whose hand a photograph shows is not noted, so the held-out ones may show people it learned from."
    )
    against = "held-out photographs of hands, moved"

    @classmethod
    def training_draw(cls, source: str | None = None) -> tuple[Draw, str]:
        """Training photographs, each moved (`hands.augment`). ValueError: another source than "sign-digits"."""
        photographs = _photographs("train", source)

        def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            pick = torch.randint(len(photographs), (n,), generator=generator)
            return hands.augment(photographs.pixels[pick], generator), photographs.labels[pick]

        return (
            draw,
            f"{SOURCE}, {len(photographs):,} photographs, each moved anew at each draw (`hands.augment`)",
        )

    @classmethod
    def held_out(cls, source: str | None = None) -> HeldOut:
        """Every tenth photograph as it is; for the reference ten times, moved differently each time (`hands.augment`)."""
        test = _photographs("test", source)
        return HeldOut(
            hands.move(test.pixels),
            test.labels,
            f"{len(test):,} photographs ({SOURCE}, every tenth), as they are",
            lambda generator: torch.cat(
                [hands.augment(test.pixels, generator) for _ in range(COPIES)]
            ),
            f"{COPIES * len(test):,} pictures: each of {len(test):,} held-out photographs ({SOURCE}), moved {COPIES} "
            "times at random (hands.augment)",
        )


def right_rate(model: HandClassifier, images: Tensor) -> Tensor:
    """Share of samples (10·n, 3, 64, 64), n of each digit in turn, whose most likely digit is the asked one: (10,)."""
    asked = torch.arange(10).repeat_interleave(len(images) // 10)
    return model.right(images, asked).double().reshape(10, -1).mean(1)


def _photographs(split: str, source: str | None) -> hands.Photographs:
    checks.choice("source of photographs", source or SOURCE, [SOURCE])
    return hands.photographs(split)
