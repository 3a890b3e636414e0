"""Geodesics of a table: on twice as many segments where they have not converged."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib import interpolate
from lib.scores import Score
from lib.solvers import ConvergenceWarning


@dataclass
class Resolved:
    """Frames of geodesics.

    Attributes:
        frames: of each pair.
        converged: whether each is that of a path that has converged.
        evaluations: of the score, for each pair.
    """

    frames: Float[Tensor, "pairs frames *event"]
    converged: Bool[Tensor, "pairs"]
    evaluations: Float[Tensor, "pairs"]


def geodesics(
    score: Score,
    start: Float[Tensor, "pairs *event"],
    end: Float[Tensor, "pairs *event"],
    **settings: Any,
) -> Resolved:
    """Geodesics by `interpolate`; those that have not converged, on a finer path from the start.

    Paths under a density that moves are solved once: more points do not help them. Whether a path
    has converged is in the result, and not a warning.

    Args:
        score: as `interpolate` takes it.
        start: of each pair.
        end: of each pair.
        **settings: of `interpolate`.

    Raises:
        ValueError, TypeError: as `interpolate`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = interpolate(score, start, end, **settings)
        count = len(found.frames)
        spent = torch.full((count,), found.evaluations / count)
        converged = found.path.converged.clone()
        rows = (~converged).nonzero().flatten()
        if len(rows) == 0 or score.moves:
            return Resolved(found.frames, converged, spent)

        points = found.path.points.shape[1]
        finer = {**settings, "points": 2 * points - 1}
        solver = settings.get("solver")
        if solver is not None:
            finer["solver"] = replace(solver, coarse=(*solver.coarse, points))
        again = interpolate(score.pick(rows), start[rows], end[rows], **finer)
    frames = found.frames.clone()
    better = again.path.converged
    frames[rows[better]] = again.frames[better]
    converged[rows] = better
    spent[rows] += again.evaluations / len(rows)
    return Resolved(frames, converged, spent)
