"""The result of every solver: a batch of geodesics, their cost, and how each search ended."""

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .. import paths
from ..elements import elements, working_dtype
from ..files import replacing
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from ..scores.base import Counter
from .base import Solution

TENSORS = ("points", "energy", "length", "speed", "converged", "log_density")


@dataclass
class Geodesic:
    """A batch of discrete geodesics, their points at equal steps of t in [0, 1].

    Energy, length and speed come from the scores at the points, by the quadrature in
    `lib/elements.py`. A density metric takes the mean of log p over both ends as zero.

    Attributes:
        points: The paths, both ends included.
        energy: ∫‖γ'‖²_G dt.
        length: ∫‖γ'‖_G dt.
        speed: ‖γ'‖_G at the quadrature points.
        converged: Whether each path has converged; one that has not is no geodesic.
        reason: How the search ended, one sentence for each pair.
        log_density: log p(γ) − log p(start), the line integral of the score; None for a metric
            without a score.
        history: One entry for each iteration.
        score_evaluations: Points at which the score was computed.
        score_batches: Calls of the score.
        derivative_evaluations: Points at which the score was differentiated.
        settings: Metric, solver and settings behind the paths.

    Example:
        >>> import torch
        >>> from lib import SphereScore, SteinMetric, geodesic
        >>> ends = torch.eye(3, dtype=torch.float64)
        >>> path = geodesic(SteinMetric(SphereScore()), ends[:2], ends[1:], points=17)
        >>> path.points.shape, path.length.shape, path.resample(5).shape
        (torch.Size([2, 17, 3]), torch.Size([2]), torch.Size([2, 5, 3]))
        >>> bool((path.speed_variation < 0.05).all())
        True
    """

    points: Float[Tensor, "batch points *event"]
    energy: Float[Tensor, "batch"]
    length: Float[Tensor, "batch"]
    speed: Float[Tensor, "batch segments"]
    converged: Bool[Tensor, "batch"]
    reason: list[str]
    log_density: Float[Tensor, "batch points"] | None = None
    history: list[dict] = field(default_factory=list)
    score_evaluations: int = 0
    score_batches: int = 0
    derivative_evaluations: int = 0
    settings: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def speed_variation(self) -> Float[Tensor, "batch"]:
        """(max − min)/mean of the speed: zero for a path of constant speed."""
        return (self.speed.amax(1) - self.speed.amin(1)) / self.speed.mean(1)

    def resample(self, count: int, metric: Metric | None = None) -> Float[Tensor, "batch m *event"]:
        """Points of the paths at equal distances.

        Args:
            count: Points a path, at least 2; both ends are among them.
            metric: Measures the distances; None for Euclidean ones.
        """
        return paths.resample(self.points, count, metric)

    def save(self, path: str | os.PathLike) -> Path:
        """Write one safetensors file: the tensors, and the rest as its metadata.

        The file is whole or not there.

        Args:
            path: Where; missing folders are made.

        Returns:
            The path.

        Raises:
            OSError: The disk refuses.
        """
        path = Path(path)
        tensors = {}
        rest = {}
        for name, value in vars(self).items():
            if name not in TENSORS:
                rest[name] = value
            elif value is not None:
                tensors[name] = value.detach().cpu().contiguous()
        with replacing(path) as (draft,):
            draft.write_bytes(save(tensors, {"geodesic": json.dumps(rest, default=str)}))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Geodesic":
        """Read what `save` wrote.

        Args:
            path: Of the file.

        Returns:
            The geodesics, on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or no saved geodesic.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no geodesic at {path}; write one with Geodesic.save")
        try:
            with safe_open(path, framework="pt") as file:
                stored = set(file.keys())
                tensors = {name: file.get_tensor(name) for name in TENSORS if name in stored}
                rest = json.loads(file.metadata()["geodesic"])
                return cls(**tensors, **rest)
        except (SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or is not a saved geodesic ({error}); compute it again"
            ) from error


def measure(
    metric: Metric, solution: Solution, *, degree: int = 2, settings: dict | None = None
) -> Geodesic:
    """Energy, length, speed and log-density of a solver's paths under a metric.

    Args:
        metric: Which measures.
        solution: The paths; scores that it has at its points are not computed again.
        degree: Degree of the elements of the quadrature.
        settings: What the paths were made with.

    Returns:
        The geodesics; `add_cost` tells them their evaluations.
    """
    points = solution.points
    e = elements(points.shape[1], degree)
    log_density = None
    if isinstance(metric, ScoreMetric):
        scores = solution.scores
        if scores is None:
            scores = metric.scores_along(points)
        squared = metric.speed_squared(points, degree, scores=scores)
        work = working_dtype(points)
        log_density = e.line_integral(points.flatten(2).to(work), scores.flatten(2).to(work))
    else:
        squared = metric.speed_squared(points, degree)
    speed = squared.clamp_min(0).sqrt()
    weights = e.w.to(squared)
    return Geodesic(
        points=points,
        energy=squared @ weights,
        length=speed @ weights,
        speed=speed,
        converged=solution.converged,
        reason=solution.reason,
        log_density=log_density,
        history=solution.history,
        settings=settings or {},
    )


def add_cost(geodesic: Geodesic, metric: Metric, before: Counter) -> None:
    """Give a geodesic the evaluations of the metric's score since its counter read `before`."""
    after = metric.counter
    geodesic.score_evaluations = after.evaluations - before.evaluations
    geodesic.score_batches = after.batches - before.batches
    geodesic.derivative_evaluations = after.derivatives - before.derivatives


def warn_unconverged(geodesic: Geodesic) -> None:
    """Warn of the pairs that did not converge, in the name of the caller's caller."""
    unconverged = (~geodesic.converged).nonzero().flatten().tolist()
    if unconverged:
        first = unconverged[0]
        warnings.warn(
            f"{len(unconverged)} of {len(geodesic)} geodesics did not converge "
            f"(pair {first}: {geodesic.reason[first]})",
            ConvergenceWarning,
            stacklevel=3,
        )


def warn_moving(metric: Metric) -> None:
    """Warn of a score that moves along the path, in the name of the caller's caller."""
    if metric.score is not None and metric.score.moves:
        warnings.warn(
            f"{metric.score.name} moves along the path: it is no gradient of one density, so that "
            "the energy may fall on and on and its least path says nothing of a density; use one "
            "prompt for all points, or lib.scores.ProductScore of the scores under both",
            MovingDensityWarning,
            stacklevel=3,
        )


class MovingDensityWarning(UserWarning):
    """An energy is minimised whose score moves along the path, as a changing prompt makes it.

    ∫ s(γ, t)·γ' dt then depends on the whole path, not on its ends alone: it is no difference of a
    log-density.
    """


class ConvergenceWarning(UserWarning):
    """A solver stopped before its criterion was met; the path is the best it had.

    Example:
        >>> import warnings
        >>> import torch
        >>> from lib import ConvergenceWarning, SphereScore, SteinMetric, geodesic
        >>> ends = torch.eye(3, dtype=torch.float64)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", ConvergenceWarning)
        ...     path = geodesic(SteinMetric(SphereScore()), ends[0], ends[1], max_iter=1)
        >>> path.reason[0]
        'max_iter reached; raise max_iter=, or tol='
    """
