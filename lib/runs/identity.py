"""Which run a run is: checksums over everything its result hangs on. Threads and folders are not among them."""

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import nbformat

from experiments.data import availability, registry
from experiments.figures import ROOT, plain

INPUT = re.compile(
    r"(\w+_)?(model|images?|folder|video)"
)  # parameters whose text may name a model, a file or a folder


def parts(notebook: Path, effective: Mapping[str, Any]) -> dict[str, str]:
    """Component → sha256: cells of the notebook, sources of lib, all parameters, environment, models and data."""
    contents = {
        "notebook": cells(notebook),
        "lib": _files(ROOT, ["lib/**/*.py"]),
        "parameters": plain(effective),
        "environment": environment(),
        "models": inputs(notebook, effective),
        "data": [_files(ROOT, ["data/**/*"]), availability()],
    }
    return {name: digest(content) for name, content in contents.items()}


def identifier(components: Mapping[str, str]) -> str:
    """The name of a run: the first 12 hex digits of the sha256 over its parts."""
    return digest(dict(components))[:12]


def lib_digest() -> str:
    """sha256 over the sources of lib on this machine, as it goes into every run's parts."""
    return digest(_files(ROOT, ["lib/**/*.py"]))


def commit() -> dict[str, Any]:
    """Commit of this checkout and whether sources differ from it; both None without git or outside a checkout."""
    done = _git("rev-parse", "HEAD")
    # what `make figures` itself rewrites is a result, not a source
    changes = _git("status", "--porcelain", "--", ".", ":!figures")
    return {"commit": done, "modified": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # else git would find a surrounding checkout that is not ours
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cells(notebook: Path) -> list[Any]:
    """What the cells of a notebook say and do, without outputs."""
    book = nbformat.read(notebook, as_version=4)
    return [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in book.cells]


def environment() -> dict[str, Any]:
    """Python, operating system and processor, and the installed version of every pinned package."""
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "versions": versions(),
    }


@cache
def versions() -> dict[str, str]:
    """Pinned package → the version that is installed; packages that are not installed here are left out."""
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = {_normal(name) for name in re.findall(r"^([\w.-]+)\s*==", pins, re.MULTILINE)}
    found = {
        _normal(dist.metadata["Name"]): dist.version for dist in importlib.metadata.distributions()
    }
    return {name: found[name] for name in sorted(pinned & set(found))}


def inputs(notebook: Path, effective: Mapping[str, Any]) -> dict[str, Any]:
    """What parameters such as model, images or frames_folder name: parameter → checksums, or hub id and revision."""
    named = {
        name: value
        for name, value in effective.items()
        if INPUT.fullmatch(name) and isinstance(value, str) and value
    }
    return {name: _input(name, value, notebook.parent, effective) for name, value in named.items()}


def digest(content: Any) -> str:
    """sha256 of a content that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _input(name: str, value: str, beside: Path, effective: Mapping[str, Any]) -> Any:
    if value in registry():
        return {
            "name": value,
            "sha256": {file["name"]: file["sha256"] for file in registry()[value]["files"]},
        }
    place = beside / Path(value).expanduser()  # a kernel runs beside its notebook
    if place.is_file():
        return {"file": value, "sha256": _known(place)}
    if place.is_dir():
        return {"folder": value, "sha256": _files(place, ["**/*"])}
    return {
        "name": value,
        **({"revision": effective.get("revision")} if name.endswith("model") else {}),
    }


def _files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): _known(path)
        for path in paths
        if "__pycache__" not in path.parts
    }


def _known(path: Path) -> str:
    """sha256 of a file that may be large, computed once for each state of it."""
    about = path.stat()
    return _remembered(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=4096)
def _remembered(path: Path, *_: int) -> str:
    return sha256(path)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
