"""Pairs of images with prompts: from tensors, or from the files of a folder."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib import checks

from .images import pictures, read

COLUMNS = ("name", "start", "end", "prompt", "end_prompt")
TABLES = ("pairs.csv", "pairs.json", "pairs.jsonl")
# The prompts of a subfolder's pair; those of NAME_0 and NAME_1 are in NAME.txt
PROMPTS = "prompt.txt"
LAYOUTS = (
    f"a table ({', '.join(TABLES)}) with the columns start and end, images NAME_0.png and "
    "NAME_1.png, or a subfolder of two images for each pair"
)
# What every system lets a folder be called
FOLDER_NAME = r"\w(?:[\w .,()+-]*[\w)+-])?"
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

    Raises:
        ValueError: no pairs, different lengths, a name that no folder can have or that comes twice.
    """

    start: Sequence[str | Path] | Tensor
    end: Sequence[str | Path] | Tensor
    prompt: str | Sequence[str] | Tensor = ""
    end_prompt: str | Sequence[str] | Tensor | None = None
    name: Sequence[str] | None = None
    about: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.start)
        if count == 0:
            raise ValueError("there are no pairs")
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
        folded = [name.casefold() for name in self.name]
        twice = sorted({name for name in self.name if folded.count(name.casefold()) > 1})
        if twice:
            raise ValueError(
                f"names of pairs come more than once: {', '.join(twice[:5])}; give each its own"
            )

    def __len__(self) -> int:
        return len(self.start)

    def images(self, i: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Both images of pair i, each (3, height, width) float32 in [0, 1].

        Files are cut to their middle square and resized.
        """
        try:
            first = _image(self.start[i], size)
            last = _image(self.end[i], size)
        except ValueError as error:
            raise ValueError(f"pair {self.name[i]!r}: {error}") from error
        if torch.equal(first, last):
            raise ValueError(
                f"pair {self.name[i]!r}: both images are the same, there is nothing between them; "
                "leave it out"
            )
        return first, last


def read_pairs(folder: str | Path) -> Pairs:
    """The pairs of a folder, in the order of its table or of their names.

    A table pairs.csv, .json (a list of objects) or .jsonl has the columns start and end (files,
    relative to the folder) and may have name, prompt and end_prompt (empty: the prompt); others
    become `about`.

    Without a table, everywhere below the folder: images NAME_0 and NAME_1 of any kind with
    NAME.txt, as in MorphBench (Zhang et al., CVPR 2024: folders Animation, Metamorphosis), and
    subfolders of two images with prompt.txt. These texts hold the prompt, and on a second line the
    end prompt; a warning says how many pairs have none. `about` then has the category, the folder
    that a pair lies in.

    Raises:
        FileNotFoundError: no such folder, or an image has no partner.
        ValueError: no pairs, or a damaged table.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one with {LAYOUTS}")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(path.name for path in tables)}; keep one of them"
        )
    rows = _table_rows(tables[0]) if tables else [*_numbered_images(folder), *_subfolders(folder)]
    if not rows:
        raise ValueError(f"no pairs in {folder}; {LAYOUTS} are looked for")
    silent = sum(not row["prompt"] for row in rows)
    if silent and not tables:
        warnings.warn(
            f"{silent} of {len(rows)} pairs have no prompt and go without; NAME.txt or {PROMPTS} "
            "would hold it",
            stacklevel=2,
        )
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    about = {
        name: values
        for name, values in columns.items()
        if name not in COLUMNS and any(value not in ("", None) for value in values)
    }
    return Pairs(**{name: columns[name] for name in COLUMNS}, about=about)


def folder_name(what: str, name: str) -> str:
    """The name, if every system lets a folder be called so.

    Raises:
        ValueError: it does not.
    """
    name = str(name)
    if not re.fullmatch(FOLDER_NAME, name):
        raise ValueError(
            f"{name!r} cannot be the name of {what}, its frames lie in a folder of that name: use "
            "letters, digits, blanks and . , ( ) + - _"
        )
    return name


def _one_each(prompt: str | Sequence[str] | Tensor, count: int) -> list[str | Tensor]:
    return [prompt] * count if isinstance(prompt, str) else list(prompt)


def _table_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False)
            rows = table.to_dict("records")
        elif path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        rows = [dict(row) for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read as a table: {error}; mend it") from error
    for i, row in enumerate(rows):
        for side in ("start", "end"):
            if not row.get(side):
                columns = ", ".join(map(str, row)) or "nothing"
                raise ValueError(
                    f"row {i + 1} of {path.name} names no {side} image; its columns: {columns}"
                )
            row[side] = path.parent / str(row[side])
        row["name"] = str(row.get("name") or f"{i:03d}")
        row["prompt"] = str(row.get("prompt") or "")
        row["end_prompt"] = str(row.get("end_prompt") or row["prompt"])
    return rows


def _numbered_images(folder: Path) -> Iterator[dict[str, Any]]:
    """Pairs NAME_0 and NAME_1, whatever their endings."""
    sides: dict[Path, dict[str, Path]] = {}
    for path in pictures(folder.rglob("*")):
        match = re.fullmatch(r"(.+)_([01])", path.stem)
        if match is None:
            continue
        name, side = match.groups()
        pair = sides.setdefault(path.with_name(name), {})
        if side in pair:
            raise ValueError(
                f"{pair[side]} and {path.name} are both image {side} of a pair; keep one of them"
            )
        pair[side] = path
    for base, pair in sides.items():
        for side in "01":
            if side not in pair:
                raise FileNotFoundError(
                    f"{base.name}_{side}.* is missing in {base.parent}, the partner of "
                    f"{next(iter(pair.values())).name}; add or remove one"
                )
        text = base.with_name(f"{base.name}.txt")
        yield _row(folder, base, pair["0"], pair["1"], text)


def _subfolders(folder: Path) -> Iterator[dict[str, Any]]:
    """Subfolders of two images that are not numbered."""
    for place in sorted(path for path in folder.rglob("*") if path.is_dir()):
        images = [
            path for path in pictures(place.iterdir()) if not re.fullmatch(r".+_[01]", path.stem)
        ]
        if len(images) == 2:
            yield _row(folder, place, images[0], images[1], place / PROMPTS)
        elif images:
            warnings.warn(f"left out {place}: {len(images)} images are no pair", stacklevel=4)


def _row(folder: Path, base: Path, start: Path, end: Path, text: Path) -> dict[str, Any]:
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
    prompts = [line.strip() for line in lines if line.strip()] or [""]
    if len(prompts) > 2:
        raise ValueError(
            f"{text} has {len(prompts)} lines; it holds the prompt, and on a second line the end "
            "prompt"
        )
    where = base.relative_to(folder)
    return {
        "name": re.sub(r"[^\w .,()+-]", "_", "-".join(where.parts)),
        "start": start,
        "end": end,
        "prompt": prompts[0],
        "end_prompt": prompts[-1],
        "category": where.parent.as_posix().removeprefix("."),
    }


def _image(side: str | Path | Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    if not isinstance(side, Tensor):
        if height != width:
            raise ValueError(
                f"image files are read as squares and the model takes {height}×{width}; give "
                "tensors of that size"
            )
        return read(side, size=height)
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
