"""GEORCE (Rygaard & Hauberg 2025, arXiv 2505.05961), matrix-free for the score metric family.

The energy of the left-point rule is a control problem with the steps u_i as controls,

    E = T Σ_i u_i^T G_i u_i,   u_i = x_{i+1} − x_i,   G_i = w_i (I + lam s_i s_i^T),   w_i = exp(−2
    alpha f_i).

With nu_i = ∂/∂x_i (u_i^T G(x_i) u_i) at fixed u_i, N_i = Σ_{j>i} nu_j and the multiplier mu of
Σ u_i = b − a,

    mu = −(Σ G_i^-1)^-1 [2(b − a) + Σ G_i^-1 N_i],   u_i ← −½ G_i^-1 (mu + N_i),

followed by a line search between old and new u. Here

    nu_i = 2 w_i [lam p_i H u_i − alpha q_i s_i],   p = s·u,   q = ‖u‖² + lam p²,
    G_i^-1 = (I − c_i s_i s_i^T)/w_i,   c_i = lam/(1 + lam‖s_i‖²),
    Σ G_i^-1 = k I − B^T B,   k = Σ 1/w_i,   rows of B: sqrt(c_i/w_i) s_i,

with one directional derivative H u a point, and (k I − B^T B)^-1 r = [r + B^T (k I − B B^T)^-1 B
r]/k needs one T × T solve (Woodbury), never a d × d matrix.

The left-point rule is of first order in 1/T and not symmetric under exchange of the ends; so is the
path.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..elements import elements, working_dtype
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import (
    CONVERGED,
    MAX_ITER,
    NO_FALL,
    NOT_FINITE,
    UNRESOLVED,
    Callback,
    Iteration,
    Reason,
    Rows,
    Solution,
    Solver,
    check_start,
    relative_gradients,
)

# halvings of the step length without a fall of the energy after which a pair is given up
MAX_HALVINGS = 30

# largest relative difference of the energies of two quadratures that counts as resolved
RESOLVED = 0.1


@dataclass(frozen=True)
class Georce(Solver):
    """GEORCE with a line search by halving; each pair with its own step length.

    Attributes:
        tol: A pair has converged when ‖∂E‖ · ‖b − a‖ ≤ tol · E (the paper's 1e-4 is of ‖∂E‖).
        max_iter: Score batches after the first, those of the line search included. A step length
            that was accepted is doubled for the next iteration, up to 1.
    """

    name: ClassVar[str] = "georce"
    tol: float = 1e-3
    max_iter: int = 1000

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.solve`; only for metrics exp(−2 alpha f)(I + lam s s^T)."""
        self.check_family(metric)
        with torch.no_grad():
            return _Iteration(self, metric, path.detach(), callback).run()


@dataclass
class _State(Rows):
    """Paths, flat: points and scores (batch, N, d); w up to a factor, p and q (batch, T)."""

    x: Tensor
    s: Tensor
    w: Tensor
    p: Tensor
    q: Tensor
    log_energy: Tensor

    @property
    def u(self) -> Tensor:
        return self.x.diff(dim=1)


def _measure(metric: ScoreMetric, x: Tensor, s: Tensor) -> _State:
    """Left-point energy; f by the line integral of the score, zero on average over both ends."""
    f = elements(x.shape[1]).line_integral(x, s)
    exponent = -2 * metric.alpha * (f - (f[:, :1] + f[:, -1:]) / 2)[:, :-1]
    largest = exponent.amax(1, keepdim=True)
    w = (exponent - largest).exp()
    u = x.diff(dim=1)
    p = (s[:, :-1] * u).sum(-1)
    q = u.pow(2).sum(-1) + metric.lam * p**2
    log_energy = ((w * q).sum(1) * u.shape[1]).log() + largest[:, 0]
    return _State(x, s, w, p, q, log_energy)


class _Iteration(Iteration):
    """An `Iteration` by new controls and a line search.

    Attributes:
        state: The best paths so far, flat and in the working precision.
        change: New minus old controls, (batch, T, d).
        gradient: ‖∂E‖·‖b − a‖/E, (batch,).
        rate: Step length of each pair, (batch,).
        halvings: Of it since the last fall of the energy, (batch,).
        finite: Whether the energy was finite at the last trial, (batch,).
    """

    def __init__(
        self, settings: Georce, metric: ScoreMetric, path: Tensor, callback: Callback | None
    ) -> None:
        super().__init__(settings, metric, path, callback)
        x = path.flatten(2).to(working_dtype(path))
        self.state = _measure(metric, x, self.scores_without_place(x))
        check_start(metric, self.state.log_energy)
        self.change, self.gradient = self.direction(self.state)
        self.rate = x.new_ones(len(x))
        self.halvings = torch.zeros(len(x), dtype=torch.long)
        self.finite = torch.ones(len(x), dtype=torch.bool)

    def scores_without_place(self, x: Tensor) -> Tensor:
        """Scores at flat points; one that changes from pair to pair or along the path refuses."""
        return self.metric.score(self.event(x)).reshape(x.shape).to(x)

    def direction(self, now: _State) -> tuple[Tensor, Tensor]:
        """New minus old controls (batch, T, d), and ‖∂E‖·‖b − a‖/E (batch,)."""
        lam = self.metric.lam
        s = now.s[:, :-1]
        u = now.u
        w, p, q = (part[..., None] for part in (now.w, now.p, now.q))
        nu = 2 * w * (lam * p * self.curvature(now) - self.metric.alpha * q * s)
        # x_0 is fixed
        nu[:, 0] = 0
        N = nu.flip(1).cumsum(1).flip(1) - nu
        c = lam / (1 + lam * s.pow(2).sum(-1, keepdim=True))

        def inverse(y: Tensor) -> Tensor:
            """G_i^-1 y_i."""
            return (y - c * (s * y).sum(-1, keepdim=True) * s) / w

        span = u.sum(1, keepdim=True)
        right = 2 * span + inverse(N).sum(1, keepdim=True)
        mu = -_solve_sum((1 / w).sum((1, 2)), (c / w).sqrt() * s, right)
        Gu = w * (u + lam * p * s)
        gradient = nu[:, 1:] + 2 * Gu[:, :-1] - 2 * Gu[:, 1:]
        size = gradient.flatten(1).norm(dim=1) * span.flatten(1).norm(dim=1)
        return -inverse(mu + N) / 2 - u, size / (now.w * now.q).sum(1)

    def curvature(self, now: _State) -> Tensor:
        """H u at the points of each step but the first, whose point is fixed; none for lam = 0."""
        Hu = torch.zeros_like(now.u)
        if self.metric.lam > 0:
            x = self.event(now.x[:, 1:-1])
            u = self.event(now.u[:, 1:])
            Hu[:, 1:] = self.metric.score.derivative(x, u).reshape(Hu[:, 1:].shape)
        return Hu

    def run(self) -> Solution:
        self.end_finished()
        for iteration in range(1, self.settings.max_iter + 1):
            if len(self.progress.active) == 0:
                break
            self.attempt()
            energy = self.state.log_energy.exp()
            self.progress.record(iteration=iteration, energy=energy.tolist())
            if self.progress.stopped(iteration, self.unflatten(self.state.x), energy):
                break
            self.end_finished()
        self.give_up(self.progress.active, MAX_ITER)
        converged = self.progress.converged.nonzero().flatten()
        self.progress.end(converged[~self.resolved()[converged]], UNRESOLVED)
        scores = self.state.s.reshape(self.path.shape).to(self.path)
        return self.progress.solution(self.unflatten(self.state.x), scores)

    def attempt(self) -> None:
        """One score batch: go to the new controls as far as the step length says, or halve it."""
        active = self.progress.active
        now = self.state.rows(active)
        x = now.x.clone()
        x[:, 1:-1] += (self.rate[active, None, None] * self.change[active]).cumsum(1)[:, :-1]
        # the ends keep their scores
        s = now.s.clone()
        s[:, 1:-1] = self.scores_without_place(x[:, 1:-1])
        new = _measure(self.metric, x, s)
        # False for NaN
        better = (new.log_energy < now.log_energy).cpu()
        self.finite[active] = torch.isfinite(new.log_energy).cpu()
        poor = active[~better]
        self.rate[poor] /= 2
        self.halvings[poor] += 1
        good = active[better]
        if len(good) > 0:
            new = new.rows(better.nonzero().flatten())
            self.state = self.state.replace(good, new)
            self.rate[good] = (2 * self.rate[good]).clamp_max(1)
            self.halvings[good] = 0
            self.change[good], self.gradient[good] = self.direction(new)

    def end_finished(self) -> None:
        """End the pairs that have converged, and those whose step length no halving mends."""
        active = self.progress.active
        self.progress.end(active[(self.gradient[active] <= self.settings.tol).cpu()], CONVERGED)
        active = self.progress.active
        self.give_up(active[self.halvings[active] > MAX_HALVINGS], NO_FALL)

    def give_up(self, rows: Tensor, reason: Reason) -> None:
        """End pairs for this reason, or because the score was not finite where they tried to go."""
        finite = self.finite[rows]
        self.progress.end(rows[~finite], NOT_FINITE)
        rows = rows[finite]
        self.progress.end(rows, reason, relative_gradients(self.gradient[rows]))

    def resolved(self) -> Tensor:
        """Whether the left-point rule agrees with the quadrature of the result, (batch,)."""
        x = self.state.x
        squared = self.metric.speed_squared(x, self.settings.degree, scores=self.state.s)
        energy = squared @ elements(x.shape[1], self.settings.degree).w.to(squared)
        error = (self.state.log_energy - energy.log()).expm1().abs()
        return (error <= RESOLVED).cpu()


def _solve_sum(k: Tensor, B: Tensor, r: Tensor) -> Tensor:
    """(k I − B^T B)^-1 r: k (batch,), B (batch, T, d), r (batch, 1, d) -> (batch, 1, d)."""
    small = torch.diag_embed(k[:, None].expand(B.shape[:2])) - B @ B.mT
    zeta, _ = torch.linalg.solve_ex(small, B @ r.mT)
    return (r + zeta.mT @ B) / k[:, None, None]
