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
from torch import Tensor

from . import checks

NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


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
        u = np.linspace(0, 1, 4001)
        r, dr = self._substitute(u)
        total = lambda rate: np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(u))])
        both_sides = lambda half: np.concatenate([-half[:0:-1], half])
        theta, ell = (both_sides(total(rate)) for rate in self._rates(r, dr))
        r = np.concatenate([r[:0:-1], r])
        at = np.linspace(ell[0], ell[-1], points)
        radius, phase = np.interp(at, ell, r), np.interp(at, ell, theta) * (self.angle / 2 / theta[-1]) + self.angle / 2
        path = torch.zeros(points, dim, dtype=torch.float64)
        path[:, 0], path[:, 1] = torch.from_numpy(radius * np.cos(phase)), torch.from_numpy(radius * np.sin(phase))
        return path

    def _substitute(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """r = c + (R − c) u², which takes the square-root singularity at r = c away: r and dr/du."""
        gap = self.radius - self.least_radius
        return self.least_radius + gap * u**2, 2 * gap * u

    def _rates(self, r: np.ndarray, dr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dθ/du and dℓ/du."""
        s = (self.radius - r) / self.sigma**2
        phi = lambda x: np.exp(self.alpha * (self.radius - x) ** 2 / (2 * self.sigma**2))
        k = self.least_radius * phi(self.least_radius)
        rise = (r * phi(r)) ** 2 - k**2
        rise = np.where(rise > 0, rise, np.inf)          # at u = 0 the limit of dr/sqrt(rise) is finite and its weight is not
        stretch = np.sqrt((1 + self.lam * s**2) / rise) * dr
        if rise[0] == np.inf:
            stretch[0] = stretch[1]
        return k / r * stretch, r * phi(r) ** 2 * stretch


def sphere_geodesic(angle: float, *, lam: float = 0.0, alpha: float = 0.0, sigma: float = 0.1, radius: float = 1.0) -> SphereGeodesic:
    """Solve Clairaut's relation for the geodesic across `angle` (0, pi) radians of the tube of width sigma."""
    for name, value, zero in (("angle", angle, False), ("lam", lam, True), ("alpha", alpha, True), ("sigma", sigma, False), ("radius", radius, False)):
        checks.positive(name, value, zero=zero)
    if angle >= math.pi:
        raise ValueError(f"angle must be below pi, got {angle}: at pi every plane holds a geodesic")
    make = lambda c, length=0.0: SphereGeodesic(angle, lam, alpha, sigma, radius, c, length)

    def integrals(c: float) -> np.ndarray:
        g = make(c)
        return np.array([2 * (WEIGHTS * rate).sum() for rate in g._rates(*g._substitute(NODES))])

    chord = radius * math.cos(angle / 2)
    if lam == alpha == 0:
        return make(chord, 2 * radius * math.sin(angle / 2))
    # r phi(r) must rise from c on: r (R − r) alpha < sigma²
    root = radius**2 / 4 - sigma**2 / alpha if alpha > 0 else -1.0
    lowest = max(chord, radius / 2 + math.sqrt(root) + 1e-12) if root > 0 else chord
    c = brentq(lambda c: integrals(c)[0] - angle, lowest * (1 + 1e-12), radius * (1 - 1e-13), xtol=1e-16, rtol=1e-15)
    return make(c, float(integrals(c)[1]))


def great_circle(start: Tensor, end: Tensor) -> Tensor:
    """Length of the shorter arc between points (batch, d) of a sphere about the origin: (batch,)."""
    radius = start.norm(dim=1)
    return radius * 2 * torch.atan2((end - start).norm(dim=1), (end + start).norm(dim=1))


def gaussian_distance(a: Tensor, b: Tensor) -> Tensor:
    """Fisher–Rao distance of isotropic 1-D Gaussians (mean, sigma), (batch, 2) each: sqrt(2) times that of the half-plane."""
    mean, sigma = (a[:, 0] - b[:, 0]) / math.sqrt(2), (a[:, 1], b[:, 1])
    return math.sqrt(2) * torch.acosh(1 + (mean**2 + (sigma[0] - sigma[1]) ** 2) / (2 * sigma[0] * sigma[1]))
