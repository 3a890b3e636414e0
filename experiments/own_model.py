"""Points of whatever model: own images as points, points in a figure."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from lib import latents
from lib.scores import PipelineScore, Score

from . import figures, gallery
from .images import read, read_folder
from .names import find
from .pair_folders import read_pairs


def pictures(score: Score, points: Float[Tensor, "*batch_event"]) -> Tensor | None:
    """Points as images: a latent decoded, a pixel as it is; None for points that are no images."""
    if isinstance(score, PipelineScore):
        return latents.decode(score, points)
    if len(score.event_shape) == 3 and score.event_shape[0] in (1, 3):
        return points
    return None


def own_pairs(
    source: str, score: Score, *, count: int | None = None
) -> tuple[Float[Tensor, "pairs *event"], Float[Tensor, "pairs *event"]]:
    """First and last points of pairs of own images.

    Args:
        source: A table of pairs (`read_pairs`), or a folder of images, of which each two in the
            order of their names are a pair.
        score: Of the model whose points they become.
        count: Pairs that are taken, the first ones; all if None.

    Raises:
        FileNotFoundError: There is no such table, folder or image.
        ValueError: An image that cannot be read, or a table that is none.
    """
    place = find(source)
    latent = isinstance(score, PipelineScore)
    channels, *size = (3, *score.image_size) if latent else score.event_shape
    shape = {"size": tuple(size), "channels": channels}
    if place.is_dir():
        images = read_folder(place, **shape)
        sides = (images[0::2], images[1::2])
    else:
        pairs = read_pairs(place)
        sides = [
            torch.stack([read(path, **shape) for path in side]) for side in (pairs.start, pairs.end)
        ]
    # the last of an odd number has no partner
    whole = len(sides[1])
    if whole == 0:
        raise ValueError(f"{source} holds one image; two make a pair")
    start, end = (side[: min(whole, count or whole)] for side in sides)
    if latent:
        return latents.encode(score, start), latents.encode(score, end)
    return start, end


def draw_rows(
    score: Score,
    rows: Mapping[str, Float[Tensor, "points *event"]],
    *,
    columns: int | None = None,
    cell: float = 0.95,
    joined: bool = True,
) -> Figure:
    """A row of images for each name; of vectors the first two coordinates, a colour for each name.

    Args:
        score: Of the model whose points they are.
        rows: Name → points, of a path in its order; up to four names in the plane.
        columns: Images a row, first and last among them; all if None.
        cell: Side of an image in inches.
        joined: Whether dots are joined by a line, as on a path.
    """
    images = {name: pictures(score, points) for name, points in rows.items()}
    if None not in images.values():
        return gallery.frame_rows(images, columns=columns, cell=cell)
    figure, axes = plt.subplots(figsize=(5.2, 4.4))
    tones = ("lerp", "density", "stein", "yu2025")
    for (name, points), tone in zip(rows.items(), tones, strict=False):
        x, y, *_ = points.flatten(1).T
        axes.plot(x, y, "o-" if joined else "o", color=figures.colour(tone), ms=4, lw=1, label=name)
    axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    axes.legend()
    return figure
