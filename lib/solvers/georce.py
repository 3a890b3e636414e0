"""GEORCE (Rygaard & Hauberg 2025, arXiv 2505.05961), matrix-free for the score metric family.

The energy of the left-point rule is a control problem with the steps u_i as controls,

    E = T Σ_i u_i^T G_i u_i,   u_i = x_{i+1} − x_i,   G_i = w_i (I + lam s_i s_i^T),   w_i = exp(−2 alpha f_i).

With nu_i = ∂/∂x_i (u_i^T G(x_i) u_i) at fixed u_i, N_i = Σ_{j>i} nu_j and the multiplier mu of Σ u_i = b − a,

    mu = −(Σ G_i^-1)^-1 [2(b − a) + Σ G_i^-1 N_i],   u_i ← −½ G_i^-1 (mu + N_i),

followed by a line search between old and new u. Here
    nu_i = 2 w_i [lam (s·u) H u − alpha (‖u‖² + lam (s·u)²) s],  one directional derivative H u a point,
    Σ G_i^-1 = k I − B^T B,  k = Σ 1/w_i,  rows of B: sqrt(c_i/w_i) s_i,  c_i = lam/(1 + lam‖s_i‖²),
and (k I − B^T B)^-1 r = [r + B^T (k I − B B^T)^-1 B r]/k needs one T × T solve (Woodbury), never a d × d matrix.

The left-point rule is of first order in 1/T and not symmetric under exchange of the ends; so is the path.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks
from ..elements import elements
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import Callback, Solution, Solver, stopped

TRUSTED = 0.1  # largest relative difference of the energies of two quadratures that still counts as resolved


@dataclass
class _State:
    """One path a row: points x, scores s (batch, N, d); w relative to their largest, p = s·u, q = ‖u‖² + lam p² (batch, T)."""

    x: Tensor
    s: Tensor
    w: Tensor
    p: Tensor
    q: Tensor
    log_energy: Tensor

    def rows(self, index: Tensor) -> _State:
        return _State(*(getattr(self, f.name)[index] for f in fields(self)))

    def replace(self, index: Tensor, other: _State) -> None:
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)

    @property
    def u(self) -> Tensor:
        return self.x.diff(dim=1)


def _state(metric: ScoreMetric, x: Tensor, s: Tensor) -> _State:
    """Left-point energy; f by the line integral of the score (fourth order), zero on average over both ends."""
    f, u = elements(x.shape[1]).line_integral(x, s), x.diff(dim=1)
    exponent = -2 * metric.alpha * (f - (f[:, :1] + f[:, -1:]) / 2)[:, :-1]
    shift = exponent.amax(1, keepdim=True)
    w, p = (exponent - shift).exp(), (s[:, :-1] * u).sum(-1)
    q = u.pow(2).sum(-1) + metric.lam * p**2
    return _State(x, s, w, p, q, ((w * q).sum(1) * u.shape[1]).log() + shift[:, 0])


def _direction(metric: ScoreMetric, a: _State, Hu: Tensor) -> tuple[Tensor, Tensor]:
    """New minus old controls (batch, T, d), and ‖∂E‖·‖b − a‖/E (batch,). Hu (batch, T, d): 0 at the fixed start."""
    lam, alpha, s, u, w = metric.lam, metric.alpha, a.s[:, :-1], a.u, a.w[..., None]
    nu = 2 * w * (lam * a.p[..., None] * Hu - alpha * a.q[..., None] * s)
    nu[:, 0] = 0  # x_0 is fixed
    N = nu.flip(1).cumsum(1).flip(1) - nu
    c = (lam / (1 + lam * s.pow(2).sum(-1, keepdim=True))) / w
    inverse = lambda y: y / w - c * (s * y).sum(-1, keepdim=True) * s  # G_i^-1 y_i
    span = u.sum(1, keepdim=True)
    mu = -_solve_sum((1 / w).sum((1, 2)), c.sqrt() * s, 2 * span + inverse(N).sum(1, keepdim=True))
    Gu = w * (u + lam * a.p[..., None] * s)
    gradient = nu[:, 1:] + 2 * Gu[:, :-1] - 2 * Gu[:, 1:]
    size = gradient.flatten(1).norm(dim=1) * span.flatten(1).norm(dim=1) / (a.w * a.q).sum(1)
    return -inverse(mu + N) / 2 - u, size


def _solve_sum(k: Tensor, B: Tensor, r: Tensor) -> Tensor:
    """(k I − B^T B)^-1 r: k (batch,), B (batch, T, d), r (batch, 1, d) -> (batch, 1, d)."""
    small = torch.diag_embed(k[:, None].expand(B.shape[:2])) - B @ B.mT
    zeta, _ = torch.linalg.solve_ex(small, B @ r.mT)
    return (r + zeta.mT @ B) / k[:, None, None]


@dataclass(frozen=True)
class Georce(Solver):
    """GEORCE with a line search by halving; every pair has its own step length and stops on its own.

    tol: stop when ‖∂E‖ · ‖b − a‖ ≤ tol · E. max_iter: score batches after the first, line search included (the paper's
    1e-4 and 1000 count ‖∂E‖ itself and iterations). A step length that was accepted is doubled for the next iteration, up
    to 1. After max_halvings without a fall of the energy a pair is given up.
    """

    name: ClassVar[str] = "georce"
    tol: float = 1e-3
    max_iter: int = 1000
    max_halvings: int = 30

    def __post_init__(self) -> None:
        checks.count("max_halvings", self.max_halvings)

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises TypeError for a metric outside the family exp(−2 alpha f)(I + lam s s^T)."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(
                f"georce solves the score metric family; for {metric.name} use solver='relaxation'"
            )
        with torch.no_grad():
            return self._iterate(metric, path.detach(), callback)

    def _iterate(self, metric: ScoreMetric, path: Tensor, callback: Callback | None) -> Solution:
        work = torch.float32 if path.device.type == "mps" else torch.float64
        event = lambda y: y.reshape(-1, *path.shape[2:]).to(path)
        scores = lambda x: metric.score(event(x)).reshape(x.shape).to(work)

        def curvature(a: _State) -> Tensor:
            """H u at the interior points, none for lam = 0."""
            Hu = torch.zeros_like(a.u)
            if metric.lam > 0:
                Hu[:, 1:] = metric.score.derivative(event(a.x[:, 1:-1]), event(a.u[:, 1:])).reshape(
                    Hu[:, 1:].shape
                )
            return Hu

        x = path.flatten(2).to(work)
        state = _state(metric, x, scores(x))
        if not bool(torch.isfinite(state.log_energy).all()):
            raise ValueError(
                f"{metric.score.name} is NaN or infinite on the starting path; start from another path "
                "(init=...) or a larger noise level"
            )
        delta, size = _direction(metric, state, curvature(state))
        rho, halvings, batch = x.new_ones(len(x)), torch.zeros(len(x), dtype=torch.long), len(x)
        converged, reason, history = torch.zeros(batch, dtype=torch.bool), [""] * batch, []
        active, lost = torch.arange(batch), torch.zeros(batch, dtype=torch.bool)
        for iteration in range(self.max_iter + 1):
            met, stuck = (size[active] <= self.tol).cpu(), halvings[active] > self.max_halvings
            for i, m in zip(active.tolist(), met.tolist(), strict=True):
                converged[i] = m
                why = (
                    "the score is NaN or infinite beside the path"
                    if lost[i]
                    else "the energy falls no further"
                    if halvings[i] > self.max_halvings
                    else "max_iter reached"
                )
                reason[i] = "converged" if m else f"{why}, relative gradient {float(size[i]):.2g}"
            active = active[~(met | stuck)]
            if len(active) == 0 or iteration == self.max_iter:
                break
            now = state.rows(active)
            trial = now.x.clone()
            trial[:, 1:-1] += (rho[active, None, None] * delta[active]).cumsum(1)[:, :-1]
            s = now.s.clone()  # the ends keep their scores
            s[:, 1:-1] = scores(trial[:, 1:-1])
            new = _state(metric, trial, s)
            better = (new.log_energy < now.log_energy).cpu()  # False for NaN
            lost[active] = ~torch.isfinite(new.log_energy).cpu()
            good, poor = active[better], active[~better]
            state.replace(good, new.rows(better))
            rho[poor], rho[good] = rho[poor] / 2, (2 * rho[good]).clamp_max(1)
            halvings[poor], halvings[good] = halvings[poor] + 1, 0
            if len(good) > 0:
                fresh = state.rows(good)
                delta[good], size[good] = _direction(metric, fresh, curvature(fresh))
            history.append(
                {
                    "iteration": iteration + 1,
                    "energy": state.log_energy.exp().tolist(),
                    "active": len(active),
                }
            )
            if stopped(
                callback,
                iteration + 1,
                state.x.reshape(path.shape).to(path),
                state.log_energy.exp(),
            ):
                for i in active.tolist():
                    reason[i] = "stopped by the callback"
                break
        for i in (converged & ~self._resolved(metric, state)).nonzero().flatten().tolist():
            converged[i], reason[i] = (
                False,
                "its left-point energy is far from that of the path; raise points=",
            )
        points = state.x.reshape(path.shape).to(path)
        points[:, 0], points[:, -1] = path[:, 0], path[:, -1]
        return Solution(points, converged, reason, state.s.reshape(path.shape).to(path), history)

    def _resolved(self, metric: ScoreMetric, state: _State) -> Tensor:
        """Whether the left-point rule agrees with the quadrature of the result to TRUSTED, (batch,)."""
        squared = metric.speed_squared(state.x, self.degree, scores=state.s)
        energy = squared @ elements(state.x.shape[1], self.degree).w.to(squared)
        return ((state.log_energy - energy.log()).expm1().abs() <= TRUSTED).cpu()
