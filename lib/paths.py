"""Paths between points: straight, spherical and spline; their length; re-sampling.

A path is a tensor (batch, points, *event) of points at equal steps of its parameter t in [0, 1].
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from . import checks
from .elements import elements, lagrange, working_dtype
from .metrics.base import Metric


def lerp(
    start: Float[Tensor, "batch *event"],
    end: Float[Tensor, "batch *event"],
    points: int | Float[Tensor, "points"] = 33,
) -> Float[Tensor, "batch points *event"]:
    """Straight path (1 − t) a + t b; both ends are returned exactly.

    Args:
        start: Points a.
        end: Points b.
        points: How many points at equal times, or the times in [0, 1].

    Returns:
        The paths.
    """
    checks.same_layout("start", start, "end", end)
    t = _times(points, start)
    return (1 - t) * start[:, None] + t * end[:, None]


def slerp(
    start: Float[Tensor, "batch *event"],
    end: Float[Tensor, "batch *event"],
    points: int | Float[Tensor, "points"] = 33,
) -> Float[Tensor, "batch points *event"]:
    """Great-circle path about the origin, each point one vector (Shoemake 1985).

        γ(t) = [sin((1 − t) ω) a + sin(t ω) b] / sin ω,   ω the angle between a and b.

    Norms are interpolated with the same weights. Parallel vectors, where the arc has no length,
    fall back to `lerp`; so do opposite ones, where it has no direction.

    Args:
        start: Points a.
        end: Points b.
        points: How many points at equal times, or the times in [0, 1].

    Returns:
        The paths.
    """
    straight = lerp(start, end, points)
    work = working_dtype(start)
    a, b = (x.flatten(1).to(work) for x in (start, end))
    angle = angle_between(a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True))
    shape = (-1, *[1] * start.ndim)
    # False for the NaN of a zero vector
    is_arc = (angle.sin() > 1e-7).reshape(shape)
    omega = torch.where(is_arc, angle.reshape(shape), 1.0)
    t = _times(points, start).to(work)
    weight_a = ((1 - t) * omega).sin() / omega.sin()
    weight_b = (t * omega).sin() / omega.sin()
    arc = weight_a.to(start) * start[:, None] + weight_b.to(start) * end[:, None]
    return torch.where(is_arc, arc, straight)


def _times(points: int | Tensor, like: Tensor) -> Tensor:
    """Equally spaced times, or the caller's, as a column against the event axes: (1, m, 1, …)."""
    if isinstance(points, int):
        points = torch.linspace(0, 1, checks.count("points", points, least=2))
    return points.to(like).reshape(1, -1, *[1] * (like.ndim - 1))


def angle_between(
    a: Float[Tensor, "*vectors d"], b: Float[Tensor, "*vectors d"]
) -> Float[Tensor, "*vectors 1"]:
    """Angle between vectors of equal norm."""
    # atan2 of chord and sum stays accurate for small angles, where arccos does not.
    return 2 * torch.atan2((b - a).norm(dim=-1, keepdim=True), (b + a).norm(dim=-1, keepdim=True))


class NaturalSpline:
    """Natural cubic spline through equally spaced knots.

    Args:
        knots: At least two points a curve, at equal steps of t in [0, 1].
    """

    def __init__(self, knots: Float[Tensor, "batch knots *event"]) -> None:
        self.knots = knots

    def position(self, t: Float[Tensor, "times"]) -> Float[Tensor, "batch times *event"]:
        """γ(t)."""
        return self._evaluate(t, 0)

    def velocity(self, t: Float[Tensor, "times"]) -> Float[Tensor, "batch times *event"]:
        """γ'(t)."""
        return self._evaluate(t, 1)

    def acceleration(self, t: Float[Tensor, "times"]) -> Float[Tensor, "batch times *event"]:
        """γ''(t); zero at both ends."""
        return self._evaluate(t, 2)

    def _evaluate(self, t: Tensor, derivative: int) -> Tensor:
        # A spline is linear in its knots.
        matrix = torch.from_numpy(_basis(self.knots.shape[1])(t.cpu().numpy(), derivative))
        return torch.einsum("mk,bk...->bm...", matrix.to(self.knots), self.knots)


@lru_cache(maxsize=64)
def _basis(knots: int) -> CubicSpline:
    """The natural splines that are 1 at one knot and 0 at all others."""
    return CubicSpline(np.linspace(0, 1, knots), np.eye(knots), bc_type="natural")


class SphericalSpline(NaturalSpline):
    """Great-circle pieces through knots on a sphere about the origin.

    Position and velocity are those of the pieces, the acceleration is that of the natural cubic
    spline through the same knots, as in the released code of arXiv 2504.06675.
    """

    def position(self, t: Float[Tensor, "times"]) -> Float[Tensor, "batch times *event"]:
        """γ(t)."""
        a, b, omega, t, _ = self._pieces(t)
        arc = (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / omega.sin()
        return arc.unflatten(2, self.knots.shape[2:])

    def velocity(self, t: Float[Tensor, "times"]) -> Float[Tensor, "batch times *event"]:
        """γ'(t)."""
        a, b, omega, t, pieces = self._pieces(t)
        rate = pieces * omega
        v = rate * ((t * omega).cos() * b - ((1 - t) * omega).cos() * a) / omega.sin()
        return v.unflatten(2, self.knots.shape[2:])

    def _pieces(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Of each time's piece: its ends, their angle and the time on it; and how many pieces."""
        pieces = self.knots.shape[1] - 1
        piece = (t * pieces).floor().long().clamp(0, pieces - 1)
        local = (t * pieces - piece).to(self.knots).reshape(1, -1, 1)
        a = self.knots[:, piece].flatten(2)
        b = self.knots[:, piece + 1].flatten(2)
        return a, b, angle_between(a, b).clamp_min(1e-7), local, pieces


def evaluate(
    points: Float[Tensor, "batch points *event"],
    times: Float[Tensor, "*batch times"],
    degree: int = 2,
) -> Float[Tensor, "batch times *event"]:
    """A path at other times, by the piecewise polynomial through its points.

    Args:
        points: The paths.
        times: Times in [0, 1], the same for all paths or some for each.
        degree: Degree of the polynomials (see `elements`).

    Returns:
        The points there.
    """
    times = times.expand(len(points), -1) if times.ndim == 1 else times
    # On the CPU, since another device (MPS) may have no float64.
    nodes, weights = lagrange(points.shape[1], times.cpu(), degree)
    nodes = nodes.to(points.device)
    path = torch.arange(len(points), device=points.device)[:, None, None]
    return torch.einsum(
        "bmk,bmk...->bm...", weights.to(points), points[path, nodes.to(points.device)]
    )


def arc_length(
    points: Float[Tensor, "batch points *event"], metric: Metric | None = None, degree: int = 2
) -> Float[Tensor, "batch points"]:
    """Length from the start of a path to each of its points.

    Args:
        points: The paths.
        metric: Measure under this metric; None: the Euclidean length.
        degree: Degree of the polynomials (see `elements`).

    Returns:
        The lengths, float64; 0 at the first point.
    """
    e = elements(points.shape[1], degree)
    if metric is None:
        x = points.flatten(2).to(working_dtype(points))
        speed = (e.D.to(x) @ x).norm(dim=2)
    else:
        speed = metric.speed_squared(points, degree).clamp_min(0).sqrt()
    total = (speed * e.w.to(speed)).cumsum(1)
    return torch.cat([torch.zeros_like(total[:, :1]), total], 1)


def length(
    points: Float[Tensor, "batch points *event"], metric: Metric | None = None, degree: int = 2
) -> Float[Tensor, "batch"]:
    """Length of a path, Euclidean or under `metric` (see `arc_length`)."""
    return arc_length(points, metric, degree)[:, -1]


def resample(
    points: Float[Tensor, "batch points *event"],
    count: int,
    metric: Metric | None = None,
    degree: int = 2,
) -> Float[Tensor, "batch count *event"]:
    """Points at equal distances along the same path; both ends stay exactly.

    Args:
        points: The paths.
        count: How many points are wanted, at least 2.
        metric: Distances under this metric; None: Euclidean ones.
        degree: Degree of the polynomials (see `elements`).

    Returns:
        The paths with `count` points.
    """
    checks.count("count", count, least=2)
    if points.shape[1] == 2:
        return lerp(points[:, 0], points[:, 1], count)
    distance = arc_length(points, metric, degree).cpu().numpy()
    nodes = np.linspace(0, 1, points.shape[1])
    times = [np.interp(np.linspace(0, row[-1], count), row, nodes) for row in distance]
    new = evaluate(points, torch.as_tensor(np.array(times)), degree)
    new[:, 0] = points[:, 0]
    new[:, -1] = points[:, -1]
    return new
