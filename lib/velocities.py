"""Velocities to leave an image with: at random, along the data, beyond a path, to a prompt."""

import torch
from jaxtyping import Float
from torch import Tensor

from . import checks
from .calculus import initial_velocity
from .metrics.base import scale
from .scores.base import Score
from .scores.pipeline import PipelineScore, Prompt


def white(x: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Independent standard normal numbers in the shape, dtype and device of x."""
    noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return noise.to(x)


def along_data(
    score: Score, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"], *, rounds: int = 1
) -> Float[Tensor, "n *event"]:
    """The denoiser's Jacobian on v: what the data allow of it.

        J_D v = v + sigma² J_s v = Cov[x_0 | x] v / sigma²

    (Manor & Michaeli, ICLR 2024, theorem 1). In the limit of many rounds only the direction of
    largest posterior variance is left.

    Args:
        score: A score with a noise level.
        x: Points as noisy as that level.
        v: Velocities there.
        rounds: How often the Jacobian is applied; each costs one derivative a point.

    Returns:
        The velocities.

    Raises:
        ValueError: A score of one fixed density.
    """
    checks.same_layout("x", x, "v", v)
    if score.sigma is None:
        raise ValueError(
            f"{score.name} is the score of one fixed density; a denoiser's Jacobian needs a noise "
            "level"
        )
    for _ in range(checks.count("rounds", rounds)):
        v = v + score.sigma_column(x) ** 2 * score.derivative(x, v)
    return v


def beyond(points: Float[Tensor, "batch points *event"]) -> Float[Tensor, "batch *event"]:
    """γ'(1) of paths of at least two points: the velocity to go on with, time counted in paths."""
    return -initial_velocity(points.flip(1))


def towards(
    score: PipelineScore,
    x: Float[Tensor, "*batch_event"],
    prompt: Prompt,
    *,
    draws: int = 4,
    seed: int = 0,
) -> Float[Tensor, "n *event"]:
    """What another prompt changes in the denoised estimate, a mean over noises n,

        E_n [D(x + sigma n; prompt) − D(x + sigma n; own)]
            = sigma² E_n ∇ log p(prompt | x + sigma n)/p(own | x + sigma n),

    by Bayes' rule (the implicit classifier of Ho & Salimans 2021). It is the direction of the delta
    denoising score at one noise level (Hertz, Aberman & Cohen-Or, ICCV 2023).

    Args:
        score: A text-to-image score with its own prompt.
        x: Clean latents.
        prompt: The other prompt.
        draws: Noises, the same for all points.
        seed: Of these noises.

    Returns:
        The velocities.
    """
    x = checks.batched("x", x, score.event_shape)
    generator = torch.Generator().manual_seed(seed)
    other = score.prompted(prompt)
    total = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(checks.count("draws", draws)):
            y = x + score.sigma_column(x) * white(x[0], generator)
            total = total + other.denoise(y) - score.denoise(y)
    return total / draws


def at_length(
    v: Float[Tensor, "n *event"], length: float | Float[Tensor, "n"]
) -> Float[Tensor, "n *event"]:
    """Velocities of given Euclidean norms.

    Args:
        v: The velocities.
        length: The norm, one for all or one for each.

    Returns:
        The velocities, each of its length.

    Raises:
        ValueError: A velocity that is zero.
    """
    checks.nonzero("velocity", v)
    norm = v.flatten(1).norm(dim=1)
    return scale(torch.as_tensor(length).to(norm) / norm, v)
