"""Trains the bundled classifiers, measures them and writes their folders."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import checks
from lib.files import replacing

from .. import data, hands
from ..classifiers.loading import CONFIG, KINDS, MODEL, REFERENCE
from ..classifiers.networks import Classifier
from .folders import require_replaceable, training_table, write_folder
from .loop import Loss, Settings, State, fit
from .networks import seeded
from .rotated_mnist import Draw, describe, turn, turned_draw

CARD = "README.md"
WRITTEN = {MODEL, CONFIG, CARD, REFERENCE}
PHOTOGRAPHS = "sign-digits"
COPIES = 10  # of each held-out photograph, moved differently, in the reference
ROWS = 1000  # of features in a reference


@dataclass(frozen=True)
class TrainingData:
    """What a classifier is trained on and measured by.

    Attributes:
        draw: draw(n, generator) -> moved training images and their digits.
        description: of these.
        images: held-out images, (n, *event) in [0, 1].
        labels: their digits, (n,).
        held_out_description: of these.
        move: move(generator) -> the held-out images, moved, of which the reference is made.
        reference_description: of these.
    """

    draw: Draw
    description: str
    images: Tensor
    labels: Tensor
    held_out_description: str
    move: Callable[[torch.Generator], Tensor]
    reference_description: str


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        settings: of the training.
        read: what it is trained on, by the source of its data (None for its own).
        smoothing: of the labels.
    """

    settings: Settings
    read: Callable[[str | None], TrainingData]
    smoothing: float = 0.0


def turned_digits(source: str | None = None) -> TrainingData:
    """Digits of a source as in `data.digits` (MNIST if None), each turned by its own angle."""
    train = data.digits(source or "mnist", split="train")
    test = data.digits(source or "mnist", split="test")
    return TrainingData(
        draw=turned_draw(train),
        description=describe(train),
        images=turn(test.images, torch.Generator().manual_seed(1)),
        labels=test.labels,
        held_out_description=f"{len(test):,} digits ({test.source.name}), each turned once by a "
        "uniform random angle",
        move=lambda generator: turn(test.images, generator),
        reference_description=f"{len(test):,} test digits ({test.source.name}), each turned by a "
        "uniform angle",
    )


def moved_photographs(source: str | None = None) -> TrainingData:
    """The photographs of hands, moved at random in training; ValueError for another source."""
    checks.choice("source of photographs", source or PHOTOGRAPHS, [PHOTOGRAPHS])
    train = hands.photographs("train")
    test = hands.photographs("test")

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train), (n,), generator=generator)
        return hands.augment(train.pixels[chosen], generator), train.labels[chosen]

    def move(generator: torch.Generator) -> Tensor:
        return torch.cat([hands.augment(test.pixels, generator) for _ in range(COPIES)])

    return TrainingData(
        draw=draw,
        description=f"{PHOTOGRAPHS}, {len(train):,} photographs, each moved anew at each draw",
        images=hands.move(test.pixels),
        labels=test.labels,
        held_out_description=f"{len(test):,} photographs ({PHOTOGRAPHS}, every tenth), as they are",
        move=move,
        reference_description=f"{COPIES * len(test):,} pictures: each of {len(test):,} held-out "
        f"photographs ({PHOTOGRAPHS}), moved {COPIES} times at random",
    )


RECIPES = {
    # Plain AdamW: no averaging, no clipping.
    "digits": Recipe(
        Settings(steps=2500, batch=128, rate=3e-3, warmup=0, ema=0.0, clip=1e6),
        turned_digits,
    ),
    "hands": Recipe(
        Settings(steps=1500, batch=64, rate=2e-3, warmup=50, ema=0.995, clip=1.0, every=250),
        moved_photographs,
        smoothing=0.05,
    ),
}


def train_classifier(
    folder: str | Path,
    settings: Settings | None = None,
    *,
    name: str = "digits",
    source: str | None = None,
    work: str | Path | None = None,
    until: int | None = None,
    device: str | torch.device = "cpu",
    machine: str = "",
    progress: bool = True,
) -> Classifier:
    """Train a classifier, measure it, and write model, config, model card and reference.

    Args:
        folder: made as a whole or not at all.
        settings: of the training, those of the bundled classifier if None.
        name: "digits" or "hands".
        source: of the data, as its recipe takes it.
        work: keeps the checkpoint; a training that was cut short goes on from there.
        until: stop after this step.
        device: to train on.
        machine: in words, for the card; this one if empty.
        progress: whether to show a bar.

    Returns:
        The classifier of the averaged weights, on the CPU.

    Raises:
        ValueError, OSError: bad input, before any step is made; and as `fit` and `write_folder`.
    """
    device = checks.device(device)
    require_replaceable(folder, WRITTEN)
    recipe = RECIPES[checks.choice("classifier", name, RECIPES)]
    settings = settings or recipe.settings
    training = recipe.read(source)
    model = seeded(settings.seed, KINDS[name]).to(device)
    loss = classification_loss(training.draw, settings.batch, recipe.smoothing)
    with TemporaryDirectory() as temporary:
        state = fit(
            model,
            loss,
            work or temporary,
            settings,
            data=training.description,
            until=until,
            progress=progress,
        )
    model = state.average.to("cpu")
    weights = safetensors.torch.save(model.state_dict())
    model.sha256 = hashlib.sha256(weights).hexdigest()
    config = _config(model, state, training)
    contents = {
        MODEL: weights,
        CONFIG: json.dumps(config, indent=2).encode() + b"\n",
        REFERENCE: _reference(model, training),
        CARD: _card(model, config, training_table(state, machine)).encode(),
    }

    def write(draft: Path) -> None:
        draft.mkdir()
        for file, content in contents.items():
            (draft / file).write_bytes(content)

    write_folder(folder, write, WRITTEN)
    return model


def classification_loss(draw: Draw, batch: int, smoothing: float = 0.0) -> Loss:
    """Cross-entropy, labels smoothed, of the images and digits that draw(n, generator) gives."""

    def loss(model: Classifier, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        images, labels = draw(batch, generator)
        logits = model(images.to(device))
        target = model.target(labels).to(device)
        return F.cross_entropy(logits, target, label_smoothing=smoothing)

    return loss


def make_reference(
    folder: str | Path,
    classifier: Classifier,
    *,
    name: str = "digits",
    source: str | None = None,
    rows: int = ROWS,
) -> Path:
    """Write `reference.safetensors`, the features of held-out images, moved, of a source."""
    path = Path(folder) / REFERENCE
    training = RECIPES[checks.choice("classifier", name, RECIPES)].read(source)
    with replacing(path) as (draft,):
        draft.write_bytes(_reference(classifier, training, rows))
    return path


def _reference(model: Classifier, training: TrainingData, rows: int = ROWS, seed: int = 2) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    features = model.features(training.move(generator)).double()
    chosen = torch.randperm(len(features), generator=generator)[:rows]
    tensors = {
        "mean": features.mean(0).float(),
        "covariance": features.T.cov().float(),
        "sample": features[chosen].float(),
    }
    metadata = {
        "made_of": f"{training.reference_description}, seed {seed}",
        "model": str(model.sha256),
    }
    return safetensors.torch.save(tensors, metadata)


def _config(model: Classifier, state: State, training: TrainingData) -> dict:
    return {
        "model": model.kind,
        "widths": model.widths,
        "classes": model.classes,
        "sha256": model.sha256,
        "training": {"data": state.data, **asdict(state.settings)},
        "held_out": {
            "data": training.held_out_description,
            "images": len(training.labels),
            "accuracy": model.accuracy(training.images, training.labels),
        },
        "reference": training.reference_description,
    }


def _card(model: Classifier, config: dict, table: str) -> str:
    shape = ", ".join(map(str, model.event_shape))
    held_out = config["held_out"]
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# {model.name.capitalize()}

{model.about}
{len(model.classes)} classes, {parameters:,} parameters, input (n, {shape}) in [0, 1].

Its last features, averaged over space ({model.widths[-1]} numbers), serve FID and KID here, the
activations of its {len(model.widths)} stages a perceptual distance. It is no Inception and no LPIPS
network. `{REFERENCE}` holds mean and covariance of the features of
{config["reference"]}, and 1,000 of them.

{table}
| held-out accuracy | {held_out["accuracy"]:.4f} on {held_out["data"]} |
| sha256 of {MODEL} | `{model.sha256}` |

Remake: `python -m experiments.training {model.kind}`.
"""
