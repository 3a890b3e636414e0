"""Images of any kind as a network takes them: float32 (n, channels, size, size) in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib import checks

ENDINGS = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
LEAST = 8  # pixels on the shorter side; less is no picture


def read_folder(folder: str | Path, *, size: int, channels: int = 3) -> Tensor:
    """All images below `folder`, in the order of their names: (n, channels, size, size) float32 in [0, 1].

    Each is turned upright (EXIF), laid on white where it is transparent, cut to its middle square and resized. channels:
    1 (grey) or 3 (RGB). Unreadable images and those below 8 pixels a side are left out with one warning that names them.
    FileNotFoundError: no such folder. ValueError: no image is left.
    """
    folder, size = Path(folder), checks.count("size", size, least=1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one with images in it")
    images, skipped = [], []
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    for path in paths:
        try:
            images.append(read(path, size=size, channels=channels))
        except ValueError as error:
            skipped.append(f"{path.relative_to(folder)} ({error.__cause__ or error})")
    told = ", ".join(skipped[:10]) + f" and {len(skipped) - 10} more" * (len(skipped) > 10)
    if not images:
        raise ValueError(
            f"no image to be read in {folder}"
            + (
                f": {told}"
                if skipped
                else f"; files that end in {', '.join(sorted(ENDINGS))} are looked for"
            )
        )
    if skipped:
        warnings.warn(f"left out {len(skipped)} of {len(paths)} images: {told}", stacklevel=2)
    return torch.stack(images)


def read(path: str | Path, *, size: int, channels: int = 3) -> Tensor:
    """One image as (channels, size, size) float32 in [0, 1], as `read_folder` takes it; ValueError if it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return square(image, size=size, channels=channels)
    except Exception as error:  # decoders answer a damaged file with nearly any class
        raise ValueError(f"cannot read {Path(path).name}: {error}; replace or remove it") from error


def square(image: Image.Image, *, size: int, channels: int = 3) -> Tensor:
    """An opened picture (of a moving one, the frame it stands at) as `read` gives it; ValueError if it is too small."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if min(image.size) < LEAST:
        raise ValueError(f"{image.width}×{image.height} pixels are too few")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    fitted = ImageOps.fit(
        image.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.BICUBIC
    )
    return (
        torch.from_numpy(np.array(fitted, np.float32).reshape(size, size, channels) / 255)
        .permute(2, 0, 1)
        .contiguous()
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey off at 255 when it converts; here it keeps its range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    return image
