"""Collecting runs: every number once, nothing dropped in silence, a figure that shows what it says."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import books
import nbformat
import numpy as np
import pandas as pd
import pytest
import runfolders
from typer.testing import CliRunner

from lib.runs import __main__ as command
from lib.runs import collect, overview, tables
from lib.runs.collect import LISTED, notes, write
from lib.runs.compare import compare
from lib.runs.results import collected

ROWS = [
    {"method": name, "pair": pair, "mse": 0.1 * (pair + 1), "seconds": 3.0, "converged": True}
    for name in ("stein", "lerp")
    for pair in range(2)
]


@pytest.fixture
def sweep(tmp_path):
    """Six runs over lam and levels; the error grows with lam, and the method's is its own."""
    root = tmp_path / "runs"
    for number, (lam, levels) in enumerate(
        (lam, levels) for lam in (1, 10.0, 100) for levels in ([1.0], [1.0, 0.5])
    ):
        rows = [
            row | {"mse": row["mse"] * lam * len(levels), "seconds": float(number)} for row in ROWS
        ]
        made = {
            "01_table": runfolders.table(*rows),
            "01_one": {"deep": {"error": lam}, "why": "text"},
        }
        runfolders.make(root, number, made, lam=lam, levels=levels)
    return root


@pytest.fixture
def cli(tmp_path):
    def call(*words):
        done = CliRunner().invoke(
            command.app, ["collect", *map(str, words), "--out", str(tmp_path / "out")]
        )
        assert done.exception is None or isinstance(done.exception, (SystemExit, ValueError)), (
            done.exception
        )
        return done

    return call


def test_every_number_has_its_row(sweep):
    table = collect(sweep)
    parameters, labels = ["lam", "levels"], ["method", "why"]
    assert list(table) == [
        "notebook",
        "id",
        "code",
        "cells",
        *parameters,
        "result",
        "row",
        *labels,
        "quantity",
        "value",
    ]
    assert len(table) == 6 * (4 * 4 + 1) and not table["value"].isna().any()
    one = table[(table["id"] == f"{5:012x}") & (table["quantity"] == "mse") & (table["row"] == 3)]
    assert one[["lam", "levels", "method", "value"]].values.tolist() == [
        [100, "[1.0, 0.5]", "lerp", 40.0]
    ]
    deep = table[table["quantity"] == "deep.error"]
    assert deep["value"].tolist() == deep["lam"].tolist() and set(deep["why"]) == {"text"}
    assert set(table[table["quantity"] == "converged"]["value"]) == {1.0}


def test_parameters_that_do_not_differ_are_left_out_and_one_notebooks_are_empty_for_another(sweep):
    runfolders.make(sweep, 77, {"02": {"a": 1.0}}, notebook="02_other", size="small")
    runfolders.make(sweep, 78, {"02": {"a": 2.0}}, notebook="02_other", size="large")
    table = collect(sweep)
    assert "count" not in table and "scale" not in table
    assert (
        table[table["notebook"] == "02_other"][["lam", "size"]].isna().values.tolist()
        == [[True, False]] * 2
    )


@pytest.mark.parametrize(
    "values, kind",
    [([1, 2.5], "f"), ([1, 2], "i"), (["auto", 3], "O"), ([True, False], "O"), ([None, 2], "O")],
)
def test_a_parameter_is_of_one_kind_and_survives_the_csv(tmp_path, values, kind):
    for number, value in enumerate(values):
        runfolders.make(tmp_path / "runs", number, {"r": {"a": 1.0}}, which=value)
    table = collect(tmp_path / "runs")
    column = table["which"]
    assert column.dtype.kind == kind or (kind == "O" and pd.api.types.is_string_dtype(column))
    write(table, overview(tmp_path / "runs"), tmp_path / "out")
    again = pd.read_csv(
        tmp_path / "out" / "results.csv",
        keep_default_na=False,
        dtype={"which": str} if kind == "O" else {},
    )
    assert again["which"].astype(str).tolist() == column.astype(str).tolist()
    assert again["value"].tolist() == table["value"].tolist()


def test_names_that_are_taken_get_a_prefix(tmp_path):
    for number in range(2):
        row = {"method": "text of a row", "id": "text", "value": 1.0}
        runfolders.make(
            tmp_path, number, {"r": runfolders.table(row)}, method=f"m{number}", row=number
        )
    table = collect(tmp_path)
    assert list(table)[4:-2] == [
        "method",
        "parameter.row",
        "result",
        "row",
        "label.method",
        "label.id",
    ]
    assert set(table["label.method"]) == {"text of a row"} and table["method"].tolist() == [
        "m0",
        "m1",
    ]


@pytest.mark.parametrize(
    "record, expected",
    [
        (
            {"a": 1, "b": {"c": True, "d": None}},
            [("r", 0, "a", 1.0), ("r", 0, "b.c", 1.0), ("r", 0, "b.d", math.nan)],
        ),
        ({"T": [1, 2], "e": 0.5}, [("r", 0, "e", 0.5), ("r", 0, "T", 1.0), ("r", 1, "T", 2.0)]),
        (
            {"m": [[1, 2], [3, 4]]},
            [
                ("r", 0, "m.0", 1.0),
                ("r", 0, "m.1", 2.0),
                ("r", 1, "m.0", 3.0),
                ("r", 1, "m.1", 4.0),
            ],
        ),
        (
            {"k": [{"x": 1}, {"x": "inf", "y": "-inf"}]},
            [("r.k", 0, "x", 1.0), ("r.k", 1, "x", math.inf), ("r.k", 1, "y", -math.inf)],
        ),
        ({}, []),
        ({"a": []}, []),
    ],
)
def test_results_of_every_shape_become_rows(record, expected):
    found = [
        (name, place, key, tables.number(value))
        for name, rows in tables.tables({"r": record})
        for place, row in enumerate(rows)
        for key, value in row.items()
    ]
    assert [item[:3] for item in found] == [item[:3] for item in expected]
    assert np.array_equal(
        [item[3] for item in found], [item[3] for item in expected], equal_nan=True
    )


def test_what_is_not_in_the_table_is_counted_and_named(sweep):
    runfolders.make(sweep, 100, state="failed", lam=5.0)
    runfolders.make(sweep, 101, {"r": {"a": 1}}, state="damaged")
    runfolders.make(sweep, 102, state="planned")
    runfolders.make(sweep, 103)
    listed, said = overview(sweep, checked=True), "\n".join(notes(overview(sweep)))
    assert listed["state"].value_counts().to_dict() == {
        "finished": 7,
        "failed": 1,
        "damaged": 1,
        "planned": 1,
    }
    for words in (
        "1 failed",
        "ValueError: no luck",
        f"{101:012x}: results.json has changed",
        f"1 planned\n    01_drawn {102:012x}",
        "1 finished without numbers (01_drawn: no experiments.figures.save_results)",
        f"01_drawn {103:012x}",
    ):
        assert words in said
    assert set(collect(sweep)["id"]) == {f"{number:012x}" for number in range(6)}
    assert listed[listed["state"] == "finished"]["checked"].tolist() == ["3\n"] * 7


def test_many_unfinished_runs_are_counted_and_some_named(tmp_path):
    for number in range(LISTED + 3):
        runfolders.make(tmp_path, number, state="planned")
    said = notes(overview(tmp_path))
    assert (
        said[0] == "not in the table: 23 planned"
        and len(said) == LISTED + 2
        and said[-1] == "    and 3 more, see runs.csv"
    )


def test_a_mixture_of_codes_is_flagged(sweep):
    assert not any("warning" in line for line in notes(overview(sweep)))
    runfolders.make(sweep, 50, {"01_one": {"deep": {"error": 3.0}}}, lib="another", lam=7)
    table, said = collect(sweep), notes(overview(sweep))
    assert table.groupby("code")["id"].nunique().tolist() in ([1, 6], [6, 1])
    assert any("warning: numbers of 2 codes or environments" in line for line in said)


def test_no_run_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m lib.runs run NN"):
        collect(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        collect(tmp_path / "nowhere")


def test_the_figure_shows_the_means_over_the_parameter_with_the_most_values(sweep, tmp_path):
    files, left = compare(collect(sweep), "01_drawn", out=tmp_path)
    assert {path.name for path in files.values()} == {
        f"01_comparison.{end}" for end in ("png", "pdf", "npz", "json")
    }
    assert not left
    about = json.loads(files["json"].read_text())
    assert about["x"] == "lam" and about["colour"] == ["levels"]
    drawn = np.load(files["npz"])
    assert sorted(set(drawn["panel"])) == [
        "01_one\ndeep.error: text",
        "01_table\nmse: lerp",
        "01_table\nmse: stein",
    ]
    shown = (
        (drawn["panel"] == "01_table\nmse: lerp")
        & (drawn["x"] == 100)
        & (drawn["colour"] == "[1.0, 0.5]")
    )
    assert np.allclose(drawn["value"][shown], [30.0]) and drawn["rows"][shown].tolist() == [
        2
    ]  # (0.1 + 0.2) / 2 * 100 * 2


def test_with_one_parameter_a_label_has_the_colours_and_times_can_be_asked_for(sweep, tmp_path):
    table = collect(sweep)
    table = table[table["levels"] == "[1.0]"]
    about = json.loads(compare(table, "01_drawn", out=tmp_path)[0]["json"].read_text())
    assert about["x"] == "lam" and about["colour"] == ["method"]
    files, _ = compare(table, "01_drawn", ["seconds", "01_one.deep.error"], out=tmp_path)
    assert sorted(set(np.load(files["npz"])["panel"])) == [
        "01_one\ndeep.error: text",
        "01_table\nseconds",
    ]


def test_items_of_a_sample_are_averaged_and_kinds_are_not(tmp_path):
    rows = [
        {"method": method, "pair": f"{pair:02}", "prompt": f"hand {pair}", "error": 1.0 * pair}
        for method in "ab"
        for pair in range(4)
    ]
    for count in (1, 2):  # a parameter of the name of a column inside
        table = runfolders.table(*(row | {"error": row["error"] * count} for row in rows))
        runfolders.make(tmp_path / "runs", count, {"01_table": table}, count=count)
    drawn = np.load(compare(collect(tmp_path / "runs"), "01_drawn", out=tmp_path)[0]["npz"])
    assert (
        drawn["value"].tolist() == [1.5, 1.5, 3.0, 3.0]
        and drawn["colour"].tolist() == ["a", "b"] * 2
    )
    assert drawn["rows"].tolist() == [4] * 4 and set(drawn["panel"]) == {"01_table\nerror"}


def test_texts_are_dots(sweep, tmp_path):
    table = collect(sweep)
    table["lam"] = "lam " + table["lam"].astype(str)
    files, _ = compare(table, "01_drawn", ["mse"], out=tmp_path)
    assert set(np.load(files["npz"])["x"]) == {"lam 1", "lam 10", "lam 100"}


def test_unknown_quantities_and_nothing_to_compare(sweep, tmp_path):
    table = collect(sweep)
    with pytest.raises(ValueError, match="unknown quantity 'mes'; did you mean 'mse'"):
        compare(table, "01_drawn", ["mes"], out=tmp_path)
    files, said = compare(table[table["id"] == table["id"].iloc[0]], "01_drawn", out=tmp_path)
    assert files == {} and "no parameter differs" in said[0]
    files, said = compare(
        table, "01_drawn", ["pair"], out=tmp_path
    )  # asked for: drawn even if it never changes
    assert files and not said
    files, said = compare(table[table["quantity"] == "pair"], "01_drawn", out=tmp_path)
    assert files == {} and "no quantity differs" in said[0]


def test_the_command_writes_tables_and_figure_and_says_what_is_missing(sweep, cli, tmp_path):
    runfolders.make(sweep, 100, state="failed")
    done = cli(sweep, "--checked")
    assert done.exit_code == 0, done.output
    names = {
        "results.csv",
        "runs.csv",
        *(f"01_comparison.{end}" for end in ("png", "pdf", "npz", "json")),
    }
    assert {
        path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet"
    } == names
    assert (
        "not in the table: 1 failed" in done.stdout
        and "102 numbers of 6 runs; 7 runs in" in done.stdout
    )
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 7


def test_the_command_does_without_numbers(cli, tmp_path):
    runfolders.make(tmp_path / "runs", 1, state="failed")
    runfolders.make(tmp_path / "runs", 2, {"r": {"a": None}}, notebook="02_null", lam=1)
    runfolders.make(tmp_path / "runs", 3, {"r": {"a": None}}, notebook="02_null", lam=2)
    done = cli(tmp_path / "runs")
    assert done.exit_code == 0, done.output
    assert (
        "01_drawn: no figure" in done.stdout
        and "02_null: no figure" in done.stdout
        and "2 numbers of 2 runs" in done.stdout
    )


def test_the_command_refuses_an_unknown_quantity_before_it_writes(sweep, cli, tmp_path):
    done = cli(sweep, "--quantity", "mes")
    assert isinstance(done.exception, ValueError) and "did you mean 'mse'" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_leaves_the_earlier_tables(sweep, tmp_path, monkeypatch):
    table, listed = collect(sweep), overview(sweep)
    before = {path.name: path.read_bytes() for path in write(table, listed, tmp_path / "out")}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="free space there"):
        write(table, listed, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_parquet_holds_the_same_table(sweep, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; tables are csv then")
    table = collect(sweep)
    write(table, overview(sweep), tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)


def test_a_table_keeps_every_digit_and_tells_names_from_numbers(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "t.csv").write_text(
        "pair,name,x,ok,e\n00,none,0.1234567890123456789,True,\n01,NA,1e-300,False,inf\n"
    )
    shown = nbformat.v4.new_output(
        "display_data", data={"image/png": "", "text/plain": "<Figure size 640x480>"}
    )
    cell = books.code("1", "nbval-check-output", said="3\n")
    cell.outputs.append(shown)
    nbformat.write(books.book(cell), tmp_path / "notebook.ipynb")
    run = SimpleNamespace(notebook=Path("01_drawn.ipynb"), id="0", effective={})
    found = collected(run, tmp_path)
    assert found["results"]["t"]["rows"] == [
        {"pair": "00", "name": "none", "x": 0.1234567890123456789, "ok": True, "e": None},
        {"pair": "01", "name": "NA", "x": 1e-300, "ok": False, "e": math.inf},
    ]
    assert found["checked"] == [{"cell": 0, "text": "3\n"}]
