"""How a result of a benchmark is shown and kept."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from experiments import figures

from . import Result


def console(width: int = 160) -> Console:
    """A console that is legible also where the output is no terminal."""
    if Console().is_terminal:
        return Console()
    return Console(width=width)


def show(console: Console, result: Result) -> None:
    """One table with what it decides."""
    if len(result.rows):
        grid = Table(title=result.title, title_justify="left")
        for column in result.rows.columns:
            numeric = pd.api.types.is_numeric_dtype(result.rows[column])
            grid.add_column(column, justify="right" if numeric else "left")
        for row in result.rows.itertuples(index=False):
            grid.add_row(*map(cell, row))
        console.print(grid, markup=False)
    notes = [f"note: {note}" for note in result.notes]
    for line in [*map(str, result.claims), *notes]:
        console.print(line, highlight=False, markup=False)
    console.print()


def cell(value: object) -> str:
    """Four digits of a float, a dash for what is missing."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def keep(result: Result, folder: Path, settings: Mapping[str, object]) -> None:
    """Write the table, and beside it the claims, the notes and the settings."""
    figures.save_results(result.name, result.rows, folder=folder)
    verdict = {
        "title": result.title,
        "claims": [vars(claim) for claim in result.claims],
        "notes": result.notes,
        "settings": dict(settings),
        "data": result.data,
    }
    figures.save_results(f"{result.name}-verdict", verdict, folder=folder)
