"""All runs' results in one tidy table, and beside it one row a run: what is in the table, what is not, and why not."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.figures import replacing

from .folder import RUNS
from .status import Found, found_runs
from .tables import number, tables

CODE = (
    "lib",
    "environment",
)  # the parts of a run's id that say which code made its numbers, besides the notebook's cells
FIXED = ("notebook", "id", "code", "cells", "result", "row", "quantity", "value")
TAKEN = (
    *FIXED,
    "state",
    "why",
    "rows",
    "threads",
    "seconds",
    "checked",
)  # no names for a parameter's column
LISTED = 20  # so many runs are named on the screen, all of them in runs.csv


def collect(root: Path = RUNS) -> pd.DataFrame:
    """The numbers of all finished runs below `root`: one row a (run, result, row of the result, quantity).

    Columns: notebook, id, code and cells (8 hex digits that differ where library or environment, or the notebook's cells, do),
    the parameters that differ between runs of a notebook, result, row, the text labels of the result's rows, quantity, value.
    Lists are JSON text, true is 1. Other states of runs: see `overview`. FileNotFoundError where there is no run.
    """
    return tidy(read(root))


def overview(root: Path = RUNS, *, checked: bool = False) -> pd.DataFrame:
    """One row a run below `root`: notebook, id, code, cells, state, why not finished, rows of its results, threads, seconds.

    The parameters that differ follow; with `checked` also the texts that the checked cells of a finished run printed.
    """
    return listed(read(root), checked=checked)


def read(root: Path = RUNS) -> list[dict[str, Any]]:
    """All runs below `root` with their state and, of finished ones, what they left. FileNotFoundError if there is none."""
    if not (found := found_runs(root)):
        raise FileNotFoundError(
            f"no run in {root}; make some with: python -m lib.runs run NN, or sweep NN --grid name=1,2"
        )
    return [_run(about) for about in found]


def tidy(found: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """`collect`'s table of runs that `read` has found."""
    found = [run for run in found if run["state"] == "finished"]
    varied = varying(found)
    parameters = list(dict.fromkeys(name for names in varied.values() for name in names))
    records, labels = [], {}
    for run in found:
        about = _about(run) | _shown(run, varied)
        for result, rows in tables(run["results"]["results"]):
            texts = {name: _free(name, [*FIXED, *parameters], "label") for name in _texts(rows)}
            labels |= dict.fromkeys(texts.values())
            records += [
                about
                | {"result": result, "row": place}
                | {texts[name]: row.get(name) for name in texts}
                | {"quantity": name, "value": number(value)}
                for place, row in enumerate(rows)
                for name, value in row.items()
                if name not in texts
            ]
    shown = [_free(name, TAKEN, "parameter") for name in parameters]
    table = pd.DataFrame(records, columns=[*FIXED[:4], *shown, *FIXED[4:6], *labels, *FIXED[6:]])
    return _of_one_kind(table.astype({"value": float}), shown)


def listed(found: Iterable[Mapping[str, Any]], *, checked: bool = False) -> pd.DataFrame:
    """`overview`'s table of runs that `read` has found."""
    varied, rows = varying(found), []
    for run in found:
        made, left = run.get("provenance", {}), run.get("results", {"results": {}, "checked": []})
        counted = sum(len(part) for _, part in tables(left["results"]))
        printed = (
            {"checked": "\n".join(cell["text"] for cell in left["checked"])} if checked else {}
        )
        rows.append(
            {
                **_about(run),
                "state": run["state"],
                "why": run["why"],
                "rows": counted,
                "threads": made.get("threads"),
                "seconds": made.get("seconds"),
                **_shown(run, varied),
                **printed,
            }
        )
    table = pd.DataFrame(rows)
    return _of_one_kind(
        table, [_free(name, TAKEN, "parameter") for names in varied.values() for name in names]
    )


def notes(runs: pd.DataFrame) -> list[str]:
    """What a reader of the table must know, from `overview`: runs that are not in it or have no numbers, a mixture of codes."""
    said, finished = [], runs[runs["state"] == "finished"]
    for state, group in runs[runs["state"] != "finished"].groupby("state"):
        said += [f"not in the table: {len(group)} {state}", *_named(group)]
    if len(empty := finished[finished["rows"] == 0]):
        which = ", ".join(sorted(set(empty["notebook"])))
        said += [
            f"{len(empty)} finished without numbers ({which}: no experiments.figures.save_results); "
            "--checked keeps what their checked cells printed",
            *_named(empty),
        ]
    if finished["code"].nunique() > 1:
        said.append(
            f"warning: numbers of {finished['code'].nunique()} codes or environments in one table (column code); "
            "compare within one only"
        )
    for notebook, group in finished.groupby("notebook"):
        if group["cells"].nunique() > 1:
            said.append(
                f"warning: {notebook} in {group['cells'].nunique()} versions of its cells (column cells)"
            )
    return said


def write(table: pd.DataFrame, runs: pd.DataFrame, out: Path) -> list[Path]:
    """results.csv and runs.csv, and both as parquet where pyarrow is installed, into the folder `out`: all of them or none."""
    endings = ["csv", "parquet"] if importlib.util.find_spec("pyarrow") else ["csv"]
    files = [out / f"{name}.{ending}" for ending in endings for name in ("results", "runs")]
    with replacing(*files) as drafts:
        for draft, content in zip(drafts, [table, runs] * len(endings), strict=True):
            if draft.suffix == ".csv":
                content.to_csv(draft, index=False, lineterminator="\n")
            else:
                content.to_parquet(draft, index=False)
    return files


def varying(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """notebook → the parameters whose value is not the same in all of its runs, in the order of its parameters cell."""
    values: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        known = values.setdefault(run["request"]["notebook"], {})
        for name, value in run["request"]["effective"].items():
            known.setdefault(name, set()).add(str(_cell(value)))
    return {
        notebook: [name for name, seen in known.items() if len(seen) > 1]
        for notebook, known in values.items()
    }


def _run(found: Found) -> dict[str, Any]:
    names = ("results", "provenance") if found.state.name == "finished" else ()
    request = {
        "notebook": found.folder.parent.name,
        "id": found.folder.name,
        "effective": {},
        "parts": {},
    } | found.request
    return {"request": request, "state": found.state.name, "why": found.state.detail} | {
        name: json.loads((found.folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in names
    }


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    request = run["request"]
    parts = request["parts"]
    code = hashlib.sha256("".join(parts.get(name, "") for name in CODE).encode()).hexdigest()
    return {
        "notebook": request["notebook"],
        "id": request["id"],
        "code": code[:8],
        "cells": parts.get("notebook", "")[:8],
    }


def _shown(run: Mapping[str, Any], varied: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    effective, names = run["request"]["effective"], varied[run["request"]["notebook"]]
    return {
        _free(name, TAKEN, "parameter"): _cell(effective[name])
        for name in names
        if name in effective
    }


def _cell(value: Any) -> Any:
    """A parameter in one cell of a table: lists and the like as JSON text; 1 and 1.0 are the same."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if value != int(value) else int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _of_one_kind(table: pd.DataFrame, parameters: Iterable[str]) -> pd.DataFrame:
    """Columns of one kind: a parameter that is a number in one run and a text in another is a text in all."""
    for name in parameters:
        column = table[name].dropna()
        numbers = column.map(lambda value: isinstance(value, (int, float))).all()
        table[name] = (
            pd.to_numeric(table[name])
            if numbers
            else table[name].where(table[name].isna(), table[name].astype(str))
        )
    return table


def _texts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(
        dict.fromkeys(name for row in rows for name, value in row.items() if number(value) is None)
    )


def _free(name: str, taken: Iterable[str], kind: str) -> str:
    return f"{kind}.{name}" if name in taken else name


def _named(group: pd.DataFrame) -> list[str]:
    lines = [
        f"    {run.notebook} {run.id}" + (f": {run.why}" if run.why else "")
        for run in group.head(LISTED).itertuples()
    ]
    return lines + (
        [f"    and {len(group) - LISTED} more, see runs.csv"] if len(group) > LISTED else []
    )
