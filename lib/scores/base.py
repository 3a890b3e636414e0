"""What a score is: s(x) = grad log p(x) on a batch of points, at one noise level, counted."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks
from .schedule import NoiseSchedule

# torch warns once, of its own use of torch.jit.script, when forward mode is first used.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


@dataclass
class Counter:
    """Evaluations of one model, shared by all its noise levels.

    Attributes:
        evaluations: points at which the score was computed.
        batches: calls.
        derivatives: directional derivatives, and back-propagated points, among them.
    """

    evaluations: int = 0
    batches: int = 0
    derivatives: int = 0


class Score:
    """A (Stein) score s(x) = grad log p_sigma(x). Dtype and device follow the points.

    A subclass implements `evaluate` and, where there is a closed form, `evaluate_log_density`.
    Calling the score checks the points, counts them and evaluates.

    Attributes:
        counter: evaluations so far, shared by all noise levels.
        name: what to call it in messages.
        event_shape: shape of one point; None where any shape will do.
        sigma: noise level in the units of x, a number or one level a point (n,); None for the
            score of one fixed density.
        scale: the model's own units are y = scale·x + shift.
        shift: see `scale`.
        noise_range: lowest and highest noise level of a learned score, in the units of x; None for
            one that is not learned.
        schedule: the noise schedule of a learned score, in the units of y.
        moves: whether the score changes along a path by itself: s(x, t), t the place on the path.
        origin: what names the model in result files (`lib.scores.load` sets it).

    Example:
        >>> import torch
        >>> class Standard(Score):
        ...     def evaluate(self, x):
        ...         return -x
        >>> score = Standard()
        >>> score(torch.tensor([[3.0, 4.0]]))
        tensor([[-3., -4.]])
        >>> score.counter.evaluations
        1
    """

    name: str = "score"
    event_shape: tuple[int, ...] | None = None
    sigma: float | Tensor | None = None
    scale: float = 1.0
    shift: float = 0.0
    noise_range: tuple[float, float] | None = None
    schedule: NoiseSchedule | None = None
    moves: bool = False
    origin: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.counter = Counter()

    def evaluate(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """The score at points that are already checked and counted; a subclass implements it."""
        raise NotImplementedError

    def evaluate_log_density(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n"]:
        """The log-density at points that are already checked, where a subclass knows it."""
        raise NotImplementedError(
            f"{self.name} knows no log-density; use lib.density for differences along a path"
        )

    @property
    def has_log_density(self) -> bool:
        """Whether `log_density` has a closed form here."""
        return type(self).evaluate_log_density is not Score.evaluate_log_density

    @property
    def settings(self) -> dict[str, Any]:
        """What the score was made with beside its noise level, for result files."""
        return {}

    def __call__(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """The score at points x, counted.

        Raises:
            TypeError: x is no floating tensor.
            ValueError: x is no batch of points, or the score does not keep its shape.
        """
        self.count(x)
        s = self.evaluate(x)
        if isinstance(s, Tensor) and s.shape == x.shape and s.is_floating_point():
            return s
        answer = type(s).__name__
        if isinstance(s, Tensor):
            answer = f"{s.dtype} of shape {tuple(s.shape)}"
        raise ValueError(
            f"{self.name} returned {answer} for points of shape {tuple(x.shape)}; "
            "a score keeps the shape"
        )

    def log_density(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n"]:
        """log p_sigma(x), up to a constant that does not depend on x.

        Raises:
            NotImplementedError: there is no closed form.
        """
        self.check_points(x)
        return self.evaluate_log_density(x)

    def denoise(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Posterior mean E[x_0 | x] = x + sigma² s(x) (Tweedie's formula), counted like the score.

        Raises:
            ValueError: the score is of one fixed density, without noise.
        """
        if self.sigma is None:
            raise ValueError(
                f"{self.name} is the score of one fixed density: nothing there is noise to be "
                "taken away"
            )
        return x + self.sigma_column(x) ** 2 * self(x)

    def derivative(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """Directional derivative J_s(x) v = (Hess log p) v, in forward mode."""
        self.counter.derivatives += x.shape[0]
        # Forward mode takes no expanded view.
        return torch.func.jvp(self.evaluate, (x.contiguous(),), (v.contiguous(),))[1]

    def at(self, sigma: float | Tensor) -> Score:
        """The score of p_sigma, the density at another noise level, on the same counter.

        Args:
            sigma: a positive number, or one level a point (n,), in the units of x.
        """
        if self.sigma is None:
            raise ValueError(
                f"{self.name} is the score of one fixed density and has no other noise levels"
            )
        other = copy.copy(self)
        other.sigma = checks.noise_level(sigma)
        return other

    def pick(self, rows: Tensor) -> Score:
        """The score for some paths of the batch of paths this one is for.

        Args:
            rows: which of the paths, (b,). Most scores are the same for all paths.
        """
        return self

    def along(self, times: Tensor) -> Score:
        """The score of points (batch·m, *event), path by path, at these places of their paths.

        Solvers and metrics reach every point of a path through `pick` and `along`; only a score
        that `moves` makes a difference of it.

        Args:
            times: places in [0, 1], (m,) or (batch, m).
        """
        return self

    def count(self, x: Float[Tensor, "n *event"]) -> None:
        """Check the points and count one evaluation for each of them."""
        self.check_points(x)
        self.counter.evaluations += x.shape[0]
        self.counter.batches += 1

    def check_points(self, x: Float[Tensor, "n *event"]) -> None:
        """Raise TypeError or ValueError for what is no batch of points of this score."""
        checks.floating("x", x)
        fits = self.event_shape is None or tuple(x.shape[1:]) == tuple(self.event_shape)
        if x.ndim >= 2 and fits:
            return
        event = "*event"
        if self.event_shape is not None:
            event = ", ".join(map(str, self.event_shape))
        raise ValueError(f"{self.name} takes points of shape (n, {event}), got {tuple(x.shape)}")

    def sigma_column(self, x: Float[Tensor, "n *event"]) -> float | Tensor:
        """The noise level in a shape that multiplies x: a number, or (n, 1, …)."""
        if isinstance(self.sigma, Tensor):
            return self.sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))
        return self.sigma


class WrappedScore(Score):
    """A score made from another score of the same points: it counts and knows what that one does.

    A subclass implements `evaluate` on `self.score`.
    """

    def __init__(self, score: Score) -> None:
        self.score = score
        self.counter = score.counter
        self.name = score.name
        self.event_shape = score.event_shape
        self.scale = score.scale
        self.shift = score.shift
        self.noise_range = score.noise_range
        self.schedule = score.schedule
        self.origin = score.origin

    @property
    def sigma(self) -> float | Tensor | None:
        return self.score.sigma

    @property
    def moves(self) -> bool:
        return self.score.moves

    @property
    def settings(self) -> dict[str, Any]:
        return self.score.settings

    def wrap(self, score: Score) -> WrappedScore:
        """The same wrapper about another score."""
        other = copy.copy(self)
        other.score = score
        return other

    def at(self, sigma: float | Tensor) -> WrappedScore:
        return self.wrap(self.score.at(sigma))

    def pick(self, rows: Tensor) -> WrappedScore:
        return self.wrap(self.score.pick(rows))

    def along(self, times: Tensor) -> WrappedScore:
        return self.wrap(self.score.along(times))

    def count(self, x: Float[Tensor, "n *event"]) -> None:
        self.score.count(x)
