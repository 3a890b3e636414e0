"""One notebook through papermill into the folder of its run; the Snakefile calls this program."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from workflow.parameters import ROOT, cells_digest, find, parameters
from workflow.runs import RUNS, Run

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# else every kernel warns that its sockets are not encrypted, and that it was ended
QUIET = ["--log-level=CRITICAL"]


class NotebookFailed(Exception):
    """A cell of a notebook failed; the message says which, how, and where to read on."""


def execute(run: Run, *, threads: int = 1) -> Path:
    """Execute a run into its folder, which is returned; only what came to its end is put there.

    Raises:
        NotebookFailed: A cell failed (see notebook.failed.ipynb there), or no figure was written.
    """
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    # the kernel imports lib of this checkout, whatever is installed
    os.environ["PYTHONPATH"] = str(ROOT)
    run.folder.mkdir(parents=True, exist_ok=True)
    for old in ("provenance.json", "notebook.failed.ipynb"):
        (run.folder / old).unlink(missing_ok=True)
    for old in run.folder.glob(".draft-*"):
        shutil.rmtree(old)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=".draft-") as name:
        draft = Path(name)
        figures = draft / "figures"
        figures.mkdir()
        with (run.folder / "log.txt").open("w", buffering=1, encoding="utf-8") as log:
            try:
                papermill.execute_notebook(
                    run.notebook,
                    draft / "notebook.ipynb",
                    {**run.given, "figures_dir": os.path.relpath(figures, run.notebook.parent)},
                    kernel_name="python3",
                    cwd=run.notebook.parent,
                    progress_bar=False,
                    extra_arguments=QUIET,
                    stdout_file=log,
                    stderr_file=log,
                )
            except PapermillExecutionError as error:
                os.replace(draft / "notebook.ipynb", run.folder / "notebook.failed.ipynb")
                log.write(plain(error.traceback))
                raise NotebookFailed(explain(run, error)) from error
        if not any(figures.rglob("*.png")):
            raise NotebookFailed(f"{run.name} wrote no figure; pass figures_dir to figures.save")
        record = provenance_of(run, figures, threads, time.perf_counter() - start)
        (draft / "provenance.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        shutil.rmtree(run.folder / "figures", ignore_errors=True)
        for made in ("figures", "notebook.ipynb", "provenance.json"):
            os.replace(draft / made, run.folder / made)
    return run.folder


def explain(run: Run, error: PapermillExecutionError) -> str:
    """Which notebook, which cell, what happened, and where the rest can be read."""
    log = os.path.relpath(run.folder / "log.txt")
    first_line = error.source.strip().splitlines()[0]
    message = plain(error.evalue).strip()
    return (
        f"{run.name} failed in cell {error.exec_count} ({first_line})\n"
        f"    {error.ename}: {message}\n"
        f"    traceback: {log}; the notebook up to there: notebook.failed.ipynb beside it"
    )


def plain(text: str | list[str]) -> str:
    """A traceback without its colours."""
    joined = text if isinstance(text, str) else "\n".join(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", joined) + "\n"


def provenance_of(run: Run, figures: Path, threads: int, seconds: float) -> dict[str, Any]:
    """What a run was made from; nothing in it names this machine."""
    defaults = {name: found.default for name, found in parameters(run.notebook).items()}
    defaults.pop("figures_dir", None)
    effective = {**defaults, **run.given}
    sources = figures / "sources.json"
    return {
        "notebook": run.notebook.stem,
        "id": run.id,
        "given": dict(run.given),
        "parameters": effective,
        "seed": effective.get("seed"),
        "cells": cells_digest(run.notebook),
        "sources": json.loads(sources.read_text("utf-8")) if sources.is_file() else {},
        **commit(),
        "python": platform.python_version(),
        "packages": packages(),
        "threads": threads,
        "seconds": round(seconds, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def packages() -> dict[str, str]:
    """Every installed package with its version."""
    installed = importlib.metadata.distributions()
    return dict(sorted((each.metadata["Name"], each.version) for each in installed))


def commit() -> Mapping[str, Any]:
    """The commit of this checkout and whether sources differ from it; None outside a checkout."""
    unknown = {"commit": None, "modified": None}
    # without .git here, git would find a surrounding checkout that is not ours
    if not (ROOT / ".git").exists():
        return unknown
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        # figures/ holds results, not sources
        status = [*git, "status", "--porcelain", "--", ".", ":!figures"]
        changes = subprocess.run(status, capture_output=True, text=True)
    except OSError:
        return unknown
    if head.returncode or changes.returncode:
        return unknown
    return {"commit": head.stdout.strip(), "modified": bool(changes.stdout)}


def end_with_parent() -> None:
    """End this process when its parent has died, so that a killed sweep leaves nothing at work.

    The kernel watches this process in the same way.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook")
    parser.add_argument("--given", type=json.loads, default={}, help="parameters, as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=RUNS, help="folder of the runs")
    arguments = parser.parse_args()
    end_with_parent()
    run = Run(find(arguments.notebook), arguments.given, arguments.root)
    start = time.perf_counter()
    try:
        execute(run, threads=arguments.threads)
    except NotebookFailed as error:
        print(error, flush=True)
        sys.exit(1)
    print(f"{run.name}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
