"""Trains the bundled classifiers, measures them and writes their folders: model, config, model card, reference."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import checks

from ..classifiers.base import CARD, CONFIG, MODEL, REFERENCE, Classifier, Draw, HeldOut, kinds
from ..figures import replacing
from .digits import replaceable, write_folder
from .loop import Loss, Settings, State, fit, made_how

WRITTEN = {MODEL, CONFIG, CARD, REFERENCE}


def make_reference(
    folder: str | Path,
    classifier: Classifier,
    *,
    source: str | None = None,
    rows: int = 1000,
    seed: int = 2,
) -> Path:
    """Write `reference.safetensors`: features of the held-out images of `source`, moved (`Classifier.held_out`)."""
    with replacing(Path(folder) / REFERENCE) as (draft,):
        draft.write_bytes(_reference(classifier, classifier.held_out(source), rows, seed))
    return Path(folder) / REFERENCE


def train_classifier(
    folder: str | Path,
    settings: Settings | None = None,
    *,
    kind: str = "digits",
    source: str | None = None,
    work: str | Path | None = None,
    until: int | None = None,
    machine: str = "",
    progress: bool = True,
) -> Classifier:
    """Train on moved training images (`training.fit`); write model, config, model card and reference; return the model.

    Ten minutes on one CPU thread. kind: "digits" or "hands". settings: of that kind if None. source: of the data, as in
    `Classifier.training`. work: the checkpoint is kept there, and a training that was cut short goes on. until: stop after this
    step. machine: in words, for the card. The folder is written as a whole or not at all; errors as `fit` and `write_folder`.
    """
    replaceable(Path(folder), WRITTEN)
    kind = kinds()[checks.choice("classifier", kind, kinds())]
    settings, (draw, words), test = (
        settings or kind.settings,
        kind.training_draw(source),
        kind.held_out(source),
    )
    with torch.random.fork_rng(
        devices=[]
    ):  # layers draw their first weights from the global generator
        torch.default_generator.manual_seed(settings.seed)
        model = kind()
    with TemporaryDirectory() as passing:
        state = fit(
            model,
            classifying_loss(draw, settings.batch, model.smoothing),
            work or passing,
            settings,
            data=words,
            until=until,
            progress=progress,
        )
    model = state.average.eval().requires_grad_(False)
    contents = _contents(model, state, settings, test, machine)

    def make(made: Path) -> None:
        made.mkdir()
        for name, content in contents.items():
            (made / name).write_bytes(content)

    write_folder(folder, make, WRITTEN)
    return model


def classifying_loss(draw: Draw, batch: int, smoothing: float = 0.0) -> Loss:
    """Cross-entropy, labels smoothed, of `batch` images that draw(n, generator) -> (images, digits) gives."""

    def loss(model: Classifier, generator: torch.Generator) -> Tensor:
        images, labels = draw(batch, generator)
        return F.cross_entropy(model(images), model.target(labels), label_smoothing=smoothing)

    return loss


def _contents(
    model: Classifier, state: State, settings: Settings, test: HeldOut, machine: str
) -> dict[str, bytes]:
    """What the model's folder holds, by file name; gives the model its sha256."""
    weights = safetensors.torch.save(model.state_dict())
    model.sha256 = hashlib.sha256(weights).hexdigest()
    config = {
        "model": model.kind,
        "widths": model.widths,
        "classes": model.classes,
        "sha256": model.sha256,
        "training": {"data": state.data, **asdict(settings)},
        "held_out": {
            "data": test.words,
            "images": len(test.labels),
            "accuracy": model.accuracy(test.images, test.labels),
        },
        "reference": test.moved_words,
    }
    return {
        MODEL: weights,
        CONFIG: json.dumps(config, indent=2).encode() + b"\n",
        REFERENCE: _reference(model, test),
        CARD: _card(model, config, made_how(state, settings, machine)).encode(),
    }


def _reference(model: Classifier, test: HeldOut, rows: int = 1000, seed: int = 2) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    features = model.features(test.moved(generator)).double()
    keep = torch.randperm(len(features), generator=generator)[:rows]
    parts = {"mean": features.mean(0), "covariance": features.T.cov(), "sample": features[keep]}
    return safetensors.torch.save(
        {name: part.float() for name, part in parts.items()},
        {"made_of": f"{test.moved_words}, seed {seed}", "model": str(model.sha256)},
    )


def _card(model: Classifier, config: dict, training: str) -> str:
    held_out, shape = config["held_out"], ", ".join(map(str, model.event_shape))
    name = next(name for name, kind in kinds().items() if isinstance(model, kind))
    return f"""# {model.name.capitalize()}

{model.about}
{len(model.classes)} classes, {sum(p.numel() for p in model.parameters()):,} parameters, input (n, {shape}) in [0, 1].

Its last features, averaged over space ({model.widths[-1]} numbers), serve FID and KID here, the activations of its
{len(model.widths)} stages a perceptual distance. It is no Inception and no LPIPS network. `{REFERENCE}` holds
mean and covariance of the features of {config["reference"]},
and 1,000 of them.

{training}
| held-out accuracy | {held_out["accuracy"]:.4f} on {held_out["data"]} |
| sha256 of {MODEL} | `{model.sha256}` |

Remake: `train_classifier(folder, kind="{name}")` in `experiments/training/classifiers.py`.
"""
