"""Noise levels and numbers of points that go together: where a learned score is solved first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import checks
from ..scores.base import Score

# Distance of adjacent points in units of the noise level. The score of a density convolved with
# noise sigma changes over a length of sigma: points farther apart than about two do not resolve it.
SPACING = 2.0

# segments of the coarsest path, and of the finest
COARSEST = 4
FINEST = 64


@dataclass(frozen=True)
class Annealing:
    """Where the geodesics of a learned score are solved, one stage after the other.

    Attributes:
        noise_levels: Falling noise levels, the last one that which is wanted.
        points: Points of a path at the last level.
        coarse: Points at the levels before (see `GaussNewton.anneal`).
    """

    noise_levels: tuple[float, ...]
    points: int
    coarse: tuple[int, ...]


def annealing_schedule(
    score: Score,
    *,
    sigma: float | None = None,
    distance: float | None = None,
    points: int | None = None,
    least: int = 17,
) -> Annealing:
    """Noise levels and points by one rule: adjacent points are about two noise levels apart.

    Where the noise is large, the model is smooth, the path near the straight line, and a few points
    resolve the score. So the first stage has four segments; then the level halves while the number
    of segments doubles:

        levels sigma·2^k,   segments N/2^k,   N ≈ distance/(2 sigma), a power of two up to 64.

    By default nothing depends on the ends: every pair has the same schedule, alone or in a batch.

    Args:
        score: A learned score (`noise_range`) of points of a known shape.
        sigma: The last noise level, in the units of x; the score's own by default.
        distance: Of the ends, in the units of x; by default that of two independent draws of data
            in d dimensions whose standard deviation is the one the model was made for: √(2d) times
            1 in the model's units (sigma_data for one of EDM's).
        points: Points of a path at the last level, by default N + 1.
        least: Least number of them by default.

    Raises:
        ValueError: A score that is not learned, or has no event shape or no single noise level.

    Example:
        >>> from lib.scores import load
        >>> schedule = annealing_schedule(load("rotated-mnist"), sigma=0.5)
        >>> schedule.noise_levels, schedule.points, schedule.coarse
        ((2.0, 1.0, 0.5), 17, (5, 9))
    """
    if score.noise_range is None or score.event_shape is None:
        raise ValueError(
            f"{score.name} is no learned score of points of a known shape: give noise_levels= and "
            "points= yourself"
        )
    sigma = checks.positive("sigma", score.sigma if sigma is None else sigma)
    if distance is None:
        distance = math.sqrt(2 * math.prod(score.event_shape)) * data_spread(score)
    segments = checks.positive("distance", distance) / (SPACING * sigma)
    if points is None:
        power_of_two = 2 ** round(math.log2(segments))
        points = max(min(power_of_two, FINEST) + 1, least)
    coarse = []
    count = (checks.count("points", points, least=3) - 1) // 2
    while count >= COARSEST:
        coarse.insert(0, count + 1)
        count //= 2
    # a level for each of them, and more where the finest path does not resolve the last level
    halvings = max(len(coarse), round(math.log2(segments / COARSEST)))
    levels = [sigma * 2**k for k in range(halvings, -1, -1)]
    _, highest = score.noise_range
    levels = [level for level in levels if level <= highest] or [sigma]
    return Annealing(tuple(levels), points, tuple(coarse))


def data_spread(score: Score) -> float:
    """Standard deviation of the data a learned score was made for, in the units of x."""
    spread = 1.0
    if score.schedule is not None and score.schedule.kind == "edm":
        spread = float(score.schedule.config["sigma_data"])
    return spread / score.scale
