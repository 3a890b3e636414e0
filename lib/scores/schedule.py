"""The noise levels of a trained model and its preconditioning, read from a diffusers scheduler."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks

# The largest useful noise of y: schedules of zero terminal SNR end at infinity, where float32 loses
# the image.
CEILING = 200.0
PREDICTIONS = ("epsilon", "v_prediction", "sample")
EDM_PREDICTIONS = ("epsilon", "v_prediction")


class NoiseSchedule:
    """What a scheduler says of its model, in variance-exploding coordinates y = y_0 + sigma·noise.

    A discrete scheduler (DDPM, DDIM, …) noises z = √ᾱ_t y_0 + √(1−ᾱ_t) noise, so that y = z/√ᾱ_t
    has sigma_t = √((1−ᾱ_t)/ᾱ_t); between the steps log sigma is linear in t. An EDM scheduler is
    continuous and conditions on ¼ log sigma (Karras et al. 2022, table 1).

    Args:
        scheduler: a diffusers scheduler with `alphas_cumprod`, or with EDM's `precondition_noise`.

    Attributes:
        prediction: what the network predicts, "epsilon", "v_prediction" or "sample".
        lowest: lowest noise level.
        highest: highest noise level.
        edm: whether times are continuous, as EDM's are.
        log_sigmas: log sigma at each step of a discrete scheduler, (steps,), float64.

    Raises:
        TypeError: a scheduler of another kind.
        ValueError: a prediction of another kind.
    """

    def __init__(self, scheduler: Any) -> None:
        self.config = scheduler.config
        self.edm = hasattr(scheduler, "precondition_noise")
        self.prediction = self.config.get("prediction_type", "epsilon")
        known = EDM_PREDICTIONS if self.edm else PREDICTIONS
        checks.choice("prediction_type", self.prediction, known)
        if self.edm:
            self.lowest = float(self.config["sigma_min"])
            self.highest = float(self.config["sigma_max"])
            sigma = torch.tensor([0.1, 1.0, 10.0])
            if not torch.allclose(scheduler.precondition_noise(sigma), sigma.log() / 4):
                raise TypeError(
                    f"{type(scheduler).__name__} conditions its network on another function of the "
                    "noise level than ¼ log sigma (precondition_noise); use a DDPM, DDIM, Euler, "
                    "DPM or EDM scheduler of the same model"
                )
        elif hasattr(scheduler, "alphas_cumprod"):
            # With zero terminal SNR the last level is infinite.
            alpha_bar = scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
            self.log_sigmas = ((1 - alpha_bar) / alpha_bar).log() / 2
            self.lowest = math.exp(self.log_sigmas[0])
            self.highest = math.exp(self.log_sigmas[-1])
        else:
            raise TypeError(
                f"{type(scheduler).__name__} has neither alphas_cumprod nor EDM preconditioning; "
                "use a DDPM, DDIM, Euler, DPM or EDM scheduler of the same model"
            )

    @property
    def last_step(self) -> int:
        """The last time step of a discrete scheduler."""
        return len(self.log_sigmas) - 1

    def timestep(self, sigma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The (fractional) time that the network gets at noise level sigma."""
        if self.edm:
            return sigma.log() / 4
        levels = self.log_sigmas.to(sigma)
        right = torch.searchsorted(levels, sigma.log()).clamp(1, self.last_step)
        low = levels[right - 1]
        high = levels[right]
        return right - 1 + ((sigma.log() - low) / (high - low)).clamp(0, 1)

    def sigma(self, timestep: float) -> float:
        """The noise level at a (fractional) time; the inverse of `timestep`."""
        if self.edm:
            return math.exp(4 * timestep)
        if not 0 <= timestep <= self.last_step:
            raise ValueError(f"timestep must lie in [0, {self.last_step}], got {timestep}")
        left = min(int(timestep), self.last_step - 1)
        low = self.log_sigmas[left]
        high = self.log_sigmas[left + 1]
        return math.exp(torch.lerp(low, high, timestep - left))

    def coefficients(
        self, sigma: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
        """c_in, c_skip, c_out of D(y) = c_skip y + c_out·network(c_in y, t).

        As in Karras et al. 2022, eq. 7, for every kind of prediction.
        """
        if self.edm:
            data = self.config["sigma_data"]
            root = (sigma**2 + data**2).sqrt()
            c_out = sigma * data / root
            # diffusers' EDM schedulers predict −v by that name.
            if self.prediction == "v_prediction":
                c_out = -c_out
            return 1 / root, data**2 / root**2, c_out
        alpha_bar = 1 / (1 + sigma**2)
        c_in = alpha_bar.sqrt()
        if self.prediction == "epsilon":
            return c_in, torch.ones_like(sigma), -sigma
        if self.prediction == "v_prediction":
            return c_in, alpha_bar, -(1 - alpha_bar).sqrt()
        return c_in, torch.zeros_like(sigma), torch.ones_like(sigma)

    def weight(self, sigma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Weight 1/c_out² of ‖D(y) − y_0‖² in the loss this prediction is trained with."""
        c_out = self.coefficients(sigma)[2]
        return c_out**-2


def double_levels(sigma: float | Tensor) -> Tensor:
    """Noise levels in float64, on the CPU: other devices (MPS) may have no float64."""
    if isinstance(sigma, Tensor):
        return sigma.cpu().double()
    return torch.tensor(sigma, dtype=torch.float64)
