"""What geodesics are compared with: interpolation and extrapolation that know nothing, or little, of the density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import checks
from ..metrics.base import dot, scale
from ..paths import lerp, slerp
from ..scores.base import Score

CLIP = 2.0  # NoiseDiffusion: largest number in a latent
BOOST = 1.2  # NoiseDiffusion: μ + ν, how much of both images


def noisediffusion(a: Tensor, b: Tensor, frames: int, clean_a: Tensor, clean_b: Tensor) -> Tensor:
    """NoiseDiffusion (Zheng et al., ICLR 2024, with no fresh noise): (batch, *event) each -> (batch, frames, *event).

    Of the inverted ends z_a, z_b, clipped to ±2, and the clean ends √ᾱ y_a, √ᾱ y_b in the same coordinates, for t in [0, 1]

        z = a z_a + b z_b + (μ − a) √ᾱ y_a + (ν − b) √ᾱ y_b,  clipped to ±2,
        a = cos(πt/2),  b = sin(πt/2),  μ = 1.2 a/(a + b),  ν = 1.2 b/(a + b).

    The first and last frame follow the formula too (z_a + 0.2 √ᾱ y_a); the released code shows the given images there.
    """
    for name, x in (("b", b), ("clean_a", clean_a), ("clean_b", clean_b)):
        checks.same_layout("a", a, name, x)
    t = torch.linspace(0, 1, checks.count("frames", frames, least=2), dtype=torch.float64).reshape(
        -1, *[1] * (a.ndim - 1)
    )
    wa, wb = (w.to(a) for w in ((math.pi * t / 2).cos(), (math.pi * t / 2).sin()))
    mu, nu = BOOST * wa / (wa + wb), BOOST * wb / (wa + wb)
    za, zb, ya, yb = (
        x[:, None] for x in (a.clamp(-CLIP, CLIP), b.clamp(-CLIP, CLIP), clean_a, clean_b)
    )
    return (wa * za + wb * zb + (mu - wa) * ya + (nu - wb) * yb).clamp(-CLIP, CLIP)


@dataclass(frozen=True)
class Baseline:
    """An interpolation without a metric. path(a, b, frames) -> (batch, frames, *event) in `space` (lib.methods.spaces), at the noise
    level of `time`, a fraction of the model's time steps. mixes: it takes clean_a, clean_b, the given ends there, too."""

    path: Callable[..., Tensor]
    summary: str
    space: str = "clean"
    time: float | None = None
    mixes: bool = False


INTERPOLATIONS: dict[str, Baseline] = {
    "lerp": Baseline(lerp, "straight line"),
    "slerp": Baseline(slerp, "great circle about the origin"),
    "shared_noise_lerp": Baseline(
        lerp, "straight line between ends with the same noise, t = 400", "shared_noise", 0.4
    ),
    "shared_noise_slerp": Baseline(
        slerp, "great circle between ends with the same noise, t = 400", "shared_noise", 0.4
    ),
    "ddim_slerp": Baseline(
        slerp,
        "DDIM inversion to noise alone, great circle there (Song, Meng & Ermon 2021)",
        "ddim",
        1.0,
    ),
    "noisediffusion": Baseline(
        noisediffusion,
        "DDIM inversion to t = 700, clipped and mixed (Zheng et al. 2024)",
        "ddim",
        0.7,
        mixes=True,
    ),
}


def straight(start: Tensor, velocity: Tensor, frames: int, time: float = 1.0) -> Tensor:
    """Go straight on: start + t·velocity, t in [0, time]; (batch, *event) -> (batch, frames, *event)."""
    checks.same_layout("start", start, "velocity", velocity)
    return lerp(start, start + checks.positive("time", time) * velocity, frames)


def guided_walk(
    score: Score,
    start: Tensor,
    velocity: Tensor,
    frames: int,
    time: float = 1.0,
    *,
    pull: float = 0.1,
    momentum: float = 1.0,
) -> Tensor:
    """A walk of equal steps that the score keeps near the data (after the extrapolation of arXiv 2505.11128).

    Each step goes along the last direction with its part along the score taken out, then `pull`·sigma² of the score back
    towards the data; sigma² s is the way to the denoised point, so pull = 1 would go all of it. The paper gives no
    settings: these, and `momentum` (weight of the last direction against the step really made), are our reading.

    start, velocity (batch, *event) -> (batch, frames, *event). One score a frame. Not a geodesic: no length is minimised.
    """
    checks.same_layout("start", start, "velocity", velocity)
    if not isinstance(score.sigma, float):
        raise ValueError(
            "guided_walk needs a score with a noise level (sigma² s is the way back to the data)"
        )
    if bool((velocity == 0).flatten(1).all(1).any()):
        raise ValueError(
            "velocity is zero in some row: the walk has no direction there; drop these rows"
        )
    step = (
        velocity.flatten(1).norm(dim=1)
        * checks.positive("time", time)
        / (checks.count("frames", frames, least=2) - 1)
    )
    x, path = start, [start]
    direction = scale(1 / velocity.flatten(1).norm(dim=1), velocity)
    for place in torch.linspace(0, 1, frames)[:-1]:
        s = checks.finite("the score on the walk", score.along(place.reshape(1))(x))
        tangent = direction - scale(
            dot(direction, s) / dot(s, s).clamp_min(torch.finfo(x.dtype).tiny), s
        )
        new = (
            x
            + scale(step / tangent.flatten(1).norm(dim=1).clamp_min(1e-12), tangent)
            + pull * score.sigma**2 * s
        )
        made = new - x
        blend = momentum * tangent + (1 - momentum) * scale(1 / made.flatten(1).norm(dim=1), made)
        direction, x = scale(1 / blend.flatten(1).norm(dim=1).clamp_min(1e-12), blend), new
        path.append(x)
    return torch.stack(path, 1)


EXTRAPOLATIONS = {"straight": lambda score, *a, **k: straight(*a, **k), "guided_walk": guided_walk}
