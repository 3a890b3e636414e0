"""What a run says in a form that tables can be made of: checked outputs, result files, checksums of the plotted arrays."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from experiments.figures import SOURCES

CHECKED = "nbval-check-output"


def collected(run: Any, folder: Path) -> dict[str, Any]:
    """The content of results.json for a run whose notebook.ipynb and figures/ lie in `folder`."""
    records = {
        path.stem: record(path)
        for path in sorted((folder / "figures").rglob("*.json"))
        if path.name != SOURCES
    }
    tables = {path.stem: _table(path) for path in sorted((folder / "figures").rglob("*.csv"))}
    said = {name: about.get("results", about) for name, about in records.items()}
    arrays = {name: about["arrays"] for name, about in records.items() if "arrays" in about}
    arrays |= {path.stem: _arrays(path) for path in sorted((folder / "figures").rglob("*.npz"))}
    return {
        "notebook": run.notebook.stem,
        "id": run.id,
        "parameters": run.effective,
        "checked": checked(folder / "notebook.ipynb"),
        "results": said | tables,
        "arrays": arrays,
    }


def checked(notebook: Path) -> list[dict[str, Any]]:
    """Text printed by the checked cells; cell: index in the committed notebook, which has no injected parameters."""
    cells = [
        cell
        for cell in nbformat.read(notebook, as_version=4).cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    return [
        {"cell": index, "text": "".join(map(_text, cell.outputs))}
        for index, cell in enumerate(cells)
        if CHECKED in cell.metadata.get("tags", []) and cell.cell_type == "code"
    ]


def sources(records: Iterable[Path]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Models and data sources that result files name, each once."""
    found = [record(path) for path in records]
    models = [model for about in found for model in about.get("models") or []]
    data = [
        source for about in found for source in about.get("data") or [] if isinstance(source, dict)
    ]
    return _once(models), _once(data)


def record(path: Path) -> dict[str, Any]:
    """A JSON file that a notebook wrote; {} for one that is no record."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {
            name: {
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
            }
            for name, array in arrays.items()
        }


def _once(items: list[Any]) -> list[Any]:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


def _text(output: Any) -> str:
    """What an output says in words on stdout; progress bars on stderr are none of a result, nor are stand-ins for pictures."""
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    shown = output.get("data", {})
    return (
        ""
        if any(kind.startswith("image/") for kind in shown)
        else "".join(shown.get("text/plain", ""))
    )


def _table(path: Path) -> dict[str, Any]:
    """A csv file with every digit of its numbers; empty cells are null, "none" and "NA" texts, as is a column of "00", "01"."""
    how: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    texts = pd.read_csv(path, dtype=str, **how)
    names = [name for name in texts if texts[name].str.fullmatch(r"0\d+").any()]
    table = pd.read_csv(path, dtype=dict.fromkeys(names, str), **how)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {"columns": list(table.columns), "rows": rows}
