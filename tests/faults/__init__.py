"""The fault matrix: what goes wrong, how it is provoked, what must be said, and what must still be there afterwards.

A row is a generator. It prepares, hands over what provokes the fault with `yield`, and after that checks what is left:

    @fault("experiments.figures", "the disk is full", OSError, "free space there", left="the older figure, byte for byte")
    def full_disk(world):
        world.tree(...)                     # must be the same afterwards, byte for byte
        yield lambda: figures.save(...)
        assert ...                          # anything else that must hold

`left` says the same in words; a row that checks nothing after the fault is refused by tests/test_faults.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
PARTS = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
MATRIX: list[Fault] = []
Provoker = Callable[["World"], Iterator[Callable[[], Any]]]


@dataclass(frozen=True)
class Fault:
    """A row. area: the public module. error: a class, an exit status, or None where it must be endured. says: a pattern."""

    area: str
    what: str
    error: type[BaseException] | int | None
    says: str
    left: str
    provoke: Provoker


def load() -> None:
    """Import the rows."""
    names = [f"{__name__}.{part}" for part in PARTS]
    pytest.register_assert_rewrite(*names)  # so that a failing assertion shows its values
    for name in names:
        importlib.import_module(name)


def fault(
    area: str, what: str, error: type[BaseException] | int | None, says: str, *, left: str
) -> Callable[[Provoker], Provoker]:
    """Put a provoker into the matrix."""

    def put(provoke: Provoker) -> Provoker:
        MATRIX.append(Fault(area, what, error, says, left, provoke))
        return provoke

    return put


@dataclass
class World:
    """Where a fault happens, and what is watched while it does."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    tensors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    trees: dict[Path, dict[str, bytes] | None] = field(default_factory=dict)
    killed: bool = False  # a process that is killed cleans up nothing: the next one does

    def keep(self, *tensors: Tensor) -> Any:
        """Tensors of the caller: the same bits must be in them afterwards."""
        self.tensors += [(x, x.clone()) for x in tensors]
        return tensors if len(tensors) > 1 else tensors[0]

    def points(self) -> tuple[Tensor, Tensor]:
        """Two points (1, 2) of the caller, near the unit circle."""
        return self.keep(torch.tensor([[1.0, 0.2]]), torch.tensor([[-0.3, 1.0]]))

    def tree(self, folder: Path | None = None) -> Path:
        """A folder that must hold the same files with the same bytes after the fault as just before it."""
        folder = self.folder if folder is None else folder
        self.trees[folder] = None
        return folder

    def full(self, *targets: Path) -> None:
        """Writing these files ends in ENOSPC, of the kernel: what is written to their drafts goes to /dev/full."""
        if not os.path.exists("/dev/full"):
            pytest.skip("only Linux has /dev/full")
        for target in targets:
            (target.parent / f".draft-{os.getpid()}-{target.name}").symlink_to("/dev/full")

    def drafts(self) -> list[Path]:
        return list(self.folder.rglob(".draft-*"))

    def watch(self) -> None:
        self.trees = {folder: contents(folder) for folder in self.trees}
        self.before = (
            torch.get_rng_state(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            Path.cwd(),
        )

    def check(self) -> None:
        """What every fault must leave alone, and what this one was told to."""
        assert all(torch.equal(x, kept) and x.dtype == kept.dtype for x, kept in self.tensors), (
            "a tensor of the caller changed"
        )
        for folder, before in self.trees.items():
            now = contents(folder)
            assert now.keys() == before.keys(), (
                f"files came or went: {sorted(now.keys() ^ before.keys())}"
            )
            assert now == before, f"changed: {[name for name in now if now[name] != before[name]]}"
        assert self.killed or not self.drafts(), "a draft was left"
        state, *rest = self.before
        assert torch.equal(torch.get_rng_state(), state), "the global generator moved"
        assert rest == [torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()], (
            "a global setting changed"
        )


class Status(Exception):
    """A command ended with an exit status: what it said is the message."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@contextmanager
def read_only() -> Iterator[tuple[Path, Callable[[Callable[[], Any]], Any]]]:
    """A folder with one file in it, and a way to call something that may not write there, even if we are root."""

    def unprivileged(act: Callable[[], Any]) -> Any:
        root = os.geteuid() == 0
        try:
            os.seteuid(65534) if root else None
            return act()
        finally:
            os.seteuid(0) if root else None

    with tempfile.TemporaryDirectory() as outside:  # pytest's own folders let nobody else in
        folder = Path(outside, "locked")
        folder.mkdir()
        (folder / "kept.txt").write_text("kept")
        os.chmod(outside, 0o755)
        os.chmod(folder, 0o555)
        yield folder, unprivileged
        os.chmod(folder, 0o755)


def meet(fault: Fault, world: World) -> None:
    """Provoke a fault, compare what is said, check what is left; AssertionError if anything is not as the row has it."""
    row = fault.provoke(world)
    act = next(row)
    assert world.tensors or world.trees or asserts_afterwards(fault.provoke), (
        "the row does not check what is left"
    )
    world.watch()
    _provoked(fault, act)
    world.check()
    with pytest.raises(StopIteration):
        next(row)


def asserts_afterwards(provoke: Provoker) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(provoke)))
    handed = min(node.lineno for node in ast.walk(tree) if isinstance(node, ast.Yield))
    return any(isinstance(node, ast.Assert) and node.lineno > handed for node in ast.walk(tree))


def _provoked(fault: Fault, act: Callable[[], Any]) -> None:
    if fault.error is None:
        act()
    elif isinstance(fault.error, int):
        with pytest.raises(Status) as ended:
            act()
        said = str(ended.value)
        assert ended.value.status == fault.error and re.search(fault.says, said), (
            f"status {ended.value.status}: {said}"
        )
    elif issubclass(fault.error, Warning):
        with pytest.warns(fault.error, match=fault.says):
            act()
    else:
        with pytest.raises(fault.error, match=fault.says or None):
            act()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with what it holds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(*words: Any, python: tuple[str, ...], **environment: str) -> None:
    """Run a command of the project from its root; raises `Status` with what it said on both streams if it does not end well."""
    done = subprocess.run(
        [*python, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise Status(done.returncode, done.stdout + done.stderr)


def markdown() -> str:
    """The matrix as a Markdown table, for a page of the site."""
    lines = ["| where | what goes wrong | what is said | what is left |", "|---|---|---|---|"]
    for row in sorted(MATRIX, key=lambda row: row.area):
        name = (
            "endured"
            if row.error is None
            else f"exit status {row.error}"
            if isinstance(row.error, int)
            else row.error.__name__
        )
        said = f"{name}: … {_plain(row.says)} …" if row.says else name
        lines.append(
            "| "
            + " | ".join(
                cell.replace("|", "\\|") for cell in (f"`{row.area}`", row.what, said, row.left)
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def _plain(pattern: str) -> str:
    """A pattern as a reader sees it: dots for what may stand between."""
    return re.sub(r"\\(.)", r"\1", re.sub(r"\(\?[a-z]+\)", "", pattern.replace(".*", " … ")))
