"""Trains the bundled latent model "hands".

First its autoencoder, then U-Net and text encoder together on latents of that.
"""

import copy
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.utils import save_image

from lib import checks
from lib.files import replacing

from .. import data, hands
from ..classifiers import HandClassifier, load_classifier
from ..evaluation import psnr
from . import networks
from .folders import require_replaceable, training_table, write_folder
from .loop import Loss, Settings, State, fit

NAME = "hands"
AUTOENCODER = Settings(steps=4000, batch=8, rate=1e-3, warmup=200, ema=0.999, every=250)
DENOISER = Settings(steps=6500, batch=16, rate=6e-4, warmup=200, ema=0.999, every=250)
KL = 5e-4  # weight of the KL term, a mean over latent entries
EDGES = 1.0  # weight of the terms of neighbours' differences
COPIES = 14  # moved copies of each photograph, encoded once
GUIDANCE = 3.0  # of samples
STEPS = 25  # of samples
RATED = 20  # samples of each digit that the classifier reads
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


@dataclass(frozen=True)
class Measured:
    """What the model card says of the finished model.

    Attributes:
        decibels: PSNR of each held-out photograph's reconstruction.
        samples: pictures of each digit in samples.png.
        right: in words, how many samples show the digit that was asked for.
    """

    decibels: Tensor
    samples: int
    right: str


def train_hands(
    folder: str | Path,
    work: str | Path,
    autoencoder: Settings = AUTOENCODER,
    denoiser: Settings = DENOISER,
    *,
    until: int | None = None,
    copies: int = COPIES,
    samples: int = 8,
    classifier: HandClassifier | None = None,
    rated: int = RATED,
    device: str | torch.device = "cpu",
    machine: str = "",
    progress: bool = True,
) -> Any:
    """Train all parts, measure them, and write their folder with its model card.

    Args:
        folder: made as a whole or not at all.
        work: keeps the checkpoints; a training that was cut short goes on from there.
        autoencoder: settings of its training.
        denoiser: settings of the training of U-Net and text encoder.
        until: stop either training after this step of its schedule.
        copies: of each photograph, encoded for the U-Net.
        samples: of each digit, for samples.png.
        classifier: reads other samples; the bundled one if None, and where that is missing the card
            says so.
        rated: number of these of each digit.
        device: to train on.
        machine: in words, for the model card; this one if empty.
        progress: whether to show bars.

    Returns:
        The StableDiffusionPipeline, on the CPU.

    Raises:
        ValueError, OSError: bad input, before any step is made; and as `fit` and `write_folder`.
        FileNotFoundError: the photographs are not on this machine.
    """
    checks.count("samples", samples)
    checks.count("rated", rated)
    device = checks.device(device)
    require_replaceable(folder, WRITTEN)
    test = hands.photographs("test")
    classifier = classifier or bundled_classifier(progress)
    first = train_autoencoder(work, autoencoder, until=until, device=device, progress=progress)
    vae = round_weights(first.average)
    second, tokens = train_denoiser(
        work, vae, denoiser, until=until, copies=copies, device=device, progress=progress
    )
    unet = round_weights(second.average["unet"])
    text_encoder = round_weights(second.average["text_encoder"])
    pipe = networks.pipeline(vae, unet, text_encoder, tokens, networks.noise_schedule())
    images = hands.move(test.pixels)
    reconstructions = reconstruct(vae, images)
    right = "not measured: the hand classifier was not there"
    if classifier is not None:
        # Other seeds than those of samples.png.
        others = sample_digits(pipe, rated, denoiser.seed + samples)
        right = describe_right(right_shares(classifier, others), rated, classifier)
    measured = Measured(psnr(reconstructions, images), samples, right)
    text = card(pipe, first, second, measured, test, machine)
    beside = torch.stack([images[::13], reconstructions[::13]], 1).flatten(0, 1)
    pictures = {
        "samples.png": (sample_digits(pipe, samples, denoiser.seed), samples),
        "reconstructions.png": (beside, 8),
    }
    save_hands(folder, pipe, text, pictures)
    return pipe


def train_autoencoder(
    work: str | Path,
    settings: Settings = AUTOENCODER,
    *,
    until: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> State:
    """Train the autoencoder, or go on from `work`/autoencoder.

    Arguments and errors as `train_hands`.
    """
    photographs = hands.photographs("train")
    # A fifth faster on CPUs.
    model = networks.autoencoder(seed=settings.seed).to(device, memory_format=torch.channels_last)
    return fit(
        model,
        autoencoder_loss(photographs, settings.batch),
        Path(work) / "autoencoder",
        settings,
        data=describe(photographs),
        until=until,
        progress=progress,
    )


def autoencoder_loss(photographs: hands.Photographs, batch: int) -> Loss:
    """L1 of pixels and of their differences, and a small KL to the standard normal.

    A draw is `batch` random photographs, each moved (`hands.augment`), decoded from a sample of
    their latent distribution.
    """

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        chosen = torch.randint(len(photographs), (batch,), generator=generator)
        images = 2 * hands.augment(photographs.pixels[chosen], generator) - 1
        images = images.to(device, memory_format=torch.channels_last)
        posterior = model.encode(images).latent_dist
        error = model.decode(posterior.sample(generator)).sample - images
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.abs().mean() + EDGES * _edge_error(error) + KL * kl

    return loss


def _edge_error(error: Tensor, levels: int = 3) -> Tensor:
    """Mean |difference of neighbours| of an error at full, half and quarter size."""
    total = torch.zeros((), dtype=error.dtype, device=error.device)
    for _ in range(levels):
        across = error.diff(dim=-1).abs().mean()
        down = error.diff(dim=-2).abs().mean()
        total = total + across + down
        error = F.avg_pool2d(error, 2)
    return total / levels


def train_denoiser(
    work: str | Path,
    vae: nn.Module,
    settings: Settings = DENOISER,
    *,
    until: int | None = None,
    copies: int = COPIES,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> tuple[State, Any]:
    """Train U-Net and text encoder on latents of `vae`, or go on from `work`/denoiser.

    Arguments and errors as `train_hands`; the scaling factor of `vae` is set.

    Returns:
        The state, whose model is {"unet", "text_encoder"}, and the tokenizer.
    """
    photographs = hands.photographs("train")
    tokens = networks.tokenizer()
    path = Path(work) / "latents.safetensors"
    latents = encode_copies(vae, photographs, copies, path, seed=settings.seed)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    unet = networks.unet(seed=settings.seed).to(memory_format=torch.channels_last)
    text_encoder = networks.text_encoder(tokens, seed=settings.seed)
    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(device)
    scaled = vae.config.scaling_factor * latents
    state = fit(
        model,
        denoiser_loss(scaled, photographs.labels, tokens, settings.batch),
        Path(work) / "denoiser",
        settings,
        data=f"{describe(photographs)}: {copies} such copies of each, as latents of the "
        f"autoencoder {fingerprint(vae)[:12]}, 10% without caption",
        until=until,
        progress=progress,
    )
    return state, tokens


def denoiser_loss(latents: Tensor, labels: Tensor, tokens: Any, batch: int) -> Loss:
    """E ‖v_θ(x_t, t, caption) − v‖² an entry, t uniform over the schedule, unit weight.

    v-prediction of Salimans & Ho 2022. The model is {"unet", "text_encoder"}.

    Args:
        latents: (copies · n, 4, 16, 16), scaled.
        labels: (n,), the same of every copy.
        tokens: the tokenizer.
        batch: latents a step.
    """
    scheduler = networks.noise_schedule()
    ids = tokens(hands.all_captions(), padding="max_length", return_tensors="pt").input_ids

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=generator)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        captions = hands.draw_captions(labels[chosen % len(labels)], generator)
        text = model["text_encoder"](ids[captions].to(device)).last_hidden_state
        noisy = scheduler.add_noise(clean, noise, times).to(device)
        velocity = scheduler.get_velocity(clean, noise, times).to(device)
        return F.mse_loss(model["unet"](noisy, times.to(device), text).sample, velocity)

    return loss


@torch.no_grad()
def encode_copies(
    vae: nn.Module, photographs: hands.Photographs, copies: int, path: Path, *, seed: int = 0
) -> Tensor:
    """Unscaled latents (copies · n, 4, 16, 16) of moved photographs, one draw of each.

    They are kept in a file.
    A file of another autoencoder, seed or number of copies, or a damaged one, is made anew.
    """
    made_of = f"{copies} copies of {len(photographs)}, seed {seed}, autoencoder {fingerprint(vae)}"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["made_of"] == made_of:
                return file.get_tensor("latents").float()
    except (FileNotFoundError, SafetensorError, KeyError, TypeError):
        pass
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(copies):
        for pixels in photographs.pixels.split(16):
            images = 2 * hands.augment(pixels, generator) - 1
            parts.append(vae.encode(images).latent_dist.sample(generator).half())
    latents = torch.cat(parts).contiguous()
    with replacing(path) as (draft,):
        draft.write_bytes(save({"latents": latents}, {"made_of": made_of}))
    return latents.float()


def round_weights(model: nn.Module) -> nn.Module:
    """A frozen copy on the CPU with weights rounded to half precision, computing in float32.

    What is measured is then what is bundled.
    """
    rounded = copy.deepcopy(model).half().float()
    rounded = rounded.to("cpu", memory_format=torch.contiguous_format)
    return rounded.eval().requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """sha256 of all weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def reconstruct(vae: nn.Module, images: Tensor) -> Tensor:
    """Images (n, 3, 64, 64) in [0, 1], encoded (mean) and decoded, clamped to [0, 1]."""
    parts = []
    for part in images.split(16):
        latents = vae.encode(2 * part - 1).latent_dist.mean
        parts.append(vae.decode(latents).sample)
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def sample_digits(pipe: Any, count: int, seed: int = 0, **settings: Any) -> Tensor:
    """`count` samples of each digit in turn, each of its own seed: (10 · count, 3, 64, 64).

    Settings are further ones of the pipeline's call.
    """
    seeds = range(seed, seed + count)
    parts = []
    for word in hands.WORDS:
        captions = [hands.CAPTIONS[0].format(word)] * count
        parts.append(
            hands.sample(pipe, captions, seeds, steps=STEPS, guidance=GUIDANCE, **settings)
        )
    return torch.cat(parts)


def right_shares(classifier: HandClassifier, samples: Tensor) -> Tensor:
    """Share (10,) of samples, n of each digit in turn, that are read as that digit."""
    digits = torch.arange(10).repeat_interleave(len(samples) // 10)
    return classifier.right(samples, digits).double().reshape(10, -1).mean(1)


def describe_right(shares: Tensor, count: int, classifier: HandClassifier) -> str:
    """What the card says of the shares (10,) of right ones among `count` samples of each digit."""
    digits = ", ".join(f"{digit}: {share:.2f}" for digit, share in enumerate(shares.tolist()))
    return (
        f"{shares.mean():.3f} of {10 * count}, {count} of each digit, drawn as those of "
        f"samples.png from other seeds, as the hand classifier {str(classifier.sha256)[:12]} reads "
        f"them; by digit {digits}"
    )


def bundled_classifier(progress: bool = True) -> HandClassifier | None:
    """The bundled classifier of hands; None, and a line on stderr, where it is missing."""
    try:
        return load_classifier("hands")
    except FileNotFoundError as error:
        if progress:
            print(f"the rate of right samples will not be measured: {error}", file=sys.stderr)
        return None


def save_hands(
    folder: str | Path, pipe: Any, text: str, pictures: dict[str, tuple[Tensor, int]]
) -> Path:
    """Write the pipeline in half precision, README.md and pictures, all or nothing.

    Args:
        folder: as in `write_folder`, with its errors.
        pipe: the StableDiffusionPipeline.
        text: the model card.
        pictures: name → images (n, 3, h, w) and the number of them in a row.
    """

    def write(draft: Path) -> None:
        half = [copy.deepcopy(part).half() for part in (pipe.vae, pipe.unet, pipe.text_encoder)]
        rounded = networks.pipeline(*half, pipe.tokenizer, pipe.scheduler)
        write_pipeline(draft, rounded, text, pictures)

    return write_folder(folder, write, WRITTEN)


def write_pipeline(
    draft: Path, pipe: Any, text: str, pictures: dict[str, tuple[Tensor, int]]
) -> None:
    """Write a pipeline whose text encoders are CLIP's, README.md and pictures into a folder.

    Its weights are in half precision already, and load in single precision.
    """
    pipe.save_pretrained(draft, safe_serialization=True)
    for config in sorted(draft.glob("*/config.json")):
        content = json.loads(config.read_text(encoding="utf-8"))
        # A place on the machine of the training.
        content.pop("_name_or_path", None)
        # This would load as float16 beside a float32 network.
        if content.get("dtype") == "float16":
            content["dtype"] = "float32"
        written = json.dumps(content, indent=2, sort_keys=True) + "\n"
        config.write_text(written, encoding="utf-8", newline="\n")
    # vocab.json and merges.txt, as in CLIP.
    for folder in sorted(draft.glob("tokenizer*")):
        pipe.tokenizer.backend_tokenizer.model.save(str(folder))
    (draft / "README.md").write_text(text, encoding="utf-8")
    for name, (images, row) in pictures.items():
        save_image(images, draft / name, nrow=row, padding=0)


def describe(photographs: hands.Photographs) -> str:
    """The data in words, for checkpoint and model card."""
    low, high = hands.SCALE
    return (
        f"{photographs.source.name}, {len(photographs):,} photographs at "
        f"{hands.SIZE}×{hands.SIZE}, each moved at each draw: turned up to ±{hands.TURN:g}°, "
        f"shifted up to ±{hands.SHIFT:.0%}, scaled by {low:g} to {high:g}, half mirrored"
    )


def card(
    pipe: Any,
    autoencoder: State,
    denoiser: State,
    measured: Measured,
    test: hands.Photographs,
    machine: str,
) -> str:
    """The model card: data, licence, steps, time, machine, reconstruction, samples, limits."""
    sizes = {
        name: sum(p.numel() for p in getattr(pipe, name).parameters())
        for name in ("vae", "unet", "text_encoder")
    }
    decibels = measured.decibels
    quality = (
        f"{decibels.mean():.2f} dB, mean of {len(test):,} photographs "
        f"(worst {decibels.min():.2f} dB)"
    )
    factor = pipe.vae.config.scaling_factor
    first_caption = hands.CAPTIONS[0].format("…")
    captions = ", ".join(f'"{caption.format("…")}"' for caption in hands.CAPTIONS)
    registered = data.registry()["sign-digits"]
    return f"""# {NAME}

A small latent text-to-image model of hands signing the digits zero to nine, in Stable Diffusion's
layout (diffusers' `StableDiffusionPipeline`), 64×64 pixels, latents (4, 16, 16). Parameters:
autoencoder {sizes["vae"]:,}, U-Net {sizes["unet"]:,}, text encoder {sizes["text_encoder"]:,};
stored in half precision. v-prediction on Stable Diffusion's noise schedule; the weights are
averages over training.

## Autoencoder

{training_table(autoencoder, machine)}
| held-out PSNR | {quality}; latent mean |
| scaling factor | {factor:g}, one over the standard deviation of the training latents |

## U-Net and text encoder, together

{training_table(denoiser, machine)}
| samples that show the digit asked for | {measured.right} |

`reconstructions.png`: held-out photographs, each beside its reconstruction. `samples.png`:
{measured.samples} samples of each caption "{first_caption}", zero to nine, {STEPS} DDIM steps,
guidance {GUIDANCE:g}, not chosen.

Captions it was trained on: {captions}, and none.

Remake: `python -m experiments.training {NAME}`.

**Data**: {registered["origin"]}, {registered["licence"]}; each tenth photograph of the file was
held out.
**Licence** of these weights: Apache-2.0, as the photographs.
**Intended use**: the latent model of this project's notebooks, and tests.
**Limits**: it knows these hands on a plain background and nothing else; words that are in no
caption mean nothing to it. The signs are those of Turkish sign language: from six on, they are no
count of fingers.
"""
