"""Gauss–Newton for the discrete energy: the whole score metric family, forward passes only.

On the elements of elements.py (matrices D, M, weights ω at the quadrature points), with F the line integral of the score,

    E = Σ_q w_q (‖u_q‖² + lam d_q²),    u = D x,  d = D F,  w = ω exp(−2 alpha M F),

is a nonlinear least-squares problem whose Jacobian needs only the scores, since dF_i/dx_i = s_i: no back-propagation.
For a step Δ of the interior points let y = rowsum(S∘Δ), z = rowsum(U∘DΔ), W = diag(w), q = ‖u‖² + lam d². Then

    half gradient   g = D^T W U + S∘[lam D^T(w d) − alpha M^T(w q)]
    normal matrix   A⊗I + B^T C B,  A = D^T W D + mu·diag,  B: Δ ↦ (y, z),

    C_yy = lam D^T W D − alpha lam (M^T diag(wd) D + D^T diag(wd) M) + alpha² M^T diag(wq) M,   C_yz = −alpha M^T W,
    K = B (A⊗I)^-1 B^T:  K_yy = A^-1∘SS^T,  K_yz = (A^-1 D^T)∘SU^T,  K_zz = (D A^-1 D^T)∘UU^T,
    Δ = −[A^-1 g − A^-1 (S∘ζ_y + D^T(U∘ζ_z))],   ζ = (I + C K)^-1 C B(A^-1 g)          (Woodbury).

Cost O(T² d + T³) a pair beside the T − 1 scores of one batch. Levenberg–Marquardt damping mu makes the energy fall.

A score that moves, s(x, t) with t the place on the path (a prompt that changes along it), is no gradient along the path:
δ∫_0^τ s(γ, t)·γ' dt = s·δγ|_τ − ∫_0^τ ∂_t s·δγ dt. So dF_i = s_i·Δ_i − Σ_j L_ij ∂_t s_j·Δ_j, L the quadrature of ∫_0^{t_i},
and with b = dE/2dF (the centring of F included) the half gradient gains −∂_t s_j (L^T b)_j. This costs a second score batch after
each accepted step, for the forward difference ∂_t s_j ≈ (s(x_j, t_j + h) − s(x_j, t_j))/h, h = 1/T; the normal matrix stays.

Two things beyond plain Gauss–Newton make the density metric (alpha > 0) several times cheaper
(`python -m benchmarks.run --only ablation`):
* curvature: the Hessian of E also holds −alpha (M^T wq)_k Δ_k·H Δ_k with H = Hess log p. For any density convolved with
  noise sigma, H ⪰ −I/sigma², with equality across a thin manifold; so kappa = 1/sigma² times the square of the step along
  s/‖s‖ is added to C_yy. Where sigma is unknown kappa is the secant of the last step.
* floor: where the path crosses a desert of p, w spans many orders of magnitude and A = D^T W D is singular to rounding;
  A (not the gradient) uses w of at least WEIGHT_FLOOR of its maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks, paths
from ..elements import Elements, elements
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import (
    AT_RESOLUTION,
    CONVERGED,
    NO_FALL,
    NOT_FINITE,
    UNRESOLVED,
    Callback,
    Progress,
    Rows,
    Solution,
    Solver,
    check_start,
)

WEIGHT_FLOOR = 1e-2  # smallest weight in the stiffness matrix, relative to the largest
TRUSTED = 0.2  # largest relative difference of the energies of two quadratures that still counts as resolved


@dataclass
class _State(Rows):
    """One path a row: points x, scores s (batch, N, d); F (batch, N); the rest at the quadrature points; log of the energy.

    The weights w are divided by exp(shift), their largest density factor, so that a steep density cannot overflow.
    """

    x: Tensor
    s: Tensor
    u: Tensor
    d: Tensor
    w: Tensor
    q: Tensor
    log_energy: Tensor
    scaled_energy: Tensor


def _state(metric: ScoreMetric, e: Elements, x: Tensor, s: Tensor) -> _State:
    D, M = e.D.to(x), e.M.to(x)
    F = e.line_integral(x, s)
    F = F - (F[:, :1] + F[:, -1:]) / 2
    u, d, exponent = D @ x, F @ D.T, -2 * metric.alpha * F @ M.T
    shift = exponent.amax(1, keepdim=True)
    w, q = e.w.to(x) * (exponent - shift).exp(), u.pow(2).sum(-1) + metric.lam * d**2
    scaled = (w * q).sum(1)
    return _State(x, s, u, d, w, q, scaled.log() + shift[:, 0], scaled)


def _gradient(metric: ScoreMetric, e: Elements, a: _State, drift: Tensor | None = None) -> Tensor:
    """Half gradient of the energy in the units of a.w (batch, n, d). drift: ∂_t s of a score that moves, (batch, n, d)."""
    D, M = e.D.to(a.x), e.M.to(a.x)
    b = metric.lam * (a.w * a.d) @ D - metric.alpha * (a.w * a.q) @ M
    g = D[:, 1:-1].T @ (a.w[..., None] * a.u) + a.s[:, 1:-1] * b[:, 1:-1, None]
    if drift is None:
        return g
    N, half = (
        len(e.times),
        b.sum(1, keepdim=True) / 2,
    )  # F is centred: half of each end's is taken off
    b = torch.cat([b[:, :1] - half, b[:, 1:-1], b[:, -1:] - half], 1)
    L = e.line_integral(
        e.times.expand(N, N)[..., None], torch.eye(N, dtype=torch.float64)[..., None]
    ).T.to(a.x)
    return g - drift * (b @ L)[:, 1:-1, None]


def _step(
    metric: ScoreMetric,
    e: Elements,
    a: _State,
    mu: Tensor,
    kappa: Tensor,
    drift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Damped step of the interior points (batch, n, d) and the relative fall of the energy it predicts (batch,)."""
    D, M, S = e.D.to(a.x)[:, 1:-1], e.M.to(a.x)[:, 1:-1], a.s[:, 1:-1]
    n, alpha, g = S.shape[1], metric.alpha, _gradient(metric, e, a, drift)

    floor = torch.maximum(a.w, WEIGHT_FLOOR * a.w.amax(1, keepdim=True))
    A = D.T @ (floor[..., None] * D)
    inverse = torch.linalg.inv(A + torch.diag_embed(mu[:, None] * A.diagonal(dim1=1, dim2=2)))
    C, K = _small_matrices(metric, D, M, S, a, inverse, kappa)

    flat = inverse @ g  # A^-1 g, the step in flat space
    b = (S * flat).sum(-1)
    b = torch.cat([b, (a.u * (D @ flat)).sum(-1)], 1) if alpha > 0 else b
    identity = torch.eye(C.shape[1], dtype=C.dtype, device=C.device)
    zeta, _ = torch.linalg.solve_ex(identity + C @ K, C @ b[..., None])
    push = S * zeta[:, :n] + (D.T @ (a.u * zeta[:, n:]) if alpha > 0 else 0)
    delta = inverse @ push - flat
    return delta, -(g * delta).flatten(1).sum(1) / a.scaled_energy


def _small_matrices(
    metric: ScoreMetric, D: Tensor, M: Tensor, S: Tensor, a: _State, inverse: Tensor, kappa: Tensor
) -> tuple[Tensor, Tensor]:
    """C and K of the Woodbury identity: (batch, n, n) for alpha = 0, (batch, n + Q, n + Q) with the block of z otherwise."""
    lam, alpha, wd, wq = metric.lam, metric.alpha, a.w * a.d, a.w * a.q
    C, K = lam * D.T @ (a.w[..., None] * D), inverse * (S @ S.mT)
    if alpha == 0:
        return C, K
    cross = M.T @ (wd[..., None] * D)
    C = C - alpha * lam * (cross + cross.mT) + alpha**2 * M.T @ (wq[..., None] * M)
    C = C + torch.diag_embed(alpha * (wq @ M) * kappa / S.pow(2).sum(-1).clamp_min(1e-12))
    C_yz, K_yz = -alpha * M.T * a.w[:, None], (inverse @ D.T) * (S @ a.u.mT)
    K_zz = (D @ inverse @ D.T) * (a.u @ a.u.mT)
    blocks = lambda yy, yz, zz: torch.cat([torch.cat([yy, yz], 2), torch.cat([yz.mT, zz], 2)], 1)
    return blocks(C, C_yz, torch.zeros_like(K_zz)), blocks(K, K_yz, K_zz)


@dataclass(frozen=True)
class GaussNewton(Solver):
    """Gauss–Newton with Levenberg–Marquardt damping; every pair of the batch has its own damping and stops on its own.

    tol: stop when a step makes, or an undamped one promises, a relative fall of the energy below it. max_iter: score
    batches after the first. degree: polynomial degree of the elements; order of the energy is 2·degree in the segment length
    (2 is the default that notebook 09 finds best, 1 is the chain of straight segments). coarse: numbers of points to solve on
    first.
    """

    name: ClassVar[str] = "gauss_newton"
    tol: float = 1e-6
    max_iter: int = 100
    level_tol: float = 1e-3
    degree: int = 2
    coarse: tuple[int, ...] = ()
    damping: float = 1e-3  # first Levenberg–Marquardt parameter after a rejected step
    max_rejections: int = 12

    def __post_init__(self) -> None:
        for name in ("tol", "level_tol", "damping"):
            checks.positive(name, getattr(self, name))
        for name in ("max_iter", "max_rejections"):
            checks.count(name, getattr(self, name))

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises TypeError for a metric outside the family exp(−2 alpha f)(I + lam s s^T)."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(
                f"gauss_newton solves the score metric family; for {metric.name} use solver='relaxation'"
            )
        points = path.shape[1]
        for n in self.coarse:
            if n < points:
                path = paths.evaluate(path, torch.linspace(0, 1, n), self.degree)
                path = (
                    replace(self, tol=max(self.tol, self.level_tol))
                    ._iterate(metric, path, callback)
                    .points
                )
        if path.shape[1] != points:
            path = paths.evaluate(path, torch.linspace(0, 1, points), self.degree)
        return self._iterate(metric, path, callback)

    def _iterate(self, metric: ScoreMetric, path: Tensor, callback: Callback | None) -> Solution:
        with torch.no_grad():
            return _Run(self, metric, path, callback).solve()


class _Run:
    """A batch of paths on its way: which pairs are still active, their damping, and why the others stopped."""

    def __init__(
        self,
        settings: GaussNewton,
        metric: ScoreMetric,
        path: Tensor,
        callback: Callback | None = None,
    ) -> None:
        self.settings, self.metric, self.path = settings, metric, path
        self.elements, batch = elements(path.shape[1], settings.degree), len(path)
        x = path.flatten(2).to(torch.float32 if path.device.type == "mps" else torch.float64)
        self.progress = Progress(batch, callback)
        s = self._scores(x, self.elements.times)
        check_start(metric, s)
        self.state = _state(metric, self.elements, x, s)
        self.known = isinstance(metric.sigma, float) and metric.sigma > 0
        self.kappa = x.new_full((batch, x.shape[1] - 2), 1 / metric.sigma**2 if self.known else 0.0)
        self.mu, self.rejected = x.new_zeros(batch), torch.zeros(batch, dtype=torch.long)
        self.drift, self.stale = torch.zeros_like(x[:, 1:-1]), torch.ones(batch, dtype=torch.bool)

    @property
    def active(self) -> Tensor:
        return self.progress.active

    def solve(self) -> Solution:
        for iteration in range(1, self.settings.max_iter + 1):
            delta, fall = self._propose()
            if len(self.active) == 0:
                break
            self._try(delta, fall)
            energy = self.state.log_energy.exp()
            self.progress.record(iteration=iteration, energy=energy.tolist())
            if self.progress.stopped(iteration, self._points(), energy):
                break
        self._distrust()
        scores = self.state.s.reshape(self.path.shape).to(self.path)
        return self.progress.solution(self._points(), scores)

    def _propose(self) -> tuple[Tensor, Tensor]:
        """Steps of the active pairs and the falls they promise; pairs whose undamped step promises too little are done."""
        mu, drift = self.mu[self.active], self._moved() if self.metric.score.moves else None
        delta, fall = _step(
            self.metric,
            self.elements,
            self.state.rows(self.active),
            mu,
            self.kappa[self.active],
            drift,
        )
        met = ((fall <= self.settings.tol) & (mu <= self.settings.damping)).cpu()
        self.progress.end(self.active[met], CONVERGED)
        return delta[~met], fall[~met]

    def _try(self, delta: Tensor, fall: Tensor) -> None:
        """One score batch: take the step where the energy falls, damp the next one where it does not."""
        active = self.active
        now = self.state.rows(active)
        x, s = now.x.clone(), now.s.clone()
        x[:, 1:-1] += delta
        s[:, 1:-1] = self._scores(
            x[:, 1:-1], self.elements.times[1:-1]
        )  # the ends keep their scores
        new = _state(self.metric, self.elements, x, s)
        gain = (now.log_energy - new.log_energy).expm1().cpu()  # relative fall of the energy
        better = gain >= 0  # False for NaN
        if self.metric.alpha > 0 and not self.known:
            self._secant((new.s - now.s)[:, 1:-1], delta)
        self.state = self.state.replace(self.active[better], new.rows(better.nonzero().flatten()))
        self._damp(better)
        done = better & (gain <= self.settings.tol)
        stuck = self.rejected[self.active] >= self.settings.max_rejections
        if bool(stuck.any()):
            self._give_up(stuck, torch.isfinite(new.log_energy).cpu(), fall)
        self.progress.end(active[done], CONVERGED)

    def _damp(self, better: Tensor) -> None:
        """Levenberg–Marquardt: mu falls by 4 (to zero at last) after success and rises by 4 after failure."""
        good, poor, least = self.active[better], self.active[~better], self.settings.damping
        self.mu[good] = torch.where(self.mu[good] > least, self.mu[good] / 4, 0.0)
        self.mu[poor] = (4 * self.mu[poor]).clamp_min(least)
        self.rejected[good], self.rejected[poor] = 0, self.rejected[poor] + 1
        self.stale[good] = True

    def _moved(self) -> Tensor:
        """∂_t s at the interior points of the active pairs, renewed where they have moved: (active, n, d)."""
        rows, t = self.active[self.stale[self.active]], self.elements.times[1:-1]
        if len(rows):
            now = self.state.rows(rows)
            self.drift[rows] = (self._scores(now.x[:, 1:-1], t + t[0], rows) - now.s[:, 1:-1]) / t[
                0
            ]
            self.stale[rows] = False
        return self.drift[self.active]

    def _secant(self, change: Tensor, delta: Tensor) -> None:
        """kappa = −Δ·(s_new − s)/‖Δ‖², the curvature of −log p along the step."""
        kappa = -(change * delta).sum(-1) / delta.pow(2).sum(-1)
        self.kappa[self.active] = kappa.clamp_min(0).where(
            torch.isfinite(kappa), self.kappa[self.active]
        )

    def _give_up(self, stuck: Tensor, finite: Tensor, fall: Tensor) -> None:
        """A pair that no damping helps has converged if the fall its step promised is below the quadrature's error."""
        active = self.active
        blind = (fall <= self._resolution(self.state.rows(active))).cpu()
        self.progress.end(active[stuck & ~finite], NOT_FINITE)
        self.progress.end(active[stuck & finite & blind], AT_RESOLUTION)
        self.progress.end(active[stuck & finite & ~blind], NO_FALL)

    def _distrust(self) -> None:
        """Nothing has converged whose energy depends on the quadrature."""
        coarse = self.progress.converged & (self._resolution(self.state) > TRUSTED).cpu()
        self.progress.end(coarse.nonzero().flatten(), UNRESOLVED)

    def _resolution(self, state: _State) -> Tensor:
        """Relative difference of the energy between this degree and the chain of segments: its quadrature error, (batch,)."""
        other = elements(state.x.shape[1], 1 if self.settings.degree > 1 else 2)
        return (
            (_state(self.metric, other, state.x, state.s).log_energy - state.log_energy)
            .expm1()
            .abs()
        )

    def _scores(self, x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores at points (rows, n, d) of the pairs `rows`, the active ones if None, at times (n,) of their paths.

        Asked in the caller's dtype, returned in the solver's.
        """
        score = self.metric.score.pick(self.active if rows is None else rows).along(times)
        return score(x.reshape(-1, *self.path.shape[2:]).to(self.path)).reshape(x.shape).to(x)

    def _points(self) -> Tensor:
        points = self.state.x.reshape(self.path.shape).to(self.path)
        return torch.cat(
            [self.path[:, :1], points[:, 1:-1], self.path[:, -1:]], 1
        )  # the ends as they came
