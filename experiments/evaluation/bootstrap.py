"""Bootstrap intervals over pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lib import checks


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


def mean(values: Tensor) -> Tensor:
    """Mean over the last axis."""
    return values.mean(-1)


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor] = mean,
    *,
    level: float = 0.95,
    draws: int = 2000,
    generator: torch.Generator | None = None,
    centre: bool = False,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979): `draws` times as many pairs as there are, drawn with replacement.

    values (…, pairs), statistic: (…, draws, pairs) -> (draws,), reducing the last axis. Without a generator every call draws
    the same pairs (seed 0), so methods compared on the same pairs share their luck. centre: move the draws' mean onto the
    estimate, for a statistic that repeated pairs bias (FID, KID): then the interval shows spread alone.
    ValueError: fewer than two pairs, or a value or draw that is not finite.
    """
    values = torch.as_tensor(values)
    values = checks.finite("values", values.double() if values.is_floating_point() else values)
    if values.ndim < 1 or values.shape[-1] < 2 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap needs two pairs or more and a level in (0, 1), got {tuple(values.shape)} and {level}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    n = values.shape[-1]
    picked = torch.randint(n, (checks.count("draws", draws), n), generator=generator)
    estimate, copies = (
        statistic(values),
        checks.finite("the statistic's draws", statistic(values[..., picked])),
    )
    copies = copies + (estimate - copies.mean()) * centre
    low, high = torch.quantile(copies, copies.new_tensor([(1 - level) / 2, (1 + level) / 2]))
    return Interval(float(estimate), float(low), float(high))
