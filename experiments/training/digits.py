"""The learned score that is bundled: its network, its data, and one function that trains, measures and writes it."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from lib import checks, flow
from lib.files import writing
from lib.scores.denoiser import DenoiserScore

from .. import data, images
from ..classifiers.digits import turned
from .loop import Settings, State, denoising_error, denoising_loss, fit, made_how
from .networks import NO_CLASS, rotated_mnist_network

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

NAME = "rotated-mnist"
SETTINGS = Settings(steps=9000, batch=64, rate=2e-3, warmup=200, ema=0.999, every=250)
SIZE = 28
LEVELS = (
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.5,
    2.0,
    3.0,
)  # noise of the held-out errors, pixels in [0, 1]
HELD_OUT = 500
WRITTEN = {
    "README.md",
    "losses.csv",
    "samples.png",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


def train_rotated_mnist(
    folder: str | Path,
    work: str | Path,
    settings: Settings = SETTINGS,
    *,
    until: int | None = None,
    source: str = "mnist",
    download: bool = False,
    pictures: str | Path | None = None,
    samples: int = 100,
    device: str | torch.device = "cpu",
    machine: str | None = None,
    progress: bool = True,
) -> DenoiserScore:
    """Train the network on turned digits (or go on, from the checkpoint in `work`), measure it, write it to `folder`.

    until: stop after this step of the schedule. source, download: as for `data.digits`. pictures: a folder of images to train
    on instead, as they are, in grey and without classes; each tenth is held out. samples: draws for samples.png, 0 for none.
    machine: in words, for the model card.
    Raises ValueError and OSError for bad input before any step is made, and as `fit` and `save_model` do.
    """
    device = checks.device(device)
    replaceable(Path(folder), WRITTEN)
    draw, held_out, about = (
        turned_digits(source, download) if pictures is None else folder_images(pictures)
    )
    if progress:
        print(
            f"training data: {about['data']}"
            + "; MNIST is not on this machine" * about["fallback"],
            file=sys.stderr,
        )
    model, scheduler = rotated_mnist_network(settings.seed)
    score = DenoiserScore(model.to(device), scheduler)
    state = fit(
        model,
        denoising_loss(score, draw, batch=settings.batch),
        work,
        settings,
        data=about["data"],
        until=until,
        progress=progress,
    )
    score.model = state.average
    errors = denoising_error(score, held_out, LEVELS)
    about |= {
        "name": Path(folder).resolve().name,
        "machine": machine or "",
        "held_out": len(held_out),
        "samples": samples,
    }
    extra = {"losses.csv": lambda path: _write_losses(path, state.losses)}
    if samples:
        drawn = flow.sample(score, samples, torch.Generator().manual_seed(settings.seed))
        ink = 1 - F.interpolate(drawn.clamp(0, 1), scale_factor=2)  # dark on white, enlarged
        extra["samples.png"] = lambda path: save_image(ink, path, nrow=10, padding=0, pad_value=1.0)
    save_model(folder, score, card(score, state, settings, errors, about), extra)
    return score


def turned_digits(
    source: str = "mnist", download: bool = False
) -> tuple[Draw, Tensor, dict[str, Any]]:
    """Training digits as draw(n, generator) -> (n, 1, 28, 28), (n,), each turned by its own angle, uniform in [0°, 360°);
    held-out test digits, each turned once; what the model card says of both."""
    digits, test = (
        data.digits(source, split=split, download=download) for split in ("train", "test")
    )

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(digits), (n,), generator=generator)
        return turned(digits.images[chosen], generator), digits.labels[chosen]

    spread = test.images[:: max(1, len(test) // HELD_OUT)][:HELD_OUT]  # MNIST's first ones are easy
    about = {
        "data": f"{digits.source.name}, {len(digits):,} digits, turned by a new uniform random angle at each draw",
        "test": f"of {test.source.name}, spread over its file, each turned once by a uniform random angle (seed 0)",
        "licence": digits.source.licence,
        "origin": digits.source.origin,
        "fallback": digits.source.fallback,
        "options": f" --digits {source}" * (source != "mnist"),
    }
    return draw, turned(spread, torch.Generator().manual_seed(0)), about


def folder_images(folder: str | Path) -> tuple[Draw, Tensor, dict[str, Any]]:
    """The same three of a folder of images, as they are, (n, 1, 28, 28) in grey; each tenth is held out.

    ValueError: fewer than two images. FileNotFoundError: no such folder.
    """
    found = images.read_folder(folder, size=SIZE, channels=1)
    if len(found) < 2:
        raise ValueError(
            f"{folder} has one image; training wants at least 2, one of them is held out"
        )
    held = torch.arange(len(found)) % 10 == 0

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(int((~held).sum()), (n,), generator=generator)
        return found[~held][chosen], torch.full((n,), NO_CLASS)

    about = {
        "data": f"{int((~held).sum()):,} images of the folder {Path(folder).resolve().name}, grey, 28×28",
        "test": "of the same folder",
        "licence": "that of the images",
        "origin": "a local folder",
        "fallback": False,
        "options": " --images …",
    }
    return draw, found[held][:HELD_OUT], about


def save_model(
    folder: str | Path,
    score: DenoiserScore,
    card: str,
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Write network and scheduler in diffusers' layout, with README.md (`card`) and extra files (name → writer), all or nothing.

    The folder is made, or replaced if it holds such a model; ValueError if it holds anything else. OSError: cannot be written.
    """
    from diffusers import DDPMPipeline

    def make(made: Path) -> None:
        DDPMPipeline(score.model, score.scheduler).save_pretrained(made, safe_serialization=True)
        (made / "README.md").write_text(card, encoding="utf-8")
        for name, write in (extra or {}).items():
            write(made / name)

    return write_folder(folder, make, WRITTEN)


def write_folder(folder: str | Path, make: Callable[[Path], None], files: Container[str]) -> Path:
    """Let make(draft) write a folder that becomes `folder` as a whole or not at all; an older one is replaced.

    ValueError: the folder holds a file that is not among `files` (names below it). OSError: cannot be written.
    """
    folder = Path(folder)
    replaceable(folder, files)
    with writing("the model", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as draft:
            made, old = Path(draft) / "made", Path(draft) / "old"
            make(made)
            for path in made.rglob("*"):
                path.chmod(
                    0o755 if path.is_dir() else 0o644
                )  # diffusers leaves weights for their owner alone
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(made, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise
    return folder


def replaceable(folder: Path, files: Container[str]) -> None:
    """Only a folder with nothing but these files (names below it) may be replaced: ValueError if it holds another."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder")
    foreign = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in files
    ]
    if foreign:
        raise ValueError(
            f"{folder} holds files that are not of such a model ({foreign[0].name}, …) and would be lost; "
            "choose another folder"
        )


def card(
    score: DenoiserScore,
    state: State,
    settings: Settings,
    errors: dict[float, float],
    about: dict[str, Any],
) -> str:
    """The model card: data, steps, time, machine, held-out errors, licence, use, limits."""
    rows = "\n".join(f"| {sigma:g} | {error:.5f} |" for sigma, error in errors.items())
    parameters = sum(p.numel() for p in score.model.parameters())
    more = f"\n| its licence | {about['licence']} ({about['origin']}) |"
    more += (
        "\n| fallback | MNIST was not on the machine; these are scikit-learn's digits |"
        * about["fallback"]
    )
    picture = f"`samples.png`: {about['samples']} draws (`lib.flow.sample`, 24 Heun steps, seed {settings.seed}), not chosen.\n"
    return f"""# {about["name"]}

A denoiser of small grey images, {parameters:,} parameters: a diffusers `UNet2DModel` with EDM preconditioning
(Karras et al. 2022), class-conditional (digits 0 to 9; class {NO_CLASS} is "no class", told in half of the training). Its weights
are the averaged ones. `lib.scores.load` makes a score of it: s(x) = (D(x) − x)/sigma² on (n, 1, 28, 28) in [0, 1], for sigma from
{score.noise_range[0]:g} to {score.noise_range[1]:g}.

{made_how(state, settings, about["machine"], more)}

Held-out mean squared denoising error per pixel, {about["held_out"]} images {about["test"]}, without class,
one noise draw (seed 0):

| sigma | E(D(x + sigma n) − x)² |
|---|---|
{rows}

{picture if about["samples"] else ""}
Made by `python -m lib.runs train {NAME}{about["options"]}`.

**Intended use**: the learned score of this project's notebooks, and tests.
**Limits**: it knows images of the kind named above and nothing else, and no noise outside the range above. A score is
(D(x) − x)/sigma², so an error of D weighs more the smaller sigma is. The pipeline class in model_index.json serves the layout
only: with an EDM scheduler, draw with `lib.flow.sample`, not by calling that pipeline.
"""


def _write_losses(path: Path, losses: list[float], every: int = 25) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["step", "mean_loss"])
        for i in range(0, len(losses), every):
            part = losses[i : i + every]
            rows.writerow([i + len(part), f"{sum(part) / len(part):.6f}"])
