"""Small classifiers trained here; their features serve FID, KID and a perceptual distance under their own name.

"digits": of digits turned by any angle (experiments.classifiers.digits); "hands": of photographs of hands signing digits
(experiments.classifiers.hands). Neither is Inception or LPIPS: numbers from these features compare methods within this project and
nothing else. experiments.training.classifiers makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lib import checks

from .. import data
from ..training.loop import Settings

Draw = Callable[
    [int, torch.Generator], tuple[Tensor, Tensor]
]  # n → images (n, *event), digits (n,)

MODEL, CONFIG, CARD, REFERENCE = (
    "model.safetensors",
    "config.json",
    "README.md",
    "reference.safetensors",
)
CHUNK = 32  # images at a time: what stays in a core's cache is twice as fast as 500


class HeldOut(NamedTuple):
    """Held-out images (n, *event) in [0, 1] with their digits (n,), and moved(generator): those of a reference; both in words."""

    images: Tensor
    labels: Tensor
    words: str
    moved: Callable[[torch.Generator], Tensor]
    moved_words: str


class Classifier(nn.Module):
    """Stages of two 3×3 convolutions, each but the first at half the size before, mean over space, one linear layer.

    A kind of it says what its images are, what it is trained on and measured by. sha256: of its file, once it has one.
    """

    sha256: str | None = None
    kind: ClassVar[str]  # in config.json and data/registry.toml
    event_shape: ClassVar[tuple[int, ...]]
    classes: ClassVar[tuple[str, ...]]
    widths: tuple[int, ...]  # channels of each stage
    first_stride: ClassVar[int] = 1
    smoothing: ClassVar[float] = 0.0  # of the labels, in training
    settings: ClassVar[Settings]
    about: ClassVar[str]  # what it tells apart, and limits: for the model card
    against: ClassVar[str]  # what its reference is made of: for definitions

    def __init__(self, widths: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.widths = tuple(widths or self.widths)
        sizes, strides = (
            pairwise((self.event_shape[0], *self.widths)),
            (self.first_stride, *(2 for _ in self.widths[1:])),
        )
        self.stages = nn.ModuleList(
            _stage(a, b, stride) for (a, b), stride in zip(sizes, strides, strict=True)
        )
        self.head = nn.Linear(self.widths[-1], len(self.classes))

    @classmethod
    def training_draw(cls, source: str | None = None) -> tuple[Draw, str]:
        """draw(n, generator) of moved training images, and the data in words."""
        raise NotImplementedError

    @classmethod
    def held_out(cls, source: str | None = None) -> HeldOut:
        """What it is measured on, and what its reference is made of."""
        raise NotImplementedError

    def target(self, labels: Tensor) -> Tensor:
        """Index into `classes` of digits (n,) in 0..9."""
        return labels

    def layers(self, images: Tensor) -> list[Tensor]:
        """Activations (n, width, h, w) after each stage, of images (n, *event_shape) in [0, 1]."""
        checks.floating("images", images)
        if tuple(images.shape[1:]) != self.event_shape:
            raise ValueError(
                f"the {self.name} takes images (n, {', '.join(map(str, self.event_shape))}) in [0, 1], got "
                f"{tuple(images.shape)}; load_classifier('digits') and load_classifier('hands') differ in that"
            )
        x, found = images.to(self.head.weight), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, *event_shape) in [0, 1]."""
        return self.head(self.layers(images)[-1].mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """Last activations averaged over space, (n, widths[-1]): what FID and KID are taken of."""
        return _in_chunks(lambda x: self.layers(x)[-1].mean((2, 3)), images)

    def perceptual_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ_layers mean_space ‖φ(a)/‖φ(a)‖ − φ(b)/‖φ(b)‖‖², φ the channels at one place: (n, *event_shape) twice -> (n,), ≥ 0.

        The form of LPIPS (Zhang et al. 2018, eq. 1) on this classifier's stages, without learned weights (w = 1).
        """
        checks.same_layout("a", a, "b", b)
        return _in_chunks(
            lambda x, y: sum(map(_unit_difference, self.layers(x), self.layers(y))), a, b
        )

    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether the most likely class of images (n, *event_shape) is that of their digits (n,) in 0..9: (n,) of bool."""
        return _in_chunks(self, images).argmax(1) == self.target(labels)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images whose most likely class is that of their digit; arguments as `right`."""
        return float(self.right(images, labels).double().mean())

    @property
    def name(self) -> str:
        return self.kind.replace("-", " ")


@dataclass(frozen=True)
class Reference:
    """Features of moved held-out images: mean (k,), covariance (k, k) of all of them, sample (≤ 1000, k), all float64.

    made_of: the set in words. model: sha256 of the classifier whose features these are.
    """

    mean: Tensor
    covariance: Tensor
    sample: Tensor
    made_of: str
    model: str


def kinds() -> dict[str, type[Classifier]]:
    """The bundled classifiers by name: "digits" and "hands"."""
    from .digits import DigitClassifier  # which are made of this module's Classifier
    from .hands import HandClassifier

    return {"digits": DigitClassifier, "hands": HandClassifier}


def load_classifier(name: str | Path = "digits") -> Classifier:
    """The bundled classifier of "digits" or "hands" (checksum from data/registry.toml), or that of a folder; on the CPU.

    A folder is one that `train_classifier` wrote; its config.json says which kind it holds.
    FileNotFoundError: a file is missing. ValueError: damaged, cut short, or another architecture. Nothing is unpickled.
    """
    files, known = _files(name, (MODEL, CONFIG)), {kind.kind: kind for kind in kinds().values()}
    try:
        config = json.loads(files[CONFIG].read_text(encoding="utf-8"))
        kind, widths, sha256 = (
            known[config["model"]],
            tuple(map(int, config["widths"])),
            str(config["sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{files[CONFIG]} is no config of a {' or '.join(known)} ({error!r}); restore it or train "
            "anew"
        ) from error
    raw = files[MODEL].read_bytes()
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(
            f"{files[MODEL]} does not have the sha256 of its {CONFIG}: damaged or cut short; restore it"
        )
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, then replaced
        model = kind(widths)
    try:
        model.load_state_dict(safetensors.torch.load(raw))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{files[MODEL]} holds no {model.name} of widths {widths}: {error}"
        ) from error
    model.sha256 = sha256
    return model.eval().requires_grad_(False)


def load_reference(name: str | Path = "digits") -> Reference:
    """The feature statistics of "digits" or "hands" that are bundled, or those of a folder. Errors as `load_classifier`."""
    path = _files(name, (REFERENCE,), "-reference")[REFERENCE]
    try:
        with safe_open(path, "pt") as file:
            parts = {
                part: file.get_tensor(part).double() for part in ("mean", "covariance", "sample")
            }
            return Reference(
                **parts, **{part: file.metadata()[part] for part in ("made_of", "model")}
            )
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no reference statistics ({error}); restore it or run make_reference"
        ) from error


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    layers = [
        (nn.Conv2d(a, channels, 3, s, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        for a, s in ((channels_in, stride), (channels, 1))
    ]
    return nn.Sequential(*layers[0], *layers[1])


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    a, b = (F.normalize(x, dim=1, eps=1e-10) for x in (a, b))
    return (a - b).square().sum(1).mean((1, 2))


@torch.no_grad()
def _in_chunks(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    return torch.cat(
        [function(*parts) for parts in zip(*(x.split(CHUNK) for x in images), strict=True)]
    )


def _files(name: str | Path, wanted: tuple[str, ...], end: str = "") -> dict[str, Path]:
    bundled = kinds().get(str(name))
    entry = data.registry().get(bundled.kind + end) if bundled else None
    found = (
        data.locate(bundled.kind + end)
        if entry
        else None
        if bundled
        else {file: Path(name) / file for file in wanted}
    )
    if not found or not all(path.is_file() for path in found.values()):
        where = (entry or {"bundled": f"models/{bundled.kind}"})["bundled"] if bundled else name
        raise FileNotFoundError(
            f"{' or '.join(wanted)} is missing in {where}; restore it from the repository, or make it with "
            "train_classifier of experiments.training.classifiers; bundled are 'digits' and 'hands'"
        )
    return found
