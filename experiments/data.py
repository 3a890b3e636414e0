"""Data by name, checked by sha256: a local folder first, then an earlier or new download, then what is bundled.

Set GEODESICS_DATA to a folder with the files in subfolders (`mnist/…`); GEODESICS_CACHE moves the download folder.
Nothing is fetched from the network unless a caller says `download=True`. data/registry.toml names every file.
"""

import gzip
import hashlib
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

from .warp import warp

REGISTRY = Path(__file__).resolve().parent.parent / "data" / "registry.toml"
SPLITS = {"train": ("mnist-train",), "test": ("mnist-test",), "all": ("mnist-train", "mnist-test")}


@dataclass(frozen=True)
class Source:
    """Where data came from. sha256: file name → checksum. fallback: something better was asked for and not there."""

    name: str
    sha256: dict[str, str]
    licence: str
    origin: str
    fallback: bool
    message: str


@dataclass(frozen=True)
class Digits:
    """Handwritten digits. images: (n, 1, size, size) float32 in [0, 1], ink is 1; labels: (n,) int64 in 0..9."""

    images: torch.Tensor
    labels: torch.Tensor
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
    """Handwritten digits as `Digits`, in the order of their file.

    source: "sklearn" (1,797 digits, always there), "mnist" (70,000) or "auto" (MNIST if it is on this machine or
    download is True, else scikit-learn's, marked as a fallback). split: "train", "test" or "all"; scikit-learn's file
    has no split of its own, its last 500 digits (other writers) are the test digits here. labels: keep only these
    digits. limit: at most this many, counted after that. size: side in pixels.
    ValueError: unknown or impossible argument, damaged file. FileNotFoundError: MNIST asked for and not there.
    """
    wanted = _check_arguments(source, split, labels, limit, size)
    images, numbers, record = _load(source, split, download)
    keep = torch.isin(numbers, wanted).nonzero().flatten()[:limit]
    if len(keep) == 0:
        raise ValueError(
            f"no digit is left after split={split!r}, labels={labels!r}, limit={limit!r}"
        )
    return Digits(_resize(images[keep].float(), size), numbers[keep], record)


def rotate(images: torch.Tensor, degrees: float | torch.Tensor) -> torch.Tensor:
    """Turn images (n, channels, h, w) about their centre, counter-clockwise; same shape, dtype and device, in [0, 1].

    degrees: a number, or (n,) for one angle each; n = 1 on either side is repeated. Bicubic, zeros outside.
    Multiples of 90° on square images are exact to rounding.
    """
    angle = torch.as_tensor(degrees, dtype=_precision(images.device), device=images.device)
    if images.ndim != 4 or angle.ndim > 1 or not torch.isfinite(angle).all():
        raise ValueError(
            f"rotate wants images (n, channels, h, w) and finite degrees, a number or (n,); got "
            f"{tuple(images.shape)} and degrees of shape {tuple(angle.shape)}"
        )
    n = int(torch.broadcast_shapes((len(images),), angle.shape)[0])
    return _bicubic(images.expand(n, -1, -1, -1), degrees=angle)


def turns(image: torch.Tensor, step: float = 2.0) -> torch.Tensor:
    """One image (1, h, w) or (1, 1, h, w) turned by 0, step, 2·step, … < 360 degrees: (360/step, 1, h, w)."""
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
    """Checked files of a registry entry: file name → path, or None if they are nowhere and must not be downloaded.

    KeyError: unknown name. FileNotFoundError: GEODESICS_DATA is no folder. ValueError: a file is damaged.
    ConnectionError: no mirror delivered.
    """
    entry = registry().get(name)
    if entry is None:
        raise KeyError(
            f"no data named {name!r} in data/registry.toml; known: {', '.join(registry())}"
        )
    for folder in _folders(entry):
        if all((folder / file["name"]).is_file() for file in entry["files"]):
            return {file["name"]: _verified(folder / file["name"], file) for file in entry["files"]}
    return _download(name, entry) if download and "mirrors" in entry else None


def availability() -> dict[str, str]:
    """Every registry entry → "here" (found, checksum right), "missing", or what is wrong with it. Downloads nothing."""
    return {name: _state(name) for name in registry()}


@cache
def registry() -> dict[str, dict[str, Any]]:
    """data/registry.toml: name → title, licence, origin, files (name, size in bytes, sha256), and where to look."""
    return tomllib.loads(REGISTRY.read_text(encoding="utf-8"))


def _state(name: str) -> str:
    try:
        return "here" if locate(name) else "missing"
    except (ValueError, OSError) as error:
        return str(error)


def _folders(entry: dict[str, Any]) -> list[Path]:
    if "bundled" in entry:
        return [REGISTRY.parent / entry["bundled"]]
    if "package" in entry:
        return [Path(str(importlib.resources.files(entry["package"])))]
    local = os.environ.get("GEODESICS_DATA")
    if local and not Path(local).is_dir():
        raise FileNotFoundError(f"GEODESICS_DATA names no folder: {local}; correct or unset it")
    return [Path(root) / entry["folder"] for root in (local, _cache_folder()) if root]


def _cache_folder() -> Path:
    return Path(os.environ.get("GEODESICS_CACHE") or pooch.os_cache("geodesics"))


def _verified(path: Path, file: dict[str, Any]) -> Path:
    if (size := path.stat().st_size) != file["size"]:
        raise ValueError(
            f"{path} has {size} bytes instead of {file['size']}: cut short or another file; replace it"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
        raise ValueError(
            f"{path} does not have the sha256 of data/registry.toml: damaged; delete or replace it"
        )
    return path


def _download(name: str, entry: dict[str, Any]) -> dict[str, Path]:
    folder, found = _cache_folder() / entry["folder"], {}
    for file in entry["files"]:
        reasons = []
        for mirror in entry["mirrors"]:
            try:  # pooch checks the sum and moves a complete file into place
                found[file["name"]] = Path(
                    pooch.retrieve(
                        mirror + file["name"],
                        f"sha256:{file['sha256']}",
                        file["name"],
                        folder,
                        progressbar=True,
                    )
                )
                break
            except (OSError, ValueError) as error:
                reasons.append(f"{mirror}: {type(error).__name__}")
        else:
            raise ConnectionError(
                f"could not download {file['name']} of {name} ({'; '.join(reasons)}); put it into "
                f"the folder {entry['folder']}/ of GEODESICS_DATA, or use source='sklearn'"
            )
    return found


def _load(source: str, split: str, download: bool) -> tuple[torch.Tensor, torch.Tensor, Source]:
    if source != "sklearn":
        parts = {name: locate(name, download=download) for name in SPLITS[split]}
        if all(parts.values()):
            return _mnist(parts, split)
        if source == "mnist":
            raise FileNotFoundError(
                "MNIST is not on this machine; set GEODESICS_DATA to a folder with its four .gz "
                "files in mnist/, or pass download=True, or use source='sklearn'"
            )
    return _sklearn(split, fallback=source == "auto")


def _mnist(
    parts: dict[str, dict[str, Path]], split: str
) -> tuple[torch.Tensor, torch.Tensor, Source]:
    files = [list(paths.values()) for paths in parts.values()]  # images, labels
    images = torch.cat([_idx(pair[0], 3) for pair in files])[:, None] / 255
    labels = torch.cat([_idx(pair[1], 1) for pair in files]).long()
    return (
        images,
        labels,
        registered_source(
            list(parts),
            fallback=False,
            message=f"digits: MNIST, split {split!r}, {len(labels):,} digits",
        ),
    )


def _sklearn(split: str, *, fallback: bool) -> tuple[torch.Tensor, torch.Tensor, Source]:
    path = locate("sklearn-digits")["digits.csv.gz"]
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    part = {"train": table[:-500], "test": table[-500:], "all": table}[split]
    message = f"digits: scikit-learn's (8×8, enlarged), split {split!r}, {len(part):,} digits"
    message += (
        "; MNIST is not on this machine (GEODESICS_DATA or download=True brings it)" * fallback
    )
    return (
        part[:, :64].reshape(-1, 1, 8, 8) / 16,
        part[:, 64].long(),
        registered_source(["sklearn-digits"], fallback=fallback, message=message),
    )


def registered_source(names: list[str], *, fallback: bool, message: str) -> Source:
    """The `Source` of data read from these entries of data/registry.toml."""
    entries = [registry()[name] for name in names]
    sums = {file["name"]: file["sha256"] for entry in entries for file in entry["files"]}
    return Source(
        "+".join(names), sums, entries[0]["licence"], entries[0]["origin"], fallback, message
    )


def _idx(path: Path, axes: int) -> torch.Tensor:
    """An array of bytes in LeCun's idx format: two zeros, type 8, number of axes, big-endian sizes, then the data."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", axes, 4).tolist()
    if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) != 4 + 4 * axes + math.prod(shape):
        raise ValueError(f"{path} is no idx file of bytes with {axes} axes; replace it")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square images at another size; scikit-learn's 8×8 have no margin and get MNIST's (20 of 28 pixels hold ink)."""
    window = 1.4 if images.shape[-1] == 8 else 1.0
    if images.shape[-1] == size and window == 1.0:
        return images
    return _bicubic(images, scale=1 / window, shape=(size, size))


def _bicubic(images: torch.Tensor, **move: Any) -> torch.Tensor:
    """Images moved (`warp`) with zeros outside, clamped: bicubic overshoots beside sharp ink."""
    # In float32 a turn by 0° would already be off by 3e-6.
    wide = images.to(_precision(images.device))
    return warp(wide, **move).clamp(0, 1).to(images.dtype)


def _precision(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _check_arguments(
    source: str, split: str, labels: int | Iterable[int] | None, limit: int | None, size: int
) -> torch.Tensor:
    """The labels to keep, (k,) int64; ValueError if any argument of `digits` makes no sense."""
    for name, value, known in (
        ("source", source, ("sklearn", "mnist", "auto")),
        ("split", split, tuple(SPLITS)),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
    wanted = (
        list(range(10)) if labels is None else [labels] if isinstance(labels, int) else list(labels)
    )
    if not wanted or not set(wanted) <= set(range(10)):
        raise ValueError(f"labels must be digits from 0 to 9, got {labels!r}")
    if (limit is not None and limit < 1) or size < 8:
        raise ValueError(
            f"limit must be at least 1 and size at least 8 pixels, got {limit} and {size}"
        )
    return torch.tensor(wanted)
