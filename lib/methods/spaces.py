"""Where a method works: on the points as they are, or on points carried into the noised space of a diffusion model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .. import checks, flow
from ..metrics.base import scale
from ..scores.base import Score
from ..scores.variance_preserving import VariancePreservingScore

SPACES = ("clean", "shared_noise", "ddim")


class Space:
    """The clean space: points stay as they are and meet the density at noise level sigma (the score's own if None).

    score: the density's score in the coordinates of this space. learned: whether it comes from a trained model, one that knows
    its noise range.
    """

    kind = "clean"

    def __init__(self, score: Score, sigma: float | None = None) -> None:
        self.learned = score.noise_range is not None
        self.score = score if sigma is None else score.at(sigma)

    def along(self, times: Tensor) -> Space:
        """The space for points at these times of their paths (see `Score.along`)."""
        other = copy.copy(self)
        for name in {"score", "model"} & set(vars(self)):
            setattr(other, name, getattr(self, name).along(times))
        return other

    def enter(self, x: Tensor) -> Tensor:
        """Clean points (n, *event) -> points of this space (n, *event)."""
        return x

    def carry(self, x: Tensor, v: Tensor) -> Tensor:
        """Velocities v at clean points x, (n, *event) each -> velocities there in this space."""
        return v

    def leave(self, z: Tensor) -> Tensor:
        """Points of this space (n, *event) -> clean points (n, *event)."""
        return z

    @property
    def settings(self) -> dict:
        """What it was made with. ends: whether the first and last frame are the points given, or what `leave` makes of them."""
        sigma = self.score.sigma
        return {
            "space": self.kind,
            "sigma": sigma if isinstance(sigma, float) else None,
            "ends": "given",
        }


class NoisedSpace(Space):
    """Points at noise level sigma (in the units of x), in the model's variance-preserving coordinates z.

    kind: "shared_noise", z = encode(x + sigma·n) with one n for all points, drawn from `seed`; or "ddim", z = encode(the
    probability flow from x to sigma), DDIM inversion. Back by the probability flow: what leaves is a reconstruction.
    steps, method: of the flow (see lib.flow). Raises ValueError for a score without noise levels.
    """

    def __init__(
        self,
        score: Score,
        kind: str,
        sigma: float,
        *,
        seed: int = 0,
        steps: int = 30,
        method: str = "ddim",
    ) -> None:
        self.kind, self.seed = checks.choice("space", kind, SPACES[1:]), seed
        self.model, self.level = score, checks.positive("sigma", sigma)
        self.flow = {
            "steps": checks.count("flow_steps", steps, least=2),
            "method": checks.choice("flow_method", method, flow.METHODS),
        }
        self.learned, self.score = (
            score.noise_range is not None,
            VariancePreservingScore(score.at(self.level)),
        )

    def enter(self, x: Tensor) -> Tensor:
        if self.kind == "ddim":
            return self.score.encode(flow.diffuse(self.model, x, self.level, **self.flow))
        noise = torch.randn(
            x.shape[1:], generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64
        )
        return self.score.encode(x + self.level * noise.to(x))

    def carry(self, x: Tensor, v: Tensor) -> Tensor:
        """√ᾱ scale·v under shared noise; for "ddim" the inversion's derivative along v, a central difference, two inversions."""
        if self.kind == "shared_noise":
            return self.score.unit * v
        spread = (
            x[0].numel() * self.score.alpha_bar
        ) ** 0.5 / self.score.unit  # norm of data of unit variance
        reach = 0.01 * spread / v.flatten(1).norm(dim=1).clamp_min(1e-12)
        ahead, behind = (self.enter(x + scale(h, v)) for h in (reach, -reach))
        return scale(0.5 / reach, ahead - behind)

    def leave(self, z: Tensor) -> Tensor:
        return flow.denoise(self.model, self.score.decode(z), self.level, **self.flow)

    @property
    def settings(self) -> dict:
        seed = {"noise_seed": self.seed} if self.kind == "shared_noise" else {}
        return {
            "space": self.kind,
            "sigma": self.level,
            "alpha_bar": self.score.alpha_bar,
            **seed,
            "ends": "reconstructed",
            **{f"flow_{k}": v for k, v in self.flow.items()},
        }


def working_space(
    score: Score, kind: str, sigma: float | None, time: float | None = None, **settings
) -> Space:
    """The space by its name. sigma: the noise level; without one a noised space takes the model's at `time` (see
    `flow.noise_at`), and without that the score's own. settings: of `NoisedSpace`."""
    if checks.choice("space", kind, SPACES) == "clean":
        return Space(score, sigma)
    if score.sigma is None:
        raise ValueError(
            f"space={kind!r} needs a score that knows noise levels (FunctionScore(..., sigma=...)); "
            f"{score.name} is the score of one fixed density: use space='clean'"
        )
    if sigma is None:
        sigma = score.sigma if time is None else flow.noise_at(score, time)
    return NoisedSpace(score, kind, sigma, **settings)
