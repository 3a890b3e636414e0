"""Images and films of any kind as a network takes them: (n, channels, height, width) in [0, 1].

Whatever Pillow opens is read: turned upright (EXIF), in sRGB (colour profiles), on white where it
is transparent, grey of more than 8 bits over its own range. Unless a picture is read as large as it
is, it is cut to the middle, padded with white, or stretched, and resized.
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, ImageSequence, PngImagePlugin
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lib import checks

# HEIC, where the package is there
with suppress(ImportError):
    from pi_heif import register_heif_opener

    register_heif_opener()

# Image generators keep their whole workflow in a text of the file
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# Pillow knows these by name, but cannot decode them
NO_DECODER = ("BUFR", "GRIB", "HDF5", "MPEG")
# The endings of all formats that Pillow reads
ENDINGS = frozenset(
    ending
    for ending, name in Image.registered_extensions().items()
    if name in Image.OPEN and name not in NO_DECODER
)
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
VIDEOS += (".mts", ".m2ts", ".3gp", ".wmv", ".ogv")
FITS = ("crop", "pad", "stretch")
SRGB = ImageCms.createProfile("sRGB")
# Pixels on the shorter side; less is no picture
LEAST = 8

# Pixels a side, or (height, width); None leaves a picture as large as it is
Size = int | tuple[int, int] | None
# (name of a file, what a person should know of how it was read)
Notes = list[tuple[str, str]]


def read(
    path: str | Path, *, size: Size = None, channels: int = 3, fit: str = "crop"
) -> Float[Tensor, "channels height width"]:
    """One image; of an animated file the first frame.

    What a person should know of how it was read (transparent, animated, 12 bits of 16) is a
    warning.

    Args:
        path: of a file that Pillow reads.
        size: pixels a side, or (height, width); None leaves the image as large as it is, uncut.
        channels: 1 (grey) or 3 (RGB).
        fit: to another shape: "crop" to the middle, "pad" with white, or "stretch".

    Raises:
        ValueError: a file that cannot be read, or one below 8 pixels a side.
    """
    _check(size, channels, fit)
    notes: Notes = []
    image = _read(Path(path).expanduser(), size, channels, fit, notes)
    _warn(notes)
    return image


def read_folder(
    folder: str | Path, *, size: int | tuple[int, int], channels: int = 3, fit: str = "crop"
) -> Float[Tensor, "n channels height width"]:
    """All images below a folder, in the order of their names.

    Unreadable images and those below 8 pixels a side are left out; one warning names them.

    Args:
        folder: searched with its subfolders.
        size: as for `read`.
        channels: 1 (grey) or 3 (RGB).
        fit: as for `read`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image is left.
    """
    folder = Path(folder).expanduser()
    _check(size, channels, fit)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one with images in it")
    paths = pictures(folder.rglob("*"))
    if not paths:
        raise ValueError(f"no image in {folder}: png, jpg, gif, tiff, webp … are looked for")
    images = []
    notes: Notes = []
    reasons = []
    for path in paths:
        try:
            images.append(_read(path, size, channels, fit, notes))
        except ValueError as error:
            reasons.append(f"{path.relative_to(folder)} ({error.__cause__ or error})")
    if not images:
        raise ValueError(f"no image to be read in {folder}: {_listed(reasons)}")
    if reasons:
        warnings.warn(
            f"left out {len(reasons)} of {len(paths)} images: {_listed(reasons)}", stacklevel=2
        )
    _warn(notes)
    return torch.stack(images)


def read_frames(
    source: str | Path,
    *,
    size: int | tuple[int, int],
    channels: int = 3,
    fit: str = "crop",
    first: int = 0,
    every: int | None = 1,
    count: int | None = None,
) -> Float[Tensor, "frames channels height width"]:
    """The frames of a film.

    Args:
        source: a folder of images in natural order (frame2 before frame10), a moving picture (gif,
            webp, apng, avif), or a video (mp4, mov, webm …).
        size: as for `read`.
        channels: 1 (grey) or 3 (RGB).
        fit: as for `read`.
        first: place of the first frame, from 0.
        every: steps from one frame to the next; 1 takes all, None takes `count` frames at the
            largest equal steps that the film has.
        count: at most this many frames.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a frame that cannot be read (one left out would be a jump in time), or fewer
            than two of them.
    """
    source = Path(source).expanduser()
    checks.count("first", first, least=0)
    _check(size, channels, fit)
    if every is None:
        last = sum(1 for _ in _film(source)) - 1
        every = max(1, (last - first) // (checks.count("count", count, least=2) - 1))
    checks.count("every", every)
    stop = None if count is None else first + every * count
    notes: Notes = []
    frames = []
    for name, image in islice(_film(source), first, stop, every):
        with _named(name):
            frames.append(_as_tensor(image, name, size, channels, fit, notes))
    _warn(notes)
    if len(frames) < 2:
        raise ValueError(
            f"{source.name} gives {len(frames)} frame(s), and a video needs two: name a folder of "
            "images, a moving picture (gif, webp, apng) or a video (mp4), or lower first= and "
            "every="
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


# ---- decoding


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn an error of a decoder into one that names the file and the mend."""
    try:
        yield
    # decoders answer a damaged file with nearly any class
    except Exception as error:
        raise ValueError(f"cannot read {name}: {error}; replace or remove it") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        # panoramas; four times as many pixels are an error of Pillow's
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            yield image


def _read(path: Path, size: Size, channels: int, fit: str, notes: Notes) -> Tensor:
    with _named(path.name), _opened(path) as image:
        # a photograph in MPO holds smaller views of itself
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            notes.append((path.name, f"only the first of its {image.n_frames} frames is taken"))
        return _as_tensor(image, path.name, size, channels, fit, notes)


def _film(source: Path) -> Iterator[tuple[str, Image.Image]]:
    """The frames of a folder, a moving picture or a video, each with the name of its file."""
    if source.is_dir():
        for path in sorted(pictures(source.iterdir()), key=natural_order):
            with _named(path.name), _opened(path) as image:
                image.load()
            yield path.name, image
    elif not source.is_file():
        raise FileNotFoundError(f"{source} is no folder of frames, moving picture or video")
    elif source.suffix.lower() in VIDEOS:
        for image in _video(source):
            yield source.name, image
    else:
        with _named(source.name), _opened(source) as picture:
            for image in ImageSequence.Iterator(picture):
                yield source.name, image


def _video(path: Path) -> Iterator[Image.Image]:
    count = 0
    with _named(path.name):
        import cv2

        # other readers of OpenCV take a number in a name for a sequence of files
        film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        announced = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
        found, pixels = film.read()
        while found:
            count += 1
            yield Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            found, pixels = film.read()
        if count == 0:
            raise ValueError(
                "no frame can be decoded (ffmpeg -i FILE FOLDER/%05d.png may make pictures of it, "
                "whose folder can be read)"
            )
    if count < announced:
        warnings.warn(f"{path.name} ends after {count} of {announced} frames", stacklevel=4)


def _as_tensor(
    image: Image.Image, name: str, size: Size, channels: int, fit: str, notes: Notes
) -> Tensor:
    """An opened picture (of a moving one, the frame it stands at) as `read` gives it."""
    profile = image.info.get("icc_profile")
    image = _eight_bits(ImageOps.exif_transpose(image), name, notes)
    if min(image.size) < LEAST:
        raise ValueError(f"{image.width}×{image.height} pixels are too few")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append((name, "its transparent parts are laid on white"))
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    image = _in_srgb(image, profile, name, notes)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = _fitted(image, (width, height), fit)
    return (pil_to_tensor(image) / 255).contiguous()


def _eight_bits(image: Image.Image, name: str, notes: Notes) -> Image.Image:
    """Grey of more than 8 bits over its own range; Pillow would cut it off at 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    top = values.max()
    if image.mode == "F":
        full = 1
    else:
        bits = next((bits for bits in (8, 12) if top < 2**bits), 16)
        full = 2**bits - 1
        if bits < 16:
            notes.append((name, f"no value is above {full}, so it is read as {bits}-bit data"))
    # NaN too
    if not (values.min() >= 0 and top <= full):
        raise ValueError(
            f"its values from {values.min():g} to {top:g} have no known range: save them in 8 or "
            "16 bits, or as floating point numbers in [0, 1]"
        )
    return Image.fromarray(np.round(255 * values / full).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None, name: str, notes: Notes) -> Image.Image:
    """Colours of another profile in sRGB; grey stays as it is."""
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), SRGB, outputMode="RGB"
        )
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return image
        return ImageCms.profileToProfile(image, given, SRGB, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        notes.append((name, "its colour profile is damaged or of other colours, and not used"))
        return image


def _fitted(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC, "white")
    return image.resize(size, Image.Resampling.BICUBIC)


# ---- input and notes


def _check(size: Size, channels: int, fit: str) -> None:
    for side in size if isinstance(size, tuple) else (size,):
        if side is not None:
            checks.count("size", side)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    checks.choice("fit", fit, FITS)


def _warn(notes: Notes) -> None:
    """One warning for each kind of note, with the files it holds for."""
    for kind in dict.fromkeys(note for _, note in notes):
        names = list(dict.fromkeys(name for name, note in notes if note == kind))
        warnings.warn(f"{_listed(names)}: {kind}", stacklevel=3)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more
