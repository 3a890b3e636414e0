"""What runs lie in a folder, in which state, and which of them are to be continued."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import RUNS, Run, State, read, state
from .parameters import NOTEBOOKS, _nearest, find
from .sweep import unique

UNFINISHED = ("planned", "interrupted", "failed", "damaged")  # what `resume` can continue


@dataclass(frozen=True)
class Found:
    """A run's folder as it was found: its request, its state, and the seconds it took, if it is finished."""

    folder: Path
    request: dict[str, Any]
    state: State
    seconds: float | None

    def row(self) -> tuple[str, ...]:
        """Name, state, seconds, parameters given, detail, as text."""
        given = ", ".join(
            f"{name}={value!r}" for name, value in self.request.get("parameters", {}).items()
        )
        took = "" if self.seconds is None else f"{self.seconds:.1f}"
        return (
            f"{self.folder.parent.name}/{self.folder.name}",
            self.state.name,
            took,
            given,
            self.state.detail.split("\n")[0],
        )


def found_runs(root: Path = RUNS) -> list[Found]:
    """All runs below `root`, by notebook and identifier. FileNotFoundError: no such folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; runs are made by run, sweep and figures")
    return [
        Found(
            path.parent,
            read(path),
            state(path.parent),
            read(path.parent / "provenance.json").get("seconds"),
        )
        for path in sorted(root.glob("*/*/request.json"))
    ]


def resumable(
    root: Path = RUNS,
    states: Iterable[str] = UNFINISHED,
    folder: Path = NOTEBOOKS,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """The runs below `root` that are in one of `states`, as they would be made today; `say` hears of those that have changed.

    ValueError: no such state, or a notebook or parameter that is no longer there.
    """
    for name in (states := tuple(states)):
        if name not in UNFINISHED:
            raise ValueError(f"cannot resume {name!r} runs; {_nearest(name, UNFINISHED)}")
    runs = []
    for found in found_runs(root):
        if found.state.name in states:
            request = found.request
            runs.append(
                run := Run(
                    find(request["notebook"], folder),
                    request["parameters"],
                    root,
                    bool(request.get("smoke")),
                )
            )
            if run.id != found.folder.name:
                changed = [
                    name
                    for name, digest in run.parts.items()
                    if request["parts"].get(name) != digest
                ]
                say(
                    f"{found.folder.parent.name}/{found.folder.name}: {', '.join(changed)} changed since; made as {run.id}"
                )
    return unique(runs)
