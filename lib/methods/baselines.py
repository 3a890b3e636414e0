"""What geodesics are compared with: paths that know nothing, or little, of the density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..metrics.base import dot, scale
from ..paths import lerp, slerp
from ..scores.base import Score
from .spaces import Method

# NoiseDiffusion: largest number in a latent, and μ + ν, how much of both images.
CLIP = 2.0
BOOST = 1.2
# Guided walk: the share of the way to the denoised point that a step goes; 1 would be all of it.
PULL = 0.1


def noisediffusion(
    a: Float[Tensor, "batch *event"],
    b: Float[Tensor, "batch *event"],
    frames: int,
    clean_a: Float[Tensor, "batch *event"],
    clean_b: Float[Tensor, "batch *event"],
) -> Float[Tensor, "batch frames *event"]:
    """NoiseDiffusion (Zheng et al., ICLR 2024, with no fresh noise), for t in [0, 1]:

        z = α z_a + β z_b + (μ − α) √ᾱ y_a + (ν − β) √ᾱ y_b,  clipped to ±2,
        α = cos(πt/2),  β = sin(πt/2),  μ = 1.2 α/(α + β),  ν = 1.2 β/(α + β).

    The first and last frame follow the formula too (z_a + 0.2 √ᾱ y_a); the released code shows the
    given images there.

    Args:
        a: The inverted ends z_a, clipped to ±2.
        b: The inverted ends z_b, clipped to ±2.
        frames: How many, at least 2.
        clean_a: The clean ends √ᾱ y_a, in the same coordinates.
        clean_b: The clean ends √ᾱ y_b.
    """
    t = torch.linspace(0, 1, frames, dtype=torch.float64).reshape(-1, *[1] * (a.ndim - 1))
    alpha = (math.pi * t / 2).cos().to(a)
    beta = (math.pi * t / 2).sin().to(a)
    mu = BOOST * alpha / (alpha + beta)
    nu = BOOST * beta / (alpha + beta)
    z_a = a.clamp(-CLIP, CLIP)[:, None]
    z_b = b.clamp(-CLIP, CLIP)[:, None]
    noisy = alpha * z_a + beta * z_b
    clean = (mu - alpha) * clean_a[:, None] + (nu - beta) * clean_b[:, None]
    return (noisy + clean).clamp(-CLIP, CLIP)


def denoise_inner(
    score: Score, points: Float[Tensor, "batch frames *event"]
) -> Float[Tensor, "batch frames *event"]:
    """Replace each point between the ends by its posterior mean D_sigma(x) = x + sigma² s(x).

    The ends stay as they are. One evaluation a point between them. A point of a geodesic of p_sigma
    is as noisy as p_sigma's points are; this shows what it stands for.

    Args:
        score: With a noise level.
        points: Paths.

    Raises:
        ValueError: The score is of one fixed density, without noise.
    """
    inner = points[:, 1:-1]
    if inner.shape[1] == 0:
        return points
    times = torch.linspace(0, 1, points.shape[1], dtype=torch.float64)[1:-1]
    clean = score.along(times).denoise(inner.flatten(0, 1)).reshape(inner.shape)
    return torch.cat([points[:, :1], clean, points[:, -1:]], 1)


@dataclass(frozen=True)
class Baseline(Method):
    """An interpolation without a metric.

    Attributes:
        path: (a, b, frames) to (batch, frames, *event), in its space.
        mixes: Whether it takes the given ends too, as clean_a and clean_b.
        denoises: Whether its points between the ends are denoised once.
    """

    path: Callable[..., Tensor] = lerp
    mixes: bool = False
    denoises: bool = False


INTERPOLATIONS: dict[str, Baseline] = {
    "lerp": Baseline("straight line", path=lerp),
    "slerp": Baseline("great circle about the origin", path=slerp),
    "lerp_denoised": Baseline(
        "straight line, each point between the ends denoised once: D_sigma(x) = x + sigma² s(x)",
        path=lerp,
        denoises=True,
        only_there=True,
    ),
    "shared_noise_lerp": Baseline(
        "straight line between ends with the same noise, t = 400",
        path=lerp,
        space="shared_noise",
        time=0.4,
        only_there=True,
    ),
    "shared_noise_slerp": Baseline(
        "great circle between ends with the same noise, t = 400",
        path=slerp,
        space="shared_noise",
        time=0.4,
        only_there=True,
    ),
    "ddim_slerp": Baseline(
        "DDIM inversion to noise alone, great circle there (Song, Meng & Ermon 2021)",
        path=slerp,
        space="ddim",
        time=1.0,
        only_there=True,
    ),
    "noisediffusion": Baseline(
        "DDIM inversion to t = 700, clipped and mixed (Zheng et al. 2024)",
        path=noisediffusion,
        mixes=True,
        space="ddim",
        time=0.7,
        only_there=True,
    ),
}


def straight(
    score: Score | None,
    start: Float[Tensor, "batch *event"],
    velocity: Float[Tensor, "batch *event"],
    frames: int,
    time: float = 1.0,
) -> Float[Tensor, "batch frames *event"]:
    """Go straight on: start + t·velocity, t in [0, time]; the score is not used."""
    return lerp(start, start + time * velocity, frames)


def guided_walk(
    score: Score,
    start: Float[Tensor, "batch *event"],
    velocity: Float[Tensor, "batch *event"],
    frames: int,
    time: float = 1.0,
) -> Float[Tensor, "batch frames *event"]:
    """A walk of equal steps that the score keeps near the data, after arXiv 2505.11128.

    Each step goes along the last direction with its part along the score taken out, then
    PULL·sigma² s towards the data. The paper gives no settings: these are our reading. One score a
    frame. Not a geodesic: no length is minimised.

    Args:
        score: With a noise level: sigma² s is the way to the denoised point.
        start: Points.
        velocity: Its direction is the first; ‖velocity‖·time is the length of the walk.
        frames: How many, at least 2.
        time: How long, > 0.
    """
    if not isinstance(score.sigma, float):
        raise ValueError(
            "guided_walk needs a score with a noise level (sigma² s is the way back to the data)"
        )
    checks.nonzero("velocity", velocity)
    step = _norm(velocity) * time / (frames - 1)
    tiny = torch.finfo(start.dtype).tiny
    x = start
    direction = _normalised(velocity)
    path = [start]
    for t in torch.linspace(0, 1, frames)[:-1]:
        s = checks.finite("the score on the walk", score.along(t.reshape(1))(x))
        along_score = dot(direction, s) / dot(s, s).clamp_min(tiny)
        tangent = direction - scale(along_score, s)
        onwards = scale(step / _norm(tangent).clamp_min(1e-12), tangent)
        x = x + onwards + PULL * score.sigma**2 * s
        direction = _normalised(tangent)
        path.append(x)
    return torch.stack(path, 1)


def _norm(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)


def _normalised(v: Tensor) -> Tensor:
    return scale(1 / _norm(v).clamp_min(1e-12), v)


# (score, start, velocity, frames, time) to (batch, frames, *event).
EXTRAPOLATIONS: dict[str, Callable[..., Tensor]] = {
    "straight": straight,
    "guided_walk": guided_walk,
}
