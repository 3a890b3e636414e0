"""One walk, three times: in the crater of log p, from digit to digit, from hand to hand.

Each is taken along the straight line and along the geodesic. The paths are those that notebooks
01, 03 and 06 plot, so the picture is made in seconds and without a network.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image, ImageColor

from experiments import figures, gallery

# Frames from one end to the other.
FRAMES = 17
# Inches at 100 dots each, and colours of the palette.
SIZE = (6.8, 2.6)
COLOURS = 56
NEARLY_WHITE = 250

ROWS = {"lerp": "straight\nline", "stein": "geodesic"}


@dataclass
class Mover:
    """What changes from frame to frame: one artist, and what it shows in each frame."""

    axes: Axes
    artist: Artist
    show: Callable
    states: np.ndarray


def draw_triptych(folder: str | Path, path: str | Path) -> Path:
    """Draw the three walks side by side as an endless GIF, there and back.

    Args:
        folder: where `01_graph_of_log_density.npz`, `03_one_digit.npz` and `06_two_hands.npz` are.
        path: of the GIF.

    Returns:
        The path.

    Raises:
        FileNotFoundError: one of the three is not there.
    """
    crater = read(folder, "01_graph_of_log_density")
    digit = read(folder, "03_one_digit")
    hand = read(folder, "06_two_hands")
    # Of the digit the annealed geodesic; of the hand that of the strong density metric.
    columns = {
        "a digit": {"lerp": 1 - digit["row_0"], "stein": 1 - digit["row_2"]},
        "a photograph": {"lerp": hand["lerp"], "stein": hand["density"]},
    }
    figure = plt.figure(figsize=SIZE, dpi=100, layout="none")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    movers = [*draw_crater(left, crater), *draw_tiles(right, columns)]
    pictures = list(animate(figure, movers))
    plt.close(figure)
    return gallery.save_moving(in_common_colours(pictures), path)


def read(folder: str | Path, name: str) -> dict[str, np.ndarray]:
    """The arrays behind a published figure."""
    path = Path(folder) / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run make figures ARGS={name[:2]} first")
    with np.load(path) as arrays:
        return dict(arrays)


def picked(walk: np.ndarray) -> np.ndarray:
    """As many points of a walk as there are frames, equally spaced."""
    return walk[np.linspace(0, len(walk) - 1, FRAMES).round().astype(int)]


def draw_crater(panel: SubFigure, arrays: dict[str, np.ndarray]) -> Iterator[Mover]:
    """The graph of the log-density with both paths, and a dot that walks on each."""
    axes = panel.add_axes((0.0, 0.0, 1.0, 0.93), projection="3d", computed_zorder=False)
    x, y, z = arrays["surface"]
    # Bands show levels of the density, and need few colours.
    shade = plt.get_cmap("Blues")(0.55 + z.round(1) / 3.6)
    axes.plot_surface(
        x, y, z, facecolors=shade, rstride=1, cstride=1, shade=False, antialiased=False
    )
    circle = np.linspace(0, 2 * np.pi, 181)
    axes.plot(np.cos(circle), np.sin(circle), 0 * circle, color="black", linewidth=1.4)
    axes.set(zlim=(-1.4, 0.02))
    axes.set_box_aspect((3, 3, 1.42), zoom=1.5)
    axes.set_axis_off()
    axes.view_init(50, -80)
    panel.suptitle("a circle of data", fontsize=11, y=0.98)
    for method, walk in (("lerp", arrays["line"]), ("stein", arrays["geodesic"])):
        axes.plot(*walk.T, color="white", linewidth=4.5)
        axes.plot(*walk.T, color=figures.colour(method), linewidth=2.6)
    for method, walk in (("lerp", arrays["line"]), ("stein", arrays["geodesic"])):
        (dot,) = axes.plot([], [], [], "o", color=figures.colour(method), markersize=12)
        dot.set(animated=True, markeredgecolor="white", markeredgewidth=2)
        yield Mover(axes, dot, dot.set_data_3d, picked(walk)[:, :, None])


def draw_tiles(panel: SubFigure, columns: dict[str, dict[str, np.ndarray]]) -> Iterator[Mover]:
    """A column of images for each title, the straight line above the geodesic."""
    grid = {"left": 0.2, "right": 0.99, "bottom": 0.02, "top": 0.9, "wspace": 0.03, "hspace": 0.03}
    tiles = panel.subplots(2, 2, gridspec_kw=grid)
    for column, (title, walks) in enumerate(columns.items()):
        tiles[0, column].set_title(title, fontsize=11, pad=4)
        for row, (method, label) in enumerate(ROWS.items()):
            axes = tiles[row, column]
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                word = {"color": figures.colour(method), "weight": "bold", "fontsize": 11}
                axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6, **word)
            images = picked(walks[method]).clip(0, 1).transpose(0, 2, 3, 1)
            shown = axes.imshow(images[0], cmap="gray", vmin=0, vmax=1, animated=True)
            yield Mover(axes, shown, shown.set_data, images)


def animate(figure: Figure, movers: list[Mover]) -> Iterator[Image.Image]:
    """Each frame as a picture; what stands still is drawn once."""
    canvas = figure.canvas
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for k in range(FRAMES):
        canvas.restore_region(background)
        for mover in movers:
            mover.show(mover.states[k])
            mover.axes.draw_artist(mover.artist)
        yield Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def in_common_colours(pictures: list[Image.Image]) -> list[Image.Image]:
    """Pictures in one palette, so that a GIF keeps only what changes from frame to frame.

    White is white in it, and the paths have their own colours, which few pixels have.
    """
    own = [ImageColor.getrgb(figures.colour(method)) for method in ROWS]
    strip = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    found = strip.quantize(COLOURS - len(own)).getpalette()
    palette = np.concatenate([np.reshape(found, (-1, 3)), own])
    palette[palette.min(1) >= NEARLY_WHITE] = 255
    common = Image.new("P", (1, 1))
    common.putpalette(palette.flatten().tolist())
    return [picture.quantize(palette=common, dither=Image.Dither.NONE) for picture in pictures]
