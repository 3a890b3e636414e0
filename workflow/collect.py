"""The results of many runs as one tidy table: a row a number."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workflow.results import tables
from workflow.runs import BUILD, Run, provenance

TABLES = BUILD / "tables"


def collect(runs: Sequence[Run]) -> pd.DataFrame:
    """One table of the numbers of finished runs.

    Returns:
        Columns notebook, id, the parameters that differ between the runs, result (the file), row,
        labels (the texts of the row), quantity, value.
    """
    parts = []
    varied = varying(runs)
    for run in runs:
        values = provenance(run.folder)["parameters"]
        for name, table in tables(run.folder / "figures").items():
            part = tidy(table)
            part.insert(0, "result", name)
            for parameter in reversed(varied):
                # a list as one cell
                part.insert(0, parameter, str(values.get(parameter)))
            part.insert(0, "id", run.id)
            part.insert(0, "notebook", run.notebook.stem)
            parts.append(part)
    if not parts:
        return pd.DataFrame(columns=["notebook", "id", "result", "row", "labels", "quantity"])
    return pd.concat(parts, ignore_index=True)


def varying(runs: Sequence[Run]) -> list[str]:
    """The parameters whose value is not the same in all runs."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in provenance(run.folder)["parameters"].items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, found in values.items() if len(found) > 1]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """row, labels, quantity, value of one result."""
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    words = table[texts].astype(object).fillna("").astype(str)
    labels = words.agg(" ".join, axis=1) if len(texts) else ""
    numbers = table.drop(columns=texts).assign(row=range(len(table)), labels=labels)
    return numbers.melt(id_vars=["row", "labels"], var_name="quantity", value_name="value")


def write(table: pd.DataFrame, name: str) -> Path:
    """Write a table into build/tables; returns its path."""
    TABLES.mkdir(parents=True, exist_ok=True)
    path = TABLES / f"{name}.csv"
    table.to_csv(path, index=False, lineterminator="\n")
    return path
