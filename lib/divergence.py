"""What the Jacobian of a score tells: its trace, and whether the score is a gradient at all."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import checks
from .scores.base import Score


def basis(event: Sequence[int]) -> Float[Tensor, "d *event"]:
    """Unit vectors of the event space as directions, float64."""
    return torch.eye(torch.Size(event).numel(), dtype=torch.float64).reshape(-1, *event)


def rademacher(
    probes: int, event: Sequence[int], generator: torch.Generator | None = None
) -> Float[Tensor, "probes *event"]:
    """Directions of independent signs ±1, float64.

    Args:
        probes: how many, ≥ 1.
        event: shape of one.
        generator: draws them; one seeded with 0 by default.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    size = (checks.count("probes", probes), *event)
    bits = torch.randint(0, 2, size, generator=generator, device=generator.device)
    return 2 * bits.double() - 1


def quadratic_forms(
    score: Score, x: Float[Tensor, "n *event"], directions: Float[Tensor, "k *event"]
) -> Float[Tensor, "k n"]:
    """e^T J_s(x) e for every direction e and point x, in one batched derivative.

    Their sum over `basis` is the divergence of s; their mean over `rademacher` probes estimates it
    (Hutchinson 1990).
    """
    k = len(directions)
    n = len(x)
    if isinstance(score.sigma, Tensor):
        score = score.at(score.sigma.repeat(k))
    e = directions.to(x).repeat_interleave(n, 0)
    x = x.repeat(k, *[1] * (x.ndim - 1))
    forms = (e * score.derivative(x, e)).flatten(1).sum(1)
    return forms.reshape(k, n)


def curl(
    score: Score, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
) -> Float[Tensor, "n"]:
    """‖(J − J^T) v‖ / ‖(J + J^T) v‖ of the score's Jacobian J at points, along directions.

    The score of a density is a gradient: its Jacobian is a Hessian and symmetric, and this is 0. A
    network's is not, and where it is 1 the field has as much curl as potential.

    Args:
        score: one that can be differentiated.
        x: points.
        v: a direction at each of them.

    Example:
        >>> import torch
        >>> from lib import FunctionScore
        >>> quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> spiral = FunctionScore(lambda x: -x + 0.5 * x @ quarter_turn)
        >>> curl(spiral, torch.ones(1, 2), torch.ones(1, 2))
        tensor([0.5000])
    """
    x = x.contiguous()
    forward = score.derivative(x, v)
    with torch.enable_grad():
        _, transposed = torch.func.vjp(score.evaluate, x)
        (backward,) = transposed(v)
    antisymmetric = (forward - backward).flatten(1).norm(dim=1)
    return antisymmetric / (forward + backward).flatten(1).norm(dim=1)
