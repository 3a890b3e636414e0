"""Optimal transport of ink: the way from one image to another on which each grain of ink moves.

It knows nothing of any score, and nothing of what digits look like.
"""

import numpy as np
import ot
import torch
from jaxtyping import Float
from torch import Tensor

from lib import checks

Images = Float[Tensor, "n 1 height width"]


def displacement(
    first: Images, second: Images, frames: int
) -> Float[Tensor, "n frames 1 height width"]:
    """Displacement interpolation (McCann 1997) between images taken as masses of ink.

    The plan P of least Σ P_ij ‖x_i − x_j‖² between the two normalised masses is exact (`ot.emd`).
    At time t each P_ij lies at (1 − t) x_i + t x_j and is shared bilinearly among the four pixels
    around it. The total of ink goes linearly from that of the first to that of the second image.
    Where ink meets, a pixel may hold more than 1.

    Args:
        first: grey images, ≥ 0, each with some ink.
        second: as many, of the same size.
        frames: how many, both ends included, at least 2.

    Raises:
        ValueError: images of another shape, negative, or without ink.
    """
    checks.same_layout("first", first, "second", second)
    checks.count("frames", frames, least=2)
    if first.ndim != 4 or first.shape[1] != 1:
        raise ValueError(f"ink is grey: images must be (n, 1, h, w), got {tuple(first.shape)}")
    for name, images in (("first", first), ("second", second)):
        checks.finite(name, images)
        if images.min() < 0 or (images.flatten(1).sum(1) <= 0).any():
            raise ValueError(f"{name} must hold ink ≥ 0, and some of it in each image")
    moved = [
        _between(a[0].double().cpu().numpy(), b[0].double().cpu().numpy(), frames)
        for a, b in zip(first, second, strict=True)
    ]
    return torch.from_numpy(np.stack(moved)).to(first)[:, :, None]


def _between(a: np.ndarray, b: np.ndarray, frames: int) -> np.ndarray:
    """(frames, height, width) of one pair."""
    places_a = np.argwhere(a > 0).astype(float)
    places_b = np.argwhere(b > 0).astype(float)
    mass_a = a[a > 0]
    mass_b = b[b > 0]
    # Squared Euclidean distances are its default.
    cost = ot.dist(places_a, places_b)
    plan = ot.emd(mass_a / mass_a.sum(), mass_b / mass_b.sum(), cost)
    rows, columns = plan.nonzero()
    share = plan[rows, columns]
    shown = np.empty((frames, *a.shape))
    for k, t in enumerate(np.linspace(0, 1, frames)):
        ink = (1 - t) * mass_a.sum() + t * mass_b.sum()
        places = (1 - t) * places_a[rows] + t * places_b[columns]
        shown[k] = _splat(places, ink * share, a.shape)
    return shown


def _splat(places: np.ndarray, masses: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Masses at real places (row, column), each shared bilinearly among four pixels."""
    image = np.zeros(shape)
    corner = np.floor(places).astype(int)
    rest = places - corner
    for down in (0, 1):
        for right in (0, 1):
            weight_down = rest[:, 0] if down else 1 - rest[:, 0]
            weight_right = rest[:, 1] if right else 1 - rest[:, 1]
            # A place on the last row has no weight beyond it.
            row = np.minimum(corner[:, 0] + down, shape[0] - 1)
            column = np.minimum(corner[:, 1] + right, shape[1] - 1)
            np.add.at(image, (row, column), masses * weight_down * weight_right)
    return image
