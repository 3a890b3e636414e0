"""Distances of adjacent frames, and frames at equal perceptual steps."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib import checks


def adjacent_distances(
    frames: Tensor, distance: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "pairs steps"]:
    """distance(x_i, x_{i+1}) along frames.

    Args:
        frames: (pairs, N ≥ 2, c, h, w).
        distance: Of images (n, c, h, w), twice, to (n,).

    Returns:
        (pairs, N − 1).
    """
    if frames.ndim != 5 or frames.shape[1] < 2:
        raise ValueError(
            f"frames must have shape (pairs, N ≥ 2, c, h, w), got {tuple(frames.shape)}"
        )
    steps = distance(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
    return steps.reshape(len(frames), frames.shape[1] - 1)


def perceptual_times(
    distances: Float[Tensor, "pairs steps"], times: Float[Tensor, "pairs frames"], count: int
) -> Float[Tensor, "pairs count"]:
    """Times of frames at equal steps of the cumulated distance.

    Between two frames the distance is taken as linear in time. Frames that are all equal keep equal
    steps in time.

    Args:
        distances: Between adjacent frames, ≥ 0, one fewer than frames.
        times: Of the frames, rising.
        count: How many times to give, at least 2.

    Returns:
        The times, float64.
    """
    checks.finite("distances", distances)
    steps = distances.double().cpu()
    steps = torch.where(steps.sum(1, keepdim=True) > 0, steps, 1.0)
    way = torch.cat([torch.zeros(len(steps), 1).double(), steps.cumsum(1)], 1).numpy()
    rows = [
        np.interp(np.linspace(0, distance[-1], count), distance, time)
        for distance, time in zip(way, times.double().cpu().numpy(), strict=True)
    ]
    return torch.as_tensor(np.array(rows))


def equal_steps(
    show: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    pairs: int,
    count: int,
    *,
    rounds: int = 1,
) -> tuple[Tensor, Tensor]:
    """Frames at nearly equal perceptual steps along their paths.

    Args:
        show: Times (pairs, count) to frames (pairs, count, c, height, width).
        distance: Of images (n, …), twice, to (n,): LPIPS or any other.
        pairs: How many paths.
        count: Frames a path, at least 2.
        rounds: How often the frames are measured and drawn anew; one in arXiv 2504.06675 (after
            DiffMorpher, CVPR 2024). Each costs all frames again.

    Returns:
        The frames and their times (pairs, count).
    """
    even = torch.linspace(0, 1, checks.count("count", count, least=2), dtype=torch.float64)
    times = even.expand(pairs, -1)
    frames = show(times)
    for _ in range(rounds):
        times = perceptual_times(adjacent_distances(frames, distance), times, count)
        frames = show(times)
    return frames, times
