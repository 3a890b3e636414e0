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
from .schedule import CEILING, NoiseSchedule, double_levels

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
        self.count(x)
        return self.posterior_mean(x)

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        """See `Score.derivative`; torch's fused attention knows no forward mode, so the plain one is asked for."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().derivative(x, v)

    def posterior_mean(self, x: Tensor) -> Tensor:
        levels = double_levels(self.sigma).expand(len(x)) * self.scale
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

    def evaluate(self, x: Tensor) -> Tensor:
        return (self.posterior_mean(x) - x) / self.sigma_column(x) ** 2

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
        values = double_levels(sigma)
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


def _event_shape(model: nn.Module) -> tuple[int, ...] | None:
    config = getattr(model, "config", None)
    size, channels = getattr(config, "sample_size", None), getattr(config, "in_channels", None)
    if size is None or channels is None:
        return None
    return (channels, *(size if isinstance(size, (tuple, list)) else (size, size)))
