"""The deterministic probability flow between data and noise: inversion, denoising, sampling.

In variance-exploding coordinates, x = x_0 + sigma·noise, the flow of Song et al. 2021 is (Karras et
al. 2022, eq. 1)

    dx/dsigma = (x − D_sigma(x))/sigma = −sigma s_sigma(x).

DDIM (Song, Meng & Ermon 2021, eq. 12) is Euler's method for it: with eps = (y − D(y))/sigma and
sigma = √((1−ᾱ)/ᾱ) its step is, for z = √ᾱ y,

    z' = √ᾱ' (z − √(1−ᾱ) eps)/√ᾱ + √(1−ᾱ') eps   ⇔   y' = y + (sigma' − sigma) eps.

Noise levels are in the units of the points x. No step is differentiated.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from . import checks
from .scores.base import Score
from .scores.schedule import CEILING, ddpm_steps

METHODS = ("ddim", "heun")
# Karras et al. 2022, table 1.
RHO = 7


def diffuse(
    score: Score,
    x: Float[Tensor, "*batch_event"],
    sigma: float,
    *,
    steps: int = 30,
    method: str = "ddim",
) -> Float[Tensor, "n *event"]:
    """Data -> noise level sigma, the "DDIM inversion".

    The data count as points at the lowest level, an error of second order in it. Evaluations a
    point: steps − 1 for "ddim", twice that for "heun".

    Args:
        score: knows several noise levels.
        x: points (n, *event), or one point (*event).
        sigma: noise level to reach.
        steps: noise levels, the lowest and sigma among them, ≥ 2.
        method: see `follow`.

    Raises:
        ValueError: bad settings.
        ArithmeticError: the flow blows up.
    """
    checks.count("steps", steps, least=2)
    levels = noise_levels(score, sigma, steps)
    return follow(score, x, levels[::-1], method)


def denoise(
    score: Score,
    x: Float[Tensor, "*batch_event"],
    sigma: float,
    *,
    steps: int = 30,
    method: str = "ddim",
) -> Float[Tensor, "n *event"]:
    """Noise level sigma -> data (Karras et al. 2022, algorithm 1).

    Through the `noise_levels`, and from the lowest to zero, where Euler's step is D
    itself. Evaluations a point: steps for "ddim", 2 steps − 1 for "heun". Arguments and errors are
    those of `diffuse`.
    """
    levels = noise_levels(score, sigma, steps)
    return follow(score, x, [*levels, 0.0], method)


def sample(
    score: Score,
    n: int,
    generator: torch.Generator,
    *,
    steps: int = 24,
    method: str = "heun",
    sigma: float | None = None,
) -> Float[Tensor, "n *event"]:
    """Draws from the model: noise about y = 0, denoised, float32 on the generator's device.

    Args:
        score: knows several noise levels, and its event_shape.
        n: how many.
        generator: draws the noise.
        steps: see `denoise`.
        method: see `follow`.
        sigma: level of the noise; the top of the model's noise range by default.
    """
    if score.event_shape is None:
        raise ValueError(f"{score.name} does not say what shape a point has: set its event_shape")
    if sigma is None:
        _, sigma = _noise_range(score)
    if sigma is None:
        raise ValueError(
            f"{score.name} has no noise_range: give sigma=, a level at which only noise is left"
        )
    size = (checks.count("n", n), *score.event_shape)
    noise = torch.randn(size, generator=generator, device=generator.device)
    x = sigma * noise - score.shift / score.scale
    return denoise(score, x, sigma, steps=steps, method=method)


def follow(
    score: Score,
    x: Float[Tensor, "*batch_event"],
    levels: Sequence[float],
    method: str = "ddim",
) -> Float[Tensor, "n *event"]:
    """Carry points along the flow through all noise levels.

    Args:
        score: knows several noise levels.
        x: points (n, *event), or one point (*event), at levels[0].
        levels: rising or falling; the last one may be 0, the data.
        method: "ddim" (Euler, first order, one evaluation a step) or "heun" (second order, two; one
            for the step to zero).

    Raises:
        ArithmeticError: the flow blows up.
    """
    checks.choice("method", method, METHODS)
    x = checks.batched("x", x, score.event_shape)
    with torch.no_grad():
        for now, then in pairwise(levels):
            slope = -now * score.at(now)(x)
            euler = x + (then - now) * slope
            if method == "heun" and then > 0:
                x = x + (then - now) * (slope - then * score.at(then)(euler)) / 2
            else:
                x = euler
    if not bool(torch.isfinite(x).all()):
        raise ArithmeticError(
            f"the flow from noise level {levels[0]:.4g} to {levels[-1]:.4g} ran into NaN or "
            "infinity; use more steps"
        )
    return x


def noise_levels(score: Score, sigma: float, steps: int) -> list[float]:
    """Noise levels falling from sigma to the lowest (Karras et al. 2022, eq. 5):

        sigma_i = (sigma^{1/7} + i/(steps−1) (lowest^{1/7} − sigma^{1/7}))^7.

    Args:
        score: knows its noise range, or none.
        sigma: the first level.
        steps: how many levels, down to the model's lowest, or sigma/1000 where it has none; one is
            sigma alone.

    Raises:
        ValueError: sigma is not above the lowest level.
    """
    sigma = checks.positive("sigma", sigma)
    lowest, _ = _noise_range(score)
    if lowest is None:
        lowest = sigma / 1000
    if lowest >= sigma:
        raise ValueError(
            f"sigma = {sigma:.4g} must be above the lowest noise level, {lowest:.4g} (in the units "
            "of x)"
        )
    first, last = torch.tensor([sigma, lowest], dtype=torch.float64) ** (1 / RHO)
    parts = torch.linspace(0, 1, checks.count("steps", steps), dtype=torch.float64)
    inner = (torch.lerp(first, last, parts) ** RHO).tolist()
    # The ends are met exactly.
    return [sigma, *inner[1:-1], lowest][:steps]


def noise_at(score: Score, time: float) -> float:
    """The noise level, in the units of x, at a fraction of the model's time steps.

    A fraction of 0.4 is t = 400 of 1000. A model without discrete steps takes the
    same signal-to-noise as another schedule, kept inside its noise range: a flow-matching model as
    Stable Diffusion (ᾱ = 0.424 at t = 400), any other (EDM, VE, a closed form) as DDPM (0.194).

    Args:
        score: knows its noise schedule, or none.
        time: in (0, 1].
    """
    if not 0 < time <= 1:
        raise ValueError(
            f"time must lie in (0, 1], a fraction of the model's time steps, got {time}"
        )
    own = score.schedule
    schedule = ddpm_steps() if own is None else own.in_steps()
    steps = schedule.last_step + 1
    sigma = schedule.sigma(min(time * steps, schedule.last_step)) / score.scale
    if own is not None and own.kind == "ve":
        # Its images lie in [0, 1], half as wide as DDPM's in [−1, 1].
        sigma = sigma / 2
    lowest, highest = _noise_range(score)
    return sigma if highest is None else min(max(sigma, lowest), highest)


def _noise_range(score: Score) -> tuple[float | None, float | None]:
    if score.noise_range is None:
        return None, None
    lowest, highest = score.noise_range
    return lowest, min(highest, CEILING / score.scale)
