"""Commands that read what runs have left: collect, report, determinism."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.figures import ROOT

from .. import NOTEBOOKS, RUNS, find, notebooks, smoke_parameters
from .shared import Folder, Root

app = typer.Typer()
PANEL = "Read results"
COLLECTED = ROOT / "build" / "collected"


@app.command("collect", rich_help_panel=PANEL)
def collect_command(
    root: Annotated[
        Path, typer.Argument(help="Folder of the runs.", show_default="build/runs")
    ] = RUNS,
    out: Annotated[
        Path, typer.Option(help="Tables and figures go here.", show_default="build/collected")
    ] = COLLECTED,
    quantities: Annotated[
        list[str] | None,
        typer.Option(
            "--quantity",
            help="Draw this one; may be repeated.",
            show_default="the first that differ between runs",
        ),
    ] = None,
    checked: Annotated[
        bool, typer.Option("--checked", help="Keep checked cells' texts, in runs.csv.")
    ] = False,
) -> None:
    """Put the numbers of all finished runs into one tidy table, and draw them over the parameters that differ.

    results.csv has a row a number: notebook, id, code, cells, the parameters that differ, result, row, labels, quantity, value.
    runs.csv has a row a run, finished or not. Both also as parquet where pyarrow is installed. NN_comparison.png compares the
    runs of a notebook.
    """
    from ..collect import listed, notes, read, tidy, write
    from ..compare import compare

    found = read(root)
    table, runs = tidy(found), listed(found, checked=checked)
    files, said = [], notes(runs)
    for notebook in dict.fromkeys(runs["notebook"]):
        drawn, left = compare(table, notebook, quantities or [], out=out)
        files, said = files + list(drawn.values()), said + left
    for path in [*write(table, runs, out), *files]:
        print(f"    {os.path.relpath(path)}")
    counted = f"{len(table)} numbers of {table['id'].nunique()} runs; {len(runs)} runs in {os.path.relpath(root)}"
    print("\n".join([*said, counted]))


@app.command("report", rich_help_panel=PANEL)
def report_command(
    run: Annotated[str, typer.Argument(help="The first digits of its id, or its folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page is written here.", show_default="build/reports/NN_topic-ID.html"
        ),
    ] = None,
    root: Root = RUNS,
) -> None:
    """Make one HTML page of a run that needs nothing beside it and no network: what it was made from, then its notebook."""
    from ..report import report

    print(os.path.relpath(report(run, out, root=root)))


@app.command("determinism", rich_help_panel=PANEL)
def determinism_command(
    only: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NN]...", help="Numbers or names; all if left out."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--smoke", help="Defaults, or the small parameters of smoke.yml.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder, where the runs stay.", show_default="none")
    ] = None,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Run notebooks three times, on 1, 1 and 2 threads, and compare all they say; exit status 1 if anything differs.

    Equal must be: checked outputs over all three; results and plotted arrays on 1 thread. Between 1 and 2 threads results
    may differ by 1e-3 of the largest value of their column. Measured times are not compared.
    """
    from ..determinism import examine, lines

    chosen = [find(name, folder) for name in only] if only else notebooks(folder)
    verdicts = []
    for number, notebook in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {notebook.stem}, three runs", file=sys.stderr, flush=True)
        given = {} if full else smoke_parameters(notebook)
        verdicts.append(examine(notebook, given, keep=keep and keep / notebook.stem))
        if verdicts[-1].complaints:
            print(
                "\n    ".join([f"{notebook.stem}:", *verdicts[-1].complaints]),
                file=sys.stderr,
                flush=True,
            )
    print("\n".join(lines(verdicts)))
    if any(verdict.complaints for verdict in verdicts):
        raise typer.Exit(1)
