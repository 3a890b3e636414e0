"""All runs' results in one tidy table, and beside it one row a run: what is in the table, what is not, and why not."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.figures import ROOT, replacing
from lib.runs.tables import number, tables
from lib.runs.standing import run_folders, state_of

CODE = ("lib", "environment")  # the parts of a run's id that say which code made its numbers, besides the notebook's cells
FIXED = ("notebook", "id", "code", "cells", "result", "row", "quantity", "value")
LISTED = 20                    # so many runs are named on the screen, all of them in runs.csv


def collect(root: Path) -> pd.DataFrame:
    """The numbers of all finished runs below `root`: one row a (run, result, row of the result, quantity).

    Columns: notebook, id, code and cells (8 hex digits that differ where library or environment, or the notebook's cells, do),
    the parameters that differ between runs of a notebook, result, row, the text labels of the result's rows, quantity, value.
    Lists are JSON text, true is 1. Other states of runs: see `overview`. FileNotFoundError where there is no run.
    """
    found = [run for run in read(root) if run["state"] == "finished"]
    varied = varying(found)
    parameters = list(dict.fromkeys(name for names in varied.values() for name in names))
    records, labels = [], {}
    for run in found:
        about = _about(run) | _shown(run, varied)
        for result, rows in tables(run["results"]["results"]):
            texts = {name: _free(name, [*FIXED, *parameters], "label") for name in _texts(rows)}
            labels |= dict.fromkeys(texts.values())
            records += [about | {"result": result, "row": place} | {texts[name]: row.get(name) for name in texts}
                        | {"quantity": name, "value": number(value)}
                        for place, row in enumerate(rows) for name, value in row.items() if name not in texts]
    shown = [_free(name, FIXED, "parameter") for name in parameters]
    table = pd.DataFrame(records, columns=[*FIXED[:4], *shown, *FIXED[4:6], *labels, *FIXED[6:]])
    return _tidy(table.astype({"value": float}), shown)


def overview(root: Path, *, checked: bool = False) -> pd.DataFrame:
    """One row a run below `root`: notebook, id, state, why it is not in the table, code, cells, how many numbers, threads, seconds.

    The parameters that differ follow; with `checked` also the texts that the checked cells of a finished run printed.
    """
    found = read(root)
    varied = varying(found)
    rows = []
    for run in found:
        made = run.get("provenance", {})
        counted = sum(len(rows) for _, rows in tables(run["results"]["results"])) if "results" in run else None
        row = {**_about(run), "state": run["state"], "why": run["why"], "rows": counted, "threads": made.get("threads"),
               "seconds": made.get("seconds"), **_shown(run, varied)}
        texts = [cell["text"] for cell in run.get("results", {}).get("checked", [])]
        rows.append(row | ({"checked": "\n".join(texts)} if checked else {}))
    table = pd.DataFrame(rows)
    fixed = {"notebook", "id", "code", "cells", "state", "why", "rows", "threads", "seconds", "checked"}
    return _tidy(table, [name for name in table if name not in fixed])


def notes(runs: pd.DataFrame) -> list[str]:
    """What a reader of the table must know, from `overview`: runs that are not in it, runs without numbers, a mixture of codes."""
    said, finished = [], runs[runs["state"] == "finished"]
    for state, group in runs[runs["state"] != "finished"].groupby("state"):
        said += [f"not in the table: {len(group)} {state}", *_named(group)]
    if len(empty := finished[finished["rows"] == 0]):
        said += [f"{len(empty)} finished without numbers ({', '.join(sorted(set(empty['notebook'])))}: no lib.figures.save_results); "
                 "--checked keeps what their checked cells printed", *_named(empty)]
    if finished["code"].nunique() > 1:
        said.append(f"warning: numbers of {finished['code'].nunique()} codes or environments in one table (column code); "
                    "compare within one only")
    for notebook, group in finished.groupby("notebook"):
        if group["cells"].nunique() > 1:
            said.append(f"warning: {notebook} in {group['cells'].nunique()} versions of its cells (column cells)")
    return said


def write(table: pd.DataFrame, runs: pd.DataFrame, out: Path) -> list[Path]:
    """results.csv and runs.csv, and results.parquet where pyarrow is installed, into the folder `out`: all or none."""
    parquet = [out / "results.parquet"] if importlib.util.find_spec("pyarrow") else []
    files = [out / "results.csv", out / "runs.csv", *parquet]
    with replacing(*files) as drafts:
        table.to_csv(drafts[0], index=False, lineterminator="\n")
        runs.to_csv(drafts[1], index=False, lineterminator="\n")
        for draft in drafts[2:]:
            table.to_parquet(draft, index=False)
    return files


def read(root: Path) -> list[dict[str, Any]]:
    """All runs below `root` with their state and what they left, in the order of notebook and id."""
    if not (folders := run_folders(root)):
        raise FileNotFoundError(f"no run in {root}; make some with: python -m lib.runs run NN, or sweep NN --grid name=1,2")
    return [_run(folder) for folder in folders]


def varying(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """notebook → the parameters whose value is not the same in all of its runs, in the order of its parameters cell."""
    values: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        known = values.setdefault(run["request"]["notebook"], {})
        for name, value in run["request"]["effective"].items():
            known.setdefault(name, set()).add(str(_cell(value)))
    return {notebook: [name for name, seen in known.items() if len(seen) > 1 and name != "figures_dir"]
            for notebook, known in values.items()}


def _run(folder: Path) -> dict[str, Any]:
    state, why = state_of(folder)
    wanted = {"request": "request.json"} | ({"results": "results.json", "provenance": "provenance.json"} if state == "finished" else {})
    return {"state": state, "why": why} | {
        key: json.loads((folder / name).read_text(encoding="utf-8")) for key, name in wanted.items()}


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    request = run["request"]
    digest = hashlib.sha256("".join(request["parts"][part] for part in CODE).encode()).hexdigest()
    return {"notebook": request["notebook"], "id": request["id"], "code": digest[:8], "cells": request["parts"]["notebook"][:8]}


def _shown(run: Mapping[str, Any], varied: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    effective = run["request"]["effective"]
    return {_free(name, FIXED, "parameter"): _cell(effective[name]) for name in varied[run["request"]["notebook"]] if name in effective}


def _cell(value: Any) -> Any:
    """A parameter in one cell of a table: lists and the like as JSON text; 1 and 1.0 are the same."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if value != int(value) else int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _tidy(table: pd.DataFrame, parameters: Iterable[str]) -> pd.DataFrame:
    """Columns of one kind: a parameter that is a number in one run and a text in another is a text in all."""
    for name in parameters:
        column = table[name].dropna()
        numbers = column.map(lambda value: isinstance(value, (int, float))).all()
        table[name] = pd.to_numeric(table[name]) if numbers else table[name].where(table[name].isna(), table[name].astype(str))
    return table


def _texts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name, value in row.items() if number(value) is None))


def _free(name: str, taken: Iterable[str], kind: str) -> str:
    return f"{kind}.{name}" if name in taken else name


def _named(group: pd.DataFrame) -> list[str]:
    lines = [f"    {run.notebook} {run.id}" + (f": {run.why}" if run.why else "") for run in group.head(LISTED).itertuples()]
    return lines + ([f"    and {len(group) - LISTED} more, see runs.csv"] if len(group) > LISTED else [])
