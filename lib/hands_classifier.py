"""Which digit does a hand sign? A small classifier of photographs, for the rate of samples that show what was asked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from . import hands
from .classifier import DigitClassifier
from .figures import replacing
from .training import Loss, Settings, fit

SETTINGS = Settings(steps=1500, batch=64, rate=2e-3, warmup=50, ema=0.995, clip=1.0, every=250)
WIDTHS = (24, 48, 64, 96)


class HandClassifier(DigitClassifier):
    """Four stages of two 3×3 convolutions at 32², 16², 8² and 4² pixels; images (n, 3, 64, 64) in [0, 1] → ten digits."""

    event_shape, classes, first_stride, kind = (3, hands.SIZE, hands.SIZE), hands.WORDS, 2, "hand classifier"

    def target(self, labels: Tensor) -> Tensor:
        """The digits themselves: no sign is another one turned."""
        return labels


def train_hand_classifier(path: str | Path, work: str | Path, settings: Settings = SETTINGS, *,
                          progress: bool = True) -> HandClassifier:
    """Train on moved photographs, or go on from the checkpoint in `work`; write weights and held-out accuracy to `path`.

    Errors as `fit` and `hands.photographs`. The file is safetensors; its metadata says widths, settings, accuracy.
    """
    photographs, test = hands.photographs("train"), hands.photographs("test")
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.default_generator.manual_seed(settings.seed)
        model = HandClassifier(WIDTHS)
    state = fit(model, classifying_loss(photographs, settings.batch), work, settings, progress=progress,
                data=f"{photographs.source.name}, {len(photographs):,} photographs, moved anew at each draw")
    model = state.average.eval().requires_grad_(False)
    accuracy = model.accuracy(hands.moved(test.pixels), test.labels)
    said = {"widths": json.dumps(model.widths), "training": json.dumps(asdict(settings)), "steps": str(state.step),
            "data": state.data, "held_out": str(len(test)), "held_out_accuracy": str(accuracy)}
    with replacing(Path(path)) as (draft,):
        draft.write_bytes(save(model.state_dict(), said))
    return model


def load_hand_classifier(path: str | Path) -> tuple[HandClassifier, dict[str, str]]:
    """The model of a file `train_hand_classifier` wrote, and what its metadata says (held_out_accuracy, data, …)."""
    with safe_open(path, "pt") as file:
        said = file.metadata()
    model = HandClassifier(tuple(json.loads(said["widths"])))
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False), said


def classifying_loss(photographs: hands.Photographs, batch: int, *, smoothing: float = 0.05) -> Loss:
    """Cross-entropy, labels smoothed, of `batch` random photographs, each moved (`hands.augmented`)."""
    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(photographs), (batch,), generator=generator)
        return F.cross_entropy(model(hands.augmented(photographs.pixels[pick], generator)), photographs.labels[pick],
                               label_smoothing=smoothing)

    return loss


def right_rate(model: HandClassifier, images: Tensor) -> Tensor:
    """Share of samples (10·n, 3, 64, 64), n of each digit in turn, whose most likely digit is the asked one: (10,)."""
    asked = torch.arange(10).repeat_interleave(len(images) // 10)
    with torch.no_grad():
        found = torch.cat([model(part) for part in images.split(32)]).argmax(1)
    return (found == asked).double().reshape(10, -1).mean(1)
