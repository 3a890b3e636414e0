"""One fixed density from several: the renormalised geometric mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .base import Counter, Score
from .function import as_score


class ProductScore(Score):
    """The score of p(x) ∝ Π_k p_k(x)^w_k, Σ_k w_k = 1: the weighted mean of the factors' scores.

    It is high where all factors are. Between two prompts of one model it gives one density for the
    whole path, where a prompt that moves along the path gives none. At each noise level it is the
    product of the factors' noised densities, which is not the noised product.

    Every point counts once a factor, on the factors' counters and on this one's.

    Args:
        scores: The factors: of the same points, at the same noise level.
        weights: w_k > 0, of sum 1; equal by default.

    Raises:
        ValueError: No factors, factors that do not fit together, or weights that do not.

    Example:
        >>> import torch
        >>> from lib import GaussianScore
        >>> left = GaussianScore(torch.tensor([-1.0, 0.0]))
        >>> right = GaussianScore(torch.tensor([1.0, 0.0]))
        >>> ProductScore([left, right])(torch.tensor([[0.0, 1.0]]))  # a Gaussian about the origin
        tensor([[ 0., -1.]])
    """

    def __init__(
        self,
        scores: Sequence[Score | Callable[[Tensor], Tensor]],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.scores = [as_score(score) for score in scores]
        if len(self.scores) == 0:
            raise ValueError("a product needs at least one factor")
        self.weights = _checked_weights(weights, len(self.scores))
        self.name = "product of " + ", ".join(score.name for score in self.scores)
        self.event_shape = self._common_shape()
        self._check_levels()
        learned = [score for score in self.scores if score.noise_range is not None]
        # points are in the user's units; the model's own are the first learned factor's
        model = (learned or self.scores)[0]
        self.scale = model.scale
        self.shift = model.shift
        self.schedule = model.schedule
        if learned:
            lowest = max(score.noise_range[0] for score in learned)
            highest = min(score.noise_range[1] for score in learned)
            self.noise_range = (lowest, highest)
        origins = [score.origin for score in self.scores]
        same_origin = all(origin == origins[0] for origin in origins)
        self.origin = origins[0] if same_origin else {"factors": origins}
        counters = [score.counter for score in self.scores]
        shared = all(counter is counters[0] for counter in counters)
        self.counter = counters[0] if shared else Counter()

    @property
    def sigma(self) -> float | Tensor | None:
        return self.scores[0].sigma

    @property
    def moves(self) -> bool:
        return any(score.moves for score in self.scores)

    @property
    def has_log_density(self) -> bool:
        return all(score.has_log_density for score in self.scores)

    @property
    def settings(self) -> dict[str, Any]:
        factors = zip(self.scores, self.weights, strict=True)
        return {"product": [{"weight": weight, **score.settings} for score, weight in factors]}

    def at(self, sigma: float | Tensor) -> ProductScore:
        return self._with([score.at(sigma) for score in self.scores])

    def pick(self, rows: Tensor) -> ProductScore:
        return self._with([score.pick(rows) for score in self.scores])

    def along(self, times: Tensor) -> ProductScore:
        return self._with([score.along(times) for score in self.scores])

    def evaluate(self, x: Tensor) -> Tensor:
        return self._mean(score.evaluate(x) for score in self.scores)

    def evaluate_log_density(self, x: Tensor) -> Tensor:
        return self._mean(score.evaluate_log_density(x) for score in self.scores)

    def denoise(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """x + sigma² s(x), the weighted mean of the factors' posterior means."""
        with self._counting():
            return self._mean(score.denoise(x) for score in self.scores)

    def derivative(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        with self._counting():
            return self._mean(score.derivative(x, v) for score in self.scores)

    def count(self, x: Float[Tensor, "n *event"]) -> None:
        self.check_points(x)
        with self._counting():
            for score in self.scores:
                score.count(x)

    def _mean(self, values: Iterator[Tensor]) -> Tensor:
        """Σ_k w_k value_k."""
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))

    def _with(self, scores: list[Score]) -> ProductScore:
        """The product of other forms of the same factors, on the same counter."""
        other = copy.copy(self)
        other.scores = scores
        return other

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """What the factors count meanwhile counts here too."""
        counters = {id(score.counter): score.counter for score in self.scores}
        counters.pop(id(self.counter), None)
        before = {key: replace(counter) for key, counter in counters.items()}
        yield
        for key, counter in counters.items():
            self.counter.evaluations += counter.evaluations - before[key].evaluations
            self.counter.batches += counter.batches - before[key].batches
            self.counter.derivatives += counter.derivatives - before[key].derivatives

    def _common_shape(self) -> tuple[int, ...] | None:
        """The event shape on which all factors that have one agree."""
        shapes = [score.event_shape for score in self.scores if score.event_shape is not None]
        for shape in shapes:
            if tuple(shape) != tuple(shapes[0]):
                raise ValueError(
                    "the factors of a product take the same points, but their event shapes are "
                    f"{tuple(shapes[0])} and {tuple(shape)}"
                )
        return shapes[0] if shapes else None

    def _check_levels(self) -> None:
        first = self.scores[0].sigma
        for score in self.scores[1:]:
            if (score.sigma is None) != (first is None):
                raise ValueError(
                    "some factors know noise levels and others are fixed densities: give each a "
                    "level (FunctionScore(..., sigma=...)), or none"
                )
            if first is not None and not torch.equal(
                torch.as_tensor(score.sigma), torch.as_tensor(first)
            ):
                raise ValueError(
                    f"the factors are at noise levels {first} and {score.sigma}: bring them to one "
                    "by score.at(sigma)"
                )


def _checked_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    weights = tuple(checks.positive("weights", weight) for weight in weights)
    if len(weights) != count or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"weights must be {count} numbers of sum 1, got {weights}")
    return weights
