"""What a score is: s(x) = grad log p(x) on a batch of points, at one noise level, counted."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import checks

with (
    warnings.catch_warnings()
):  # torch warns once of its own use of torch.jit.script when forward mode is first used
    warnings.simplefilter("ignore", FutureWarning)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


@dataclass
class Counter:
    """Evaluations of one model, shared by all its noise levels."""

    evaluations: int = 0  # points at which the score was computed
    batches: int = 0  # calls
    derivatives: int = 0  # directional derivatives and back-propagated points among them


class Score:
    """A (Stein) score s(x) = grad log p_sigma(x).

    Subclasses implement `_score(x)` on (n, *event) and, where there is a closed form, `_log_density(x)` -> (n,).
    Dtype and device follow the input. `event_shape` is None where any shape will do.

    sigma: the noise level in the units of x, a number or one level a point (n,); None for a score of one fixed density.
    """

    event_shape: tuple[int, ...] | None = None
    sigma: float | Tensor | None = None
    name = "score"
    moves = False  # whether it changes along a path by itself: s(x, t), t the place on the path

    def __init__(self) -> None:
        self.counter = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        """Score at x (n, *event) -> (n, *event). Raises ValueError or TypeError for what is no batch of points."""
        self._count(x)
        s = self._score(x)
        if not isinstance(s, Tensor) or s.shape != x.shape or not s.is_floating_point():
            got = (
                f"{s.dtype} of shape {tuple(s.shape)}"
                if isinstance(s, Tensor)
                else type(s).__name__
            )
            raise ValueError(
                f"{self.name} returned {got} for points of shape {tuple(x.shape)}; a score keeps the shape"
            )
        return s

    def denoise(self, x: Tensor) -> Tensor:
        """Posterior mean E[x_0 | x] = x + sigma² s(x) (Tweedie's formula), (n, *event) -> (n, *event). Needs a sigma."""
        if self.sigma is None:
            raise ValueError(
                f"{self.name} is the score of one fixed density: nothing there is noise to be taken away"
            )
        return x + self._level(x) ** 2 * self(x)

    def log_density(self, x: Tensor) -> Tensor:
        """log p_sigma(x), (n,), up to a constant that does not depend on x. Raises NotImplementedError without a closed form."""
        self._check(x)
        return self._log_density(x)

    def at(self, sigma: float | Tensor) -> Score:
        """The score of p_sigma, the density at noise level `sigma`; evaluations go on the same counter."""
        if self.sigma is None:
            raise ValueError(
                f"{self.name} is the score of one fixed density and has no other noise levels"
            )
        other = copy.copy(self)
        other.sigma = checks.noise_level(sigma)
        return other

    def pick(self, rows: Tensor) -> Score:
        """The score of a batch of paths that are rows (b,) of the batch this one is for. Most are the same for all paths."""
        return self

    def along(self, times: Tensor) -> Score:
        """The score of points (batch·m, *event), path by path, at `times` of their paths, (m,) or (batch, m) in [0, 1].

        Solvers and metrics ask every point of a path through `pick` and `along`; most scores need not be told.
        """
        return self

    @property
    def has_log_density(self) -> bool:
        """Whether `log_density` has a closed form here."""
        return type(self)._log_density is not Score._log_density

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        """Directional derivative J_s(x) v = (Hess log p) v, forward mode: (n, *event) -> (n, *event)."""
        self.counter.derivatives += x.shape[0]
        return torch.func.jvp(self._score, (x.contiguous(),), (v.contiguous(),))[
            1
        ]  # forward mode takes no expanded view

    def _score(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{self.name} knows no log-density; use lib.density for differences along a path"
        )

    def _count(self, x: Tensor) -> None:
        self._check(x)
        self.counter.evaluations += x.shape[0]
        self.counter.batches += 1

    def _check(self, x: Tensor) -> None:
        checks.floating("x", x)
        if x.ndim < 2 or (
            self.event_shape is not None and tuple(x.shape[1:]) != tuple(self.event_shape)
        ):
            event = "*event" if self.event_shape is None else ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"{self.name} takes points of shape (n, {event}), got {tuple(x.shape)}"
            )

    def _level(self, x: Tensor) -> float | Tensor:
        """The noise level in a shape that multiplies x: a number, or (n, 1, …)."""
        if isinstance(self.sigma, Tensor):
            return self.sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))
        return self.sigma
