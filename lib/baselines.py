"""What geodesics are compared with: interpolation and extrapolation that know nothing, or little, of the density."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .metrics.base import dot, scale
from .paths import lerp, slerp
from .scores.base import Score

INTERPOLATIONS = {"lerp": lerp, "slerp": slerp}


def straight(start: Tensor, velocity: Tensor, frames: int, time: float = 1.0) -> Tensor:
    """Go straight on: start + t·velocity, t in [0, time]; (batch, *event) -> (batch, frames, *event)."""
    checks.same_layout("start", start, "velocity", velocity)
    return lerp(start, start + checks.positive("time", time) * velocity, frames)


def guided_walk(score: Score, start: Tensor, velocity: Tensor, frames: int, time: float = 1.0, *,
                pull: float = 0.1, momentum: float = 1.0) -> Tensor:
    """A walk of equal steps that the score keeps near the data (after the extrapolation of arXiv 2505.11128).

    Each step goes along the last direction with its part along the score taken out, then `pull`·sigma² of the score back
    towards the data; sigma² s is the way to the denoised point, so pull = 1 would go all of it. The paper gives no
    settings: these, and `momentum` (weight of the last direction against the step really made), are our reading.

    start, velocity (batch, *event) -> (batch, frames, *event). One score a frame. Not a geodesic: no length is minimised.
    """
    checks.same_layout("start", start, "velocity", velocity)
    if not isinstance(score.sigma, float):
        raise ValueError("guided_walk needs a score with a noise level (sigma² s is the way back to the data)")
    if bool((velocity == 0).flatten(1).all(1).any()):
        raise ValueError("velocity is zero in some row: the walk has no direction there; drop these rows")
    step = velocity.flatten(1).norm(dim=1) * checks.positive("time", time) / (checks.count("frames", frames, least=2) - 1)
    x, path = start, [start]
    direction = scale(1 / velocity.flatten(1).norm(dim=1), velocity)
    for _ in range(frames - 1):
        s = checks.finite("the score on the walk", score(x))
        tangent = direction - scale(dot(direction, s) / dot(s, s).clamp_min(torch.finfo(x.dtype).tiny), s)
        new = x + scale(step / tangent.flatten(1).norm(dim=1).clamp_min(1e-12), tangent) + pull * score.sigma**2 * s
        made = new - x
        blend = momentum * tangent + (1 - momentum) * scale(1 / made.flatten(1).norm(dim=1), made)
        direction, x = scale(1 / blend.flatten(1).norm(dim=1).clamp_min(1e-12), blend), new
        path.append(x)
    return torch.stack(path, 1)


EXTRAPOLATIONS = {"straight": lambda score, *a, **k: straight(*a, **k), "guided_walk": guided_walk}
