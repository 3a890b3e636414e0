"""Trains the bundled latent model "hands": its autoencoder, then U-Net and text encoder together on that one's latents."""

from __future__ import annotations

import copy
import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.utils import save_image

from lib import checks

from .. import hands
from ..classifiers.base import load_classifier
from ..classifiers.hands import HandClassifier, right_rate
from ..figures import replacing
from . import networks
from .digits import replaceable, write_folder
from .loop import Loss, Settings, State, fit, made_how

AUTOENCODER = Settings(steps=4000, batch=8, rate=1e-3, warmup=200, ema=0.999, every=250)
DENOISER = Settings(steps=6500, batch=16, rate=6e-4, warmup=200, ema=0.999, every=250)
KL = 5e-4  # weight of the KL term, a mean over latent entries
EDGES = 1.0  # weight of the terms of neighbours' differences
COPIES = 14  # moved copies of each photograph, encoded once
GUIDANCE, STEPS = 3.0, 25  # of samples
RATED = 20  # samples of each digit, of which the classifier reads how many are right
WRITTEN = {
    "README.md",
    "samples.png",
    "reconstructions.png",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def train_hands(
    folder: str | Path,
    work: str | Path,
    autoencoder: Settings = AUTOENCODER,
    denoiser: Settings = DENOISER,
    *,
    until: tuple[int | None, int | None] = (None, None),
    copies: int = COPIES,
    samples: int = 8,
    classifier: HandClassifier | None = None,
    rated: int = RATED,
    machine: str = "",
    progress: bool = True,
) -> Any:
    """Train all parts, or go on from the checkpoints in `work`; measure, write to `folder`; returns the StableDiffusionPipeline.

    until: stop either training after this step of its schedule. copies: of each photograph, encoded for the U-Net. samples:
    of each digit for samples.png. classifier: reads `rated` other samples of each digit, for the share of right ones; the
    bundled one if None, and where it is missing the card says so. machine: in words, for the model card.
    Raises ValueError and OSError for bad input before any step is made, FileNotFoundError without the photographs.
    """
    for name, value in (("samples", samples), ("rated", rated)):
        checks.count(name, value)
    replaceable(Path(folder), WRITTEN)
    classifier = classifier or _bundled_classifier(progress)
    state = train_autoencoder(work, autoencoder, until=until[0], progress=progress)
    vae = shipped(state.average)
    joint, words = train_denoiser(
        work, vae, denoiser, until=until[1], copies=copies, progress=progress
    )
    parts = {name: shipped(part) for name, part in joint.average.items()}
    pipe = networks.pipeline(
        vae, parts["unet"], parts["text_encoder"], words, networks.noise_schedule()
    )
    test = hands.photographs("test")
    images = hands.move(test.pixels)
    again = reconstructed(vae, images)
    drawn = sampled(pipe, samples, denoiser.seed)
    rate = (
        None
        if classifier is None
        else right_rate(classifier, sampled(pipe, rated, denoiser.seed + samples))
    )
    text = card(
        pipe,
        (state, autoencoder),
        (joint, denoiser),
        psnr(again, images),
        samples,
        machine,
        test,
        rate_in_words(rate, rated, classifier),
    )
    pictures = {
        "samples.png": (drawn, samples),
        "reconstructions.png": (torch.stack([images[::13], again[::13]], 1).flatten(0, 1), 8),
    }
    save_hands(folder, pipe, text, pictures)
    return pipe


def train_autoencoder(
    work: str | Path,
    settings: Settings = AUTOENCODER,
    *,
    until: int | None = None,
    progress: bool = True,
) -> State:
    """Train the autoencoder, or go on from the checkpoint in `work`/autoencoder; errors as `fit` and `hands.photographs`."""
    photographs = hands.photographs("train")
    model = networks.autoencoder(seed=settings.seed).to(
        memory_format=torch.channels_last
    )  # a fifth faster on CPUs
    return fit(
        model,
        autoencoder_loss(photographs, settings.batch),
        Path(work) / "autoencoder",
        settings,
        data=about(photographs),
        until=until,
        progress=progress,
    )


def autoencoder_loss(photographs: hands.Photographs, batch: int) -> Loss:
    """L1 of pixels, of their differences at full, half and quarter size, and a small KL to the standard normal.

    A draw: `batch` random photographs, each moved (`hands.augment`), decoded from a sample of their latent distribution.
    """

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(photographs), (batch,), generator=generator)
        images = 2 * hands.augment(photographs.pixels[pick], generator) - 1
        images = images.to(memory_format=torch.channels_last)
        latents = model.encode(images).latent_dist
        error = model.decode(latents.sample(generator)).sample - images
        return (
            error.abs().mean()
            + EDGES * _edges(error)
            + KL * latents.kl().mean() / latents.mean[0].numel()
        )

    return loss


def _edges(error: Tensor, levels: int = 3) -> Tensor:
    """Mean |difference of neighbours| of the error at sizes 1, 1/2, 1/4; linear, so it is the error of the differences."""
    total = torch.zeros((), dtype=error.dtype, device=error.device)
    for _ in range(levels):
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        error = F.avg_pool2d(error, 2)
    return total / levels


def train_denoiser(
    work: str | Path,
    vae: nn.Module,
    settings: Settings = DENOISER,
    *,
    until: int | None = None,
    copies: int = COPIES,
    progress: bool = True,
) -> tuple[State, Any]:
    """Train U-Net and text encoder on latents of `vae`, or go on from `work`/denoiser; sets the scaling factor of `vae`.

    Returns the state, whose model is {"unet", "text_encoder"}, and the tokenizer.
    """
    photographs, words = hands.photographs("train"), networks.tokenizer()
    latents = encoded(
        vae, photographs, copies, Path(work) / "latents.safetensors", seed=settings.seed
    )
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    model = nn.ModuleDict(
        {
            "unet": networks.unet(seed=settings.seed).to(memory_format=torch.channels_last),
            "text_encoder": networks.text_encoder(words, seed=settings.seed),
        }
    )
    loss = denoiser_loss(
        vae.config.scaling_factor * latents, photographs.labels, words, settings.batch
    )
    data = (
        f"{about(photographs)}: {copies} such copies of each, as latents of the autoencoder {fingerprint(vae)[:12]}, "
        "10% without caption"
    )
    return fit(
        model, loss, Path(work) / "denoiser", settings, data=data, until=until, progress=progress
    ), words


def denoiser_loss(latents: Tensor, labels: Tensor, words: Any, batch: int) -> Loss:
    """E‖v_θ(x_t, t, caption) − v‖² per entry, t uniform over the schedule (Salimans & Ho 2022, v-prediction, unit weight).

    latents: (copies · n, 4, 16, 16), scaled; labels: (n,), of every copy. Model: {"unet", "text_encoder"}.
    """
    scheduler = networks.noise_schedule()
    ids = words(hands.all_captions(), padding="max_length", return_tensors="pt").input_ids

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (batch,), generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=generator)
        clean, noise = latents[pick], torch.randn(batch, *latents.shape[1:], generator=generator)
        text = model["text_encoder"](
            ids[hands.draw_captions(labels[pick % len(labels)], generator)]
        ).last_hidden_state
        found = model["unet"](scheduler.add_noise(clean, noise, times), times, text).sample
        return F.mse_loss(found, scheduler.get_velocity(clean, noise, times))

    return loss


@torch.no_grad()
def encoded(
    vae: nn.Module, photographs: hands.Photographs, copies: int, path: Path, *, seed: int = 0
) -> Tensor:
    """Unscaled latents (copies · n, 4, 16, 16) of moved copies of all photographs, one draw of each; kept in the file `path`.

    A file of another autoencoder, seed or number of copies, or a damaged one, is made anew.
    """
    made_of = f"{copies} copies of {len(photographs)}, seed {seed}, autoencoder {fingerprint(vae)}"
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if file.metadata().get("made_of") == made_of:
                    return file.get_tensor("latents").float()
        except (SafetensorError, KeyError, AttributeError):
            pass
    generator = torch.Generator().manual_seed(seed)
    parts = [
        vae.encode(2 * hands.augment(pixels, generator) - 1).latent_dist.sample(generator).half()
        for _ in range(copies)
        for pixels in photographs.pixels.split(16)
    ]
    with replacing(path) as (draft,):
        draft.write_bytes(
            save({"latents": (latents := torch.cat(parts).contiguous())}, {"made_of": made_of})
        )
    return latents.float()


def shipped(model: nn.Module) -> nn.Module:
    """A frozen copy with weights rounded to half precision, computing in float32: what is measured is what is bundled."""
    rounded = copy.deepcopy(model).half().float().to(memory_format=torch.contiguous_format)
    return rounded.eval().requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """sha256 of all weights."""
    return hashlib.sha256(
        b"".join(v.contiguous().numpy().tobytes() for v in model.state_dict().values())
    ).hexdigest()


@torch.no_grad()
def reconstructed(vae: nn.Module, images: Tensor) -> Tensor:
    """Images (n, 3, 64, 64) in [0, 1], encoded (mean) and decoded, clamped to [0, 1]."""
    parts = [vae.decode(vae.encode(2 * x - 1).latent_dist.mean).sample for x in images.split(16)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def sampled(
    pipe: Any, count: int, seed: int = 0, *, steps: int | None = None, guidance: float = GUIDANCE
) -> Tensor:
    """`count` samples "a photo of a hand showing …" of each digit in turn: (10 · count, 3, 64, 64) in [0, 1]; each has a seed."""
    return torch.cat(
        [
            hands.sample(
                pipe,
                [hands.CAPTIONS[0].format(word)] * count,
                range(seed, seed + count),
                steps=steps or STEPS,
                guidance=guidance,
            )
            for word in hands.WORDS
        ]
    )


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """−10 log₁₀ of the mean squared difference in decibels, (n, …) in [0, 1] twice -> (n,)."""
    return -10 / math.log(10) * (a - b).square().flatten(1).mean(1).log()


def save_hands(
    folder: str | Path, pipe: Any, text: str, pictures: dict[str, tuple[Tensor, int]]
) -> Path:
    """Write the pipeline in fp16 safetensors with README.md (`text`) and pictures (name → images, a row's), all or nothing."""

    def make(made: Path) -> None:
        half = [copy.deepcopy(part).half() for part in (pipe.vae, pipe.unet, pipe.text_encoder)]
        networks.pipeline(*half, pipe.tokenizer, pipe.scheduler).save_pretrained(
            made, safe_serialization=True
        )
        config = (
            made / "text_encoder" / "config.json"
        )  # its "dtype" would load as float16 beside a float32 U-Net
        said = config.read_text(encoding="utf-8")
        config.write_text(
            said.replace('"dtype": "float16"', '"dtype": "float32"'), encoding="utf-8"
        )
        pipe.tokenizer.backend_tokenizer.model.save(
            str(made / "tokenizer")
        )  # vocab.json and merges.txt, as in CLIP
        (made / "README.md").write_text(text, encoding="utf-8")
        for name, (images, row) in pictures.items():
            save_image(images, made / name, nrow=row, padding=0)

    return write_folder(folder, make, WRITTEN)


def about(photographs: hands.Photographs) -> str:
    """The data in words, for checkpoint and model card."""
    low, high = hands.SCALE
    return (
        f"{photographs.source.name}, {len(photographs):,} photographs at {hands.SIZE}×{hands.SIZE}, each moved at each draw: "
        f"turned up to ±{hands.TURN:g}°, shifted up to ±{hands.SHIFT:.0%}, scaled by {low:g} to {high:g}, half mirrored"
    )


def rate_in_words(rate: Tensor | None, count: int, classifier: HandClassifier | None) -> str:
    """What the card says of the shares (10,) of right ones among `count` samples of each digit."""
    if rate is None:
        return "not measured: the hand classifier was not there"
    digits = ", ".join(f"{digit}: {share:.2f}" for digit, share in enumerate(rate.tolist()))
    return (
        f"{rate.mean():.3f} of {10 * count}, {count} of each digit, drawn as those of samples.png from other seeds, as the "
        f"hand classifier {str(classifier.sha256)[:12]} reads them; by digit {digits}"
    )


def _bundled_classifier(progress: bool) -> HandClassifier | None:
    try:
        return load_classifier("hands")
    except FileNotFoundError as error:
        if progress:
            print(f"the rate of right samples will not be measured: {error}", file=sys.stderr)
        return None


def card(
    pipe: Any,
    autoencoder: tuple[State, Settings],
    denoiser: tuple[State, Settings],
    decibels: Tensor,
    samples: int,
    machine: str,
    test: hands.Photographs,
    rate: str,
) -> str:
    """The model card: data, licence, steps, time, machine, held-out reconstruction, rate of right samples, samples, limits."""
    sizes = {
        name: sum(p.numel() for p in getattr(pipe, name).parameters())
        for name in ("vae", "unet", "text_encoder")
    }
    return f"""# hands

A small latent text-to-image model of hands signing the digits zero to nine, in Stable Diffusion's layout (diffusers'
`StableDiffusionPipeline`), 64×64 pixels, latents (4, 16, 16). Parameters: autoencoder {sizes["vae"]:,}, U-Net
{sizes["unet"]:,}, text encoder {sizes["text_encoder"]:,}; stored in half precision. v-prediction on Stable Diffusion's noise
schedule; the weights are averages over training.

## Autoencoder

{made_how(*autoencoder, machine)}
| held-out PSNR | {decibels.mean():.2f} dB, mean of {len(test):,} photographs (worst {decibels.min():.2f} dB); latent mean |
| scaling factor | {pipe.vae.config.scaling_factor:g}, one over the standard deviation of the training latents |

## U-Net and text encoder, together

{made_how(*denoiser, machine)}
| samples that show the digit asked for | {rate} |

`reconstructions.png`: held-out photographs, each beside its reconstruction. `samples.png`: {samples} samples of each caption
"{hands.CAPTIONS[0].format("…")}", zero to nine, {STEPS} DDIM steps, guidance {GUIDANCE:g}, not chosen.

Captions it was trained on: {", ".join(f'"{caption.format("…")}"' for caption in hands.CAPTIONS)}, and none.

**Data**: {test.source.origin}, {test.source.licence}; each tenth photograph of the file was held out.
**Licence** of these weights: Apache-2.0, as the photographs.
**Intended use**: the latent model of this project's notebooks, and tests.
**Limits**: it knows these hands on a plain background and nothing else; words that are in no caption mean nothing to it.
The signs are those of Turkish sign language: from six on, they are no count of fingers.
"""
