"""A run and its folder: build/runs/NN_topic/ID, and what the files in it say about its state.

request.json      what was asked for, written first
.lock             held while a process works here; running.json says which one
log.txt           what the notebook said, with times, of every attempt
notebook.ipynb    executed; figures/ and results.json: what it made
failed.json       the error of the last attempt, beside notebook.failed.ipynb
provenance.json   written last: the run is finished, and these are the checksums of its files
"""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.figures import ROOT, plain, replacing

from . import identity
from .parameters import check, parameters

RUNS = ROOT / "build" / "runs"
STATES = ("planned", "running", "interrupted", "failed", "damaged", "finished")
LASTING = {".lock", "request.json", "log.txt", "running.json"}  # what a new attempt leaves as it is


@dataclass(frozen=True)
class Run:
    """One notebook with one set of parameters. ValueError for parameters that the notebook does not have."""

    notebook: Path
    given: Mapping[str, Any] = field(default_factory=dict)
    root: Path = RUNS
    smoke: bool = False

    def __post_init__(self) -> None:
        if "figures_dir" in self.given:
            raise ValueError(
                "figures_dir is not a free parameter here; every run has its own folder, below --root or --build"
            )
        check(self.notebook, {"figures_dir": "."})
        object.__setattr__(self, "given", check(self.notebook, self.given))

    @cached_property
    def effective(self) -> dict[str, Any]:
        """All parameters, defaults included, but for the folder of figures."""
        known = {
            name: found["default"] for name, found in parameters(self.notebook).items()
        } | dict(self.given)
        return {name: value for name, value in known.items() if name != "figures_dir"}

    @cached_property
    def parts(self) -> dict[str, str]:
        """Component → sha256 at the time when this was first asked."""
        return identity.parts(self.notebook, self.effective)

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits that name this run."""
        return identity.identifier(self.parts)

    @property
    def name(self) -> str:
        """Notebook and identifier, such as 03_rotated_digits/0123456789ab: the folder below the root."""
        return f"{self.notebook.stem}/{self.id}"

    @property
    def folder(self) -> Path:
        """The run's own folder, there or not."""
        return self.root / self.notebook.stem / self.id

    def state(self) -> "State":
        """What has become of this run so far."""
        return state(self.folder)

    def plan(self) -> None:
        """Write request.json, so that `resume` knows of this run; what stands is left as it is."""
        if not (self.folder / "request.json").exists():
            request = {
                "notebook": self.notebook.stem,
                "id": self.id,
                "parameters": self.given,
                "effective": self.effective,
                "parts": self.parts,
                "smoke": self.smoke,
            }
            keep(self.folder / "request.json", request)


@dataclass(frozen=True)
class State:
    """name: one of `STATES`; detail: who runs it, what is damaged, why it failed."""

    name: str
    detail: str = ""


def state(folder: Path) -> State:
    """The state of a run's folder, from its files and its lock alone."""
    if (folder / "provenance.json").exists():
        wrong = damage(folder)
        return State("damaged", wrong) if wrong else State("finished")
    if _locked(folder):
        return State("running", _holder(folder))
    if (folder / "failed.json").exists():
        return State("failed", read(folder / "failed.json").get("error", "failed.json is damaged"))
    if begun := sorted({path.name for path in folder.glob("*")} - {"request.json", ".lock"}):
        return State("interrupted", f"left: {', '.join(begun)}")
    return State("planned")


def damage(folder: Path) -> str:
    """What is wrong with a finished run's files by its provenance, "" if nothing is."""
    files = read(folder / "provenance.json").get("files")
    if not isinstance(files, dict) or not files:
        return "provenance.json is damaged"
    for name, digest in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if identity.sha256(folder / name) != digest:
            return f"{name} has changed"
    return ""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's lock, after waiting for whoever holds it; a dead process holds nothing.

    The lock is flock's, which the system gives back when a process dies. A folder that several machines share needs a file
    system that knows flock across machines, as NFS does; Lustre does when mounted with `flock`.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            f"waiting for {folder.parent.name}/{folder.name}: {_holder(folder)}",
            file=sys.stderr,
            flush=True,
        )
        lock.acquire(poll_interval=0.5)
    try:
        keep(
            folder / "running.json", {"pid": os.getpid(), "host": platform.node(), "since": stamp()}
        )
        yield
    finally:
        (folder / "running.json").unlink(missing_ok=True)
        lock.release()


def clear(folder: Path, found: State) -> None:
    """Make room for a new attempt, under the lock: half-made files go, those of a damaged run move to damaged-N."""
    if found.name == "damaged":
        aside = folder / f"damaged-{1 + len(list(folder.glob('damaged-*')))}"
        aside.mkdir()
        for path in [
            path
            for path in folder.iterdir()
            if path.name not in (".lock", "running.json", aside.name)
            and not path.name.startswith("damaged-")
        ]:
            os.replace(path, aside / path.name)
    for path in folder.iterdir():
        if path.name not in LASTING and not path.name.startswith("damaged-"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tidy(folder: Path) -> None:
    """Remove the drafts of an attempt that was ended from outside, unless someone is at work here."""
    with suppress(OSError, Timeout), FileLock(folder / ".lock", timeout=0):
        (folder / "running.json").unlink(missing_ok=True)
        for draft in folder.glob(".draft-*"):
            shutil.rmtree(draft, ignore_errors=True)


def keep(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, all of it or nothing, so that it outlasts a power cut."""
    with replacing(path) as (draft,):
        draft.write_text(
            json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        synced(draft)
    synced(path.parent)


def synced(path: Path) -> None:
    """Have the system write a file or the names in a folder to the disk; folders cannot be asked everywhere."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """A JSON file of a run, {} if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stamp() -> str:
    """Date and time of this machine, with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def _locked(folder: Path) -> bool:
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only folder: nobody can be at work in it
        return False


def _holder(folder: Path) -> str:
    about = read(folder / "running.json")
    return (
        f"process {about['pid']} on {about['host']} since {about['since']}"
        if about
        else "another process"
    )
