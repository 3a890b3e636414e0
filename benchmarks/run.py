"""`make bench`: measure everything that was promised, print tables and PASS or MISSED, keep the numbers.

`python -m benchmarks.run --only accuracy,memory --out build/benchmarks`. Times appear as ratios only.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from experiments import figures
from lib import checks
from lib.solvers import ConvergenceWarning

from . import Result, density, digits, latent, peers, sphere

BENCHMARKS: dict[str, Callable[[bool], Result]] = {
    "accuracy": sphere.accuracy,
    "convergence": sphere.convergence,
    "memory": sphere.memory,
    "first_order": peers.first_order,
    "density_sphere": density.on_sphere,
    "density_mixtures": density.mixtures,
    "ablation": density.ablation,
    "initial_value": sphere.initial_value,
    "digits": digits.alone,
    "mnist": digits.mnist,
    "quadrature": sphere.quadrature,
    "sharing": sphere.sharing,
    "trade": sphere.trade,
    "latent": latent.full_size,
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    only: Annotated[
        str, typer.Option(help="names of benchmarks, separated by commas; all if empty")
    ] = "",
    out: Annotated[Path, typer.Option(help="folder for the numbers")] = Path("build/benchmarks"),
    threads: Annotated[int, typer.Option(help="threads of torch", min=1)] = 1,
) -> None:
    """Run the benchmarks and say which promises are kept."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    names = [checks.choice("benchmark", name, BENCHMARKS) for name in wanted] or list(BENCHMARKS)
    torch.set_num_threads(threads)
    # legible also where the output is no terminal
    console, began, results = (
        Console(width=None if Console().is_terminal else 160),
        time.perf_counter(),
        [],
    )
    for name in names:
        results.append(measure(name))
        show(console, results[-1])
        keep(results[-1], out, threads)
    targets = [target for result in results for target in result.targets]
    console.rule("promises")
    for target in targets:
        console.print(
            str(target), style="green" if target.met else "bold red", highlight=False, markup=False
        )
    kept, seconds = sum(t.met for t in targets), time.perf_counter() - began
    console.print(
        f"{kept} of {len(targets)} kept; {seconds:.0f} s; numbers in {out}", highlight=False
    )


def measure(name: str, quick: bool = False) -> Result:
    """Run one benchmark; quick: a small one that shows the same columns."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # each table counts them in a column of its own
        return BENCHMARKS[name](quick)


def show(console: Console, result: Result) -> None:
    """One table with what it decides."""
    if len(result.rows):
        grid = Table(title=result.title, title_justify="left")
        for column in result.rows.columns:
            grid.add_column(
                column,
                justify="right" if pd.api.types.is_numeric_dtype(result.rows[column]) else "left",
            )
        for row in result.rows.itertuples(index=False):
            grid.add_row(*map(text, row))
        console.print(grid, markup=False)
    for line in [*map(str, result.targets), *(f"note: {note}" for note in result.notes)]:
        console.print(line, highlight=False, markup=False)
    console.print()


def text(value: object) -> str:
    """A cell: four digits of a float, a dash for what is missing."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def keep(result: Result, out: Path, threads: int, **settings: object) -> None:
    """The table, and what it decides, with its settings and data, beside it."""
    figures.save_results(result.name, result.rows, folder=out)
    verdict = {
        "title": result.title,
        "settings": {"threads": threads, **settings},
        "data": result.data,
        "targets": [vars(target) for target in result.targets],
        "notes": result.notes,
    }
    figures.save_results(f"{result.name}-verdict", verdict, folder=out)


if __name__ == "__main__":
    app()
