"""Where a method works: on the points as they are, or in the noised space of a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks, flow
from ..metrics.base import scale
from ..scores.base import Score
from ..scores.variance_preserving import VariancePreservingScore

SPACES = ("clean", "shared_noise", "ddim")

# Of the central difference that carries a velocity through the inversion: its step, as a share of
# the norm of data of unit variance.
STEP = 0.01


@dataclass(frozen=True)
class Method:
    """What methods and baselines have in common: a description, and where they work.

    Attributes:
        summary: What it is, with its source.
        space: Where it works on a learned score, one of SPACES; any other score is met in the clean
            space.
        time: Noise level of that space, as a fraction of the model's time steps; None for the
            score's own.
        only_there: Whether it works in that space alone, whatever the score.
    """

    summary: str
    space: str = "clean"
    time: float | None = None
    only_there: bool = False


@dataclass(frozen=True)
class Space:
    """The clean space: points stay as they are.

    Attributes:
        score: Score of the density in the coordinates of this space.
    """

    kind: ClassVar[str] = "clean"

    score: Score

    def along(self, times: Float[Tensor, "*times"]) -> Space:
        """The space for points at these times of their paths (see `Score.along`)."""
        return replace(self, score=self.score.along(times))

    def enter(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Clean points to points of this space."""
        return x

    def carry(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """Velocities at clean points x to velocities in this space."""
        return v

    def leave(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Points of this space to clean points."""
        return z

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, and under "ends" whether the ends are given or reconstructed."""
        sigma = self.score.sigma if isinstance(self.score.sigma, float) else None
        return {"space": self.kind, "sigma": sigma, "ends": "given"}


@dataclass(frozen=True)
class NoisedSpace(Space):
    """Points at a noise level, in the variance-preserving coordinates z of the model.

    They come back by the probability flow: what leaves is a reconstruction.

    Attributes:
        score: The model's score in z, at this level.
        model: The score of clean points.
        level: Noise level, in the units of x.
        flow_steps: Noise levels of the probability flow (see `lib.flow`).
        flow_method: "ddim" or "heun".
    """

    score: VariancePreservingScore
    model: Score
    level: float
    flow_steps: int
    flow_method: str

    def along(self, times: Float[Tensor, "*times"]) -> NoisedSpace:
        """The space for points at these times of their paths (see `Score.along`)."""
        return replace(self, score=self.score.along(times), model=self.model.along(times))

    def leave(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Points of this space to clean points, by the probability flow."""
        return flow.denoise(
            self.model,
            self.score.decode(z),
            self.level,
            steps=self.flow_steps,
            method=self.flow_method,
        )

    def levels(self, noise_levels: Sequence[float] | None) -> list[float] | None:
        """An annealing schedule of clean points in the units of z."""
        levels = checks.noise_schedule(noise_levels, self.level)
        return [self.score.unit * level for level in levels] or None

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with."""
        return {
            "space": self.kind,
            "sigma": self.level,
            "alpha_bar": self.score.alpha_bar,
            "ends": "reconstructed",
            "flow_steps": self.flow_steps,
            "flow_method": self.flow_method,
        }


@dataclass(frozen=True)
class SharedNoiseSpace(NoisedSpace):
    """All points with the same noise n: z = encode(x + level·n).

    Attributes:
        seed: Seed of the noise.
    """

    kind: ClassVar[str] = "shared_noise"

    seed: int

    def enter(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """z = encode(x + level·n)."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
        return self.score.encode(x + self.level * noise.to(x))

    def carry(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """√ᾱ scale·v."""
        return self.score.unit * v

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with."""
        return {**super().settings, "noise_seed": self.seed}


@dataclass(frozen=True)
class InvertedSpace(NoisedSpace):
    """DDIM inversion: z = encode(the probability flow from x to the level)."""

    kind: ClassVar[str] = "ddim"

    def enter(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """z = encode(the probability flow from x to the level)."""
        noised = flow.diffuse(
            self.model, x, self.level, steps=self.flow_steps, method=self.flow_method
        )
        return self.score.encode(noised)

    def carry(
        self, x: Float[Tensor, "n *event"], v: Float[Tensor, "n *event"]
    ) -> Float[Tensor, "n *event"]:
        """The inversion's derivative along v, a central difference: two inversions."""
        unit_norm = (x[0].numel() * self.score.alpha_bar) ** 0.5 / self.score.unit
        h = STEP * unit_norm / v.flatten(1).norm(dim=1).clamp_min(1e-12)
        ahead = self.enter(x + scale(h, v))
        behind = self.enter(x - scale(h, v))
        return scale(0.5 / h, ahead - behind)


def working_space(
    score: Score,
    kind: str,
    sigma: float | None,
    time: float | None = None,
    *,
    seed: int = 0,
    steps: int = 30,
    method: str = "ddim",
) -> Space:
    """A space by its name.

    Args:
        score: Of clean points.
        kind: "clean": points as they are, met at level sigma. "shared_noise": all with the same
            noise. "ddim": each inverted by the probability flow.
        sigma: Noise level in the units of x; None takes the score's own, in a noised space the one
            at `time`.
        time: Fraction of the model's time steps (see `flow.noise_at`).
        seed: Of the shared noise.
        steps: Noise levels of the probability flow.
        method: Of the probability flow, "ddim" or "heun".

    Raises:
        ValueError: An unknown name, or a noised space of a score that knows no noise levels.
    """
    if checks.choice("space", kind, SPACES) == "clean":
        return Space(score if sigma is None else score.at(sigma))
    if score.sigma is None:
        raise ValueError(
            f"space={kind!r} needs a score that knows noise levels "
            f"(FunctionScore(..., sigma=...)); {score.name} is the score of one fixed density: "
            "use space='clean'"
        )
    if sigma is None:
        sigma = score.sigma if time is None else flow.noise_at(score, time)
    level = checks.positive("sigma", sigma)
    noised = {
        "score": VariancePreservingScore(score.at(level)),
        "model": score,
        "level": level,
        "flow_steps": checks.count("flow_steps", steps, least=2),
        "flow_method": checks.choice("flow_method", method, flow.METHODS),
    }
    if kind == "shared_noise":
        return SharedNoiseSpace(**noised, seed=seed)
    return InvertedSpace(**noised)
