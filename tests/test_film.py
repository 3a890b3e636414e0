"""The table of videos: lengths and break-even by hand, and the table itself run small."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from experiments.tables import base, film


def test_speed_scales_every_part_of_a_movement():
    assert film.amounts("turn", 0.5) == {"degrees": 12.0}
    moved = film.amounts("all three", 2.0)
    assert moved["degrees"] == 48.0 and moved["shift"] == (0.24, 0.0)
    assert moved["scale"] == pytest.approx(1.25**2)


def test_lengths_and_the_break_even_are_those_by_hand():
    """Two steps of 1 over a hill of 20 ln 2 nats against a flat line of length 1.

    2 exp(−alpha 10 ln 2) = 1 at alpha = 1/10.
    """
    hill = torch.tensor([[0.0, 20 * math.log(2), 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    way = torch.tensor([[[0.0, 0.0], [0.5, 0.75**0.5], [1.0, 0.0]]], dtype=torch.float64)
    longer = SimpleNamespace(points=way.expand(2, -1, -1), log_density=hill + 3.0)
    flat = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    line = SimpleNamespace(points=flat.expand(2, -1, -1), log_density=torch.zeros(2, 3))
    powers = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    expected = torch.tensor([[2.0, 1.0, 0.5], [2.0, 2.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(film.lengths(longer.points, longer.log_density, powers), expected)
    even = film.break_even(longer, line)
    assert even[0] == pytest.approx(0.1, rel=0.03)
    assert math.isinf(even[1])


# three steps a noise level do not converge, and the table says so
@pytest.mark.filterwarnings("ignore::lib.ConvergenceWarning")
def test_the_table_runs_small(tmp_path):
    table = film.table(small=True)
    made = base.make(table, tmp_path, tmp_path / "work", allow_dirty=True, progress=False)
    paths = made.set_index("method")
    assert set(film.METRICS) < set(paths.index)
    assert paths.matched["video"] < 0.02 < paths.matched["lerp"]
    solved = [*film.METRICS, f"{film.BEST}, from the video"]
    assert paths.converged[solved].notna().all() and pd.isna(paths.converged["lerp"])
