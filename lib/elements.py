"""A path as piecewise polynomial: finite elements on [0, 1] with the path's points as equally spaced nodes.

An element of degree p spans p segments and carries p Gauss–Legendre points, so a path of T segments has T quadrature
points whatever the degree. Degree 1 with its midpoint is the usual chain of straight segments (energy of second order in
1/T); degree 2, the default, is of fourth order at the same number of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import checks


@dataclass(frozen=True)
class Elements:
    """Matrices that act on the node axis of a path with N = T + 1 nodes. All float64.

    D (Q, N): node values -> derivative at the quadrature points. M (Q, N): value there. w (Q,): quadrature weights.
    V (N, N) values -> derivative at the nodes (mean of both sides where elements meet).
    blocks: per degree, in order: nodes of its elements (E, p + 1), nodal derivative and nodal integration matrix (p + 1, p + 1).
    """

    times: Tensor
    D: Tensor
    M: Tensor
    w: Tensor
    V: Tensor
    blocks: tuple

    def line_integral(self, points: Tensor, fields: Tensor) -> Tensor:
        """∫ s·dx from the first node to each node: points, fields (batch, N, d) -> (batch, N)."""
        # s_j · x'_j = Σ_k D_jk (s_j · x_k): one product of small matrices instead of one pass over d for each element
        gram, total = fields @ (points - points[:, :1]).mT, points.new_zeros(points.shape[:2])
        for nodes, derivative, integral in self.blocks:
            rate = (gram[:, nodes[:, :, None], nodes[:, None]] * derivative.to(points)).sum(-1)
            part = rate @ integral.to(points).T  # from each element's first node
            whole = part[..., -1].cumsum(1)
            before = total[:, nodes[0, :1]] + torch.cat(
                [torch.zeros_like(whole[:, :1]), whole[:, :-1]], 1
            )
            total[:, nodes[:, 1:]] = before[..., None] + part[..., 1:]
        return total


def _element(degree: int) -> tuple[np.ndarray, ...]:
    """Reference element on [0, 1]: nodal derivative, nodal integral, derivative, value and weights at the Gauss points."""
    nodes, power = np.linspace(0, 1, degree + 1), np.arange(degree + 1)
    to_coefficients = np.linalg.inv(np.vander(nodes, increasing=True))
    gauss, weights = np.polynomial.legendre.leggauss(degree)
    gauss = (gauss + 1) / 2
    value = lambda t: t[:, None] ** power @ to_coefficients
    slope = lambda t: power * t[:, None] ** np.maximum(power - 1, 0) @ to_coefficients
    integral = nodes[:, None] ** (power + 1) / (power + 1) @ to_coefficients
    return slope(nodes), integral, slope(gauss), value(gauss), weights / 2


def _degrees(segments: int, degree: int) -> list[int]:
    """Degrees of the elements that fill `segments`; what is left over goes into the last element, or makes one more."""
    whole, rest = divmod(segments, degree)
    if whole == 0:
        return [rest]
    return (
        [degree] * (whole - 1) + [degree + 1]
        if rest == 1
        else [degree] * whole + [rest] * (rest > 0)
    )


@lru_cache(maxsize=64)
def elements(points: int, degree: int = 2) -> Elements:
    """Elements for a path of `points` ≥ 2 equally spaced nodes. degree: 1 to 4."""
    checks.count("points", points, least=2)
    if checks.count("degree", degree) > 4:
        raise ValueError(
            f"degree must be 1, 2, 3 or 4 (equally spaced nodes of higher degree oscillate), got {degree}"
        )
    h = 1 / (points - 1)
    D, M, w = np.zeros((points - 1, points)), np.zeros((points - 1, points)), np.zeros(points - 1)
    V, touched, first = np.zeros((points, points)), np.zeros(points), 0
    degrees, groups = _degrees(points - 1, degree), {}
    for p in degrees:
        slope, integral, gauss_slope, gauss_value, weights = _element(p)
        rows, nodes = slice(first, first + p), slice(first, first + p + 1)
        D[rows, nodes], M[rows, nodes], w[rows] = (
            gauss_slope / (p * h),
            gauss_value,
            weights * p * h,
        )
        V[nodes, nodes] += slope / (p * h)
        touched[nodes] += 1
        groups.setdefault(p, (torch.from_numpy(slope), torch.from_numpy(integral), []))[2].append(
            np.arange(points)[nodes]
        )
        first += p
    blocks = tuple(
        (torch.from_numpy(np.array(nodes)), slope, integral)
        for slope, integral, nodes in groups.values()
    )
    tensors = (torch.from_numpy(a) for a in (D, M, w, V / touched[:, None]))
    return Elements(torch.linspace(0, 1, points, dtype=torch.float64), *tensors, blocks)


@lru_cache(maxsize=64)
def interpolation(points: int, degree: int, times: tuple[float, ...]) -> Tensor:
    """Matrix (len(times), points) that evaluates the piecewise polynomial through the nodes at `times` in [0, 1]."""
    rows = np.zeros((len(times), points))
    edges = np.cumsum([0, *_degrees(points - 1, degree)])
    for row, time in enumerate(times):
        at = time * (points - 1)
        k = int(np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2))
        p, nodes = edges[k + 1] - edges[k], np.arange(edges[k], edges[k + 1] + 1)
        for j in range(p + 1):
            others = np.delete(nodes, j)
            rows[row, nodes[j]] = np.prod((at - others) / (nodes[j] - others))
    return torch.from_numpy(rows)
