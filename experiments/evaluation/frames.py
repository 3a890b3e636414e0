"""Measures of images against the truth, and of one sequence of frames."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lib import checks
from lib.density import along_path
from lib.latents import adjacent_distances as adjacent_distances
from lib.scores import Score

# Images (n, c, h, w) twice -> (n,).
Distance = Callable[[Tensor, Tensor], Tensor]


def mse(images: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error a pixel and channel: (n, c, h, w) in [0, 1], twice -> (n,)."""
    checks.same_layout("images", images, "truth", truth)
    return (images - truth).square().flatten(1).mean(1)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """−10 log10(mse) in dB: (n, c, h, w) in [0, 1], twice -> (n,); infinite for equal images."""
    checks.same_layout("images", images, "truth", truth)
    return peak_signal_noise_ratio(images, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), 1 for equal images.

    Gaussian window, sigma 1.5, K = (0.01, 0.03), range 1, mean over the image.

    Args:
        images: (n, c, h, w) in [0, 1], h and w ≥ 11 pixels.
        truth: of the same shape.

    Returns:
        (n,).
    """
    checks.same_layout("images", images, "truth", truth)
    if min(images.shape[-2:]) < 11:
        raise ValueError(
            f"ssim needs at least 11×11 pixels for its window, got {tuple(images.shape)}"
        )
    similarity = structural_similarity_index_measure(
        images, truth, data_range=1.0, reduction="none"
    )
    # torchmetrics drops the axis of a single image.
    return similarity.reshape(len(images))


def ppl(steps: Tensor) -> Tensor:
    """Perceptual path length, the sum of the distances of adjacent frames: (pairs, N − 1) -> (pairs,)."""
    return steps.sum(1)


def pdv(steps: Tensor) -> Tensor:
    """Perceptual distance variation, zero for frames at equal perceptual steps.

    Standard deviation (divisor: their number) of the distances of adjacent frames:
    (pairs, N − 1) -> (pairs,).
    """
    return steps.std(1, correction=0)


class PathLogDensity(NamedTuple):
    """log p over the frames of each path, in nats.

    Attributes:
        mean: (pairs,), less the mean over the two end points.
        dip: (pairs,) ≥ 0, how far the lowest frame lies below the lower end point.
    """

    mean: Tensor
    dip: Tensor


def path_log_density(score: Score, frames: Tensor) -> PathLogDensity:
    """log p_sigma along frames (pairs, N, *event), relative to the end points.

    sigma is the score's own level. By the line integral of the score (`lib.density.along_path`), a
    quadrature: inexact for frames far apart against sigma.
    """
    log_density = along_path(score, frames)
    ends = log_density[:, [0, -1]]
    return PathLogDensity(
        mean=log_density.mean(1) - ends.mean(1),
        dip=ends.amin(1) - log_density.amin(1),
    )
