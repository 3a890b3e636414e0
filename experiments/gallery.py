"""Rows of images side by side: how every notebook shows the frames of a path."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from lib import checks


def frame_rows(
    rows: Mapping[str, Tensor],
    *,
    columns: int | None = None,
    titles: Sequence[str] = (),
    inverted: bool = True,
    cell: float = 0.62,
) -> Figure:
    """A row of frames for each name.

    Args:
        rows: name → (frames, channels, height, width) in [0, 1] with one or three channels; values
            outside are clipped for display only.
        columns: show this many equally spaced frames of each row, first and last among them; all
            if None.
        titles: above the columns.
        inverted: grey images as dark ink on white.
        cell: side of one frame in inches.

    Raises:
        ValueError: no rows, another shape, or numbers that are not finite.
    """
    if not rows:
        raise ValueError("frame_rows needs at least one row of frames")
    shown = {name: _picked(checks.finite(name, frames), columns) for name, frames in rows.items()}
    width = max(len(frames) for frames in shown.values())
    letters = max(len(line) for name in shown for line in name.split("\n"))
    # inches beside the frames for the names, and above them for the titles
    beside = 0.085 * letters + 0.15
    above = 0.3 if titles else 0.1
    figure = plt.figure(figsize=(width * cell + beside, len(shown) * cell + above), layout="none")
    grid = figure.add_gridspec(
        len(shown),
        width,
        left=beside / figure.get_figwidth(),
        right=0.995,
        top=1 - (0.25 if titles else 0.03) / figure.get_figheight(),
        bottom=0.02,
        wspace=0.06,
        hspace=0.06,
    )
    for r, (name, frames) in enumerate(shown.items()):
        for c, frame in enumerate(frames):
            axes = figure.add_subplot(grid[r, c])
            dark_ink = inverted and frame.shape[0] == 1
            axes.imshow(
                pixels(frame),
                cmap="gray_r" if dark_ink else "gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.8", linewidth=0.6)
            if c == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
            if r == 0 and c < len(titles):
                axes.set_title(titles[c], fontsize=10, pad=4)
    return figure


def pixels(frame: Float[Tensor, "channels height width"]) -> np.ndarray:
    """A frame of one or three channels as `imshow` takes it, clipped to [0, 1]."""
    array = frame.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _picked(frames: Tensor, columns: int | None) -> Tensor:
    if frames.ndim != 4 or frames.shape[1] not in (1, 3):
        raise ValueError(
            f"frames must have shape (frames, 1 or 3, height, width), got {tuple(frames.shape)}"
        )
    if columns is None:
        return frames
    return frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
