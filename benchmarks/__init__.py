"""What `make bench` measures; each module is one subject. Here is what they share."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib import paths
from lib.metrics import ScoreMetric
from lib.solvers import Geodesic

# radians between the ends on the unit sphere, as in all reference numbers
ANGLE = 2.0


@dataclass(frozen=True)
class Claim:
    """One claim about the library, and what was measured.

    Args:
        what: the claim in words.
        reached: what was measured, in words.
        met: whether the claim holds.
    """

    what: str
    reached: str
    met: bool

    def __str__(self) -> str:
        verdict = "PASS" if self.met else "FAIL"
        return f"{verdict}  {self.what}: {self.reached}"


@dataclass(frozen=True)
class Result:
    """One table with the claims that it decides.

    Args:
        name: of the benchmark, and of its files.
        title: of the table.
        rows: the table.
        claims: the claims that the table decides.
        notes: what was left out, and why; what the numbers are not.
        data: the sources of data that were used.
    """

    name: str
    title: str
    rows: pd.DataFrame
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)


def table(rows: Iterable[dict]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def sphere_ends(dim: int, pairs: int = 1, angle: float = ANGLE) -> tuple[Tensor, Tensor]:
    """Pairs of points of the unit sphere, `angle` apart, the k-th turned by k tenths of a radian.

    Returns:
        Both ends, (pairs, dim) each, float64.
    """
    phase = 0.1 * torch.arange(pairs, dtype=torch.float64)
    return on_circle(phase, dim), on_circle(phase + angle, dim)


def on_circle(phase: Tensor, dim: int) -> Tensor:
    """Points of the unit circle in the plane of two axes: (pairs,) -> (pairs, dim)."""
    points = torch.zeros(len(phase), dim, dtype=torch.float64)
    points[:, 0] = phase.cos()
    points[:, 1] = phase.sin()
    return points


def fine_energy(
    metric: ScoreMetric,
    points: Tensor,
    *,
    degrees: Sequence[int] = (1, 2),
    segments: int = 500,
) -> Tensor:
    """Length² of a curve, measured on many pieces: the same measure for every solver.

    Length² is the energy at constant speed, so a path is not blamed for its parameter. Each pair
    counts with the better of the curves of these degrees (chain of segments, parabolas). The
    nodes stay nodes.

    Args:
        metric: what measures.
        points: paths (batch, N, *event).
        degrees: of the elements through the points.
        segments: least number of pieces.

    Returns:
        (batch,), float64.
    """
    spans = points.shape[1] - 1
    pieces = max(10, math.ceil(segments / spans)) * spans
    times = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    lengths = []
    with torch.no_grad():
        for degree in degrees:
            # a chain has corners at its nodes: the segments of the fine path do not cross them
            quadrature = 1 if degree == 1 else 2
            curve = paths.evaluate(points, times, degree)
            lengths.append(paths.length(curve, metric, quadrature))
    return torch.stack(lengths).amin(0) ** 2


def time_ratio(run: Callable[[], Any], other: Callable[[], Any], repeats: int = 5) -> float:
    """Time of `run` over that of `other`: median of neighbours, since machines are busy."""
    run()
    other()
    return statistics.median(seconds(run) / seconds(other) for _ in range(repeats))


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def order(errors: Iterable[float], sizes: Iterable[int]) -> list[float]:
    """Observed order between neighbours: −Δlog(error)/Δlog(size)."""
    log_errors = [math.log(abs(error)) for error in errors]
    log_sizes = [math.log(size) for size in sizes]
    return [
        -(log_errors[i + 1] - log_errors[i]) / (log_sizes[i + 1] - log_sizes[i])
        for i in range(len(log_errors) - 1)
    ]


def cost(g: Geodesic) -> dict[str, int | bool]:
    """Columns that say what a solve cost and how it ended."""
    return {
        "batches": g.score_batches,
        "evaluations": g.score_evaluations,
        "converged": bool(g.converged.all()),
    }


def percent(x: float) -> str:
    return f"{100 * x:.3g} %"
