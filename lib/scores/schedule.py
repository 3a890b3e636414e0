"""The noise levels of a trained model and its preconditioning, read from a diffusers scheduler."""

import inspect
import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checks

# The largest useful noise of y: schedules of zero terminal SNR end at infinity, where float32 loses
# the image.
CEILING = 200.0
PREDICTIONS = {
    "discrete": ("epsilon", "v_prediction", "sample"),
    "edm": ("epsilon", "v_prediction"),
    "flow": ("flow_prediction",),
    "ve": ("score",),
}
# Times of a flow that are asked for: sigma is 0 at t = 0 and infinite at t = 1.
FLOW_TIMES = (0.001, 0.995)
# Schedulers of models that jump towards the data in a few steps: what their networks answer is no
# posterior mean.
DISTILLED = (
    "LCMScheduler",
    "TCDScheduler",
    "CMStochasticIterativeScheduler",
    "FlowMatchLCMScheduler",
    "FlowMapEulerDiscreteScheduler",
    "SCMScheduler",
    "PiflowScheduler",
    "HeliosDMDScheduler",
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# Settings of one kind of scheduler alone, which `from_config` leaves behind in one of another kind.
OF_FLOWS = {"shift", "base_shift", "max_shift", "base_image_seq_len", "shift_terminal"}
OF_STEPS = {"beta_start", "beta_end", "beta_schedule", "trained_betas"}
MEND = (
    "give the scheduler that the model came with: Scheduler.from_pretrained(model, "
    "subfolder='scheduler'), a DDPM, DDIM, DPM, Euler, EDM, FlowMatch or ScoreSdeVe scheduler"
)


class NoiseSchedule:
    """What a scheduler says of its model, in variance-exploding coordinates y = y_0 + sigma·noise.

    A network answers D(y) = E[y_0 | y] = c_skip y + c_out·network(c_in y, t), as in Karras et al.
    2022, eq. 7. How, depends on the kind of the schedule:

        kind       what was noised                     sigma             network's answer
        discrete   z = √ᾱ_t y_0 + √(1−ᾱ_t) noise       √((1−ᾱ_t)/ᾱ_t)    noise, v or y_0
        edm        y itself, t = ¼ log sigma           any               Karras et al., table 1
        flow       z = (1−t) y_0 + t·noise             t/(1−t)           velocity noise − y_0
        ve         y itself                            any               score (D(y) − y)/sigma²

    Between the steps of a discrete schedule log sigma is linear in t. A flow's shift and every grid
    of sampling steps (Karras, exponential, beta) choose levels to sample at; a network is told the
    level it is at, whatever they are.

    Args:
        scheduler: the diffusers scheduler that the model was trained with.

    Attributes:
        kind: one of the above.
        prediction: what the network predicts, one of `PREDICTIONS` of its kind.
        lowest: lowest noise level.
        highest: highest noise level.
        log_sigmas: log sigma at each step of a discrete schedule, (steps,), float64.

    Raises:
        TypeError: a scheduler of a kind that has no score, or not of the model's own kind.
        ValueError: a prediction of another kind.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> schedule = NoiseSchedule(FlowMatchEulerDiscreteScheduler())
        >>> schedule.kind, schedule.sigma(750.0)
        ('flow', 3.0)
    """

    def __init__(self, scheduler: Any) -> None:
        self.config = scheduler.config
        self.kind = schedule_kind(scheduler)
        usual = PREDICTIONS[self.kind][0]
        self.prediction = self.config.get("prediction_type", usual)
        checks.choice("prediction_type", self.prediction, PREDICTIONS[self.kind])
        if self.kind == "discrete":
            # With zero terminal SNR the last level is infinite.
            alpha_bar = scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
            self.log_sigmas = ((1 - alpha_bar) / alpha_bar).log() / 2
            self.lowest = math.exp(self.log_sigmas[0])
            self.highest = math.exp(self.log_sigmas[-1])
        elif self.kind == "flow":
            self.lowest, self.highest = (t / (1 - t) for t in FLOW_TIMES)
        else:
            self.lowest = float(self.config["sigma_min"])
            self.highest = float(self.config["sigma_max"])

    @property
    def last_step(self) -> int:
        """The last time step of a discrete schedule; what a flow's network is told at t = 1."""
        if self.kind == "flow":
            return int(self.config.get("num_train_timesteps", 1000))
        return len(self.log_sigmas) - 1

    def timestep(self, sigma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The (fractional) time that the network gets at noise level sigma."""
        if self.kind == "edm":
            return sigma.log() / 4
        if self.kind == "flow":
            return self.last_step * sigma / (1 + sigma)
        if self.kind == "ve":
            return sigma
        levels = self.log_sigmas.to(sigma)
        right = torch.searchsorted(levels, sigma.log()).clamp(1, self.last_step)
        low = levels[right - 1]
        high = levels[right]
        return right - 1 + ((sigma.log() - low) / (high - low)).clamp(0, 1)

    def sigma(self, timestep: float | int) -> float:
        """The noise level at a (fractional) time; the inverse of `timestep`."""
        if self.kind == "edm":
            return math.exp(4 * timestep)
        if self.kind == "ve":
            return timestep
        if not 0 <= timestep <= self.last_step:
            raise ValueError(f"timestep must lie in [0, {self.last_step}], got {timestep}")
        if self.kind == "flow":
            return timestep / (self.last_step - timestep) if timestep < self.last_step else math.inf
        left = min(int(timestep), self.last_step - 1)
        low = self.log_sigmas[left]
        high = self.log_sigmas[left + 1]
        return math.exp(torch.lerp(low, high, timestep - left))

    def coefficients(
        self, sigma: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
        """c_in, c_skip, c_out of D(y) = c_skip y + c_out·network(c_in y, t)."""
        one = torch.ones_like(sigma)
        if self.kind == "edm":
            data = self.config["sigma_data"]
            root = (sigma**2 + data**2).sqrt()
            c_out = sigma * data / root
            # diffusers' EDM schedulers predict −v by that name.
            if self.prediction == "v_prediction":
                c_out = -c_out
            return 1 / root, data**2 / root**2, c_out
        if self.kind == "flow":
            # z = (1−t) y and y_0 = z − t·velocity, with 1 − t = 1/(1+sigma).
            return 1 / (1 + sigma), 1 / (1 + sigma), -sigma / (1 + sigma)
        if self.kind == "ve":
            return one, one, sigma**2
        alpha_bar = 1 / (1 + sigma**2)
        c_in = alpha_bar.sqrt()
        if self.prediction == "epsilon":
            return c_in, one, -sigma
        if self.prediction == "v_prediction":
            return c_in, alpha_bar, -(1 - alpha_bar).sqrt()
        return c_in, torch.zeros_like(sigma), one

    def weight(self, sigma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Weight 1/c_out² of ‖D(y) − y_0‖² in the loss this prediction is trained with."""
        c_out = self.coefficients(sigma)[2]
        return c_out**-2

    def in_steps(self) -> "NoiseSchedule":
        """The discrete schedule that the papers' time steps mean for this model.

        A step t stands for a noise level, the same signal-to-noise for every model. A discrete
        schedule counts its own steps. A flow takes Stable Diffusion's levels, EDM and VE those of
        the linear DDPM schedule (Ho et al. 2020).
        """
        if self.kind == "discrete":
            return self
        return stable_diffusion_steps() if self.kind == "flow" else ddpm_steps()


def schedule_kind(scheduler: Any) -> str:
    """Which kind of `NoiseSchedule` a scheduler has.

    What it predicts is asked first: the schedulers of flows for several steps have
    `alphas_cumprod`, too, which mean nothing there.
    """
    name = type(scheduler).__name__
    config = scheduler.config
    if name in DISTILLED:
        raise TypeError(
            f"{name} belongs to a distilled or consistency model, which answers with a jump to the "
            "data instead of a posterior mean, so that it has no score; take the model it was "
            "distilled from, with that model's own scheduler"
        )
    own_settings = inspect.signature(type(scheduler).__init__).parameters
    foreign = set(config) - set(own_settings)
    if name in FLOWS or config.get("prediction_type") == "flow_prediction":
        _check_flow(name, config, foreign)
        return "flow"
    if config.get("use_flow_sigmas") or foreign & OF_FLOWS:
        raise TypeError(
            f"this {name} predicts {config.get('prediction_type')!r}, but its settings are those "
            f"of a flow-matching model, whose network answers with a velocity; {MEND}"
        )
    if name == "ScoreSdeVeScheduler":
        return "ve"
    if hasattr(scheduler, "precondition_noise"):
        sigma = torch.tensor([0.1, 1.0, 10.0])
        if not torch.allclose(scheduler.precondition_noise(sigma), sigma.log() / 4):
            raise TypeError(
                f"{name} conditions its network on another function of the noise level than "
                f"¼ log sigma (precondition_noise); {MEND}"
            )
        return "edm"
    if config.get("timestep_type") == "continuous":
        raise TypeError(
            f"this {name} tells its network ¼ log sigma in the place of time steps (timestep_type "
            "'continuous'), as video models have it; take an image model, or an EDM scheduler if "
            "the network was trained with EDM's preconditioning"
        )
    if hasattr(scheduler, "alphas_cumprod"):
        return "discrete"
    raise TypeError(f"{name} does not say what its network predicts at which noise level; {MEND}")


def _check_flow(name: str, config: Any, foreign: set[str]) -> None:
    """Raise TypeError for the scheduler of a flow that has another time, or was none before."""
    if config.get("invert_sigmas"):
        raise TypeError(
            f"this {name} counts its time from noise to data (invert_sigmas), which no model here "
            "does; take another model"
        )
    if name in FLOWS and foreign & OF_STEPS and config.get("prediction_type") != "flow_prediction":
        raise TypeError(
            f"this {name} was made from the settings of a scheduler with betas: its network "
            f"predicts noise, v or data, and no velocity; {MEND}"
        )


@cache
def ddpm_steps() -> NoiseSchedule:
    """The linear schedule of DDPM: beta from 1e-4 to 0.02 in 1000 steps."""
    return _schedule_of(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@cache
def stable_diffusion_steps() -> NoiseSchedule:
    """The schedule of Stable Diffusion: √beta from √0.00085 to √0.012 in 1000 steps."""
    return _schedule_of(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


def _schedule_of(betas: Float[Tensor, "steps"]) -> NoiseSchedule:
    return NoiseSchedule(SimpleNamespace(config={}, alphas_cumprod=(1 - betas).cumprod(0)))


def double_levels(sigma: float | Tensor) -> Tensor:
    """Noise levels in float64, on the CPU: other devices (MPS) may have no float64."""
    if isinstance(sigma, Tensor):
        return sigma.cpu().double()
    return torch.tensor(sigma, dtype=torch.float64)
