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
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import Callback, Solution, Solver, stopped, unfinished


def project_out(x: Tensor, v: Tensor) -> Tensor:
    """(I − v v^T/‖v‖²) x on flat vectors (..., d)."""
    return x - (x * v).sum(-1, keepdim=True) / v.pow(2).sum(-1, keepdim=True).clamp_min(1e-30) * v


def _norm(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class FunctionalGradient(Solver):
    """Gradient descent on the control points, coarse to fine; forward scores at the control points only.

    levels: interior control points of each level; max_iter: iterations a level. step: first step length, falling linearly to 0
    over all iterations and divided by the number of control points; the paper's 0.1 belongs to its normalised latents, and a
    score of a thin manifold (‖s‖ ~ distance/sigma²) wants step ≲ sigma². Where the mean over the points of ‖P s‖ is below that
    of ‖P γ''‖/(alpha ‖v‖²), the rest of the level is skipped (the paper's rule: the curve bends enough).
    tol: converged when on the last level mean ‖g‖ ≤ tol · (mean ‖P s‖ + mean ‖P γ''‖/(alpha ‖v‖²)).
    spherical: the paper's form. The problem is solved on directions and the norm is carried linearly from one end's to the
    other's, so that both ends are met exactly (the paper sets both to the mean norm: the same where they agree). False:
    a natural cubic spline and no re-normalisation, for data that does not live on a sphere about the origin.

    The start is the given path, at constant speed (and put on the sphere). The result is never above its energy.
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
            raise ValueError(f"levels must bisect, such as (1, 3, 7, 15) interior control points, got {self.levels}")

    def solve(self, metric: Metric, path: Tensor, callback: Callback | None = None) -> Solution:
        """See `Solver.solve`. Raises TypeError or ValueError for any metric but exp(−2 alpha f) I with alpha > 0."""
        if not isinstance(metric, ScoreMetric):
            raise TypeError(f"functional_gradient solves the density metric; for {metric.name} use solver='relaxation'")
        if metric.lam > 0 or metric.alpha == 0:
            raise ValueError(f"functional_gradient needs lam = 0 and alpha > 0 (DensityMetric), got {metric.name}; "
                             "use solver='gauss_newton'")
        with torch.no_grad():
            return _Run(self, metric, path, callback).solve()


class _Run:
    """One batch of curves, flat and, in the spherical form, carried on the sphere of radius R."""

    def __init__(self, settings: FunctionalGradient, metric: ScoreMetric, path: Tensor, callback: Callback | None) -> None:
        self.settings, self.metric, self.path, self.callback = settings, metric, path, callback
        self.norms = path[:, [0, -1]].flatten(2).norm(dim=2, keepdim=True)          # (batch, 2, 1)
        self.radius = self.norms.mean(1, keepdim=True)
        if settings.spherical and bool((self.norms == 0).any()):
            raise ValueError("spherical=True needs end points away from the origin; use FunctionalGradient(spherical=False)")
        self.start = paths.resample(self.normalise(path.flatten(2), slice(None)), path.shape[1])
        self.iteration = torch.zeros(len(path), dtype=torch.long)
        self.converged, self.reason = unfinished(len(path), "max_iter reached")
        self.history: list[dict] = []

    def normalise(self, x: Tensor, rows: Tensor | slice) -> Tensor:
        """Back to the sphere (the spherical form only)."""
        return x * (self.radius[rows] / x.norm(dim=-1, keepdim=True)) if self.settings.spherical else x

    def spline(self, knots: Tensor) -> paths.NaturalSpline:
        return (paths.SphericalSpline if self.settings.spherical else paths.NaturalSpline)(knots)

    def scores(self, x: Tensor, t: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Points of the data space, with the norm linear in t, and the scores there: (n, m, d) each."""
        if self.settings.spherical:
            t = t.to(x)[:, None]
            x = x * ((1 - t) * self.norms[rows, :1] + t * self.norms[rows, 1:]) / self.radius[rows]
        flat = x.reshape(-1, *self.path.shape[2:])
        return x, self.metric.score(flat).reshape(x.shape)

    def solve(self) -> Solution:
        t = _times(self.settings.levels[0])
        knots = self.normalise(paths.evaluate(self.start, t), slice(None))
        first, _, before = self.measure(self.start)
        if not bool(torch.isfinite(before).all()):
            raise ValueError(f"{self.metric.score.name} is NaN or infinite on the starting path; start from another path "
                             "(init=...) or a larger noise level")
        for count in self.settings.levels:
            knots, t = self.refine(knots, t, _times(count)), _times(count)
            if self.descend(knots, t, last=count == self.settings.levels[-1]):
                break
        points, scores, after = self.measure(self.spline(knots).position(torch.linspace(0, 1, self.path.shape[1], dtype=torch.float64)))
        rose = ~(after <= before * (1 + 1e-6))
        if bool(rose.any()):
            scores[rose] = self.scores(self.start[rows := rose.nonzero().flatten()], self.times, rows)[1]
            points[rose] = first[rose]
            for i in rose.nonzero().flatten().tolist():
                self.reason[i] = f"the energy rose from {float(before[i]):.6g} to {float(after[i]):.6g}: this is the start; lower step="
            self.converged &= ~rose.cpu()
        return Solution(points.reshape(self.path.shape), self.converged, self.reason, scores.reshape(self.path.shape), self.history)

    @property
    def times(self) -> Tensor:
        return torch.linspace(0, 1, self.path.shape[1], dtype=torch.float64)

    def measure(self, curve: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (ends exact), scores (batch, N, d) and energy (batch,) of a curve."""
        points, scores = self.scores(curve, self.times, slice(None))
        points[:, 0], points[:, -1] = self.path[:, 0].flatten(1), self.path[:, -1].flatten(1)
        squared = self.metric.speed_squared(points, self.settings.degree, scores=scores)
        return points, scores, squared.mean(1)

    def refine(self, knots: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Control points at the times `new`: on the spline, plus what it lacks of the start curve's detail."""
        if len(old) == len(new):
            return knots
        base = lambda t: self.normalise(paths.evaluate(self.start, t), slice(None))
        return self.normalise(self.spline(knots).position(new) + base(new) - self.spline(base(old)).position(new), slice(None))

    def descend(self, knots: Tensor, t: Tensor, last: bool) -> bool:
        """One level, in place, every pair until its own end; True if the callback asked to stop."""
        o, active = self.settings, torch.arange(len(knots))
        for _ in range(o.max_iter):
            g, pull, bend = self.direction(knots[active], t[1:-1], active)
            residual = g.norm(dim=2).mean(1) / (pull + bend)
            met, skip, bad = residual <= o.tol, pull < bend, ~torch.isfinite(residual)
            for i, r, m, s, b in zip(active.tolist(), residual.tolist(), met.tolist(), skip.tolist(), bad.tolist()):
                self.converged[i] = last and m
                self.reason[i] = ("converged" if last and m else "the score is NaN or infinite beside the path" if b else
                                  f"{'skip rule' if s else 'max_iter'} reached at a relative gradient of {r:.2g}")
            go = ~(met | skip | bad)
            active, g = active[go], g[go]
            if len(active) == 0:
                break
            fall = 1 - self.iteration[active] / (o.max_iter * len(o.levels))
            knots[active, 1:-1] = self.normalise(knots[active, 1:-1] + (o.step / (len(t) - 2) * fall).to(g)[:, None, None] * g, active)
            self.iteration[active] += 1
            self.history.append({"level": len(t) - 2, "iteration": len(self.history) + 1, "residual": residual.tolist(), "active": len(active)})
        return False

    def direction(self, knots: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g (n, m, d), mean ‖P s‖ and mean ‖P γ''‖/(alpha ‖v‖²) over the control points, (n,)."""
        curve = self.spline(knots)
        v, a, (_, s) = curve.velocity(t), curve.acceleration(t), self.scores(knots[:, 1:-1], t, rows)
        if self.settings.spherical:
            s, a = project_out(s, knots[:, 1:-1]), project_out(a, knots[:, 1:-1])
        pull = project_out(s, v)
        bend = project_out(a, v) / (self.metric.alpha * v.pow(2).sum(-1, keepdim=True))
        return pull + bend, pull.norm(dim=2).mean(1), bend.norm(dim=2).mean(1)


def _times(interior: int) -> Tensor:
    return torch.linspace(0, 1, interior + 2, dtype=torch.float64)
