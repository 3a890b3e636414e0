"""The fault matrix, row by row (tests/faults), and that it is whole. `python tests/test_faults.py` prints it as a table."""

import os
import pkgutil
import signal

import pytest
import torch
from faults import MATRIX, Fault, World, load, markdown, meet

import lib

if os.name != "posix":
    pytest.skip("signals and permissions as POSIX has them", allow_module_level=True)
load()

# Parts of lib that no user calls: what they refuse shows in the rows of those that do.
INNER = {
    "checks",
    "ode",
    "elements",
    "presets",
    "models",
    "hands_training",
    "hands_classifier",
    "digits_classifier",
    "classifier_training",
}


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.area}: {row.what}")
def test_fault(row, tmp_path, monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    meet(row, World(tmp_path, monkeypatch))


def test_the_matrix_is_whole():
    """At least forty kinds of fault, each once, each saying what is left; every public module appears."""
    kinds = [(row.area, row.what) for row in MATRIX]
    assert len(kinds) >= 40 and len(set(kinds)) == len(kinds)
    silent = (None, KeyboardInterrupt, SystemExit, 130, -signal.SIGKILL)
    assert all(row.what and row.left and (row.says or row.error in silent) for row in MATRIX)
    public = {
        f"lib.{module.name}"
        for module in pkgutil.iter_modules(lib.__path__)
        if module.name not in INNER
    }
    assert public | {"make"} == {row.area for row in MATRIX}


def row(act, error=ValueError, says="no luck", after=lambda: True):
    def provoke(world):
        x = world.keep(torch.zeros(2))
        (world.tree() / "kept").write_text("1")
        yield lambda: act(world, x)
        assert after()

    return Fault("lib.x", "a fault", error, says, "all", provoke)


def unchecked(world):
    yield fails


def fails(*_, text="no luck"):
    raise ValueError(text)


CARELESS = {
    "no error": row(lambda w, x: None),
    "another error": row(lambda w, x: 1 / 0),
    "other words": row(lambda w, x: fails(text="no idea")),
    "a changed tensor": row(lambda w, x: fails(x.add_(1))),
    "a changed file": row(lambda w, x: fails((w.folder / "kept").write_text("2"))),
    "a new file": row(lambda w, x: fails((w.folder / "new").write_text("2"))),
    "a moved generator": row(lambda w, x: fails(torch.rand(1))),
    "nothing checked": Fault("lib.x", "a fault", ValueError, "no luck", "all", unchecked),
    "something lost": row(lambda w, x: fails(), after=lambda: False),
}


@pytest.mark.parametrize("kind", CARELESS)
def test_the_matrix_can_fail(kind, tmp_path, monkeypatch):
    with pytest.raises((AssertionError, ZeroDivisionError, pytest.fail.Exception)):
        meet(CARELESS[kind], World(tmp_path, monkeypatch))
    meet(row(lambda w, x: fails()), World(tmp_path, monkeypatch))


if __name__ == "__main__":
    print(markdown(), end="")
