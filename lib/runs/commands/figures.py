"""Commands that keep the repository's own results fresh: figures, refresh."""

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from experiments.figures import ROOT

from .. import NOTEBOOKS, RUNS, Run, find, notebooks, publish, refresh, run_all, smoke_parameters
from .shared import Folder, Workers, report

app = typer.Typer()
PANEL = "The repository's own figures"
THREADS = 1  # the same everywhere, since the last bits of a sum hang on it


@app.command("figures", rich_help_panel=PANEL)
def figures_command(
    out: Annotated[
        Path | None,
        typer.Option(help="Figures go here.", show_default="figures; smoke: build/smoke/figures"),
    ] = None,
    build: Annotated[
        Path, typer.Option(help="The runs go here.", show_default="build/runs")
    ] = RUNS,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Number or name of a notebook; may be repeated."),
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Small parameters.")] = False,
    workers: Workers = None,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Run every notebook whose inputs changed; write figures, say what was written and which fallbacks were used.

    One thread a notebook, as many notebooks at once as there are cores ([b]--workers[/b] for fewer). The figures of a notebook
    are all replaced, once it has passed, or none.
    """
    chosen = [find(name, folder) for name in only] if only else notebooks(folder)
    out = out or ROOT / ("build/smoke/figures" if smoke else "figures")
    runs = [
        Run(notebook, smoke_parameters(notebook) if smoke else {}, build, smoke)
        for notebook in chosen
    ]
    report(
        run_all(runs, workers=workers, threads=THREADS, then=lambda outcome: publish(outcome, out))
    )


@app.command("refresh", rich_help_panel=PANEL)
def refresh_command(
    only: Annotated[
        list[str] | None, typer.Argument(help="Numbers or names; all if left out.")
    ] = None,
    folder: Folder = NOTEBOOKS,
) -> None:
    """Re-execute the committed notebooks in place, metadata noise stripped."""
    chosen = [find(name, folder) for name in only] if only else notebooks(folder)
    report(
        [
            refresh(notebook)
            for notebook in tqdm(chosen, desc="refreshing", unit="notebook", disable=None)
        ]
    )
