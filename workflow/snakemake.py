"""Snakemake, called so that one sees a line a notebook, and can give a killed command again."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workflow.parameters import ROOT, cells_digest
from workflow.runs import BUILD, Run, provenance

LOG = BUILD / "snakemake.log"


def make(runs: Sequence[Run], options: Sequence[str] = ()) -> bool:
    """Execute runs unless they are finished and notebook, code, data are as before; was all well?

    Args:
        runs: What is wanted; equal ones are made once.
        options: Further options of Snakemake, `--executor slurm --jobs 20` for instance.
    """
    from snakemake.cli import main

    BUILD.mkdir(exist_ok=True)
    wanted = BUILD / "wanted.json"
    words = [
        *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(BUILD)),
        # provenance.json is written last and at once: where it lies the run is whole, whatever a
        # Snakemake that was killed had still to write down
        *("--configfile", str(wanted), "--keep-going", "--ignore-incomplete"),
        # one lock of our own, below: Snakemake's outlives a killed process
        *("--nolock", "--nocolor", "--quiet", "progress", "rules", "host"),
        *options,
    ]
    if not any(word.split("=")[0] in ("--cores", "-c", "--jobs", "-j") for word in options):
        words += ["--cores", "all"]
    with at_work(), stderr_into(LOG):
        forget_changed(runs)
        wanted.write_text(json.dumps({"runs": {run.name: dict(run.given) for run in runs}}))
        folder = Path.cwd()
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(folder)
    if code:
        explain()
    return not code


def explain() -> None:
    """What Snakemake itself complains of; a notebook that failed has said so."""
    text = LOG.read_text(encoding="utf-8", errors="replace").strip()
    if "CalledProcessError" not in text:
        print("\n".join(text.splitlines()[-5:]), file=sys.stderr)
    print(f"Snakemake's own words: {os.path.relpath(LOG)}", file=sys.stderr)


def forget_changed(runs: Sequence[Run]) -> None:
    """A run whose notebook has other cells by now is not finished; Snakemake may not know of it."""
    for run in runs:
        if run.finished and provenance(run.folder)["cells"] != cells_digest(run.notebook):
            (run.folder / "provenance.json").unlink()


@contextmanager
def at_work() -> Iterator[None]:
    """One command at a time in build/; the system frees the lock of a process that died."""
    lock = FileLock(BUILD / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("waiting for another command that is at work in build/", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stderr_into(log: Path) -> Iterator[None]:
    """What this process and its children write to stderr goes into a file meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
