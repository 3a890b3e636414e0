"""Rows of images side by side: how every notebook shows the frames of a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
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

    rows: name → (frames, channels, height, width) in [0, 1], values outside are clipped for display only; one or three
    channels. columns: show this many equally spaced frames of each row (first and last among them). titles: above the
    columns. inverted: grey images as dark ink on white. cell: side of one frame in inches.
    """
    if not rows:
        raise ValueError("frame_rows needs at least one row of frames")
    shown = {name: _pick(checks.finite(name, frames), columns) for name, frames in rows.items()}
    width = max(len(frames) for frames in shown.values())
    label = 0.085 * max(len(part) for name in shown for part in name.split("\n")) + 0.15
    figure = plt.figure(
        figsize=(width * cell + label, len(shown) * cell + (0.3 if titles else 0.1)), layout="none"
    )
    left, top = (
        label / figure.get_figwidth(),
        1 - (0.25 if titles else 0.03) / figure.get_figheight(),
    )
    grid = figure.add_gridspec(
        len(shown), width, left=left, right=0.995, top=top, bottom=0.02, wspace=0.06, hspace=0.06
    )
    for r, (name, frames) in enumerate(shown.items()):
        for c, frame in enumerate(frames):
            axes = figure.add_subplot(grid[r, c])
            grey = frame.shape[0] == 1
            axes.imshow(
                _image(frame),
                cmap="gray_r" if grey and inverted else "gray",
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


def _pick(frames: Tensor, columns: int | None) -> Tensor:
    if frames.ndim != 4 or frames.shape[1] not in (1, 3):
        raise ValueError(
            f"frames must have shape (frames, 1 or 3, height, width), got {tuple(frames.shape)}"
        )
    if columns is None:
        return frames
    return frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]


def _image(frame: Tensor) -> np.ndarray:
    array = frame.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
