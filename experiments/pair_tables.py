"""Tables of pairs of images with prompts, as spreadsheets, text editors and other projects write.

Spreadsheets (Excel, OpenDocument); CSV with commas, semicolons or tabs; JSON, a list of objects or
an object that holds one, or an object a line. In UTF-8, UTF-16 or Windows' cp1252.
"""

import codecs
import csv
import io
import json
import re
import warnings
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any
from unicodedata import normalize

import pandas as pd

from .names import existing

SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
ENDINGS = (".csv", ".tsv", ".json", ".jsonl", *SPREADSHEETS)
# Our own names first; exp_id is FreeMorph's and AlignMorph's, source and target are FlowMorph's,
# those with numbers TVG's
COLUMNS = {
    "name": ("name", "exp_id"),
    "start": ("start", "source", "video_dir_1"),
    "end": ("end", "target", "video_dir_2"),
    "prompt": ("prompt", "source_prompt", "prompt_1"),
    "end_prompt": ("end_prompt", "target_prompt", "prompt_2"),
}
# Two texts in a list: FreeMorph's and AlignMorph's
LISTS = {"image_paths": ("start", "end"), "prompts": ("prompt", "end_prompt")}
OWN_NAMES = {other: name for name, others in COLUMNS.items() for other in others}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table: name, start, end (files that are there), prompt, end_prompt, and others.

    Raises:
        ValueError: no table, or a row that names no two images.
        FileNotFoundError: an image that is not there.
    """
    try:
        rows = [_own_columns(dict(row)) for row in _given_rows(path)]
    # readers answer a damaged file with nearly any class
    except Exception as error:
        raise ValueError(
            f"{path.name} cannot be read as a table: {error}; mend it, or save it as CSV in UTF-8"
        ) from error
    if not rows:
        raise ValueError(f"{path.name} has no rows; give one a pair, below a row of column names")
    moved = []
    for i, row in enumerate(rows):
        for side in ("start", "end"):
            if not row.get(side):
                columns = ", ".join(map(str, row)) or "nothing"
                raise ValueError(
                    f"row {i + 1} of {path.name} names no {side} image; its columns: {columns}"
                )
            name = str(row[side]).strip()
            row[side], elsewhere = _locate(name, path.parent)
            if row[side] is None:
                raise FileNotFoundError(
                    f"row {i + 1} of {path.name}: there is no {name} in {path.parent}; mend the "
                    "path, from the table's folder on"
                )
            if elsewhere:
                moved.append(f"{row[side]} for {name}")
        row["name"] = str(row.get("name") or f"{i:03d}")
        row["prompt"] = one_line(row.get("prompt"))
        row["end_prompt"] = one_line(row.get("end_prompt")) or row["prompt"]
    if moved:
        warnings.warn(
            f"{len(moved)} images of {path.name} are not where it says; found and taken: "
            f"{', '.join(moved[:5])}",
            stacklevel=3,
        )
    return rows


def read_text(path: Path) -> str:
    """A text in UTF-8, UTF-16 or, with a warning, cp1252; its lines ended by \\n.

    Raises:
        ValueError: it is in none of these.
    """
    content = path.read_bytes()
    marked = [encoding for mark, encoding in MARKS.items() if content.startswith(mark)]
    for encoding in marked[:1] or ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" in text:
                continue
            if encoding == "cp1252":
                warnings.warn(
                    f"{path.name} is not in UTF-8 and read as Windows' cp1252; save it in UTF-8 if "
                    "letters come out wrong",
                    stacklevel=2,
                )
            return io.StringIO(text, newline=None).read()
    raise ValueError(f"{path.name} is no text in UTF-8, UTF-16 or cp1252")


def one_line(prompt: Any) -> str:
    """A prompt without line breaks, in one normal form of Unicode."""
    text = "" if prompt is None else str(prompt)
    return normalize("NFC", re.sub(r"\s*\n\s*", " ", text.strip()))


def _given_rows(path: Path) -> list[Any]:
    """The rows of a file with the names that it gives its columns."""
    if path.suffix.lower() in SPREADSHEETS:
        sheet = pd.read_excel(path, engine="calamine", dtype=str, keep_default_na=False)
        return _typed(sheet.to_dict("records"))
    text = read_text(path)
    if text.lstrip().startswith(("{", "[")):
        return _json_rows(text)
    return _typed(_csv_rows(text))


def _csv_rows(text: str) -> list[dict[str, str]]:
    header, _, rest = text.lstrip("\n").partition("\n")
    if re.fullmatch("sep=.", header):
        # Excel's own hint
        text = rest
        header = rest.partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    reader = csv.DictReader(
        io.StringIO(text.lstrip("\n")),
        delimiter=delimiter,
        restval="",
        skipinitialspace=True,
        strict=True,
    )
    rows = []
    for row in reader:
        if None in row:
            raise ValueError(
                f"line {reader.line_num} has more cells than the header; put texts that contain "
                f"{delimiter!r} into double quotes"
            )
        rows.append(row)
    return rows


def _typed(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows of text with numbers where a whole column holds them; without empty ones."""
    # spreadsheets leave rows of nothing
    rows = [row for row in rows if any(value.strip() for value in row.values())]
    table = pd.DataFrame(rows)
    for name in table.columns:
        if str(name).strip().lower() not in OWN_NAMES:
            with suppress(ValueError):
                table[name] = pd.to_numeric(table[name])
    return table.to_dict("records")


def _json_rows(text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        is_row = "start" in _own_columns(content)
        # TVG's rows are the list "data"
        content = [content] if is_row or not lists else lists[0]
    return content


def _own_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A row with our names of the columns."""
    own = {}
    for column, value in row.items():
        column = str(column).strip()
        name = column.lower()
        if name in LISTS and isinstance(value, list):
            if len(value) != 2:
                raise ValueError(f"{name} holds {len(value)} texts, not two")
            own |= zip(LISTS[name], value, strict=True)
        else:
            own.setdefault(OWN_NAMES.get(name, column), value)
    return own


def _locate(name: str, folder: Path) -> tuple[Path | None, bool]:
    """The file that a table in this folder names, and whether it lies elsewhere than it says."""
    # written on Windows, on another machine, or for a program that runs elsewhere
    windows = PureWindowsPath(name)
    parts = windows.parts[1:] if windows.anchor else windows.parts
    as_named = [folder / Path(name).expanduser(), folder.joinpath(*parts), Path(*parts)]
    # the folder was moved, and the table with it
    tails = [folder.joinpath(*parts[k:]) for k in range(1, len(parts))]
    for k, path in enumerate([*as_named, *tails]):
        found = existing(path)
        if found is not None and found.is_file():
            return found, k >= len(as_named)
    return None, False
