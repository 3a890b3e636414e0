"""Rows of frames: every frame is shown, and what is no row of images is refused."""

import math

import pytest
import torch

from experiments.gallery import frame_rows


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
