"""Functional gradient descent on ∫ p^−alpha ‖γ'‖ dt (Yu et al., CVPR 2025, arXiv 2504.06675).

With P = I − v v^T/‖v‖², v = γ', the functional derivative is ∝ −[P s + (1/alpha) P γ''/‖v‖²], so
the descent direction is

    g = P s + (1/alpha) P γ''/‖v‖².

The curve is a few control points: first one between the ends, then 3, 7, 15. In the paper's form it
lives on the sphere of the end points' mean norm R: position and velocity by SLERP between
neighbours, γ'' from the natural cubic spline, both s and γ'' first projected on the sphere's
tangent space, the points re-normalised after each step (as in the released code).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks, paths
from ..elements import elements
from ..metrics.base import Metric
from ..metrics.score_metric import ScoreMetric
from .base import (
    CONVERGED,
    MAX_ITER,
    NOT_FINITE,
    Callback,
    Iteration,
    Reason,
    Solution,
    Solver,
    check_start,
    relative_gradients,
)

SKIPPED = Reason("ended by the skip rule", "use solver='gauss_newton' to go on to the geodesic")
TOO_LONG = Reason("the curve became longer", "lower step=")

# relative difference of two lengths that the quadrature cannot tell.
LENGTH_ERROR = 1e-4


@dataclass(frozen=True)
class FunctionalGradient(Solver):
    """Gradient descent on the control points, coarse to fine; scores at the control points only.

    The start is the given path, put on the sphere and at constant Euclidean speed. A level that
    makes the curve longer under the metric is dropped and counts as not converged. The result has
    constant speed under the metric.

    Attributes:
        tol: Converged when on the last level mean ‖g‖ ≤ tol · (mean ‖P s‖ + mean ‖P γ''‖/(alpha
            ‖v‖²) + 1/(alpha ‖b − a‖)).
        max_iter: Iterations a level. Where the mean over the points of ‖P s‖ is below that of
            ‖P γ''‖/(alpha ‖v‖²), the rest of the level is skipped (the paper's rule: the curve
            bends enough).
        step: First step length, falling linearly to 0 over all iterations and divided by the number
            of control points. The paper's 0.1 belongs to its normalised latents; a score of a thin
            manifold (‖s‖ ~ distance/sigma²) wants step ≲ sigma².
        levels: Interior control points of each level; each level bisects.
        spherical: The paper's form. The problem is solved on directions and the norm goes linearly
            from one end's to the other's, so that both ends are met exactly (the paper sets both to
            the mean norm: the same where they agree). False: a natural cubic spline and no
            re-normalisation, for data that does not live on a sphere about the origin.
    """

    name: ClassVar[str] = "functional_gradient"
    tol: float = 1e-2
    max_iter: int = 100
    step: float = 0.1
    levels: tuple[int, ...] = (1, 3, 7, 15)
    spherical: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("step", self.step)
        pieces = [checks.count("levels", n) + 1 for n in self.levels]
        bisects = all(fine == 2 * coarse for coarse, fine in pairwise(pieces))
        if not pieces or not bisects:
            raise ValueError(
                "levels must bisect, such as (1, 3, 7, 15) interior control points, got "
                f"{self.levels}"
            )

    def solve(
        self,
        metric: Metric,
        path: Float[Tensor, "batch points *event"],
        callback: Callback | None = None,
    ) -> Solution:
        """See `Solver.solve`; only for metrics exp(−2 alpha f) I with alpha > 0."""
        self.check_family(metric)
        if metric.lam > 0 or metric.alpha == 0:
            raise ValueError(
                "functional_gradient needs lam = 0 and alpha > 0 (DensityMetric), got "
                f"{metric.name}; use solver='gauss_newton'"
            )
        with torch.no_grad():
            return _Descent(self, metric, path.detach(), callback).run()


def project_out(
    x: Float[Tensor, "*points d"], v: Float[Tensor, "*points d"]
) -> Float[Tensor, "*points d"]:
    """(I − v v^T/‖v‖²) x: vectors x without their part along v."""
    return x - (x * v).sum(-1, keepdim=True) / v.pow(2).sum(-1, keepdim=True).clamp_min(1e-30) * v


def descent_direction(
    velocity: Float[Tensor, "*points d"],
    acceleration: Float[Tensor, "*points d"],
    score: Float[Tensor, "*points d"],
    alpha: float,
    normal: Float[Tensor, "*points d"] | None = None,
) -> tuple[Float[Tensor, "*points d"], Float[Tensor, "*points d"]]:
    """The descent direction g in its two parts: towards high density, and straightening.

    Args:
        velocity: γ' at points of a curve.
        acceleration: γ'' there.
        score: s there.
        alpha: Of the density metric.
        normal: Of the sphere that the curve lies on: s and γ'' are made tangent first.

    Returns:
        P s and P γ''/(alpha ‖γ'‖²); g is their sum.
    """
    if normal is not None:
        score = project_out(score, normal)
        acceleration = project_out(acceleration, normal)
    pull = project_out(score, velocity)
    bend = project_out(acceleration, velocity)
    return pull, bend / (alpha * velocity.pow(2).sum(-1, keepdim=True))


class _Descent(Iteration):
    """An `Iteration` on curves, flat and, in the spherical form, on the sphere of radius R.

    Attributes:
        start: The starting curves, at constant Euclidean speed.
        points: The shortest curves so far, in the data space.
        length: Their lengths under the metric, (batch,).
        iterations: Steps of each pair over all levels, (batch,).
        norms: Of the ends, (batch, 2, 1).
        radius: R of each pair, (batch, 1, 1).
        unit: What counts as a large gradient: the curvature, over alpha, of a curve that turns by
            one radian between the ends, (batch,).
    """

    def __init__(
        self,
        settings: FunctionalGradient,
        metric: ScoreMetric,
        path: Tensor,
        callback: Callback | None,
    ) -> None:
        super().__init__(settings, metric, path, callback)
        self.norms = path[:, [0, -1]].flatten(2).norm(dim=2, keepdim=True)
        self.radius = self.norms.mean(1, keepdim=True)
        if settings.spherical and bool((self.norms == 0).any()):
            raise ValueError(
                "spherical=True needs end points away from the origin; use "
                "FunctionalGradient(spherical=False)"
            )
        self.start = paths.resample(self.on_sphere(path.flatten(2)), path.shape[1])
        self.unit = 1 / (metric.alpha * (path[:, -1] - path[:, 0]).flatten(1).norm(dim=1))
        self.iterations = torch.zeros(len(path), dtype=torch.long)
        self.points, self.length = self.measure(self.start)
        check_start(metric, self.length)

    def on_sphere(self, x: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Back to the sphere (the spherical form only)."""
        if not self.settings.spherical:
            return x
        return x * (self.radius[rows] / x.norm(dim=-1, keepdim=True))

    def in_space(self, x: Tensor, t: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Points of the data space: the norm linear in t (the spherical form only)."""
        if not self.settings.spherical:
            return x
        t = t.to(x)[:, None]
        first, last = self.norms[rows].split(1, dim=1)
        return x * ((1 - t) * first + t * last) / self.radius[rows]

    def spline(self, knots: Tensor) -> paths.NaturalSpline:
        if self.settings.spherical:
            return paths.SphericalSpline(knots)
        return paths.NaturalSpline(knots)

    def measure(self, curve: Tensor) -> tuple[Tensor, Tensor]:
        """Points (batch, N, d), ends exact, and length under the metric (batch,) of a curve."""
        e = elements(curve.shape[1], self.settings.degree)
        points = self.in_space(curve, e.times).clone()
        points[:, 0] = self.path[:, 0].flatten(1)
        points[:, -1] = self.path[:, -1].flatten(1)
        scores = self.scores(points, e.times, torch.arange(len(points)))
        squared = self.metric.speed_squared(points, self.settings.degree, scores=scores)
        return points, squared.sqrt() @ e.w.to(squared)

    def run(self) -> Solution:
        settings = self.settings
        t = _times(settings.levels[0])
        knots = self.on_sphere(paths.evaluate(self.start, t))
        for level, count in enumerate(settings.levels, start=1):
            if level > 1:
                knots = self.refine(knots, t, _times(count))
                t = _times(count)
            self.descend(knots, t)
            self.keep_if_shorter(self.spline(knots).position(_times(self.path.shape[1] - 2)), count)
            self.progress.restart()
            points = self.points.reshape(self.path.shape)
            if self.progress.stopped(level, points, self.length**2):
                break
        return self.progress.solution(self.at_constant_speed(self.points.reshape(self.path.shape)))

    def refine(self, knots: Tensor, t: Tensor, finer: Tensor) -> Tensor:
        """Control points at finer times: on the spline, plus the start's detail that it lacks."""
        start = self.on_sphere(paths.evaluate(self.start, finer))
        coarse_start = self.on_sphere(paths.evaluate(self.start, t))
        detail = start - self.spline(coarse_start).position(finer)
        return self.on_sphere(self.spline(knots).position(finer) + detail)

    def descend(self, knots: Tensor, t: Tensor) -> None:
        """One level, in place, every pair until its own end."""
        settings = self.settings
        for remaining in reversed(range(settings.max_iter + 1)):
            rows = self.progress.active
            pull, bend = self.direction(knots[rows], t[1:-1], rows)
            g = pull + bend
            pull_size, bend_size, size = (y.norm(dim=2).mean(1) for y in (pull, bend, g))
            gradient = size / (pull_size + bend_size + self.unit[rows])
            met = (gradient <= settings.tol).cpu()
            finite = torch.isfinite(gradient).cpu()
            skipped = (pull_size < bend_size).cpu() & finite & ~met
            going = finite & ~met & ~skipped
            self.progress.end(rows[met], CONVERGED)
            self.progress.end(rows[~finite], NOT_FINITE)
            self.progress.end(rows[skipped], SKIPPED, relative_gradients(gradient[skipped]))
            if remaining == 0:
                self.progress.end(rows[going], MAX_ITER, relative_gradients(gradient[going]))
            rows = self.progress.active
            if len(rows) == 0:
                return
            done = self.iterations[rows] / (settings.max_iter * len(settings.levels))
            rate = (settings.step / (len(t) - 2) * (1 - done)).to(g)
            moved = knots[rows, 1:-1] + rate[:, None, None] * g[going]
            knots[rows, 1:-1] = self.on_sphere(moved, rows)
            self.iterations[rows] += 1

    def direction(self, knots: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of g at the interior control points, (rows, m, d) each."""
        curve = self.spline(knots)
        x = knots[:, 1:-1]
        score = self.scores(self.in_space(x, t, rows), t, rows)
        return descent_direction(
            curve.velocity(t),
            curve.acceleration(t),
            score,
            self.metric.alpha,
            normal=x if self.settings.spherical else None,
        )

    def keep_if_shorter(self, curve: Tensor, count: int) -> None:
        """Take the level's curve if it is no longer than the one before."""
        points, length = self.measure(curve)
        longer = ~(length <= self.length * (1 + LENGTH_ERROR))
        details = [
            f"(from {before:.6g} to {after:.6g} with {count} control points, which were dropped)"
            for before, after in torch.stack([self.length, length], 1)[longer].tolist()
        ]
        self.progress.end(longer.cpu().nonzero().flatten(), TOO_LONG, details)
        self.progress.record(control_points=count, energy=(length**2).tolist())
        self.points[~longer] = points[~longer]
        self.length[~longer] = length[~longer]

    def at_constant_speed(self, points: Tensor) -> Tensor:
        """The paths at equal distances; unchanged where the score between points is not finite."""
        even = paths.resample(points, points.shape[1], self.metric)
        finite = torch.isfinite(even).flatten(1).all(1)
        self.progress.end((~finite).cpu().nonzero().flatten(), NOT_FINITE)
        return torch.where(finite.reshape(-1, *[1] * (points.ndim - 1)), even, points)


def _times(interior: int) -> Tensor:
    return torch.linspace(0, 1, interior + 2, dtype=torch.float64)
