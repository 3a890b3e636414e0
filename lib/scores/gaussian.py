"""Gaussian and Gaussian mixture in R^d, convolved with noise: scores in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Score


class GaussianMixtureScore(Score):
    """p = Σ_k w_k N(mean_k, C_k + sigma² I), at any noise level.

    The eigenvectors of the C_k are kept, so that another noise level costs nothing.

    Args:
        means: of the k components.
        covariances: (k, d, d), (d, d), or standard deviations, (k,) or a number.
        weights: positive, normalised here; equal by default.
        sigma: added noise, ≥ 0.

    Raises:
        ValueError: a shape that does not fit, covariances that are not positive definite.

    Example:
        >>> import torch
        >>> score = GaussianMixtureScore(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]))
        >>> score(torch.tensor([[0.0, 1.0]]))
        tensor([[ 0., -1.]])
    """

    name = "Gaussian mixture"

    def __init__(
        self,
        means: Float[Tensor, "k d"],
        covariances: Tensor | float = 1.0,
        weights: Float[Tensor, "k"] | None = None,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        checks.finite("means", checks.floating("means", means))
        if means.ndim != 2:
            raise ValueError(f"means must have shape (k, d), got {tuple(means.shape)}")
        k, d = means.shape
        self.means = means
        self.event_shape = (d,)
        self.variances, self.axes = torch.linalg.eigh(_covariance_matrices(covariances, means))
        if bool((self.variances <= 0).any()):
            raise ValueError("covariances must be positive definite")
        weights = means.new_ones(k) if weights is None else weights.to(means)
        if weights.shape != (k,) or bool((weights <= 0).any()):
            raise ValueError(f"weights must be {k} positive numbers, got {weights.tolist()}")
        self.log_weights = (weights / weights.sum()).log()
        self.sigma = checks.positive("sigma", sigma, zero=True)

    def evaluate(self, x: Tensor) -> Tensor:
        log_p, scores = self._components(x)
        return (log_p.softmax(1)[..., None] * scores).sum(1)

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        log_p, _ = self._components(x)
        return log_p.logsumexp(1)

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log of w_k N_k(x) (n, k) and the score of each component (n, k, d)."""
        axes = self.axes.to(x)
        points = x[:, None]
        variances = self.variances.to(x) + self.sigma_column(points) ** 2
        gap = torch.einsum("kde,nkd->nke", axes, points - self.means.to(x))
        log_p = -((gap**2 / variances).sum(-1) + (2 * math.pi * variances).log().sum(-1)) / 2
        scores = -torch.einsum("kde,nke->nkd", axes, gap / variances)
        return log_p + self.log_weights.to(x), scores


class GaussianScore(GaussianMixtureScore):
    """N(mean, covariance + sigma² I).

    Args:
        mean: the mean.
        covariance: (d, d), or a standard deviation.
        sigma: added noise, ≥ 0.

    Example:
        >>> import torch
        >>> score = GaussianScore(torch.zeros(2), 2.0)
        >>> score(torch.tensor([[4.0, 0.0]]))
        tensor([[-1.,  0.]])
    """

    name = "Gaussian"

    def __init__(
        self, mean: Float[Tensor, "d"], covariance: Tensor | float = 1.0, sigma: float = 0.0
    ) -> None:
        super().__init__(mean[None], covariance, sigma=sigma)


def _covariance_matrices(covariances: Tensor | float, means: Tensor) -> Tensor:
    k, d = means.shape
    covariances = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
    if covariances.ndim <= 1:
        variances = covariances.reshape(-1, 1, 1) ** 2
        return torch.eye(d).to(means) * variances.expand(k, 1, 1)
    if covariances.shape not in {(d, d), (k, d, d)}:
        raise ValueError(
            f"covariances must have shape ({k}, {d}, {d}), ({d}, {d}), ({k},) or be a number, got "
            f"{tuple(covariances.shape)}"
        )
    return covariances.expand(k, d, d)
