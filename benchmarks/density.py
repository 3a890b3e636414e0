"""The density metric: the sphere against its exact geodesic, mixtures against a grid.

And what two additions to plain Gauss–Newton save.
"""

from contextlib import ExitStack
from unittest import mock

import torch

from lib import exact
from lib.exact import grid_distance
from lib.metrics import DensityMetric
from lib.scores import GaussianMixtureScore, SphereScore
from lib.solvers import Geodesic, gauss_newton, geodesic

from . import ANGLE, Claim, Result, cost, percent, sphere_ends, table

# Means, standard deviations, ends: a valley between two hills, hills on a ring, a detour over
# unequal hills.
MIXTURES = {
    "two hills": ([[-1.0, 0.0], [1.0, 0.0]], [0.45, 0.45], ([-1.0, 0.5], [1.0, -0.5])),
    "ring": (
        [[1.2, 0.0], [0.6, 1.04], [-0.6, 1.04], [-1.2, 0.0]],
        [0.4] * 4,
        ([1.2, 0.0], [-1.2, 0.0]),
    ),
    "detour": (
        [[-1.0, -0.5], [0.0, 1.0], [1.0, -0.5]],
        [0.5, 0.6, 0.4],
        ([-1.0, -0.5], [1.0, -0.5]),
    ),
}
LEVELS = (0.4, 0.2, 0.1, 0.05)


def on_sphere(quick: bool = False) -> Result:
    """Straight and annealed starts on the sphere; d = 50, T = 50."""
    rows = []
    for sigma, alpha in ((0.1, 0.5), (0.1, 1.0), (0.05, 0.5), (0.05, 1.0)):
        truth = exact.sphere_geodesic(ANGLE, alpha=alpha, sigma=sigma)
        for levels in (None, [s for s in LEVELS if s >= sigma]):
            g = geodesic(
                DensityMetric(SphereScore(sigma=sigma), alpha),
                *sphere_ends(50),
                points=51,
                noise_levels=levels,
            )
            rows.append(
                {
                    "sigma": sigma,
                    "alpha": alpha,
                    "start": "straight" if levels is None else "annealed",
                    **cost(g),
                    "energy / exact − 1": g.energy.item() / truth.energy - 1,
                    "dip": 1 - g.points[0].norm(dim=1).min().item(),
                    "exact dip": truth.dip,
                }
            )
    frame = table(rows)
    annealed = frame[frame.start == "annealed"]
    worst = float(annealed["energy / exact − 1"].abs().max())
    prototype = frame[(frame.sigma == 0.1) & (frame.start == "straight")].set_index("alpha").batches
    return Result(
        "density_sphere",
        "Density metric on the sphere, 2 rad, T = 50",
        frame,
        [
            Claim(
                "sigma 0.05 solved by annealing (energy within 0.1 %)",
                f"{percent(worst)}, {int(annealed.batches.max())} batches at most",
                worst <= 1e-3 and bool(annealed.converged.all()),
            )
        ],
        [
            f"the prototype of the reference numbers needed 68 and 94 batches at sigma 0.1; here "
            f"{prototype[0.5]} and {prototype[1.0]}"
        ],
    )


def mixtures(quick: bool = False) -> Result:
    """Length against Dijkstra's on a grid, whose own length is at most 0.2 % too long (reach 8)."""
    rows = []
    for name, (means, widths, ends) in MIXTURES.items():
        start, end = torch.tensor(ends, dtype=torch.float64)
        score = GaussianMixtureScore(
            torch.tensor(means, dtype=torch.float64), torch.tensor(widths, dtype=torch.float64)
        )
        metric = DensityMetric(score, alpha=1.0)
        cells = 48 if quick else 192
        reach = 5 if quick else 8
        shortest = grid_distance(metric, start, lower=-2.4, upper=2.4, cells=cells, reach=reach).to(
            end
        )
        for init in ("lerp", "annealed"):
            levels = [2.0, 1.0, 0.5, 0.25] if init == "annealed" else None
            g = geodesic(metric, start, end, points=65, noise_levels=levels)
            rows.append(
                {
                    "mixture": name,
                    "start": init,
                    **cost(g),
                    "length": length(metric, g),
                    "grid": shortest,
                    "length / grid − 1": length(metric, g) / shortest - 1,
                }
            )
    frame = table(rows)
    best = frame.groupby("mixture")["length / grid − 1"].min()
    return Result(
        "density_mixtures",
        "Density metric, alpha 1, three mixtures in the plane",
        frame,
        [
            Claim(
                "within 1 % of the grid's shortest path on three mixtures",
                ", ".join(f"{k} {percent(v)}" for k, v in best.items()),
                bool((best.abs() <= 0.01).all()),
            )
        ],
        ["negative: shorter than the grid's path, which can only turn in steps"],
    )


def length(metric: DensityMetric, g: Geodesic) -> float:
    """Length in the units of p itself: a solver counts from f = 0 on average over both ends."""
    f = metric.score.log_density(g.points[0, [0, -1]]).mean()
    return float(g.length[0] * (-metric.alpha * f).exp())


def ablation(quick: bool = False) -> Result:
    """Gauss–Newton without the curvature term, without the floor of the weights, without both."""
    full_step = gauss_newton.DiscreteEnergy.step

    def step_without_curvature(energy, state, damping, curvature, drift=None):
        return full_step(energy, state, damping, torch.zeros_like(curvature), drift)

    no_floor = mock.patch.object(gauss_newton, "WEIGHT_FLOOR", 0.0)
    no_curvature = mock.patch.object(gauss_newton.DiscreteEnergy, "step", step_without_curvature)
    variants = {
        "both": (),
        "no floor": (no_floor,),
        "no curvature": (no_curvature,),
        "neither": (no_floor, no_curvature),
    }
    rows = []
    for sigma, alpha in ((0.1, 0.5), (0.1, 1.0), (0.05, 0.5), (0.05, 1.0)):
        truth = exact.sphere_geodesic(ANGLE, alpha=alpha, sigma=sigma)
        metric = DensityMetric(SphereScore(sigma=sigma), alpha)
        for name, patches in variants.items():
            with ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(patch)
                g = geodesic(metric, *sphere_ends(50), points=51, max_iter=50 if quick else 400)
            error = g.energy.item() / truth.energy - 1
            rows.append(
                {
                    "sigma": sigma,
                    "alpha": alpha,
                    "variant": name,
                    **cost(g),
                    "energy / exact − 1": error,
                    "solved": abs(error) <= 1e-3,
                }
            )
    frame = table(rows)
    batches = frame.pivot(index=["sigma", "alpha"], columns="variant", values="batches")
    solved = frame.pivot(index=["sigma", "alpha"], columns="variant", values="solved")
    counts = ", ".join(f"{name} {int(solved[name].sum())}" for name in variants)
    notes = [f"solved, of 4: {counts}"]
    gain = (batches["neither"] / batches["both"])[solved["neither"]]
    if len(gain):
        notes.append(
            f"where it solves without, both save a factor of {gain.min():.2g} to {gain.max():.2g}"
        )
    notes.append(
        "converged but not solved: without the floor a singular matrix promises no fall of the "
        "energy"
    )
    title = "What the curvature term and the weight floor buy (straight start)"
    return Result("ablation", title, frame, [], notes)
