"""The deterministic probability flow between data and noise: inversion, denoising, sampling. No back-propagation.

In variance-exploding coordinates, x = x_0 + sigma·noise, the flow of Song et al. 2021 is (Karras et al. 2022, eq. 1)

    dx/dsigma = (x − D_sigma(x))/sigma = −sigma s_sigma(x).

DDIM (Song, Meng & Ermon 2021, eq. 12) is Euler's method for it: with eps = (y − D(y))/sigma its step is, for z = √ᾱ y,

    z' = √ᾱ' (z − √(1−ᾱ) eps)/√ᾱ + √(1−ᾱ') eps   ⇔   y' = y + (sigma' − sigma) eps,   sigma = √((1−ᾱ)/ᾱ).

Noise levels are in the units of the points x. A score may say how its model counts: `scale` and `shift` (y = scale·x + shift),
`noise_range` and `schedule`, as `DenoiserScore` does; without them y = x and any level will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor

from . import checks
from .scores.base import Score
from .scores.schedule import CEILING, NoiseSchedule

METHODS = ("ddim", "heun")
GRIDS = ("karras", "time")
RHO = 7  # Karras et al. 2022, table 1


def diffuse(
    score: Score,
    x: Tensor,
    sigma: float,
    *,
    steps: int = 30,
    method: str = "ddim",
    grid: str = "karras",
    lowest: float | None = None,
) -> Tensor:
    """Data -> noise level sigma ("DDIM inversion"): x (n, *event), or one point (*event) -> (n, *event).

    The data count as points at the lowest level, an error of second order in it. steps ≥ 2: noise levels of the grid, the
    lowest and sigma among them (see `noise_levels`). Evaluations a point: steps − 1 for "ddim", twice that for "heun".
    Raises ValueError for bad settings, ArithmeticError if the flow blows up.
    """
    checks.count("steps", steps, least=2)
    return follow(
        score, x, noise_levels(score, sigma, steps, grid=grid, lowest=lowest)[::-1], method
    )


def denoise(
    score: Score,
    x: Tensor,
    sigma: float,
    *,
    steps: int = 30,
    method: str = "ddim",
    grid: str = "karras",
    lowest: float | None = None,
) -> Tensor:
    """Noise level sigma -> data: x (n, *event), or one point (*event) -> (n, *event).

    Through the `steps` noise levels of the grid and from the lowest to zero, where Euler's step is D itself.
    Evaluations a point: steps for "ddim", 2 steps − 1 for "heun" (Karras et al. 2022, algorithm 1). Raises as `diffuse`.
    """
    return follow(
        score, x, [*noise_levels(score, sigma, steps, grid=grid, lowest=lowest), 0.0], method
    )


def sample(
    score: Score,
    n: int,
    generator: torch.Generator,
    *,
    steps: int = 24,
    method: str = "heun",
    sigma: float | None = None,
    event_shape: Sequence[int] | None = None,
    lowest: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """n draws (n, *event) from the model: noise of level sigma about y = 0, denoised; on the generator's device.

    sigma: the top of the model's noise range unless given. event_shape: the score's own unless given.
    """
    event, (_, highest) = event_shape or score.event_shape, _noise_range(score)
    if event is None:
        raise ValueError(f"{score.name} does not say what shape a point has: give event_shape=")
    if sigma is None and highest is None:
        raise ValueError(
            f"{score.name} has no noise_range: give sigma=, a level at which only noise is left"
        )
    sigma = highest if sigma is None else sigma
    noise = torch.randn(
        checks.count("n", n), *event, generator=generator, device=generator.device, dtype=dtype
    )
    return denoise(
        score,
        sigma * noise - score.shift / score.scale,
        sigma,
        steps=steps,
        method=method,
        lowest=lowest,
    )


def round_trip_error(score: Score, x: Tensor, sigma: float, **settings) -> Tensor:
    """Root mean square of denoise(diffuse(x)) − x, per point: (n, *event) -> (n,), in the units of x. settings: of both."""
    x = checks.batched("x", x, score.event_shape)
    return (
        (denoise(score, diffuse(score, x, sigma, **settings), sigma, **settings) - x)
        .flatten(1)
        .square()
        .mean(1)
        .sqrt()
    )


def follow(score: Score, x: Tensor, levels: Sequence[float], method: str = "ddim") -> Tensor:
    """Carry x (n, *event) along the flow through all noise levels, rising or falling; the last one may be 0, the data.

    method: "ddim" (Euler, first order, one evaluation a step) or "heun" (second order, two; one for the step to zero).
    """
    heun = checks.choice("method", method, METHODS) == "heun"
    x = checks.batched("x", x, score.event_shape)
    with torch.no_grad():
        for now, then in pairwise(levels):
            x = _step(score, x, now, then, heun and then > 0)
    if not bool(torch.isfinite(x).all()):
        raise ArithmeticError(
            f"the flow from noise level {levels[0]:.4g} to {levels[-1]:.4g} ran into NaN or infinity; "
            "use more steps"
        )
    return x


def _step(score: Score, x: Tensor, now: float, then: float, heun: bool) -> Tensor:
    slope = -now * score.at(now)(x)
    euler = x + (then - now) * slope
    return x + (then - now) * (slope - then * score.at(then)(euler)) / 2 if heun else euler


def noise_levels(
    score: Score, sigma: float, steps: int, *, grid: str = "karras", lowest: float | None = None
) -> list[float]:
    """`steps` noise levels falling from sigma to the lowest (the model's, else sigma/1000).

    grid: "karras", sigma_i = (sigma^{1/7} + i/(steps−1) (lowest^{1/7} − sigma^{1/7}))^7 (Karras et al. 2022, eq. 5), or "time",
    uniform in the time steps of the model's scheduler. One step is sigma alone. Raises ValueError if sigma ≤ lowest.
    """
    sigma, least = (
        checks.positive("sigma", sigma),
        _noise_range(score)[0] if lowest is None else lowest,
    )
    lowest = sigma / 1000 if least is None else checks.positive("lowest", least)
    if lowest >= sigma:
        raise ValueError(
            f"sigma = {sigma:.4g} must be above the lowest noise level, {lowest:.4g} (in the units of x)"
        )
    parts = torch.linspace(0, 1, checks.count("steps", steps), dtype=torch.float64)
    if checks.choice("grid", grid, GRIDS) == "karras":
        inner = (
            torch.lerp(
                *(torch.tensor(s, dtype=torch.float64) ** (1 / RHO) for s in (sigma, lowest)), parts
            )
            ** RHO
        ).tolist()
    elif score.schedule is None:
        raise ValueError(
            f"grid='time' needs the time steps of a model, and {score.name} has no schedule; use grid='karras'"
        )
    else:
        first, last = score.schedule.timestep(
            score.scale * torch.tensor([sigma, lowest], dtype=torch.float64)
        )
        inner = [
            score.schedule.sigma(float(t)) / score.scale for t in torch.lerp(first, last, parts)
        ]
    return [sigma, *inner[1:-1], lowest][:steps]


def noise_at(score: Score, time: float) -> float:
    """The noise level, in the units of x, at a fraction `time` in (0, 1] of the model's time steps: 0.4 is t = 400 of 1000.

    A model without discrete steps (EDM, a closed form) takes the level of the linear DDPM schedule (Ho et al. 2020), kept
    inside its noise range: ᾱ = 0.194 at t = 400.
    """
    if not 0 < time <= 1:
        raise ValueError(
            f"time must lie in (0, 1], a fraction of the model's time steps, got {time}"
        )
    own = score.schedule
    schedule, (lowest, highest) = _ddpm() if own is None or own.edm else own, _noise_range(score)
    last = schedule.last_step
    sigma = schedule.sigma(min(time * (last + 1), last)) / score.scale
    return sigma if highest is None else min(max(sigma, lowest), highest)


@cache
def _ddpm() -> NoiseSchedule:
    """The linear schedule: beta from 1e-4 to 0.02 in 1000 steps."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    return NoiseSchedule(SimpleNamespace(config={}, alphas_cumprod=kept))


def _noise_range(score: Score) -> tuple[float | None, float | None]:
    if score.noise_range is None:
        return None, None
    lowest, highest = score.noise_range
    return lowest, min(highest, CEILING / score.scale)
