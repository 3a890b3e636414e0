"""Images ↔ latents of a Stable Diffusion, its text inversion, and frames at equal perceptual steps.

Noising and DDIM inversion need nothing of their own: lib.flow and lib.methods.spaces work on a `StableDiffusionScore` as on any score.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.evaluation.frames import adjacent_distances, mse
from experiments.training.loop import Settings, fit

from . import checks, flow
from .scores.schedule import CEILING
from .scores.stable_diffusion import StableDiffusionScore, vae_factor

SLACK = 0.01  # how far outside [0, 1] a resized image may be


def encode(
    score: StableDiffusionScore, images: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Images (n, 3, height, width) in [0, 1] -> latents (n, 4, height/f, width/f), scaled, f the VAE's factor (8 in SD).

    The mean of the VAE's posterior, or a sample of it drawn from `generator`. Dtype and device stay those of the images.
    ValueError or TypeError: another shape, sides that f does not divide, values outside [0, 1] or not finite.
    """
    vae, factor = score.pipe.vae, vae_factor(score.pipe.vae)
    channels = vae.config.in_channels
    checks.finite("images", checks.floating("images", images))
    if images.ndim != 4 or images.shape[1] != channels or len(images) == 0:
        raise ValueError(
            f"images must have shape (n, {channels}, height, width), got {tuple(images.shape)}; grey ones: "
            "images.expand(-1, 3, -1, -1), one image: images[None]"
        )
    if images.shape[2] % factor or images.shape[3] % factor:
        raise ValueError(
            f"height and width must be multiples of {factor}, got {images.shape[2]}×{images.shape[3]}: resize them "
            "(torchvision.transforms.functional.resize) or read them at that size (experiments.images.read)"
        )
    if images.min() < -SLACK or images.max() > 1 + SLACK:
        raise ValueError(
            f"images has values from {images.min():.4g} to {images.max():.4g}, but images lie in [0, 1]: divide "
            "images in 0..255 by 255"
        )

    def moments(x: Tensor) -> Tensor:
        return score.guarded_vae(
            lambda net, dtype, device: (
                net.encode((2 * x - 1).to(device, dtype)).latent_dist.parameters
            )
        ).to(x)

    with torch.no_grad():
        mean, log_variance = torch.cat([moments(x) for x in images.split(score.micro_batch)]).chunk(
            2, dim=1
        )
        if generator is not None:
            noise = torch.randn(
                mean.shape, generator=generator, device=generator.device, dtype=mean.dtype
            )
            mean = mean + (log_variance.clamp(-30, 20) / 2).exp() * noise.to(
                mean
            )  # diffusers' bounds
    return (mean - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor


def decode(score: StableDiffusionScore, latents: Tensor) -> Tensor:
    """Latents (…, 4, h, w) -> images (…, 3, h·f, w·f) in [0, 1], in micro-batches, paths (pairs, frames, …) too."""
    config, flat = (
        score.pipe.vae.config,
        checks.finite("latents", checks.floating("latents", latents)).flatten(0, -4),
    )
    if latents.ndim < 4 or flat.shape[1] != config.latent_channels:
        raise ValueError(
            f"latents must have shape (…, {config.latent_channels}, h, w), got {tuple(latents.shape)}"
        )

    def pixels(z: Tensor) -> Tensor:
        z = z / config.scaling_factor + (config.get("shift_factor") or 0)
        return score.guarded_vae(
            lambda net, dtype, device: net.decode(z.to(device, dtype)).sample
        ).to(z)

    with torch.no_grad():
        images = torch.cat([pixels(z) for z in flat.split(score.micro_batch)])
    return ((images + 1) / 2).clamp(0, 1).reshape(*latents.shape[:-3], *images.shape[1:])


class RoundTrip(NamedTuple):
    """Peak signal-to-noise ratio (n,) in dB against the images: of the VAE alone, and of VAE and inversion together; root mean
    square of the inversion's error in the latents, (n,)."""

    vae: Tensor
    both: Tensor
    latents: Tensor


def round_trip(score: StableDiffusionScore, images: Tensor, sigma: float, **settings) -> RoundTrip:
    """What DDIM inversion to noise level sigma and back loses: images (n, 3, height, width). settings: of `lib.flow.diffuse`."""
    latents = encode(score, images)
    back = flow.denoise(score, flow.diffuse(score, latents, sigma, **settings), sigma, **settings)
    psnr = lambda z: -10 * mse(decode(score, z), images).log10()
    return RoundTrip(psnr(latents), psnr(back), (back - latents).flatten(1).square().mean(1).sqrt())


@dataclass(frozen=True)
class TextSchedule(Settings):
    """Of a text inversion: AdamW at a constant rate. decay: its weight decay; batch: noisy copies of the image a step.

    The defaults are those of arXiv 2504.06675's released code (configs: tv_lr 0.005, tv_steps 500, tv_batch_size 2).
    """

    steps: int = 500
    batch: int = 2
    rate: float = 5e-3
    warmup: int = 0
    ema: float = 0.0
    clip: float = 1e9
    every: int = 50
    decay: float = 0.01  # of torch's AdamW

    def rate_at(self, step: int) -> float:
        return self.rate


SCHEDULES = {
    "yu2025": TextSchedule(),
    "impus": TextSchedule(
        steps=2500, batch=1, rate=2e-3, decay=0.0
    ),  # ICLR 2024, released code run_morph.py: Adam
}


class _Embedding(nn.Module):
    def __init__(self, text: Tensor) -> None:
        super().__init__()
        self.text = nn.Parameter(text.detach().float().clone())


def text_inversion(
    score: StableDiffusionScore,
    latent: Tensor,
    folder: str | Path,
    *,
    prompt: str | Tensor = "",
    schedule: str | TextSchedule = "yu2025",
    until: int | None = None,
    progress: bool = True,
) -> Tensor:
    """The prompt's embedding (1, tokens, width), changed until the model denoises one image well (Gal et al. 2023, eq. 2):

        min_text E ‖(y − D(y; text))/sigma − noise‖²,   y = latent + sigma·noise,   the time uniform over the schedule's steps.

    latent: (1, 4, h, w), or several views of the image (k, 4, h, w), drawn from. prompt: text or embedding to start from.
    schedule: a name of SCHEDULES or a `TextSchedule`. folder: where the checkpoint is kept; a run that was interrupted goes on
    from there, bit for bit on a CPU, and one that is done only reads it. until, progress, errors: as `experiments.training.loop.fit`.
    """
    if isinstance(schedule, str):
        schedule = SCHEDULES[checks.choice("schedule", schedule, SCHEDULES)]
    latent = checks.batched("latent", latent, score.event_shape)
    if score.schedule.edm:
        raise ValueError(
            "text inversion draws from a scheduler's discrete times, and an EDM scheduler has none"
        )
    start = score.embed(prompt)
    if len(start) != 1:
        raise ValueError(f"one prompt is inverted at a time, got {len(start)}")
    state = fit(
        _Embedding(start).to(start.device),
        _inversion_loss(score, latent, schedule.batch),
        folder,
        schedule,
        data=_about(score, latent, start),
        until=until,
        progress=progress,
    )
    return state.model.text.detach()


def _inversion_loss(
    score: StableDiffusionScore, latent: Tensor, batch: int
) -> Callable[[nn.Module, torch.Generator], Tensor]:
    levels = score.schedule.log_sigmas.exp()
    levels = levels[levels <= CEILING]  # the last ones of zero terminal SNR hold no image

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        sigma = levels[torch.randint(len(levels), (batch,), generator=generator)]
        x = latent[torch.randint(len(latent), (batch,), generator=generator)]
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        column = sigma.to(x).reshape(-1, 1, 1, 1)
        asked = copy.copy(score)
        asked.training = True
        score.counter.evaluations += batch
        score.counter.derivatives += batch
        clean = asked.posterior_means(x + column * noise, sigma, [model.text])[0]
        return (
            ((x - clean) / column).float().square().mean()
        )  # (y − D)/sigma − noise = (x − D)/sigma

    return loss


def _about(score: StableDiffusionScore, latent: Tensor, start: Tensor) -> str:
    """Names latent, start and model, so that no checkpoint of another inversion is continued."""
    digest = lambda x: hashlib.sha256(
        x.detach().float().cpu().contiguous().numpy().tobytes()
    ).hexdigest()[:16]
    return f"latent {digest(latent)}, prompt {digest(start)}, model {json.dumps(score.origin, sort_keys=True)}"


def perceptual_times(distances: Tensor, times: Tensor, count: int) -> Tensor:
    """Times of `count` frames at equal steps of the cumulated distance: (pairs, N − 1), (pairs, N) -> (pairs, count), float64.

    distances ≥ 0: between adjacent frames at `times`, rising. Between two frames the distance is taken as linear in time.
    Frames that are all equal keep equal steps in time. ValueError: distances that are negative or not finite.
    """
    if distances.shape != (len(times), times.shape[1] - 1) or not bool(
        (torch.isfinite(distances) & (distances >= 0)).all()
    ):
        raise ValueError(
            f"distances must be (pairs, N − 1) finite numbers ≥ 0 for times {tuple(times.shape)}, got shape "
            f"{tuple(distances.shape)}"
        )
    steps = distances.double().cpu()
    steps = torch.where(steps.sum(1, keepdim=True) > 0, steps, 1.0)
    total = np.concatenate([np.zeros((len(steps), 1)), steps.cumsum(1).numpy()], 1)
    new = [
        np.interp(np.linspace(0, c[-1], checks.count("count", count, least=2)), c, t)
        for c, t in zip(total, times.double().cpu().numpy(), strict=True)
    ]
    return torch.as_tensor(np.array(new))


def equal_steps(
    show: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    pairs: int,
    count: int,
    *,
    rounds: int = 1,
) -> tuple[Tensor, Tensor]:
    """Frames (pairs, count, c, height, width) at nearly equal perceptual steps along their paths, and their times (pairs, count).

    show: times (pairs, count) -> frames. distance: images (n, …) twice -> (n,), LPIPS or any other. rounds: how often the frames
    are measured and drawn anew; one in arXiv 2504.06675 (after DiffMorpher, CVPR 2024). Each costs all frames again.
    """
    times = torch.linspace(0, 1, checks.count("count", count, least=2), dtype=torch.float64)
    times = times.expand(checks.count("pairs", pairs), -1)
    frames = show(times)
    for _ in range(checks.count("rounds", rounds)):
        times = perceptual_times(adjacent_distances(frames, distance), times, count)
        frames = show(times)
    return frames, times
