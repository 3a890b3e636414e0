"""Gauss–Newton for the discrete energy: the whole score metric family, forward passes only.

On the elements of elements.py (matrices D, M, weights ω at the quadrature points), with F the line
integral of the score, zero on average over both ends,

    E = Σ_q w_q (‖u_q‖² + lam d_q²),    u = D x,  d = D F,  w = ω exp(−2 alpha M F),

is a nonlinear least-squares problem whose Jacobian needs only the scores, since dF_i/dx_i = s_i:
no back-propagation. For a step Δ of the free points let y = rowsum(S∘Δ), z = rowsum(U∘DΔ),
W = diag(w), q = ‖u‖² + lam d². Then

    half gradient   g = D^T W U + S∘[lam D^T(w d) − alpha M^T(w q)]
    normal matrix   A⊗I + B^T C B,   A = D^T W D + mu·diag,   B: Δ ↦ (y, z),

    C_yy = lam D^T W D − alpha lam (M^T diag(wd) D + D^T diag(wd) M) + alpha² M^T diag(wq) M,
    C_yz = −alpha M^T W,   C_zz = 0,
    K = B (A⊗I)^-1 B^T:   K_yy = A^-1∘SS^T,   K_yz = (A^-1 D^T)∘SU^T,   K_zz = (D A^-1 D^T)∘UU^T,
    Δ = −[A^-1 g − A^-1 (S∘ζ_y + D^T(U∘ζ_z))],   ζ = (I + C K)^-1 C B(A^-1 g)       (Woodbury).

Cost O(T² d + T³) a pair beside the T − 1 scores of one batch. The damping mu of Levenberg and
Marquardt makes the energy fall; by Nielsen's rule (IMM-REP-1999-05) it follows the ratio rho of the
fall to the one that the quadratic model promised,

    after a fall      mu ← mu·max(1/3, 1 − (2 rho − 1)³),  nu ← 2,
    after a rise      mu ← mu·nu,  nu ← 2 nu.

A score that moves, s(x, t) with t the place on the path (a prompt that changes along it), is no
gradient along the path: δ∫_0^τ s(γ, t)·γ' dt = s·δγ|_τ − ∫_0^τ ∂_t s·δγ dt. So
dF_i = s_i·Δ_i − Σ_j L_ij ∂_t s_j·Δ_j, L the quadrature of ∫_0^{t_i}, and with b = dE/2dF (the
centring of F included) the half gradient gains −∂_t s_j (L^T b)_j. This costs a second batch of
scores after each accepted step, for the forward difference
∂_t s_j ≈ (s(x_j, t_j + h) − s(x_j, t_j))/h, h = 1/T; the normal matrix stays.

Damped steps lead into −g, which a learned score gives with an error (below). So a pair whose energy
no damping lowers any more goes back to the undamped step and halves it, Δ, Δ/2, …, Δ/128.

A learned score is no exact gradient. Where its Jacobian is not symmetric, dF_i = s_i·Δ_i is only a
part of the truth, and the field's curl is another that no log-density has. It is noise: paths that
follow it exploit an error of the network. So a path has converged as well if its energy falls by no
step although g promises it, and four times as many points show that the points are not to blame:
they give the same energy, and no fall either.

Two things beyond plain Gauss–Newton make the density metric (alpha > 0) several times cheaper
(`python -m benchmarks.run --only ablation`):

* curvature: the Hessian of E also holds −alpha (M^T wq)_k Δ_k·H Δ_k with H = Hess log p. For any
  density convolved with noise sigma, H ⪰ −I/sigma², with equality across a thin manifold; so
  kappa = 1/sigma² times the square of the step along s/‖s‖ is added to C_yy. Where sigma is
  unknown kappa is the secant of the last step.
* floor: where the path crosses a desert of p, w spans many orders of magnitude and A = D^T W D is
  singular to rounding; A (not the gradient) uses w of at least WEIGHT_FLOOR of its maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import paths
from ..elements import elements, working_dtype
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import (
    AT_CURL,
    AT_RESOLUTION,
    CONVERGED,
    NO_FALL,
    NOT_FINITE,
    UNRESOLVED,
    Callback,
    Iteration,
    Rows,
    Solution,
    Solver,
    check_start,
)

# smallest weight in the stiffness matrix A, relative to the largest
WEIGHT_FLOOR = 1e-2

# least damping after a rejected step; less than that after good ones counts as none
LEAST_DAMPING = 1e-2

# share of the promised fall from which a step counts as good
GOOD_RATIO = 0.75

# steps in a row without a fall above the tolerance after which a pair tries the undamped step's
# halves, and after as many of these is given up
MOST_STALLS = 8

# segments for each segment of a path on which the solver looks for the score's curl
REFINEMENT = 4

# largest relative difference of the energies of two quadratures that counts as resolved
RESOLVED = 0.2


@dataclass
class PathState(Rows):
    """Paths and the terms of their energy, one path a row, named as in the equations above.

    The weights are divided by the largest density factor of their path, so that a steep density
    cannot overflow.

    Attributes:
        x: Points.
        s: Scores at the points.
        u: Velocities at the quadrature points.
        d: Rates of change of log p at the quadrature points.
        w: Weights of the quadrature points over the largest density factor.
        q: ‖u‖² + lam d² at the quadrature points.
        log_energy: log E.
        scaled_energy: E over the largest density factor, Σ w q.
    """

    x: Float[Tensor, "batch points d"]
    s: Float[Tensor, "batch points d"]
    u: Float[Tensor, "batch segments d"]
    d: Float[Tensor, "batch segments"]
    w: Float[Tensor, "batch segments"]
    q: Float[Tensor, "batch segments"]
    log_energy: Float[Tensor, "batch"]
    scaled_energy: Float[Tensor, "batch"]


class DiscreteEnergy:
    """The energy of discrete paths under a metric of the score family, and its Gauss–Newton step.

    Points are flat, (batch, points, d); the first and the last are fixed, the others are free.

    Args:
        metric: Gives lam and alpha.
        like: Paths of the number of points, dtype and device that are wanted.
        degree: Degree of the elements.
    """

    def __init__(
        self, metric: ScoreMetric, like: Float[Tensor, "batch points d"], degree: int = 2
    ) -> None:
        self.lam = metric.lam
        self.alpha = metric.alpha
        self.elements = elements(like.shape[1], degree)
        self.D = self.elements.D.to(like)
        self.M = self.elements.M.to(like)
        self.omega = self.elements.w.to(like)

    def state(
        self, x: Float[Tensor, "batch points d"], s: Float[Tensor, "batch points d"]
    ) -> PathState:
        """The terms of the energy of paths from their points and the scores there."""
        F = self.elements.line_integral(x, s)
        F = F - (F[:, :1] + F[:, -1:]) / 2
        u = self.D @ x
        d = F @ self.D.T
        exponent = -2 * self.alpha * F @ self.M.T
        largest = exponent.amax(1, keepdim=True)
        w = self.omega * (exponent - largest).exp()
        q = u.pow(2).sum(-1) + self.lam * d**2
        scaled_energy = (w * q).sum(1)
        log_energy = scaled_energy.log() + largest[:, 0]
        return PathState(x, s, u, d, w, q, log_energy, scaled_energy)

    def half_gradient(
        self, state: PathState, drift: Float[Tensor, "batch free d"] | None = None
    ) -> Float[Tensor, "batch free d"]:
        """Half the gradient of the energy by the free points, in the units of `scaled_energy`.

        Args:
            state: The paths.
            drift: ∂_t s at the free points, for a score that moves.
        """
        w = state.w
        # b = dE/2dF at each point
        b = self.lam * (w * state.d) @ self.D - self.alpha * (w * state.q) @ self.M
        g = self.D[:, 1:-1].T @ (w[..., None] * state.u) + state.s[:, 1:-1] * b[:, 1:-1, None]
        if drift is None:
            return g
        # F is centred: half of what its shift changes is taken off at each end
        half = b.sum(1, keepdim=True) / 2
        b = torch.cat([b[:, :1] - half, b[:, 1:-1], b[:, -1:] - half], 1)
        return g - drift * (b @ self._integral_matrix().to(b))[:, 1:-1, None]

    def _integral_matrix(self) -> Tensor:
        """L of the equations: values at the nodes to their integral from 0 to each node, (N, N)."""
        times = self.elements.times
        unit_values = torch.eye(len(times), dtype=times.dtype)[..., None]
        nodes = times.expand(len(times), -1)[..., None]
        return self.elements.line_integral(nodes, unit_values).T

    def step(
        self,
        state: PathState,
        damping: Float[Tensor, "batch"],
        curvature: Float[Tensor, "batch free"],
        drift: Float[Tensor, "batch free d"] | None = None,
    ) -> tuple[Float[Tensor, "batch free d"], Float[Tensor, "batch"]]:
        """The damped Gauss–Newton step Δ of the free points, by Woodbury's identity.

        Args:
            state: The paths.
            damping: Levenberg–Marquardt's mu.
            curvature: kappa of the equations, at the free points.
            drift: ∂_t s at the free points, for a score that moves.

        Returns:
            The step, and the relative fall of the energy that the quadratic model promises.
        """
        D = self.D[:, 1:-1]
        S = state.s[:, 1:-1]
        U = state.u
        free = S.shape[1]
        with_density = self.alpha > 0
        g = self.half_gradient(state, drift)

        A = self._stiffness(state)
        damping_diagonal = damping[:, None] * A.diagonal(dim1=1, dim2=2)
        A_inverse = torch.linalg.inv(A + torch.diag_embed(damping_diagonal))
        C, K = self._woodbury_matrices(state, A_inverse, curvature)

        flat_step = A_inverse @ g
        B_flat_step = (S * flat_step).sum(-1)
        if with_density:
            z = (U * (D @ flat_step)).sum(-1)
            B_flat_step = torch.cat([B_flat_step, z], 1)
        identity = torch.eye(C.shape[1], dtype=C.dtype, device=C.device)
        zeta, _ = torch.linalg.solve_ex(identity + C @ K, C @ B_flat_step[..., None])
        correction = S * zeta[:, :free]
        if with_density:
            correction = correction + D.T @ (U * zeta[:, free:])

        delta = A_inverse @ correction - flat_step
        # the model is that of the undamped step, evaluated at the damped one
        undamped = damping_diagonal[..., None] * delta - g
        promised_fall = (undamped * delta).flatten(1).sum(1) / state.scaled_energy
        return delta, promised_fall

    def _stiffness(self, state: PathState) -> Tensor:
        """A without damping, its weights not below the floor, (batch, n, n)."""
        D = self.D[:, 1:-1]
        w = torch.maximum(state.w, WEIGHT_FLOOR * state.w.amax(1, keepdim=True))
        return D.T @ (w[..., None] * D)

    def _woodbury_matrices(
        self, state: PathState, A_inverse: Tensor, curvature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """C and K of the equations; the blocks yy alone for alpha = 0, where z has no effect."""
        lam = self.lam
        alpha = self.alpha
        D = self.D[:, 1:-1]
        M = self.M[:, 1:-1]
        S = state.s[:, 1:-1]
        U = state.u
        w = state.w
        C_yy = lam * D.T @ (w[..., None] * D)
        K_yy = A_inverse * (S @ S.mT)
        if alpha == 0:
            return C_yy, K_yy

        wd = w * state.d
        wq = w * state.q
        cross = M.T @ (wd[..., None] * D)
        C_yy = C_yy - alpha * lam * (cross + cross.mT) + alpha**2 * M.T @ (wq[..., None] * M)
        # beyond Gauss–Newton: the curvature of log p along s/‖s‖
        along_score = alpha * (wq @ M) * curvature / S.pow(2).sum(-1).clamp_min(1e-12)
        C_yy = C_yy + torch.diag_embed(along_score)
        C_yz = -alpha * M.T * w[:, None]
        K_yz = (A_inverse @ D.T) * (S @ U.mT)
        K_zz = (D @ A_inverse @ D.T) * (U @ U.mT)
        C = _symmetric_blocks(C_yy, C_yz, torch.zeros_like(K_zz))
        K = _symmetric_blocks(K_yy, K_yz, K_zz)
        return C, K


def _symmetric_blocks(yy: Tensor, yz: Tensor, zz: Tensor) -> Tensor:
    """The matrices [[yy, yz], [yz^T, zz]]."""
    upper = torch.cat([yy, yz], 2)
    lower = torch.cat([yz.mT, zz], 2)
    return torch.cat([upper, lower], 1)


def starting_curvature(metric: ScoreMetric, x: Float[Tensor, "batch points d"]) -> Tensor:
    """kappa at the free points before the first step: 1/sigma², or 0 where sigma is not known.

    Args:
        metric: Its score may have a noise level.
        x: The paths, flat.

    Returns:
        One number a free point, (batch, points − 2).
    """
    kappa = 1 / metric.sigma**2 if knows_sigma(metric) else 0.0
    return x.new_full((len(x), x.shape[1] - 2), kappa)


def knows_sigma(metric: ScoreMetric) -> bool:
    """Whether the metric's score has one positive noise level."""
    return isinstance(metric.sigma, float) and metric.sigma > 0


def relaxed_damping(mu: Float[Tensor, "rows"], ratio: Float[Tensor, "rows"]) -> Tensor:
    """Nielsen's damping after a fall of the energy, at last zero.

    Args:
        mu: The damping of the step.
        ratio: The fall over the promised one.
    """
    mu = mu * (1 - (2 * ratio - 1) ** 3).clamp_min(1 / 3)
    small = (mu < LEAST_DAMPING) & (ratio > GOOD_RATIO)
    return mu.masked_fill(small, 0.0)


@dataclass(frozen=True)
class GaussNewton(Solver):
    """Gauss–Newton with Levenberg–Marquardt damping; every pair has its own and stops on its own.

    Attributes:
        tol: A pair has converged when an undamped step makes or promises a relative fall of the
            energy below it. A network in float32 gives the energy to about 1e-7 to 3e-6 of itself
            (the bundled models against their float64 copies), so that less than 1e-5 asks for noise
            there; such a run ends all the same, when neither damped nor halved steps make it fall.
        max_iter: Batches of scores after the first.
        level_tol: The looser tolerance at the noise levels before the last and on coarse paths.
        degree: Degree of the elements, 1 to 4; the energy is of order 2·degree in the length of a
            segment. 2 is the best by notebook 09, 1 is the chain of straight segments.
        coarse: Rising numbers of points to solve on first, each at a noise level of its own where
            there are levels (see `anneal`).

    Example:
        >>> import torch
        >>> from lib import SphereScore, SteinMetric, geodesic
        >>> ends = torch.eye(3, dtype=torch.float64)
        >>> solver = GaussNewton(tol=1e-8, coarse=(9, 17))
        >>> path = geodesic(SteinMetric(SphereScore()), ends[:1], ends[1:2], solver=solver)
        >>> path.converged.tolist()
        [True]
    """

    name: ClassVar[str] = "gauss_newton"
    level_tol: float = 1e-3
    degree: int = 2
    coarse: tuple[int, ...] = ()

    def anneal(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        levels: Sequence[float],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.anneal`.

        Noise levels and numbers of points go together: the first level on the first of the coarse
        grids, and so on. Grids that are left over are solved at the last level, levels that are
        left over on the first grid.

        Raises:
            TypeError: The metric is not of the family exp(−2 alpha f)(I + lam s s^T).
            ValueError: The score is not finite on the starting path.
        """
        self.check_family(metric)
        points = path.shape[1]
        metrics = [metric.at(sigma) for sigma in levels if sigma != metric.sigma] + [metric]
        counts = [count for count in self.coarse if count < points] + [points]
        stages = max(len(metrics), len(counts))
        metrics += [metric] * (stages - len(metrics))
        counts = [counts[0]] * (stages - len(counts)) + counts
        looser = replace(self, tol=max(self.tol, self.level_tol))
        with torch.no_grad():
            for stage in range(stages):
                count = counts[stage]
                settings = self if stage == stages - 1 else looser
                if path.shape[1] != count:
                    path = paths.evaluate(path, torch.linspace(0, 1, count), self.degree)
                solution = _Iteration(settings, metrics[stage], path, callback).run()
                path = solution.points
        return solution

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.solve`; on the coarse grids first."""
        return self.anneal(metric, path, (), callback)


class _Iteration(Iteration):
    """An `Iteration` by damped steps.

    Attributes:
        energy: What is minimised.
        state: The best paths so far, flat and in the working precision.
        damping: Levenberg–Marquardt's mu of each pair, (batch,).
        growth: Nielsen's nu of each pair, (batch,).
        stalls: Steps in a row of each pair that were rejected or fell by less than the tolerance,
            (batch,).
        halving: Pairs that take the undamped step in part, (batch,).
        share: The part of it, 1, 1/2, 1/4 and so on, (batch,).
        curvature: kappa at the free points, (batch, free).
        drift: ∂_t s at the free points where they last were evaluated, (batch, free, d).
        drift_is_old: Pairs that have moved since, (batch,).
    """

    def __init__(
        self, settings: GaussNewton, metric: ScoreMetric, path: Tensor, callback: Callback | None
    ) -> None:
        super().__init__(settings, metric, path, callback)
        x = path.flatten(2).to(working_dtype(path))
        batch = len(x)
        self.energy = DiscreteEnergy(metric, x, settings.degree)
        self.times = self.energy.elements.times
        s = self.scores(x, self.times, self.progress.active)
        check_start(metric, s)
        self.state = self.energy.state(x, s)
        self.damping = x.new_zeros(batch)
        self.growth = x.new_full((batch,), 2.0)
        self.stalls = torch.zeros(batch, dtype=torch.long)
        self.halving = torch.zeros(batch, dtype=torch.bool)
        self.share = x.new_ones(batch)
        self.curvature = starting_curvature(metric, x)
        self.drift = torch.zeros_like(x[:, 1:-1])
        self.drift_is_old = torch.ones(batch, dtype=torch.bool)

    def run(self) -> Solution:
        for iteration in range(1, self.settings.max_iter + 1):
            step, promised_fall = self.propose()
            if len(self.progress.active) == 0:
                break
            self.attempt(step, promised_fall)
            energy = self.state.log_energy.exp()
            self.progress.record(iteration=iteration, energy=energy.tolist())
            if self.progress.stopped(iteration, self.unflatten(self.state.x), energy):
                break
        self.reject_unresolved()
        scores = self.state.s.reshape(self.path.shape).to(self.path)
        return self.progress.solution(self.unflatten(self.state.x), scores)

    def propose(self) -> tuple[Tensor, Tensor]:
        """Steps of the active pairs and the falls they promise.

        A pair has converged if its step, undamped or nearly so, promises too little.
        """
        active = self.progress.active
        damping = self.damping[active]
        drift = None
        if self.metric.score.moves:
            drift = self.current_drift()
        step, promised_fall = self.energy.step(
            self.state.rows(active), damping, self.curvature[active], drift
        )
        small = promised_fall <= self.settings.tol
        converged = (small & (damping <= LEAST_DAMPING)).cpu()
        self.progress.end(active[converged], CONVERGED)
        share = self.share[active[~converged]]
        step = share[:, None, None] * step[~converged]
        return step, share * (2 - share) * promised_fall[~converged]

    def attempt(self, step: Tensor, promised_fall: Tensor) -> None:
        """One batch of scores: take the steps that make the energy fall, damp the others' next."""
        active = self.progress.active
        old = self.state.rows(active)
        x = old.x.clone()
        x[:, 1:-1] += step
        # the ends keep their scores
        s = old.s.clone()
        s[:, 1:-1] = self.scores(x[:, 1:-1], self.times[1:-1], active)
        new = self.energy.state(x, s)
        fall = -(new.log_energy - old.log_energy).expm1()
        # False where the new energy is NaN
        better = (fall >= 0).cpu()

        if self.metric.alpha > 0 and not knows_sigma(self.metric):
            self.update_curvature((new.s - old.s)[:, 1:-1], step)
        accepted = new.rows(better.nonzero().flatten())
        self.state = self.state.replace(active[better], accepted)
        self.drift_is_old[active[better]] = True
        # a shortened step may fall little because it is short; True where the new energy is NaN
        little = ~(fall > self.settings.tol).cpu()
        whole = (self.damping[active] <= LEAST_DAMPING).cpu() & ~self.halving[active]
        self.stalls[active[little]] += 1
        self.stalls[active[~little]] = 0
        ratio = fall / promised_fall.clamp_min(torch.finfo(fall.dtype).tiny)
        self.shorten(better, little, ratio)

        self.progress.end(active[better & little & whole], CONVERGED)
        stuck = (self.stalls[active] >= MOST_STALLS) & torch.isin(active, self.progress.active)
        if bool(stuck.any()):
            finite = torch.isfinite(new.log_energy).cpu()
            halved = self.halving[active]
            self.progress.end(active[stuck & ~finite], NOT_FINITE)
            self.give_up(active[stuck & finite & halved])
            self.halve(active[stuck & finite & ~halved])

    def shorten(self, better: Tensor, little: Tensor, ratio: Tensor) -> None:
        """Choose the damping of the next steps, or what part of the undamped one they are.

        Args:
            better: Active pairs whose energy fell.
            little: Those whose energy fell by less than the tolerance.
            ratio: The fall over the promised one.
        """
        active = self.progress.active
        halving = self.halving[active]
        fallen = active[better & ~halving]
        self.damping[fallen] = relaxed_damping(self.damping[fallen], ratio[better & ~halving])
        self.growth[fallen] = 2.0
        risen = active[~better & ~halving]
        self.damping[risen] = (self.growth[risen] * self.damping[risen]).clamp_min(LEAST_DAMPING)
        self.growth[risen] *= 2
        self.share[active[halving & little]] /= 2
        self.restart(active[halving & ~little], halving=False)

    def restart(self, rows: Tensor, halving: bool) -> None:
        """Go back to the undamped step, to be halved or damped from there."""
        self.damping[rows] = 0.0
        self.growth[rows] = 2.0
        self.share[rows] = 1.0
        self.stalls[rows] = 0
        self.halving[rows] = halving

    def update_curvature(self, score_change: Tensor, step: Tensor) -> None:
        """The secant kappa = −Δ·(s_new − s)/‖Δ‖², the curvature of −log p along the step."""
        active = self.progress.active
        kappa = -(score_change * step).sum(-1) / step.pow(2).sum(-1)
        old = self.curvature[active]
        self.curvature[active] = torch.where(torch.isfinite(kappa), kappa.clamp_min(0), old)

    def current_drift(self) -> Tensor:
        """∂_t s at the free points of the active pairs, evaluated anew where they have moved."""
        active = self.progress.active
        moved = active[self.drift_is_old[active]]
        if len(moved) > 0:
            t = self.times[1:-1]
            h = float(self.times[1])
            here = self.state.rows(moved)
            later = self.scores(here.x[:, 1:-1], t + h, moved)
            self.drift[moved] = (later - here.s[:, 1:-1]) / h
            self.drift_is_old[moved] = False
        return self.drift[active]

    def halve(self, rows: Tensor) -> None:
        """Go on with halves of the undamped step.

        Pairs to which it promises less than the quadrature's error have converged.
        """
        _, promised_fall = self.undamped_step(rows)
        error = self.quadrature_error(self.state.rows(rows))
        negligible = (promised_fall <= error).cpu()
        self.progress.end(rows[negligible], AT_RESOLUTION)
        self.restart(rows[~negligible], halving=True)

    def give_up(self, rows: Tensor) -> None:
        """End pairs whose energy falls by no part of the undamped step, and say why.

        They have converged if the energy is that of REFINEMENT times as many points, on which a
        short part of the step does not lower it either: the promise is then an error of the
        gradient. If even these points promise a fall, it is the curl of a learned score.
        """
        if len(rows) == 0:
            return
        self.progress.end(rows, NO_FALL)
        if self.metric.score.moves:
            return
        step, _ = self.undamped_step(rows)
        state = self.state.rows(rows)
        energy, fall, promised = self.refined(state, step, rows)
        resolved = (energy - state.log_energy).expm1().abs() <= RESOLVED
        level = (resolved & (fall <= 0)).cpu()
        curl = level & (promised > 0).cpu()
        self.progress.end(rows[level], AT_RESOLUTION)
        self.progress.end(rows[curl], AT_CURL)

    def undamped_step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The undamped steps of pairs, and the falls that they promise."""
        undamped = torch.zeros_like(self.damping[rows])
        drift = self.drift[rows] if self.metric.score.moves else None
        return self.energy.step(self.state.rows(rows), undamped, self.curvature[rows], drift)

    def refined(self, state: PathState, step: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """What REFINEMENT times as many points say of paths and a short part of their steps.

        Args:
            state: Of the pairs.
            step: Their undamped steps.
            rows: Their places in the batch.

        Returns:
            log E; its fall by the shortest part of the step that is tried; the one that the
            gradient promises.
        """
        degree = self.settings.degree
        times = torch.linspace(0, 1, REFINEMENT * (state.x.shape[1] - 1) + 1, dtype=torch.float64)
        x = paths.evaluate(state.x, times, degree)
        ends = torch.zeros_like(step[:, :1])
        step = paths.evaluate(torch.cat([ends, step, ends], 1), times, degree)
        step = step / 2 ** (MOST_STALLS - 1)
        fine = DiscreteEnergy(self.metric, x, degree)
        here = fine.state(x, self.scores(x, times, rows))
        there = fine.state(x + step, self.scores(x + step, times, rows))
        promised = -2 * (fine.half_gradient(here) * step[:, 1:-1]).flatten(1).sum(1)
        return here.log_energy, here.log_energy - there.log_energy, promised

    def reject_unresolved(self) -> None:
        """Nothing has converged whose energy depends on the quadrature."""
        unresolved = (self.quadrature_error(self.state) > RESOLVED).cpu()
        rows = (self.progress.converged & unresolved).nonzero().flatten()
        self.progress.end(rows, UNRESOLVED)

    def quadrature_error(self, state: PathState) -> Tensor:
        """Relative difference of the energy from that of another degree, (batch,)."""
        other_degree = 1 if self.settings.degree > 1 else 2
        other = DiscreteEnergy(self.metric, state.x, other_degree).state(state.x, state.s)
        return (other.log_energy - state.log_energy).expm1().abs()
