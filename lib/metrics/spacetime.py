"""Fisher–Rao metric on space-time: points are noisy samples *and* their noise levels.

Karczewski et al. 2025 (arXiv 2505.17517). A point (x, sigma) stands for the posterior p(x_0 | x) of
x = x_0 + sigma·noise. These posteriors are an exponential family with

    natural parameters   η = (x/sigma², −1/(2 sigma²)),
    expectations         μ = (x̂, ‖x̂‖² + sigma² div x̂),
    denoised point       x̂ = x + sigma² s(x, sigma),   div x̂ = d + sigma² div s,

so the Fisher metric is the product of their differentials, ds² = dη·dμ, and the energy of a path is
T Σ Δη·Δμ.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from ..divergence import basis, quadratic_forms, rademacher
from ..elements import elements, working_dtype
from ..scores.base import Score
from .base import Metric, dot


class SpaceTimeMetric(Metric):
    """Fisher–Rao metric on z = (x, log sigma), flat; `lift` and `project` go there and back.

    Symmetric for the gradient of a log-density; a learned score or probes leave a rest, of which
    the symmetric part is used.

    Args:
        score: With `event_shape`, and with `at` for one noise level a point.
        probes: None for the exact divergence (d directional derivatives a point), or a number of
            Rademacher probes, the same each time, so that the metric stays one function.

    Example:
        >>> import torch
        >>> from lib import GaussianScore, SpaceTimeMetric
        >>> metric = SpaceTimeMetric(GaussianScore(torch.zeros(1), 1.0, sigma=1.0))
        >>> z = metric.lift(torch.zeros(1, 1), 1.0)  # the posterior is N(0, 1/2)
        >>> metric.norm_squared(z, torch.tensor([[1.0, 0.0]]))  # its mean moves by 1/2
        tensor([0.5000])
    """

    name = "spacetime"
    # A path has its own noise level at every point.
    sigma = None

    def __init__(self, score: Score, probes: int | None = None) -> None:
        if not isinstance(score, Score) or score.sigma is None:
            raise TypeError(
                "the space-time metric needs a score that knows noise levels "
                "(FunctionScore(..., sigma=...))"
            )
        if score.event_shape is None:
            raise ValueError(
                "the space-time metric needs the shape of a point: "
                f"give {score.name} an event_shape"
            )
        self.score = score
        self.exact = probes is None
        if self.exact:
            self.directions = basis(score.event_shape)
        else:
            self.directions = rademacher(probes, score.event_shape)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d + 1,): flattened x and log sigma."""
        return (torch.Size(self.score.event_shape).numel() + 1,)

    def lift(
        self, x: Float[Tensor, "*batch_event"], sigma: float | Tensor
    ) -> Float[Tensor, "*batch coordinates"]:
        """z = (x, log sigma) of points at a noise level.

        Args:
            x: Points (..., *event).
            sigma: Their noise level, a number or (...).

        Returns:
            (..., d + 1).

        Raises:
            ValueError: Another shape, or a level that the score does not know.
        """
        checks.finite("x", checks.floating("x", x))
        event = torch.Size(self.score.event_shape)
        batch = x.shape[: x.ndim - len(event)]
        if x.shape[len(batch) :] != event:
            wanted = ", ".join(map(str, event))
            raise ValueError(f"x must have shape (..., {wanted}), got {tuple(x.shape)}")
        self.score.at(sigma)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        log_level = level.log().expand(batch)
        return torch.cat([x.reshape(*batch, -1), log_level[..., None]], -1)

    def project(self, z: Float[Tensor, "*batch coordinates"]) -> tuple[Tensor, Tensor]:
        """z (..., d + 1) to x (..., *event) and sigma (...), in the range that the score knows."""
        x = z[..., :-1].reshape(*z.shape[:-1], *self.score.event_shape)
        return x, self._log_level(z).exp()

    def _log_level(self, z: Tensor) -> Tensor:
        """log sigma (...), kept in the range a learned score knows: a trial step may leave it."""
        if self.score.noise_range is None:
            return z[..., -1]
        lowest, highest = self.score.noise_range
        return z[..., -1].clamp(math.log(lowest) if lowest > 0 else None, math.log(highest))

    def natural(self, z: Float[Tensor, "n coordinates"]) -> Float[Tensor, "n coordinates"]:
        """η(z)."""
        precision = (-2 * self._log_level(z)[:, None]).exp()
        return torch.cat([z[:, :-1] * precision, -precision / 2], 1)

    def expectation(self, z: Float[Tensor, "n coordinates"]) -> Float[Tensor, "n coordinates"]:
        """μ(z) = E[(x_0, ‖x_0‖²) | x]: one score and the divergence."""
        x, sigma = self.project(z)
        score = self.score.at(sigma)
        forms = quadratic_forms(score, x, self.directions)
        divergence = forms.sum(0) if self.exact else forms.mean(0)
        variance = sigma**2
        clean = z[:, :-1] + variance[:, None] * score(x).flatten(1)
        square = dot(clean, clean) + variance * (clean.shape[1] + variance * divergence)
        return torch.cat([clean, square[:, None]], 1)

    def norm_squared(
        self, x: Float[Tensor, "n coordinates"], v: Float[Tensor, "n coordinates"]
    ) -> Float[Tensor, "n"]:
        """Dη[v]·Dμ[v] at z = x."""
        change_of_eta = torch.func.jvp(self.natural, (x,), (v,))[1]
        change_of_mu = torch.func.jvp(self.expectation, (x,), (v,))[1]
        return dot(change_of_eta, change_of_mu)

    def apply(
        self, x: Float[Tensor, "n coordinates"], v: Float[Tensor, "n coordinates"]
    ) -> Float[Tensor, "n coordinates"]:
        """G v = ½ (Dη^T Dμ + Dμ^T Dη) v at z = x."""

        def transposed_product(left, right) -> Tensor:
            """Dleft^T Dright v."""
            return torch.func.vjp(left, x)[1](torch.func.jvp(right, (x,), (v,))[1])[0]

        one = transposed_product(self.natural, self.expectation)
        other = transposed_product(self.expectation, self.natural)
        return (one + other) / 2

    def at(self, sigma: float | Tensor) -> SpaceTimeMetric:
        """Refused: every noise level is in the space already."""
        raise ValueError("space-time holds every noise level already; leave noise_levels= out")

    def energy(self, points: Float[Tensor, "batch points coordinates"]) -> Float[Tensor, "batch"]:
        """T Σ_i (η_{i+1} − η_i)·(μ_{i+1} − μ_i); differentiable."""
        eta, mu = self._parameters_along(points)
        return (eta.diff(dim=1) * mu.diff(dim=1)).flatten(1).sum(1) * (points.shape[1] - 1)

    def speed_squared(
        self, points: Float[Tensor, "batch points coordinates"], degree: int = 2
    ) -> Float[Tensor, "batch segments"]:
        """(dη/dt)·(dμ/dt) at the quadrature points, from η and μ at the nodes alone."""
        D = elements(points.shape[1], degree).D.to(points.device, working_dtype(points))
        eta, mu = self._parameters_along(points)
        return ((D @ eta.to(D)) * (D @ mu.to(D))).sum(-1)

    def _parameters_along(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """η and μ at the points of paths."""
        flat = points.flatten(0, 1)
        eta = self.natural(flat).reshape(points.shape)
        return eta, self.expectation(flat).reshape(points.shape)
