"""Traces of the Jacobian of a score by directional derivatives: exact over a basis, or estimated with random probes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import checks
from .scores.base import Score


def basis(event: Sequence[int]) -> Tensor:
    """Unit vectors of the event space as directions (d, *event), float64."""
    return torch.eye(torch.Size(event).numel(), dtype=torch.float64).reshape(-1, *event)


def rademacher(
    probes: int, event: Sequence[int], generator: torch.Generator | None = None
) -> Tensor:
    """Probes of independent signs ±1, (probes, *event), float64; without a generator one seeded with 0 draws them."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    size = (checks.count("probes", probes), *event)
    return torch.randint(0, 2, size, generator=generator, device=generator.device).double() * 2 - 1


def quadratic_forms(score: Score, x: Tensor, directions: Tensor) -> Tensor:
    """e^T J_s(x) e for every direction e (k, *event) and point x (n, *event) -> (k, n), one batched derivative.

    Their sum over `basis` is the divergence of s; their mean over `rademacher` probes estimates it (Hutchinson 1990).
    """
    k, n = len(directions), len(x)
    if isinstance(score.sigma, Tensor):
        score = score.at(score.sigma.repeat(k))
    e = directions.to(x).repeat_interleave(n, 0)
    x = x.repeat(k, *[1] * (x.ndim - 1))
    return (e * score.derivative(x, e)).flatten(1).sum(1).reshape(k, n)
