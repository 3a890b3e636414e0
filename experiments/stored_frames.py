"""Frames of paths on disk: a folder of pictures each, with a record of what they were made from."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from lib.files import replacing, sha256, writing
from lib.scores import PipelineScore

from .images import natural_order

RECORD = "record.json"
# Milliseconds a frame of an animation
PACE = 80


def store(
    place: Path,
    images: Float[Tensor, "frames 3 height width"],
    inputs: str,
    result: dict[str, Any],
) -> None:
    """Write frames in [0, 1] as 00.png …, and their record last.

    Args:
        place: the folder; what stands there is removed.
        images: the frames.
        inputs: a checksum of all that they were made from.
        result: what it took, numbers and text.
    """
    with writing("frames", place):
        # Of more frames or of other inputs, and drafts of a run that was killed
        for old in place.glob("*"):
            old.unlink()
    names = [f"{k:02d}.png" for k in range(len(images))]
    pixels = (255 * images.clamp(0, 1)).round().to(torch.uint8).cpu()
    with replacing(*(place / name for name in (*names, RECORD))) as drafts:
        *pictures, record = drafts
        for draft, image in zip(pictures, pixels, strict=True):
            to_pil_image(image).save(draft)
        sums = {name: sha256(draft) for name, draft in zip(names, pictures, strict=True)}
        content = {"inputs": inputs, "files": sums, "result": result}
        record.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def stored(place: Path, inputs: str | None = None) -> dict[str, Any] | None:
    """The result that was stored with the frames of a folder, if they stand as they were written.

    Args:
        place: the folder.
        inputs: the checksum that they must have been made from; any if None.

    Returns:
        None where a frame is missing or damaged, or made from something else.
    """
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        whole = all(sha256(place / name) == sum_ for name, sum_ in record["files"].items())
        if whole and inputs in (None, record["inputs"]):
            return record["result"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # damaged: the frames are made again
        pass
    return None


def load_frames(place: str | Path) -> Float[Tensor, "frames 3 height width"]:
    """The stored frames of a folder frames/METHOD/PAIR, float32 in [0, 1]."""
    return torch.stack([pil_to_tensor(image) for image in _pictures(Path(place))]) / 255


def animate(place: str | Path, path: str | Path) -> None:
    """Write the stored frames of a folder, forward and back, as an endless GIF."""
    images = _pictures(Path(place))
    there_and_back = images + images[-2:0:-1]
    with replacing(Path(path)) as (draft,):
        there_and_back[0].save(
            draft, "gif", save_all=True, append_images=there_and_back[1:], duration=PACE, loop=0
        )


def require_own_folder(out: Path, written: Sequence[str]) -> None:
    """Make the folder of a run.

    Args:
        out: the folder.
        written: names of what such a run writes there.

    Raises:
        ValueError: it holds anything else.
        OSError: it cannot be written.
    """
    with writing("frames", out.parent):
        out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    foreign = [name for name in names if name not in written]
    if foreign:
        raise ValueError(
            f"{out} holds {', '.join(foreign[:5])}, which no such run wrote; choose another folder"
        )


def checksum(content: Any) -> str:
    """The sha256 of any content, as `to_json` writes it."""
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def to_json(content: Any) -> str:
    """JSON in which tensors stand by their sha256, and solvers by what Python prints of them."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, default=_name) + "\n"


def model_name(score: PipelineScore) -> dict[str, Any]:
    """What names a model and how it is asked: its origin, or else the sha256 of its weights."""
    parts = [part for part in score.pipe.components.values() if isinstance(part, nn.Module)]
    name = {
        "origin": score.origin or [checksum(part.state_dict()) for part in parts],
        "dtype": next(score.model.parameters()).dtype,
        "sigma": score.sigma,
        "guidance": score.guidance,
        "negative": score.negative,
        "truncate": score.truncate,
    }
    return json.loads(to_json(name))


def _pictures(place: Path) -> list[Image.Image]:
    # 99.png comes before 100.png
    paths = sorted(place.glob("[0-9]*.png"), key=natural_order)
    return [Image.open(path).convert("RGB") for path in paths]


def _name(value: Any) -> str:
    if isinstance(value, Tensor):
        x = value.detach().cpu().contiguous()
        bits = x.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{x.dtype} {tuple(x.shape)} {hashlib.sha256(bits).hexdigest()}"
    return repr(value)
