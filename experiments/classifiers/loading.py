"""Classifiers and their reference statistics by name or folder; nothing is unpickled."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import data
from .networks import Classifier, DigitClassifier, HandClassifier

MODEL = "model.safetensors"
CONFIG = "config.json"
REFERENCE = "reference.safetensors"

# The bundled classifiers by name.
KINDS: dict[str, type[Classifier]] = {"digits": DigitClassifier, "hands": HandClassifier}


@dataclass(frozen=True)
class Reference:
    """Features of moved held-out images, all float64.

    Attributes:
        mean: of all of them.
        covariance: of all of them.
        sample: some of them, at most 1000.
        made_of: the images in words.
        model: sha256 of the classifier whose features these are.
    """

    mean: Float[Tensor, " k"]
    covariance: Float[Tensor, "k k"]
    sample: Float[Tensor, "rows k"]
    made_of: str
    model: str


def load_classifier(name: str | Path = "digits") -> Classifier:
    """A classifier on the CPU.

    Args:
        name: "digits" or "hands", the bundled ones, checked by data/registry.toml; or a folder that
            `train_classifier` wrote, whose config.json says which kind it holds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is damaged, cut short, or of another architecture.
    """
    config_path = _find(name, CONFIG)
    model_path = _find(name, MODEL)
    kinds = {kind.kind: kind for kind in KINDS.values()}
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        kind = kinds[config["model"]]
        widths = tuple(int(width) for width in config["widths"])
        sha256 = str(config["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{config_path} is no config of a {' or '.join(kinds)} ({error!r}); restore it or "
            "train anew"
        ) from error
    weights = model_path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise ValueError(
            f"{model_path} does not have the sha256 of its {CONFIG}: damaged or cut short; "
            "restore it"
        )
    # First weights are drawn from the global generator, then replaced.
    with torch.random.fork_rng(devices=[]):
        model = kind(widths)
    try:
        model.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{model_path} holds no {model.name} of widths {widths}: {error}"
        ) from error
    model.sha256 = sha256
    return model.eval().requires_grad_(False)


def load_reference(name: str | Path = "digits") -> Reference:
    """Feature statistics of "digits" or "hands", or of a folder; errors as `load_classifier`."""
    path = _find(name, REFERENCE)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            return Reference(
                mean=file.get_tensor("mean").double(),
                covariance=file.get_tensor("covariance").double(),
                sample=file.get_tensor("sample").double(),
                made_of=metadata["made_of"],
                model=metadata["model"],
            )
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no reference statistics ({error}); restore it or train anew"
        ) from error


def _find(name: str | Path, file: str) -> Path:
    """The path of a file of a bundled classifier, checked, or of one in a folder."""
    if str(name) in KINDS:
        kind = KINDS[str(name)].kind
        entry = f"{kind}-reference" if file == REFERENCE else kind
        paths = data.locate(entry)
        where = data.registry()[entry]["bundled"]
    else:
        paths = {file: Path(name) / file}
        where = str(name)
    if not paths or not paths[file].is_file():
        raise FileNotFoundError(
            f"{file} is missing in {where}; restore it from the repository, or make it with "
            "python -m experiments.training; bundled are 'digits' and 'hands'"
        )
    return paths[file]
