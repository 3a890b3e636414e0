"""Points of whatever model in a figure: decoded latents, pixels, or dots in the plane."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from lib import latents
from lib.scores import PipelineScore, Score

from . import figures, gallery


def pictures(score: Score, points: Float[Tensor, "*batch_event"]) -> Tensor | None:
    """Points as images: a latent decoded, a pixel as it is; None for points that are no images."""
    if isinstance(score, PipelineScore):
        return latents.decode(score, points)
    if len(score.event_shape) == 3 and score.event_shape[0] in (1, 3):
        return points
    return None


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
