"""The determinism check: it passes what is the same every time, and catches what is not."""

import os
from dataclasses import replace

import books
import pytest
from typer.testing import CliRunner

from lib.runs import NOTEBOOKS, examine, find, smoke_parameters
from lib.runs import __main__ as command
from lib.runs.determinism import difference, judge, lines
from lib.runs.execution import THREADS

# what experiments.figures.save and save_results would write, without the seconds it takes to import torch
KEEP = (
    books.DRAW
    + """
import hashlib, os, random
threads = int(os.environ["OMP_NUM_THREADS"])
def keep(value, said):
    digest = {"shape": [], "dtype": "float64", "sha256": hashlib.sha256(repr(value).encode()).hexdigest()}
    drawn = {"name": "drawn", "kind": "figure", "arrays": {"x": digest}}
    (folder / "drawn.json").write_text(json.dumps(drawn))
    numbers = {"name": "numbers", "kind": "results", "results": {"value": value, "seconds": random.random()}}
    (folder / "numbers.json").write_text(json.dumps(numbers))
    print(said)"""
)


@pytest.fixture
def shelf(tmp_path):
    """Four notebooks: the same every time, unseeded, hanging on threads in a text, hanging on threads a little."""
    for name, call in {
        "01_same": "keep(1.0, count)",
        "02_unseeded": "keep(random.random(), 1)",
        "03_threads": "keep(1.0, threads)",
        "04_rounding": "keep(1 + 1e-7 * threads, 1)",
    }.items():
        books.write(tmp_path, name, books.code(KEEP), books.code(call, "nbval-check-output"))
    small = [f"{path.stem}: {{count: 1}}\n" for path in sorted(tmp_path.glob("*.ipynb"))]
    (tmp_path / "smoke.yml").write_text("".join(small))
    return tmp_path


def test_a_deterministic_notebook_passes_and_its_runs_are_never_taken_for_new_ones(shelf):
    before = {name: os.environ.get(name) for name in THREADS}
    verdict = examine(find("1", shelf), {"count": 2}, keep=shelf / "kept")
    assert (
        verdict.complaints == [] and verdict.cells == 1 and verdict.numbers == 2
    )  # of which one is a measured time
    assert verdict.repeat.relative == verdict.threads.relative == 0.0
    assert {name: os.environ.get(name) for name in THREADS} == before
    assert len(list((shelf / "kept").glob("*/01_same/*/provenance.json"))) == 3
    with pytest.raises(ValueError, match="is not empty; finished runs in it would not be repeated"):
        examine(find("1", shelf), {}, keep=shelf / "kept")


def test_an_unseeded_random_number_is_caught(shelf):
    verdict = examine(find("2", shelf), {})
    assert verdict.arrays == ("array x of figure drawn",) and verdict.repeat.relative > 0
    assert any(
        "on one thread results differ by" in said and "numbers.value, row 0" in said
        for said in verdict.complaints
    )


def test_rounding_between_threads_is_allowed_up_to_the_tolerance(shelf):
    verdict = examine(find("4", shelf), {})
    assert verdict.complaints == []
    said = replace(verdict, tolerance=1e-9).complaints
    assert (
        len(said) == 1
        and "on two threads results differ by 1e-07 in numbers.value, row 0, more than 1e-09"
        in said[0]
    )


def test_a_notebook_that_fails_is_not_deterministic(shelf):
    path = books.write(shelf, "05_fails", books.code("raise ValueError('no luck')"))
    verdict = examine(path, {})
    assert len(verdict.complaints) == 1 and "first: ValueError: no luck" in verdict.complaints[0]
    assert "failed" in lines([verdict])[1] and lines([verdict])[-1] == "deterministic: 0 of 1"


def test_the_command_catches_what_hangs_on_threads_prints_a_table_and_fails(shelf):
    done = CliRunner().invoke(command.app, ["determinism", "1", "3", "--notebooks", str(shelf)])
    said = done.stdout.splitlines()
    assert done.exit_code == 1 and said[-1] == "deterministic: 1 of 2", done.output
    assert [line.split()[:3] for line in said[1:3]] == [
        ["01_same", "1", "yes"],
        ["03_threads", "1", "no"],
    ]
    assert "checked output differs: cell 2 '1' and '2' (two threads)" in done.output


def table(**columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"r": {"columns": list(columns), "rows": rows}}


@pytest.mark.parametrize(
    "one, other, relative, words",
    [
        (
            table(x=[1.0, 100.0]),
            table(x=[1.05, 100.0]),
            0.05 / 100,
            None,
        ),  # of the column's largest value
        (table(x=[1.0], seconds=[1.0]), table(x=[1.0], seconds=[2.0]), 0.0, None),
        (
            table(measure=["seconds", "mse"], e=[1.0, 2.0]),
            table(measure=["seconds", "mse"], e=[9.0, 2.0]),
            0.0,
            None,
        ),
        (table(x=["a"]), table(x=["b"]), 0.0, "r.x, row 0: 'a' and 'b'"),
        (table(x=[True]), table(x=[False]), 0.0, "True and False"),
        (table(x=["nan"]), table(x=[1.0]), 0.0, "'nan' and 1.0"),
        (table(x=["nan"]), table(x=["nan"]), 0.0, None),
        (table(x=[0.0]), table(x=[1.0]), float("inf"), None),
        (table(x=[1.0]), table(x=[1.0, 2.0]), 0.0, "r has 1 and 2 rows"),
        (table(x=[1.0]), table(y=[1.0]), 0.0, "row 0"),
        (table(x=[1.0]), {}, 0.0, "result r is not in both"),
    ],
)
def test_differences(one, other, relative, words):
    found = difference(one, other)
    assert found.relative == pytest.approx(relative)
    assert bool(found.other) == (words is not None) and (words is None or words in found.other[0])


def test_counts_of_evaluations_have_a_tolerance_of_their_own():
    def said(evaluations):
        return {
            "notebook": "n",
            "checked": [],
            "results": table(x=[1.0], score_evaluations=[evaluations]),
            "arrays": {},
        }

    assert difference(said(100)["results"], said(95)["results"]).work == pytest.approx(0.05)
    assert judge(said(100), said(100), said(95)).complaints == []
    assert (
        "by 0 on one thread, by 0.2 on two" in judge(said(100), said(100), said(80)).complaints[0]
    )
    assert "by 0.05 on one thread" in judge(said(100), said(95), said(100)).complaints[0]


def test_the_sets_of_figures_and_cells_must_agree():
    def said(texts, arrays):
        return {
            "notebook": "n",
            "checked": [{"cell": n, "text": text} for n, text in enumerate(texts)],
            "results": {},
            "arrays": arrays,
        }

    one = said(["a\n", "b\nc\n"], {"f": {"x": 1}})
    assert judge(one, one, one).complaints == []
    assert judge(one, one, said(["a\n", "b\n"], {})).complaints == [
        "checked output differs: cell 1 2 and 1 lines (two threads)"
    ]
    assert judge(one, said(["a\n", "b\nc\n"], {"g": {}}), one).complaints == [
        "on one thread array x of figure f differs",
        "on one thread figure g differs",
    ]
    assert "cells" in judge(one, one, said(["a\n"], {})).complaints[0]


@pytest.mark.notebook
def test_a_real_notebook_is_deterministic():
    notebook = find("09", NOTEBOOKS)
    verdict = examine(notebook, smoke_parameters(notebook))
    assert verdict.complaints == [] and verdict.cells >= 5 and verdict.numbers >= 20
