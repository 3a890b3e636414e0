"""A drawing of how a path between two images is made: encode, find a path, decode."""

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from torch import Tensor

from .figures import colour
from .gallery import pixels

# inches
SIZE = (10.5, 3.2)
# Hills of the sketched density: place, width, height.
HILLS = ((-1.0, -0.2, 0.55, 1.0), (0.0, 0.75, 0.6, 0.9), (1.0, -0.2, 0.55, 1.0))


def draw_pipeline(
    images: Float[Tensor, "2 3 height width"],
    latents: Float[Tensor, "2 channels h w"],
    frames: Float[Tensor, "frames 3 height width"],
) -> Figure:
    """Two images become latents, the latents a path, the path frames.

    The path is a sketch: a straight line through low density, and a geodesic around it.

    Args:
        images: the ends, in [0, 1].
        latents: of them; three of their channels are shown as colours.
        frames: of the path, both ends among them.
    """
    # every picture has its place; matplotlib takes "none" back when a figure is saved
    figure = plt.figure(figsize=SIZE, layout=PlaceHolderLayoutEngine(True, True))
    for row, image in enumerate(images):
        _picture(figure, (0.01, 0.5 - 0.42 * row, 0.11, 0.36), pixels(image))
    for row, latent in enumerate(latents):
        _picture(figure, (0.20, 0.5 - 0.42 * row, 0.11, 0.36), _as_colours(latent))
    _sketch(figure.add_axes((0.41, 0.04, 0.30, 0.86)))
    side = 0.86 / len(frames)
    for row, frame in enumerate(frames):
        _picture(figure, (0.84, 0.91 - side * (row + 1), 0.09, 0.95 * side), pixels(frame))
    canvas = figure.add_axes((0, 0, 1, 1), frameon=False)
    canvas.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    canvas.grid(False)
    for left, right, name in (
        (0.125, 0.195, "encode"),
        (0.315, 0.405, "noise level\nσ"),
        (0.72, 0.83, "decode"),
    ):
        arrow = {"arrowstyle": "-|>", "color": "0.3", "linewidth": 1.5}
        canvas.annotate("", (right, 0.47), (left, 0.47), arrowprops=arrow)
        canvas.text((left + right) / 2, 0.53, name, ha="center", va="bottom", fontsize=10)
    for x, name in ((0.065, "images"), (0.255, "latents"), (0.885, "frames")):
        canvas.text(x, 0.95, name, ha="center", fontsize=11)
    canvas.text(0.56, 0.95, "a path under the density", ha="center", fontsize=11)
    return figure


def _sketch(axes: Axes) -> None:
    """A density of three hills, the straight line and a path that stays on them."""
    x, y = np.meshgrid(np.linspace(-1.7, 1.7, 120), np.linspace(-0.9, 1.5, 100))
    height = sum(
        size * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2 / 2))
        for a, b, width, size in HILLS
    )
    axes.contourf(x, y, height, levels=12, cmap="Greys", alpha=0.55)
    t = np.linspace(0, 1, 60)
    over_the_hills = -0.2 + 0.8 * np.sin(np.pi * t) ** 1.3
    axes.plot([-1, 1], [-0.2, -0.2], "--", color=colour("lerp"), linewidth=2)
    axes.plot(2 * t - 1, over_the_hills, color=colour("density"), linewidth=2)
    axes.plot([-1, 1], [-0.2, -0.2], "o", color="black", markersize=7)
    axes.text(0, -0.25, "straight line", ha="center", va="top", color="0.35", fontsize=10)
    axes.text(0.62, 0.5, "geodesic", color=colour("density"), fontsize=10)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def _picture(figure: Figure, place: tuple[float, float, float, float], image: np.ndarray) -> None:
    axes = figure.add_axes(place)
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="0.8")


def _as_colours(latent: Tensor) -> np.ndarray:
    """The first three channels between their least and largest value."""
    shown = latent[:3].detach().float().cpu()
    low = shown.amin((1, 2), keepdim=True)
    high = shown.amax((1, 2), keepdim=True)
    return pixels((shown - low) / (high - low))
