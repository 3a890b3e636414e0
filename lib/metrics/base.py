"""What a Riemannian metric is: an inner product at every point, and what follows from it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..elements import elements
from ..scores.base import Counter, Score


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Euclidean inner product over the event axes: (n, *event) -> (n,)."""
    return (u * v).flatten(1).sum(1)


def scale(a: Tensor, v: Tensor) -> Tensor:
    """One number a point times a vector a point: (n,), (n, *event) -> (n, *event)."""
    return a.reshape(-1, *[1] * (v.ndim - 1)) * v


class Metric:
    """A metric G on (n, *event). Subclasses give `apply` and `solve`; nothing ever forms a d × d matrix.

    The generic `acceleration` costs one reverse and one forward derivative of `apply`; a metric with a closed form
    overrides it. `score` is None for a metric that needs none.
    """

    score: Score | None = None
    name = "metric"

    def apply(self, x: Tensor, v: Tensor) -> Tensor:
        """G(x) v: (n, *event) -> (n, *event)."""
        raise NotImplementedError

    def solve(self, x: Tensor, w: Tensor) -> Tensor:
        """G(x)^-1 w: (n, *event) -> (n, *event), by conjugate gradients unless a closed form is known."""
        return conjugate_gradients(lambda v: self.apply(x, v), w)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T G(x) v: (n, *event) -> (n,)."""
        return dot(u, self.apply(x, v))

    def acceleration(self, x: Tensor, v: Tensor) -> Tensor:
        """Right side of the geodesic equation x'' = a(x, x'), (n, *event): G a = ½ ∇_x(v^T G v) − D_v(G) v."""
        _, pull = torch.func.vjp(lambda y: dot(v, self.apply(y, v)), x)
        gradient = pull(torch.ones_like(x.flatten(1)[:, 0]))[0]
        change = torch.func.jvp(lambda y: self.apply(y, v), (x,), (v,))[1]
        return self.solve(x, gradient / 2 - change)

    def at(self, sigma: float | Tensor) -> Metric:
        """The same metric on the density at noise level sigma."""
        return self

    def with_score(self, score: Score) -> Metric:
        """The same metric on another score."""
        other = copy.copy(self)
        other.score = score
        return other

    def pick(self, rows: Tensor) -> Metric:
        """The metric of these rows of a batch of paths (see `Score.pick`)."""
        return self if self.score is None else self.with_score(self.score.pick(rows))

    def along(self, times: Tensor) -> Metric:
        """The metric of points at these times of their paths (see `Score.along`)."""
        return self if self.score is None else self.with_score(self.score.along(times))

    def energy(self, points: Tensor) -> Tensor:
        """∫ ‖γ'‖²_G dt of the chain of straight segments, metric at the midpoints; differentiable.

        points (batch, N, *event) -> (batch,). A path of constant speed has length² = energy.
        """
        batch, n = points.shape[:2]
        step = (points[:, 1:] - points[:, :-1]).flatten(0, 1)
        middle = ((points[:, 1:] + points[:, :-1]) / 2).flatten(0, 1)
        return self.along(elements(n, 1).M @ elements(n).times).inner(middle, step, step).reshape(
            batch, n - 1
        ).sum(1) * (n - 1)

    def speed_squared(self, points: Tensor, degree: int = 2) -> Tensor:
        """‖γ'‖²_G at the T quadrature points of the path (elements.py), which carry the weights elements(N, degree).w.

        points (batch, N, *event) -> (batch, N − 1), float64.
        """
        batch, n = points.shape[:2]
        e, flat = elements(n, degree), points.flatten(2).double()
        x, v = ((m.to(flat) @ flat).to(points).reshape(-1, *points.shape[2:]) for m in (e.M, e.D))
        return self.along(e.M @ e.times).inner(x, v, v).reshape(batch, n - 1).double()

    def scores_along(self, points: Tensor) -> Tensor:
        """Scores at all points of a batch of paths in one call: (batch, N, *event) -> the same shape."""
        return self.score.along(elements(points.shape[1]).times)(points.flatten(0, 1)).reshape(
            points.shape
        )

    @property
    def counter(self) -> Counter:
        """Evaluations of the metric's score (a fresh counter where there is none)."""
        return self.score.counter if self.score is not None else Counter()

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        return self.score.event_shape if self.score is not None else None

    @property
    def sigma(self) -> float | Tensor | None:
        return self.score.sigma if self.score is not None else None


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], w: Tensor, *, tol: float = 1e-12, max_iter: int = 500
) -> Tensor:
    """Solve A v = w for symmetric positive definite A, every row of the batch on its own: (n, *event) -> (n, *event).

    Raises ArithmeticError if a residual stays above sqrt(tol) relative to w. A tol below rounding is raised to it.
    """
    tol = max(tol, 4 * torch.finfo(w.dtype).eps)
    v, r = torch.zeros_like(w), w.clone()
    p, rho, target = r, dot(r, r), tol**2 * dot(w, w)
    for _ in range(max_iter):
        if bool((rho <= target).all()):
            break
        a = apply(p)
        step = rho / dot(p, a).clamp_min(torch.finfo(w.dtype).tiny)
        v, r = v + scale(step, p), r - scale(step, a)
        rho, old = dot(r, r), rho
        p = r + scale(rho / old.clamp_min(torch.finfo(w.dtype).tiny), p)
    if bool((rho > tol * dot(w, w) + torch.finfo(w.dtype).tiny).any()):
        raise ArithmeticError(
            "conjugate gradients did not converge: the metric is singular here; add a multiple of the identity"
        )
    return v
