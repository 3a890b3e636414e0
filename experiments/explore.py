"""Something to play with in JupyterLab: drag along a path, or through its frames, and change the setting it was made with."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lib import checks
from lib.methods.interpolate import Frames
from lib.solvers import Geodesic

from .figures import colour
from .gallery import _image

Paths = Tensor | Geodesic | Frames


def explore(
    paths: Paths | Mapping[str, Paths],
    labels: Sequence | None = None,
    *,
    name: str = "path",
    readouts: Mapping[str, Tensor] | None = None,
    backdrop: Callable[[Axes], object] | None = None,
    project: Callable[[Tensor], Tensor] = lambda x: x[..., :2],
    start: tuple[int, float] = (0, 0.5),
) -> Explorer:
    """Sliders for the setting (`name`) and the place on its path, a picture, and the numbers there in words.

    paths: (settings, points, *event), a Geodesic or Frames of so many paths, or label → one path each. labels: one a setting.
    Points (d,) are drawn where `project` (…, d) -> (…, 2) puts them, over what `backdrop(axes)` draws; events
    (1 or 3, h, w) are shown as images in [0, 1]. readouts: name → numbers (settings, points), drawn beside it. start: the
    setting and the place in [0, 1] to begin with. Nothing is solved while a hand moves. ValueError: shapes that do not fit.
    """
    if isinstance(paths, Mapping):
        labels, paths = list(paths) if labels is None else labels, _joined(paths)
    points = _points(paths)
    shown = points if points.ndim == 5 and points.shape[2] in (1, 3) else project(points)
    if shown is not points and (shown.shape[:2] != points.shape[:2] or shown.shape[2:] != (2,)):
        raise ValueError(
            f"paths {tuple(points.shape)} are neither images (settings, points, 1 or 3, h, w) nor points in a "
            f"plane; give a project=, (settings, points, *event) -> (settings, points, 2); got {tuple(shown.shape)}"
        )
    labels = range(len(points)) if labels is None else labels
    labels = [f"{label:.4g}" if isinstance(label, float) else str(label) for label in labels]
    numbers = {key: _rounded(key, value) for key, value in (readouts or {}).items()}
    wanted = {"labels": points.shape[:1]} | dict.fromkeys(numbers, points.shape[:2])
    for key, got in {
        "labels": (len(labels),),
        **{key: tuple(value.shape) for key, value in numbers.items()},
    }.items():
        if got != tuple(wanted[key]):
            raise ValueError(
                f"{key} must have shape {tuple(wanted[key])} to go with paths {tuple(points.shape)}, got {got}"
            )
    if not (0 <= start[0] < len(points) and 0 <= start[1] <= 1):
        raise ValueError(
            f"start must be a setting below {len(points)} and a place in [0, 1], got {start}"
        )
    return Explorer(shown, labels, name, numbers, backdrop or (lambda axes: None), start)


class Explorer(ipywidgets.VBox):
    """What `explore` returns. setting, place: sliders, whose values are indices; text and picture (PNG) follow them."""

    def __init__(
        self,
        points: Tensor,
        labels: list[str],
        name: str,
        numbers: dict[str, Tensor],
        backdrop: Callable[[Axes], object],
        start: tuple[int, float],
    ) -> None:
        self._labels, self._name, self._numbers = labels, name, numbers
        self._times = torch.linspace(0, 1, points.shape[1], dtype=torch.float64)
        self._draw(points, backdrop)
        self.setting = _slider(name, labels, start[0])
        self.place = _slider(
            "place on path",
            [f"{t:.2f}" for t in self._times],
            round(start[1] * (len(self._times) - 1)),
        )
        self.picture, self.text = (
            ipywidgets.Image(format="png", layout={"max_width": "100%"}),
            ipywidgets.HTML(),
        )
        for slider in (self.setting, self.place):
            slider.observe(self._move, "value")
        self._move()
        super().__init__([*[self.setting] * (len(labels) > 1), self.place, self.text, self.picture])

    def _draw(self, points: Tensor, backdrop: Callable[[Axes], object]) -> None:
        """All that stays, once; `_moving` keeps what moves: (artist, what puts it at setting i and place j)."""
        figure = Figure(figsize=(9.0 if self._numbers else 4.6, 4.0), dpi=110, layout="constrained")
        axes = figure.subplot_mosaic([["picture", key] for key in self._numbers] or [["picture"]])
        self._canvas, self._moving = FigureCanvasAgg(figure), []
        backdrop(axes["picture"])
        (self._images if points.ndim == 5 else self._curves)(axes["picture"], points)
        axes["picture"].set_aspect("equal")
        for key, values in self._numbers.items():
            axes[key].set(xlabel="place on path", title=key)
            self._curves(axes[key], torch.stack([self._times.expand(values.shape), values], 2))
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(figure.bbox)

    def _images(self, axes: Axes, frames: Tensor) -> None:
        axes.set_axis_off()
        shown = axes.imshow(
            _image(frames[0, 0]),
            cmap="gray_r",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            animated=True,
        )
        self._moving.append((shown, lambda i, j: shown.set_data(_image(frames[i, j]))))

    def _curves(self, axes: Axes, curves: Tensor) -> None:
        """Some of all (settings, points, 2) thin and grey; the chosen one and its place in colour."""
        some = curves[:: max(1, len(curves) // 8)].permute(2, 1, 0).numpy()
        axes.plot(*some, color=colour("euclidean"), linewidth=0.7, alpha=0.7)
        (line,) = axes.plot([], [], color=colour("stein"), linewidth=2.6, animated=True)
        (dot,) = axes.plot([], [], "o", color=colour("exact"), markersize=8, animated=True)
        self._moving += [
            (line, lambda i, j: line.set_data(*curves[i].T.numpy())),
            (dot, lambda i, j: dot.set_data(*curves[i, j : j + 1].T.numpy())),
        ]

    def _move(self, _: object = None) -> None:
        """Only the moving artists are drawn anew: a hand does not wait."""
        i, j, buffer = self.setting.value, self.place.value, io.BytesIO()
        self._canvas.restore_region(self._still)
        for artist, put in self._moving:
            put(i, j)
            artist.axes.draw_artist(artist)
        Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB").save(
            buffer, "png", compress_level=1
        )
        said = [
            f"{self._name} = {self._labels[i]}",
            f"place {self._times[j]:.2f}",
            *(f"{key} = {values[i, j]:.4g}" for key, values in self._numbers.items()),
        ]
        self.text.value, self.picture.value = (
            html.escape(" · ".join(said), quote=False),
            buffer.getvalue(),
        )


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
    found = (
        paths.points
        if isinstance(paths, Geodesic)
        else paths.frames
        if isinstance(paths, Frames)
        else paths
    )
    return checks.finite("paths", checks.floating("paths", found)).detach().cpu()


def _rounded(name: str, values: Tensor) -> Tensor:
    """Without what is rounding beside the greatest: nobody wants to read 4.5e-16 where the path ends."""
    values = checks.finite(name, torch.as_tensor(values)).detach().cpu()
    return values.where(values.abs() > 1e-9 * values.abs().amax(), 0.0)


def _joined(paths: Mapping[str, Paths]) -> Tensor:
    parts = {key: _points(path) for key, path in paths.items()}
    shapes = {key: tuple(part.shape[1:]) for key, part in parts.items()}
    if len(set(shapes.values())) != 1 or any(len(part) != 1 for part in parts.values()):
        raise ValueError(
            "paths must be one path a name, all with equal numbers of points of one shape, got "
            f"{({key: tuple(part.shape) for key, part in parts.items()}) or 'no path'}"
        )
    return torch.cat(list(parts.values()))
