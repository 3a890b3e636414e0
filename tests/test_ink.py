"""Optimal transport of ink where the answer is known."""

import math

import pytest
import torch

from experiments import data, ink


def blob(right: float, down: float, size: int = 28) -> torch.Tensor:
    places = torch.arange(size, dtype=torch.float64)
    squares = (places - right) ** 2 + (places[:, None] - down) ** 2
    # a finite support, so that nothing lies at the edge
    return torch.where(squares < 25, torch.exp(-squares / 8), 0.0)[None, None]


def test_a_shifted_blob_is_carried_along():
    """The optimal plan of a translation is the translation (Brenier)."""
    frames = ink.displacement(blob(10, 12), blob(18, 16), 5)
    for k, frame in enumerate(frames[0]):
        torch.testing.assert_close(frame[None], blob(10 + 2 * k, 12 + k), rtol=0, atol=1e-12)


def test_ends_and_mass_are_kept():
    images = data.digits(limit=4).images.double()
    first, second = images[:2], images[2:]
    frames = ink.displacement(first, second, 4)
    torch.testing.assert_close(frames[:, 0], first, rtol=0, atol=1e-12)
    torch.testing.assert_close(frames[:, -1], second, rtol=0, atol=1e-12)
    mass = frames.flatten(2).sum(2)
    share = torch.linspace(0, 1, 4, dtype=torch.float64)
    expected = torch.lerp(mass[:, :1], mass[:, -1:], share)
    torch.testing.assert_close(mass, expected, rtol=1e-9, atol=0)
    assert ink.displacement(first.float(), second.float(), 4).dtype == torch.float32


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x - 1, "≥ 0"),
        (lambda x: 0 * x, "some of it"),
        (lambda x: x.expand(-1, 3, -1, -1), "grey"),
        (lambda x: x * math.nan, "NaN"),
    ],
)
def test_images_without_ink_are_refused(change, message):
    image = change(blob(10, 10))
    with pytest.raises(ValueError, match=message):
        ink.displacement(image, image, 3)
