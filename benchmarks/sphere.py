"""The tube around a sphere, where the exact geodesic is known.

Batches, energy, observed order, memory, time, quadrature and the initial value problem.
"""

import math
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lib import exact
from lib.calculus import logarithm
from lib.metrics import DensityMetric, Metric, ScoreMetric, SteinMetric
from lib.scores import GaussianMixtureScore, SphereScore
from lib.solvers import GaussNewton, Geodesic, geodesic, shoot

from . import (
    ANGLE,
    Claim,
    Result,
    cost,
    fine_energy,
    order,
    percent,
    sphere_ends,
    table,
    time_ratio,
)

ROOT = Path(__file__).resolve().parent.parent


def solve(dim: int, lam: float, points: int, *, sigma: float = 0.1, pairs: int = 1, **settings):
    """Gauss–Newton from the straight line on the Stein metric of the sphere."""
    metric = SteinMetric(SphereScore(sigma=sigma), lam)
    return geodesic(metric, *sphere_ends(dim, pairs), points=points, solver=GaussNewton(**settings))


def accuracy(quick: bool = False) -> Result:
    """Score batches, evaluations, energy and dip over dimension, lam and degree at T = 50."""
    rows = []
    for dim in (3, 50) if quick else (3, 50, 1000, 16384):
        for lam in (1.0, 10.0, 1e3, 1e5):
            truth = exact.sphere_geodesic(ANGLE, lam=lam)
            for degree in (1, 2):
                g = solve(dim, lam, 51, degree=degree)
                dip = 1 - float(g.points[0].norm(dim=1).min())
                fine = fine_energy(
                    SteinMetric(SphereScore(), lam), g.points, degrees=(degree,)
                ).item()
                rows.append(
                    {
                        "d": dim,
                        "lam": lam,
                        "degree": degree,
                        **cost(g),
                        "energy / exact − 1": g.energy.item() / truth.energy - 1,
                        "fine energy / exact − 1": fine / truth.energy - 1,
                        "dip / exact − 1": dip / truth.dip - 1,
                    }
                )
    frame = table(rows)
    default = frame[frame.degree == 2]
    most = int(default.batches.max())
    worst = float(default[["energy / exact − 1", "fine energy / exact − 1"]].abs().to_numpy().max())
    return Result(
        "accuracy",
        "Unit sphere, sigma 0.1, 2 rad, T = 50, straight start",
        frame,
        [
            Claim(
                "≤ 20 score batches (aim 12) for every d and lam, degree 2",
                f"at most {most}",
                most <= 20,
            ),
            Claim("≤ 12 score batches", f"at most {most}", most <= 12),
            Claim(
                "energy within 0.1 % of the exact geodesic's, own and fine quadrature, degree 2",
                percent(worst),
                worst <= 1e-3,
            ),
        ],
    )


def convergence(quick: bool = False) -> Result:
    """Observed order in 1/T, of the quadrature of the minimum found with a tight tolerance."""
    segments = [16, 32, 64] if quick else [16, 32, 64, 128, 256, 512]
    rows = []
    for lam in (1.0, 1e3):
        truth = exact.sphere_geodesic(ANGLE, lam=lam)
        for degree in (1, 2):
            solved = [
                solve(3, lam, T + 1, degree=degree, tol=1e-12, max_iter=200) for T in segments
            ]
            errors = [g.energy.item() / truth.energy - 1 for g in solved]
            rows += [
                {"lam": lam, "degree": degree, "T": T, "energy / exact − 1": error, "order": slope}
                for T, error, slope in zip(
                    segments, errors, [math.nan, *order(errors, segments)], strict=True
                )
            ]
    frame = table(rows)
    last = {
        key: float(group.order.iloc[-2:].mean()) for key, group in frame.groupby(["lam", "degree"])
    }
    return Result(
        "convergence",
        "Observed order in 1/T (d = 3)",
        frame,
        [
            Claim(
                "second order with degree 1 (mean of the last two refinements, lam 1)",
                f"{last[1.0, 1]:.2f}",
                last[1.0, 1] >= 1.8,
            ),
            Claim(
                "fourth order with degree 2 (lam 1)",
                f"{last[1.0, 2]:.2f}",
                last[1.0, 2] >= 3.8,
            ),
        ],
        [
            f"lam 1000: {last[1e3, 1]:.2f} and {last[1e3, 2]:.2f}. The path leaves the sphere in a "
            "layer that degree 2 resolves only at the finest T, so its order is still rising; its "
            "error is below 0.01 % from T = 16 on"
        ],
    )


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # of this program alone: ru_maxrss of a child starts at its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_of_a_solve(dim: int) -> tuple[int, int]:
    """Memory in a fresh process before and after a solve with T = 64 in `dim` dimensions, bytes."""
    program = (
        "from benchmarks import sphere\n"
        "before = sphere.peak_memory()\n"
        f"sphere.solve({dim}, 1e3, 65)\n"
        "print(before, sphere.peak_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, peak = done.stdout.split()
    return int(before), int(peak)


def growth(large: tuple[int, int], small: tuple[int, int], repeats: int) -> float:
    """Time per doubling, over four doublings from `small` to `large`, both (dimension, pairs).

    Caches make a single doubling cost 1.5 to 2.3 times.
    """
    ratio = time_ratio(
        partial(solve, large[0], 1e3, 65, pairs=large[1]),
        partial(solve, small[0], 1e3, 65, pairs=small[1]),
        repeats,
    )
    return ratio**0.25


def memory(quick: bool = False) -> Result:
    """Peak memory at d = 16384, T = 64, and what one doubling of d or of the pairs costs."""
    dim = 256 if quick else 16384
    first_dim = 16 if quick else 1024
    fixed_dim = 16 if quick else 512
    pairs = 1 if quick else 2
    repeats = 1 if quick else 5
    before, peak = peak_of_a_solve(dim)
    by_dim = growth((16 * first_dim, 1), (first_dim, 1), repeats)
    by_pairs = growth((fixed_dim, 16 * pairs), (fixed_dim, pairs), repeats)
    rows = [
        {"quantity": f"peak memory, d = {dim}, T = 64", "value": peak / 1e9, "unit": "GB"},
        {"quantity": "of which imports", "value": before / 1e9, "unit": "GB"},
        {
            "quantity": f"d from {first_dim} to {16 * first_dim}, one pair",
            "value": by_dim,
            "unit": "times a doubling",
        },
        {
            "quantity": f"pairs from {pairs} to {16 * pairs}, d = {fixed_dim}",
            "value": by_pairs,
            "unit": "times a doubling",
        },
    ]
    return Result(
        "memory",
        "Memory and cost (one thread, medians of five)",
        table(rows),
        [
            Claim(
                f"peak memory below 1.5 GB at d = {dim}, T = 64",
                f"{peak / 1e9:.2f} GB, {(peak - before) / 1e9:.2f} GB above the imports",
                peak < 1.5e9,
            ),
            Claim(
                "linear in d and in pairs: a doubling costs at most 2.3 times, over four of them",
                f"{by_dim:.2f} and {by_pairs:.2f} times",
                max(by_dim, by_pairs) <= 2.3,
            ),
        ],
    )


def quadrature(quick: bool = False) -> Result:
    """Degrees 1 and 2 at equal points, direct and coarse to fine: cost of 1e-5."""
    rows = []
    for lam in (1.0, 1e3):
        truth = exact.sphere_geodesic(ANGLE, lam=lam).energy
        metric = SteinMetric(SphereScore(), lam)
        for points in (33,) if quick else (33, 65, 129, 257):
            for degree in (1, 2):
                for coarse in ((), (9, 17)):
                    g = solve(50, lam, points, degree=degree, coarse=coarse)
                    fine = fine_energy(metric, g.points, degrees=(degree,)).item()
                    rows.append(
                        {
                            "lam": lam,
                            "points": points,
                            "degree": degree,
                            "coarse": str(coarse or "direct"),
                            **cost(g),
                            "energy / exact − 1": g.energy.item() / truth - 1,
                            "fine energy / exact − 1": fine / truth - 1,
                        }
                    )
    frame = table(rows)
    two = frame[frame.degree == 2].set_index(["lam", "points", "coarse"]).evaluations.unstack()
    saving = two["direct"] / two["(9, 17)"]
    notes = [
        f"coarse to fine, degree 2: {saving.min():.2g} to {saving.max():.2g} times fewer "
        "evaluations than direct"
    ]
    for (lam, degree), group in frame.groupby(["lam", "degree"]):
        near = group[group["energy / exact − 1"].abs() <= 1e-5]
        if len(near) == 0:
            notes.append(f"lam {lam:g}, degree {degree}: 1e-5 not reached with these points")
            continue
        best = near.loc[near.evaluations.idxmin()]
        notes.append(
            f"lam {lam:g}, degree {degree}: 1e-5 of the exact energy for {best.evaluations} "
            f"evaluations ({best.points} points, {best.coarse})"
        )
    title = "Quadrature at equal points, and coarse to fine (d = 50)"
    return Result("quadrature", title, frame, [], notes)


def sharing(quick: bool = False) -> Result:
    """Pairs solved together or one by one: equal evaluations in fewer calls, and equal paths."""
    pairs = 4 if quick else 16
    dim = 8 if quick else 50
    metric = SteinMetric(SphereScore(), 1e3)
    ends = [sphere_ends(dim, 1, angle) for angle in torch.linspace(0.5, 2.5, pairs).tolist()]
    start = torch.cat([pair[0] for pair in ends])
    end = torch.cat([pair[1] for pair in ends])

    def solve_together() -> Geodesic:
        return geodesic(metric, start, end, points=33)

    def solve_alone() -> list[Geodesic]:
        return [geodesic(metric, start[i], end[i], points=33) for i in range(pairs)]

    together = solve_together()
    alone = solve_alone()
    gaps = [(together.points[i] - g.points[0]).abs().max() for i, g in enumerate(alone)]
    difference = float(max(gaps))
    rows = [
        {"how": "together", **cost(together), "time, relative": 1.0},
        {
            "how": "one by one",
            "batches": sum(g.score_batches for g in alone),
            "evaluations": sum(g.score_evaluations for g in alone),
            "converged": all(bool(g.converged) for g in alone),
            "time, relative": time_ratio(solve_alone, solve_together, 3),
        },
    ]
    claim = Claim(
        "a batch gives what the pairs give one by one",
        f"largest difference {difference:.1e}",
        difference < 1e-8,
    )
    title = f"{pairs} pairs, 0.5 to 2.5 rad apart, together or one by one (d = {dim})"
    return Result("sharing", title, table(rows), [claim])


def trade(quick: bool = False) -> Result:
    """How lam, sigma and T trade: batches, error of the energy, depth inside the sphere."""
    rows = []
    for sigma in (0.2, 0.1, 0.05):
        for lam in (1.0, 1e3, 1e5):
            truth = exact.sphere_geodesic(ANGLE, lam=lam, sigma=sigma)
            for T in (16,) if quick else (16, 48, 144):
                g = solve(50, lam, T + 1, sigma=sigma)
                fine = fine_energy(
                    SteinMetric(SphereScore(sigma=sigma), lam), g.points, degrees=(2,)
                ).item()
                rows.append(
                    {
                        "sigma": sigma,
                        "lam": lam,
                        "T": T,
                        **cost(g),
                        "fine energy / exact − 1": fine / truth.energy - 1,
                        "exact dip": truth.dip,
                    }
                )
    frame = table(rows)
    return Result(
        "trade",
        "Trade of lam, sigma and T (d = 50, straight start)",
        frame,
        [],
        [
            "exact dip: how far the geodesic lies inside the sphere; the solver's own quadrature "
            "is not used here"
        ],
    )


def initial_value(quick: bool = False) -> Result:
    """Closed-form acceleration against autodiff, drift of the conserved speed, exp∘log."""
    generator = torch.Generator().manual_seed(0)
    steps = 20 if quick else 100
    pairs = 2 if quick else 4

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    score = GaussianMixtureScore(draw(3, 4))
    x = draw(50, 4)
    v = draw(50, 4)
    metrics = {
        "Stein, lam 10": SteinMetric(score, 10.0),
        "density, alpha 0.5": DensityMetric(score, 0.5),
        "both": ScoreMetric(score, lam=2.0, alpha=0.3),
    }
    rows = []
    for name, metric in metrics.items():
        # the generic acceleration: derivatives of G, solved against G
        christoffel = Metric.acceleration(metric, x, v)
        gap = relative(metric.acceleration(x, v) - christoffel, christoffel)
        a = draw(pairs, 4) / 2
        b = draw(pairs, 4) / 2
        velocity = logarithm(metric, a, b, tol=1e-7, steps=steps)
        path = shoot(metric, a, velocity, steps=steps)
        # not the integrator that the logarithm aims with
        other = shoot(metric, a, velocity, steps=2, method="dopri5")
        rows.append(
            {
                "metric": name,
                "acceleration against autodiff": gap,
                "speed drift": max(path.settings["speed_drift"]),
                "exp(log) miss": relative(other.points[:, -1] - b, b - a),
            }
        )
    frame = table(rows)
    gap, drift, miss = (float(x) for x in frame.drop(columns="metric").max())
    return Result(
        "initial_value",
        "Initial value problem, Gaussian mixture in R^4, RK4 with 100 steps; exp by dopri5",
        frame,
        [
            Claim("1e-6 against autodiff's Christoffel symbols", f"{gap:.1e}", gap <= 1e-6),
            Claim("speed conserved to 1e-6", f"{drift:.1e}", drift <= 1e-6),
            Claim("exp∘log to 1e-5", f"{miss:.1e}", miss <= 1e-5),
        ],
    )


def relative(error: Tensor, size: Tensor) -> float:
    """Largest ‖error‖/‖size‖ over the rows of (n, d)."""
    return float((error.norm(dim=1) / size.norm(dim=1)).max())
