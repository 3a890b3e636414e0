"""Videos as paths: how far they lie from a path, and their next frames.

A video is a tensor (batch, frames, *event), frames at equal steps in time: images or latents.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import checks, paths
from .elements import working_dtype


class Deviation(NamedTuple):
    """How far each frame lies from a path, in distances of the first from the last frame.

    Attributes:
        equal: From the path at the frame's own time.
        matched: From the path as a curve, at the best times that never go back (both ends kept):
            what is left when the video may run along the curve at a speed of its own.
        times: These best times, in [0, 1].
    """

    equal: Float[Tensor, "batch frames"]
    matched: Float[Tensor, "batch frames"]
    times: Float[Tensor, "batch frames"]


def deviation(
    path: Float[Tensor, "batch points *event"],
    frames: Float[Tensor, "batch frames *event"],
    *,
    fine: int = 256,
) -> Deviation:
    """How far the frames of videos lie from paths between their first and their last frame.

    Args:
        path: At least 2 points each.
        frames: At least 3 each, the first other than the last.
        fine: Steps in which the curve is searched; a matched distance comes out too large by at
            most about half such a step.

    Returns:
        The deviations, in float64 where the device has it.

    Raises:
        ValueError: Other shapes, numbers that are not finite, or equal ends.

    Example:
        >>> line = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
        >>> video = torch.tensor([[[0.0, 0.0], [0.5, 0.4], [2.0, 0.0]]])
        >>> off = deviation(line, video, fine=100)
        >>> [round(d[0, 1].item(), 3) for d in off]  # in step; from the line; at which time
        [0.32, 0.2, 0.25]
    """
    checks.finite("path", checks.floating("path", path))
    checks.finite("frames", checks.floating("frames", frames))
    fits = path.shape[:1] + path.shape[2:] == frames.shape[:1] + frames.shape[2:]
    if not fits or frames.shape[1] < 3 or path.shape[1] < 2:
        raise ValueError(
            "a path must be (batch, N ≥ 2, *event) and a video (batch, frames ≥ 3, *event), got "
            f"{tuple(path.shape)} and {tuple(frames.shape)}"
        )
    work = working_dtype(frames)
    x = frames.flatten(2).to(work)
    chord = (x[:, -1:] - x[:, :1]).norm(dim=2)
    if bool((chord == 0).any()):
        raise ValueError(
            "a video's first frame equals its last: there is no path between them to compare with; "
            "cut it"
        )
    nodes = path.flatten(2).to(work)
    steps = checks.count("fine", fine)
    curve = paths.evaluate(nodes, torch.linspace(0, 1, steps + 1, dtype=work))
    in_step = paths.evaluate(nodes, torch.linspace(0, 1, frames.shape[1], dtype=work))
    distances = torch.cdist(x, curve, compute_mode="donot_use_mm_for_euclid_dist")
    places = monotone_matching(distances.square())
    matched = distances.gather(2, places[..., None])[..., 0]
    return Deviation(
        equal=(in_step - x).norm(dim=2) / chord,
        matched=matched / chord,
        times=places.to(work) / steps,
    )


def monotone_matching(
    cost: Float[Tensor, "batch frames places"],
) -> Int[Tensor, "batch frames"]:
    """Places j_0 = 0 ≤ j_1 ≤ … ≤ last that make Σ_k cost[k, j_k] least, by dynamic programming."""
    # least cost of frames 0…k with frame k at each place
    total = torch.full_like(cost[:, 0], torch.inf)
    total[:, 0] = cost[:, 0, 0]
    # for each frame k > 0: the best place of frame k − 1 if frame k is at a place
    sources = []
    for k in range(1, cost.shape[1]):
        least, source = total.cummin(1)
        total = least + cost[:, k]
        sources.append(source)
    last = cost.shape[2] - 1
    places = [torch.full_like(sources[0][:, :1], last)]
    for source in reversed(sources):
        places.append(source.gather(1, places[-1]))
    return torch.cat(places[::-1], 1)


def turning(frames: Float[Tensor, "batch frames *event"]) -> Float[Tensor, "batch angles"]:
    """Angles between adjacent steps of a video, in degrees; 0 for a straight line.

    Args:
        frames: At least 3 each.

    Returns:
        The angles at the interior frames.
    """
    step = frames.flatten(2).to(working_dtype(frames)).diff(dim=1)
    step = step / step.norm(dim=2, keepdim=True)
    return torch.rad2deg(paths.angle_between(step[:, :-1], step[:, 1:])[..., 0])


def velocity(
    frames: Float[Tensor, "batch frames *event"], last: int = 3
) -> Float[Tensor, "batch *event"]:
    """Change a frame at the end of a video.

    The slope of the line fitted to the last frames by least squares.

    Args:
        frames: The videos.
        last: Frames that are fitted, at least 2.

    Returns:
        One velocity a video, per frame.

    Raises:
        ValueError: Too few frames.

    Example:
        >>> velocity(torch.tensor([[[0.0], [1.0], [3.0]]]), last=2).tolist()
        [[2.0]]
    """
    if checks.count("last", last, least=2) > frames.shape[1]:
        raise ValueError(f"last must be at most the video's {frames.shape[1]} frames, got {last}")
    powers = np.vander(np.arange(1 - last, 1), 2, increasing=True)
    slope = torch.as_tensor(np.linalg.pinv(powers)[1]).to(frames)
    return torch.einsum("n,bn...->b...", slope, frames[:, -last:])
