"""The result of every solver: a batch of geodesics with what was spent and how it ended."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .. import paths
from ..elements import elements
from ..files import replacing
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from ..scores.base import Counter

TENSORS = ("points", "energy", "length", "speed", "converged", "log_density")


@dataclass
class Geodesic:
    """A batch of discrete geodesics, points at equal steps of t in [0, 1].

    points (batch, N, *event). energy (batch,) = ∫‖γ'‖²_G dt and length (batch,) = ∫‖γ'‖_G dt, from the scores at the
    points by the quadrature of elements.py (a density metric counts from f = 0 on average over both ends).
    speed (batch, N − 1): ‖γ'‖_G at the quadrature points. log_density (batch, N): log p(γ) − log p(start), the line
    integral of the score; None for a metric without a score. converged (batch,) bool, reason: one sentence a pair.
    history: one dict an iteration. score_evaluations: points at which the score was computed; score_batches: calls;
    derivative_evaluations: points at which the score was differentiated. settings: what it was made with.
    """

    points: Tensor
    energy: Tensor
    length: Tensor
    speed: Tensor
    converged: Tensor
    reason: list[str]
    log_density: Tensor | None = None
    history: list[dict] = field(default_factory=list)
    score_evaluations: int = 0
    score_batches: int = 0
    derivative_evaluations: int = 0
    settings: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def speed_variation(self) -> Tensor:
        """(max − min)/mean of the speed, (batch,): zero for a path of constant speed."""
        return (self.speed.amax(1) - self.speed.amin(1)) / self.speed.mean(1)

    def resample(self, count: int, metric: Metric | None = None) -> Tensor:
        """`count` points at equal distances, Euclidean or under `metric`: (batch, count, *event)."""
        return paths.resample(self.points, count, metric)

    def save(self, path: str | os.PathLike) -> Path:
        """Write one safetensors file, tensors and the rest as its metadata; atomic. Returns the path. OSError: of the disk."""
        path = Path(path)
        tensors = {
            k: getattr(self, k).detach().cpu().contiguous()
            for k in TENSORS
            if getattr(self, k) is not None
        }
        rest = {k: v for k, v in vars(self).items() if k not in TENSORS}
        with replacing(path) as (draft,):
            draft.write_bytes(save(tensors, {"geodesic": json.dumps(rest, default=str)}))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> Geodesic:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or foreign file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no geodesic at {path}; write one with Geodesic.save")
        try:
            with safe_open(path, framework="pt") as file:
                rest = json.loads(file.metadata()["geodesic"])
                return cls(**{k: file.get_tensor(k) for k in file.keys()}, **rest)
        except (SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or is not a saved geodesic ({error}); compute it again"
            ) from error


def describe(
    metric: Metric, points: Tensor, *, scores: Tensor | None = None, degree: int = 2, **rest
) -> Geodesic:
    """Measure a batch of paths under a metric and wrap it as a `Geodesic`. `scores` at the points saves their evaluation."""
    e, log_density = elements(points.shape[1], degree), None
    if isinstance(metric, ScoreMetric):
        scores = metric.scores_along(points) if scores is None else scores
        squared = metric.speed_squared(points, degree, scores=scores)
        log_density = e.line_integral(points.flatten(2).double(), scores.flatten(2).double())
    else:
        squared = metric.speed_squared(points, degree)
    speed, w = squared.clamp_min(0).sqrt(), e.w.to(squared)
    return Geodesic(
        points=points,
        energy=squared @ w,
        length=speed @ w,
        speed=speed,
        log_density=log_density,
        **rest,
    )


def charge(geodesic: Geodesic, metric: Metric, before: Counter) -> Geodesic:
    """Write on the result what the metric's score was asked since its counter read `before`."""
    after = metric.counter
    geodesic.score_evaluations = after.evaluations - before.evaluations
    geodesic.score_batches = after.batches - before.batches
    geodesic.derivative_evaluations = after.derivatives - before.derivatives
    return geodesic


def finish(geodesic: Geodesic) -> Geodesic:
    """Warn about the pairs that did not converge; nothing else changes."""
    bad = (~geodesic.converged).nonzero().flatten().tolist()
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(geodesic)} geodesics did not converge (pair {bad[0]}: {geodesic.reason[bad[0]]})",
            ConvergenceWarning,
            stacklevel=3,
        )
    return geodesic


class ConvergenceWarning(UserWarning):
    """A solver stopped before its criterion was met; the path is the best it had."""


__all__ = ["ConvergenceWarning", "Geodesic", "charge", "describe", "finish"]
