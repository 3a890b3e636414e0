"""A user's own function as a score: one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .. import checks
from .base import Score


class FunctionScore(Score):
    """Wrap a function.

    function: x (n, *event) -> (n, *event); with `sigma` it is called as function(x, sigma) and `at` works; its
    sigma is a number, or a tensor (n, 1, …) of one level a point that multiplies x.
    log_density: optional, the same arguments -> (n,).
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
        self.function, self.density = function, log_density
        self.sigma = None if sigma is None else checks.noise_level(sigma)
        self.event_shape = None if event_shape is None else tuple(event_shape)

    @property
    def has_log_density(self) -> bool:
        return self.density is not None

    def _arguments(self, x: Tensor) -> tuple:
        return (x,) if self.sigma is None else (x, self.sigma_column(x))

    def evaluate(self, x: Tensor) -> Tensor:
        return self.function(*self._arguments(x))

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        return (
            super().evaluate_log_density(x)
            if self.density is None
            else self.density(*self._arguments(x))
        )


def as_score(function: Score | Callable[..., Tensor], **settings) -> Score:
    """A `Score` as it is, any other callable wrapped in `FunctionScore(function, **settings)`."""
    return function if isinstance(function, Score) else FunctionScore(function, **settings)
