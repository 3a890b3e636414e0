"""Shooting: the initial velocity v whose geodesic x(t; v) is at the end point at t = 1, by Newton or Broyden.

    r(v) = x(1; v) − b = 0,   v ← v − rho J^-1 r,   J = ∂x(1; v)/∂v.

In few dimensions J is made of finite differences, d more shots in the same batch; beyond, Broyden's rank-one updates of
J^-1, starting from J = I (flat space), need no further shot. Geodesics that spread make J large and the basin small: the
answer depends on the first guess, which is what there is to see (`guess`, notebook 02).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks
from ..elements import elements
from ..metrics.base import Metric
from .base import Callback, Solution, Solver, stopped
from .initial_value import flow


@dataclass(frozen=True, eq=False)
class Shooting(Solver):
    """Damped Newton (d ≤ newton_dim) or Broyden on the initial velocity; every pair has its own step length and ends on its own.

    tol: converged when the shot lands within tol · ‖b − a‖ of the end, which then takes the exact end as its last point; one
    that did not converge keeps its own points, so its last one is *not* the end, and its reason says by how much.
    max_iter: shots. substeps: RK4 steps (of four scores) between two points of the path. max_halvings: of the step length.
    guess: first velocity (batch, *event), used at every noise level; None: that of the given path, dγ/dt at t = 0, which is
    b − a for a straight path and nearly right for a solved one.
    """

    name: ClassVar[str] = "shooting"
    tol: float = 1e-6
    max_iter: int = 50
    substeps: int = 2
    newton_dim: int = 64
    max_halvings: int = 20
    guess: Tensor | None = None

    def __post_init__(self) -> None:
        checks.count("substeps", self.substeps), checks.count("max_halvings", self.max_halvings)
        checks.count("newton_dim", self.newton_dim, least=0)

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises ValueError for a guess of another shape, of NaN, or of zero."""
        with torch.no_grad():
            return _Run(self, metric, path.detach()).solve(callback)

    def first_velocity(self, path: Tensor) -> Tensor:
        """The guess, flat: (batch, d)."""
        if self.guess is None:
            e, x = elements(path.shape[1], self.degree), path.flatten(2)
            return torch.einsum("n,bnd->bd", e.V[0].to(x), x)
        guess = checks.finite("guess", checks.floating("guess", self.guess)).to(path)
        guess = guess[None] if guess.ndim == path.ndim - 2 else guess
        if guess.shape != path[:, 0].shape:
            raise ValueError(
                f"guess must have shape {tuple(path[:, 0].shape)}, got {tuple(self.guess.shape)}"
            )
        if bool((guess == 0).flatten(1).all(1).any()):
            raise ValueError(
                "guess is a zero velocity, which stays where it is; leave guess=None for the path's own"
            )
        return guess.flatten(1)


class _Newton:
    """J from forward differences: d more shots in the batch of the trial.

    A difference h moves the end by ‖J‖h, and rounding by eps‖J‖‖v‖: h = ‖v‖ sqrt(eps/‖J‖) balances both where ‖J‖ is large.
    """

    def __init__(self, v: Tensor) -> None:
        self.J = torch.eye(v.shape[1], dtype=v.dtype, device=v.device).repeat(len(v), 1, 1)

    def shots(self, rows: Tensor, v: Tensor) -> Tensor:
        """Velocities (n, 1 + d, d): v and its neighbours."""
        h = self.width(rows, v)[:, None, None]
        return torch.cat([v[:, None], v[:, None] + h * torch.eye(v.shape[1]).to(v)], 1)

    def width(self, rows: Tensor, v: Tensor) -> Tensor:
        size = self.J[rows].flatten(1).norm(dim=1).nan_to_num(1.0).clamp_min(1)
        return v.norm(dim=1) * (torch.finfo(v.dtype).eps / size).sqrt()

    def accept(self, rows: Tensor, v: Tensor, ends: Tensor, dv: Tensor, dr: Tensor) -> None:
        self.J[rows] = ((ends[:, 1:] - ends[:, :1]) / self.width(rows, v)[:, None, None]).mT

    def step(self, rows: Tensor, r: Tensor) -> Tensor:
        return -torch.linalg.solve_ex(self.J[rows], r[..., None])[0][..., 0]


class _Broyden:
    """J^-1 ≈ H = I + Σ_j a_j b_j^T; (good) Broyden: H ← H + (dv − H dr)(H^T dv)^T/(dv·H dr)."""

    def __init__(self, v: Tensor, updates: int) -> None:
        self.a, self.b = (v.new_zeros(len(v), updates, v.shape[1]) for _ in range(2))
        self.used = torch.zeros(len(v), dtype=torch.long)

    def shots(self, rows: Tensor, v: Tensor) -> Tensor:
        return v[:, None]

    def apply(self, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return y + torch.einsum("nkd,nk->nd", a, torch.einsum("nkd,nd->nk", b, y))

    def accept(self, rows: Tensor, v: Tensor, ends: Tensor, dv: Tensor, dr: Tensor) -> None:
        Hdr, HTdv = (
            self.apply(self.a[rows], self.b[rows], dr),
            self.apply(self.b[rows], self.a[rows], dv),
        )
        size = (dv * Hdr).sum(1, keepdim=True)
        safe = torch.isfinite(size) & (
            size.abs() > 1e-12 * dv.norm(dim=1, keepdim=True) * Hdr.norm(dim=1, keepdim=True)
        )
        self.a[rows, self.used[rows]] = torch.where(safe, (dv - Hdr) / size, 0)
        self.b[rows, self.used[rows]] = torch.where(safe, HTdv, 0)
        self.used[rows] += 1

    def step(self, rows: Tensor, r: Tensor) -> Tensor:
        return -self.apply(self.a[rows], self.b[rows], r)


class _Run:
    """The batch: velocities v and misses r of the accepted shots, flat (batch, d), and their points."""

    def __init__(self, settings: Shooting, metric: Metric, path: Tensor) -> None:
        self.settings, self.metric, self.path, self.points = settings, metric, path, path.clone()
        self.start, self.end = path[:, 0].flatten(1), path[:, -1].flatten(1)
        self.gap = (self.end - self.start).norm(dim=1)
        self.step = settings.first_velocity(path)
        self.v = torch.zeros_like(self.step)
        self.r = torch.full_like(self.v, torch.inf)  # so that any finite first shot is taken
        self.rho, self.halvings = (
            torch.ones_like(self.gap),
            torch.zeros(len(path), dtype=torch.long),
        )
        self.slope = (
            _Newton(self.v)
            if self.v.shape[1] <= settings.newton_dim
            else _Broyden(self.v, settings.max_iter)
        )

    @property
    def miss(self) -> Tensor:
        """Distance from the end, in units of ‖b − a‖."""
        return self.r.norm(dim=1) / self.gap

    def shoot(self, rows: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the shots v, (n, N, *event), and ends of these and their neighbours, (n, m, d)."""
        shots, o, event = self.slope.shots(rows, v), self.settings, self.path.shape[2:]
        n, m, d = shots.shape
        x = self.start[rows, None].expand(n, m, d).reshape(-1, *event)
        y = flow(
            self.metric, x, shots.reshape(-1, *event), steps=o.substeps * (self.path.shape[1] - 1)
        )[0]
        return y[::m, :: o.substeps], y[:, -1].reshape(n, m, d)

    def trial(self, rows: Tensor) -> None:
        """One shot of each of the pairs `rows`; accepted where it lands closer."""
        dv = self.rho[rows, None] * self.step[rows]
        v = self.v[rows] + dv
        points, ends = self.shoot(rows, v)
        r = ends[:, 0] - self.end[rows]
        closer = (r.norm(dim=1) < self.r[rows].norm(dim=1)).cpu()  # False for NaN
        good, poor = rows[closer], rows[~closer]
        self.slope.accept(good, v[closer], ends[closer], dv[closer], r[closer] - self.r[good])
        self.v[good], self.r[good], self.points[good] = v[closer], r[closer], points[closer]
        self.step[good] = self.slope.step(good, r[closer])
        self.rho[poor], self.rho[good] = self.rho[poor] / 2, (2 * self.rho[good]).clamp_max(1)
        self.halvings[poor], self.halvings[good] = self.halvings[poor] + 1, 0

    def solve(self, callback: Callback | None) -> Solution:
        o, active, history, why = self.settings, torch.arange(len(self.path)), [], {}
        tol = max(o.tol, 100 * torch.finfo(self.v.dtype).eps)
        for iteration in range(1, o.max_iter + 1):
            self.trial(active)
            history.append(
                {"iteration": iteration, "miss": self.miss.tolist(), "active": len(active)}
            )
            if callback is not None and stopped(
                callback, iteration, self.points, self.metric.energy(self.points)
            ):
                why |= dict.fromkeys(active.tolist(), "stopped by the callback")
                break
            stuck = self.halvings[active] > o.max_halvings
            why |= dict.fromkeys(active[stuck].tolist(), "no step length brings the shot closer")
            active = active[~(stuck | (self.miss[active] <= tol).cpu())]
            if len(active) == 0:
                break
        converged = (self.miss <= tol).cpu()
        reason = [
            "converged" if ok else self.failure(miss, why.get(i, "max_iter reached"))
            for i, (ok, miss) in enumerate(zip(converged.tolist(), self.miss.tolist(), strict=True))
        ]
        self.points[converged, -1] = self.path[converged, -1]
        return Solution(self.points, converged, reason, None, history)

    def failure(self, miss: float, why: str) -> str:
        if miss == float("inf"):
            return "every shot blows up, also a short one: the given path is returned; try another guess= or more substeps="
        return f"{why}: the shot ends {miss:.2g} of the distance away from the end point; try another init= or guess="
