"""What a boundary value solver is, and the bookkeeping that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import checks
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric

# (iteration, points (batch, points, *event), energy (batch,)); returning True stops the solver
Callback = Callable[[int, Tensor, Tensor], bool | None]


@dataclass(frozen=True)
class Reason:
    """Why a solver left a pair as it is.

    Attributes:
        text: What happened.
        mend: What the caller can do about it; empty where nothing is wrong.
        converged: Whether the path may be taken for a geodesic.
    """

    text: str
    mend: str = ""
    converged: bool = False


CONVERGED = Reason("converged", converged=True)
MAX_ITER = Reason("max_iter reached", "raise max_iter=, or tol=")
STOPPED = Reason("stopped by the callback")
NOT_FINITE = Reason(
    "the score is NaN or infinite beside the path",
    "start from another path (init=...) or a larger noise level",
)
AT_RESOLUTION = Reason("converged as far as this number of points resolves", converged=True)
AT_CURL = Reason(
    "what is left of the gradient is the curl of a score that is no exact gradient", converged=True
)
NO_FALL = Reason(
    "the energy falls no further at this number of points",
    "raise points=, or start from another path (init=...) or at larger noise_levels=",
)
UNRESOLVED = Reason(
    "the score changes faster than the points resolve",
    "raise points= or start at larger noise_levels=",
)


@dataclass
class Solution:
    """What a solver returns.

    Attributes:
        points: Paths, ends as they were given.
        converged: Whether each may be taken for a geodesic.
        reason: Why the solver left each of them, one sentence with its mend.
        scores: Scores at the points, where the solver has them.
        history: One entry an iteration.
    """

    points: Float[Tensor, "batch points *event"]
    converged: Bool[Tensor, "batch"]
    reason: list[str]
    scores: Float[Tensor, "batch points *event"] | None = None
    history: list[dict] = field(default_factory=list)


class Progress:
    """Which pairs of a batch a solver still works on, and why it left the others.

    A pair that nobody has ended has reached max_iter.

    Attributes:
        active: Rows of the pairs still at work, rising; always on the CPU.
        history: One entry an iteration, see `record`.
        callback: The caller's, or None.

    Example:
        >>> progress = Progress(3)
        >>> progress.end(progress.active[1:2], CONVERGED)
        >>> progress.active.tolist(), progress.converged.tolist()
        ([0, 2], [False, True, False])
        >>> progress.end(progress.active, NO_FALL, ["(relative gradient 0.2)", ""])
        >>> progress.reasons()[0].partition(";")[0]
        'the energy falls no further at this number of points (relative gradient 0.2)'
    """

    def __init__(self, batch: int, callback: Callback | None = None) -> None:
        self.active = torch.arange(batch)
        self.history: list[dict] = []
        self.callback = callback
        self._endings = [(MAX_ITER, "")] * batch

    @property
    def converged(self) -> Bool[Tensor, "batch"]:
        """Which pairs ended with a converged path."""
        return torch.tensor([reason.converged for reason, _ in self._endings], dtype=torch.bool)

    def reasons(self) -> list[str]:
        """One sentence a pair: what happened, its details, and the mend."""
        sentences = []
        for reason, detail in self._endings:
            happened = f"{reason.text} {detail}".strip()
            sentences.append(f"{happened}; {reason.mend}" if reason.mend else happened)
        return sentences

    def end(
        self, rows: Int[Tensor, "rows"], reason: Reason, details: Sequence[str] | None = None
    ) -> None:
        """End pairs for a reason; one that had ended before gets the new reason.

        Args:
            rows: Pairs of the batch, such as `progress.active[mask]`.
            reason: Why.
            details: For each of the rows what to add to the reason's text.
        """
        details = [""] * len(rows) if details is None else details
        for row, detail in zip(rows.tolist(), details, strict=True):
            self._endings[row] = (reason, detail)
        self.active = self.active[~torch.isin(self.active, rows)]

    def restart(self) -> None:
        """All pairs are active again, for a solver that works in stages.

        Their reasons stay until they end anew.
        """
        self.active = torch.arange(len(self._endings))

    def record(self, **entry: object) -> None:
        """Add an iteration to the history, with the number of pairs that are active after it."""
        self.history.append({**entry, "active": len(self.active)})

    def stopped(
        self,
        iteration: int,
        points: Float[Tensor, "batch points *event"],
        energy: Float[Tensor, "batch"],
    ) -> bool:
        """Show the state to the callback; if it asks to stop, all active pairs end: True."""
        if self.callback is None or not self.callback(iteration, points, energy):
            return False
        self.end(self.active, STOPPED)
        return True

    def solution(
        self,
        points: Float[Tensor, "batch points *event"],
        scores: Float[Tensor, "batch points *event"] | None = None,
    ) -> Solution:
        """The result with these points: flags, reasons and history as they stand."""
        return Solution(points, self.converged, self.reasons(), scores, self.history)


class Iteration:
    """A batch of paths on the way to their geodesics.

    Attributes:
        settings: The solver.
        metric: By which the paths are measured.
        path: The starting paths, in the caller's shape, dtype and device.
        progress: Which pairs are still at work.
    """

    def __init__(
        self, settings: Solver, metric: Metric, path: Tensor, callback: Callback | None
    ) -> None:
        self.settings = settings
        self.metric = metric
        self.path = path
        self.progress = Progress(len(path), callback)

    def scores(
        self,
        x: Float[Tensor, "rows points d"],
        times: Float[Tensor, "points"],
        rows: Int[Tensor, "rows"],
    ) -> Float[Tensor, "rows points d"]:
        """Scores at flat points of some pairs, at times of their paths.

        The score sees the caller's dtype and the solver the working precision.
        """
        score = self.metric.score.pick(rows).along(times)
        return score(self.event(x)).reshape(x.shape).to(x)

    def event(self, y: Float[Tensor, "rows points d"]) -> Float[Tensor, "n *event"]:
        """Flat points or vectors as the score takes them."""
        return y.reshape(-1, *self.path.shape[2:]).to(self.path)

    def unflatten(self, x: Float[Tensor, "batch points d"]) -> Float[Tensor, "batch points *event"]:
        """Flat paths in the caller's shape and dtype; their ends are the caller's numbers."""
        points = x.reshape(self.path.shape).to(self.path)
        return torch.cat([self.path[:, :1], points[:, 1:-1], self.path[:, -1:]], 1)


class Rows:
    """Mixin for a dataclass of tensors with one path a row; a solver handles the active ones."""

    def rows(self, index: Int[Tensor, "rows"]) -> Rows:
        """Some of the paths, by rising index; the object itself, not a copy, if these are all."""
        tensors = [getattr(self, f.name) for f in fields(self)]
        if len(index) == len(tensors[0]):
            return self
        return type(self)(*(tensor[index] for tensor in tensors))

    def replace(self, index: Int[Tensor, "rows"], other: Rows) -> Rows:
        """The object with these paths replaced: `other` itself if these are all, else in place."""
        if len(index) == len(getattr(self, fields(self)[0].name)):
            return other
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)
        return self


@dataclass(frozen=True)
class Solver:
    """A boundary value solver: it improves a path between fixed ends under a metric.

    A subclass is a frozen dataclass with its own settings, a `name` and `solve`.

    Attributes:
        tol: Tolerance; of what, the subclass says.
        max_iter: Most iterations; of what, the subclass says.
        level_tol: The looser tolerance at the noise levels before the last.
        degree: Degree of the elements by which the result is measured.
    """

    tol: float = 1e-6
    max_iter: int = 100
    name: ClassVar[str] = "solver"
    degree: ClassVar[int] = 2
    level_tol: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        checks.positive("tol", self.tol)
        checks.positive("level_tol", self.level_tol)
        checks.count("max_iter", self.max_iter)

    def check_family(self, metric: Metric) -> None:
        """Refuse a metric that is not of the family exp(−2 alpha f)(I + lam s s^T)."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(
                f"{self.name} solves the score metric family; for {metric.name} "
                "use solver='relaxation'"
            )

    def anneal(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        levels: Sequence[float],
        callback: Callback | None = None,
    ) -> Solution:
        """Solve at each noise level in turn, each from the last one's path, then under `metric`."""
        looser = replace(self, tol=max(self.tol, self.level_tol))
        for sigma in levels:
            if sigma != metric.sigma:
                path = looser.solve(metric.at(sigma), path, callback).points
        return self.solve(metric, path, callback)

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """Improve a path, ends fixed, until `tol` is met or `max_iter` is spent.

        Raises:
            TypeError: The solver does not serve this kind of metric.
            ValueError: The score is not finite on the starting path.
        """
        raise NotImplementedError


def check_start(metric: Metric, values: Tensor) -> None:
    """Refuse a starting path on which these values, scores or energies, are not all finite."""
    if not bool(torch.isfinite(values).all()):
        name = metric.name if metric.score is None else metric.score.name
        raise ValueError(
            f"{name} is NaN or infinite on the starting path; start from another path (init=...) "
            "or a larger noise level"
        )


def relative_gradients(sizes: Float[Tensor, "rows"]) -> list[str]:
    """Details for `Progress.end`: how far each of the pairs is from a vanishing gradient."""
    return [f"(relative gradient {size:.2g})" for size in sizes.tolist()]
