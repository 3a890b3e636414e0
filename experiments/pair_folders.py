"""Pairs of images with prompts: from tensors, or from the files of a folder."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor

from lib import checks

from .images import FITS, natural_order, pictures, read
from .names import alias, existing, fitting_names, folder_name
from .pair_tables import COLUMNS, ENDINGS, one_line, read_table, read_text

# The table that is read alone, where there is one
TABLE = "pairs"
# The prompts of a subfolder's pair; those of NAME_0 and NAME_1 are in NAME.txt
PROMPTS = "prompt.txt"
LAYOUTS = (
    f"a table ({TABLE}{f', {TABLE}'.join(ENDINGS)}) with the columns start and end, images "
    "NAME_0.png and NAME_1.png, source/NAME.png and target/NAME.png, or a folder of two images for "
    "each pair"
)
# How the two images of a pair are told apart
SIDES = {"0": 0, "start": 0, "source": 0, "1": 1, "end": 1, "target": 1}
NUMBERED = rf"(.+)_({'|'.join(SIDES)})"
# Folders of all first and all last images
HALVES = ("start", "source", "end", "target")
# How far outside [0, 1] a resized image may be
SLACK = 0.01


@dataclass
class Pairs:
    """Pairs of images to connect.

    Args:
        start: image files, one a pair, or a tensor (n, 3, height, width) in [0, 1].
        end: as many.
        prompt: a text for all, one a pair, or embeddings (n, tokens, width).
        end_prompt: the same for the last images; None is the prompt once more.
        name: one a pair, after which its folder of frames is called; "000", "001", … if None.
        about: further columns of the result, name → one entry a pair.
        fit: of image files to the model's shape: "crop" to the middle, "pad" with white, "stretch".

    Raises:
        ValueError: no pairs, different lengths, a name that no folder can have or that comes twice.
    """

    start: Sequence[str | Path] | Tensor
    end: Sequence[str | Path] | Tensor
    prompt: str | Sequence[str] | Tensor = ""
    end_prompt: str | Sequence[str] | Tensor | None = None
    name: Sequence[str] | None = None
    about: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    fit: str = "crop"

    def __post_init__(self) -> None:
        count = len(self.start)
        if count == 0:
            raise ValueError("there are no pairs")
        checks.choice("fit", self.fit, FITS)
        if self.end_prompt is None:
            self.end_prompt = self.prompt
        self.prompt = _one_each(self.prompt, count)
        self.end_prompt = _one_each(self.end_prompt, count)
        if self.name is None:
            self.name = [f"{i:03d}" for i in range(count)]
        self.name = [folder_name("a pair", name) for name in self.name]
        lists = {
            "end": self.end,
            "prompt": self.prompt,
            "end_prompt": self.end_prompt,
            "name": self.name,
        }
        for what, values in {**lists, **self.about}.items():
            if len(values) != count:
                raise ValueError(
                    f"{count} start images and {len(values)} of {what}: give one a pair"
                )
        # Some systems take upper and lower case for the same
        aliases = [alias(name) for name in self.name]
        twice = sorted({name for name in self.name if aliases.count(alias(name)) > 1})
        if twice:
            raise ValueError(
                f"names of pairs come more than once: {', '.join(twice[:5])}; give each its own"
            )

    def __len__(self) -> int:
        return len(self.start)

    def images(self, i: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Both images of pair i, each (3, height, width) float32 in [0, 1]."""
        try:
            first = _image(self.start[i], size, self.fit)
            last = _image(self.end[i], size, self.fit)
        except ValueError as error:
            raise ValueError(f"pair {self.name[i]!r}: {error}") from error
        if torch.equal(first, last):
            raise ValueError(
                f"pair {self.name[i]!r}: both images are the same, there is nothing between them; "
                "leave it out"
            )
        return first, last


def read_pairs(source: str | Path, *, fit: str = "crop") -> Pairs:
    """The pairs of a folder or of a table, in the order of the table or of their names.

    A table (`experiments.pair_tables`) has the columns start and end and may have name, prompt and
    end_prompt (empty: the prompt); others become `about`. FreeMorph's, AlignMorph's, FlowMorph's
    and TVG's names of these columns are known. In a folder pairs.csv (or .xlsx, .ods, .tsv, .json,
    .jsonl) is read, or else every table of pairs that lies there.

    Without a table, everywhere below the folder: images NAME_0 and NAME_1 (or _source, _target; or
    _start, _end) of any kind with NAME.txt, as in MorphBench (Zhang et al., CVPR 2024: folders
    Animation, Metamorphosis), images of one name in the folders source and target (or start, end),
    and folders of two images with prompt.txt. These texts hold the prompt, and on a second line the
    end prompt; a warning says how many pairs have none. `about` then has the category, the folder
    that a pair lies in.

    Names that no folder can have, or that come twice, are changed, with a warning.

    Args:
        source: a folder, or the file of a table.
        fit: as in `Pairs`.

    Raises:
        FileNotFoundError: no such folder, or an image is not there.
        ValueError: no pairs, or a damaged table.
    """
    source = Path(source).expanduser()
    place = existing(source)
    if place is None:
        raise FileNotFoundError(
            f"there is no {source}; name a table of pairs, or a folder with {LAYOUTS}"
        )
    rows = read_table(place) if place.is_file() else _rows_of_tables(place)
    if not rows and place.is_dir():
        subfolders = sorted(path for path in place.rglob("*") if path.is_dir())
        rows = [*_partners(place), *_couples(place, subfolders)] or [*_couples(place, [place])]
        silent = sum(not row["prompt"] for row in rows)
        if silent:
            warnings.warn(
                f"{silent} of {len(rows)} pairs have no prompt and go without; NAME.txt or "
                f"{PROMPTS} would hold it",
                stacklevel=2,
            )
    if not rows:
        names = [path.name for path in sorted(place.iterdir())[:5]]
        raise ValueError(
            f"no pairs in {source}, which holds {', '.join(names) or 'nothing'}; {LAYOUTS} are "
            "looked for"
        )
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns["name"] = fitting_names(columns["name"])
    about = {
        name: values
        for name, values in columns.items()
        if name not in COLUMNS and any(value not in ("", None) for value in values)
    }
    return Pairs(**{name: columns[name] for name in COLUMNS}, about=about, fit=fit)


def _one_each(prompt: str | Sequence[str] | Tensor, count: int) -> list[str | Tensor]:
    return [prompt] * count if isinstance(prompt, str) else list(prompt)


def _rows_of_tables(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table called pairs, or else of every table of pairs in a folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    own = [path for path in files if path.stem.lower() == TABLE and path not in pictures(files)]
    if len(own) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(path.name for path in own)}; keep one of them, or name "
            "the one to read"
        )
    if own:
        return read_table(own[0])
    rows = []
    for path in files:
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        try:
            rows += read_table(path)
        except ValueError as error:
            warnings.warn(f"passed over {path.name}: {error}", stacklevel=3)
    return rows


def _name_and_side(path: Path, folder: Path) -> tuple[Path, int | None]:
    """What an image has in common with its partner, and which of the two it is.

    The image itself and None, where its name says nothing of a partner.
    """
    match = re.fullmatch(NUMBERED, path.stem, re.IGNORECASE)
    half = path.parent
    if match is not None:
        name, side = match.groups()
        base = path.with_name(name)
    elif half != folder and half.name.lower() in HALVES:
        side = half.name
        base = half.with_name(path.stem)
    else:
        return path, None
    # a name may be in two normal forms of Unicode
    return base.with_name(normalize("NFC", base.name)), SIDES[side.lower()]


def _partners(folder: Path) -> Iterator[dict[str, Any]]:
    """Pairs NAME_0 and NAME_1, or source/NAME and target/NAME, whatever their endings."""
    sides: dict[Path, dict[int, Path]] = {}
    for path in pictures(folder.rglob("*")):
        base, side = _name_and_side(path, folder)
        if side is None:
            continue
        pair = sides.setdefault(base, {})
        if side in pair:
            raise ValueError(
                f"{pair[side]} and {path.name} are both image {side} of a pair; keep one of them"
            )
        pair[side] = path
    for base, pair in sides.items():
        if len(pair) == 1:
            ((side, lone),) = pair.items()
            others = [
                f" ({path.name} is no picture that can be read)"
                for path in lone.parent.iterdir()
                if path != lone and _name_and_side(path, folder)[0] == base
            ]
            raise FileNotFoundError(
                f"{lone} is image {side} of {base.name}, and image {1 - side} is missing"
                f"{''.join(others)}; add it, or remove this one"
            )
        yield _row(folder, base, pair[0], pair[1], base.with_name(f"{base.name}.txt"))


def _couples(folder: Path, places: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Those of these places below the folder that hold two images and no more."""
    for place in places:
        images = [
            path
            for path in sorted(pictures(place.iterdir()), key=natural_order)
            if _name_and_side(path, folder)[1] is None
        ]
        # end.png comes before start.png by its name alone
        sides = [SIDES.get(path.stem.lower()) for path in images]
        if sides == [1, 0]:
            images.reverse()
        if len(images) == 2:
            yield _row(folder, place, images[0], images[1], place / PROMPTS)
        elif images and place != folder:
            warnings.warn(f"left out {place}: {len(images)} images are no pair", stacklevel=4)


def _row(folder: Path, base: Path, start: Path, end: Path, text: Path) -> dict[str, Any]:
    found = existing(text)
    lines = [] if found is None else read_text(found).split("\n")
    prompts = [one_line(line) for line in lines if line.strip()] or [""]
    if len(prompts) > 2:
        raise ValueError(
            f"{text} has {len(prompts)} lines; it holds the prompt, and on a second line the end "
            "prompt"
        )
    where = base.relative_to(folder)
    return {
        "name": "-".join(where.parts) or folder.name,
        "start": start,
        "end": end,
        "prompt": prompts[0],
        "end_prompt": prompts[-1],
        "category": where.parent.as_posix().removeprefix("."),
    }


def _image(side: str | Path | Tensor, size: tuple[int, int], fit: str) -> Tensor:
    if not isinstance(side, Tensor):
        return read(side, size=size, fit=fit)
    height, width = size
    checks.finite("an image", checks.floating("an image", side))
    if tuple(side.shape) != (3, height, width):
        raise ValueError(
            f"an image has shape {tuple(side.shape)}, the model takes (3, {height}, {width}); "
            "resize it (torchvision.transforms.functional.resize)"
        )
    if side.min() < -SLACK or side.max() > 1 + SLACK:
        raise ValueError(
            f"an image has values from {side.min():.4g} to {side.max():.4g}; images lie in "
            "[0, 1]: divide those in 0..255 by 255"
        )
    return side.float().cpu()
