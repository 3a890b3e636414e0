"""Images and films of any kind as a network takes them: (n, channels, size, size) in [0, 1].

Each picture is turned upright (EXIF), laid on white where it is transparent, and unless it is read
as large as it is, cut to its middle square and resized.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lib import checks

# The endings of all formats that Pillow reads
ENDINGS = frozenset(
    ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN
)
# Pixels on the shorter side; less is no picture
LEAST = 8


def read(
    path: str | Path, *, size: int | None = None, channels: int = 3
) -> Float[Tensor, "channels height width"]:
    """One image.

    Args:
        path: of a file that Pillow reads.
        size: side in pixels; None leaves the image as large as it is, uncut.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ValueError: a file that cannot be read, or one below 8 pixels a side.
    """
    path = Path(path)
    _check_channels(channels)
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _as_tensor(image, size, channels)
    # decoders answer a damaged file with nearly any class
    except Exception as error:
        raise ValueError(f"cannot read {path.name}: {error}; replace or remove it") from error


def read_folder(
    folder: str | Path, *, size: int, channels: int = 3
) -> Float[Tensor, "n channels size size"]:
    """All images below a folder, in the order of their names.

    Unreadable images and those below 8 pixels a side are left out; one warning names them.

    Args:
        folder: searched with its subfolders.
        size: side in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image is left.
    """
    folder = Path(folder)
    checks.count("size", size)
    _check_channels(channels)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one with images in it")
    paths = pictures(folder.rglob("*"))
    images = []
    reasons = []
    for path in paths:
        try:
            images.append(read(path, size=size, channels=channels))
        except ValueError as error:
            reasons.append(f"{path.relative_to(folder)} ({error.__cause__ or error})")
    listed = ", ".join(reasons[:10])
    if len(reasons) > 10:
        listed += f" and {len(reasons) - 10} more"
    if not paths:
        raise ValueError(f"no image in {folder}: png, jpg, gif, tiff, webp … are looked for")
    if not images:
        raise ValueError(f"no image to be read in {folder}: {listed}")
    if reasons:
        warnings.warn(f"left out {len(reasons)} of {len(paths)} images: {listed}", stacklevel=2)
    return torch.stack(images)


def read_frames(
    source: str | Path,
    *,
    size: int,
    channels: int = 3,
    first: int = 0,
    every: int = 1,
    count: int | None = None,
) -> Float[Tensor, "frames channels size size"]:
    """The frames of a film.

    Args:
        source: a folder of images in natural order (frame2 before frame10), or a moving picture
            (gif, webp, apng).
        size: side in pixels.
        channels: 1 (grey) or 3 (RGB).
        first: place of the first frame, from 0.
        every: steps from one frame to the next; 1 takes all.
        count: at most this many frames.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a frame that cannot be read (one left out would be a jump in time), or fewer
            than two of them.
    """
    source = Path(source)
    checks.count("first", first, least=0)
    checks.count("every", every)
    _check_channels(channels)
    places = slice(first, None, every)
    if source.is_dir():
        paths = sorted(pictures(source.iterdir()), key=natural_order)[places][:count]
        frames = [read(path, size=size, channels=channels) for path in paths]
    elif source.is_file():
        frames = _moving_picture(source, size, channels)[places][:count]
    else:
        raise FileNotFoundError(f"{source} is neither a folder of frames nor a moving picture")
    if len(frames) < 2:
        raise ValueError(
            f"{source.name} gives {len(frames)} frame(s), and a video needs two: name a folder of "
            "images or a moving picture (gif, webp, apng), or lower first= and every="
        )
    return torch.stack(frames)


def pictures(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that are image files by their ending, sorted; hidden ones left out."""
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    )


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """A key for sorting under which numbers inside a name count as numbers: 2.png before 10.png."""
    key = []
    for part in re.findall(r"\d+|\D+", path.name):
        number = part.isdecimal()
        key.append((not number, int(part) if number else 0, part))
    return key


def _moving_picture(path: Path, size: int, channels: int) -> list[Tensor]:
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return [_as_tensor(frame, size, channels) for frame in ImageSequence.Iterator(picture)]
    # decoders answer a damaged file with nearly any class
    except Exception as error:
        raise ValueError(
            f"cannot read {path.name} as a moving picture: {error}; give a folder of its frames"
        ) from error


def _as_tensor(image: Image.Image, size: int | None, channels: int) -> Tensor:
    """An opened picture (of a moving one, the frame it stands at) as `read` gives it."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if min(image.size) < LEAST:
        raise ValueError(f"{image.width}×{image.height} pixels are too few")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return (pil_to_tensor(image) / 255).contiguous()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey off at 255 when it converts; here it keeps its range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    return image


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
