"""Scores of a Gaussian tube around a known manifold: p(x) ∝ exp(−dist(x, M)²/(2 sigma²)).

With the nearest point π(x) on M, grad ½ dist² = x − π(x), so the score is (π(x) − x)/sigma² in any
codimension.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Score


class TubeScore(Score):
    """Score of the tube of width sigma around a manifold.

    Args:
        project: nearest point of the manifold, (n, d) -> (n, d).
        sigma: width of the tube.
        name: of the manifold.
    """

    def __init__(
        self, project: Callable[[Tensor], Tensor], sigma: float = 0.1, *, name: str = "tube"
    ) -> None:
        super().__init__()
        self.project = project
        self.name = name
        self.sigma = checks.noise_level(sigma)

    def evaluate(self, x: Tensor) -> Tensor:
        return (self.project(x) - x) / self.sigma_column(x) ** 2

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        gap = (x - self.project(x)) / self.sigma_column(x)
        return -(gap**2).flatten(1).sum(1) / 2

    def distance(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """Euclidean distance from the manifold."""
        return (x - self.project(x)).flatten(1).norm(dim=1)


class SphereScore(TubeScore):
    """Tube around the sphere about the origin of R^d, any d: p ∝ exp(−(‖x‖ − radius)²/(2 sigma²)).

    Args:
        radius: of the sphere.
        sigma: width of the tube.

    Example:
        >>> import torch
        >>> score = SphereScore(radius=1.0, sigma=0.5)
        >>> score(torch.tensor([[0.0, 3.0]]))
        tensor([[ 0., -8.]])
    """

    def __init__(self, radius: float = 1.0, sigma: float = 0.1) -> None:
        self.radius = checks.positive("radius", radius)
        super().__init__(lambda x: _normalise(x, self.radius), sigma, name="sphere")


def circle(radius: float = 1.0, sigma: float = 0.1) -> TubeScore:
    """Tube around a circle in the plane of the first two axes of R^d, of codimension d − 1."""
    checks.positive("radius", radius)
    return TubeScore(lambda x: _embed(_normalise(x[..., :2], radius), x), sigma, name="circle")


def torus(major: float = 1.0, minor: float = 0.4, sigma: float = 0.1) -> TubeScore:
    """Tube around a torus of revolution in the first three axes of R^d.

    Args:
        major: radius of the circle in the middle.
        minor: radius of the torus about it.
        sigma: width of the tube.
    """
    if not checks.positive("major", major) > checks.positive("minor", minor):
        raise ValueError(f"a torus needs major > minor, got {major} and {minor}")

    def project(x: Tensor) -> Tensor:
        ring = _embed(_normalise(x[..., :2], major), x[..., :3])
        return _embed(ring + _normalise(x[..., :3] - ring, minor), x)

    return TubeScore(project, sigma, name="torus")


def helix_point(
    t: Float[Tensor, "*times"], dim: int = 3, radius: float = 1.0, pitch: float = math.pi / 2
) -> Float[Tensor, "*times dim"]:
    """The helix (radius cos t, radius sin t, pitch t/2π, 0, …) of R^dim at angles t in radians."""
    point = torch.stack([radius * t.cos(), radius * t.sin(), pitch * t / (2 * math.pi)], -1)
    return torch.cat([point, point.new_zeros(*t.shape, dim - 3)], -1)


def helix(
    radius: float = 1.0, pitch: float = math.pi / 2, turns: float = 3.0, sigma: float = 0.1
) -> TubeScore:
    """Tube around a helix about the third axis of R^d, angles within ± turns · 2π."""
    span = 2 * math.pi * checks.positive("turns", turns)

    def point(t: Tensor) -> Tensor:
        return helix_point(t, 3, radius, pitch)

    return curve(point, (-span, span), sigma=sigma, name="helix")


def curve(
    function: Callable[[Tensor], Tensor],
    interval: tuple[float, float],
    *,
    sigma: float = 0.1,
    samples: int = 2000,
    name: str = "curve",
) -> TubeScore:
    """Tube around any smooth curve, laid in the first axes of R^d.

    The nearest point is the nearest of `samples` points, refined by three Newton steps of
    (γ(t) − x)·γ'(t) = 0. Derivatives come from `function` by forward-mode differentiation.

    Args:
        function: γ, times (n,) -> (n, k), k ≤ d.
        interval: of times, rising.
        sigma: width of the tube.
        samples: points that Newton's steps start from.
        name: of the curve.
    """
    lower, upper = interval
    if not lower < upper:
        raise ValueError(f"interval must rise, got {interval}")
    count = checks.count("samples", samples, least=2)
    grid = torch.linspace(lower, upper, count, dtype=torch.float64)
    points = function(grid)

    def velocity(t: Tensor) -> Tensor:
        return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]

    def acceleration(t: Tensor) -> Tensor:
        return torch.func.jvp(velocity, (t,), (torch.ones_like(t),))[1]

    def project(x: Tensor) -> Tensor:
        low = x[..., : points.shape[1]]
        t = grid.to(x)[torch.cdist(low.detach(), points.to(x)).argmin(-1)]
        for _ in range(3):
            gap = function(t) - low
            v = velocity(t)
            slope = (v * v + gap * acceleration(t)).sum(-1)
            t = t - (gap * v).sum(-1) / slope.clamp_min(1e-3 * (v * v).sum(-1))
            t = t.clamp(lower, upper)
        return _embed(function(t), x)

    return TubeScore(project, sigma, name=name)


def _normalise(x: Tensor, radius: float) -> Tensor:
    return radius * x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _embed(low: Tensor, x: Tensor) -> Tensor:
    """Points of the first few axes as points of R^d."""
    return torch.cat([low, torch.zeros_like(x[..., low.shape[-1] :])], -1)
