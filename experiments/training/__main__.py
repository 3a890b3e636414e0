"""`python -m experiments.training NAME` makes a bundled model again, or one of own images."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from torch import OutOfMemoryError

from . import classifiers, hands, hands_flow, rotated_mnist
from .folders import registry_lines

ROOT = Path(__file__).resolve().parents[2]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train a bundled model again, or on other images; measure it and write it with its model "
    "card. A training that was cut short goes on when the same command is given again.",
)

Out = Annotated[
    Path | None,
    typer.Option(help="The model is written here.", show_default="build/models/NAME"),
]
Work = Annotated[
    Path | None,
    typer.Option(help="Checkpoints are kept here.", show_default="build/training/NAME"),
]
Steps = Annotated[int, typer.Option(help="Length of the learning rate's schedule.")]
Until = Annotated[
    int | None, typer.Option(help="Stop after this step of it, to go on another time.")
]
Seed = Annotated[int, typer.Option(help="Of the first weights and of all that is drawn.")]
Device = Annotated[str, typer.Option(help="To train on: cpu, cuda, …")]
Machine = Annotated[
    str, typer.Option(help="In words, for the model card.", show_default="this one")
]
Digits = Annotated[str, typer.Option(help="mnist, sklearn, or auto (what is there).")]


@app.command(rotated_mnist.NAME)
def train_rotated_mnist(
    out: Out = None,
    work: Work = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Train on the images of this folder, as they are, and name the model so."
        ),
    ] = None,
    digits: Digits = "mnist",
    split: Annotated[str, typer.Option(help="Train on the train or the test digits.")] = "train",
    count: Annotated[
        int | None,
        typer.Option(
            help="Train on so many of them, one of each class in turn.", show_default="all"
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help="Go on from the weights of this model: a name or a folder."),
    ] = None,
    download: Annotated[bool, typer.Option(help="MNIST may be downloaded.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Length of the learning rate's schedule.",
            show_default=f"{rotated_mnist.SETTINGS.steps}, or "
            f"{rotated_mnist.FINE_TUNING.steps} with --from",
        ),
    ] = None,
    until: Until = None,
    seed: Seed = 0,
    device: Device = "cpu",
    samples: Annotated[int, typer.Option(help="Draws for samples.png, 0 for none.")] = 100,
    machine: Machine = "",
) -> None:
    """A denoiser of turned digits, or of the images of a folder (2 hours on 2 cores)."""
    name = images.resolve().name if images else rotated_mnist.NAME
    if count is not None:
        name = f"{name}-{count}"
    out, work = _folders(name, out, work)
    settings = rotated_mnist.SETTINGS if first is None else rotated_mnist.FINE_TUNING
    rotated_mnist.train_rotated_mnist(
        out,
        work,
        replace(settings, steps=settings.steps if steps is None else steps, seed=seed),
        until=until,
        source=digits,
        split=split,
        count=count,
        first=first,
        download=download,
        pictures=images,
        samples=samples,
        device=device,
        machine=machine,
    )
    _report(name, out)


@app.command(hands.NAME)
def train_hands(
    out: Out = None,
    work: Work = None,
    until: Until = None,
    seed: Seed = 0,
    device: Device = "cpu",
    samples: Annotated[int, typer.Option(help="Of each digit, for samples.png.")] = 8,
    machine: Machine = "",
) -> None:
    """A latent text-to-image model of hands; --until counts in either of its two trainings."""
    out, work = _folders(hands.NAME, out, work)
    hands.train_hands(
        out,
        work,
        replace(hands.AUTOENCODER, seed=seed),
        replace(hands.DENOISER, seed=seed),
        until=until,
        samples=samples,
        device=device,
        machine=machine,
    )
    _report(hands.NAME, out)


@app.command(hands_flow.NAME)
def train_hands_flow(
    out: Out = None,
    work: Work = None,
    steps: Steps = hands_flow.SETTINGS.steps,
    until: Until = None,
    seed: Seed = 0,
    device: Device = "cpu",
    samples: Annotated[int, typer.Option(help="Of each digit, for samples.png.")] = 8,
    machine: Machine = "",
) -> None:
    """The same hands by flow matching: a transformer on the latents of "hands"."""
    out, work = _folders(hands_flow.NAME, out, work)
    hands_flow.train_hands_flow(
        out,
        work,
        replace(hands_flow.SETTINGS, steps=steps, seed=seed),
        until=until,
        samples=samples,
        device=device,
        machine=machine,
    )
    _report(hands_flow.NAME, out)


@app.command("digit-classifier")
def train_digit_classifier(
    out: Out = None,
    work: Work = None,
    digits: Digits = "mnist",
    steps: Steps = classifiers.RECIPES["digits"].settings.steps,
    until: Until = None,
    seed: Seed = 0,
    device: Device = "cpu",
    machine: Machine = "",
) -> None:
    """Which digit is it, however it is turned? (ten minutes on one core)"""
    _train_classifier("digits", digits, out, work, steps, until, seed, device, machine)


@app.command("hand-classifier")
def train_hand_classifier(
    out: Out = None,
    work: Work = None,
    steps: Steps = classifiers.RECIPES["hands"].settings.steps,
    until: Until = None,
    seed: Seed = 0,
    device: Device = "cpu",
    machine: Machine = "",
) -> None:
    """Which digit does a hand sign? (twenty minutes on one core)"""
    _train_classifier("hands", None, out, work, steps, until, seed, device, machine)


def _train_classifier(
    name: str,
    source: str | None,
    out: Path | None,
    work: Path | None,
    steps: int,
    until: int | None,
    seed: int,
    device: str,
    machine: str,
) -> None:
    kind = classifiers.KINDS[name].kind
    out, work = _folders(kind, out, work)
    classifiers.train_classifier(
        out,
        replace(classifiers.RECIPES[name].settings, steps=steps, seed=seed),
        name=name,
        source=source,
        work=work,
        until=until,
        device=device,
        machine=machine,
    )
    _report(kind, out)


def _folders(name: str, out: Path | None, work: Path | None) -> tuple[Path, Path]:
    """Where the model of this name is written, and where its checkpoints are kept."""
    return (
        out or ROOT / "build" / "models" / name,
        work or ROOT / "build" / "training" / name,
    )


def _report(name: str, out: Path) -> None:
    """Say where the model lies, and what data/registry.toml must say where it is bundled."""
    print(registry_lines(name, out), end="")
    print(f"model: {os.path.relpath(out)}")


def main() -> None:
    """The command line; a mistake of its user is one line on stderr and exit status 2."""
    # Drafts are then removed on SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except (ValueError, OSError, ArithmeticError, MemoryError, OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
