"""The files of a pairs run: frames of one pair with the record of what they were made from, and animations."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.files import replacing, writing
from lib.scores.stable_diffusion import StableDiffusionScore

from ..figures import plain

FRAMES, ANIMATIONS, RECORD = "frames", "animations", "record.json"
WRITTEN = {
    FRAMES,
    ANIMATIONS,
    *(f"{name}.{ending}" for name in ("table", "summary") for ending in ("csv", "json")),
}
PACE = 80  # milliseconds a frame of an animation


def usable(out: Path) -> None:
    """Make the folder of a run; ValueError if it holds anything that no run wrote."""
    with writing("the pairs run", out.parent):
        out.mkdir(parents=True, exist_ok=True)
    inside = [path for path in out.iterdir() if path.name not in WRITTEN]
    inside += [
        path for path in out.glob(f"{FRAMES}/*") if path.is_file()
    ]  # a folder of frames that is another's
    foreign = [path.relative_to(out).as_posix() for path in inside if not path.name.startswith(".")]
    if foreign:
        raise ValueError(
            f"{out} holds {', '.join(sorted(foreign)[:5])}, which no pairs run wrote; choose another folder"
        )


def folder_name(what: str, name: str) -> str:
    """The name, if every system lets a folder have it; else ValueError."""
    if not re.fullmatch(r"\w(?:[\w .,()+-]*[\w)+-])?", name):
        raise ValueError(
            f"{name!r} cannot be the name of {what}, its frames lie in a folder of that name: use letters, digits, "
            "blanks and . , ( ) + - _"
        )
    return name


def keep(place: Path, images: Tensor, record: dict[str, Any]) -> None:
    """Write frames (n, 3, h, w) in [0, 1] as 00.png … into `place`, their record last; what stood there before goes."""
    names = [f"{k:02d}.png" for k in range(len(images))]
    with writing("frames", place):
        for old in place.glob("*.png"):  # of more frames, or drafts of a run that was killed
            if old.name not in names:
                old.unlink()
        (place / RECORD).unlink(missing_ok=True)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    with replacing(*(place / name for name in (*names, RECORD))) as drafts:
        for draft, image in zip(drafts, pixels, strict=False):
            Image.fromarray(image).save(draft)
        sums = {name: sha256(draft) for name, draft in zip(names, drafts, strict=False)}
        drafts[-1].write_text(_json(record | {"files": sums}), encoding="utf-8")


def kept(place: Path, inputs: str) -> dict[str, Any] | None:
    """The record of frames made from these inputs, if all of them stand as they were written."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record["inputs"] == inputs and all(
            sha256(place / name) == digest for name, digest in record["files"].items()
        ):
            return record
    return None


def remember(place: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Replace the record of frames that stay; returns it as it will be read."""
    with replacing(place / RECORD) as (draft,):
        draft.write_text(_json(record), encoding="utf-8")
    return json.loads(_json(record))


def stored(place: Path, frames: int) -> Tensor:
    """The frames as they are stored: (frames, 3, h, w) float32 in [0, 1]."""
    pixels = np.stack([np.asarray(image) for image in _open(place, frames)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def animate(path: Path, place: Path, frames: int) -> None:
    """Write the stored frames, forward and back, as a GIF without end."""
    images = _open(place, frames)
    images += images[-2:0:-1]
    with replacing(path) as (draft,):
        images[0].save(draft, save_all=True, append_images=images[1:], duration=PACE, loop=0)


def digest(x: Tensor) -> str:
    """sha256 of a tensor's entries, shape and dtype."""
    x = x.detach().cpu().contiguous()
    return hashlib.sha256(
        f"{x.dtype} {tuple(x.shape)}".encode() + x.reshape(-1).view(torch.uint8).numpy().tobytes()
    ).hexdigest()


def named(value: Any) -> Any:
    """A setting as JSON knows it: tensors by their sha256, solvers with their class."""
    if isinstance(value, Tensor):
        return {"sha256": digest(value)}
    return [type(value).__name__, plain(value)] if is_dataclass(value) else plain(value)


def told(distance: Callable) -> str:
    """What names a distance: its class and method, and the checksum or file of its network."""
    owner = getattr(distance, "__self__", distance)
    which = getattr(owner, "sha256", None) or getattr(owner, "source", None) or ""
    return " ".join(
        filter(None, [type(owner).__name__, getattr(distance, "__qualname__", ""), which])
    )


def total(parts: Any) -> str:
    """sha256 of what JSON makes of it."""
    return hashlib.sha256(json.dumps(plain(parts), sort_keys=True).encode()).hexdigest()


def model_of(score: StableDiffusionScore) -> dict[str, Any]:
    """What names a model and how it is asked: its origin, or else the sha256 of its weights; version of this library."""
    parts = {name: getattr(score.pipe, name) for name in ("unet", "vae", "text_encoder")}
    sums = {} if score.origin else {name: _weights(part) for name, part in parts.items()}
    try:
        version = importlib.metadata.version("score-geodesics")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return plain(
        {
            "origin": score.origin,
            "weights": sums,
            "dtype": str(next(score.pipe.unet.parameters()).dtype),
            "sigma": score.sigma,
            "guidance": score.guidance,
            "negative": named(score.negative),
            "truncate": score.truncate,
            "version": version,
        }
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights(module: torch.nn.Module) -> str:
    return total({name: digest(value) for name, value in module.state_dict().items()})


def _open(place: Path, frames: int) -> list[Image.Image]:
    images = []
    for k in range(frames):
        with Image.open(place / f"{k:02d}.png") as image:
            images.append(image.convert("RGB"))
    return images


def _json(record: dict[str, Any]) -> str:
    return json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
