"""Does a notebook give the same on one and on two threads?"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.parameters import ROOT
from workflow.results import (
    array_differences,
    arrays,
    checked_texts,
    different_names,
    table_differences,
    tables,
)
from workflow.runs import Run


def differences(notebook: Path, given: Mapping[str, Any], folder: Path) -> list[str]:
    """Run a notebook on one and on two threads below `folder`; what differs, in words.

    Printed texts of checked cells must be equal, result files and plotted arrays to
    `workflow.results.TOLERANCE` of the largest value of a column, counts of evaluations to
    `WORK_TOLERANCE`. Measured times are not compared.
    """
    runs = []
    for threads in (1, 2):
        run = Run(notebook, given, folder / f"{threads}-threads")
        words = [notebook.stem, "--given", json.dumps(dict(given)), "--root", str(run.root)]
        # a process each: numbers of threads are read once
        command = [sys.executable, "-m", "workflow.execute", *words, "--threads", str(threads)]
        if subprocess.run(command, cwd=ROOT).returncode:
            return [f"{notebook.stem} failed on {threads} threads"]
        runs.append(run.folder)
    return compare(*runs)


def compare(one: Path, other: Path) -> list[str]:
    """Where two runs of a notebook say something else."""
    texts, other_texts = (checked_texts(folder / "notebook.ipynb") for folder in (one, other))
    found = different_names("checked cell", texts, other_texts)
    for cell in sorted(set(texts) & set(other_texts)):
        if texts[cell] != other_texts[cell]:
            found.append(f"{cell} prints\n{texts[cell]}and\n{other_texts[cell]}")
    found += table_differences(tables(one / "figures"), tables(other / "figures"))
    found += array_differences(arrays(one / "figures"), arrays(other / "figures"))
    return found
