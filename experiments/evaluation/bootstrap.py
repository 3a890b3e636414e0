"""Bootstrap intervals over pairs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Shaped
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
    values: Shaped[Tensor, "*groups pairs"],
    statistic: Callable[[Tensor], Tensor] = mean,
    *,
    level: float = 0.95,
    draws: int = 2000,
    generator: torch.Generator | None = None,
    centre: bool = False,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979): pairs are drawn with replacement.

    Not scipy.stats.bootstrap: FID and KID are resampled by the indices of pairs, and centred.

    Args:
        values: one column a pair.
        statistic: (*groups, draws, pairs) -> (draws,), reducing the last axis.
        level: of the interval.
        draws: number of resamples.
        generator: of the draws; without one every call draws the same pairs (seed 0).
        centre: move the draws' mean onto the estimate, for a statistic that repeated pairs bias
            (FID, KID): the interval then shows spread alone.

    Raises:
        ValueError: fewer than two pairs, or a value or draw that is not finite.
    """
    values = torch.as_tensor(values)
    if values.is_floating_point():
        values = values.double()
    checks.finite("values", values)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise ValueError(f"bootstrap needs two pairs or more, got {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    pairs = values.shape[-1]
    drawn = torch.randint(pairs, (checks.count("draws", draws), pairs), generator=generator)
    estimate = statistic(values)
    resampled = checks.finite("the statistic's draws", statistic(values[..., drawn]))
    if centre:
        resampled = resampled + (estimate - resampled.mean())
    tail = (1 - level) / 2
    low, high = torch.quantile(resampled, resampled.new_tensor([tail, (1 + level) / 2]))
    return Interval(float(estimate), float(low), float(high))
