"""Something to play with in JupyterLab: drag along a path, and change what it was made with."""

import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lib import Frames, Geodesic, checks

from .figures import colour
from .gallery import pixels

Paths = Tensor | Geodesic | Frames
# An artist that moves, and what puts it where setting i and place j want it
Moving = tuple[Artist, Callable[[int, int], None]]


def explore(
    paths: Paths | Mapping[str, Paths],
    labels: Sequence | None = None,
    *,
    name: str = "path",
    readouts: Mapping[str, Tensor] | None = None,
    backdrop: Callable[[Axes], object] | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    start: tuple[int, float] = (0, 0.5),
) -> "Explorer":
    """Sliders for the setting and the place on its path, a picture, and the numbers there in words.

    Nothing is solved while a hand moves.

    Args:
        paths: (settings, points, *event), a Geodesic or Frames of so many paths, or label → one
            path each. Events (1 or 3, h, w) are shown as images in [0, 1], others as points.
        labels: one a setting.
        name: of the setting.
        readouts: name → numbers (settings, points), drawn beside the picture.
        backdrop: draws what lies under the points.
        project: (settings, points, *event) -> (settings, points, 2), where points are drawn; their
            first two coordinates if None.
        start: the setting, and the place in [0, 1], to begin with.

    Raises:
        ValueError: shapes that do not fit.
    """
    if isinstance(paths, Mapping):
        labels = list(paths) if labels is None else labels
        points = _joined(paths)
    else:
        points = _points(paths)
    shown = _shown(points, project)
    settings, places = points.shape[:2]
    labels = range(settings) if labels is None else labels
    texts = [f"{label:.4g}" if isinstance(label, float) else str(label) for label in labels]
    if len(texts) != settings:
        raise ValueError(f"labels must be {settings}, one a setting, got {len(texts)}")
    numbers = {key: _rounded(key, values) for key, values in (readouts or {}).items()}
    for key, values in numbers.items():
        if values.shape != points.shape[:2]:
            raise ValueError(
                f"{key} must have shape {(settings, places)} to go with the paths, got "
                f"{tuple(values.shape)}"
            )
    if not (0 <= start[0] < settings and 0 <= start[1] <= 1):
        raise ValueError(
            f"start must be a setting below {settings} and a place in [0, 1], got {start}"
        )
    return Explorer(shown, texts, name, numbers, backdrop, start)


class Explorer(ipywidgets.VBox):
    """What `explore` returns.

    Attributes:
        setting: slider, whose value is an index.
        place: slider, whose value is an index.
        text: the numbers at the chosen place.
        picture: a PNG.
    """

    def __init__(
        self,
        points: Tensor,
        labels: list[str],
        name: str,
        numbers: dict[str, Tensor],
        backdrop: Callable[[Axes], object] | None,
        start: tuple[int, float],
    ) -> None:
        self._labels = labels
        self._name = name
        self._numbers = numbers
        self._times = torch.linspace(0, 1, points.shape[1], dtype=torch.float64)
        figure, self._moving = _drawn(points, self._times, numbers, backdrop)
        # Drawn once is what stays; a hand does not wait for it
        self._canvas = FigureCanvasAgg(figure)
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(figure.bbox)
        self.setting = _slider(name, labels, start[0])
        place = round(start[1] * (len(self._times) - 1))
        self.place = _slider("place on path", [f"{time:.2f}" for time in self._times], place)
        self.text = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        for slider in (self.setting, self.place):
            slider.observe(self._follow, "value")
        self._follow()
        parts = [self.place, self.text, self.picture]
        super().__init__([self.setting, *parts] if len(labels) > 1 else parts)

    def _follow(self, _: object = None) -> None:
        """Bring picture and words to where the sliders are."""
        i = self.setting.value
        j = self.place.value
        self._canvas.restore_region(self._still)
        for artist, put in self._moving:
            put(i, j)
            artist.axes.draw_artist(artist)
        image = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "png", compress_level=1)
        words = [f"{self._name} = {self._labels[i]}", f"place {self._times[j]:.2f}"]
        words += [f"{key} = {values[i, j]:.4g}" for key, values in self._numbers.items()]
        self.text.value = html.escape(" · ".join(words), quote=False)
        self.picture.value = buffer.getvalue()


def _drawn(
    points: Tensor,
    times: Tensor,
    numbers: dict[str, Tensor],
    backdrop: Callable[[Axes], object] | None,
) -> tuple[Figure, list[Moving]]:
    """The picture with the numbers beside it, and what moves in them."""
    figure = Figure(figsize=(9.0 if numbers else 4.6, 4.0), dpi=110, layout="constrained")
    rows = [["picture", key] for key in numbers] or [["picture"]]
    panels = figure.subplot_mosaic(rows)
    picture = panels["picture"]
    if backdrop is not None:
        backdrop(picture)
    moving = _images(picture, points) if points.ndim == 5 else _curves(picture, points)
    picture.set_aspect("equal")
    for key, values in numbers.items():
        panels[key].set(xlabel="place on path", title=key)
        moving += _curves(panels[key], torch.stack([times.expand_as(values), values], 2))
    return figure, moving


def _images(axes: Axes, frames: Tensor) -> list[Moving]:
    axes.set_axis_off()
    look = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    shown = axes.imshow(pixels(frames[0, 0]), animated=True, **look)
    return [(shown, lambda i, j: shown.set_data(pixels(frames[i, j])))]


def _curves(axes: Axes, curves: Tensor) -> list[Moving]:
    """Some of all (settings, points, 2) thin and grey; the chosen one and its place in colour."""
    some = curves[:: max(1, len(curves) // 8)].permute(2, 1, 0).numpy()
    axes.plot(*some, color=colour("euclidean"), linewidth=0.7, alpha=0.7)
    (line,) = axes.plot([], [], color=colour("stein"), linewidth=2.6, animated=True)
    (dot,) = axes.plot([], [], "o", color=colour("exact"), markersize=8, animated=True)
    return [
        (line, lambda i, j: line.set_data(*curves[i].T.numpy())),
        (dot, lambda i, j: dot.set_data(*curves[i, j : j + 1].T.numpy())),
    ]


def _slider(name: str, options: Sequence[str], value: int) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        description=name,
        options=[(label, i) for i, label in enumerate(options)],
        value=value,
        tooltip=f"{name}: drag, or use the arrow keys",
        layout={"width": "min(100%, 40em)"},
        style={"description_width": "8em"},
    )


def _points(paths: Paths) -> Tensor:
    """(settings, points, *event) on the CPU."""
    if isinstance(paths, Geodesic):
        points = paths.points
    elif isinstance(paths, Frames):
        points = paths.frames
    else:
        points = paths
    return checks.finite("paths", checks.floating("paths", points)).detach().cpu()


def _joined(paths: Mapping[str, Paths]) -> Tensor:
    parts = {key: _points(path) for key, path in paths.items()}
    shapes = {key: tuple(part.shape) for key, part in parts.items()}
    if len(set(shapes.values())) != 1 or any(shape[0] != 1 for shape in shapes.values()):
        raise ValueError(
            "paths must be one path a name, all with equal numbers of points of one shape, got "
            f"{shapes or 'no path'}"
        )
    return torch.cat(list(parts.values()))


def _shown(points: Tensor, project: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Images as they are, (settings, points, 1 or 3, h, w), else points in a plane (…, 2)."""
    if points.ndim == 5 and points.shape[2] in (1, 3):
        return points
    plane = points[..., :2] if project is None else project(points)
    if plane.shape != (*points.shape[:2], 2):
        raise ValueError(
            f"paths {tuple(points.shape)} are neither images (settings, points, 1 or 3, h, w) nor "
            "points in a plane; give a project=, (settings, points, *event) -> (settings, points, "
            f"2); got {tuple(plane.shape)}"
        )
    return plane


def _rounded(name: str, values: Tensor) -> Tensor:
    """Nobody wants to read 4.5e-16 where the path ends: rounding beside the greatest becomes 0."""
    values = checks.finite(name, torch.as_tensor(values)).detach().cpu()
    return values.where(values.abs() > 1e-9 * values.abs().amax(), 0.0)
