"""Relaxation: the energy of the path, minimised over its interior points by a gradient method (paper A, arXiv 2505.11128).

    E = T Σ_i w_i (‖u_i‖² + lam (s(m_i)·u_i)²),   u_i = x_{i+1} − x_i,   m_i = (x_i + x_{i+1})/2,

for any other metric T Σ u_i^T G(m_i) u_i. The paper's settings are not public; the defaults are a third party's reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from ..scores.base import Score, WrappedScore
from .base import CONVERGED, NO_FALL, NOT_FINITE, Callback, Progress, Solution, Solver, check_start


class FrozenScore(WrappedScore):
    """A score whose value is exact and whose derivative is taken as ds/dx = −I/sigma²: no back-propagation through a network.

    That is the derivative of N(x_0, sigma² I), of one data point seen through the noise; it keeps the pull across a
    manifold and adds a false one along it. score: any with a noise level; counts on that score's counter.
    """

    def __init__(self, score: Score) -> None:
        sigma = score.sigma
        if sigma is None or not bool(torch.as_tensor(sigma > 0).all()):
            raise ValueError(
                f"derivative='frozen' needs the noise level sigma > 0 of the score, and {score.name} has {sigma}; "
                "give it one (FunctionScore(..., sigma=...)) or use derivative='exact'"
            )
        super().__init__(score)
        self.name = f"{score.name} (frozen)"

    def evaluate(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            s = self.score.evaluate(x)
        # Adds zero, and the derivative −I/sigma².
        return s + (x.detach() - x) / self.sigma_column(x) ** 2


FLAT = 0.1  # largest relative gradient ‖∂E‖·‖b − a‖/E of a path that may count as converged


@dataclass(frozen=True)
class Relaxation(Solver):
    """Adam or L-BFGS (strong Wolfe) on the interior points; the path of least energy that was seen is returned.

    tol: converged when `window` iterations lower the energy by less than tol, relative both to the energy and to its whole
    fall so far (with a small learning rate slow is not the same as done), and ‖∂E‖·‖b − a‖ ≤ 0.1 E. max_iter: iterations,
    one score batch each for Adam.
    lr → lr_end: Adam's learning rate, cosine, in the units of the points. derivative: "exact" back-propagates through the
    score, "frozen" takes ds/dx = −I/sigma² (see `FrozenScore`; its gradient is not that of the energy).
    preconditioned: L-BFGS in coordinates in which the Euclidean energy of the path is the unit quadratic (a Sobolev gradient), so
    that the number of points no longer spoils the conditioning.
    At these defaults Adam rarely converges, and says so.
    """

    name: ClassVar[str] = "relaxation"
    tol: float = 1e-4
    max_iter: int = 500
    optimizer: str = "adam"
    derivative: str = "exact"
    lr: float = 1e-3
    lr_end: float = 1e-4
    window: int = 50
    preconditioned: bool = False

    def __post_init__(self) -> None:
        checks.choice("optimizer", self.optimizer, ("adam", "lbfgs"))
        checks.choice("derivative", self.derivative, ("exact", "frozen"))
        if self.preconditioned and self.optimizer != "lbfgs":
            raise ValueError("preconditioned=True is for optimizer='lbfgs'; leave it out with adam")
        (
            checks.positive("lr", self.lr),
            checks.positive("lr_end", self.lr_end),
            checks.count("window", self.window),
        )

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises TypeError or ValueError where the derivative asked for cannot be had."""
        run = _Descent(self, self._differentiable(metric, path), path, callback)
        run.adam() if self.optimizer == "adam" else run.lbfgs()
        return run.progress.solution(run.best)

    def _differentiable(self, metric: Metric, path: Tensor) -> Metric:
        """The metric with the derivative that was asked for."""
        if self.derivative == "frozen":
            if not isinstance(metric, ScoreMetric):
                raise TypeError(
                    f"derivative='frozen' replaces the derivative of a score; {metric.name} is not a ScoreMetric: "
                    "use derivative='exact'"
                )
            return metric.with_score(FrozenScore(metric.score))
        if isinstance(metric, ScoreMetric) and metric.lam + metric.alpha > 0:
            with torch.enable_grad():
                first = metric.score.pick(torch.zeros(1, dtype=torch.long)).along(torch.zeros(1))
                s = first(path[:1, 0].detach().requires_grad_())
            if not s.requires_grad:
                raise ValueError(
                    f"{metric.score.name} returns a tensor without gradient (made under no_grad, or constant), so "
                    "its derivative would silently be zero; use derivative='frozen' or solver='gauss_newton'"
                )
        return metric

    def done(self, first: Tensor, before: Tensor, now: Tensor) -> Tensor:
        """Whether the fall from `before` to `now` is small against the energy and the fall since `first`."""
        noise = 10 * torch.finfo(now.dtype).eps * now
        return before - now <= torch.maximum(self.tol * torch.minimum(now, first - now), noise)


class _Descent:
    """One run: the best path and energy of each pair so far, and how it ended."""

    def __init__(
        self, settings: Relaxation, metric: Metric, path: Tensor, callback: Callback | None
    ) -> None:
        self.settings = settings
        self.metric = metric
        self.path = path.detach()
        self.progress = Progress(len(path), callback)
        with torch.no_grad():
            self.first = metric.energy(self.path)
        check_start(metric, self.first)
        self.gap = (path[:, -1] - path[:, 0]).flatten(1).norm(dim=1)
        self.best, self.least = self.path.clone(), self.first.clone()

    def gradient(self, x: Tensor, rows: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of the pairs `rows`, which are x[active], its gradient into x.grad and the relative size of that: (len(rows),).

        Keeps what is better than the best path so far.
        """
        with torch.enable_grad():
            energy = self.metric.pick(rows).energy(
                torch.cat([self.path[rows, :1], x[active], self.path[rows, -1:]], 1)
            )
            (x.grad,) = torch.autograd.grad(energy.sum(), x)
        energy = energy.detach()
        if self.settings.derivative == "exact" and self.metric.score is not None:
            self.metric.counter.derivatives += len(rows) * (self.path.shape[1] - 1)
        better = energy < self.least[rows]  # False for NaN
        self.least[rows[better]], self.best[rows[better], 1:-1] = (
            energy[better],
            x.detach()[active[better]],
        )
        return energy, x.grad[active].flatten(1).norm(dim=1) * self.gap[rows] / energy

    def halted(self, iteration: int) -> bool:
        """History and callback; True if it asks to stop."""
        self.progress.record(iteration=iteration, energy=self.least.tolist())
        return self.progress.stopped(iteration, self.best, self.least)

    def adam(self) -> None:
        """All pairs at once: Adam acts on every number by itself, so a pair does not feel the others."""
        o = self.settings
        x = self.path[:, 1:-1].clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=o.lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, o.max_iter, o.lr_end)
        trace: list[Tensor] = []
        for iteration in range(o.max_iter + 1):
            active = self.progress.active
            energy, slope = self.gradient(x, active, active)
            trace.append(self.least.clone())
            bad = ~torch.isfinite(energy)
            self.progress.end(active[bad], NOT_FINITE)
            if iteration >= o.window:
                met = o.done(self.first, trace[-1 - o.window], trace[-1])[active] & (slope <= FLAT)
                self.progress.end(active[met & ~bad], CONVERGED)
            if self.halted(iteration) or len(self.progress.active) == 0:
                break
            if iteration == o.max_iter:
                break
            adam.step()
            rate.step()

    def lbfgs(self) -> None:
        """Pair by pair: the line search would couple them. History and callback once every `window` iterations."""
        rows = torch.arange(len(self.path))
        for row in rows.split(1):
            if self._lbfgs(row):
                break

    def _coordinates(self) -> Tensor:
        """P in x = P z, (n, n): the identity, or the inverse root of the stiffness matrix T D^T D of the chain of segments."""
        n = self.path.shape[1] - 2
        if not self.settings.preconditioned:
            return torch.eye(n).to(self.path)
        stiffness = 2 * torch.eye(n) - torch.ones(n - 1).diag(1) - torch.ones(n - 1).diag(-1)
        return torch.linalg.inv(torch.linalg.cholesky((n + 1) * stiffness.double())).T.to(self.path)

    def _lbfgs(self, row: Tensor) -> bool:
        """One pair; True if the callback asked to stop."""
        o, slope, chunk = self.settings, [], min(self.settings.window, self.settings.max_iter)
        P = self._coordinates()
        z = (
            torch.einsum("ij,bj...->bi...", torch.linalg.inv(P), self.path[row, 1:-1])
            .contiguous()
            .requires_grad_()
        )
        optimizer = torch.optim.LBFGS(
            [z],
            max_iter=chunk,
            max_eval=4 * chunk,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            x = torch.einsum("ij,bj...->bi...", P, z.detach()).requires_grad_()
            energy, relative = self.gradient(x, row, torch.zeros(1, dtype=torch.long))
            z.grad = torch.einsum("ji,bj...->bi...", P, x.grad).contiguous()
            slope.append(relative.item())
            return energy.sum()

        for iteration in range(chunk, o.max_iter + 1, chunk):
            before = self.least[row].clone()
            optimizer.step(closure)
            if bool(o.done(self.first[row], before, self.least[row])):
                if slope[-1] <= FLAT:
                    self.progress.end(row, CONVERGED)
                else:
                    self.progress.end(row, NO_FALL, [f"(relative gradient {slope[-1]:.2g})"])
                return self.halted(iteration)
            if self.halted(iteration):
                return True
        return False
