"""The exact score of a data set: data points convolved with Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .base import Score


class EmpiricalScore(Score):
    """Score of p_sigma = (1/m) Σ_j N(x_j, sigma² I), the density a perfect diffusion model of these points would have.

    s(x) = (E[x_0 | x] − x)/sigma², where the posterior mean is the softmax-weighted mean of the data (Vincent 2011,
    Karras et al. 2022, eq. 57). Sums run over chunks of the data with a running maximum, so that memory stays at
    n · chunk numbers beside the data.

    points: (m, *event). sigma: noise level in the units of the data. chunk: data points handled at once.
    """

    name = "empirical"

    def __init__(self, points: Tensor, sigma: float = 0.1, *, chunk: int = 8192) -> None:
        super().__init__()
        checks.finite("points", checks.floating("points", points))
        if points.ndim < 2 or len(points) == 0:
            raise ValueError(
                f"points must have shape (m, *event) with m ≥ 1, got {tuple(points.shape)}"
            )
        self.event_shape = tuple(points.shape[1:])
        self.centre = points.flatten(1).mean(0)  # small numbers, small cancellation in ‖x − x_j‖²
        self.points = points.flatten(1) - self.centre
        self.squares = (self.points**2).sum(1)
        self.sigma, self.chunk = checks.noise_level(sigma), checks.count("chunk", chunk)

    @property
    def samples(self) -> Tensor:
        """The data points (m, *event)."""
        return (self.points + self.centre).reshape(-1, *self.event_shape)

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of the centred data (n, d) and log Σ_j exp(−‖x − x_j‖²/2 sigma²) (n,)."""
        x = x.flatten(1) - self.centre.to(x)
        half = 0.5 / self.sigma**2
        half = half.to(x)[:, None] if isinstance(half, Tensor) else half
        top = x.new_full((len(x), 1), -math.inf)
        total, mean = torch.zeros_like(top), torch.zeros_like(x)
        for points, squares in zip(self.points.split(self.chunk), self.squares.split(self.chunk)):
            logits = half * (2 * x @ points.to(x).T - squares.to(x))
            peak = torch.maximum(top, logits.amax(1, keepdim=True)).detach()
            weights, fade = (logits - peak).exp(), (top - peak).exp()
            total, mean, top = (
                fade * total + weights.sum(1, keepdim=True),
                fade * mean + weights @ points.to(x),
                peak,
            )
        log_sum = top + total.log() - half * (x**2).sum(1, keepdim=True)
        return mean / total, log_sum[:, 0]

    def denoise(self, x: Tensor) -> Tensor:
        """Posterior mean E[x_0 | x] (n, *event) -> (n, *event): the ideal denoiser."""
        self.count(x)
        return self.posterior_mean(x)

    def posterior_mean(self, x: Tensor) -> Tensor:
        return (self._posterior(x)[0] + self.centre.to(x)).reshape(x.shape)

    def evaluate(self, x: Tensor) -> Tensor:
        return (self.posterior_mean(x) - x) / self.sigma_column(x) ** 2

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        log_sigma = (
            self.sigma.to(x).log() if isinstance(self.sigma, Tensor) else math.log(self.sigma)
        )
        return (
            self._posterior(x)[1]
            - math.log(len(self.points))
            - self.points.shape[1] * (log_sigma + math.log(2 * math.pi) / 2)
        )
