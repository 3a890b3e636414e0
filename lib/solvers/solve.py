"""`geodesic`: the one signature for every boundary value problem, and `distance` from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from .. import checks, paths
from ..metrics.base import Metric
from .base import Callback, Solver
from .functional_gradient import FunctionalGradient
from .gauss_newton import GaussNewton
from .geodesic import Geodesic, charge, describe, finish
from .georce import Georce
from .graph import graph_path
from .portfolio import Portfolio
from .relaxation import Relaxation
from .shooting import Shooting

SOLVERS: dict[str, type[Solver]] = {
    s.name: s for s in (GaussNewton, Portfolio, Relaxation, FunctionalGradient, Georce, Shooting)
}
STARTS = ("lerp", "slerp", "graph")


def geodesic(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    points: int = 33,
    solver: str | Solver = "gauss_newton",
    noise_levels: Sequence[float] | None = None,
    init: str | Tensor = "lerp",
    samples: Tensor | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    callback: Callback | None = None,
) -> Geodesic:
    """Geodesics between `start` and `end` (batch, *event), or one pair (*event), under `metric`.

    points: points of the path, both ends among them (≥ 3). solver: a name of SOLVERS or a solver object with its own settings.
    noise_levels: annealing, a falling schedule solved from large to small, each level starting from the last one's path;
    the metric's own level comes last. init: "lerp", "slerp", "graph" (shortest path in the neighbour graph of
    `samples` (m, *event)) or a path (batch, points, *event). tol, max_iter: override the solver's.
    callback(iteration, points, energy) may return True to stop.

    Returns a `Geodesic`; warns `ConvergenceWarning` where a pair did not converge. Raises ValueError or TypeError for bad input.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric must be a Metric, for instance SteinMetric(score), got {type(metric).__name__}"
        )
    solver = _solver(solver, tol, max_iter)
    checks.count("points", points, least=3)
    start, end = checks.end_points(start, end, metric.event_shape)
    levels = checks.noise_schedule(noise_levels, metric.sigma)
    before = replace(metric.counter)
    path = start_path(start, end, points, init, samples)
    solution = solver.anneal(metric, path, levels, callback)
    result = describe(
        metric,
        solution.points,
        scores=solution.scores,
        degree=solver.degree,
        converged=solution.converged,
        reason=solution.reason,
        history=solution.history,
        settings={
            "metric": metric.name,
            "solver": solver.name,
            "points": points,
            "noise_levels": list(levels),
            "init": init if isinstance(init, str) else "path",
            **{f.name: getattr(solver, f.name) for f in fields(solver)},
        },
    )
    return finish(charge(result, metric, before))


def start_path(
    start: Tensor,
    end: Tensor,
    points: int,
    init: str | Tensor = "lerp",
    samples: Tensor | None = None,
) -> Tensor:
    """The path a solver starts from: (batch, points, *event), both ends exact."""
    if isinstance(init, Tensor):
        path = init[None] if init.ndim == start.ndim else init
        if path.shape != (len(start), points, *start.shape[1:]):
            raise ValueError(
                f"init must have shape {(len(start), points, *start.shape[1:])}, got {tuple(init.shape)}"
            )
        path = checks.finite("init", path).to(start).clone()
        path[:, 0], path[:, -1] = start, end
        return path
    if not isinstance(init, str):
        raise TypeError(
            f"init must be one of {', '.join(STARTS)} or a torch.Tensor, got {type(init).__name__}"
        )
    checks.choice("init", init, STARTS)
    if init == "graph":
        if samples is None:
            raise ValueError(
                "init='graph' needs samples=(m, *event): data, or draws from the model"
            )
        return graph_path(start, end, samples, points)
    return paths.lerp(start, end, points) if init == "lerp" else paths.slerp(start, end, points)


def distance(metric: Metric, a: Tensor, b: Tensor, **settings) -> Tensor:
    """Geodesic distance (batch,) between a and b (batch, *event); equal points have distance 0.

    settings go to `geodesic`. A density metric measures in units of the geometric mean of p at both ends, so that
    d(a, b) = d(b, a).
    """
    a, b = (checks.batched(n, x, metric.event_shape) for n, x in (("a", a), ("b", b)))
    checks.same_layout("a", a, "b", b)
    apart = ~(a == b).flatten(1).all(1)
    result = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    if bool(apart.any()):
        result[apart] = geodesic(
            metric.pick(apart.nonzero().flatten()), a[apart], b[apart], **settings
        ).length.to(result)
    return result


def _solver(solver: str | Solver, tol: float | None, max_iter: int | None) -> Solver:
    if isinstance(solver, str):
        solver = SOLVERS[checks.choice("solver", solver, SOLVERS)]()
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a name ({', '.join(sorted(SOLVERS))}) or a solver object, got {type(solver).__name__}"
        )
    changes = {} if tol is None else {"tol": checks.positive("tol", tol)}
    return replace(
        solver,
        **changes,
        **({} if max_iter is None else {"max_iter": checks.count("max_iter", max_iter)}),
    )
