"""Which set measure sees double exposures? Digits and photographs of hands whose order is known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib import latents, scores

from .. import data, hands
from ..classifiers import load_classifier
from ..evaluation import IMAGENET, load_imagenet
from ..evaluation.sets import Network
from ..evaluation.validation import graded, validate
from . import base

# Pictures on each side; there are 206 held-out photographs in all.
DIGITS = 500
PHOTOGRAPHS = 103
DRAWS = 500


def digits_table(count: int = DIGITS, seed: int = 0) -> base.Table:
    """04_validation: held-out MNIST digits turned at random."""
    found = data.digits("mnist", split="test")

    def pictures() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(found), generator=generator)[: 2 * count]
        angles = 360 * torch.rand(2 * count, generator=generator, dtype=torch.float64)
        turned = data.rotate(found.images[chosen], angles)
        return turned[:count], turned[count:]

    return _table("04_validation", "digits", pictures, count, seed, [found.source], [])


def photographs_table(count: int = PHOTOGRAPHS, seed: int = 0) -> base.Table:
    """06_validation: held-out photographs of hands as the autoencoder shows them.

    Every frame of a latent path has been through the autoencoder; so have both sides here.
    """
    found = hands.photographs("test")
    score = scores.load("hands")

    def pictures() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(found), generator=generator)[: 2 * count]
        images = hands.move(found.pixels[chosen])
        shown = latents.decode(score, latents.encode(score, images))
        return shown[:count], shown[count:]

    return _table("06_validation", "hands", pictures, count, seed, [found.source], [score.origin])


def _table(
    name: str,
    classifier: str,
    pictures: Callable[[], tuple[Tensor, Tensor]],
    count: int,
    seed: int,
    sources: list[data.Source],
    models: list[Any],
) -> base.Table:
    networks = {"classifier": load_classifier(classifier)}
    networks |= {network: load_imagenet(network) for network in IMAGENET}

    def unit(title: str, network: Network) -> base.Unit:
        def rows() -> base.Rows:
            judged, real = pictures()
            sets = graded(judged, torch.Generator().manual_seed(seed + 1))
            made = validate({title: network}, sets, real, draws=DRAWS)
            return made.to_dict("records")

        return base.Unit(title, rows)

    return base.Table(
        name,
        base.command_line("validation"),
        [unit(title, network) for title, network in networks.items()],
        parameters={"pictures": count, "seed": seed, "draws": DRAWS},
        sources=sources,
        models=models + [{"network": title, "sha256": n.sha256} for title, n in networks.items()],
    )
