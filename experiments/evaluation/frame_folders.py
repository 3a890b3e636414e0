"""Frames of any method from disk: one folder of pictures for each pair of images.

Three layouts are read: FOLDER/PAIR, FOLDER/METHOD/PAIR, and the output of `experiments.pairs`,
FOLDER/frames/METHOD/PAIR. A folder that itself holds pictures is one pair.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..images import natural_order, pictures, read
from ..stored_frames import RECORD

# First, last, and one between
LEAST = 3
LAYOUTS = (
    "a folder of pictures for each pair, METHOD/PAIR, or what python -m experiments.pairs wrote"
)


@dataclass(frozen=True)
class FrameFolder:
    """The frames between one pair of images by one method.

    Attributes:
        method: name of the method.
        pair: name of the pair.
        files: first to last, in natural order (2.png before 10.png).
    """

    method: str
    pair: str
    files: tuple[Path, ...]

    def read(self) -> Float[Tensor, "frames 3 height width"]:
        """The frames as large as they are stored, in [0, 1].

        Raises:
            ValueError: a picture that cannot be read, or of another size than the first.
        """
        frames = [self._read(file) for file in self.files]
        for file, frame in zip(self.files, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise ValueError(
                    f"{self}: {file.name} has {size_in_words(frame)} pixels and "
                    f"{self.files[0].name} {size_in_words(frames[0])}; the frames of a pair must "
                    "have one size: resize them, or remove what is no frame"
                )
        return torch.stack(frames)

    def _read(self, file: Path) -> Float[Tensor, "3 height width"]:
        try:
            return read(file)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from error

    def __str__(self) -> str:
        return f"pair {self.pair!r} of {self.method!r}"


def size_in_words(frame: Float[Tensor, "*any height width"]) -> str:
    """Width × height, as 64×48."""
    return f"{frame.shape[-1]}×{frame.shape[-2]}"


def find_frames(folder: str | Path, *, pairs_first: bool = False) -> list[FrameFolder]:
    """The frame folders below a folder, methods and pairs in natural order.

    Pictures are of any kind that Pillow reads. Other files are passed over, with one warning that
    names them. The method of FOLDER/PAIR is called after FOLDER.

    Args:
        folder: in one of the layouts above.
        pairs_first: the layout is FOLDER/PAIR/METHOD.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures, layouts that are mixed, a moving picture, or a pair of fewer than
            three frames.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; name one that holds {LAYOUTS}")
    inside = root / "frames"
    if inside.is_dir() and not pictures(inside.iterdir()):
        root = inside
    places = _folders_of_pictures(root)
    if not places:
        raise ValueError(f"no pictures in {root}; it must hold {LAYOUTS}")
    depths = {len(place.relative_to(root).parts) for place in places}
    if len(depths) > 1 or max(depths) > 2:
        raise ValueError(
            f"the pictures in {root} do not all lie equally deep, or deeper than METHOD/PAIR "
            f"({', '.join(_shown(root, places))}); keep to one layout: {LAYOUTS}"
        )
    found = [_frame_folder(root, place, pairs_first) for place in places]
    methods = list(dict.fromkeys(item.method for item in found))
    found.sort(key=lambda item: methods.index(item.method))
    _warn_of_other_files(root, places)
    _warn_of_missing_pairs(found)
    return found


def _folders_of_pictures(place: Path) -> list[Path]:
    """All folders with pictures in them; ValueError for one that is empty or holds folders too."""
    entries = [path for path in place.iterdir() if not path.name.startswith(".")]
    folders = sorted((path for path in entries if path.is_dir()), key=natural_order)
    has_pictures = bool(pictures(entries))
    if has_pictures and folders:
        raise ValueError(
            f"{place} holds both pictures and folders ({folders[0].name}); move one of them away, "
            "so that it is clear what is a frame"
        )
    if has_pictures:
        return [place]
    if not folders:
        raise ValueError(f"no pictures in {place}; put its frames there or remove the folder")
    return [found for folder in folders for found in _folders_of_pictures(folder)]


def _frame_folder(root: Path, place: Path, pairs_first: bool) -> FrameFolder:
    parts = place.relative_to(root).parts
    own = root.resolve().name
    if len(parts) == 2:
        method, pair = reversed(parts) if pairs_first else parts
    else:
        method, pair = own, parts[0] if parts else own
    files = tuple(sorted(pictures(place.iterdir()), key=natural_order))
    moving = [file.name for file in files if _moves(file)]
    if moving:
        raise ValueError(
            f"{place / moving[0]} is a moving picture; store each frame as a picture of its own, "
            "and animations elsewhere"
        )
    if len(files) < LEAST:
        raise ValueError(
            f"{place} holds {len(files)} picture(s); a path needs its first and last frame and at "
            "least one between them: add the others, or remove the folder"
        )
    return FrameFolder(method, pair, files)


def _moves(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:
        # decoders answer a damaged file with nearly any class; reading it says what is wrong
        return False


def _warn_of_other_files(root: Path, places: Sequence[Path]) -> None:
    others = []
    for place in places:
        known = {RECORD, *(path.name for path in pictures(place.iterdir()))}
        others += [
            path.relative_to(root).as_posix()
            for path in sorted(place.iterdir())
            if path.name not in known and not path.name.startswith(".")
        ]
    if others:
        warnings.warn(f"no pictures, passed over: {_listed(others)}", stacklevel=3)


def _warn_of_missing_pairs(found: Sequence[FrameFolder]) -> None:
    pairs = {item.pair for item in found}
    for method in dict.fromkeys(item.method for item in found):
        missing = pairs - {item.pair for item in found if item.method == method}
        if missing:
            warnings.warn(
                f"{method!r} has no frames of {_listed(sorted(missing))}; its means are over other "
                "pairs than those of the other methods",
                stacklevel=3,
            )


def _shown(root: Path, places: Sequence[Path]) -> list[str]:
    """One example for each depth."""
    examples = {len(place.parts): place.relative_to(root).as_posix() for place in places}
    return list(examples.values())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
