"""One run through papermill into its folder: a finished one is not repeated, an unfinished one never looks finished."""

import errno
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import papermill
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

from . import identity
from .folder import Run, State, clear, held, keep, read, stamp, state, synced
from .results import collected, sources

QUIET = [
    "--log-level=CRITICAL"
]  # else every kernel warns that its sockets are not encrypted, and that it was ended
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook. state: "passed", "unchanged" or "failed"; files: those it wrote, sorted."""

    name: str
    state: str
    seconds: float
    files: list[Path] = field(default_factory=list)
    error: str = ""
    folder: Path | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The notebook, with the identifier where there is a run."""
        return self.name if self.folder is None else f"{self.name}/{self.folder.name}"

    def fallbacks(self) -> list[str]:
        """Messages of the data sources that stood in for better ones, from the provenance beside the figures."""
        _, data = sources(path for path in self.files if path.suffix == ".json")
        return sorted({source["message"] for source in data if source.get("fallback")})


def perform(run: Run, *, bar: bool = False) -> Outcome:
    """Execute a run into its folder, unless it is finished; waits while another process works on the same run.

    A failure is an Outcome (and failed.json), an interrupt is raised and leaves the run to be continued. A damaged run is
    made anew, its files are kept in damaged-N. bar: show papermill's progress bar of cells where somebody watches.
    """
    start = time.perf_counter()
    try:
        run.plan()
        with held(run.folder):
            if (found := state(run.folder)).name == "finished":
                return finished(run)
            clear(run.folder, found)
            run.plan()
            return replace(_attempt(run, bar), note=_note(found))
    except (
        Exception
    ) as error:  # whatever it is, the other runs shall still be made; the caller reports it
        seconds = round(time.perf_counter() - start, 1)
        return Outcome(
            run.notebook.stem, "failed", seconds, error=explain(error), folder=run.folder
        )


def execute(
    notebook: Path, given: Mapping[str, Any], *, build: Path, out: Path, smoke: bool = False
) -> Outcome:
    """Run one notebook with parameters `given` below the folder `build`, then publish its figures to `out`."""
    from .publish import publish

    try:
        run = Run(notebook, given, build, smoke)
    except ValueError as error:
        return Outcome(notebook.stem, "failed", 0.0, error=explain(error))
    return publish(perform(run), out)


def finished(run: Run) -> Outcome:
    """The outcome of a run that stands already."""
    seconds = read(run.folder / "provenance.json")["seconds"]
    return Outcome(run.notebook.stem, "unchanged", seconds, _figures(run.folder), folder=run.folder)


def record_failure(run: Run, error: str, trace: str, seconds: float) -> None:
    """Write failed.json; a disk too full even for this leaves the run unfinished, which `resume` sees as well."""
    with suppress(OSError):
        keep(
            run.folder / "failed.json",
            {"id": run.id, "error": error, "traceback": trace, "seconds": seconds},
        )


def explain(error: Exception) -> str:
    """What went wrong, for a terminal: for a failing cell its error and the end of its traceback, without colours."""
    if not isinstance(error, (PapermillExecutionError, CellExecutionError)):
        mend = isinstance(error, OSError) and error.errno in DISK and "free space" not in str(error)
        return (
            f"{type(error).__name__}: {error}"
            + mend * "; free space there, make it writable, or choose another folder"
        )
    return "\n".join(
        [f"{error.ename}: {error.evalue}", *_trace(error)[-15:], *getattr(error, "__notes__", [])]
    )


def threads() -> int | None:
    """Threads that a kernel started now will use, as the environment says; None where it says nothing."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() else None


def _attempt(run: Run, bar: bool) -> Outcome:
    start = time.perf_counter()
    with (
        _journal(run.folder) as log,
        tempfile.TemporaryDirectory(dir=run.folder, prefix=".draft-") as draft,
    ):
        log.write(
            f"run {run.name} begins, process {os.getpid()} on {platform.node()}, {threads() or 'all'} threads\n"
        )
        try:
            _papermill(run, Path(draft), log, bar)
            _complete(run, Path(draft))
        except Exception as error:
            short, *lines = explain(error).splitlines()
            log.write("\n".join([short, *(_trace(error) or lines)]) + "\n")
            record_failure(
                run, short, "\n".join(_trace(error) or lines), round(time.perf_counter() - start, 1)
            )
            raise
        seconds = round(time.perf_counter() - start, 1)
        log.write(f"finished in {seconds} s\n")
    _seal(run, seconds)
    return Outcome(run.notebook.stem, "passed", seconds, _figures(run.folder), folder=run.folder)


def _papermill(run: Run, draft: Path, log: TextIO, bar: bool) -> None:
    """The notebook, executed beside its committed self, with a draft folder for its figures."""
    (draft / "figures").mkdir()
    inside = {**run.given, "figures_dir": os.path.relpath(draft / "figures", run.notebook.parent)}
    progress = {
        "desc": run.notebook.stem,
        "disable": None if bar else True,
    }  # None: no bar where nobody watches
    try:
        papermill.execute_notebook(
            str(run.notebook),
            str(draft / "notebook.ipynb"),
            inside,
            kernel_name="python3",
            progress_bar=progress,
            extra_arguments=QUIET,
            cwd=str(run.notebook.parent),
            stdout_file=log,
            stderr_file=log,
        )
    except PapermillExecutionError as error:
        failed = run.folder / "notebook.failed.ipynb"
        os.replace(draft / "notebook.ipynb", failed)
        error.add_note(f"the notebook up to there: {os.path.relpath(failed)}")
        raise


def _complete(run: Run, draft: Path) -> None:
    """Check what an execution left in its draft, add results.json, and move all of it into the run's folder."""
    if not any((draft / "figures").rglob("*.png")):
        raise ValueError(
            f"{run.notebook.stem} ran but wrote no figure; pass figures_dir to experiments.figures.save"
        )
    now = identity.parts(run.notebook, run.effective)
    if changed := [name for name, digest in run.parts.items() if now[name] != digest]:
        raise ValueError(
            f"changed while {run.notebook.stem} ran: {', '.join(changed)}; nobody can say what made this result, "
            "so run it again"
        )
    keep(draft / "results.json", collected(run, draft))
    for path in draft.rglob("*"):
        synced(path)
    for path in sorted(draft.iterdir()):
        os.replace(path, run.folder / path.name)
    synced(run.folder)


def _seal(run: Run, seconds: float) -> None:
    """Write provenance.json, by which the run is finished."""
    models, data = sources(path for path in _figures(run.folder) if path.suffix == ".json")
    about = {
        "id": run.id,
        "notebook": run.notebook.stem,
        "parameters": run.effective,
        "parts": run.parts,
        **identity.environment(),
        **identity.commit(),
        "models": models,
        "data": data,
        "inputs": identity.inputs(run.notebook, run.effective),
        "seed": run.effective.get("seed"),
        "threads": threads(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "seconds": seconds,
    }
    made = [
        run.folder / name for name in ("request.json", "notebook.ipynb", "results.json", "log.txt")
    ]
    files = {
        path.relative_to(run.folder).as_posix(): identity.sha256(path)
        for path in [*made, *_figures(run.folder)]
    }
    keep(run.folder / "provenance.json", about | {"files": files})


@contextmanager
def _journal(folder: Path) -> Iterator["Journal"]:
    with (folder / "log.txt").open("a", buffering=1, encoding="utf-8") as file:
        yield Journal(file)
        os.fsync(file.fileno())


class Journal:
    """What papermill writes a notebook's words to: every line with the time, of a progress bar only its last state."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        for line in text.splitlines() if "\r" not in text else [text.rstrip().rpartition("\r")[2]]:
            self.file.write(f"{stamp()}  {line}\n")

    def flush(self) -> None:
        self.file.flush()


def _note(found: State) -> str:
    """What to tell about what stood in the folder before."""
    if found.name == "damaged":
        return f"was damaged ({found.detail}); made anew, what was there is kept in damaged-N"
    return {"interrupted": "had been interrupted", "failed": "had failed before"}.get(
        found.name, ""
    )


def _trace(error: Exception) -> list[str]:
    if not isinstance(error, (PapermillExecutionError, CellExecutionError)):
        return []
    trace = error.traceback if isinstance(error.traceback, str) else "\n".join(error.traceback)
    return re.sub(r"\x1b\[[0-9;]*m", "", trace).splitlines()


def _figures(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "figures").rglob("*") if path.is_file())
