"""Velocities to leave an image with: at random, along the data, on beyond a path, towards another prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .calculus import initial_velocity
from .metrics.base import scale
from .scores.base import Score
from .scores.stable_diffusion import Prompt, StableDiffusionScore


def white(x: Tensor, generator: torch.Generator) -> Tensor:
    """Independent standard normal numbers in the shape, dtype and device of x (n, *event)."""
    return torch.randn(
        x.shape, generator=generator, device=generator.device, dtype=torch.float64
    ).to(x)


def along_data(score: Score, x: Tensor, v: Tensor, *, rounds: int = 1) -> Tensor:
    """The denoiser's Jacobian on v, `rounds` times: x (n, *event), v (n, *event) -> (n, *event).

        J_D v = v + sigma² J_s v = Cov[x_0 | x] v / sigma²      (Manor & Michaeli, ICLR 2024, theorem 1)

    It keeps what the data allow at x and takes away the rest; in the limit of many rounds only the direction of largest
    posterior variance is left. x should be as noisy as the score's sigma. One derivative a point and round.
    """
    checks.same_layout("x", x, "v", v)
    if score.sigma is None:
        raise ValueError(
            f"{score.name} is the score of one fixed density; a denoiser's Jacobian needs a noise level"
        )
    for _ in range(checks.count("rounds", rounds)):
        v = v + score.sigma_column(x) ** 2 * score.derivative(x, v)
    return v


def beyond(points: Tensor) -> Tensor:
    """γ'(1) of paths (batch, N ≥ 2, *event) -> (batch, *event): the velocity to go on with, time counted in whole paths."""
    return -initial_velocity(points.flip(1))


def towards(
    score: StableDiffusionScore, x: Tensor, prompt: Prompt, *, draws: int = 4, seed: int = 0
) -> Tensor:
    """What another prompt changes in the denoised estimate: clean x (n, 4, h, w) -> (n, 4, h, w), a mean over `draws` noises n,

        E_n [D(x + sigma n; prompt) − D(x + sigma n; own)] = sigma² E_n ∇ log p(prompt | x + sigma n)/p(own | x + sigma n),

    by Bayes' rule (the implicit classifier of Ho & Salimans 2021). It is the direction of the delta denoising score at one
    noise level (Hertz, Aberman & Cohen-Or, ICCV 2023). The noises are those of `seed`, the same for all points.
    """
    x, total = checks.batched("x", x, score.event_shape), 0.0
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(checks.count("draws", draws)):
            y = x + score.sigma_column(x) * torch.randn(
                x.shape[1:], generator=generator, dtype=torch.float64
            ).to(x)
            total = total + score.prompted(prompt).denoise(y) - score.denoise(y)
    return total / draws


def at_length(v: Tensor, length: float | Tensor) -> Tensor:
    """Rows of v (n, *event) with Euclidean norm `length`, a number or (n,). ValueError for a row that is zero."""
    norm = v.flatten(1).norm(dim=1)
    if bool((norm == 0).any()):
        raise ValueError(
            f"velocity is zero in row(s) {(norm == 0).nonzero().flatten().tolist()[:8]}: it has no direction"
        )
    return scale(torch.as_tensor(length).to(norm) / norm, v)
