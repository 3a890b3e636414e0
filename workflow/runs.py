"""A run: one notebook with one set of parameters, in its folder build/runs/NN_topic/ID."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.parameters import NOTEBOOKS, ROOT, identifier

BUILD = ROOT / "build"
RUNS = BUILD / "runs"


@dataclass(frozen=True)
class Run:
    """A notebook and the parameters that a person gave; the others keep their defaults.

    Its folder holds notebook.ipynb, figures/, log.txt and, written last, provenance.json: without
    that no run is finished.
    """

    notebook: Path
    given: Mapping[str, Any]
    root: Path = RUNS

    @property
    def id(self) -> str:
        return identifier(self.notebook, self.given)

    @property
    def name(self) -> str:
        return f"{self.notebook.stem}/{self.id}"

    @property
    def folder(self) -> Path:
        return self.root / self.notebook.stem / self.id

    @property
    def finished(self) -> bool:
        return (self.folder / "provenance.json").is_file()


def provenance(folder: Path) -> dict[str, Any]:
    """What a finished run was made from."""
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))


def default_run(notebook: str) -> Path:
    """Folder of the run of a notebook at its defaults, "03_rotated_digits" for instance."""
    return RUNS / notebook / "default"


def finished_runs(root: Path = RUNS) -> list[Run]:
    """The finished runs below a folder whose notebooks exist."""
    found = []
    for path in sorted(root.glob("*/*/provenance.json")):
        notebook = NOTEBOOKS / f"{path.parent.parent.name}.ipynb"
        if notebook.is_file():
            found.append(Run(notebook, provenance(path.parent)["given"], root))
    return found
