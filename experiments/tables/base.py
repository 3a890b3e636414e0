"""A table that takes long: made unit by unit, resumable, written with its provenance."""

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.files import replacing

from ..data import Source
from ..figures import plain

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data" / "results"
WORK = ROOT / "build" / "tables"
# What the rows of a table depend on, beside data, models and packages.
CODE = ("lib", "experiments")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "diffusers", "POT")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Unit:
    """A piece of work, lost as a whole when a run is killed.

    Attributes:
        name: lower-case letters, digits, "_", "-" and "."; its rows are kept in a file called so.
        rows: makes the rows, column → number, text, truth value or None.
        models: what names each model that this unit alone depends on (`score.origin`).
    """

    name: str
    rows: Callable[[], Rows]
    models: Sequence[Any] = ()


@dataclass(frozen=True)
class Table:
    """A table of results, and all that its rows depend on.

    Attributes:
        name: of its files, "NN_name" after the notebook that reads it.
        command: that makes it.
        units: in the order of their rows.
        parameters: of the experiment.
        sources: of the data (`digits(...).source`).
        models: what names each model that all units depend on (`score.origin`).
    """

    name: str
    command: str
    units: Sequence[Unit]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sources: Sequence[Source] = ()
    models: Sequence[Any] = ()


def make(
    table: Table,
    out: str | Path = RESULTS,
    work: str | Path = WORK,
    *,
    allow_dirty: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Make a table and write NAME.csv and NAME.json, its provenance: both or none.

    The rows of a finished unit are kept in work/NAME/UNIT.json and not made again as long as code,
    parameters, data and models are the same. Two processes in one work folder harm nothing.

    Args:
        table: what to make.
        out: folder of the two files.
        work: keeps finished units.
        allow_dirty: make it although the code differs from its commit; the provenance says so.
        progress: whether to show a bar on stderr.

    Returns:
        The table.

    Raises:
        ValueError: the code differs from its commit; or two units of one name.
        OSError: a folder cannot be written.
    """
    version = code_version()
    if version["clean"] is False and not allow_dirty:
        raise ValueError(
            "the code in lib/ or experiments/ differs from its commit, so nobody could make this "
            "table again: commit it first, or pass --allow-dirty to try something out"
        )
    names = [unit.name for unit in table.units]
    if len(set(names)) < len(names):
        raise ValueError(f"the units of {table.name} need different names, got {', '.join(names)}")
    inputs = plain(
        {
            "parameters": table.parameters,
            "data": list(table.sources),
            "models": list(table.models),
        }
    )
    key = _checksum([inputs, version["digest"]])
    rows: Rows = []
    seconds = 0.0
    for unit in tqdm(table.units, desc=table.name, unit="unit", disable=not progress):
        own = list(unit.models)
        unit_key = _checksum([key, plain(own)]) if own else key
        record = _unit_record(unit, Path(work) / table.name, unit_key)
        inputs["models"] += [model for model in plain(own) if model not in inputs["models"]]
        rows += record["rows"]
        seconds += record["seconds"]
    made = pd.DataFrame(rows)
    provenance = {
        "name": table.name,
        "command": table.command,
        **inputs,
        **version,
        "python": platform.python_version(),
        "packages": packages(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "rows": len(made),
        "columns": list(made.columns),
    }
    files = (Path(out) / f"{table.name}.csv", Path(out) / f"{table.name}.json")
    with replacing(*files) as (csv_draft, json_draft):
        made.to_csv(csv_draft, index=False, lineterminator="\n")
        text = json.dumps(provenance, indent=2, ensure_ascii=False, allow_nan=False)
        json_draft.write_text(text + "\n", encoding="utf-8", newline="\n")
    return made


def _unit_record(unit: Unit, folder: Path, key: str) -> dict[str, Any]:
    """The rows of a unit and the seconds they took: from its file, or made and kept there."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", unit.name):
        raise ValueError(f"{unit.name!r} cannot be the name of a unit: a file is called so")
    path = folder / f"{unit.name}.json"
    record = _kept(path)
    if record.get("key") == key:
        return record
    began = time.perf_counter()
    rows = unit.rows()
    record = {"key": key, "seconds": time.perf_counter() - began, "rows": rows}
    # As text and back, so that a run in one go and a resumed one give the same table.
    text = json.dumps(record, default=_number)
    with replacing(path) as (draft,):
        draft.write_text(text, encoding="utf-8")
    return json.loads(text)


def _kept(path: Path) -> dict[str, Any]:
    """What a file of a unit holds; nothing if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def code_version() -> dict[str, Any]:
    """The commit, whether the code is that of it ("clean"), and a digest of the code itself.

    Outside a checkout the first two are None.
    """
    files = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    digest = _checksum([[path.relative_to(ROOT).as_posix(), path.read_text()] for path in files])
    unknown = {"commit": None, "clean": None, "digest": digest}
    # Without .git here, git would find a surrounding checkout that is not ours.
    if not (ROOT / ".git").exists():
        return unknown
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return unknown
    return {"commit": commit.strip(), "clean": not changes, "digest": digest}


def packages() -> dict[str, str | None]:
    """Versions of the packages that compute the rows; None for one that is not installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def command_line(name: str, **options: Any) -> str:
    """The command that makes a table, for its provenance: options of None or False are left out."""
    words = ["python -m experiments.tables", name]
    for option, value in options.items():
        if value is True:
            words.append(f"--{option}")
        elif value not in (None, False):
            words.append(f"--{option} {value}")
    return " ".join(words)


def report(table: Table, out: Path, made: pd.DataFrame) -> None:
    """Say on stderr what was written, and how many paths have converged."""
    print(f"{out / table.name}.csv: {len(made)} rows", file=sys.stderr)
    if "converged" in made:
        paths = made.converged.dropna()
        print(f"{int(paths.sum())} of {len(paths)} paths converged", file=sys.stderr)


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(value: Any) -> Any:
    """numpy's and torch's numbers as plain ones."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a row holds a {type(value).__name__}; give it a number, text or None")


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
