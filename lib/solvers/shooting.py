"""Shooting: the initial velocity v whose geodesic x(t; v) is at the end point at t = 1.

    r(v) = x(1; v) − b = 0,   v ← v − rho J^-1 r,   J = ∂x(1; v)/∂v.

In few dimensions J is made of finite differences, d more shots in the same batch (Newton); in more,
Broyden's rank-one updates of J^-1, starting from J = I (flat space), need no further shot.
Geodesics that spread make J large and the basin small: the answer depends on the first guess, which
is what there is to see (`guess`, notebook 02).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..elements import elements
from ..metrics.base import Metric
from .base import CONVERGED, Callback, Iteration, Reason, Solution, Solver
from .initial_value import geodesic_flow

ANOTHER_START = "try another init= or guess="
STUCK = Reason("no step length brings the shot closer", ANOTHER_START)
OUT_OF_SHOTS = Reason("max_iter reached", ANOTHER_START)
BLOWS_UP = Reason(
    "every shot blows up, also a short one: the given path is returned",
    "try another guess= or more substeps=",
)


@dataclass(frozen=True, eq=False)
class Shooting(Solver):
    """Damped Newton or Broyden on the initial velocity; every pair ends on its own.

    Attributes:
        tol: Converged when the shot lands within tol · ‖b − a‖ of the end, which then takes the
            exact end as its last point. One that did not converge keeps its own points, so its last
            one is *not* the end, and its reason says by how much.
        max_iter: Shots.
        substeps: RK4 steps (of four scores) between two points of the path.
        newton_dim: Newton up to this many dimensions, Broyden beyond.
        max_halvings: Of the step length.
        guess: First velocity (batch, *event), used at every noise level; None: that of the given
            path, dγ/dt at t = 0, which is b − a for a straight path and nearly right for a solved
            one.
    """

    name: ClassVar[str] = "shooting"
    tol: float = 1e-6
    max_iter: int = 50
    substeps: int = 2
    newton_dim: int = 64
    max_halvings: int = 20
    guess: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("substeps", self.substeps)
        checks.count("max_halvings", self.max_halvings)
        checks.count("newton_dim", self.newton_dim, least=0)

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.solve`; ValueError for a guess of another shape, of NaN, or of zero."""
        with torch.no_grad():
            return _Iteration(self, metric, path.detach(), callback).run()

    def first_velocity(
        self, path: Float[Tensor, "batch points *event"]
    ) -> Float[Tensor, "batch d"]:
        """The guess, flat."""
        if self.guess is None:
            x = path.flatten(2)
            slope = elements(path.shape[1], self.degree).V[0].to(x)
            return torch.einsum("n,bnd->bd", slope, x)
        guess = checks.batched("guess", self.guess, path.shape[2:]).to(path)
        checks.same_layout("guess", guess, "start", path[:, 0])
        checks.nonzero("guess", guess)
        # the solver writes into its own copy
        return guess.flatten(1).clone()


class Newton:
    """J from forward differences, one further shot for each dimension.

    A difference h moves the end by ‖J‖h, and rounding by eps‖J‖‖v‖: h = ‖v‖ sqrt(eps/‖J‖) balances
    both where ‖J‖ is large.
    """

    def __init__(self, v: Float[Tensor, "batch d"]) -> None:
        self.J = torch.eye(v.shape[1]).to(v).repeat(len(v), 1, 1)
        self.h = torch.ones_like(v[:, 0])

    def probes(self, rows: Tensor, v: Tensor) -> Tensor:
        """Further velocities to shoot with, (rows, d, d): v with one coordinate changed by h."""
        size = self.J[rows].flatten(1).norm(dim=1).nan_to_num(1.0).clamp_min(1)
        self.h[rows] = v.norm(dim=1) * (torch.finfo(v.dtype).eps / size).sqrt()
        return v[:, None] + self.h[rows, None, None] * torch.eye(v.shape[1]).to(v)

    def update(self, rows: Tensor, dv: Tensor, dr: Tensor, differences: Tensor) -> None:
        """Learn J from how the ends of the probes differ from the shot's, (rows, d, d)."""
        self.J[rows] = (differences / self.h[rows, None, None]).mT

    def step(self, rows: Tensor, r: Tensor) -> Tensor:
        """−J^-1 r."""
        return -torch.linalg.solve_ex(self.J[rows], r[..., None])[0][..., 0]


class Broyden:
    """Broyden's (good) method: J^-1 ≈ H, learnt from the steps that were taken, from H = I on.

    A step dv that changed r by dr gives

        H ← H + (dv − H dr)(H^T dv)^T / (dv · H dr),

    so H = I + Σ_k a_k b_k^T, two vectors an update, and never a d × d matrix. Each row of the batch
    has an H of its own.
    """

    def __init__(self, v: Float[Tensor, "batch d"], max_updates: int) -> None:
        self.a = v.new_zeros(len(v), max_updates, v.shape[1])
        self.b = torch.zeros_like(self.a)
        self.updates = torch.zeros(len(v), dtype=torch.long)

    def probes(self, rows: Tensor, v: Tensor) -> Tensor:
        """No further shots: (rows, 0, d)."""
        return v[:, None][:, :0]

    def update(
        self, rows: Tensor, dv: Tensor, dr: Tensor, differences: Tensor | None = None
    ) -> None:
        """Learn from steps dv (rows, d) that changed r by dr; nothing from one of no curvature."""
        a = self.a[rows]
        b = self.b[rows]
        Hdr = _rank_one_sum(a, b, dr)
        curvature = (dv * Hdr).sum(1, keepdim=True)
        least = 1e-12 * dv.norm(dim=1, keepdim=True) * Hdr.norm(dim=1, keepdim=True)
        sound = torch.isfinite(curvature) & (curvature.abs() > least)
        k = self.updates[rows]
        self.a[rows, k] = torch.where(sound, (dv - Hdr) / curvature, 0)
        self.b[rows, k] = torch.where(sound, _rank_one_sum(b, a, dv), 0)
        self.updates[rows] += 1

    def step(self, rows: Tensor, r: Tensor) -> Tensor:
        """−H r."""
        return -_rank_one_sum(self.a[rows], self.b[rows], r)


def _rank_one_sum(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """(I + Σ_k a_k b_k^T) y: a, b (n, k, d), y (n, d)."""
    return y + torch.einsum("nkd,nk->nd", a, torch.einsum("nkd,nd->nk", b, y))


class _Iteration(Iteration):
    """An `Iteration` with the best shots so far, flat.

    Attributes:
        points: Of the best shots; of the starting path where none was finite.
        v: Velocities of the best shots, (batch, d); 0 before the first.
        r: What they miss the end by, (batch, d); infinite before the first.
        step: Where the next shot goes, (batch, d).
        rate: Step length of each pair, (batch,).
        halvings: Of it since a shot came closer, (batch,).
        jacobian: By which a step is found.
    """

    def __init__(
        self, settings: Shooting, metric: Metric, path: Tensor, callback: Callback | None
    ) -> None:
        super().__init__(settings, metric, path, callback)
        self.points = path.clone()
        self.start = path[:, 0].flatten(1)
        self.end = path[:, -1].flatten(1)
        self.gap = (self.end - self.start).norm(dim=1)
        self.step = settings.first_velocity(path)
        self.v = torch.zeros_like(self.step)
        self.r = torch.full_like(self.v, torch.inf)
        self.rate = torch.ones_like(self.gap)
        self.halvings = torch.zeros(len(path), dtype=torch.long)
        self.jacobian = Broyden(self.v, settings.max_iter)
        if self.v.shape[1] <= settings.newton_dim:
            self.jacobian = Newton(self.v)

    @property
    def miss(self) -> Tensor:
        """Distance from the end, in units of ‖b − a‖."""
        return self.r.norm(dim=1) / self.gap

    def run(self) -> Solution:
        tol = max(self.settings.tol, 100 * torch.finfo(self.v.dtype).eps)
        for iteration in range(1, self.settings.max_iter + 1):
            self.attempt()
            self.progress.record(iteration=iteration, miss=self.miss.tolist())
            landed = (self.miss <= tol).cpu()
            self.progress.end(landed.nonzero().flatten(), CONVERGED)
            if self.progress.callback is not None:
                energy = self.metric.energy(self.points)
                if self.progress.stopped(iteration, self.points, energy):
                    break
            active = self.progress.active
            self.give_up(active[self.halvings[active] > self.settings.max_halvings], STUCK)
            if len(self.progress.active) == 0:
                break
        self.give_up(self.progress.active, OUT_OF_SHOTS)
        converged = self.progress.converged
        self.points[converged, -1] = self.path[converged, -1]
        return self.progress.solution(self.points)

    def attempt(self) -> None:
        """One shot of each of the active pairs; accepted where it lands closer."""
        rows = self.progress.active
        dv = self.rate[rows, None] * self.step[rows]
        v = self.v[rows] + dv
        points, end, differences = self.shoot(rows, v)
        r = end - self.end[rows]
        # False for NaN
        closer = (r.norm(dim=1) < self.r[rows].norm(dim=1)).cpu()
        poor = rows[~closer]
        self.rate[poor] /= 2
        self.halvings[poor] += 1
        good = rows[closer]
        dr = r[closer] - self.r[good]
        self.jacobian.update(good, dv[closer], dr, differences[closer])
        self.v[good] = v[closer]
        self.r[good] = r[closer]
        self.points[good] = points[closer]
        self.step[good] = self.jacobian.step(good, r[closer])
        self.rate[good] = (2 * self.rate[good]).clamp_max(1)
        self.halvings[good] = 0

    def shoot(self, rows: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points of the shots v, their ends, and how the ends of the probes differ from these."""
        shots = torch.cat([v[:, None], self.jacobian.probes(rows, v)], 1)
        event = self.path.shape[2:]
        start = self.start[rows, None].expand_as(shots).reshape(-1, *event)
        substeps = self.settings.substeps
        steps = substeps * (self.path.shape[1] - 1)
        flow = geodesic_flow(self.metric, start, shots.reshape(-1, *event), steps=steps)
        ends = flow.points[:, -1].reshape(shots.shape)
        points = flow.points[:: shots.shape[1], ::substeps]
        return points, ends[:, 0], ends[:, 1:] - ends[:, :1]

    def give_up(self, rows: Tensor, reason: Reason) -> None:
        """End pairs for this reason, or because none of their shots was finite."""
        miss = self.miss[rows].cpu()
        lost = miss == torch.inf
        self.progress.end(rows[lost], BLOWS_UP)
        details = [
            f"(the shot ends {size:.2g} of the distance away from the end point)"
            for size in miss[~lost].tolist()
        ]
        self.progress.end(rows[~lost], reason, details)


class Aim(NamedTuple):
    """Initial velocities, and by what share of the distance their geodesics miss the end."""

    velocity: Float[Tensor, "batch *event"]
    miss: Float[Tensor, "batch"]


@torch.no_grad()
def aim(
    metric: Metric,
    start: Float[Tensor, "batch *event"],
    end: Float[Tensor, "batch *event"],
    velocity: Float[Tensor, "batch *event"],
    *,
    steps: int,
    tol: float,
    max_iter: int,
) -> Aim:
    """Correct velocities that nearly hit, exp_start(v) ≈ end, by undamped Broyden steps.

    `Shooting` takes only what lands closer; near the answer a step that lands farther away for once
    needs fewer shots.

    Args:
        metric: The metric.
        start: Where the geodesics begin.
        end: Where they should be at time 1.
        velocity: A good guess for each.
        steps: RK4 steps of a shot.
        tol: A row is done when it misses by at most tol·‖end − start‖.
        max_iter: Most corrections.

    Returns:
        The best velocity of each row.
    """

    def shoot(rows: Tensor, v: Tensor) -> Tensor:
        """How far, and in which direction, the shots miss: (rows, d)."""
        reached = geodesic_flow(metric, start[rows], v.reshape(start[rows].shape), steps=steps)
        return (reached.points[:, -1] - end[rows]).flatten(1)

    rows = torch.arange(len(start))
    v = velocity.flatten(1).clone()
    r = shoot(rows, v)
    best = v.clone()
    least = r.norm(dim=1).nan_to_num(torch.inf)
    gap = (end - start).flatten(1).norm(dim=1)
    shrink = torch.ones_like(gap)
    inverse = Broyden(v, max_iter)
    for _ in range(max_iter):
        rows = rows[(least > tol * gap)[rows].cpu()]
        if len(rows) == 0:
            break
        dv = inverse.step(rows, r[rows])
        # No leap beyond ‖end − start‖, and shorter ones after a shot that blew up.
        dv = dv * ((gap[rows] / dv.norm(dim=1)).clamp_max(1) * shrink[rows])[:, None]
        new = shoot(rows, v[rows] + dv)
        finite = torch.isfinite(new).all(1).cpu()
        shrink[rows[~finite]] /= 4
        good = rows[finite]
        shrink[good] = 1
        inverse.update(good, dv[finite], new[finite] - r[good])
        v[good] += dv[finite]
        r[good] = new[finite]
        size = r[good].norm(dim=1)
        closer = (size < least[good]).cpu()
        best[good[closer]] = v[good[closer]]
        least[good[closer]] = size[closer]
    return Aim(best.reshape(start.shape), least / gap)
