"""Geodesics known in closed form or to quadrature: what every solver is measured against.

The tube around a sphere has an exact answer for the whole metric family. With a radial score s(r) the geodesic lies in a
plane, where ds² = phi(r)² [(1 + lam s(r)²) dr² + r² dθ²] with phi = p^−alpha, and Clairaut's relation reads r phi(r) sin ψ = k,
k = c phi(c) at its least radius c. Angle and length are then integrals over r from c to the radius R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.special import expit
from torch import Tensor

from . import checks
from .metrics.base import Metric

# double-exponential (tanh–sinh) rule on (0, 1): its nodes reach down to 1e-50, where the integrands have their singularity
_T = np.linspace(-4.2, 4.2, 2001)
NODES = expit(np.pi * np.sinh(_T))
WEIGHTS = np.pi * np.cosh(_T) * NODES * expit(-np.pi * np.sinh(_T)) * (_T[1] - _T[0])


@dataclass(frozen=True)
class SphereGeodesic:
    """The exact geodesic between two points of a sphere, at `angle` radians, under exp(−2 alpha f)(I + lam s s^T).

    least_radius: where it dips deepest; it stays inside the sphere and tends to the great circle as lam^(−1/3) for lam → ∞.
    length: Riemannian, with f = 0 on the sphere; a path of constant speed has energy length².
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
        return self.length**2

    @property
    def dip(self) -> float:
        """Depth of its middle below the sphere."""
        return self.radius - self.least_radius

    def path(self, points: int, dim: int = 3) -> Tensor:
        """Points at constant Riemannian speed from (R, 0, …) to (R cos angle, R sin angle, 0, …): (points, dim), float64."""
        total = lambda rate: np.concatenate([[0], np.cumsum(rate * WEIGHTS)])
        both_sides = lambda half: np.concatenate([-half[:0:-1], half])
        theta, ell = (both_sides(total(rate)) for rate in self._rates(NODES))
        depth = np.concatenate([[0], NODES]) * self.dip
        r = self.least_radius + np.concatenate([depth[:0:-1], depth])
        at = np.linspace(ell[0], ell[-1], points)
        radius, phase = (
            np.interp(at, ell, r),
            np.interp(at, ell, theta) * (self.angle / 2 / theta[-1]) + self.angle / 2,
        )
        path = torch.zeros(points, dim, dtype=torch.float64)
        path[:, 0], path[:, 1] = (
            torch.from_numpy(radius * np.cos(phase)),
            torch.from_numpy(radius * np.sin(phase)),
        )
        return path

    def _rates(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dθ/dv and dℓ/dv for r = c + (R − c) v, v in (0, 1), on one side of the turning point."""
        c, rise = self.least_radius, self.dip * v
        r = c + rise
        log_phi = self.alpha * (self.radius - r) ** 2 / (2 * self.sigma**2)
        # log of r phi(r) / c phi(c), without cancellation for r near c
        log_ratio = np.log1p(rise / c) - self.alpha * rise * (2 * self.radius - r - c) / (
            2 * self.sigma**2
        )
        slope = (self.radius - r) / self.sigma**2
        stretch = self.dip * np.sqrt((1 + self.lam * slope**2) / np.expm1(2 * log_ratio))
        k = c * np.exp(self.alpha * self.dip**2 / (2 * self.sigma**2))
        return stretch / r, r * np.exp(2 * log_phi) / k * stretch


def sphere_geodesic(
    angle: float, *, lam: float = 0.0, alpha: float = 0.0, sigma: float = 0.1, radius: float = 1.0
) -> SphereGeodesic:
    """Solve Clairaut's relation for the geodesic across `angle` (0, pi) radians of the tube of width sigma."""
    for name, value, zero in (
        ("angle", angle, False),
        ("lam", lam, True),
        ("alpha", alpha, True),
        ("sigma", sigma, False),
        ("radius", radius, False),
    ):
        checks.positive(name, value, zero=zero)
    if angle >= math.pi:
        raise ValueError(f"angle must be below pi, got {angle}: at pi every plane holds a geodesic")
    make = lambda c, length=0.0: SphereGeodesic(angle, lam, alpha, sigma, radius, c, length)

    def integrals(c: float) -> np.ndarray:
        return np.array([2 * (WEIGHTS * rate).sum() for rate in make(c)._rates(NODES)])

    chord = radius * math.cos(angle / 2)
    if lam == alpha == 0:
        return make(chord, 2 * radius * math.sin(angle / 2))
    # r phi(r) must rise from c on, which it does for r (R − r) alpha < sigma²: c stays above that critical radius
    root = radius**2 / 4 - sigma**2 / alpha if alpha > 0 else -1.0
    lowest = max(chord, radius / 2 + math.sqrt(root) if root > 0 else 0.0)
    at = lambda x: lowest + math.exp(x)
    limits = math.log(1e-14 * radius), math.log((radius - lowest) * (1 - 1e-12))
    if integrals(at(limits[0]))[0] < angle:
        raise ValueError(
            f"alpha/sigma² = {alpha / sigma**2:g} is too steep for double precision at this angle"
        )
    c = at(brentq(lambda x: integrals(at(x))[0] - angle, *limits, xtol=1e-14, rtol=1e-15))
    return make(c, float(integrals(c)[1]))


def great_circle(start: Tensor, end: Tensor) -> Tensor:
    """Length of the shorter arc between points (batch, d) of a sphere about the origin: (batch,)."""
    radius = start.norm(dim=1)
    return radius * 2 * torch.atan2((end - start).norm(dim=1), (end + start).norm(dim=1))


def gaussian_distance(a: Tensor, b: Tensor) -> Tensor:
    """Fisher–Rao distance of isotropic 1-D Gaussians (mean, sigma), (batch, 2) each: sqrt(2) times that of the half-plane."""
    mean, sigma = (a[:, 0] - b[:, 0]) / math.sqrt(2), (a[:, 1], b[:, 1])
    return math.sqrt(2) * torch.acosh(
        1 + (mean**2 + (sigma[0] - sigma[1]) ** 2) / (2 * sigma[0] * sigma[1])
    )


@dataclass(frozen=True)
class GridDistance:
    """Shortest paths from one point of a plane on a grid: distance (m, m), indexed [i, j] at (x[i], y[j]); `to` and `path`.

    Every grid path is a real path, so its length bounds the distance from above; it is too long by at most
    1/cos(half the largest angle between two neighbour directions) − 1: 1.3 % for reach 3, 0.5 % for 5, 0.2 % for 8.
    """

    x: np.ndarray
    y: np.ndarray
    distance: np.ndarray
    before: np.ndarray

    def index(self, point: Tensor) -> int:
        """Number of the grid node at `point` (2,); raises ValueError if there is none."""
        i, j = (
            int(np.abs(axis - float(c)).argmin())
            for axis, c in zip((self.x, self.y), point, strict=True)
        )
        if abs(self.x[i] - float(point[0])) + abs(self.y[j] - float(point[1])) > 1e-9 * np.ptp(
            self.x
        ):
            raise ValueError(
                f"{point.tolist()} is no node of the grid; choose lower, upper and cells so that it is one"
            )
        return i * len(self.y) + j

    def to(self, point: Tensor) -> float:
        """Distance of the node at `point` (2,)."""
        return float(self.distance.flat[self.index(point)])

    def path(self, point: Tensor) -> Tensor:
        """Nodes of the shortest grid path to `point`: (k, 2), float64."""
        nodes = [self.index(point)]
        while self.before[nodes[-1]] >= 0:
            nodes.append(int(self.before[nodes[-1]]))
        i, j = np.divmod(nodes[::-1], len(self.y))
        return torch.from_numpy(np.stack([self.x[i], self.y[j]], 1))


def grid_distance(
    metric: Metric, start: Tensor, *, lower: float, upper: float, cells: int = 120, reach: int = 5
) -> GridDistance:
    """Dijkstra's shortest paths from `start` (2,), a node of the square grid of [lower, upper]², under `metric`.

    A node is joined to all nodes that it sees within `reach` steps along each axis (32 directions for reach 3, 80 for 5);
    an edge costs its length under the metric, by two Gauss–Legendre points. For p known in closed form (`metric.inner`).
    Raises ValueError for a start off the grid, too few cells, or upper ≤ lower.
    """
    if not lower < upper:
        raise ValueError(f"upper must be above lower, got {upper} and {lower}")
    axis = np.linspace(
        lower, upper, checks.count("cells", cells, least=2 * checks.count("reach", reach)) + 1
    )
    m, h, rows, columns, costs = len(axis), (upper - lower) / cells, [], [], []
    grid, number = (
        torch.cartesian_prod(*[torch.from_numpy(axis)] * 2).reshape(m, m, 2),
        np.arange(m * m).reshape(m, m),
    )
    half = (
        (a, b)
        for a in range(reach + 1)
        for b in range(-reach, reach + 1)
        if math.gcd(a, b) == 1 and (a > 0 or b > 0)
    )
    for a, b in half:
        here = slice(0, m - a), slice(max(0, -b), m - max(0, b))
        there = slice(a, m), slice(max(0, b), m - max(0, -b))
        x, step = grid[here].reshape(-1, 2), torch.tensor([[a * h, b * h]], dtype=torch.float64)
        step = step.expand_as(x)
        speed = [
            metric.norm_squared(x + t * step, step).sqrt() for t in (0.5 - 12**-0.5, 0.5 + 12**-0.5)
        ]
        (
            rows.append(number[here].ravel()),
            columns.append(number[there].ravel()),
            costs.append((sum(speed) / 2).numpy()),
        )
    graph = csr_array(
        (np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))),
        shape=(m * m, m * m),
    )
    source = GridDistance(axis, axis, number, number).index(start)
    distance, before = dijkstra(graph, directed=False, indices=source, return_predecessors=True)
    return GridDistance(axis, axis, distance.reshape(m, m), before)
