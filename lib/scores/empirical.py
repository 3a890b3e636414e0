"""The exact score of a data set: data points convolved with Gaussian noise."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Score


class EmpiricalScore(Score):
    """Score of p_sigma = (1/m) Σ_j N(x_j, sigma² I), what a perfect model of m points learns.

        s(x) = (E[x_0 | x] − x)/sigma²
        E[x_0 | x] = Σ_j w_j x_j,   w_j ∝ exp(−‖x − x_j‖²/(2 sigma²)),   Σ_j w_j = 1

    (Vincent 2011; Karras et al. 2022, eq. 57). Sums run over chunks of the data with a running
    maximum, so that memory stays at n · chunk numbers beside the data.

    Args:
        points: the data, (m, *event).
        sigma: noise level in the units of the data.
        chunk: data points handled at once.

    Example:
        >>> import torch
        >>> score = EmpiricalScore(torch.tensor([[-1.0], [1.0]]), sigma=0.5)
        >>> score(torch.tensor([[0.0]]))
        tensor([[0.]])
        >>> score.denoise(torch.tensor([[0.9]]))
        tensor([[0.9985]])
    """

    name = "empirical"

    def __init__(
        self, points: Float[Tensor, "m *event"], sigma: float = 0.1, *, chunk: int = 8192
    ) -> None:
        super().__init__()
        checks.finite("points", checks.floating("points", points))
        if points.ndim < 2 or len(points) == 0:
            raise ValueError(
                f"points must have shape (m, *event) with m ≥ 1, got {tuple(points.shape)}"
            )
        self.event_shape = tuple(points.shape[1:])
        # Small numbers: small cancellation in ‖x − x_j‖².
        self.centre = points.flatten(1).mean(0)
        self.points = points.flatten(1) - self.centre
        self.squares = (self.points**2).sum(1)
        self.sigma = checks.noise_level(sigma)
        self.chunk = checks.count("chunk", chunk)

    @property
    def samples(self) -> Float[Tensor, "m *event"]:
        """The data points."""
        return (self.points + self.centre).reshape(-1, *self.event_shape)

    def evaluate(self, x: Tensor) -> Tensor:
        return (self.posterior_mean(x) - x) / self.sigma_column(x) ** 2

    def denoise(self, x: Tensor) -> Tensor:
        self.count(x)
        return self.posterior_mean(x)

    def posterior_mean(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """E[x_0 | x] at points that are already checked and counted: the ideal denoiser."""
        mean, _ = self._posterior(x)
        return (mean + self.centre.to(x)).reshape(x.shape)

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        _, log_sum = self._posterior(x)
        count, dimension = self.points.shape
        log_sigma = torch.as_tensor(self.sigma, dtype=x.dtype, device=x.device).log()
        normalisation = dimension * (log_sigma + math.log(2 * math.pi) / 2)
        return log_sum - math.log(count) - normalisation

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E of the centred data (n, d), and log Σ_j exp(−‖x − x_j‖²/(2 sigma²)) (n,)."""
        x = x.flatten(1) - self.centre.to(x)
        half = 0.5 / self.sigma_column(x) ** 2
        maximum = x.new_full((len(x), 1), -math.inf)
        total = torch.zeros_like(maximum)
        mean = torch.zeros_like(x)
        chunks = zip(self.points.split(self.chunk), self.squares.split(self.chunk), strict=True)
        for points, squares in chunks:
            points = points.to(x)
            logits = half * (2 * x @ points.T - squares.to(x))
            new_maximum = torch.maximum(maximum, logits.amax(1, keepdim=True)).detach()
            weights = (logits - new_maximum).exp()
            fade = (maximum - new_maximum).exp()
            total = fade * total + weights.sum(1, keepdim=True)
            mean = fade * mean + weights @ points
            maximum = new_maximum
        log_sum = maximum + total.log() - half * (x**2).sum(1, keepdim=True)
        return mean / total, log_sum[:, 0]
