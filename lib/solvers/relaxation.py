"""Relaxation: the energy of a path, minimised over its points by a gradient method.

The solver of paper A (arXiv 2505.11128), for

    E = T Σ_i w_i (‖u_i‖² + lam (s(m_i)·u_i)²),   u_i = x_{i+1} − x_i,   m_i = (x_i + x_{i+1})/2,

and for any other metric T Σ u_i^T G(m_i) u_i. The paper's settings are not public; the defaults are
a third party's reading.
"""

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..elements import working_dtype
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from ..scores.base import Score, WrappedScore
from .base import (
    CONVERGED,
    MAX_ITER,
    NO_FALL,
    NOT_FINITE,
    Callback,
    Iteration,
    Solution,
    Solver,
    check_start,
    relative_gradients,
)

# Adam's learning rate at last
LAST_RATE = 1e-4

# largest relative gradient ‖∂E‖·‖b − a‖/E of a path that may count as converged
FLAT = 0.1


class FrozenScore(WrappedScore):
    """A score with its exact value and the derivative ds/dx = −I/sigma²: no back-propagation.

    That is the derivative of N(x_0, sigma² I), of one data point seen through the noise; it keeps
    the pull across a manifold and adds a false one along it.

    Args:
        score: Any with a noise level; evaluations count on its counter.

    Raises:
        ValueError: The score has no noise level.
    """

    def __init__(self, score: Score) -> None:
        sigma = score.sigma
        if sigma is None or not bool(torch.as_tensor(sigma > 0).all()):
            raise ValueError(
                "derivative='frozen' needs the noise level sigma > 0 of the score, and "
                f"{score.name} has {sigma}; give it one (FunctionScore(..., sigma=...)) or use "
                "derivative='exact'"
            )
        super().__init__(score)
        self.name = f"{score.name} (frozen)"

    def evaluate(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        with torch.no_grad():
            s = self.score.evaluate(x)
        # adds zero, and the derivative −I/sigma²
        return s + (x.detach() - x) / self.sigma_column(x) ** 2


@dataclass(frozen=True)
class Relaxation(Solver):
    """Adam or L-BFGS (strong Wolfe) on the interior points; the path of least energy is returned.

    At these defaults Adam rarely converges, and says so.

    Attributes:
        tol: A pair has converged when `window` iterations lower its energy by less than tol,
            relative both to the energy and to its whole fall so far (with a small learning rate
            slow is not the same as done), and ‖∂E‖·‖b − a‖ ≤ 0.1 E.
        max_iter: Iterations; with Adam one batch of scores each.
        optimizer: "adam" or "lbfgs".
        derivative: "exact" back-propagates through the score, "frozen" takes ds/dx = −I/sigma²
            (see `FrozenScore`; its gradient is not that of the energy).
        lr: Adam's learning rate at first, in the units of the points; it falls to 1e-4 by a cosine.
        window: Iterations over which the fall of the energy is judged; with L-BFGS also those
            between two calls of the callback.
        preconditioned: L-BFGS in coordinates in which the Euclidean energy of the path is the unit
            quadratic (a Sobolev gradient), so that more points do not spoil the conditioning.
    """

    name: ClassVar[str] = "relaxation"
    tol: float = 1e-4
    max_iter: int = 500
    optimizer: str = "adam"
    derivative: str = "exact"
    lr: float = 1e-3
    window: int = 50
    preconditioned: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("optimizer", self.optimizer, ("adam", "lbfgs"))
        checks.choice("derivative", self.derivative, ("exact", "frozen"))
        if self.preconditioned and self.optimizer != "lbfgs":
            raise ValueError("preconditioned=True is for optimizer='lbfgs'; leave it out with adam")
        checks.positive("lr", self.lr)
        checks.count("window", self.window)

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.solve`.

        Raises:
            TypeError: The derivative is frozen, and the metric has no score to freeze.
            ValueError: The score has no derivative, or is not finite on the starting path.
        """
        path = path.detach()
        if self.derivative == "frozen":
            metric = _with_frozen_score(metric)
        else:
            _check_differentiable(metric, path)
        descent = _Descent(self, metric, path, callback)
        if self.optimizer == "adam":
            descent.adam()
        else:
            descent.lbfgs()
        return descent.progress.solution(descent.best)


def _with_frozen_score(metric: Metric) -> Metric:
    if not isinstance(metric, ScoreMetric):
        raise TypeError(
            "derivative='frozen' replaces the derivative of a score; "
            f"{metric.name} is not a ScoreMetric: use derivative='exact'"
        )
    return metric.with_score(FrozenScore(metric.score))


def _check_differentiable(metric: Metric, path: Tensor) -> None:
    """Refuse a score that returns a tensor without gradient; costs one evaluation."""
    if not isinstance(metric, ScoreMetric) or metric.lam + metric.alpha == 0:
        return
    first = metric.score.pick(torch.zeros(1, dtype=torch.long)).along(torch.zeros(1))
    with torch.enable_grad():
        s = first(path[:1, 0].detach().requires_grad_())
    if not s.requires_grad:
        raise ValueError(
            f"{metric.score.name} returns a tensor without gradient (made under no_grad, or "
            "constant), so its derivative would silently be zero; use derivative='frozen' or "
            "solver='gauss_newton'"
        )


class _Descent(Iteration):
    """An `Iteration` down the gradient.

    Attributes:
        gaps: ‖b − a‖ of each pair.
        first_energy: Of the starting paths.
        best: The paths of least energy so far.
        least_energy: Theirs.
    """

    def __init__(
        self, settings: Relaxation, metric: Metric, path: Tensor, callback: Callback | None
    ) -> None:
        super().__init__(settings, metric, path, callback)
        self.gaps = (path[:, -1] - path[:, 0]).flatten(1).norm(dim=1)
        with torch.no_grad():
            self.first_energy = metric.energy(path)
        check_start(metric, self.first_energy)
        self.best = path.clone()
        self.least_energy = self.first_energy.clone()

    def adam(self) -> None:
        """All pairs at once: Adam acts on every number alone, so pairs do not feel each other."""
        settings = self.settings
        free = self.path[:, 1:-1].clone()
        free.grad = torch.zeros_like(free)
        optimizer = torch.optim.Adam([free], lr=settings.lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.max_iter, LAST_RATE)
        recent_energies: deque[Tensor] = deque(maxlen=settings.window + 1)
        for iteration in range(settings.max_iter + 1):
            active = self.progress.active
            energy, gradient, relative_gradient = self.evaluate(free[active], active)
            recent_energies.append(self.least_energy.clone())
            finite = torch.isfinite(energy).cpu()
            self.progress.end(active[~finite], NOT_FINITE)
            if iteration >= settings.window:
                slow = self.has_slowed(active, recent_energies[0][active])
                done = (slow & (relative_gradient <= FLAT)).cpu()
                self.progress.end(active[done & finite], CONVERGED)
            if self.report(iteration) or len(self.progress.active) == 0:
                return
            if iteration < settings.max_iter:
                free.grad[active] = gradient
                optimizer.step()
                rate.step()

    def lbfgs(self) -> None:
        """Pair by pair: the line search would couple them."""
        coordinates = self.coordinates()
        while len(self.progress.active) > 0:
            self.lbfgs_pair(self.progress.active[:1], coordinates)

    def lbfgs_pair(self, row: Tensor, P: Tensor) -> None:
        """One pair, in coordinates z with x = P z; reports once every `window` iterations."""
        settings = self.settings
        chunk = min(settings.window, settings.max_iter)
        z = torch.einsum("ij,bj...->bi...", torch.linalg.inv(P), self.path[row, 1:-1])
        z = z.contiguous().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [z],
            max_iter=chunk,
            max_eval=4 * chunk,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        relative_gradient = torch.full((1,), torch.inf)

        def closure() -> Tensor:
            nonlocal relative_gradient
            x = torch.einsum("ij,bj...->bi...", P, z.detach())
            energy, gradient, relative_gradient = self.evaluate(x, row)
            z.grad = torch.einsum("ji,bj...->bi...", P, gradient).contiguous()
            return energy.sum()

        for iteration in range(chunk, settings.max_iter + 1, chunk):
            before = self.least_energy[row].clone()
            optimizer.step(closure)
            slow = bool(self.has_slowed(row, before))
            if slow and bool(relative_gradient <= FLAT):
                self.progress.end(row, CONVERGED)
            elif slow:
                self.progress.end(row, NO_FALL, relative_gradients(relative_gradient))
            if self.report(iteration) or slow:
                return
        self.progress.end(row, MAX_ITER)

    def coordinates(self) -> Tensor:
        """P in x = P z: the identity, or the inverse root of the stiffness of a straight chain."""
        free = self.path.shape[1] - 2
        if not self.settings.preconditioned:
            return torch.eye(free).to(self.path)
        off_diagonal = torch.ones(free - 1)
        stiffness = 2 * torch.eye(free) - off_diagonal.diag(1) - off_diagonal.diag(-1)
        stiffness = (free + 1) * stiffness.to(working_dtype(self.path))
        return torch.linalg.inv(torch.linalg.cholesky(stiffness)).T.to(self.path)

    def evaluate(self, free: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energy of some pairs, its gradient, and the size of that relative to E/‖b − a‖.

        What is better than the best path so far takes its place.

        Args:
            free: Interior points of these pairs, (rows, n, *event).
            rows: Which pairs of the batch they are.
        """
        free = free.detach().requires_grad_()
        with torch.enable_grad():
            path = torch.cat([self.path[rows, :1], free, self.path[rows, -1:]], 1)
            energy = self.metric.pick(rows).energy(path)
            (gradient,) = torch.autograd.grad(energy.sum(), free)
        if self.settings.derivative == "exact" and self.metric.score is not None:
            self.metric.counter.derivatives += len(rows) * (self.path.shape[1] - 1)
        energy = energy.detach()
        # False where the energy is NaN
        better = (energy < self.least_energy[rows]).cpu()
        self.least_energy[rows[better]] = energy[better]
        self.best[rows[better], 1:-1] = free.detach()[better]
        relative_gradient = gradient.flatten(1).norm(dim=1) * self.gaps[rows] / energy
        return energy, gradient, relative_gradient

    def has_slowed(self, rows: Tensor, before: Tensor) -> Tensor:
        """Whether the fall since `before` is small against the energy and its whole fall."""
        now = self.least_energy[rows]
        whole_fall = self.first_energy[rows] - now
        rounding = 10 * torch.finfo(now.dtype).eps * now
        small = self.settings.tol * torch.minimum(now, whole_fall)
        return before - now <= torch.maximum(small, rounding)

    def report(self, iteration: int) -> bool:
        """History and callback; True if it asks to stop."""
        self.progress.record(iteration=iteration, energy=self.least_energy.tolist())
        return self.progress.stopped(iteration, self.best, self.least_energy)
