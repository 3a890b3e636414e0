"""Measures of images against the truth, and of one sequence of frames."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lib import checks
from lib.density import along_path
from lib.scores import Score

Images = Float[Tensor, "n channels height width"]
Distance = Callable[[Images, Images], Float[Tensor, " n"]]


def mse(images: Images, truth: Images) -> Float[Tensor, " n"]:
    """Mean squared error a pixel and channel, of images in [0, 1]."""
    checks.same_layout("images", images, "truth", truth)
    return (images - truth).square().flatten(1).mean(1)


def psnr(images: Images, truth: Images) -> Float[Tensor, " n"]:
    """−10 log10(mse) in dB, of images in [0, 1]; infinite for equal images."""
    checks.same_layout("images", images, "truth", truth)
    return peak_signal_noise_ratio(images, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Images, truth: Images) -> Float[Tensor, " n"]:
    """Structural similarity (Wang et al. 2004), 1 for equal images.

    Gaussian window, sigma 1.5, K = (0.01, 0.03), range 1, mean over the image.

    Args:
        images: in [0, 1], at least 11×11 pixels.
        truth: of the same shape.
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


def ppl(steps: Float[Tensor, "pairs steps"]) -> Float[Tensor, " pairs"]:
    """Perceptual path length: the sum of the distances of adjacent frames."""
    return steps.sum(1)


def pdv(steps: Float[Tensor, "pairs steps"]) -> Float[Tensor, " pairs"]:
    """Perceptual distance variation, zero for frames at equal perceptual steps.

    Standard deviation (divisor: their number) of the distances of adjacent frames.
    """
    return steps.std(1, correction=0)


def largest_step(steps: Float[Tensor, "pairs steps"]) -> Float[Tensor, " pairs"]:
    """The largest distance of adjacent frames: a jump from one end to the other shows here."""
    return steps.amax(1)


class PathLogDensity(NamedTuple):
    """log p over the frames of each path, in nats.

    Attributes:
        mean: less the mean over the two end points.
        dip: ≥ 0, how far the lowest frame lies below the lower end point.
    """

    mean: Float[Tensor, " pairs"]
    dip: Float[Tensor, " pairs"]


def path_log_density(score: Score, frames: Float[Tensor, "pairs frames *event"]) -> PathLogDensity:
    """log p_sigma along frames, relative to the end points.

    sigma is the score's own level. By the line integral of the score (`lib.density.along_path`), a
    quadrature: inexact for frames far apart against sigma.
    """
    return relative_to_ends(along_path(score, frames))


def relative_to_ends(log_density: Float[Tensor, "pairs frames"]) -> PathLogDensity:
    """`path_log_density` of log p along frames, less that of the first, that is known already."""
    ends = log_density[:, [0, -1]]
    return PathLogDensity(
        mean=log_density.mean(1) - ends.mean(1),
        dip=ends.amin(1) - log_density.amin(1),
    )
