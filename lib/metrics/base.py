"""What a Riemannian metric is: an inner product at every point, and what follows from it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..elements import elements, working_dtype
from ..scores.base import Counter, Score

# Of conjugate gradients.
MAX_ITER = 500


def dot(u: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]) -> Float[Tensor, "n"]:
    """Euclidean inner product over the event axes."""
    return (u * v).flatten(1).sum(1)


def scale(a: Float[Tensor, "n"], v: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
    """One number a point times one vector a point."""
    return a.reshape(-1, *[1] * (v.ndim - 1)) * v


class Metric:
    """A metric G on points (n, *event). Nothing ever forms a d × d matrix.

    A subclass gives `apply`, and where there are closed forms `solve`, `inner`, `acceleration`: the
    generic ones cost conjugate gradients, and one reverse and one forward derivative of `apply`.

    Attributes:
        score: The score that the metric is made of, None for a metric that needs none.
        name: For tables and settings.

    Example:
        >>> import torch
        >>> from lib import Metric
        >>> class HalfPlane(Metric):  # the hyperbolic plane: points (x, y), y > 0
        ...     def apply(self, x, v):
        ...         return v / x[:, 1:] ** 2
        >>> HalfPlane().norm_squared(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([1.])
    """

    score: Score | None = None
    name = "metric"

    def apply(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G(x) v."""
        raise NotImplementedError

    def solve(
        self, x: Float[Tensor, "n *event"], w: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G(x)^-1 w, by conjugate gradients unless a closed form is known."""
        return conjugate_gradients(lambda v: self.apply(x, v), w)

    def inner(
        self,
        x: Float[Tensor, "n *event"],
        u: Float[Tensor, "n *event"],
        v: Float[Tensor, "n *event"],
    ) -> Float[Tensor, "n"]:
        """u^T G(x) v."""
        return dot(u, self.apply(x, v))

    def norm_squared(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n"]:
        """‖v‖²_G = v^T G(x) v; for some metrics half as dear as `inner`."""
        return self.inner(x, v, v)

    def acceleration(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """Right side of the geodesic equation x'' = a(x, x'): G a = ½ ∇_x(v^T G v) − D_v(G) v."""
        _, pull = torch.func.vjp(lambda y: dot(v, self.apply(y, v)), x)
        gradient = pull(torch.ones_like(x.flatten(1)[:, 0]))[0]
        change = torch.func.jvp(lambda y: self.apply(y, v), (x,), (v,))[1]
        return self.solve(x, gradient / 2 - change)

    def at(self, sigma: float | Tensor) -> Metric:
        """The same metric on the density at noise level sigma, a number or one level a point."""
        return self

    def with_score(self, score: Score) -> Metric:
        """The same metric on another score."""
        other = copy.copy(self)
        other.score = score
        return other

    def pick(self, rows: Tensor) -> Metric:
        """The metric of these rows of a batch of paths (see `Score.pick`)."""
        if self.score is None:
            return self
        return self.with_score(self.score.pick(rows))

    def along(self, times: Tensor) -> Metric:
        """The metric of points at these times of their paths (see `Score.along`)."""
        if self.score is None:
            return self
        return self.with_score(self.score.along(times))

    def energy(self, points: Float[Tensor, "batch points *event"]) -> Float[Tensor, "batch"]:
        """∫ ‖γ'‖²_G dt of the chain of straight segments, the metric at their midpoints.

        Differentiable. A path of constant speed has length² = energy.
        """
        step, middle, times = segments(points)
        squared = self.along(times).norm_squared(middle, step)
        return squared.reshape(len(points), -1).sum(1) * (points.shape[1] - 1)

    def speed_squared(
        self, points: Float[Tensor, "batch points *event"], degree: int = 2
    ) -> Float[Tensor, "batch segments"]:
        """‖γ'‖²_G at the quadrature points of a path, of weights `elements(points, degree).w`.

        Args:
            points: The paths.
            degree: Degree of the elements between the points, 1 to 4.

        Returns:
            One number a quadrature point, as many as segments, in `working_dtype`.
        """
        path = elements(points.shape[1], degree)
        flat = points.flatten(2).to(working_dtype(points))
        event = points.shape[2:]
        x = (path.M.to(flat) @ flat).to(points).reshape(-1, *event)
        v = (path.D.to(flat) @ flat).to(points).reshape(-1, *event)
        squared = self.along(path.M @ path.times).norm_squared(x, v)
        return squared.reshape(len(points), -1).to(flat)

    def scores_along(
        self, points: Float[Tensor, "batch points *event"]
    ) -> Float[Tensor, "batch points *event"]:
        """Scores at all points of a batch of paths, in one call."""
        times = elements(points.shape[1]).times
        return self.score.along(times)(points.flatten(0, 1)).reshape(points.shape)

    @property
    def counter(self) -> Counter:
        """Evaluations of the metric's score (a fresh counter where there is none)."""
        return Counter() if self.score is None else self.score.counter

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of a point, None where any will do."""
        return None if self.score is None else self.score.event_shape

    @property
    def sigma(self) -> float | Tensor | None:
        """Noise level of the score, None for a metric or score without one."""
        return None if self.score is None else self.score.sigma


class EuclideanMetric(Metric):
    """Flat space, G = I: geodesics are straight lines. What every other metric is compared with.

    Example:
        >>> import torch
        >>> from lib import EuclideanMetric
        >>> EuclideanMetric().norm_squared(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """

    name = "euclidean"

    def apply(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """G v = v."""
        return v

    def acceleration(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """0: straight lines."""
        return v * 0


def segments(points: Float[Tensor, "batch points *event"]) -> tuple[Tensor, Tensor, Tensor]:
    """The straight segments of paths: steps and midpoints (batch·T, *event), and times (T,)."""
    step = (points[:, 1:] - points[:, :-1]).flatten(0, 1)
    middle = ((points[:, 1:] + points[:, :-1]) / 2).flatten(0, 1)
    chain = elements(points.shape[1], 1)
    return step, middle, chain.M @ chain.times


def level_ratio(score: Score, sigma: float | Tensor) -> float:
    """The score's noise level over another; 1 where one of them is not a single number above 0."""
    if isinstance(score.sigma, Tensor) or isinstance(sigma, Tensor) or not score.sigma:
        return 1.0
    return score.sigma / sigma


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], w: Float[Tensor, "n *event"]
) -> Float[Tensor, "n *event"]:
    """Solve A v = w for symmetric positive definite A, every row of the batch on its own.

    Stops at a residual of 1e-12 relative to w, or of rounding where that is more.

    Args:
        apply: v to A v, both (n, *event).
        w: Right sides.

    Raises:
        ArithmeticError: A residual stayed above the square root of that.
    """
    tol = max(1e-12, 4 * torch.finfo(w.dtype).eps)
    tiny = torch.finfo(w.dtype).tiny
    size = dot(w, w)
    v = torch.zeros_like(w)
    residual = w.clone()
    direction = residual
    rho = dot(residual, residual)
    for _ in range(MAX_ITER):
        if bool((rho <= tol**2 * size).all()):
            break
        image = apply(direction)
        step = rho / dot(direction, image).clamp_min(tiny)
        v = v + scale(step, direction)
        residual = residual - scale(step, image)
        previous = rho
        rho = dot(residual, residual)
        direction = residual + scale(rho / previous.clamp_min(tiny), direction)
    if bool((rho > tol * size + tiny).any()):
        raise ArithmeticError(
            "conjugate gradients did not converge: the metric is singular here; "
            "add a multiple of the identity"
        )
    return v
