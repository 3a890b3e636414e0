"""The score of a trained diffusion model: a denoising network with the scheduler it belongs to."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import checks
from .base import Score
from .guarded import is_offloaded
from .schedule import CEILING, NoiseSchedule, double_levels


class DenoiserScore(Score):
    """s(x) = (D(x) − x)/sigma², D = E[x_0 | x] the posterior mean that a network has learned.

    This is Tweedie's formula. Points and sigma are in the user's units: y = scale·x + shift are the
    model's. By default images lie in [0, 1], the model's in [−1, 1] (in [0, 1] with a
    ScoreSdeVeScheduler), and signals are taken as they are. The network runs in its own dtype and
    on its own device, without a graph unless the points ask for their gradient; its answer comes
    back as the points are.

    Args:
        model: a UNet2DModel or UNet1DModel, or a module with the same call (sample, timestep,
            class_labels=) and `.sample` in its answer.
        scheduler: the diffusers scheduler it was trained with.
        sigma: noise level in the units of x; by default the geometric middle of the schedule.
        scale: of y = scale·x + shift.
        shift: of y = scale·x + shift.
        event_shape: (channels, height, width), or (channels, length) of a signal, read from the
            model's configuration by default.
        label: class of a class-conditional network. By default the one that stands for "no class",
            which the network must declare: `model.register_to_config(_no_class=10)`, kept in its
            config.json.
        micro_batch: points in one call of the network.

    Raises:
        ValueError: a network without a score, a label or a sigma that it does not know.
        TypeError: a scheduler of a kind that has no score here.
    """

    name = "denoiser"

    def __init__(
        self,
        model: nn.Module,
        scheduler: Any,
        *,
        sigma: float | Tensor | None = None,
        scale: float | None = None,
        shift: float | None = None,
        event_shape: Sequence[int] | None = None,
        label: int | None = None,
        micro_batch: int = 64,
    ) -> None:
        super().__init__()
        self.model = model
        self.scheduler = scheduler
        self.schedule = NoiseSchedule(scheduler)
        check_network(_config(model), self.schedule)
        self.event_shape = _event_shape(model) if event_shape is None else tuple(event_shape)
        usual_scale, usual_shift = _usual_units(self.event_shape, self.schedule)
        self.scale = checks.positive("scale", usual_scale if scale is None else scale)
        self.shift = float(usual_shift if shift is None else shift)
        self.micro_batch = checks.count("micro_batch", micro_batch)
        self.label = self._known_label(label)
        # A training keeps the graph for the weights of its network.
        self.training = False
        if sigma is None:
            lowest, highest = self.noise_range
            sigma = math.sqrt(lowest * min(highest, CEILING / self.scale))
        self.sigma = self._level_in_range(sigma)

    @property
    def noise_range(self) -> tuple[float, float]:
        return self.schedule.lowest / self.scale, self.schedule.highest / self.scale

    def at(self, sigma: float | Tensor) -> "DenoiserScore":
        """The score at another noise level; ValueError outside `noise_range`."""
        return super().at(self._level_in_range(sigma))

    def conditioned(self, label: int | None) -> "DenoiserScore":
        """The score of one class of a class-conditional model, on the same counter.

        Args:
            label: the class; None for the one that stands for "no class".
        """
        other = copy.copy(self)
        other.label = self._known_label(label)
        return other

    def evaluate(self, x: Tensor) -> Tensor:
        return (self.posterior_mean(x) - x) / self.sigma_column(x) ** 2

    def denoise(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Posterior mean E[x_0 | x], counted as one evaluation a point like the score."""
        self.count(x)
        return self.posterior_mean(x)

    def posterior_mean(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """E[x_0 | x] at points that are already checked and counted."""
        sigma = self.scale * double_levels(self.sigma).expand(len(x))
        return self.in_micro_batches(self.denoise_part, x, sigma)

    def derivative(self, x: Tensor, v: Tensor) -> Tensor:
        # torch's fused attention knows no forward mode.
        with sdpa_kernel(SDPBackend.MATH):
            if not is_offloaded(self.model):
                return super().derivative(x, v)
            # Weights that come to their device inside torch.func.jvp are of no use outside.
            self.counter.derivatives += len(x)
            with forward_ad.dual_level():
                moving = forward_ad.make_dual(x.contiguous(), v.contiguous())
                return forward_ad.unpack_dual(self.evaluate(moving)).tangent

    def in_micro_batches(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """function(*inputs) a micro-batch at a time, with a graph only where it is needed."""
        graph = self.training or any(x.requires_grad for x in inputs)
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            parts = zip(*(x.split(self.micro_batch) for x in inputs), strict=True)
            return torch.cat([function(*part) for part in parts])

    def denoise_part(self, x: Tensor, sigma: Tensor, *condition: Tensor) -> Tensor:
        """D = c_skip y + c_out·network(c_in y), in the user's units.

        Args:
            x: points of one micro-batch, (n, *event).
            sigma: their noise levels in the units of y, (n,), float64.
            condition: what else the network gets, a row a point.
        """
        column = (-1, *[1] * (x.ndim - 1))
        c_in, c_skip, c_out = (c.to(x).reshape(column) for c in self.schedule.coefficients(sigma))
        y = self.scale * x + self.shift
        answer = self.call_network(c_in * y, self.schedule.timestep(sigma), *condition)
        return (c_skip * y + c_out * answer.to(x) - self.shift) / self.scale

    def call_network(self, z: Tensor, time: Tensor) -> Tensor:
        """The network's prediction at its inputs z (n, *event) and their times (n,)."""
        weight = next(self.model.parameters(), z)
        # With offloading the weights lie elsewhere until they are needed.
        device = z.device if weight is z else get_module_execution_device(self.model)
        # Half precision has no 999.3.
        time = time.to(device, torch.promote_types(weight.dtype, torch.float32))
        condition = {}
        if self.label is not None:
            label = torch.as_tensor(self.label, device=device)
            condition["class_labels"] = label.expand(len(z))
        prediction = self.model(z.to(device, weight.dtype), time, **condition).sample
        # A learned variance comes in the channels behind.
        return prediction[:, : z.shape[1]]

    def _known_label(self, label: int | None) -> int | None:
        config = _config(self.model)
        classes = config.get("num_class_embeds")
        no_class = config.get("_no_class")
        if classes is None and config.get("norm_type") == "ada_norm_zero":
            # A DiT learns one class more than it names, for "no class".
            no_class = config["num_embeds_ada_norm"]
            classes = no_class + 1
        if classes is None:
            if label is not None:
                raise ValueError("this model was trained without classes; leave label=None")
            return None
        if label is None:
            label = no_class
        if label is None:
            raise ValueError(
                f"this model is class-conditional: give label= (0..{classes - 1}), or say which of "
                'them means "no class": model.register_to_config(_no_class=…), "_no_class" in its '
                "config.json"
            )
        if label not in range(classes):
            raise ValueError(f"label must lie in 0..{classes - 1}, got {label!r}")
        return int(label)

    def _level_in_range(self, sigma: float | Tensor) -> float | Tensor:
        sigma = checks.noise_level(sigma)
        lowest, highest = self.noise_range
        values = double_levels(sigma)
        outside = (values < lowest * (1 - 1e-6)) | (values > highest * (1 + 1e-6))
        if bool(outside.any()):
            raise ValueError(
                f"sigma must lie in [{lowest:.4g}, {highest:.4g}], the noise this model was "
                f"trained for (in the units of x), got {values[outside][0]:.4g}"
            )
        return sigma


def check_network(config: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """Raise ValueError for a network that is no denoiser of its input at any noise level.

    Args:
        config: its configuration, as in config.json.
        schedule: of its scheduler.
    """
    channels = config.get("in_channels")
    # A transformer that keeps their number says so by null.
    out = config.get("out_channels") or channels
    if channels is not None and out not in (channels, 2 * channels):
        raise ValueError(
            f"this network makes {out} channels of {channels}; a denoiser keeps their number, or "
            "doubles it for a learned variance"
        )
    if config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            "this network is a consistency model (time_cond_proj_dim): it answers with a jump to "
            "the data instead of a posterior mean, so that it has no score; take the model it was "
            "distilled from"
        )
    time = config.get("time_embedding_type")
    if time == "learned":
        raise ValueError(
            "this network knows whole time steps only (time_embedding_type 'learned'), but a score "
            "is wanted at noise levels between them; take another one"
        )
    if time == "fourier" and _is_of_signals(config) and schedule.kind in ("discrete", "flow"):
        raise ValueError(
            "this network knows whole time steps only: its features of the time "
            "(time_embedding_type 'fourier') turn round many times from one step to the next, but "
            "a score is wanted at noise levels between them; take one with 'positional'"
        )
    if time == "fourier" and not _is_of_signals(config) and schedule.kind != "ve":
        raise ValueError(
            "this network is told sigma and divides its answer by it (time_embedding_type "
            "'fourier'), as ScoreSdeVeScheduler has it; give that scheduler, not one of kind "
            f"{schedule.kind!r}"
        )
    embedding = config.get("class_embed_type")
    if embedding is not None:
        raise ValueError(
            f"this network wants more than the number of a class (class_embed_type {embedding!r}); "
            "take another one"
        )


def _config(model: nn.Module) -> Mapping[str, Any]:
    """The configuration of a network: a mapping in diffusers, nothing in a module of one's own."""
    config = getattr(model, "config", None)
    return config if isinstance(config, Mapping) else {}


def _is_of_signals(config: Mapping[str, Any]) -> bool:
    """Whether it is a UNet1DModel's: no other network has this setting."""
    return "extra_in_channels" in config


def _event_shape(model: nn.Module) -> tuple[int, ...] | None:
    config = _config(model)
    size = config.get("sample_size")
    channels = config.get("in_channels")
    if size is None or channels is None:
        return None
    if _is_of_signals(config):
        return channels, size
    height, width = size if isinstance(size, Sequence) else (size, size)
    return channels, height, width


def _usual_units(
    event_shape: tuple[int, ...] | None, schedule: NoiseSchedule
) -> tuple[float, float]:
    """Scale and shift of what models of this kind are trained on."""
    signal = event_shape is not None and len(event_shape) == 2
    if signal or schedule.kind == "ve":
        return 1.0, 0.0
    return 2.0, -1.0
