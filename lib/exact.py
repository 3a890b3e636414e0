"""Geodesics known in closed form or to quadrature: what every solver is measured against.

The tube around a sphere has an exact answer for the whole metric family. With a radial score s(r)
the geodesic lies in a plane, where

    ds² = phi(r)² [(1 + lam s(r)²) dr² + r² dθ²],   phi = p^−alpha,

and Clairaut's relation reads r phi(r) sin ψ = k, k = c phi(c) at its least radius c. Angle and
length are then integrals over r from c to the radius R.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.special import expit
from torch import Tensor

from . import checks
from .metrics.base import Metric

# Double-exponential (tanh–sinh) rule on (0, 1): its nodes reach down to 1e-50, where the integrands
# have their singularity.
_T = np.linspace(-4.2, 4.2, 2001)
NODES = expit(np.pi * np.sinh(_T))
WEIGHTS = np.pi * np.cosh(_T) * NODES * expit(-np.pi * np.sinh(_T)) * (_T[1] - _T[0])


@dataclass(frozen=True)
class SphereGeodesic:
    """The exact geodesic between two points of a sphere under exp(−2 alpha f)(I + lam s s^T).

    It stays inside the sphere and tends to the great circle as lam^(−1/3) for lam → ∞.

    Attributes:
        angle: Between its ends, radians.
        lam: Of the metric.
        alpha: Of the metric.
        sigma: Width of the tube, p ∝ exp(−(r − R)²/2 sigma²).
        radius: R, of the sphere.
        least_radius: c, where it dips deepest.
        length: Riemannian, with f = 0 on the sphere.
    """

    angle: float
    lam: float
    alpha: float
    sigma: float
    radius: float
    least_radius: float
    length: float

    @property
    def energy(self) -> float:
        """Energy of the path at constant speed."""
        return self.length**2

    @property
    def dip(self) -> float:
        """Depth of its middle below the sphere."""
        return self.radius - self.least_radius

    def path(self, points: int, dim: int = 3) -> Float[Tensor, "{points} {dim}"]:
        """Points at constant Riemannian speed, float64.

        Args:
            points: How many, from (R, 0, …) to (R cos angle, R sin angle, 0, …).
            dim: Of the space.

        Returns:
            The points.
        """
        rates = _rates(NODES, self.least_radius, self.lam, self.alpha, self.sigma, self.radius)
        theta, length = (
            _both_sides(np.concatenate([[0], np.cumsum(rate * WEIGHTS)])) for rate in rates
        )
        depth = np.concatenate([[0], NODES]) * self.dip
        r = self.least_radius + np.concatenate([depth[:0:-1], depth])
        even = np.linspace(length[0], length[-1], points)
        radius = np.interp(even, length, r)
        phase = np.interp(even, length, theta) * (self.angle / 2 / theta[-1]) + self.angle / 2
        path = torch.zeros(points, dim, dtype=torch.float64)
        path[:, 0] = torch.from_numpy(radius * np.cos(phase))
        path[:, 1] = torch.from_numpy(radius * np.sin(phase))
        return path


def _both_sides(half: np.ndarray) -> np.ndarray:
    """An odd function on both sides of the turning point, from its values on one."""
    return np.concatenate([-half[:0:-1], half])


def _rates(
    v: np.ndarray, c: float, lam: float, alpha: float, sigma: float, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """dθ/dv and dℓ/dv for r = c + (R − c) v, v in (0, 1), on one side of the turning point."""
    dip = radius - c
    rise = dip * v
    r = c + rise
    log_phi = alpha * (radius - r) ** 2 / (2 * sigma**2)
    # log of r phi(r) / c phi(c), without cancellation for r near c
    log_ratio = np.log1p(rise / c) - alpha * rise * (2 * radius - r - c) / (2 * sigma**2)
    slope = (radius - r) / sigma**2
    stretch = dip * np.sqrt((1 + lam * slope**2) / np.expm1(2 * log_ratio))
    k = c * np.exp(alpha * dip**2 / (2 * sigma**2))
    return stretch / r, r * np.exp(2 * log_phi) / k * stretch


def sphere_geodesic(
    angle: float, *, lam: float = 0.0, alpha: float = 0.0, sigma: float = 0.1, radius: float = 1.0
) -> SphereGeodesic:
    """Solve Clairaut's relation for the geodesic between two points of a sphere.

    Args:
        angle: Between the points, in (0, pi) radians.
        lam: Of the metric, ≥ 0.
        alpha: Of the metric, ≥ 0.
        sigma: Width of the tube around the sphere, > 0.
        radius: Of the sphere, > 0.

    Returns:
        The geodesic.

    Raises:
        ValueError: A value out of range, or alpha/sigma² too steep for double precision.

    Example:
        >>> from lib.exact import sphere_geodesic
        >>> truth = sphere_geodesic(2.0, lam=1000.0)
        >>> round(truth.energy, 5), round(truth.dip, 5)
        (3.97729, 0.0048)
    """
    for name, value in {"angle": angle, "sigma": sigma, "radius": radius}.items():
        checks.positive(name, value)
    for name, value in {"lam": lam, "alpha": alpha}.items():
        checks.positive(name, value, zero=True)
    if angle >= math.pi:
        raise ValueError(f"angle must be below pi, got {angle}: at pi every plane holds a geodesic")
    chord = radius * math.cos(angle / 2)
    if lam == alpha == 0:
        length = 2 * radius * math.sin(angle / 2)
        return SphereGeodesic(angle, lam, alpha, sigma, radius, chord, length)

    def least_radius(x: float) -> float:
        return lowest + math.exp(x)

    def integrals(c: float) -> list[float]:
        rates = _rates(NODES, c, lam, alpha, sigma, radius)
        return [float(2 * (WEIGHTS * rate).sum()) for rate in rates]

    def excess(x: float) -> float:
        return integrals(least_radius(x))[0] - angle

    # r phi(r) must rise from c on, which it does for r (R − r) alpha < sigma²: c stays above that
    # critical radius.
    lowest = chord
    if alpha > 0 and radius**2 / 4 > sigma**2 / alpha:
        lowest = max(chord, radius / 2 + math.sqrt(radius**2 / 4 - sigma**2 / alpha))
    first = math.log(1e-14 * radius)
    last = math.log((radius - lowest) * (1 - 1e-12))
    if excess(first) < 0:
        raise ValueError(
            f"alpha/sigma² = {alpha / sigma**2:g} is too steep for double precision at this angle"
        )
    c = least_radius(brentq(excess, first, last, xtol=1e-14, rtol=1e-15))
    return SphereGeodesic(angle, lam, alpha, sigma, radius, c, integrals(c)[1])


@dataclass(frozen=True)
class GridDistance:
    """Shortest paths from one point of a plane on a grid.

    Every grid path is a real path, so its length bounds the distance from above; it is too long by
    at most 1/cos(half the largest angle between two neighbour directions) − 1: 1.3 % for reach 3,
    0.5 % for 5, 0.2 % for 8.

    Attributes:
        x: First coordinates of the nodes, (m,).
        y: Their second coordinates, (m,).
        distance: From the start, (m, m), indexed [i, j] at (x[i], y[j]).
        before: The node before each on its shortest path, counted in rows; negative for none.
    """

    x: np.ndarray
    y: np.ndarray
    distance: np.ndarray
    before: np.ndarray

    def index(self, point: Float[Tensor, "2"]) -> int:
        """Number of the grid node at `point`; raises ValueError if there is none."""
        i = int(np.abs(self.x - float(point[0])).argmin())
        j = int(np.abs(self.y - float(point[1])).argmin())
        off = abs(self.x[i] - float(point[0])) + abs(self.y[j] - float(point[1]))
        if off > 1e-9 * np.ptp(self.x):
            raise ValueError(
                f"{point.tolist()} is no node of the grid; choose lower, upper and cells so that "
                "it is one"
            )
        return i * len(self.y) + j

    def to(self, point: Float[Tensor, "2"]) -> float:
        """Distance of the node at `point`."""
        return float(self.distance.flat[self.index(point)])

    def path(self, point: Float[Tensor, "2"]) -> Float[Tensor, "nodes 2"]:
        """Nodes of the shortest grid path to `point`, float64."""
        nodes = [self.index(point)]
        while self.before[nodes[-1]] >= 0:
            nodes.append(int(self.before[nodes[-1]]))
        i, j = np.divmod(nodes[::-1], len(self.y))
        return torch.from_numpy(np.stack([self.x[i], self.y[j]], 1))


def grid_distance(
    metric: Metric,
    start: Float[Tensor, "2"],
    *,
    lower: float,
    upper: float,
    cells: int = 120,
    reach: int = 5,
) -> GridDistance:
    """Dijkstra's shortest paths from a node of a square grid, for p known in closed form.

    A node is joined to all nodes that it sees within `reach` steps along each axis (32 directions
    for reach 3, 80 for 5); an edge costs its length under the metric, by two Gauss–Legendre points.

    Args:
        metric: The metric, by its `norm_squared`.
        start: A node of the grid.
        lower: Least coordinate of the grid [lower, upper]².
        upper: Largest coordinate.
        cells: Of the grid along each axis, ≥ 2 reach.
        reach: Of an edge, in cells.

    Returns:
        The distances and paths.

    Raises:
        ValueError: A start off the grid, too few cells, or upper ≤ lower.
    """
    if not lower < upper:
        raise ValueError(f"upper must be above lower, got {upper} and {lower}")
    reach = checks.count("reach", reach)
    cells = checks.count("cells", cells, least=2 * reach)
    m = cells + 1
    width = (upper - lower) / cells
    axis = np.linspace(lower, upper, m)
    grid = torch.cartesian_prod(*[torch.from_numpy(axis)] * 2).reshape(m, m, 2)
    number = np.arange(m * m).reshape(m, m)
    gauss_points = (0.5 - 12**-0.5, 0.5 + 12**-0.5)
    rows, columns, costs = [], [], []
    for a, b in _directions(reach):
        here = slice(0, m - a), slice(max(0, -b), m - max(0, b))
        there = slice(a, m), slice(max(0, b), m - max(0, -b))
        x = grid[here].reshape(-1, 2)
        step = torch.tensor([[a * width, b * width]], dtype=torch.float64).expand_as(x)
        speeds = [metric.norm_squared(x + t * step, step).sqrt() for t in gauss_points]
        rows.append(number[here].ravel())
        columns.append(number[there].ravel())
        costs.append((sum(speeds) / 2).numpy())
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = csr_array((np.concatenate(costs), edges), shape=(m * m, m * m))
    source = GridDistance(axis, axis, number, number).index(start)
    distance, before = dijkstra(graph, directed=False, indices=source, return_predecessors=True)
    return GridDistance(axis, axis, distance.reshape(m, m), before)


def _directions(reach: int) -> list[tuple[int, int]]:
    """Directions of the edges, each once: steps without a common divisor."""
    steps = [(a, b) for a in range(reach + 1) for b in range(-reach, reach + 1)]
    return [(a, b) for a, b in steps if math.gcd(a, b) == 1 and (a > 0 or b > 0)]
