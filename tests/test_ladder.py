"""The ladder on small made tables: known ratios, units, and a table that lacks a method."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments import ladder


@pytest.fixture
def made(tmp_path):
    """Two units a rung, with errors of 1 and 3 quarters of the straight line's 1 and 1."""
    errors = [0.25, 0.75]

    def rows(names, measure, line, **columns):
        return [
            {"method": name, measure: error if name != line else 1.0, "converged": True}
            | {key: values[k] for key, values in columns.items()}
            for name in [line, *names]
            for k, error in enumerate(errors)
        ]

    def write(name, table):
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)

    sphere = rows(["stein", "density"], "error", "none", angle=[1.0, 2.0])
    write("09_sphere", [row | {"line_error": 1.0} for row in sphere])
    cases = [("exact", 1, True), ("exact", ladder.CROWD, True), ("network", 60_000, False)]
    digits = [
        {"score": kind, "digits": count, "seen": seen, "sigma": 1.0, "angle": angle, "start": start}
        | {"digit": k, "error": error, "line_error": 1.0, "turned": error < 0.5}
        | {"converged": True, "energy": 1.0}
        for kind, count, seen in cases
        for angle in ladder.ANGLES
        for start in ("line", "graph", "turn")
        if (kind, start) != ("network", "graph")
        for k, error in enumerate(errors)
    ]
    write("03_crowd", [row for row in digits if row["score"] == "exact"])
    write("04_networks", [row for row in digits if row["score"] == "network"])
    turns = {"kind": ["turn"] * 2, "angle": [45.0] * 2, "pair": [0, 1]}
    write("04_digits", rows(ladder.DIGITS, "mse", "lerp", **turns))
    moved = {"photograph": [0, 1], "movement": ["turn"] * 2}
    write("06_hands_movements", rows(ladder.HANDS, "mse", "lerp", **moved))
    clips = {"hand": [0, 1], "movement": ["turn"] * 2, "speed": [1.0] * 2, "chord": [2.0] * 2}
    write("08_film", rows(ladder.VIDEOS, "in_step", "lerp", **clips))
    return tmp_path


def test_ratios_of_the_ladder_are_those_of_the_tables(made):
    errors = ladder.units(made, made)
    shown = ladder.ladder(errors).set_index(["rung", "method"])
    assert set(shown.index.get_level_values("rung")) == set(ladder.RUNGS)
    assert len(shown) == 21
    assert (shown.units == 2).all() and (shown.converged == 1).all()
    # a video's errors are roots of mean squares
    expected = {rung: (0.25**2 + 0.75**2) / 2 if rung == "video" else 0.5 for rung in ladder.RUNGS}
    for (rung, _), row in shown.iterrows():
        assert row.ratio == pytest.approx(expected[rung])
        assert row.low <= row.ratio <= row.high
    counts = ladder.found_and_held(made)
    assert (counts.turned == 1).all() and (counts.of == 2).all() and len(counts) == 2 * (3 + 3 + 2)
    plt.close(ladder.draw(errors, shown.reset_index(), counts))


def test_a_table_without_a_method_is_refused(made):
    table = pd.read_csv(made / "08_film.csv")
    table[table.method != "stein"].to_csv(made / "08_film.csv", index=False)
    with pytest.raises(ValueError, match="no method stein"):
        ladder.units(made, made)
