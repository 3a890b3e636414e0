"""Pairs of images with prompts: a table, a folder of images, or tensors."""

from __future__ import annotations

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
from lib.latents import SLACK

from ..images import ENDINGS, read
from .files import folder_name

COLUMNS = ("name", "start", "end", "prompt", "end_prompt")
TABLES = ("pairs.csv", "pairs.json", "pairs.jsonl")
PROMPT = "prompt.txt"  # of a subfolder; NAME.txt of NAME_0 and NAME_1
LAYOUTS = (
    f"a table ({', '.join(TABLES)}) with the columns start and end, images NAME_0.png and NAME_1.png, or a subfolder of "
    "two images for each pair"
)


@dataclass(frozen=True)
class Pairs:
    """Pairs of images to connect. start, end: image files, one a pair, or tensors (n, 3, height, width) in [0, 1].

    prompt, end_prompt: a text for all, one a pair, or embeddings (n, tokens, width); end_prompt None is the prompt once more.
    name: one a pair, which its folder of frames is called by; "000", "001", … if None. about: further columns of the result.
    ValueError: no pairs, other lengths, names that no folder can have or that come twice.
    """

    start: Sequence[str | Path] | Tensor
    end: Sequence[str | Path] | Tensor
    prompt: str | Sequence[str] | Tensor = ""
    end_prompt: str | Sequence[str] | Tensor | None = None
    name: Sequence[str] | None = None
    about: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, put = len(self.start), lambda name, value: object.__setattr__(self, name, value)
        if n == 0:
            raise ValueError("there are no pairs")
        put("prompt", [self.prompt] * n if isinstance(self.prompt, str) else list(self.prompt))
        other = self.prompt if self.end_prompt is None else self.end_prompt
        put("end_prompt", [other] * n if isinstance(other, str) else list(other))
        put(
            "name",
            [f"{i:03d}" for i in range(n)] if self.name is None else list(map(str, self.name)),
        )
        for what, values in {
            "end": self.end,
            "prompt": self.prompt,
            "end_prompt": self.end_prompt,
            "name": self.name,
            **self.about,
        }.items():
            if len(values) != n:
                raise ValueError(f"{n} start images and {len(values)} of {what}: give one a pair")
        _check_names(self.name)

    def __len__(self) -> int:
        return len(self.name)

    def images(self, i: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Both images of pair i, (3, height, width) float32 in [0, 1]; files are cut to their middle square and resized."""
        try:
            first, last = (_image(side[i], size) for side in (self.start, self.end))
        except ValueError as error:
            raise ValueError(f"pair {self.name[i]!r}: {error}") from error
        if torch.equal(first, last):
            raise ValueError(
                f"pair {self.name[i]!r}: both images are the same, there is nothing between them; leave it out"
            )
        return first, last


def read_pairs(folder: str | Path) -> Pairs:
    """The pairs of a folder, in the order of its table or of their names.

    A table pairs.csv, .json (a list of objects) or .jsonl: columns start and end (files, relative to the folder), name, prompt,
    end_prompt (empty: as prompt); others become `about`. Without a table, everywhere below the folder: files NAME_0.png and
    NAME_1.png (any kind of image) with NAME.txt, as in MorphBench (Zhang et al., CVPR 2024: folders Animation, Metamorphosis),
    and subfolders of two images with prompt.txt. These texts hold the prompt, on a second line the end prompt; a warning says
    how many pairs have none. `about` then has category, the folder that a pair lies in.
    FileNotFoundError: no such folder, or images are missing. ValueError: no pairs, a damaged table.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one with {LAYOUTS}")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(path.name for path in tables)}; keep one of them"
        )
    rows = _table(tables[0]) if tables else [*_numbered(folder), *_couples(folder)]
    if not rows:
        raise ValueError(f"no pairs in {folder}; {LAYOUTS} are looked for")
    _check_files(rows)
    silent = sum(not row["prompt"] for row in rows)
    if silent and not tables:
        warnings.warn(
            f"{silent} of {len(rows)} pairs have no prompt and go without; NAME.txt or {PROMPT} would hold it",
            stacklevel=2,
        )
    others = dict.fromkeys(
        key for row in rows for key in row if key not in COLUMNS and row[key] not in ("", None)
    )
    return Pairs(
        *([row[key] for row in rows] for key in ("start", "end", "prompt", "end_prompt", "name")),
        about={key: [row.get(key) for row in rows] for key in others},
    )


def _table(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            rows = pd.read_csv(
                path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False
            ).to_dict("records")
        else:
            text = path.read_text(encoding="utf-8")
            rows = (
                json.loads(text)
                if path.suffix == ".json"
                else [json.loads(one) for one in text.splitlines() if one.strip()]
            )
        rows = [dict(row) for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read as a table: {error}; mend it") from error
    for i, row in enumerate(rows):
        for side in ("start", "end"):
            if not row.get(side):
                has = ", ".join(map(str, row)) or "nothing"
                raise ValueError(
                    f"row {i + 1} of {path.name} names no {side} image; its columns: {has}"
                )
            row[side] = path.parent / str(row[side])
        row["name"] = str(row.get("name") or f"{i:03d}")
        row["prompt"] = str(row.get("prompt") or "")
        row["end_prompt"] = str(row.get("end_prompt") or row["prompt"])
    return rows


def _numbered(folder: Path) -> Iterator[dict[str, Any]]:
    """NAME_0 and NAME_1, whatever their endings."""
    sides: dict[Path, dict[str, Path]] = {}
    for path in _pictures(folder.rglob("*")):
        if found := re.fullmatch(r"(.+)_([01])", path.stem):
            pair = sides.setdefault(path.with_name(found[1]), {})
            if (before := pair.setdefault(found[2], path)) != path:
                raise ValueError(
                    f"{before} and {path.name} are both image {found[2]} of a pair; keep one of them"
                )
    for base, pair in sides.items():
        if len(pair) < 2:
            raise FileNotFoundError(
                f"{next(iter(pair.values()))} has no partner {base.name}_{'10'[int(next(iter(pair)))]}.*; "
                "add or remove one"
            )
        yield _row(folder, base, pair["0"], pair["1"], base.with_name(base.name + ".txt"))


def _couples(folder: Path) -> Iterator[dict[str, Any]]:
    """Subfolders of two images that are not numbered."""
    for place in sorted(path for path in folder.rglob("*") if path.is_dir()):
        found = [
            path for path in _pictures(place.iterdir()) if not re.fullmatch(r".+_[01]", path.stem)
        ]
        if len(found) == 2:
            yield _row(folder, place, *found, place / PROMPT)
        elif found:
            warnings.warn(f"left out {place}: {len(found)} images are no pair", stacklevel=4)


def _row(folder: Path, base: Path, start: Path, end: Path, text: Path) -> dict[str, Any]:
    said = (
        [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
        if text.is_file()
        else []
    )
    if len(said) > 2:
        raise ValueError(
            f"{text} has {len(said)} lines; the prompt is wanted, and on a second line the end prompt"
        )
    where = base.relative_to(folder)
    name = re.sub(r"[^\w .,()+-]", "_", "-".join(where.parts))
    return {
        "name": name,
        "start": start,
        "end": end,
        "prompt": said[0] if said else "",
        "end_prompt": said[-1] if said else "",
        "category": where.parent.as_posix().removeprefix("."),
    }


def _pictures(paths: Iterator[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    )


def _check_files(rows: list[dict[str, Any]]) -> None:
    missing = [
        f"{row[side]} (pair {row['name']})"
        for row in rows
        for side in ("start", "end")
        if not row[side].is_file()
    ]
    if missing:
        more = f" and {len(missing) - 5} more" * (len(missing) > 5)
        raise FileNotFoundError(
            f"images are missing: {', '.join(missing[:5])}{more}; files of a table lie relative to it"
        )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        folder_name("a pair", name)
    folded = [name.casefold() for name in names]
    twice = (
        sorted({name for name in names if folded.count(name.casefold()) > 1})
        if len(set(folded)) < len(names)
        else []
    )
    if twice:
        raise ValueError(
            f"names of pairs come more than once: {', '.join(twice[:5])}; give each its own"
        )


def _image(side: str | Path | Tensor, size: tuple[int, int]) -> Tensor:
    if isinstance(side, Tensor):
        checks.finite("an image", checks.floating("an image", side))
        if tuple(side.shape) != (3, *size):
            raise ValueError(
                f"an image has shape {tuple(side.shape)}, the model takes (3, {size[0]}, {size[1]}); resize it "
                "(torchvision.transforms.functional.resize)"
            )
        if side.min() < -SLACK or side.max() > 1 + SLACK:
            raise ValueError(
                f"an image has values from {side.min():.4g} to {side.max():.4g}; images lie in [0, 1]: divide "
                "those in 0..255 by 255"
            )
        return side.float().cpu()
    if size[0] != size[1]:
        raise ValueError(
            f"image files are read as squares and the model takes {size[0]}×{size[1]}; give tensors of that size"
        )
    return read(side, size=size[0])
