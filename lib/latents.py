"""Images ↔ latents of a text-to-image model, and its text inversion.

Noising and DDIM inversion need nothing of their own: `lib.flow` and `lib.methods.spaces` work on a
`PipelineScore` as on any score.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import checks
from .files import replacing
from .scores.families import Text
from .scores.pipeline import PipelineScore, Prompt
from .scores.schedule import CEILING

# How far outside [0, 1] a resized image may be.
SLACK = 0.01


def encode(score: PipelineScore, images: Tensor) -> Float[Tensor, "n channels h w"]:
    """Images to latents, scaled: the means of the VAE's posteriors.

    Args:
        score: Of the model.
        images: (n, 3, height, width) in [0, 1]; sides are multiples of the pixels that the network
            takes together (8 in Stable Diffusion, 16 in FLUX, 32 in Sana).

    Returns:
        Points of the score, (n, *event_shape) at the model's own size; dtype and device stay those
        of the images.

    Raises:
        TypeError: No floating tensor.
        ValueError: Another shape, values outside [0, 1] or not finite.
    """
    _check_images(images, score)
    family = score.family

    def means(x: Tensor) -> Tensor:
        def ask(vae: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
            return family.encode(vae, (2 * x - 1).to(device, dtype))

        return family.normalise(score.guarded_vae(ask).to(x))

    with torch.no_grad():
        return torch.cat([means(x) for x in images.split(score.micro_batch)])


def decode(score: PipelineScore, latents: Tensor) -> Tensor:
    """Latents to images in [0, 1], in micro-batches.

    Args:
        score: Of the model.
        latents: (…, channels, h, w), paths (pairs, frames, …) too.

    Returns:
        (…, 3, height, width).
    """
    family = score.family
    checks.finite("latents", checks.floating("latents", latents))
    if latents.ndim < 4 or latents.shape[-3] != family.channels:
        raise ValueError(
            f"latents must have shape (…, {family.channels}, h, w), got {tuple(latents.shape)}"
        )

    def pixels(z: Tensor) -> Tensor:
        z = family.denormalise(z)

        def ask(vae: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
            return vae.decode(z.to(device, dtype)).sample

        return score.guarded_vae(ask).to(z)

    with torch.no_grad():
        flat = latents.flatten(0, -4)
        images = torch.cat([pixels(z) for z in flat.split(score.micro_batch)])
    return ((images + 1) / 2).clamp(0, 1).reshape(*latents.shape[:-3], *images.shape[1:])


def _check_images(images: Tensor, score: PipelineScore) -> None:
    channels = score.pipe.vae.config.in_channels
    factor = score.family.factor * score.family.patch
    checks.finite("images", checks.floating("images", images))
    if images.ndim != 4 or images.shape[1] != channels or len(images) == 0:
        raise ValueError(
            f"images must have shape (n, {channels}, height, width), got {tuple(images.shape)}; "
            "grey ones: images.expand(-1, 3, -1, -1), one image: images[None]"
        )
    height, width = images.shape[2:]
    if height % factor or width % factor:
        raise ValueError(
            f"height and width must be multiples of {factor}, got {height}×{width}: resize them "
            "(torchvision.transforms.functional.resize)"
        )
    if images.min() < -SLACK or images.max() > 1 + SLACK:
        raise ValueError(
            f"images has values from {images.min():.4g} to {images.max():.4g}, but images lie in "
            "[0, 1]: divide images in 0..255 by 255"
        )


def text_inversion(
    score: PipelineScore,
    latent: Tensor,
    folder: str | Path,
    *,
    prompt: Prompt = "",
    steps: int = 500,
    batch: int = 2,
    rate: float = 5e-3,
    seed: int = 0,
) -> Tensor | Text:
    """The prompt's embedding, changed until the model denoises one image well.

    Gal et al. 2023, eq. 2, with the time uniform over the schedule's steps, or those of
    `NoiseSchedule.in_steps`:

        min_text E ‖(y − D(y; text))/sigma − noise‖²,   y = latent + sigma·noise,

    by AdamW at a constant rate; the defaults are those of arXiv 2504.06675's released code. The
    checkpoint is written after each step: a run that was interrupted goes on from it, bit for bit
    on a CPU, and one that is done is only read.

    Args:
        score: Of a model with one text encoder.
        latent: (1, *event), or several views of the image (k, *event), drawn from.
        folder: Where checkpoint.safetensors is kept.
        prompt: Text or embedding to start from.
        steps: Of the optimiser.
        batch: Noisy copies of the image a step.
        rate: Learning rate.
        seed: Of all that is drawn.

    Returns:
        What the network is told of the new prompt, for `score.prompted`: as `score.embed` has it.

    Raises:
        ValueError: The checkpoint is damaged, or of another latent, prompt, model or settings; the
            model has several text encoders, or none.
        FloatingPointError: The gradient is not finite; the last checkpoint stays.
        OSError: The folder cannot be written.
    """
    checks.count("steps", steps)
    checks.count("batch", batch)
    checks.positive("rate", rate)
    latent = checks.batched("latent", latent, score.event_shape)
    encoders = [name for name in score.pipe.components if name.startswith("text_encoder")]
    if len(encoders) != 1:
        raise ValueError(
            f"text inversion changes what one text encoder says, and {score.name} has "
            f"{len(encoders)}: give the prompt in words"
        )
    told = score.read(prompt)
    start = told["encoder_hidden_states"]
    if len(start) != 1:
        raise ValueError(f"one prompt is inverted at a time, got {len(start)}")

    path = Path(folder) / "checkpoint.safetensors"
    identity = {
        "latent": _digest(latent),
        "prompt": _digest(start),
        "model": json.dumps(score.origin),
        "settings": json.dumps({"steps": steps, "batch": batch, "rate": rate, "seed": seed}),
    }
    text = nn.Parameter(start.detach().float().clone())
    optimizer = torch.optim.AdamW([text], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    if path.exists():
        state = _checkpoint(path, identity)
        text.data.copy_(state.pop("text"))
        generator.set_state(state.pop("generator"))
        # The rest is the optimiser's.
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})
        done = int(state["step"])
    for step in range(done, steps):
        optimizer.zero_grad()
        changed = {**told, "encoder_hidden_states": text}
        _loss(score, latent, changed, batch, generator).backward()
        if not bool(torch.isfinite(text.grad).all()):
            raise FloatingPointError(
                f"the gradient is not finite at step {step}: lower the learning rate"
            )
        optimizer.step()
        state = {"text": text, "generator": generator.get_state(), **optimizer.state[text]}
        tensors = {name: value.detach().cpu() for name, value in state.items()}
        with replacing(path) as (draft,):
            draft.write_bytes(save(tensors, identity))
    found = {**told, "encoder_hidden_states": text.detach()}
    return found if len(found) > 1 else text.detach()


def _checkpoint(path: Path, identity: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint; ValueError for a damaged file or one of another inversion."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        others = [name for name, value in identity.items() if stored.get(name) != value]
        trouble = f"it belongs to another {', '.join(others)}" if others else None
    except SafetensorError as error:
        trouble = str(error)
    if trouble is not None:
        raise ValueError(
            f"cannot continue from {path}: {trouble}; delete it to start anew, or use another "
            "folder"
        )
    return state


def _loss(
    score: PipelineScore,
    latent: Tensor,
    text: Text,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """The mean squared error of the noise that the model predicts in noisy copies of the latent."""
    levels = score.schedule.in_steps().log_sigmas.exp()
    # The last ones of zero terminal SNR hold no image.
    levels = levels[levels <= CEILING]
    sigma = levels[torch.randint(len(levels), (batch,), generator=generator)]
    x = latent[torch.randint(len(latent), (batch,), generator=generator)]
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    column = sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))
    differentiable = copy.copy(score)
    differentiable.training = True
    score.counter.evaluations += batch
    score.counter.derivatives += batch
    clean = differentiable.posterior_means(x + column * noise, sigma, [text])[0]
    # (y − D)/sigma − noise = (x − D)/sigma
    return ((x - clean) / column).float().square().mean()


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
