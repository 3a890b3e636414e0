"""`geodesic`, one signature for every boundary value problem, and `distance`, built on it."""

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks, paths
from ..elements import working_dtype
from ..metrics.base import Metric
from .base import Callback, Solver
from .functional_gradient import FunctionalGradient
from .gauss_newton import GaussNewton
from .geodesic import Geodesic, add_cost, measure, warn_moving, warn_unconverged
from .georce import Georce
from .graph import graph_path
from .portfolio import Portfolio
from .relaxation import Relaxation
from .shooting import Shooting

# the names that `geodesic(..., solver=)` understands
SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver
    for solver in (GaussNewton, Portfolio, Relaxation, FunctionalGradient, Georce, Shooting)
}

# the names that `geodesic(..., init=)` understands
STARTS = ("lerp", "slerp", "graph")


def geodesic(
    metric: Metric,
    start: Float[Tensor, "*batch_event"],
    end: Float[Tensor, "*batch_event"],
    *,
    points: int = 33,
    solver: str | Solver = "gauss_newton",
    noise_levels: Sequence[float] | None = None,
    init: str | Tensor = "lerp",
    samples: Float[Tensor, "samples *event"] | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    callback: Callback | None = None,
) -> Geodesic:
    """Geodesics between two batches of points: paths of least energy ∫‖γ'‖²_G dt.

    Every solver is local: which path it finds depends on where it starts. Noise annealing and
    `init="graph"` help it to start near the shortest one.

    Args:
        metric: A metric that the solver can work with.
        start: First ends, (batch, *event), or one point (*event).
        end: Last ends, of the same shape, dtype and device.
        points: Points of a path, both ends included, at least 3.
        solver: A name in `SOLVERS`, or a solver object with its own settings.
        noise_levels: Annealing: falling noise levels, solved in turn before the metric's own level.
            Each level starts from the path of the level before.
        init: The starting path: "lerp", "slerp", "graph" (shortest path in the neighbour graph of
            `samples`), or a path (batch, points, *event).
        samples: Samples of the distribution, for init="graph".
        tol: Replaces the solver's tolerance.
        max_iter: Replaces the solver's number of iterations.
        callback: Called with (iteration, points, energy); returning True stops the solver.

    Returns:
        The geodesics. A pair that did not converge carries the best path found and the `reason`,
        and `ConvergenceWarning` is issued. `MovingDensityWarning` is issued for a score that
        changes along the path: its energy then has no meaningful minimum.

    Raises:
        TypeError: An argument is of the wrong kind, or the solver cannot work with this metric.
        ValueError: An argument has a wrong value, or the score is not finite on the first path.

    Example:
        >>> import torch
        >>> from lib import SphereScore, SteinMetric, geodesic
        >>> start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        >>> end = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        >>> path = geodesic(SteinMetric(SphereScore(), lam=100.0), start, end, points=17)
        >>> path.points.shape, path.converged.tolist()
        (torch.Size([1, 17, 3]), [True])
        >>> bool(path.points.norm(dim=2).min() > 0.9)  # it keeps close to the unit sphere
        True
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric must be a Metric, for instance SteinMetric(score), got {type(metric).__name__}"
        )
    solver = _solver(solver, tol, max_iter)
    checks.count("points", points, least=3)
    start, end = checks.end_points(start, end, metric.event_shape)
    levels = checks.noise_schedule(noise_levels, metric.sigma)
    # the functional gradient minimises no energy
    if not isinstance(solver, FunctionalGradient):
        warn_moving(metric)
    before = replace(metric.counter)
    path = _start_path(start, end, points, init, samples)
    solution = solver.anneal(metric, path, levels, callback)
    settings = {
        "metric": metric.name,
        "solver": solver.name,
        "points": points,
        "noise_levels": list(levels),
        "init": init if isinstance(init, str) else "path",
    }
    settings |= {f.name: getattr(solver, f.name) for f in fields(solver)}
    result = measure(metric, solution, degree=solver.degree, settings=settings)
    add_cost(result, metric, before)
    warn_unconverged(result)
    return result


def _solver(solver: str | Solver, tol: float | None, max_iter: int | None) -> Solver:
    """The solver of this name, or the given one, with the settings overridden that are not None."""
    if isinstance(solver, str):
        solver = SOLVERS[checks.choice("solver", solver, SOLVERS)]()
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a name ({', '.join(sorted(SOLVERS))}) or a solver object, "
            f"got {type(solver).__name__}"
        )
    if tol is not None:
        solver = replace(solver, tol=tol)
    if max_iter is not None:
        solver = replace(solver, max_iter=max_iter)
    return solver


def _start_path(
    start: Tensor, end: Tensor, points: int, init: str | Tensor, samples: Tensor | None
) -> Tensor:
    """The path a solver starts from, both ends exact; the arguments are those of `geodesic`."""
    if isinstance(init, Tensor):
        return _given_path(start, end, points, init)
    if not isinstance(init, str):
        raise TypeError(
            f"init must be one of {', '.join(STARTS)} or a torch.Tensor, got {type(init).__name__}"
        )
    checks.choice("init", init, STARTS)
    if init == "lerp":
        return paths.lerp(start, end, points)
    if init == "slerp":
        return paths.slerp(start, end, points)
    if samples is None:
        raise ValueError("init='graph' needs samples=(m, *event): data, or draws from the model")
    return graph_path(start, end, samples, points)


def _given_path(start: Tensor, end: Tensor, points: int, init: Tensor) -> Tensor:
    """A copy of the caller's path between the given ends."""
    path = init[None] if init.ndim == start.ndim else init
    shape = (len(start), points, *start.shape[1:])
    if path.shape != shape:
        raise ValueError(f"init must have shape {shape}, got {tuple(init.shape)}")
    path = checks.finite("init", path).to(start).clone()
    path[:, 0] = start
    path[:, -1] = end
    return path


def distance(
    metric: Metric,
    a: Float[Tensor, "*batch_event"],
    b: Float[Tensor, "*batch_event"],
    **settings: object,
) -> Float[Tensor, "batch"]:
    """Geodesic distance: the length of the geodesic from a to b, 0 between equal points.

    Under a density metric the unit is the geometric mean of p over both ends, so that
    d(a, b) = d(b, a).

    Args:
        metric: As for `geodesic`.
        a: Points, (batch, *event), or one point (*event).
        b: Points of the same shape, dtype and device.
        **settings: Passed on to `geodesic`.

    Returns:
        One distance for each pair.

    Raises:
        TypeError: As for `geodesic`.
        ValueError: As for `geodesic`.

    Example:
        >>> import torch
        >>> from lib import EuclideanMetric, distance
        >>> a = torch.zeros(2, 3)
        >>> b = torch.tensor([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]])
        >>> distance(EuclideanMetric(), a, b, solver="relaxation").tolist()
        [5.0, 0.0]
    """
    a, b = checks.pair("a", a, "b", b, metric.event_shape)
    apart = ~(a == b).flatten(1).all(1)
    result = torch.zeros(len(a), dtype=working_dtype(a), device=a.device)
    if bool(apart.any()):
        between = metric.pick(apart.nonzero().flatten())
        result[apart] = geodesic(between, a[apart], b[apart], **settings).length.to(result)
    return result
