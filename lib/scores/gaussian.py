"""Gaussian and Gaussian mixture in R^d, convolved with noise: score and log-density in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .base import Score


class GaussianMixtureScore(Score):
    """p = Σ_k w_k N(mean_k, C_k + sigma² I), with `at(sigma)` for any noise level.

    means: (k, d). covariances: (k, d, d), (d, d), or standard deviations as (k,) or a number (isotropic).
    weights: (k,), positive, normalised here. sigma: added noise, ≥ 0. Eigenvectors are kept, so a noise level costs nothing.
    """

    name = "Gaussian mixture"

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor | float = 1.0,
        weights: Tensor | None = None,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        checks.finite("means", checks.floating("means", means))
        if means.ndim != 2:
            raise ValueError(f"means must have shape (k, d), got {tuple(means.shape)}")
        k, d = means.shape
        self.means, self.event_shape = means, (d,)
        self.variances, self.axes = torch.linalg.eigh(_covariance_matrices(covariances, means))
        if bool((self.variances <= 0).any()):
            raise ValueError("covariances must be positive definite")
        weights = means.new_ones(k) if weights is None else weights.to(means)
        if weights.shape != (k,) or bool((weights <= 0).any()):
            raise ValueError(f"weights must be {k} positive numbers, got {weights.tolist()}")
        self.log_weights = (weights / weights.sum()).log()
        self.sigma = checks.positive("sigma", sigma, zero=True)

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log of w_k N_k(x) (n, k) and the score of each component (n, k, d)."""
        axes, variances = self.axes.to(x), self.variances.to(x)
        sigma = self.sigma.to(x)[:, None, None] if isinstance(self.sigma, Tensor) else self.sigma
        variances = variances + sigma**2
        gap = torch.einsum("kde,nkd->nke", axes, x[:, None] - self.means.to(x))
        log_p = -((gap**2 / variances).sum(-1) + (2 * math.pi * variances).log().sum(-1)) / 2
        return log_p + self.log_weights.to(x), -torch.einsum("kde,nke->nkd", axes, gap / variances)

    def evaluate(self, x: Tensor) -> Tensor:
        log_p, scores = self._components(x)
        return (log_p.softmax(1)[..., None] * scores).sum(1)

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        return self._components(x)[0].logsumexp(1)


class GaussianScore(GaussianMixtureScore):
    """N(mean, covariance + sigma² I): mean (d,), covariance (d, d) or a standard deviation."""

    name = "Gaussian"

    def __init__(self, mean: Tensor, covariance: Tensor | float = 1.0, sigma: float = 0.0) -> None:
        super().__init__(mean[None], covariance, sigma=sigma)


def _covariance_matrices(given: Tensor | float, means: Tensor) -> Tensor:
    k, d = means.shape
    given = torch.as_tensor(given, dtype=means.dtype, device=means.device)
    if given.ndim <= 1:
        return torch.eye(d).to(means) * (given.reshape(-1, 1, 1) ** 2).expand(k, 1, 1)
    if given.shape not in {(d, d), (k, d, d)}:
        raise ValueError(
            f"covariances must have shape ({k}, {d}, {d}), ({d}, {d}), ({k},) or be a number, "
            f"got {tuple(given.shape)}"
        )
    return given.expand(k, d, d)
