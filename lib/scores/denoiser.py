"""The score of a trained diffusion model: any diffusers network with any scheduler, at any noise level."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import checks
from .base import Score

PREDICTIONS = ("epsilon", "v_prediction", "sample")
CEILING = 200.0  # largest useful noise of y: schedules of zero final signal end at infinity, where float32 loses the image
TIMES = {  # what EDM networks are told at noise level sigma, and its inverse
    "log": (lambda sigma: sigma.log() / 4, lambda time: math.exp(4 * time)),
    "arctan": (lambda sigma: sigma.atan() / math.pi * 2, lambda time: math.tan(math.pi * time / 2)),
}
UNFIT = {  # in a network's config
    (
        "time_embedding_type",
        "learned",
    ): "knows whole time steps only, but a score is asked at noise levels between them",
    (
        "time_embedding_type",
        "fourier",
    ): "is made for ScoreSdeVeScheduler, and its kind is not supported",  # log of its time
    ("class_embed_type", "identity"): "wants its class as an embedding, and label= is a number",
}


class NoiseSchedule:
    """What a diffusers scheduler says of its model, in variance-exploding coordinates y = y_0 + sigma·noise.

    A discrete scheduler (DDPM, DDIM, …) noises z = √ᾱ_t y_0 + √(1−ᾱ_t) noise, so that y = z/√ᾱ_t has
    sigma_t = √((1−ᾱ_t)/ᾱ_t); between the steps log sigma is linear in t. An EDM scheduler is continuous and conditions on
    ¼ log sigma (Karras et al. 2022, table 1), or on (2/π) arctan sigma (diffusers' CosineDPMSolverMultistepScheduler).

    scheduler: any diffusers scheduler with `alphas_cumprod`, or with EDM's `precondition_noise` (another function of sigma
    than these two raises TypeError). Attributes: prediction ("epsilon", "v_prediction" or "sample"), lowest and highest sigma.
    """

    def __init__(self, scheduler: Any) -> None:
        self.config, self.edm = scheduler.config, hasattr(scheduler, "precondition_noise")
        self.prediction = self.config.get("prediction_type", "epsilon")
        checks.choice(
            "prediction_type", self.prediction, PREDICTIONS[:2] if self.edm else PREDICTIONS
        )
        if self.edm:
            self.lowest, self.highest = (
                float(self.config["sigma_min"]),
                float(self.config["sigma_max"]),
            )
            self.times = _times(scheduler)
        elif hasattr(scheduler, "alphas_cumprod"):
            kept = scheduler.alphas_cumprod.double().clamp(
                1e-12, 1 - 1e-12
            )  # zero terminal SNR: the last level is infinite
            self.log_sigmas = ((1 - kept) / kept).log() / 2
            self.lowest, self.highest = (math.exp(self.log_sigmas[i]) for i in (0, -1))
        else:
            raise TypeError(
                f"{type(scheduler).__name__} has neither alphas_cumprod nor EDM preconditioning; "
                "use a DDPM, DDIM, Euler, DPM or EDM scheduler of the same model"
            )

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) time (n,) that the network is told at noise level sigma (n,); float64 between discrete steps."""
        if self.edm:
            return TIMES[self.times][0](sigma)
        levels = self.log_sigmas.to(sigma)
        right = torch.searchsorted(levels, sigma.log()).clamp(1, len(levels) - 1)
        low, high = levels[right - 1], levels[right]
        return right - 1 + ((sigma.log() - low) / (high - low)).clamp(0, 1)

    def sigma(self, timestep: float) -> float:
        """The noise level at a (fractional) time; the inverse of `timestep`."""
        if self.edm:
            return TIMES[self.times][1](timestep)
        if not 0 <= timestep <= len(self.log_sigmas) - 1:
            raise ValueError(
                f"timestep must lie in [0, {len(self.log_sigmas) - 1}], got {timestep}"
            )
        k = min(int(timestep), len(self.log_sigmas) - 2)
        return math.exp(torch.lerp(self.log_sigmas[k], self.log_sigmas[k + 1], timestep - k))

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_in, c_skip, c_out of D(y) = c_skip y + c_out·network(c_in y, t), each like sigma (Karras et al. 2022, eq. 7)."""
        if self.edm:
            data = self.config["sigma_data"]
            root = (sigma**2 + data**2).sqrt()
            sign = (
                -1 if self.prediction == "v_prediction" else 1
            )  # diffusers' EDM schedulers predict −v by that name
            return 1 / root, data**2 / root**2, sign * sigma * data / root
        kept = 1 / (1 + sigma**2)  # ᾱ
        return kept.sqrt(), *{
            "epsilon": (torch.ones_like(sigma), -sigma),
            "v_prediction": (kept, -(1 - kept).sqrt()),
            "sample": (torch.zeros_like(sigma), torch.ones_like(sigma)),
        }[self.prediction]

    def weight(self, sigma: Tensor) -> Tensor:
        """The weight of ‖D(y) − y_0‖² in the loss this prediction is trained with: the square of 1/c_out."""
        return self.coefficients(sigma)[2] ** -2


class DenoiserScore(Score):
    """s(x) = (D(x) − x)/sigma², D the posterior mean E[x_0 | x] that a diffusion model has learned (Tweedie).

    Points and sigma are in the user's units: y = scale·x + shift are the model's (images in [0, 1] against [−1, 1] by
    default). The network runs in its own dtype and on its own device in micro-batches, without a graph unless the points
    ask for their gradient; its answer comes back in the dtype and on the device of the points.

    model: a UNet2DModel, or a module with the same call (sample, timestep, class_labels=) and `.sample` in its answer.
    scheduler: the diffusers scheduler it was trained with. event_shape: (channels, h, w), read from the model if it says.
    sigma: noise level in the units of x; the geometric middle of the schedule (up to 200 in y) if None. label: class for a
    conditional network, a number ≥ 0 for one with class_embed_type "timestep". None takes the class that stands for "no
    class", which a network must declare: `model.register_to_config(_no_class=10)`, kept in its config.json; one that does
    not needs a label. origin: what names the model in result files (`lib.scores.load` sets it).
    ValueError: a network that cannot be asked so, a label or sigma that it does not know.
    """

    name = "denoiser"
    origin: dict[str, Any] | None = None

    def __init__(
        self,
        model: nn.Module,
        scheduler: Any,
        *,
        sigma: float | Tensor | None = None,
        scale: float = 2.0,
        shift: float = -1.0,
        event_shape: tuple[int, ...] | None = None,
        label: int | None = None,
        micro_batch: int = 64,
    ) -> None:
        super().__init__()
        check_network(getattr(model, "config", None))
        self.model, self.schedule, self.scheduler = model, NoiseSchedule(scheduler), scheduler
        self.scale, self.shift = checks.positive("scale", scale), float(shift)
        self.micro_batch = checks.count("micro_batch", micro_batch)
        self.event_shape = tuple(event_shape) if event_shape is not None else _event_shape(model)
        self.label, self.training = self._label(label), False
        lowest, highest = self.noise_range
        middle = math.sqrt(lowest * min(highest, CEILING / self.scale))
        self.sigma = self._level_in_range(middle if sigma is None else sigma)

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest noise level the model was trained for, in the units of x."""
        return self.schedule.lowest / self.scale, self.schedule.highest / self.scale

    def at(self, sigma: float | Tensor) -> DenoiserScore:
        """The score at another noise level; raises ValueError outside `noise_range`."""
        other = super().at(sigma)
        other._level_in_range(sigma)
        return other

    def conditioned(self, label: int | None) -> DenoiserScore:
        """The score of one class of a class-conditional model (None: of its "no class", all of them); same counter."""
        other = copy.copy(self)
        other.label = self._label(label)
        return other

    def denoise(self, x: Tensor) -> Tensor:
        """Posterior mean E[x_0 | x] (n, *event) -> (n, *event); counts as one evaluation a point like the score."""
        self._count(x)
        return self._denoise(x)

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        """See `Score.derivative`; torch's fused attention knows no forward mode, so the plain one is asked for."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().derivative(x, v)

    def _denoise(self, x: Tensor) -> Tensor:
        levels = _double(self.sigma).expand(len(x)) * self.scale
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.training or x.requires_grad)):
            parts = [
                self._network(*part)
                for part in zip(
                    x.split(self.micro_batch), levels.split(self.micro_batch), strict=True
                )
            ]
        return torch.cat(parts)

    def _network(self, x: Tensor, sigma: Tensor) -> Tensor:
        weights = next(self.model.parameters(), x)
        column = (-1, *[1] * (x.ndim - 1))
        c_in, c_skip, c_out = (c.to(x).reshape(column) for c in self.schedule.coefficients(sigma))
        y, time = self.scale * x + self.shift, self.schedule.timestep(sigma)
        time = time.to(
            weights.device, torch.promote_types(weights.dtype, torch.float32)
        )  # half precision has no 999.3
        label = (
            None
            if self.label is None
            else torch.as_tensor(self.label, device=weights.device).expand(len(x))
        )
        classes = {} if label is None else {"class_labels": label}
        out = self.model((c_in * y).to(weights), time, **classes).sample[
            :, : x.shape[1]
        ]  # a learned variance comes second
        return (c_skip * y + c_out * out.to(x) - self.shift) / self.scale

    def _score(self, x: Tensor) -> Tensor:
        return (self._denoise(x) - x) / self._level(x) ** 2

    def _label(self, label: float | None) -> float | None:
        config = getattr(self.model, "config", None)
        classes, no_class = (
            getattr(config, "num_class_embeds", None),
            getattr(config, "_no_class", None),
        )
        continuous = getattr(config, "class_embed_type", None) == "timestep"
        if classes is None and not continuous:
            if label is not None:
                raise ValueError("this model was trained without classes; leave label=None")
            return None
        known, label = (
            "a number ≥ 0" if continuous else f"0..{classes - 1}",
            no_class if label is None else label,
        )
        if label is None:
            raise ValueError(
                f'this model is class-conditional: give label= ({known}), or say which of them means "no class": '
                'model.register_to_config(_no_class=…), "_no_class" in its config.json'
            )
        if continuous:
            if next(self.model.parameters()).dtype != torch.float32:
                raise ValueError(
                    "diffusers embeds a label of class_embed_type 'timestep' in float32 alone: use model.float()"
                )
            return checks.positive("label", label, zero=True)
        if label not in range(classes):
            raise ValueError(f"label must lie in {known}, got {label!r}")
        return int(label)

    def _level_in_range(self, sigma: float | Tensor) -> float | Tensor:
        sigma, (lowest, highest) = checks.noise_level(sigma), self.noise_range
        values = _double(sigma)
        if values.min() < lowest * (1 - 1e-6) or values.max() > highest * (1 + 1e-6):
            raise ValueError(
                f"sigma must lie in [{lowest:.4g}, {highest:.4g}], the noise this model was trained for "
                f"(in the units of x), got {values.min():.4g}"
                + f" to {values.max():.4g}"
                * (values.numel() > 1)
            )
        return sigma


def check_network(config: Any) -> None:
    """Raise ValueError for a network that, by its config, cannot be asked as a denoiser of its own input at any noise level."""
    channels, out = (getattr(config, name, None) for name in ("in_channels", "out_channels"))
    if None not in (channels, out) and out not in (channels, 2 * channels):
        raise ValueError(
            f"this network makes {out} channels of {channels}; a denoiser keeps their number, or doubles it for a "
            "learned variance"
        )
    for (name, value), reason in UNFIT.items():
        if getattr(config, name, None) == value:
            raise ValueError(f"this network {reason} ({name} {value!r}); take another one")


def _times(scheduler: Any) -> str:
    """The name in TIMES of the scheduler's own function of sigma."""
    sigma = torch.tensor([0.1, 1.0, 10.0])
    found = [
        name
        for name, (time, _) in TIMES.items()
        if torch.allclose(time(sigma), scheduler.precondition_noise(sigma))
    ]
    if not found:
        raise TypeError(
            f"{type(scheduler).__name__} tells its network the noise level in a way unknown here "
            "(precondition_noise); use a DDPM, DDIM, Euler, DPM or EDM scheduler of the same model"
        )
    return found[0]


def _double(sigma: float | Tensor) -> Tensor:
    """Noise levels in float64, on the CPU: other devices (MPS) may have no float64."""
    return (
        sigma.cpu().double()
        if isinstance(sigma, Tensor)
        else torch.tensor(sigma, dtype=torch.float64)
    )


def _event_shape(model: nn.Module) -> tuple[int, ...] | None:
    config = getattr(model, "config", None)
    size, channels = getattr(config, "sample_size", None), getattr(config, "in_channels", None)
    if size is None or channels is None:
        return None
    return (channels, *(size if isinstance(size, (tuple, list)) else (size, size)))
