"""Functional gradient descent on ∫ p^−alpha ‖γ'‖ dt with bisection (paper B, Yu et al., CVPR 2025, arXiv 2504.06675).

With P = I − v v^T/‖v‖², v = γ', the functional derivative is ∝ −[P s + (1/alpha) P γ''/‖v‖²], so the descent direction is

    g = P s + (1/alpha) P γ''/‖v‖².

The curve is a few control points: first one between the ends, then 3, 7, 15. In the paper's form it lives on the sphere of the
end points' mean norm R: position and velocity by SLERP between neighbours, γ'' from the natural cubic spline, both s and γ''
first projected on the sphere's tangent space, the points re-normalised after each step (as in the released code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import checks, paths
from ..elements import elements
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import Callback, Solution, Solver, stopped, unfinished

SAME = 1e-4  # relative difference of two lengths that the quadrature cannot tell


def project_out(x: Tensor, v: Tensor) -> Tensor:
    """(I − v v^T/‖v‖²) x on flat vectors (..., d)."""
    return x - (x * v).sum(-1, keepdim=True) / v.pow(2).sum(-1, keepdim=True).clamp_min(1e-30) * v


@dataclass(frozen=True)
class FunctionalGradient(Solver):
    """Gradient descent on the control points, coarse to fine; forward scores at the control points only.

    levels: interior control points of each level; max_iter: iterations a level. step: first step length, falling linearly to 0
    over all iterations and divided by the number of control points; the paper's 0.1 belongs to its normalised latents, and a
    score of a thin manifold (‖s‖ ~ distance/sigma²) wants step ≲ sigma². Where the mean over the points of ‖P s‖ is below that
    of ‖P γ''‖/(alpha ‖v‖²), the rest of the level is skipped (the paper's rule: the curve bends enough).
    tol: converged when on the last level mean ‖g‖ ≤ tol · (mean ‖P s‖ + mean ‖P γ''‖/(alpha ‖v‖²) + 1/(alpha ‖b − a‖)).
    spherical: the paper's form. The problem is solved on directions and the norm is carried linearly from one end's to the
    other's, so that both ends are met exactly (the paper sets both to the mean norm: the same where they agree). False:
    a natural cubic spline and no re-normalisation, for data that does not live on a sphere about the origin.

    The start is the given path, put on the sphere and at constant Euclidean speed. A level that makes the curve longer (under
    the metric, by more than 1e-4) is dropped and counts as not converged. The result has constant speed under the metric.
    """

    name: ClassVar[str] = "functional_gradient"
    tol: float = 1e-2
    max_iter: int = 100
    step: float = 0.1
    levels: tuple[int, ...] = (1, 3, 7, 15)
    spherical: bool = True

    def __post_init__(self) -> None:
        checks.positive("step", self.step)
        knots = [checks.count("levels", n) + 1 for n in self.levels]
        if not knots or any(b != 2 * a for a, b in zip(knots, knots[1:])):
            raise ValueError(
                f"levels must bisect, such as (1, 3, 7, 15) interior control points, got {self.levels}"
            )

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises TypeError or ValueError for any metric but exp(−2 alpha f) I with alpha > 0."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(
                f"functional_gradient solves the density metric; for {metric.name} use solver='relaxation'"
            )
        if metric.lam > 0 or metric.alpha == 0:
            raise ValueError(
                f"functional_gradient needs lam = 0 and alpha > 0 (DensityMetric), got {metric.name}; "
                "use solver='gauss_newton'"
            )
        with torch.no_grad():
            return _Run(self, metric, path.detach(), callback).solve()


class _Run:
    """One batch of curves, flat and, in the spherical form, carried on the sphere of radius R."""

    def __init__(
        self,
        settings: FunctionalGradient,
        metric: ScoreMetric,
        path: Tensor,
        callback: Callback | None,
    ) -> None:
        self.settings, self.metric, self.path, self.callback = settings, metric, path, callback
        self.norms = path[:, [0, -1]].flatten(2).norm(dim=2, keepdim=True)  # (batch, 2, 1)
        self.radius = self.norms.mean(1, keepdim=True)
        if settings.spherical and bool((self.norms == 0).any()):
            raise ValueError(
                "spherical=True needs end points away from the origin; use FunctionalGradient(spherical=False)"
            )
        self.start = paths.resample(self.normalise(path.flatten(2)), path.shape[1])
        # the curvature that turns by one radian between the ends, over alpha: what counts as much
        self.unit = 1 / (metric.alpha * (path[:, -1] - path[:, 0]).flatten(1).norm(dim=1))
        self.iteration = torch.zeros(len(path), dtype=torch.long)
        self.converged, self.reason = unfinished(len(path), "max_iter reached")
        self.history: list[dict] = []
        self.points, self.length = self.measure(self.start)
        if not bool(torch.isfinite(self.length).all()):
            raise ValueError(
                f"{metric.score.name} is NaN or infinite on the starting path; start from another path "
                "(init=...) or a larger noise level"
            )

    def normalise(self, x: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Back to the sphere (the spherical form only)."""
        return (
            x * (self.radius[rows] / x.norm(dim=-1, keepdim=True)) if self.settings.spherical else x
        )

    def spline(self, knots: Tensor) -> paths.NaturalSpline:
        return (paths.SphericalSpline if self.settings.spherical else paths.NaturalSpline)(knots)

    def outside(self, x: Tensor, t: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Points of the data space: the norm linear in t."""
        if not self.settings.spherical:
            return x
        t = t.to(x)[:, None]
        return x * ((1 - t) * self.norms[rows, :1] + t * self.norms[rows, 1:]) / self.radius[rows]

    def score(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return (
            self.metric.score.pick(rows)
            .along(t)(x.reshape(-1, *self.path.shape[2:]))
            .reshape(x.shape)
        )

    def measure(self, curve: Tensor) -> tuple[Tensor, Tensor]:
        """Points (batch, N, d), ends exact, and length under the metric (batch,), whatever the speed, of a curve."""
        points = self.outside(curve, _times(curve.shape[1] - 2)).clone()
        points[:, 0], points[:, -1] = self.path[:, 0].flatten(1), self.path[:, -1].flatten(1)
        scores = self.score(points, _times(points.shape[1] - 2), torch.arange(len(points)))
        squared = self.metric.speed_squared(points, self.settings.degree, scores=scores)
        return points, squared.sqrt() @ elements(points.shape[1], self.settings.degree).w.to(
            squared
        )

    def solve(self) -> Solution:
        t = _times(self.settings.levels[0])
        knots = self.normalise(paths.evaluate(self.start, t))
        for level, count in enumerate(self.settings.levels):
            knots, t = self.refine(knots, t, _times(count)), _times(count)
            self.descend(knots, t, last=count == self.settings.levels[-1])
            self.keep(self.spline(knots).position(_times(self.path.shape[1] - 2)), count)
            if stopped(
                self.callback, level + 1, self.points.reshape(self.path.shape), self.length**2
            ):
                self.reason = ["stopped by the callback"] * len(knots)
                self.converged[:] = False
                break
        return Solution(
            self.even(self.points.reshape(self.path.shape)),
            self.converged,
            self.reason,
            None,
            self.history,
        )

    def even(self, points: Tensor) -> Tensor:
        """The paths at equal distances; left as they are where the score is not finite between their points."""
        result = paths.resample(points, points.shape[1], self.metric)
        sound = torch.isfinite(result).flatten(1).all(1)
        for i in (~sound).nonzero().flatten().tolist():
            self.converged[i], self.reason[i] = (
                False,
                f"the score is NaN or infinite beside the path; {self.reason[i]}",
            )
        return torch.where(sound.reshape(-1, *[1] * (points.ndim - 1)), result, points)

    def keep(self, curve: Tensor, count: int) -> None:
        """Take the level's curve if it is no longer than what stood before, to the accuracy of the quadrature."""
        points, length = self.measure(curve)
        better = length <= self.length * (1 + SAME)
        self.history.append({"control_points": count, "energy": (length**2).tolist()})
        for i in (~better).nonzero().flatten().tolist():
            self.converged[i] = False
            self.reason[i] = (
                f"the length rose from {float(self.length[i]):.6g} to {float(length[i]):.6g} with {count} control "
                "points, which were dropped; lower step="
            )
        self.points[better], self.length[better] = points[better], length[better]

    def refine(self, knots: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Control points at the times `new`: on the spline, plus what it lacks of the start curve's detail."""
        if len(old) == len(new):
            return knots
        base = lambda t: self.normalise(paths.evaluate(self.start, t))
        knots = self.spline(knots).position(new) + base(new) - self.spline(base(old)).position(new)
        return self.normalise(knots)

    def descend(self, knots: Tensor, t: Tensor, last: bool) -> None:
        """One level, in place, every pair until its own end."""
        o, active = self.settings, torch.arange(len(knots))
        for remaining in reversed(range(o.max_iter + 1)):
            g, pull, bend = self.direction(knots[active], t[1:-1], active)
            residual = g.norm(dim=2).mean(1) / (pull + bend + self.unit[active])
            met, skip, bad = (
                (c).cpu() for c in (residual <= o.tol, pull < bend, ~torch.isfinite(residual))
            )
            for k, i in enumerate(active.tolist()):
                self.converged[i] = last and met[k]
                self.reason[i] = (
                    "converged"
                    if met[k]
                    else "the score is NaN or infinite beside the path"
                    if bad[k]
                    else f"{'ended by the skip rule' if skip[k] else 'max_iter reached'}, relative gradient {float(residual[k]):.2g}"
                )
            go = ~(met | skip | bad)
            active, g = active[go], g[go]
            if len(active) == 0 or remaining == 0:
                break
            fall = 1 - self.iteration[active] / (o.max_iter * len(o.levels))
            rate = (o.step / (len(t) - 2) * fall).to(g)
            knots[active, 1:-1] = self.normalise(
                knots[active, 1:-1] + rate[:, None, None] * g, active
            )
            self.iteration[active] += 1

    def direction(self, knots: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g (n, m, d), mean ‖P s‖ and mean ‖P γ''‖/(alpha ‖v‖²) over the control points, (n,)."""
        curve, x = self.spline(knots), knots[:, 1:-1]
        v, a, s = (
            curve.velocity(t),
            curve.acceleration(t),
            self.score(self.outside(x, t, rows), t, rows),
        )
        if self.settings.spherical:
            s, a = project_out(s, x), project_out(a, x)
        pull = project_out(s, v)
        bend = project_out(a, v) / (self.metric.alpha * v.pow(2).sum(-1, keepdim=True))
        return pull + bend, pull.norm(dim=2).mean(1), bend.norm(dim=2).mean(1)


def _times(interior: int) -> Tensor:
    return torch.linspace(0, 1, interior + 2, dtype=torch.float64)
