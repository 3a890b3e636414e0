"""First-order methods on the same problems, counted by the same counter: our own and others'.

Everyone's path is measured again by one fine quadrature (`fine_energy`). Costs are score
evaluations plus points at which the score was differentiated, until the method is within 0.1 % of
the best energy it ever has, and until 1 % above exact. The peers are handed the closed-form
log-density at single points, which a user with a score alone does not have; the functional
gradient puts its curve on the sphere by construction, which is nearly the answer here.
"""

import math
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO

import numpy as np
import torch
from torch import Tensor

from lib import exact
from lib.metrics import ScoreMetric
from lib.scores import SphereScore
from lib.solvers import FunctionalGradient, GaussNewton, Georce, Relaxation, Shooting, geodesic
from lib.solvers.base import Solver

from . import Claim, Result, fine_energy, sphere_ends, table

INSTALL = "pip install --no-deps stochman geomstats joblib"
OURS = "gauss_newton"
FIRST_ORDER = ("relaxation", "functional", "stochman", "geomstats")


@dataclass(frozen=True)
class Problem:
    """A sphere problem with its exact energy."""

    name: str
    lam: float
    alpha: float
    sigma: float = 0.1
    dim: int = 50
    points: int = 51

    def metric(self) -> ScoreMetric:
        return ScoreMetric(SphereScore(sigma=self.sigma), lam=self.lam, alpha=self.alpha)

    @property
    def energy(self) -> float:
        return exact.sphere_geodesic(2.0, lam=self.lam, alpha=self.alpha, sigma=self.sigma).energy


class Trace:
    """Paths on the way, (N, d) each, and what they had cost when they were there."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.metric = problem.metric()
        self.paths: list[Tensor] = []
        self.costs: list[int] = []

    @property
    def cost(self) -> int:
        return self.metric.counter.evaluations + self.metric.counter.derivatives

    def __call__(self, iteration: int, points: Tensor, energy: Tensor | None = None) -> None:
        self.paths.append(points.detach().reshape(points.shape[-2:]).clone())
        self.costs.append(self.cost)

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        return self.measured()

    def measured(self, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
        """Cost and least energy so far, at up to `most` iterations, even in the cost's logarithm.

        A path that misses the end, as shooting's do on their way, has no energy yet: infinite.
        """
        picks = np.unique(np.geomspace(1, len(self.paths), most).round().astype(int)) - 1
        metric = self.problem.metric()
        end = sphere_ends(self.problem.dim)[1]
        energies = []
        for i in picks:
            path = self.paths[i]
            arrived = bool((path[-1] - end).norm() < 1e-5)
            energy = fine_energy(metric, path[None]).item() if arrived else math.inf
            energies.append(energy if math.isfinite(energy) else math.inf)
        costs = np.array([self.costs[i] for i in picks])
        return costs, np.minimum.accumulate(energies)

    def until(self, level: float) -> float:
        """Cost until the energy is at most `level`; NaN if never."""
        costs, energies = self.curve
        for cost, energy in zip(costs, energies, strict=True):
            if energy <= level:
                return float(cost)
        return math.nan


PROBLEMS = (
    Problem("Stein, lam 1000", 1000.0, 0.0),
    Problem("density, alpha 0.5", 0.0, 0.5),
    Problem("density, alpha 1, sigma 0.05", 0.0, 1.0, sigma=0.05),
)


def own(problem: Problem, iterations: int) -> dict[str, Callable[[Trace], None]]:
    """This project's solvers; Adam also at a learning rate tuned to the sphere."""
    solvers = {
        "gauss_newton": GaussNewton(),
        "gauss_newton, coarse first": GaussNewton(coarse=(9, 17)),
        "gauss_newton, coarse first, 129 points": GaussNewton(coarse=(9, 17, 33)),
        "gauss_newton, annealed, coarse first": GaussNewton(coarse=(9, 17)),
        "relaxation: Adam, lr 1e-3 (paper)": Relaxation(max_iter=500),
        "relaxation: Adam, lr 1e-2": Relaxation(max_iter=iterations, lr=1e-2),
        "relaxation: L-BFGS": Relaxation(max_iter=iterations, optimizer="lbfgs", window=10),
        "georce": Georce(max_iter=iterations),
        "shooting": Shooting(substeps=1),
    }
    if problem.lam == 0:
        solvers["functional_gradient"] = FunctionalGradient(step=0.05)

    def runner(name: str, solver: Solver) -> Callable[[Trace], None]:
        points = 129 if name.endswith("129 points") else problem.points
        levels = None
        if "annealed" in name:
            levels = [sigma for sigma in (0.4, 0.2, 0.1, 0.05) if sigma >= problem.sigma]

        def run(trace: Trace) -> None:
            start, end = sphere_ends(problem.dim)
            result = geodesic(
                trace.metric,
                start,
                end,
                points=points,
                solver=solver,
                noise_levels=levels,
                callback=trace,
            )
            trace(-1, result.points)

        return run

    return {name: runner(name, solver) for name, solver in solvers.items()}


def stochman(problem: Problem, iterations: int) -> dict[str, Callable[[Trace], None]]:
    """stochman's energy minimisation on its cubic splines and discrete curves.

    Raises:
        ImportError: it is not installed.
    """
    from stochman.curves import CubicSpline, DiscreteCurve
    from stochman.geodesic import geodesic_minimizing_energy
    from stochman.manifold import Manifold

    class Monge(Manifold):
        def __init__(self, trace: Trace, end: Tensor) -> None:
            self.trace = trace
            self.end = end

        def metric(self, points: Tensor) -> Tensor:
            raise NotImplementedError("inner is all that curve_energy asks for")

        def inner(self, base: Tensor, u: Tensor, v: Tensor, return_metric: bool = False) -> Tensor:
            if base.requires_grad:
                self.trace.metric.counter.derivatives += len(base)
            self.trace(0, torch.cat([base, self.end])[None])
            return inner(self.trace.metric, base, u, v)

    def runner(curve: type, nodes: int, grid: int, **settings) -> Callable[[Trace], None]:
        def run(trace: Trace) -> None:
            start, end = sphere_ends(problem.dim)
            path = curve(start, end, num_nodes=nodes)
            geodesic_minimizing_energy(path, Monge(trace, end), eval_grid=grid, **settings)

        return run

    def lbfgs(parameters, lr: float) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            parameters, lr=1.0, max_iter=iterations, line_search_fn="strong_wolfe"
        )

    n = problem.points
    return {
        "stochman: spline, Adam (defaults)": runner(CubicSpline, 5, 20),
        "stochman: spline, L-BFGS": runner(CubicSpline, 20, n, optimizer=lbfgs, max_iter=1),
        "stochman: discrete curve, L-BFGS": runner(
            DiscreteCurve, n, n, optimizer=lbfgs, max_iter=1
        ),
    }


def geomstats(problem: Problem, iterations: int) -> dict[str, Callable[[Trace], None]]:
    """geomstats' path straightening (scipy's L-BFGS-B), plain and multi-resolution.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("GEOMSTATS_BACKEND", "pytorch")
    if not hasattr(np, "trapz"):
        # geomstats 2.8 imports the name that numpy 2.4 removed
        np.trapz = np.trapezoid
    with redirect_stdout(StringIO()):
        from geomstats.geometry.euclidean import Euclidean
        from geomstats.geometry.riemannian_metric import RiemannianMetric
        from geomstats.numerics.geodesic import MultiresPathStraightening, PathStraightening

    def runner(method: type, **settings) -> Callable[[Trace], None]:
        def run(trace: Trace) -> None:
            start, end = sphere_ends(problem.dim)

            class Monge(RiemannianMetric):
                def squared_norm(self, vector: Tensor, base_point: Tensor | None = None) -> Tensor:
                    trace.metric.counter.derivatives += len(base_point)
                    trace(0, torch.cat([base_point, end])[None])
                    return inner(trace.metric, base_point, vector, vector)

            space = Euclidean(problem.dim, equip=False)
            space.equip_with_metric(Monge)
            solver = method(space, **settings)
            solver.optimizer.options = {"maxiter": iterations, "maxfun": 4 * iterations}
            solver.discrete_geodesic_bvp(end[0], start[0])

        return run

    return {
        "geomstats: path straightening": runner(PathStraightening, n_nodes=problem.points),
        "geomstats: multi-resolution": runner(
            MultiresPathStraightening, n_nodes=[3, 5, 9, 17, 33, 65]
        ),
    }


def inner(metric: ScoreMetric, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u^T G v for the peers, who need the density at single points.

    Always one score, and the log-density in closed form.
    """
    s = metric.score(x)
    rank_one = metric.lam * (s * u).sum(1) * (s * v).sum(1)
    return metric.weight(x) * ((u * v).sum(1) + rank_one)


def first_order(quick: bool = False) -> Result:
    """Every method on three problems: cost and re-measured energy."""
    rows = []
    notes = []
    claims = []
    for problem in PROBLEMS:
        if quick:
            problem = replace(problem, dim=3, points=17)
        methods, missing = methods_of(problem, 20 if quick else 1000)
        notes += [note for note in missing if note not in notes]
        traces = {name: traced(problem, name, run, notes) for name, run in methods.items()}
        traces = {name: trace for name, trace in traces.items() if trace.paths}
        rows += [row(problem, name, trace) for name, trace in traces.items()]
        ours = {name: trace for name, trace in traces.items() if name.startswith(OURS)}
        others = {name: trace for name, trace in traces.items() if not name.startswith(OURS)}
        notes.append(
            f"{problem.name}, to 1 % of exact, cheapest: {cheapest(problem, ours)}; "
            f"of the others: {cheapest(problem, others)}"
        )
        if problem.lam > 0:
            claims.append(claim(problem, traces))
    title = (
        "Gauss–Newton against first-order methods: unit sphere, 2 rad, "
        "cost = score evaluations + derivatives"
    )
    return Result("first_order", title, table(rows), claims, notes)


def methods_of(
    problem: Problem, iterations: int
) -> tuple[dict[str, Callable[[Trace], None]], list[str]]:
    """All methods by name, and a note for each peer that is not installed."""
    methods = own(problem, iterations)
    missing = []
    for peer in (stochman, geomstats):
        try:
            methods |= peer(problem, iterations)
        except ImportError as error:
            missing.append(f"{peer.__name__} left out ({error}): {INSTALL}, into the environment")
    return methods, missing


def traced(problem: Problem, name: str, run: Callable[[Trace], None], notes: list[str]) -> Trace:
    """The trace of one method. Its fault must not end the comparison: it is reported in `notes`."""
    trace = Trace(problem)
    with warnings.catch_warnings():
        # not converged within the budget is the finding, not a fault
        warnings.simplefilter("ignore")
        try:
            run(trace)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:120]}"
            notes.append(f"{name} on {problem.name} failed: {reason}")
    return trace


def row(problem: Problem, name: str, trace: Trace) -> dict:
    best = float(trace.curve[1][-1])
    return {
        "problem": problem.name,
        "method": name,
        "best energy": best,
        "above exact": best / problem.energy - 1,
        "cost to its best": trace.until(1.001 * best) if math.isfinite(best) else math.nan,
        "cost to 1 %": trace.until(1.01 * problem.energy),
        "scores in all": trace.metric.counter.evaluations,
        "derivatives in all": trace.metric.counter.derivatives,
    }


def least_cost(costs: dict[str, float]) -> str | None:
    """The name of the least cost; None where every cost is NaN."""
    reached = {name: cost for name, cost in costs.items() if cost > 0}
    return min(reached, key=reached.get, default=None)


def cheapest(problem: Problem, traces: dict[str, Trace]) -> str:
    """Name and cost of the method that is first within 1 % of the exact energy."""
    costs = {name: trace.until(1.01 * problem.energy) for name, trace in traces.items()}
    name = least_cost(costs)
    return "none" if name is None else f"{name} {costs[name]:.0f}"


def claim(problem: Problem, traces: dict[str, Trace]) -> Claim:
    """Against the first-order method of least energy: its cost, and ours when it passes below."""
    best = {name: float(trace.curve[1][-1]) for name, trace in traces.items()}
    first_order = [name for name in traces if name.startswith(FIRST_ORDER)]
    rival = min(first_order, key=best.get)
    cost = traces[rival].until(1.001 * best[rival])
    costs = {
        name: trace.until(best[rival]) for name, trace in traces.items() if name.startswith(OURS)
    }
    name = least_cost(costs)
    reached = f"{rival} costs {cost:.0f} to within 0.1 % of its best, {best[rival]:.6f}; "
    if name is None:
        reached += "never beaten"
    else:
        factor = cost / costs[name]
        reached += f"{name} is below that after {costs[name]:.0f}, {factor:.3g} times fewer"
    return Claim(
        f"{problem.name}: 20 times fewer evaluations than the best first-order method, at lower "
        "energy",
        reached,
        name is not None and cost >= 20 * costs[name],
    )
