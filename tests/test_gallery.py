"""Frames to look at: every one is shown, and what is no row of images is refused."""

import math

import matplotlib as mpl
import pytest
import torch
from PIL import Image, ImageSequence

from experiments import figures
from experiments.gallery import frame_rows, moving_picture
from experiments.own_model import draw_rows
from experiments.pipeline_drawing import draw_pipeline
from experiments.triptych import draw_triptych
from lib import FunctionScore
from workflow.publish import FIGURES, look_alike


def test_frame_rows_shows_every_frame():
    figure = frame_rows(
        {"a": torch.rand(9, 1, 8, 8), "b": torch.rand(5, 3, 8, 8)},
        columns=3,
        titles=["0", "½", "1"],
    )
    assert (
        len(figure.axes) == 6
        and figure.axes[0].get_ylabel() == "a"
        and figure.axes[2].get_title() == "1"
    )


@pytest.mark.parametrize(
    "rows, message",
    [
        ({}, "at least one"),
        ({"a": torch.rand(3, 8, 8)}, "frames must have shape"),
        ({"a": torch.full((2, 1, 4, 4), math.nan)}, "NaN"),
    ],
)
def test_frame_rows_refuses_what_is_no_row_of_images(rows, message):
    with pytest.raises(ValueError, match=message):
        frame_rows(rows)


def test_a_moving_picture_goes_there_and_back(tmp_path):
    ramp = torch.linspace(0, 1, 4)[:, None, None, None]
    panels = {"grey": ramp.expand(4, 1, 8, 8), "red": ramp * torch.ones(4, 3, 8, 8)}
    path = moving_picture(panels, tmp_path / "a.gif", side=16, inverted=False)
    with Image.open(path) as picture:
        frames = [frame.convert("L") for frame in ImageSequence.Iterator(picture)]
    assert len(frames) == 6 and frames[0].size == (2 * 16 + 6, 22 + 16)
    seen = [frame.getpixel((8, 22 + 8)) for frame in frames]
    assert seen == pytest.approx([0, 85, 170, 255, 170, 85], abs=3)


@pytest.mark.parametrize(
    "panels, message",
    [
        ({}, "at least one"),
        ({"a": torch.rand(3, 3, 8, 8), "b": torch.rand(4, 3, 8, 8)}, "as many frames"),
        ({"a": torch.full((2, 1, 4, 4), math.nan)}, "NaN"),
    ],
)
def test_a_moving_picture_refuses_panels_that_do_not_fit(panels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        moving_picture(panels, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_the_drawing_of_a_pipeline_shows_both_ends_and_every_frame():
    figure = draw_pipeline(torch.rand(2, 3, 8, 8), torch.randn(2, 4, 4, 4), torch.rand(5, 3, 8, 8))
    assert sum(len(axes.images) for axes in figure.axes) == 2 + 2 + 5


def test_points_of_any_model_are_drawn():
    """Pixels as images, vectors as dots in the plane, joined where they are a path."""
    rows = {"draws": torch.rand(5, 3, 4, 4), "more": torch.rand(5, 3, 4, 4)}
    images = FunctionScore(torch.neg, event_shape=(3, 4, 4))
    assert len(draw_rows(images, rows, columns=3).axes) == 6
    vectors = FunctionScore(torch.neg, event_shape=(2,))
    rows = {"line": torch.rand(5, 2), "path": torch.rand(5, 2)}
    (plane,) = draw_rows(vectors, rows).axes
    assert [line.get_label() for line in plane.lines] == ["line", "path"]
    assert plane.lines[0].get_linestyle() == "-"
    (plane,) = draw_rows(vectors, rows, joined=False).axes
    assert plane.lines[0].get_linestyle() == "None"


def test_the_published_triptych_shows_the_published_paths(tmp_path):
    published = FIGURES / "00_triptych.gif"
    with mpl.rc_context():
        figures.use_style()
        drawn = draw_triptych(FIGURES, tmp_path / "drawn.gif")
    assert look_alike(drawn, published), "run make figures ARGS=00"
    assert published.stat().st_size < 400_000


def test_a_triptych_without_its_arrays_says_what_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="make figures ARGS=01"):
        draw_triptych(tmp_path, tmp_path / "a.gif")
