"""Frames of paths to look at: rows of images, moving pictures; how many paths rotate a digit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lib import checks
from lib.files import replacing

# Of a moving picture: milliseconds a frame, and for how many more frames each end stands still.
PACE = 120
REST = 3
# Pixels of a moving picture above its panels, and between them; colours of its palette.
HEADLINE = 22
GAP = 6
COLOURS = 64

# How the starts of a solver are drawn in `turned_shares`: colour, marker, and words.
SHARE_STYLES = {
    ("turn", "exact"): ("#000000", "s-", "held from the true rotation"),
    ("graph", "exact"): ("#0072B2", "^-", "found from the graph of the data"),
    ("portfolio", "exact"): ("#E69F00", "v-", "found from bent lines"),
    ("line", "exact"): ("#D55E00", "o-", "found from the straight line"),
    ("turn", "network"): ("#000000", "s:", "held from the true rotation"),
    ("line", "network"): ("#D55E00", "o:", "found from the straight line"),
}


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


def moving_picture(
    panels: Mapping[str, Float[Tensor, "frames channels height width"]],
    path: str | Path,
    *,
    side: int = 96,
    inverted: bool = True,
) -> Path:
    """Frames side by side as an endless GIF, forward and back.

    Args:
        panels: name → frames in [0, 1], as many of each; values outside are clipped.
        path: of the GIF.
        side: height of a panel in pixels.
        inverted: grey images as dark ink on white.

    Returns:
        The path.

    Raises:
        ValueError: no panels, another shape, different numbers of frames, or numbers that are not
            finite.
    """
    if not panels:
        raise ValueError("moving_picture needs the frames of at least one panel")
    shown = {name: _picked(checks.finite(name, frames), None) for name, frames in panels.items()}
    counts = {len(frames) for frames in shown.values()}
    if len(counts) > 1:
        raise ValueError(f"every panel needs as many frames, got {sorted(counts)}")
    count = counts.pop()
    pictures = [
        _beside({name: frames[k] for name, frames in shown.items()}, side, inverted)
        for k in range(count)
    ]
    return save_moving(pictures, path)


def save_moving(pictures: Sequence[Image.Image], path: str | Path) -> Path:
    """Write pictures as an endless GIF, there and back; both ends stand still for a moment."""
    there_and_back = [*pictures, *pictures[-2:0:-1]]
    durations = [PACE] * len(there_and_back)
    durations[0] = durations[len(pictures) - 1] = PACE * (1 + REST)
    path = Path(path)
    with replacing(path) as (draft,):
        there_and_back[0].save(
            draft,
            "gif",
            save_all=True,
            append_images=there_and_back[1:],
            duration=durations,
            loop=0,
        )
    return path


def _beside(frames: Mapping[str, Tensor], side: int, inverted: bool) -> Image.Image:
    """One frame of each panel under its name."""
    tiles = []
    for frame in frames.values():
        array = pixels(frame)
        if inverted and array.ndim == 2:
            array = 1 - array
        tile = Image.fromarray((255 * array).round().astype(np.uint8)).convert("RGB")
        width = round(side * tile.width / tile.height)
        tiles.append(tile.resize((width, side), Image.Resampling.BICUBIC))
    total = sum(tile.width for tile in tiles) + GAP * (len(tiles) - 1)
    picture = Image.new("RGB", (total, HEADLINE + side), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    left = 0
    for name, tile in zip(frames, tiles, strict=True):
        draw.text((left + tile.width / 2, HEADLINE / 2), name, "black", font, anchor="mm")
        picture.paste(tile, (left, HEADLINE))
        left += tile.width + GAP
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


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


def turned_shares(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """How many of ten digits a path rotates, against how many digits the score knows.

    A row of panels for each table and a panel for each angle; a curve for each start of the solver
    and kind of score. Networks that were not trained on the ten digits are drawn as crosses. Where
    some of the paths that rotate have not converged, a grey bar leads down to the number that have.

    Args:
        shares: name → table as `experiments.tables.crowd.shares` makes it, of one noise level. All
            tables have the same angles.
    """
    angles = sorted(next(iter(shares.values())).angle.unique())
    size = (4.6 * len(angles), 0.8 + 2.6 * len(shares))
    figure, axes = plt.subplots(
        len(shares), len(angles), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    several = len({score for table in shares.values() for score in table.score}) > 1
    handles = {}
    for line, (name, table) in zip(axes, shares.items(), strict=True):
        for panel, angle in zip(line, angles, strict=True):
            for (start, score), (colour, style, label) in SHARE_STYLES.items():
                of_kind = (table.start == start) & (table.score == score) & (table.angle == angle)
                fill = colour if score == "exact" else "white"
                known = table[of_kind & table.seen]
                (curve,) = panel.plot(known.digits, known.turned, style, color=colour, mfc=fill)
                unseen = table[of_kind & ~table.seen]
                panel.plot(unseen.digits, unseen.turned, "x", color=colour, ms=8, mew=2)
                unsure = table[of_kind & (table.both < table.turned)]
                panel.vlines(unsure.digits, unsure.both, unsure.turned, color="0.6", lw=5, zorder=1)
                words = f"{label}, {score}" + (" score" if score == "exact" else "")
                if len(known):
                    handles[words if several else label] = curve
            panel.set(xscale="log", ylim=(-0.5, 10.5))
            panel.set_title(f"{name}, {angle:.0f}°")
            panel.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
            panel.tick_params(axis="x", labelsize=10)
        line[0].set_ylabel("digits rotated,\nof 10")
    for panel in axes[-1]:
        panel.set_xlabel("digits that the score knows")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 2}
    figure.legend(handles.values(), handles.keys(), **place)
    return figure
