"""Commands that run notebooks with other parameters: list, run, sweep, status, resume."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import runs
from .. import NOTEBOOKS, RUNS, Run, find, parameters, parse, smoke_parameters
from .shared import DryRun, Folder, Root, Scheduler, Smoke, Threads, Workers, report

app = typer.Typer()
PANEL = "Rerun notebooks"


@app.command("list", rich_help_panel=PANEL)
def list_command(
    only: Annotated[
        list[str] | None, typer.Argument(help="Numbers or names; all if left out.")
    ] = None,
    folder: Folder = NOTEBOOKS,
) -> None:
    """List the notebooks with their parameters: type, default and what each one means."""
    chosen = [find(name, folder) for name in only] if only else runs.notebooks(folder)
    for notebook in chosen:
        rows = [
            (
                name,
                type(found["default"]).__name__.replace("NoneType", "any"),
                repr(found["default"]),
                found["help"],
            )
            for name, found in parameters(notebook).items()
        ]
        show(
            notebook.stem,
            ("parameter", "type", "default", "meaning"),
            rows,
            lambda row: f"{row[0]}: {row[1]} = {row[2]}".ljust(44) + f" # {row[3]}",
        )


@app.command("run", rich_help_panel=PANEL)
def run_command(
    name: Annotated[str, typer.Argument(metavar="NN", help="Number or name of a notebook.")],
    assignments: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    root: Root = RUNS,
    smoke: Smoke = False,
    threads: Threads = None,
    dry_run: DryRun = False,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Run one notebook with other parameters, into a folder of its own; a finished run is not repeated.

    [b]python -m lib.runs run 01 -p lam=10 -p "dims=[2, 3]"[/b]

    The folder is build/runs/NN_topic/ID: the executed notebook, figures/, results.json, log.txt and provenance.json. ID is a
    checksum over notebook, sources, parameters, environment, models and data.
    """
    notebook = find(name, folder)
    base = smoke_parameters(notebook) if smoke else {}
    _make(
        [Run(notebook, base | parse(notebook, assignments or []), root, smoke)],
        dry_run,
        workers=1,
        threads=threads,
    )


@app.command("sweep", rich_help_panel=PANEL)
def sweep_command(
    words: Annotated[
        list[str], typer.Argument(metavar="NN|FILE.yml", help="A notebook, or a file of runs.")
    ],
    axes: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="NAME=VALUE,VALUE...", help="All combinations are run."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="For all runs.")
    ] = None,
    root: Root = RUNS,
    smoke: Smoke = False,
    workers: Workers = None,
    threads: Threads = None,
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Run a notebook at all combinations of some values, or all runs of a file, several at once.

    [b]python -m lib.runs sweep 01 --grid lam=1,10,100 sigma=0.1,0.2[/b]

    [b]python -m lib.runs sweep 03 --smoke --grid "noise_levels=[1.0,0.5],[1.0]" digits=sklearn,mnist -w 2[/b]

    A FILE.yml holds one entry, or a list of them:

        - notebook: 03
          parameters: {points: 13}
          grid: {sigma: [0.5, 1.0], strength: [10, 1000]}
          runs: [{angle: 45}, {angle: 135, seed: 1}]

    One process a run, threads shared out among them, one GPU a worker where there are some. With --scheduler an existing
    dask cluster is used: Slurm, Kubernetes or SSH, three lines each in [b]lib/runs/cluster.py[/b].
    """
    names, extra = (
        [word for word in words if "=" not in word],
        [word for word in words if "=" in word],
    )
    if len(names) != 1 or (extra and not axes):
        raise ValueError("write sweep NN --grid name=1,2 other=3,4, or sweep FILE.yml")
    if Path(names[0]).suffix in (".yml", ".yaml"):
        if axes or assignments:
            raise ValueError("a file lists all of its runs; put grid and parameters into it")
        made = runs.read_sweep(Path(names[0]), smoke=smoke, root=root, folder=folder)
    else:
        notebook = find(names[0], folder)
        axes = runs.parse_grid(notebook, [*(axes or []), *extra])
        made = runs.grid(notebook, axes, parse(notebook, assignments or []), smoke=smoke, root=root)
    _make(made, dry_run, workers=workers, threads=threads, scheduler=scheduler)


@app.command("status", rich_help_panel=PANEL)
def status_command(
    root: Annotated[
        Path, typer.Argument(help="Folder of the runs.", show_default="build/runs")
    ] = RUNS,
) -> None:
    """Show the runs in a folder: planned, running, interrupted, failed, damaged (a file was changed) or finished."""
    found = runs.found_runs(root)
    show(
        os.path.relpath(root),
        ("run", "state", "seconds", "parameters", "detail"),
        [about.row() for about in found],
        lambda row: "  ".join(filter(None, row)),
    )
    counts = {name: sum(about.state.name == name for about in found) for name in runs.STATES}
    print(
        ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        or f"no runs in {os.path.relpath(root)}"
    )


@app.command("resume", rich_help_panel=PANEL)
def resume_command(
    root: Annotated[
        Path, typer.Argument(help="Folder of the runs.", show_default="build/runs")
    ] = RUNS,
    states: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            help="Only these: planned, interrupted, failed, damaged; may be repeated.",
            show_default="all",
        ),
    ] = None,
    workers: Workers = None,
    threads: Threads = None,
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Continue a folder of runs: make those that are planned, interrupted, failed or damaged; finished ones stay.

    A run whose notebook, sources, data or environment have changed since it was planned is made under its new name.
    """
    made = runs.resumable(
        root, states or runs.UNFINISHED, folder, lambda said: print(said, file=sys.stderr)
    )
    _make(made, dry_run, workers=workers, threads=threads, scheduler=scheduler)


def show(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], line) -> None:
    """A table for a person at a terminal, plain lines for everyone else."""
    console = Console()
    if not console.is_terminal:
        print(title)
        print("".join(f"    {line(row)}\n" for row in rows), end="")
        return
    table = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(
            *(Text(str(cell)) for cell in row)
        )  # a str with [b] in it would be taken for markup
    console.print(table)


def _make(made: list[Run], dry_run: bool, **how) -> None:
    if not dry_run:
        report(runs.run_all(made, **how))
        return
    for run in made:
        given = ", ".join(f"{name}={value!r}" for name, value in run.given.items())
        print(f"{run.name}: {run.state().name}  {given}")
    print(f"{len(made)} runs, {sum(run.state().name != 'finished' for run in made)} to be made")
