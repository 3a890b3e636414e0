"""One notebook through papermill: unchanged work skipped, figures published only when the whole notebook has passed."""

import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

from lib.data import availability
from lib.figures import ROOT, plain, replacing, writing
from lib.runs.parameters import check

SOURCES = ("lib/**/*.py", "data/**/*", "requirements.txt")  # besides its own cells, what a notebook's result hangs on
QUIET = ["--log-level=ERROR"]  # else every kernel warns that its local sockets are not encrypted


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook. state: "passed", "unchanged" or "failed"; files: those it wrote, sorted."""

    name: str
    state: str
    seconds: float
    files: list[Path] = field(default_factory=list)
    error: str = ""

    def fallbacks(self) -> list[str]:
        """Messages of the data sources that stood in for better ones, from the provenance beside the figures."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in self.files if path.suffix == ".json"]
        sources = [source for record in records for source in record.get("data", []) if isinstance(source, dict)]
        return sorted({source["message"] for source in sources if source.get("fallback")})


def execute(notebook: Path, given: Mapping[str, Any], *, build: Path, out: Path) -> Outcome:
    """Run one notebook with parameters `given`; figures go to `out`, the executed notebook and a stamp to `build`.

    Returns at once if the stamp of an earlier run with the same inputs stands and its files are still the same.
    Figures reach `out` only when the whole notebook has passed. A failure is an Outcome, an interrupt is raised.
    """
    start, stamp = time.perf_counter(), build / f"{notebook.stem}.stamp.json"
    try:
        if "figures_dir" in given:
            raise ValueError("figures_dir is not a free parameter here; say where figures go with --out or --into")
        check(notebook, {**given, "figures_dir": "."})
        inputs = fingerprint(notebook, given, out)
        if (earlier := _unchanged(stamp, inputs, out)) is not None:
            return Outcome(notebook.stem, "unchanged", earlier["seconds"], [out / name for name in earlier["files"]])
        stamp.unlink(missing_ok=True)
        names = _run(notebook, given, build, out)
        seconds = round(time.perf_counter() - start, 1)
        record = {"inputs": inputs, "seconds": seconds, "files": {name: _sha256(out / name) for name in names}}
        with replacing(stamp) as (draft,):
            draft.write_text(json.dumps(record, indent=2), encoding="utf-8")
        return Outcome(notebook.stem, "passed", seconds, [out / name for name in names])
    except Exception as error:  # whatever it is, the other notebooks shall still run; the caller reports it
        return Outcome(notebook.stem, "failed", round(time.perf_counter() - start, 1), error=explain(error))


def fingerprint(notebook: Path, given: Mapping[str, Any], out: Path) -> str:
    """sha256 over all that a run's result hangs on: cells, parameters, sources, pins, Python, data, target folder."""
    book = nbformat.read(notebook, as_version=4)
    cells = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in book.cells]
    paths = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file())
    files = {path.relative_to(ROOT).as_posix(): _sha256(path) for path in paths if "__pycache__" not in path.parts}
    whole = [cells, plain(given), files, platform.python_version(), availability(), os.path.relpath(out, ROOT)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _run(notebook: Path, given: Mapping[str, Any], build: Path, out: Path) -> list[str]:
    """Execute into a draft folder inside `out`, then move what was written there into `out`; names, sorted."""
    with writing("figures", out):
        out.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(dir=out, prefix=".draft-")
    with staging as stage, replacing(build / f"{notebook.stem}.ipynb") as (draft,):
        inside = {**given, "figures_dir": os.path.relpath(stage, notebook.parent)}
        _papermill(notebook, draft, inside)
        names = sorted(path.relative_to(stage).as_posix() for path in Path(stage).rglob("*") if path.is_file())
        if not any(name.endswith(".png") for name in names):
            raise ValueError(f"{notebook.stem} ran but wrote no figure; pass figures_dir to lib.figures.save")
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(stage) / name, out / name)
    return names


def _papermill(notebook: Path, draft: Path, given: Mapping[str, Any]) -> None:
    failed = draft.with_name(f"{notebook.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    bar = {"desc": notebook.stem, "disable": None}  # None: no bar where nobody watches
    try:
        papermill.execute_notebook(str(notebook), str(draft), given, kernel_name="python3", progress_bar=bar,
                                   extra_arguments=QUIET, cwd=str(notebook.parent))
    except PapermillExecutionError as error:
        os.replace(draft, failed)
        error.add_note(f"the notebook up to there: {os.path.relpath(failed)}")
        raise


def _unchanged(stamp: Path, inputs: str, out: Path) -> dict[str, Any] | None:
    if not stamp.exists():
        return None
    record = json.loads(stamp.read_text(encoding="utf-8"))
    same = record["inputs"] == inputs and all(
        (out / name).is_file() and _sha256(out / name) == digest for name, digest in record["files"].items())
    return record if same else None


def explain(error: Exception) -> str:
    """What went wrong, for a terminal: for a failing cell its error and the end of its traceback, without colours."""
    if not isinstance(error, (PapermillExecutionError, CellExecutionError)):
        return f"{type(error).__name__}: {error}"
    trace = error.traceback if isinstance(error.traceback, str) else "\n".join(error.traceback)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", trace).splitlines()
    return "\n".join([f"{error.ename}: {error.evalue}", *lines[-15:], *getattr(error, "__notes__", [])])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
