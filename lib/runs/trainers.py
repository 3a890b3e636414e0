"""The bundled models that `python -m lib.runs train` makes again: a function each, and what data/registry.toml says of them."""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from experiments import data
from experiments.classifiers.base import CONFIG, MODEL, REFERENCE
from experiments.classifiers.hands import HandClassifier
from experiments.training import digits as models
from experiments.training import hands as hands_training
from experiments.training.classifiers import train_classifier

from .. import checks

Trainer = Callable[..., object]


def rotated_mnist(
    out: Path,
    work: Path,
    *,
    images: Path | None = None,
    digits: str = "mnist",
    download: bool = False,
    steps: int = models.SETTINGS.steps,
    until: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    samples: int = 100,
    machine: str | None = None,
) -> None:
    models.train_rotated_mnist(
        out,
        work,
        replace(models.SETTINGS, steps=steps, seed=seed),
        until=until,
        source=digits,
        download=download,
        pictures=images,
        samples=samples,
        device=device,
        machine=machine,
    )


def hands(
    out: Path,
    work: Path,
    *,
    until: int | None = None,
    seed: int = 0,
    samples: int = 8,
    machine: str = "",
) -> None:
    """until: of either training, the autoencoder's and the denoiser's."""
    settings = [
        replace(part, seed=seed) for part in (hands_training.AUTOENCODER, hands_training.DENOISER)
    ]
    hands_training.train_hands(
        out, work, *settings, until=(until, until), samples=samples, machine=machine
    )


def hand_classifier(
    out: Path,
    work: Path,
    *,
    steps: int = HandClassifier.settings.steps,
    until: int | None = None,
    seed: int = 0,
    machine: str = "",
) -> None:
    settings = replace(HandClassifier.settings, steps=steps, seed=seed)
    train_classifier(out, settings, kind="hands", work=work, until=until, machine=machine)


TRAINERS: dict[str, Trainer] = {
    models.NAME: rotated_mnist,
    "hands": hands,
    HandClassifier.kind: hand_classifier,
}
TITLES = {
    "hands": "a latent text-to-image model of hands signing digits, in Stable Diffusion's layout (model card beside it)",
    "hand-classifier": "Classifier of photographs of hands signing digits: features for FID and KID, perceptual distance",
    "hand-classifier-reference": "Its features on moved held-out photographs: mean, covariance, 1,000 rows",
}
PICTURES = {"README.md", "samples.png", "reconstructions.png", "losses.csv"}  # which nothing reads


def fitting(name: str, options: Iterable[str]) -> Trainer:
    """The function that trains the model `name` with these options; ValueError: no such model, or an option of another one."""
    train = TRAINERS[checks.choice("model", name, TRAINERS)]
    known = [
        option for option in inspect.signature(train).parameters if option not in ("out", "work")
    ]
    if wrong := [f"--{option}" for option in options if option not in known]:
        raise ValueError(
            f"{', '.join(wrong)}: not for {name}, which takes --out, --work, "
            f"{', '.join(f'--{option}' for option in known)}"
        )
    return train


def registry_lines(name: str, out: Path) -> str:
    """What data/registry.toml says of the model in `out`, to be pasted there: whole entries; of rotated-mnist the files alone."""
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    if name == models.NAME:
        return _file_lines(out, files)
    if name == HandClassifier.kind:
        return (
            _entry(name, name, out, [MODEL, CONFIG])
            + "\n"
            + _entry(f"{name}-reference", name, out, [REFERENCE])
        )
    return _entry(name, name, out, [file for file in files if file not in PICTURES])


def _entry(name: str, folder: str, out: Path, files: list[str]) -> str:
    licence = f"{data.registry()['sign-digits']['licence']}, as its photographs"
    return (
        f'["{name}"]\ntitle = "{TITLES[name]}"\nlicence = "{licence}"\n'
        f'origin = "made here by python -m lib.runs train {folder}"\nbundled = "models/{folder}"\n'
        f"files = [\n{_file_lines(out, files)}]\n"
    )


def _file_lines(out: Path, files: list[str]) -> str:
    return "".join(
        f'    {{ name = "{file}", size = {(out / file).stat().st_size}, '
        f'sha256 = "{hashlib.sha256((out / file).read_bytes()).hexdigest()}" }},\n'
        for file in files
    )
