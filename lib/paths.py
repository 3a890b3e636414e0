"""Paths between points: straight, spherical and spline; their speed and length; re-sampling.

A path is a tensor (batch, N, *event) of points at equal steps of its parameter t in [0, 1].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from . import checks
from .elements import elements, lagrange


def _times(points: int | Tensor, like: Tensor) -> Tensor:
    """Equally spaced times, or the caller's, as a column against the event axes: (1, m, 1, …)."""
    t = (
        torch.linspace(0, 1, checks.count("points", points, least=2))
        if isinstance(points, int)
        else points
    )
    return t.to(like).reshape(1, -1, *[1] * (like.ndim - 1))


def lerp(start: Tensor, end: Tensor, points: int | Tensor = 33) -> Tensor:
    """Straight path. start, end (batch, *event); points: a number, or times (m,) -> (batch, m, *event).

    Both ends are returned exactly.
    """
    checks.same_layout("start", start, "end", end)
    t = _times(points, start)
    return (1 - t) * start[:, None] + t * end[:, None]


def slerp(start: Tensor, end: Tensor, points: int | Tensor = 33) -> Tensor:
    """Great-circle path about the origin, each pair flattened to one vector (Shoemake 1985).

    Norms are interpolated with the same weights. Parallel vectors, where the arc has no length, fall back to `lerp`;
    so do opposite ones, where it has no direction.
    """
    checks.same_layout("start", start, "end", end)
    a, b = start.flatten(1).double(), end.flatten(1).double()
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    # the angle by atan2 of chord and sum stays accurate for small angles, where arccos does not
    angle = 2 * torch.atan2((b - a).norm(dim=1), (b + a).norm(dim=1))
    flat = ~((angle.sin() > 1e-7) & torch.isfinite(angle))
    shape = (-1, *[1] * start.ndim)
    omega, t = (
        angle.where(~flat, torch.ones_like(angle)).reshape(shape),
        _times(points, start).double(),
    )
    wa, wb = ((1 - t) * omega).sin() / omega.sin(), (t * omega).sin() / omega.sin()
    arc = wa.to(start) * start[:, None] + wb.to(start) * end[:, None]
    return torch.where(flat.reshape(shape), lerp(start, end, points), arc)


@lru_cache(maxsize=256)
def _spline_matrix(knots: int, times: tuple[float, ...], derivative: int) -> Tensor:
    """A natural cubic spline is linear in its knots: the matrix (len(times), knots) that evaluates it (scipy's spline)."""
    spline = CubicSpline(np.linspace(0, 1, knots), np.eye(knots), bc_type="natural")
    return torch.from_numpy(spline(np.asarray(times), derivative))


class NaturalSpline:
    """Natural cubic spline through equally spaced knots (batch, K, *event), K ≥ 2; times t (m,) in [0, 1]."""

    def __init__(self, knots: Tensor) -> None:
        checks.finite("knots", checks.floating("knots", knots))
        if knots.ndim < 3 or knots.shape[1] < 2:
            raise ValueError(
                f"knots must have shape (batch, K ≥ 2, *event), got {tuple(knots.shape)}"
            )
        self.knots = knots

    def position(self, t: Tensor) -> Tensor:
        """γ(t): (m,) -> (batch, m, *event)."""
        return self._evaluate(t, 0)

    def velocity(self, t: Tensor) -> Tensor:
        """γ'(t): (m,) -> (batch, m, *event)."""
        return self._evaluate(t, 1)

    def acceleration(self, t: Tensor) -> Tensor:
        """γ''(t): (m,) -> (batch, m, *event); zero at both ends."""
        return self._evaluate(t, 2)

    def _evaluate(self, t: Tensor, derivative: int) -> Tensor:
        matrix = _spline_matrix(self.knots.shape[1], tuple(t.tolist()), derivative)
        return torch.einsum("mk,bk...->bm...", matrix.to(self.knots), self.knots)


class SphericalSpline(NaturalSpline):
    """Great-circle pieces through knots on a sphere about the origin: position and velocity of the pieces, acceleration
    of the natural cubic spline through the same knots, as in the released code of arXiv 2504.06675."""

    def position(self, t: Tensor) -> Tensor:
        return self._pieces(t)[0]

    def velocity(self, t: Tensor) -> Tensor:
        return self._pieces(t)[1]

    def _pieces(self, t: Tensor) -> tuple[Tensor, Tensor]:
        k = self.knots.shape[1] - 1
        piece = (t * k).floor().long().clamp(0, k - 1)
        local = (t * k - piece).to(self.knots).reshape(1, -1, 1)
        a, b = (self.knots[:, i].flatten(2) for i in (piece, piece + 1))
        omega = 2 * torch.atan2(
            (b - a).norm(dim=2, keepdim=True), (b + a).norm(dim=2, keepdim=True)
        ).clamp_min(1e-7)
        position = (((1 - local) * omega).sin() * a + (local * omega).sin() * b) / omega.sin()
        velocity = (
            k * omega * ((local * omega).cos() * b - ((1 - local) * omega).cos() * a) / omega.sin()
        )
        shape = (len(self.knots), len(t), *self.knots.shape[2:])
        return position.reshape(shape), velocity.reshape(shape)


def evaluate(points: Tensor, times: Tensor, degree: int = 2) -> Tensor:
    """The path at other times: points (batch, N, *event), times (m,) or (batch, m) in [0, 1] -> (batch, m, *event)."""
    times = times.expand(len(points), -1) if times.ndim == 1 else times
    nodes, weights = lagrange(points.shape[1], times.to(points.device), degree)
    path = torch.arange(len(points), device=points.device)[:, None, None]
    return torch.einsum("bmk,bmk...->bm...", weights.to(points), points[path, nodes])


def arc_length(points: Tensor, metric=None, degree: int = 2) -> Tensor:
    """Length from the start to each node, (batch, N), float64: Euclidean, or under `metric`."""
    e = elements(points.shape[1], degree)
    if metric is None:
        speed = (e.D.to(points.device) @ points.flatten(2).double()).norm(dim=2)
    else:
        speed = metric.speed_squared(points, degree).clamp_min(0).sqrt()
    total = (speed * e.w.to(speed)).cumsum(1)
    return torch.cat([torch.zeros_like(total[:, :1]), total], 1)


def length(points: Tensor, metric=None, degree: int = 2) -> Tensor:
    """Length of a path (batch, N, *event) -> (batch,), Euclidean or under `metric`."""
    return arc_length(points, metric, degree)[:, -1]


def resample(points: Tensor, count: int, metric=None, degree: int = 2) -> Tensor:
    """`count` points at equal Euclidean (or Riemannian) distance along the same path; both ends stay exactly.

    (batch, N, *event) -> (batch, count, *event).
    """
    checks.count("count", count, least=2)
    if points.shape[1] == 2:
        return lerp(points[:, 0], points[:, 1], count)
    distance = arc_length(points, metric, degree).cpu().numpy()
    nodes = np.linspace(0, 1, points.shape[1])
    times = [np.interp(np.linspace(0, row[-1], count), row, nodes) for row in distance]
    new = evaluate(points, torch.as_tensor(np.array(times)), degree)
    new[:, 0], new[:, -1] = points[:, 0], points[:, -1]
    return new
