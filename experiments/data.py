"""Data by name, checked by sha256.

A file is looked for in the folder that GEODESICS_DATA names (in subfolders, such as mnist/), then
among earlier downloads (GEODESICS_CACHE moves them), then in what is bundled. Nothing is fetched
from the network unless a caller says `download=True`. data/registry.toml lists every file.
"""

import gzip
import importlib.resources
import math
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import checks
from lib.files import verified

from .warp import warp

REGISTRY = Path(__file__).resolve().parent.parent / "data" / "registry.toml"
SPLITS = {"train": ("mnist-train",), "test": ("mnist-test",), "all": ("mnist-train", "mnist-test")}
# scikit-learn's file has no split of its own; its last digits are of other writers.
SKLEARN_TEST = 500


@dataclass(frozen=True)
class Source:
    """Where data came from.

    Args:
        name: of the registry's entries, joined by "+".
        sha256: file name → checksum.
        licence: of the data.
        origin: an address.
        fallback: whether something better was asked for and is not on this machine.
        message: one line for a reader.
    """

    name: str
    sha256: dict[str, str]
    licence: str
    origin: str
    fallback: bool
    message: str


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images in [0, 1] where ink is 1, float32, and labels in 0..9."""

    images: Float[Tensor, "n 1 size size"]
    labels: Int[Tensor, " n"]
    source: Source

    def __len__(self) -> int:
        return len(self.labels)


def digits(
    source: str = "sklearn",
    *,
    split: str = "test",
    labels: int | Iterable[int] | None = None,
    limit: int | None = None,
    size: int = 28,
    download: bool = False,
) -> Digits:
    """Handwritten digits, in the order of their file.

    Args:
        source: "sklearn" (1,797 digits, always there), "mnist" (70,000), or "auto": MNIST if it is
            on this machine or may be downloaded, else scikit-learn's, marked as a fallback.
        split: "train", "test" or "all". Of scikit-learn's digits the last 500 are the test digits.
        labels: keep only these digits.
        limit: at most this many, counted after `labels`.
        size: side in pixels, at least 8.
        download: whether MNIST may be fetched.

    Raises:
        ValueError: an unknown or impossible argument, or a damaged file.
        FileNotFoundError: MNIST is asked for and not on this machine.
        ConnectionError: no mirror delivered.
    """
    checks.choice("source", source, ("sklearn", "mnist", "auto"))
    checks.choice("split", split, SPLITS)
    checks.count("size", size, least=8)
    if limit is not None:
        checks.count("limit", limit)
    chosen = _chosen_labels(labels)
    found = None if source == "sklearn" else _mnist(split, download)
    if found is None and source == "mnist":
        raise FileNotFoundError(
            "MNIST is not on this machine; set GEODESICS_DATA to a folder with its four .gz files "
            "in mnist/, or pass download=True, or use source='sklearn'"
        )
    if found is None:
        found = _sklearn(split, fallback=source == "auto")
    places = torch.isin(found.labels, chosen).nonzero().flatten()[:limit]
    if len(places) == 0:
        raise ValueError(f"split {split!r} has no digit of labels={labels!r}")
    return Digits(_resize(found.images[places], size), found.labels[places], found.source)


def balanced(digits: Digits, count: int) -> Digits:
    """The first of each class, then the second of each, and so on: `count` digits in all.

    So a smaller choice lies in every larger one, and the first ten show the ten classes.

    Args:
        digits: to choose from; their order within a class is kept.
        count: at most the number of digits.
    """
    checks.count("count", count)
    if count > len(digits):
        raise ValueError(f"count must be at most {len(digits)}, the number of digits; got {count}")
    rank = torch.zeros_like(digits.labels)
    for label in digits.labels.unique():
        own = digits.labels == label
        rank[own] = torch.arange(int(own.sum()))
    places = torch.argsort(10 * rank + digits.labels)[:count]
    return Digits(digits.images[places], digits.labels[places], digits.source)


def rotate(
    images: Float[Tensor, "n channels height width"], degrees: float | Tensor
) -> Float[Tensor, "m channels height width"]:
    """Images turned about their centre: bicubic, zeros outside, clamped to [0, 1].

    Multiples of 90° on square images are exact to rounding.

    Args:
        images: in [0, 1]; dtype and device are kept.
        degrees: counter-clockwise, a number or (m,), one angle each. A single image is turned by
            each of several angles.
    """
    angle = torch.as_tensor(degrees, dtype=_precision(images.device), device=images.device)
    if images.ndim != 4 or angle.ndim > 1 or not torch.isfinite(angle).all():
        raise ValueError(
            "rotate wants images (n, channels, h, w) and finite degrees, a number or (n,); got "
            f"{tuple(images.shape)} and degrees of shape {tuple(angle.shape)}"
        )
    count = int(torch.broadcast_shapes((len(images),), angle.shape)[0])
    return _bicubic(images.expand(count, -1, -1, -1), degrees=angle)


def turns(image: Tensor, step: float = 2.0) -> Float[Tensor, "turns 1 height width"]:
    """One image turned by 0, step, 2·step, … < 360 degrees.

    Args:
        image: (1, h, w) or (1, 1, h, w).
        step: in degrees, a divisor of 360.
    """
    count = round(360 / step) if step > 0 else 0
    if count < 1 or not math.isclose(count * step, 360):
        raise ValueError(f"step must be positive and divide 360 degrees, got {step}")
    single = image if image.ndim == 4 else image[None]
    if single.ndim != 4 or len(single) != 1:
        raise ValueError(
            f"turns wants one image (1, h, w) or (1, 1, h, w), got {tuple(image.shape)}"
        )
    return rotate(single, torch.arange(count, dtype=torch.float64) * (360 / count))


def locate(name: str, *, download: bool = False) -> dict[str, Path] | None:
    """The checked files of an entry of data/registry.toml.

    Args:
        name: of the entry.
        download: whether files that are nowhere may be fetched.

    Returns:
        File name → path, or None if they are nowhere and cannot or must not be fetched.

    Raises:
        KeyError: an unknown name.
        FileNotFoundError: GEODESICS_DATA is no folder.
        ValueError: a file is damaged.
        ConnectionError: no mirror delivered.
    """
    if name not in registry():
        raise KeyError(
            f"no data named {name!r} in data/registry.toml; known: {', '.join(registry())}"
        )
    entry = registry()[name]
    sums = {file["name"]: file["sha256"] for file in entry["files"]}
    for folder in _folders(entry):
        if all((folder / file).is_file() for file in sums):
            return {file: verified(folder / file, sha256) for file, sha256 in sums.items()}
    if download and "mirrors" in entry:
        return {file: _fetch(file, sha256, entry) for file, sha256 in sums.items()}
    return None


def availability() -> dict[str, str]:
    """Every entry of the registry → "here" (checked), "missing", or what is wrong with it."""
    states = {}
    for name in registry():
        try:
            states[name] = "here" if locate(name) else "missing"
        except (ValueError, OSError) as error:
            states[name] = str(error)
    return states


@cache
def registry() -> dict[str, dict[str, Any]]:
    """data/registry.toml: name → title, licence, origin, files, and where to look for them."""
    return tomllib.loads(REGISTRY.read_text(encoding="utf-8"))


def registered_source(names: list[str], *, fallback: bool, message: str) -> Source:
    """The `Source` of data read from these entries of data/registry.toml."""
    entries = [registry()[name] for name in names]
    sums = {file["name"]: file["sha256"] for entry in entries for file in entry["files"]}
    return Source(
        "+".join(names), sums, entries[0]["licence"], entries[0]["origin"], fallback, message
    )


def _folders(entry: dict[str, Any]) -> list[Path]:
    """Where the files of an entry may lie, the first choice first."""
    if "bundled" in entry:
        return [REGISTRY.parent / entry["bundled"]]
    if "package" in entry:
        return [Path(str(importlib.resources.files(entry["package"])))]
    local = os.environ.get("GEODESICS_DATA")
    if local and not Path(local).is_dir():
        raise FileNotFoundError(f"GEODESICS_DATA names no folder: {local}; correct or unset it")
    roots = [Path(local), _downloads()] if local else [_downloads()]
    return [root / entry["folder"] for root in roots]


def _downloads() -> Path:
    return Path(os.environ.get("GEODESICS_CACHE") or pooch.os_cache("geodesics"))


def _fetch(file: str, sha256: str, entry: dict[str, Any]) -> Path:
    """A file from the first mirror that delivers it whole."""
    folder = _downloads() / entry["folder"]
    reasons = []
    for mirror in entry["mirrors"]:
        try:
            # pooch moves a file into place only after it has compared the checksum
            path = pooch.retrieve(
                mirror + file, f"sha256:{sha256}", fname=file, path=folder, progressbar=True
            )
            return Path(path)
        except (OSError, ValueError) as error:
            reasons.append(f"{mirror}: {type(error).__name__}")
    raise ConnectionError(
        f"could not download {file} ({'; '.join(reasons)}); put it into the folder "
        f"{entry['folder']}/ of GEODESICS_DATA, or use source='sklearn'"
    )


def _mnist(split: str, download: bool) -> Digits | None:
    """MNIST, or None if it is not on this machine."""
    names = SPLITS[split]
    parts = [locate(name, download=download) for name in names]
    if None in parts:
        return None
    images, labels = [], []
    for files in parts:
        image_file, label_file = files.values()
        # LeCun's idx format: a header of 16 (images) or 8 bytes (labels), then a byte an entry
        images.append(_bytes(image_file, header=16).reshape(-1, 1, 28, 28))
        labels.append(_bytes(label_file, header=8))
    source = registered_source(
        list(names),
        fallback=False,
        message=f"digits: MNIST, split {split!r}, {sum(map(len, labels)):,} digits",
    )
    return Digits(torch.cat(images).float() / 255, torch.cat(labels).long(), source)


def _bytes(path: Path, header: int) -> Tensor:
    raw = gzip.decompress(path.read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).copy())


def _sklearn(split: str, *, fallback: bool) -> Digits:
    (path,) = locate("sklearn-digits").values()
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    parts = {"train": table[:-SKLEARN_TEST], "test": table[-SKLEARN_TEST:], "all": table}
    rows = parts[split]
    message = f"digits: scikit-learn's (8×8, enlarged), split {split!r}, {len(rows):,} digits"
    if fallback:
        message += "; MNIST is not on this machine (GEODESICS_DATA or download=True brings it)"
    source = registered_source(["sklearn-digits"], fallback=fallback, message=message)
    # 64 pixels from 0 to 16 and the label
    return Digits(rows[:, :64].reshape(-1, 1, 8, 8) / 16, rows[:, 64].long(), source)


def _chosen_labels(labels: int | Iterable[int] | None) -> Int[Tensor, " k"]:
    if labels is None:
        chosen = list(range(10))
    elif isinstance(labels, int):
        chosen = [labels]
    else:
        chosen = list(labels)
    if not chosen or not set(chosen) <= set(range(10)):
        raise ValueError(f"labels must be digits from 0 to 9, got {labels!r}")
    return torch.tensor(chosen)


def _resize(images: Tensor, size: int) -> Tensor:
    """Square images at another size, scikit-learn's with a margin as MNIST's digits have it."""
    # 20 of MNIST's 28 pixels hold ink; scikit-learn's 8×8 have no margin
    scale = 1 / 1.4 if images.shape[-1] == 8 else 1.0
    if images.shape[-1] == size and scale == 1.0:
        return images
    return _bicubic(images, scale=scale, shape=(size, size))


def _bicubic(images: Tensor, **move: Any) -> Tensor:
    """Images moved (`warp`) with zeros outside, clamped: bicubic overshoots beside sharp ink."""
    # in float32 a turn by 0° would already be off by 3e-6
    wide = images.to(_precision(images.device))
    return warp(wide, **move).clamp(0, 1).to(images.dtype)


def _precision(device: torch.device) -> torch.dtype:
    # Apple's GPUs have no float64
    return torch.float32 if device.type == "mps" else torch.float64
