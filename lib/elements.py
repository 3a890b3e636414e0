"""A path as piecewise polynomial: finite elements on [0, 1], the points equally spaced nodes.

An element of degree p spans p segments and carries p Gauss–Legendre points, so a path of T segments
has T quadrature points whatever the degree. Degree 1 with its midpoint is the usual chain of
straight segments (energy of second order in 1/T); degree 2, the default, is of fourth order at the
same number of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import checks

# Equally spaced nodes of a higher degree oscillate.
HIGHEST_DEGREE = 4


class ReferenceElement(NamedTuple):
    """Matrices on the nodal values of an element on [0, 1], float64.

    Attributes:
        slope: To the derivative at the nodes.
        integral: To the integral from the first node to each node.
        gauss_slope: To the derivative at the Gauss points.
        gauss_value: To the value at the Gauss points.
        gauss_weights: Weights of the Gauss points.
    """

    slope: Float[Tensor, "nodes nodes"]
    integral: Float[Tensor, "nodes nodes"]
    gauss_slope: Float[Tensor, "gauss nodes"]
    gauss_value: Float[Tensor, "gauss nodes"]
    gauss_weights: Float[Tensor, "gauss"]


@lru_cache
def reference_element(degree: int) -> ReferenceElement:
    """The element of this degree with equally spaced nodes."""
    nodes = np.linspace(0, 1, degree + 1)
    power = np.arange(degree + 1)
    coefficients = np.linalg.inv(np.vander(nodes, increasing=True))
    gauss, weights = np.polynomial.legendre.leggauss(degree)
    gauss = (gauss + 1) / 2

    def slope(t: np.ndarray) -> np.ndarray:
        return power * t[:, None] ** np.maximum(power - 1, 0) @ coefficients

    matrices = (
        slope(nodes),
        nodes[:, None] ** (power + 1) / (power + 1) @ coefficients,
        slope(gauss),
        gauss[:, None] ** power @ coefficients,
        weights / 2,
    )
    return ReferenceElement(*map(torch.from_numpy, matrices))


@dataclass(frozen=True)
class Elements:
    """Matrices that act on the node axis of a path with N points, T = N − 1 segments. All float64.

    Attributes:
        times: The nodes, 0 to 1.
        D: Values at the nodes to the derivative at the quadrature points.
        M: Values at the nodes to the value at the quadrature points.
        w: Weights of the quadrature points; their sum is 1.
        V: Values at the nodes to the derivative there (mean of both sides where elements meet).
        blocks: The elements in their order along the path, those of one degree together: their
            nodes' places (elements, nodes) and the reference element.
    """

    times: Float[Tensor, "points"]
    D: Float[Tensor, "segments points"]
    M: Float[Tensor, "segments points"]
    w: Float[Tensor, "segments"]
    V: Float[Tensor, "points points"]
    blocks: list[tuple[Tensor, ReferenceElement]]

    def line_integral(
        self, points: Float[Tensor, "batch points d"], fields: Float[Tensor, "batch points d"]
    ) -> Float[Tensor, "batch points"]:
        """∫ s·dx along each path, from its first point to each of its points.

        Args:
            points: The paths, each point flat.
            fields: The field s at these points.

        Returns:
            The integrals; 0 at the first point.
        """
        # s_j · x'_j = Σ_k slope_jk (s_j · x_k): all inner products in one matrix product, instead
        # of a pass over d for each element.
        products = fields @ (points - points[:, :1]).mT
        total = points.new_zeros(points.shape[:2])
        for nodes, reference in self.blocks:
            own = products[:, nodes[:, :, None], nodes[:, None, :]]
            rate = (own * reference.slope.to(points)).sum(-1)
            from_first_node = rate @ reference.integral.to(points).T
            element_sums = from_first_node[..., -1].cumsum(1)
            zero = torch.zeros_like(element_sums[:, :1])
            before = total[:, nodes[0, :1]] + torch.cat([zero, element_sums[:, :-1]], 1)
            total[:, nodes[:, 1:]] = before[..., None] + from_first_node[..., 1:]
        return total


@lru_cache(maxsize=64)
def elements(points: int, degree: int = 2) -> Elements:
    """The elements of a path of equally spaced points.

    Args:
        points: Points of the path, at least 2.
        degree: Degree of the polynomials, 1 to 4.

    Returns:
        The matrices that differentiate, evaluate and integrate such a path.
    """
    degrees = element_degrees(points, degree)
    segments = points - 1
    D = torch.zeros(segments, points, dtype=torch.float64)
    M = torch.zeros_like(D)
    w = torch.zeros_like(D[:, 0])
    V = torch.zeros(points, points, dtype=torch.float64)
    elements_at_node = torch.zeros(points, 1)
    nodes_by_degree: dict[int, list[Tensor]] = {}
    first = 0
    for p in degrees:
        reference = reference_element(p)
        width = p / segments
        gauss_points = slice(first, first + p)
        nodes = slice(first, first + p + 1)
        D[gauss_points, nodes] = reference.gauss_slope / width
        M[gauss_points, nodes] = reference.gauss_value
        w[gauss_points] = reference.gauss_weights * width
        V[nodes, nodes] += reference.slope / width
        elements_at_node[nodes] += 1
        nodes_by_degree.setdefault(p, []).append(torch.arange(first, first + p + 1))
        first += p
    return Elements(
        times=torch.linspace(0, 1, points, dtype=torch.float64),
        D=D,
        M=M,
        w=w,
        V=V / elements_at_node,
        blocks=[(torch.stack(n), reference_element(p)) for p, n in nodes_by_degree.items()],
    )


def lagrange(
    points: int, times: Float[Tensor, "*times"], degree: int = 2
) -> tuple[Int[Tensor, "*times nodes"], Float[Tensor, "*times nodes"]]:
    """What evaluates the piecewise polynomial through the points of a path at other times.

    The value at time t is Σ_j weights_j · point[nodes_j], with Lagrange's weights
    Π_{k≠j} (t − t_k)/(t_j − t_k) over the nodes of the element that t lies in.

    Args:
        points: Points of the path, at least 2.
        times: Times in [0, 1].
        degree: Degree of the polynomials, 1 to 4.

    Returns:
        The nodes of each time's element and their weights, float64, p the highest degree among the
        elements; an element of lower degree is filled up with weights 0.
    """
    degrees = torch.tensor(element_degrees(points, degree), device=times.device)
    last_nodes = degrees.cumsum(0)
    place = times.double() * (points - 1)
    element = torch.searchsorted(last_nodes, place, right=True).clamp(max=len(degrees) - 1)
    p = degrees[element][..., None]
    first = last_nodes[element][..., None] - p

    size = int(degrees.max()) + 1
    local = torch.arange(size, device=times.device)
    distance = place[..., None] - first - local
    weights = torch.where(local <= p, 1.0, 0.0).double()
    for k in range(size):
        factor = distance[..., k, None] / (local - k)
        weights = weights * torch.where((local != k) & (k <= p), factor, 1.0)
    return (first + local).clamp(max=points - 1), weights


def element_degrees(points: int, degree: int) -> list[int]:
    """Degrees of the elements along a path, in order.

    One segment left over goes into the last element, more make an element of their own.
    """
    segments = checks.count("points", points, least=2) - 1
    if checks.count("degree", degree) > HIGHEST_DEGREE:
        raise ValueError(
            f"degree must be 1 to {HIGHEST_DEGREE} (equally spaced nodes of a higher degree "
            f"oscillate), got {degree}"
        )
    whole, rest = divmod(segments, degree)
    if whole == 0:
        return [rest]
    if rest == 0:
        return [degree] * whole
    if rest == 1:
        return [degree] * (whole - 1) + [degree + 1]
    return [degree] * whole + [rest]


def working_dtype(x: Tensor) -> torch.dtype:
    """What small differences of energies are computed in: float64, unless x's device has none."""
    return torch.float32 if x.device.type == "mps" else torch.float64
