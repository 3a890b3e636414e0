"""Fisher–Rao metric on space-time: points are noisy samples *and* their noise levels (Karczewski et al. 2025, arXiv 2505.17517).

A point (x, sigma) stands for the posterior p(x_0 | x) of x = x_0 + sigma·noise. These posteriors are an exponential family with

    natural parameters   η = (x/sigma², −1/(2 sigma²)),
    expectations         μ = (x̂_0, ‖x̂_0‖² + sigma² div x̂_0),   x̂_0 = x + sigma² s(x, sigma),   div x̂_0 = d + sigma² div s,

so the Fisher metric is the product of their differentials, ds² = dη·dμ, and the energy of a path is T Σ Δη·Δμ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..divergence import basis, quadratic_forms, rademacher
from ..elements import elements
from ..scores.base import Score
from .base import Metric, dot


class SpaceTimeMetric(Metric):
    """Fisher–Rao metric on z = (x, log sigma), a flat tensor (n, d + 1); `lift` and `project` go there and back.

    score: with `event_shape`, and with `at` for a tensor of noise levels (n,). probes: None for the exact divergence
    (d directional derivatives a point), or a number of Rademacher probes, drawn once, so that the metric stays one function.
    Symmetric for the gradient of a log-density; a learned score or probes leave a rest, of which the symmetric part is used.
    """

    name = "spacetime"
    sigma = None  # a path has its own noise level at every point

    def __init__(
        self, score: Score, probes: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        if not isinstance(score, Score) or score.sigma is None:
            raise TypeError(
                "the space-time metric needs a score that knows noise levels (FunctionScore(..., sigma=...))"
            )
        if score.event_shape is None:
            raise ValueError(
                f"the space-time metric needs the shape of a point: give {score.name} an event_shape"
            )
        self.score, self.exact = score, probes is None
        self.directions = (
            basis(score.event_shape)
            if self.exact
            else rademacher(probes, score.event_shape, generator)
        )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d + 1,): flattened x and log sigma."""
        return (torch.Size(self.score.event_shape).numel() + 1,)

    def lift(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """x (..., *event) at noise level sigma, a number or (...) -> z (..., d + 1). ValueError: the score knows no such level."""
        checks.finite("x", checks.floating("x", x))
        lead = x.shape[: x.ndim - len(self.score.event_shape)]
        if x.shape[len(lead) :] != torch.Size(self.score.event_shape):
            raise ValueError(
                f"x must have shape (..., {', '.join(map(str, self.score.event_shape))}), got {tuple(x.shape)}"
            )
        self.score.at(sigma)  # ValueError where the score knows no such level
        level = (
            torch.as_tensor(checks.noise_level(sigma), dtype=x.dtype, device=x.device)
            .log()
            .expand(lead)
        )
        return torch.cat([x.reshape(*lead, -1), level[..., None]], -1)

    def project(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., d + 1) -> x (..., *event) and sigma (...), in the range that a learned score knows."""
        return z[..., :-1].reshape(*z.shape[:-1], *self.score.event_shape), self._log_level(z).exp()

    def _log_level(self, z: Tensor) -> Tensor:
        """log sigma (...), kept in the range a learned score knows: a solver's trial step may leave it."""
        lowest, highest = self.score.noise_range or (0.0, math.inf)
        return z[..., -1].clamp(math.log(lowest) if lowest > 0 else None, math.log(highest))

    def natural(self, z: Tensor) -> Tensor:
        """η(z), (n, d + 1) -> (n, d + 1)."""
        precision = (-2 * self._log_level(z)[:, None]).exp()
        return torch.cat([z[:, :-1] * precision, -precision / 2], 1)

    def expectation(self, z: Tensor) -> Tensor:
        """μ(z) = E[(x_0, ‖x_0‖²) | x], (n, d + 1) -> (n, d + 1): one score and the divergence."""
        x, sigma = self.project(z)
        score = self.score.at(sigma)
        forms = quadratic_forms(score, x, self.directions)
        divergence = forms.sum(0) if self.exact else forms.mean(0)
        variance = sigma**2
        clean = z[:, :-1] + variance[:, None] * score(x).flatten(1)
        square = dot(clean, clean) + variance * (clean.shape[1] + variance * divergence)
        return torch.cat([clean, square[:, None]], 1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """½ (Dη[u]·Dμ[v] + Dη[v]·Dμ[u]) at z = x, all (n, d + 1) -> (n,)."""
        along = lambda function, w: torch.func.jvp(function, (x,), (w,))[1]
        one = dot(along(self.natural, u), along(self.expectation, v))
        return (
            one if v is u else (one + dot(along(self.natural, v), along(self.expectation, u))) / 2
        )

    def apply(self, x: Tensor, v: Tensor) -> Tensor:
        """G v = ½ (Dη^T Dμ + Dμ^T Dη) v at z = x, all (n, d + 1)."""

        def half(first, then) -> Tensor:
            return torch.func.vjp(then, x)[1](torch.func.jvp(first, (x,), (v,))[1])[0]

        return (half(self.expectation, self.natural) + half(self.natural, self.expectation)) / 2

    def at(self, sigma: float | Tensor) -> SpaceTimeMetric:
        raise ValueError("space-time holds every noise level already; leave noise_levels= out")

    def energy(self, points: Tensor) -> Tensor:
        """T Σ_i (η_{i+1} − η_i)·(μ_{i+1} − μ_i), differentiable: (batch, N, d + 1) -> (batch,)."""
        eta, mu = self._along(points)
        return (eta.diff(dim=1) * mu.diff(dim=1)).flatten(1).sum(1) * (points.shape[1] - 1)

    def speed_squared(self, points: Tensor, degree: int = 2) -> Tensor:
        """(dη/dt)·(dμ/dt) at the quadrature points, from η and μ at the nodes alone: (batch, N − 1)."""
        D = elements(points.shape[1], degree).D.to(points.device)
        eta, mu = (D @ nodes.double() for nodes in self._along(points))
        return (eta * mu).sum(-1)

    def _along(self, points: Tensor) -> tuple[Tensor, Tensor]:
        flat = points.flatten(0, 1)
        return self.natural(flat).reshape(points.shape), self.expectation(flat).reshape(
            points.shape
        )
