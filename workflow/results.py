"""A run in numbers: result files as tables, plotted arrays, checked outputs; do two runs agree?"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

# of the largest value of a column or array: machines and numbers of threads round differently
TOLERANCE = 1e-3
# the same for counts of evaluations: rounding decides whether a solver takes one step more
WORK_TOLERANCE = 0.1
CHECKED = "nbval-check-output"


def tables(folder: Path, names: str = "*.*") -> dict[str, pd.DataFrame]:
    """The result files of a folder, NAME.csv and NAME.json, as tables by name.

    A record in JSON is a table of one row, nested names joined by dots; a list of records in it is
    a table NAME.KEY.
    """
    found = {}
    for path in sorted(folder.glob(names)):
        if path.suffix == ".csv":
            found[path.stem] = pd.read_csv(path)
        if path.suffix != ".json" or path.name == "sources.json":
            continue
        single = {}
        for key, value in json.loads(path.read_text(encoding="utf-8")).items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                found[f"{path.stem}.{key}"] = pd.json_normalize(value)
            else:
                single |= flat(key, value)
        if single:
            found[path.stem] = pd.DataFrame([single])
    return found


def flat(key: str, value: Any) -> dict[str, Any]:
    """Nested records and lists as one record, dots between the names, items numbered from 0."""
    if isinstance(value, list):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict):
        # how JSON holds them
        return {key: float(value) if value in ("nan", "inf", "-inf") else value}
    leaves = {}
    for name, item in value.items():
        leaves |= flat(f"{key}.{name}", item)
    return leaves


def arrays(folder: Path, names: str = "*.*") -> dict[str, np.ndarray]:
    """The plotted arrays of a folder by FIGURE.NAME."""
    found = {}
    for path in sorted(folder.glob(names)):
        if path.suffix != ".npz":
            continue
        with np.load(path) as content:
            found |= {f"{path.stem}.{name}": content[name] for name in content.files}
    return found


def code_cells(notebook: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, without the one that papermill puts in."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = []
    for cell in cells:
        injected = "injected-parameters" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not injected:
            cell.outputs = merged(cell.outputs)
            code.append(cell)
    return code


def merged(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs with neighbours of one stream as one: where a kernel cuts a stream is chance."""
    found = []
    for output in outputs:
        stream = output.get("name")
        if found and stream and found[-1].get("name") == stream:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def checked_texts(notebook: Path) -> dict[str, str]:
    """What the checked cells of an executed notebook printed, by their first lines."""
    texts = {}
    for number, cell in enumerate(code_cells(notebook)):
        if CHECKED in cell.metadata.get("tags", []):
            printed = [output.text for output in cell.outputs if output.get("name") == "stdout"]
            texts[f"code cell {number}"] = "".join(printed)
    return texts


def table_differences(
    ones: Mapping[str, pd.DataFrame], others: Mapping[str, pd.DataFrame]
) -> list[str]:
    """Where the tables of two runs differ by more than the tolerance; times are not compared."""
    found = different_names("result", ones, others)
    for name in sorted(set(ones) & set(others)):
        one, other = untimed(ones[name]), untimed(others[name])
        if one.shape != other.shape or list(one.columns) != list(other.columns):
            found.append(f"{name} has other rows or columns")
            continue
        for column in one:
            found += value_differences(f"{name}.{column}", one[column], other[column])
    return found


def array_differences(
    ones: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> list[str]:
    """Where the arrays of two runs differ by more than the tolerance; times are not compared."""
    found = different_names("array", ones, others)
    for name in sorted(set(ones) & set(others)):
        if not is_time(name):
            found += value_differences(name, ones[name], others[name])
    return found


def value_differences(name: str, one: Any, other: Any) -> list[str]:
    """At most one complaint about two columns or arrays."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return [f"{name} has shape {one.shape} and {other.shape}"]
    if one.dtype.kind not in "fiu" or other.dtype.kind not in "fiu":
        equal = (one == other) | (pd.isna(one) & pd.isna(other))
        return [] if equal.all() else [f"{name} differs"]
    one, other = one.astype(float), other.astype(float)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return [f"{name} has NaN or infinity in other places"]
    one, other = one[finite], other[finite]
    if not one.size:
        return []
    scale = np.abs(one).max() or 1.0
    apart = np.abs(one - other).max() / scale
    allowed = WORK_TOLERANCE if is_work(name) else TOLERANCE
    return [f"{name} differs by {apart:.2g} of its largest value"] if apart > allowed else []


def different_names(kind: str, ones: Iterable[str], others: Iterable[str]) -> list[str]:
    return [f"{kind} {name} is in one run only" for name in sorted(set(ones) ^ set(others))]


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    """A table without measured times: their columns, and rows whose label names one."""
    table = table[[column for column in table if not is_time(str(column))]]
    labelled = table.select_dtypes(exclude="number").map(lambda text: is_time(str(text)))
    return table[~labelled.any(axis=1)]


def is_time(name: str) -> bool:
    """Whether a quantity is a measured time: "seconds", "net_seconds"."""
    return last_word(name) == "seconds"


def is_work(name: str) -> bool:
    """Whether a quantity counts what a solver did: "score_batches", "lerp.iterations"."""
    return last_word(name) in ("evaluations", "batches", "iterations")


def last_word(name: str) -> str:
    return name.rpartition(".")[2].rpartition("_")[2]
