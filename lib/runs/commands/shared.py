"""What several commands share: options, and how outcomes are told."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .. import NOTEBOOKS, RUNS, Outcome

Folder = Annotated[
    Path, typer.Option("--notebooks", help="Where the notebooks lie.", show_default=False)
]
Root = Annotated[
    Path, typer.Option("--root", help="Folder of the runs.", show_default="build/runs")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", help="Runs at once.", show_default="by cores and GPUs"),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", help="Threads of each run.", show_default="cores // workers"),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="tcp://HOST:8786, an existing dask cluster; how to start one: [b]lib/runs/cluster.py[/b].",
    ),
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke", help="Small parameters (notebooks/smoke.yml) in place of the defaults."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and do nothing.")]
NOTEBOOKS_FOLDER, RUNS_FOLDER = NOTEBOOKS, RUNS


def report(outcomes: list[Outcome]) -> None:
    """Print files, fallbacks, times and failures, the closing line last; exit 1 if anything failed."""
    fallbacks: dict[str, dict[str, None]] = {}  # as an ordered set
    for outcome in outcomes:
        when = "last run" if outcome.state == "unchanged" else "in"
        print(f"{outcome.label}: {outcome.state} ({when} {outcome.seconds:.1f} s)")
        for path in outcome.files if outcome.state == "passed" else []:
            print(f"    {os.path.relpath(path)}")
        for message in outcome.fallbacks():
            fallbacks.setdefault(message, {})[outcome.name] = None
        if outcome.note:
            print(f"    {outcome.note}")
        if outcome.error:
            print("    " + outcome.error.replace("\n", "\n    "))
    for message, names in fallbacks.items():
        print(f"fallback in {', '.join(names)}: {message}")
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    print(f"notebooks: {len(outcomes) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)
