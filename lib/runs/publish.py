"""Figures of finished runs, copied to where readers look for them: all of a notebook or none."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from experiments.figures import SOURCES
from lib.files import writing

from .execution import Outcome, explain
from .identity import sha256


def publish(outcome: Outcome, out: Path) -> Outcome:
    """Copy a passed run's figures into `out` where they differ; `files` of the result: all of them, in `out`.

    Everything is copied into a draft folder first, so that a full disk or an interrupt leaves `out` as it was.
    """
    if outcome.state == "failed":
        return replace(outcome, files=[])
    figures = outcome.folder / "figures"
    names = [path.relative_to(figures) for path in outcome.files if path.name != SOURCES]
    try:
        fresh = [name for name in names if not _same(figures / name, out / name)]
        if fresh:
            _copy(figures, out, fresh)
    except OSError as error:
        return replace(outcome, state="failed", files=[], error=explain(error))
    again = (
        f"published again: {', '.join(map(str, fresh))}"
        if fresh and outcome.state == "unchanged"
        else outcome.note
    )
    return replace(outcome, files=[out / name for name in names], note=again)


def _copy(figures: Path, out: Path, names: list[Path]) -> None:
    with writing("figures", out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".draft-") as draft:
            for name in names:
                (Path(draft) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(figures / name, Path(draft) / name)
            for name in names:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(draft) / name, out / name)


def _same(path: Path, other: Path) -> bool:
    return (
        other.is_file()
        and other.stat().st_size == path.stat().st_size
        and sha256(path) == sha256(other)
    )
