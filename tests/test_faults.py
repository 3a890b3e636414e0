"""What can go wrong, row by row (tests/faults)."""

import os

import pytest
from faults import MATRIX, World, load, meet

if os.name != "posix":
    pytest.skip("signals and permissions as POSIX has them", allow_module_level=True)
load()


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.area}: {row.what}")
def test_fault(row, tmp_path, monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    meet(row, World(tmp_path, monkeypatch))
