"""Trains the bundled score "rotated-mnist", a denoiser of turned digits, or one of own images."""

import copy
import csv
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image

from lib import checks, flow
from lib.scores import load
from lib.scores.denoiser import DenoiserScore

from .. import data, images
from .folders import require_replaceable, training_table, write_folder
from .loop import Loss, Settings, State, fit
from .networks import NO_CLASS, rotated_mnist_network

NAME = "rotated-mnist"
SETTINGS = Settings(steps=9000, batch=64, rate=2e-3, warmup=200, ema=0.999, every=250)
# Of a network that goes on from a trained one, to know few images by heart: many small steps.
FINE_TUNING = Settings(steps=3600, batch=16, rate=2e-3, warmup=100, ema=0.99, every=200)
# Keywords of its `denoising_loss`: the noise levels of geodesics, and no classes.
FINE_TUNING_LOSS = {"median": 1.2, "spread": 0.8, "unconditional": 1.0}
# Noise levels of the errors, for pixels in [0, 1].
LEVELS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
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

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingImages:
    """What a denoiser is trained on and measured by, and what its card says of that.

    Attributes:
        draw: draw(n, generator) -> images (n, 1, 28, 28) in [0, 1] and classes (n,).
        own: some of the training images as they are drawn, (n, 1, 28, 28).
        held_out: images (n, 1, 28, 28) that are not drawn.
        description: of the training images.
        held_out_description: of the others.
        licence: of both.
        origin: of both.
        fallback: whether better ones were wanted and not there.
        options: of the command that repeats the training.
    """

    draw: Draw
    own: Tensor
    held_out: Tensor
    description: str
    held_out_description: str
    licence: str
    origin: str
    fallback: bool = False
    options: str = ""


def train_rotated_mnist(
    folder: str | Path,
    work: str | Path,
    settings: Settings = SETTINGS,
    *,
    until: int | None = None,
    source: str = "mnist",
    split: str = "train",
    count: int | None = None,
    first: str | Path | None = None,
    download: bool = False,
    pictures: str | Path | None = None,
    samples: int = 100,
    device: str | torch.device = "cpu",
    machine: str = "",
    progress: bool = True,
) -> DenoiserScore:
    """Train the network, measure it, and write its folder with its model card.

    Args:
        folder: made as a whole or not at all.
        work: keeps the checkpoint; a training that was cut short goes on from there.
        settings: of the training.
        until: stop after this step of the schedule.
        source: of the digits, as in `data.digits`.
        split: of the digits to train on, "train" or "test".
        count: train on this many of them alone, as `data.balanced` chooses; None for all.
        first: trained model, as in `lib.scores.load`, whose weights are the first ones; None for
            those of the seed.
        download: whether MNIST may be downloaded.
        pictures: folder of images to train on instead, as they are, in grey and without classes.
        samples: draws for samples.png, 0 for none.
        device: to train on.
        machine: in words, for the model card; this one if empty.
        progress: whether to show a bar.

    Returns:
        The score of the averaged weights.

    Raises:
        ValueError, OSError: bad input, before any step is made; and as `fit` and `write_folder`.
    """
    device = checks.device(device)
    checks.count("samples", samples, least=0)
    require_replaceable(folder, WRITTEN)
    if pictures:
        training = folder_images(pictures)
    else:
        training = turned_digits(source, download, split=split, count=count)
    description = training.description
    noise = {}
    if first is not None:
        noise = FINE_TUNING_LOSS
        description += (
            f"; its first weights are those of {first}; log sigma normal about "
            f"log {noise['median']:g} with deviation {noise['spread']:g}, no classes"
        )
        training = replace(
            training, description=description, options=f"{training.options} --from {first}"
        )
    if progress:
        print(f"training data: {training.description}", file=sys.stderr)
    if progress and training.fallback:
        print("MNIST is not on this machine", file=sys.stderr)
    model, scheduler = rotated_mnist_network(settings.seed)
    if first is not None:
        model.load_state_dict(load(first).model.state_dict())
    score = DenoiserScore(model.to(device), scheduler)
    loss = denoising_loss(score, training.draw, batch=settings.batch, **noise)
    state = fit(
        model,
        loss,
        work,
        settings,
        data=training.description,
        until=until,
        progress=progress,
    )
    score.model = state.average.to("cpu")
    errors = {
        "own": denoising_error(score, training.own, LEVELS),
        "held out": denoising_error(score, training.held_out, LEVELS),
    }
    name = Path(folder).resolve().name
    text = card(name, score, state, errors, training, samples=samples, machine=machine)
    extra = {"losses.csv": lambda path: _write_losses(path, state.losses)}
    if samples:
        drawn = flow.sample(score, samples, torch.Generator().manual_seed(settings.seed))
        # Dark on white, enlarged.
        ink = 1 - F.interpolate(drawn.clamp(0, 1), scale_factor=2)
        extra["samples.png"] = lambda path: save_image(ink, path, nrow=10, padding=0, pad_value=1.0)
    save_denoiser(folder, score, text, extra)
    return score


def turn(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each turned by its own angle, uniform in [0°, 360°)."""
    degrees = 360 * torch.rand(len(digits), generator=generator, dtype=torch.float64)
    return data.rotate(digits, degrees)


def turned_draw(digits: data.Digits) -> Draw:
    """draw(n, generator) of digits, each turned anew."""

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(digits), (n,), generator=generator)
        return turn(digits.images[chosen], generator), digits.labels[chosen]

    return draw


def describe(digits: data.Digits) -> str:
    """The data in words, for checkpoint and model card."""
    return (
        f"{digits.source.name}, {len(digits):,} digits, turned by a new uniform random angle at "
        "each draw"
    )


def turned_digits(
    source: str = "mnist",
    download: bool = False,
    *,
    split: str = "train",
    count: int | None = None,
) -> TrainingImages:
    """Digits, each turned anew at each draw; held-out test digits, each turned once.

    Args:
        source: as in `data.digits`.
        download: as in `data.digits`.
        split: of the digits to draw, "train" or "test".
        count: draw this many alone, as `data.balanced` chooses; None for all.
    """
    checks.choice("split", split, ("train", "test"))
    digits = data.digits(source, split=split, download=download)
    test = data.digits(source, split="test", download=download)
    options = "" if source == "mnist" else f" --digits {source}"
    if split != "train":
        options += f" --split {split}"
    if count is not None:
        digits = data.balanced(digits, count)
        options += f" --count {count}"
    unseen = test.images
    if split == "test":
        unseen = data.balanced(test, len(test)).images[len(digits) :]
    if len(unseen) == 0:
        raise ValueError("split 'test' wants a count: some test digits must be held out")
    # A few digits are shown in many turns.
    own = digits.images.repeat(-(-HELD_OUT // len(digits)), 1, 1, 1)[:HELD_OUT]
    return TrainingImages(
        draw=turned_draw(digits),
        own=turn(own, torch.Generator().manual_seed(1)),
        held_out=turn(_spread(unseen), torch.Generator().manual_seed(0)),
        description=describe(digits),
        held_out_description=f"of {test.source.name}, spread over its file, each turned once by a "
        "uniform random angle (seed 0)",
        licence=digits.source.licence,
        origin=digits.source.origin,
        fallback=digits.source.fallback,
        options=options,
    )


def _spread(images: Tensor) -> Tensor:
    """At most HELD_OUT images, spread over their file: MNIST's first test digits are easy."""
    return images[:: max(1, len(images) // HELD_OUT)][:HELD_OUT]


def folder_images(folder: str | Path) -> TrainingImages:
    """The images of a folder as they are, in grey, without classes; each tenth is held out.

    Raises:
        ValueError: fewer than two images.
        FileNotFoundError: no such folder.
    """
    pictures = images.read_folder(folder, size=28, channels=1)
    if len(pictures) < 2:
        raise ValueError(
            f"{folder} has one image; training wants at least 2, one of them is held out"
        )
    held_out = torch.arange(len(pictures)) % 10 == 0
    kept = pictures[~held_out]

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(kept), (n,), generator=generator)
        return kept[chosen], torch.full((n,), NO_CLASS)

    name = Path(folder).resolve().name
    return TrainingImages(
        draw=draw,
        own=kept[:HELD_OUT],
        held_out=pictures[held_out][:HELD_OUT],
        description=f"{len(kept):,} images of the folder {name}, grey, 28×28",
        held_out_description="of the same folder",
        licence="that of the images",
        origin="a local folder",
        options=" --images …",
    )


def denoising_loss(
    score: DenoiserScore,
    draw: Draw,
    *,
    batch: int,
    median: float = 0.5,
    spread: float = 1.2,
    unconditional: float = 0.5,
) -> Loss:
    """E w(sigma) ‖D(x + sigma·noise; sigma) − x‖², w the weight of the score's own prediction.

    log sigma is normal about log(median), as in Karras et al. 2022, table 1.

    Args:
        score: says how its network denoises.
        draw: draw(n, generator) -> images (n, *event), classes (n,).
        batch: images a step.
        median: of sigma, which is kept in the score's range.
        spread: standard deviation of log sigma.
        unconditional: share of a conditional network's images that are shown as "no class", so
            that one network has both scores (Ho & Salimans 2021).
    """

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        clean, classes = draw(batch, generator)
        normal = torch.randn(batch, generator=generator, dtype=torch.float64)
        sigma = (median * (spread * normal).exp()).clamp(*score.noise_range)
        noise = torch.randn(clean.shape, generator=generator)
        dropped = torch.rand(batch, generator=generator) < unconditional
        denoiser = copy.copy(score)
        denoiser.model = model
        denoiser.training = True
        denoiser.sigma = sigma
        denoiser.micro_batch = batch
        if score.label is not None:
            denoiser.label = torch.where(dropped, score.label, classes).to(device)
        noisy = clean + sigma.to(clean).reshape(-1, 1, 1, 1) * noise
        error = denoiser.posterior_mean(noisy.to(device)) - clean.to(device)
        # The schedule measures in the model's units, which are `scale` times those of the images.
        weight = score.schedule.weight(score.scale * sigma) * score.scale**2
        return (weight.to(error) * error.square().flatten(1).mean(1)).mean()

    return loss


def denoising_error(
    score: DenoiserScore, pictures: Tensor, levels: Iterable[float], *, seed: int = 0
) -> dict[float, float]:
    """Mean squared denoising error a pixel on images (n, *event), at each noise level."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(pictures.shape, generator=generator)
    errors = {}
    for sigma in levels:
        denoised = score.at(sigma).denoise(pictures + sigma * noise)
        errors[sigma] = F.mse_loss(denoised, pictures).item()
    return errors


def save_denoiser(
    folder: str | Path,
    score: DenoiserScore,
    text: str,
    extra: dict[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Write network and scheduler in diffusers' layout, README.md and extra files, all or nothing.

    Args:
        folder: as in `write_folder`, with its errors.
        score: whose network and scheduler are written.
        text: the model card.
        extra: name → function that writes that file.
    """
    from diffusers import DDPMPipeline

    def write(draft: Path) -> None:
        pipe = DDPMPipeline(score.model, score.scheduler)
        pipe.save_pretrained(draft, safe_serialization=True)
        (draft / "README.md").write_text(text, encoding="utf-8")
        for name, write_file in (extra or {}).items():
            write_file(draft / name)

    return write_folder(folder, write, WRITTEN)


def card(
    name: str,
    score: DenoiserScore,
    state: State,
    errors: dict[str, dict[float, float]],
    training: TrainingImages,
    *,
    samples: int,
    machine: str,
) -> str:
    """The model card: data, steps, time, machine, held-out errors, licence, use, limits."""
    lowest, highest = score.noise_range
    parameters = sum(p.numel() for p in score.model.parameters())
    rows = f"\n| its licence | {training.licence} ({training.origin}) |"
    if training.fallback:
        rows += "\n| fallback | MNIST was not on the machine; these are scikit-learn's digits |"
    error_rows = "\n".join(
        f"| {sigma:g} | {own:.5f} | {errors['held out'][sigma]:.5f} |"
        for sigma, own in errors["own"].items()
    )
    picture = ""
    if samples:
        picture = (
            f"`samples.png`: {samples} draws (`lib.flow.sample`, 24 Heun steps, "
            f"seed {state.settings.seed}), not chosen.\n"
        )
    return f"""# {name}

A denoiser of small grey images, {parameters:,} parameters: a diffusers `UNet2DModel` with EDM
preconditioning (Karras et al. 2022), class-conditional (digits 0 to 9; class {NO_CLASS} is "no
class", shown in half of the training). Its weights are the averaged ones. `lib.scores.load` makes a
score of it: s(x) = (D(x) − x)/sigma² on (n, 1, 28, 28) in [0, 1], for sigma from {lowest:g} to
{highest:g}.

{training_table(state, machine, rows)}

Mean squared denoising error per pixel E(D(x + sigma n) − x)², without class, one noise draw
(seed 0); own: {len(training.own)} of the training images; held out: {len(training.held_out)} images
{training.held_out_description}:

| sigma | own | held out |
|---|---|---|
{error_rows}

{picture}
Remake: `python -m experiments.training {NAME}{training.options}`.

**Intended use**: the learned score of this project's notebooks, and tests.
**Limits**: it knows images of the kind named above and nothing else, and no noise outside the range
above. A score is (D(x) − x)/sigma², so an error of D weighs more the smaller sigma is. The pipeline
class in model_index.json serves the layout only: with an EDM scheduler, draw with
`lib.flow.sample`, not by calling that pipeline.
"""


def _write_losses(path: Path, losses: list[float], every: int = 25) -> None:
    """Mean losses of each `every` steps, as a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "mean_loss"])
        for first in range(0, len(losses), every):
            part = losses[first : first + every]
            writer.writerow([first + len(part), f"{sum(part) / len(part):.6f}"])
