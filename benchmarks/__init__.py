"""What `make bench` measures; each module is one subject. Here is what they share: results, problems, fair measures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib import paths
from lib.metrics import ScoreMetric
from lib.solvers import Geodesic

ANGLE = 2.0  # radians between the ends on the unit sphere, as in all reference numbers


@dataclass(frozen=True)
class Target:
    """One promise: what, what was reached, and whether that is enough."""

    what: str
    reached: str
    met: bool

    def __str__(self) -> str:
        return f"{'PASS' if self.met else 'MISSED'}  {self.what}: {self.reached}"


@dataclass(frozen=True)
class Result:
    """One table with the targets it decides and, where something was left out, a note that says so."""

    name: str
    title: str
    rows: pd.DataFrame
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)


def table(rows: Iterable[dict]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def sphere_ends(dim: int, pairs: int = 1, angle: float = ANGLE) -> tuple[Tensor, Tensor]:
    """`pairs` pairs of points of the unit sphere, `angle` apart, the k-th turned by k tenths of a radian: (pairs, dim) each."""
    first = 0.1 * torch.arange(pairs, dtype=torch.float64)
    start, end = torch.zeros(2, pairs, dim, dtype=torch.float64)
    for point, phase in ((start, first), (end, first + angle)):
        point[:, 0], point[:, 1] = phase.cos(), phase.sin()
    return start, end


def fine_energy(
    metric: ScoreMetric, points: Tensor, *, degrees: tuple[int, ...] = (1, 2), segments: int = 500
) -> Tensor:
    """Length² of the curve through `points` (batch, N, *event) on at least `segments` pieces: (batch,), float64.

    The same measure for every solver. Length² is the energy at constant speed, so a path is not blamed for its parameter;
    each pair counts with the better of the curves of these degrees (chain of segments, parabolas). The nodes stay nodes.
    """
    pieces = max(10, -(-segments // (points.shape[1] - 1))) * (points.shape[1] - 1)
    t = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    with torch.no_grad():
        # a chain has corners at its nodes: the segments of the fine path do not cross them
        curves = [
            paths.length(paths.evaluate(points, t, degree), metric, 1 if degree == 1 else 2)
            for degree in degrees
        ]
    return torch.stack(curves).amin(0) ** 2


def time_ratio(run: Callable[[], Any], other: Callable[[], Any], repeats: int = 5) -> float:
    """Time of `run` over that of `other`: median of neighbouring measurements, so that a busy machine slows both."""

    def seconds(call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    run(), other()
    return statistics.median(seconds(run) / seconds(other) for _ in range(repeats))


def order(errors: Iterable[float], sizes: Iterable[int]) -> list[float]:
    """Observed order between neighbours: −Δlog(error)/Δlog(size)."""
    errors, sizes = [math.log(abs(e)) for e in errors], [math.log(n) for n in sizes]
    return [
        -(errors[i + 1] - errors[i]) / (sizes[i + 1] - sizes[i]) for i in range(len(errors) - 1)
    ]


def spent(g: Geodesic) -> dict[str, int | bool]:
    """Columns that say what a solve cost and how it ended."""
    return {
        "batches": g.score_batches,
        "evaluations": g.score_evaluations,
        "converged": bool(g.converged.all()),
    }


def percent(x: float) -> str:
    return f"{100 * x:.3g} %"
