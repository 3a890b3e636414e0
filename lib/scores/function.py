"""A user's own function as a score: one line."""

from collections.abc import Callable, Sequence

from torch import Tensor

from .. import checks
from .base import Score


class FunctionScore(Score):
    """A function as a score.

    Args:
        function: x (n, *event) -> (n, *event). With `sigma` it is called as function(x, sigma),
            where sigma is a number, or a tensor (n, 1, …) of one level a point.
        sigma: noise level of a function that knows several; then `at` works.
        log_density: log p, of the same arguments -> (n,).
        event_shape: shape of one point, where the function takes one shape alone.

    Example:
        >>> import torch
        >>> score = FunctionScore(lambda x, sigma: -x / (1 + sigma**2), sigma=1.0)
        >>> score(torch.tensor([[2.0, 0.0]]))
        tensor([[-1., -0.]])
        >>> score.at(3.0)(torch.tensor([[2.0, 0.0]]))
        tensor([[-0.2000, -0.0000]])
    """

    name = "FunctionScore"

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        sigma: float | None = None,
        log_density: Callable[..., Tensor] | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(
                f"a score is a callable x -> grad log p(x), got {type(function).__name__}"
            )
        self.function = function
        self.density = log_density
        self.sigma = None if sigma is None else checks.noise_level(sigma)
        self.event_shape = None if event_shape is None else tuple(event_shape)

    @property
    def has_log_density(self) -> bool:
        return self.density is not None

    def evaluate(self, x: Tensor) -> Tensor:
        return self._call(self.function, x)

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        if self.density is None:
            return super().evaluate_log_density(x)
        return self._call(self.density, x)

    def _call(self, function: Callable[..., Tensor], x: Tensor) -> Tensor:
        if self.sigma is None:
            return function(x)
        return function(x, self.sigma_column(x))


def as_score(function: Score | Callable[..., Tensor]) -> Score:
    """A score as it is, any other callable as a `FunctionScore`."""
    return function if isinstance(function, Score) else FunctionScore(function)
