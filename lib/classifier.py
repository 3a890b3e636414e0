"""A small classifier of digits turned by any angle; its features serve FID, KID and a perceptual distance under its own name.

A 6 and a 9 turned by any angle cannot be told apart, so they are one class: nine classes, CLASSES. This is neither Inception
nor LPIPS: numbers from these features compare methods within this project and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from . import checks, data
from .figures import replacing
from .training import Loss, Settings, fit, made_how

CLASSES = ("0", "1", "2", "3", "4", "5", "6 or 9", "7", "8")
MODEL, CONFIG, CARD, REFERENCE = "model.safetensors", "config.json", "README.md", "reference.safetensors"
WIDTHS = (24, 48, 64)
SETTINGS = Settings(steps=2500, batch=128, rate=3e-3, warmup=0, ema=0.0, clip=1e6)    # plain AdamW: no averaging, no clipping
CHUNK = 32               # images at a time: what stays in a core's cache is twice as fast as 500


class DigitClassifier(nn.Module):
    """Three stages of two 3×3 convolutions at 28², 14² and 7² pixels, mean over space, one linear layer. sha256: of its file."""

    sha256: str | None = None
    event_shape: tuple[int, ...] = (1, 28, 28)
    classes: tuple[str, ...] = CLASSES
    first_stride, kind = 1, "digit classifier"

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        sizes, strides = pairwise((self.event_shape[0], *self.widths)), (self.first_stride, *(2 for _ in self.widths[1:]))
        self.stages = nn.ModuleList(_stage(a, b, stride) for (a, b), stride in zip(sizes, strides, strict=True))
        self.head = nn.Linear(self.widths[-1], len(self.classes))

    def layers(self, images: Tensor) -> list[Tensor]:
        """Activations after each stage, (n, 24, 28, 28), (n, 48, 14, 14), (n, 64, 7, 7), of images (n, 1, 28, 28) in [0, 1]."""
        checks.floating("images", images)
        if tuple(images.shape[1:]) != self.event_shape:
            raise ValueError(f"the {self.kind} takes images (n, {', '.join(map(str, self.event_shape))}) in [0, 1], "
                             f"got {tuple(images.shape)}")
        x, found = images.to(self.head.weight), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 9) of images (n, 1, 28, 28) in [0, 1]."""
        return self.head(self.layers(images)[-1].mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """Last activations averaged over space, (n, 64), of images (n, 1, 28, 28) in [0, 1]: what FID and KID are taken of."""
        return _in_chunks(lambda x: self.layers(x)[-1].mean((2, 3)), images)

    def perceptual_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ_layers mean_space ‖φ(a)/‖φ(a)‖ − φ(b)/‖φ(b)‖‖², φ the channels at one place: (n, 1, 28, 28) twice -> (n,), ≥ 0.

        The form of LPIPS (Zhang et al. 2018, eq. 1) on this classifier's three stages, without learned weights (w = 1).
        """
        checks.same_layout("a", a, "b", b)
        return _in_chunks(lambda x, y: sum(map(_unit_difference, self.layers(x), self.layers(y))), a, b)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images (n, 1, 28, 28) whose most likely class is that of their digit, labels (n,) in 0..9."""
        return float((_in_chunks(self, images).argmax(1) == self.target(labels)).double().mean())

    def target(self, labels: Tensor) -> Tensor:
        """Index into `classes` of digits (n,) in 0..9."""
        return to_class(labels)


@dataclass(frozen=True)
class Reference:
    """Features of turned held-out digits: mean (k,), covariance (k, k) of all of them, sample (≤ 1000, k), all float64.

    made_of: the set in words. model: sha256 of the classifier whose features these are.
    """

    mean: Tensor
    covariance: Tensor
    sample: Tensor
    made_of: str
    model: str


def load_classifier(folder: str | Path | None = None) -> DigitClassifier:
    """The bundled classifier (checksum from data/registry.toml), or that of a folder `train_classifier` wrote; on the CPU.

    FileNotFoundError: a file is missing. ValueError: damaged, cut short, or another architecture. Nothing is unpickled.
    """
    files = _files("digit-classifier", (MODEL, CONFIG), folder)
    try:
        config = json.loads(files[CONFIG].read_text(encoding="utf-8"))
        widths, sha256 = tuple(map(int, config["widths"])), str(config["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{files[CONFIG]} is no config of a digit classifier ({error!r}); restore it or train anew") from error
    raw = files[MODEL].read_bytes()
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{files[MODEL]} does not have the sha256 of its {CONFIG}: damaged or cut short; restore it")
    model = DigitClassifier(widths)
    try:
        model.load_state_dict(safetensors.torch.load(raw))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{files[MODEL]} holds no digit classifier of widths {widths}: {error}") from error
    model.sha256 = sha256
    return model.eval().requires_grad_(False)


def load_reference(folder: str | Path | None = None) -> Reference:
    """The bundled feature statistics of turned held-out digits, or those of a folder. Errors as `load_classifier`."""
    path = _files("digit-classifier-reference", (REFERENCE,), folder)[REFERENCE]
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_tensor(name).double() for name in ("mean", "covariance", "sample")}
            return Reference(**parts, **{name: file.metadata()[name] for name in ("made_of", "model")})
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no reference statistics ({error}); restore it or run make_reference") from error


def make_reference(folder: str | Path, classifier: DigitClassifier, *, source: str = "mnist", rows: int = 1000,
                   seed: int = 2) -> Path:
    """Write `reference.safetensors`: features of every test digit of `source`, each turned by a uniform random angle."""
    generator = torch.Generator().manual_seed(seed)
    digits = data.digits(source, split="test")
    features = classifier.features(turned(digits.images, generator)).double()
    keep = torch.randperm(len(features), generator=generator)[:rows]
    parts = {"mean": features.mean(0), "covariance": features.T.cov(), "sample": features[keep]}
    about = {"made_of": f"{len(features):,} test digits ({digits.source.name}), each turned by a uniform angle, seed {seed}",
             "model": str(classifier.sha256)}
    with replacing(Path(folder) / REFERENCE) as (draft,):
        draft.write_bytes(safetensors.torch.save({name: part.float() for name, part in parts.items()}, about))
    return Path(folder) / REFERENCE


def train_classifier(folder: str | Path, settings: Settings = SETTINGS, *, source: str = "mnist") -> DigitClassifier:
    """Train on randomly turned training digits (`training.fit`); write model, config and model card; return the model.

    Ten minutes on one CPU thread. source: as in `data.digits`. Held-out accuracy: every test digit, turned once (seed 1).
    """
    digits, test = (data.digits(source, split=split) for split in ("train", "test"))
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.default_generator.manual_seed(settings.seed)
        model = DigitClassifier()
    with TemporaryDirectory() as work:
        state = fit(model, classifying_loss(digits, settings.batch), work, settings,
                    data=f"{digits.source.name}, {len(digits):,} digits, turned by a new uniform random angle at each draw")
    model = state.average.eval().requires_grad_(False)
    accuracy = model.accuracy(turned(test.images, torch.Generator().manual_seed(1)), test.labels)
    weights = safetensors.torch.save(model.state_dict())
    model.sha256 = hashlib.sha256(weights).hexdigest()
    config = {"model": "digit-classifier", "widths": model.widths, "classes": CLASSES, "sha256": model.sha256,
              "training": {"data": digits.source.name, **asdict(settings)},
              "held_out": {"data": test.source.name, "digits": len(test), "accuracy": accuracy}}
    card = _card(config, sum(p.numel() for p in model.parameters()), made_how(state, settings))
    with replacing(*(Path(folder) / name for name in (MODEL, CONFIG, CARD))) as drafts:
        for draft, content in zip(drafts, (weights, json.dumps(config, indent=2).encode() + b"\n", card.encode()), strict=True):
            draft.write_bytes(content)
    return model


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each turned by its own angle, uniform in [0°, 360°)."""
    return data.rotate(images, 360 * torch.rand(len(images), generator=generator, dtype=torch.float64))


def to_class(labels: Tensor) -> Tensor:
    """Index into CLASSES of digits (n,) in 0..9: a 9 is a turned 6."""
    return torch.where(labels == 9, 6, labels)


def classifying_loss(digits: data.Digits, batch: int) -> Loss:
    """Cross-entropy of `batch` random digits, each turned by its own random angle."""
    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(digits), (batch,), generator=generator)
        return F.cross_entropy(model(turned(digits.images[pick], generator)), to_class(digits.labels[pick]))

    return loss


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    layers = [(nn.Conv2d(a, channels, 3, s, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
              for a, s in ((channels_in, stride), (channels, 1))]
    return nn.Sequential(*layers[0], *layers[1])


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    a, b = (F.normalize(x, dim=1, eps=1e-10) for x in (a, b))
    return (a - b).square().sum(1).mean((1, 2))


@torch.no_grad()
def _in_chunks(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    return torch.cat([function(*parts) for parts in zip(*(x.split(CHUNK) for x in images), strict=True)])


def _files(name: str, wanted: tuple[str, ...], folder: str | Path | None) -> dict[str, Path]:
    found = data.locate(name) if folder is None else {file: Path(folder) / file for file in wanted}
    if not found or not all(path.is_file() for path in found.values()):
        where = data.registry()[name]["bundled"] if folder is None else folder
        raise FileNotFoundError(f"{' or '.join(wanted)} is missing in {where}; restore it from the repository, or make it with "
                                "train_classifier and make_reference of lib.classifier")
    return found


def _card(config: dict, parameters: int, training: str) -> str:
    test, k = config["held_out"], config["widths"][-1]
    held_out = f"{test['accuracy']:.4f} on {test['digits']:,} digits ({test['data']})"
    return f"""# Digit classifier

Tells digits turned by any angle apart; a 6 and a 9 are one class, because turning makes one of the other. Nine classes,
{parameters:,} parameters, input (n, 1, 28, 28) in [0, 1]. Its last features, averaged over space ({k} numbers), serve FID
and KID here, the activations of its three stages a perceptual distance. It is no Inception and no LPIPS network.

{training}
| held-out accuracy | {held_out}, each turned once by a uniform random angle |
| sha256 of {MODEL} | `{config["sha256"]}` |

Remake: `train_classifier(folder)` and `make_reference(folder, load_classifier(folder))` in `lib/classifier.py`. `{REFERENCE}`
holds mean and covariance of the features of the turned test digits, and 1,000 of them.
"""
