"""The workflow without a kernel: parameters, agreement, tables, publishing, refreshing, reports."""

import json
import re
from pathlib import Path

import books
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from workflow import __main__ as command
from workflow import collect, parameters, publish, refresh, report, results, runs
from workflow.runs import Run


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The notebooks of a small checkout, in place of the project's."""
    folder = books.checkout(tmp_path / "checkout") / "notebooks"
    monkeypatch.setattr(parameters.notebooks, "__defaults__", (folder,))
    monkeypatch.setattr(parameters.find, "__defaults__", (folder,))
    monkeypatch.setattr(runs, "NOTEBOOKS", folder)
    return folder


@pytest.fixture
def drawn(shelf):
    return shelf / "01_drawn.ipynb"


def made(notebook, root, *, value=1.0, seconds=0.1, printed="count 3\n", **given) -> Run:
    """A finished run, made by hand."""
    run = Run(notebook, given, root)
    figures = run.folder / "figures"
    figures.mkdir(parents=True)
    (figures / ".snakemake_timestamp").touch()
    Image.new("L", (8, 8), 100).save(figures / "01_drawn.png")
    np.savez(figures / "01_drawn.npz", y=np.array([value, 10.0]))
    numbers = {"energy": value, "seconds": seconds, "methods": [{"name": "lerp", "e": 2.0}]}
    (figures / "01_numbers.json").write_text(json.dumps(numbers))
    table = pd.DataFrame({"method": ["lerp", "stein"], "error": [value, 2.0], "batches": [1, 100]})
    table["reason"] = ["", None]
    table.to_csv(figures / "01_table.csv", index=False)
    book = nbformat.read(notebook, as_version=4)
    injected = books.code("figures_dir = 'x'", "injected-parameters", count=2)
    book.cells.insert(1, injected)
    for count, cell in enumerate(book.cells, 1):
        cell.execution_count = count
    # a kernel may cut a stream anywhere
    parts = (printed[:2], printed[2:])
    book.cells[4].outputs = [nbformat.v4.new_output("stream", text=part) for part in parts]
    nbformat.write(book, run.folder / "notebook.ipynb")
    defaults = {name: each.default for name, each in parameters.parameters(notebook).items()}
    source = {"name": "toy", "fallback": True, "message": "toys instead"}
    record = dict.fromkeys(report.FACTS) | {
        "given": given,
        "parameters": defaults | given,
        "sources": {"data": [source]},
    }
    (run.folder / "provenance.json").write_text(json.dumps(record))
    return run


# Parameters


def test_parameters_have_defaults_types_and_comments(drawn):
    known = parameters.parameters(drawn)
    assert known["scale"] == parameters.Parameter("scale", 2.0, "metres")
    assert known["name"].comment == "text, é"
    assert known["sigmas"].default == [1.0, 0.5]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["count=1,2"], [{"count": 1}, {"count": 2}]),
        (["scale=1,2.5"], [{"scale": 1.0}, {"scale": 2.5}]),
        (["sigmas=[1],[2.0,0.5]"], [{"sigmas": [1.0]}, {"sigmas": [2.0, 0.5]}]),
        (["name=sklearn,mnist"], [{"name": "sklearn"}, {"name": "mnist"}]),
        (["name='a, b',\"c\""], [{"name": "a, b"}, {"name": "c"}]),
        (["name=7,x"], [{"name": "7"}, {"name": "x"}]),
        (["revision=v1"], [{"revision": "v1"}]),
        (["revision=None,64"], [{"revision": None}, {"revision": 64}]),
        (
            ["quick=True,False", "count=1"],
            [{"quick": True, "count": 1}, {"quick": False, "count": 1}],
        ),
    ],
)
def test_a_grid_is_all_combinations_with_the_types_of_the_defaults(drawn, words, expected):
    assert parameters.grid(drawn, parameters.parse_grid(drawn, words)) == expected


@pytest.mark.parametrize(
    "words, culprit",
    [
        ("7 count=1", "'7'"),
        ("01_drwan count=1", "did you mean '01_drawn'"),
        ("1 cuont=1", "did you mean 'count'"),
        ("1 figures_dir=x", "no parameter 'figures_dir'"),
        ("1 count", "name=value"),
        ("1", "grid is empty"),
        ("1 count=", "no values"),
        ("1 count=1 count=2", "given twice"),
        ("1 count=many", "no Python literal"),
        ("1 count=1.5", "wanted is int"),
        ("1 count=True", "wanted is int"),
        ("1 scale=nan", "no Python literal"),
        ("1 scale=[1]", "wanted is float"),
        ("1 sigmas=1", "wanted is list"),
        ("1 sigmas=['a']", "wanted is float"),
        ("1 quick=1", "wanted is bool"),
        ("missing.yml", "missing.yml"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(shelf, words, culprit, monkeypatch):
    monkeypatch.setattr("workflow.snakemake.make", lambda *_: pytest.fail("something ran"))
    done = CliRunner().invoke(command.app, ["sweep", *words.split()])
    assert isinstance(done.exception, (ValueError, OSError))
    assert culprit in str(done.exception)


def test_a_sweep_in_a_file(shelf, tmp_path):
    file = tmp_path / "grid.yml"
    file.write_text("1: {sigmas: [[1.0], [2]]}\n02_fails: {scale: [1, 2]}\n")
    found = [(run.notebook.stem, dict(run.given)) for run in command.swept([str(file)])]
    assert found == [
        ("01_drawn", {"sigmas": [1.0]}),
        ("01_drawn", {"sigmas": [2.0]}),
        ("02_fails", {"scale": 1.0}),
        ("02_fails", {"scale": 2.0}),
    ]
    file.write_text("1: {scale: 3}\n")
    with pytest.raises(ValueError, match="list of values"):
        command.swept([str(file)])


def test_a_run_is_named_by_what_differs_from_the_defaults(drawn):
    assert Run(drawn, {"scale": 2.0}).id == "default"
    names = {Run(drawn, given).id for given in ({"count": 1}, {"count": 2}, {"scale": 1.0})}
    assert len(names) == 3 and all(len(name) == 12 for name in names)
    assert Run(drawn, {"count": 1, "scale": 1.0}).id == Run(drawn, {"scale": 1.0, "count": 1}).id


def test_an_output_does_not_change_the_checksum_of_the_cells(drawn):
    before = parameters.cells_digest(drawn)
    book = nbformat.read(drawn, as_version=4)
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="new")]
    nbformat.write(book, drawn)
    assert parameters.cells_digest(drawn) == before
    book.cells[1].source += "\n1"
    nbformat.write(book, drawn)
    assert parameters.cells_digest(drawn) != before


def test_list_shows_name_type_default_and_comment(shelf):
    done = CliRunner().invoke(command.app, ["list", "1"])
    assert "    scale: float = 2.0" in done.output and "# metres" in done.output


def test_words_of_snakemake_pass_through(shelf, monkeypatch):
    calls = []
    monkeypatch.setattr("workflow.snakemake.make", lambda *words: calls.append(words) or False)
    words = ["sweep", "1", "count=1,2", "--executor", "slurm", "--jobs", "20", "--smoke"]
    assert CliRunner().invoke(command.app, words).exit_code == 1
    ((wanted, options),) = calls
    assert [dict(run.given) for run in wanted] == [{"count": 1}, {"count": 2}]
    assert options == ["--executor", "slurm", "--jobs", "20"]


# Agreement


@pytest.mark.parametrize(
    "one, other, agrees",
    [
        ({"x": [1.0, 100.0]}, {"x": [1.05, 100.0]}, True),
        ({"x": [1.0, 100.0]}, {"x": [1.0, 101.0]}, False),
        ({"x": [1.0], "seconds": [1.0]}, {"x": [1.0], "seconds": [2.0]}, True),
        (
            {"what": ["mse", "seconds"], "x": [1, 2]},
            {"what": ["mse", "seconds"], "x": [1, 9]},
            True,
        ),
        ({"score_batches": [100]}, {"score_batches": [95]}, True),
        ({"score_batches": [100]}, {"score_batches": [80]}, False),
        ({"x": ["a"]}, {"x": ["b"]}, False),
        ({"x": [True]}, {"x": [False]}, False),
        ({"x": [float("nan")]}, {"x": [1.0]}, False),
        ({"x": [float("nan")]}, {"x": [float("nan")]}, True),
        ({"x": [0.0]}, {"x": [1.0]}, False),
        ({"x": [1.0]}, {"x": [1.0, 2.0]}, False),
        ({"x": [1.0]}, {"y": [1.0]}, False),
    ],
)
def test_tables_agree_up_to_rounding(one, other, agrees):
    found = results.table_differences({"t": pd.DataFrame(one)}, {"t": pd.DataFrame(other)})
    assert (found == []) == agrees, found


def test_results_of_all_shapes_become_tables(tmp_path):
    record = {
        "a": {"b": 1, "c": [2, 3]},
        "n": "nan",
        "text": "t",
        "rows": [{"m": "x", "e": {"f": 1}}],
    }
    (tmp_path / "r.json").write_text(json.dumps(record))
    found = results.tables(tmp_path)
    assert found["r"].iloc[0].drop("n").to_dict() == {"a.b": 1, "a.c.0": 2, "a.c.1": 3, "text": "t"}
    assert np.isnan(found["r"]["n"][0])
    assert found["r.rows"].to_dict("list") == {"m": ["x"], "e.f": [1]}


def test_runs_are_compared_in_texts_results_and_arrays(drawn, tmp_path):
    from workflow.determinism import compare

    one = made(drawn, tmp_path / "1").folder
    assert compare(one, made(drawn, tmp_path / "2", seconds=9.0, value=1.0005).folder) == []
    found = "\n".join(compare(one, made(drawn, tmp_path / "3", value=2.0, printed="4\n").folder))
    for place in ("code cell 3", "01_numbers.energy", "01_table.error", "01_drawn.y"):
        assert place in found


# Publishing


def test_publishing_leaves_alone_what_agrees(drawn, tmp_path):
    out = tmp_path / "figures"
    publish.publish([made(drawn, tmp_path / "1")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["01_drawn.npz", "01_drawn.png", "01_numbers.json", "01_table.csv"]
    near = made(drawn, tmp_path / "2", value=1.0005, seconds=9.0)
    assert publish.publish([near], out)[-1].startswith("figures and results: 0 written")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "01_older.png").touch()
    lines = publish.publish([made(drawn, tmp_path / "3", value=2.0)], out)
    assert sum("01_older.png" in line for line in lines) == 1
    assert sum(line.startswith("written") for line in lines) == 3


def test_the_tables_that_a_notebook_reads_are_committed(drawn, tmp_path):
    book = nbformat.read(drawn, as_version=4)
    book.cells.append(nbformat.v4.new_markdown_cell("Read from data/results/01_table.csv."))
    nbformat.write(book, drawn)
    out = tmp_path / "results"
    out.mkdir()
    assert publish.publish_results(made(drawn, tmp_path / "1"), out)[0].startswith("written")
    assert sorted(path.name for path in out.iterdir()) == ["01_parameters.json", "01_table.csv"]
    near = made(drawn, tmp_path / "2", value=1.0005)
    assert publish.publish_results(near, out)[0].startswith("as before")
    assert pd.read_csv(out / "01_table.csv").error[0] == 1.0


def test_a_picture_that_looks_different_is_published(drawn, tmp_path):
    out = tmp_path / "figures"
    run = made(drawn, tmp_path / "1")
    publish.publish([run], out)
    picture = run.folder / "figures" / "01_drawn.png"
    Image.new("L", (8, 8), 101).save(picture)
    publish.publish([run], out)
    assert (out / "01_drawn.png").read_bytes() != picture.read_bytes()
    Image.new("L", (8, 8), 130).save(picture)
    publish.publish([run], out)
    assert (out / "01_drawn.png").read_bytes() == picture.read_bytes()


def test_fallbacks_are_one_line_each(drawn, tmp_path):
    pair = [made(drawn, tmp_path / "1"), made(drawn, tmp_path / "1", count=1)]
    assert publish.fallbacks(pair) == ["fallback in 01: toys instead"]


# Tables, refreshing, reports


def test_collected_results_are_tidy(drawn, tmp_path):
    pair = [made(drawn, tmp_path, scale=1.0), made(drawn, tmp_path, scale=3.0, value=7.0)]
    table = collect.collect(pair)
    wanted = ["notebook", "id", "scale", "result", "row", "labels", "quantity", "value"]
    assert list(table) == wanted
    energy = table[(table["result"] == "01_numbers") & (table["quantity"] == "energy")]
    assert dict(zip(energy["scale"], energy["value"], strict=True)) == {"1.0": 1.0, "3.0": 7.0}
    errors = table[(table["result"] == "01_table") & (table["quantity"] == "error")]
    assert errors["labels"].tolist() == ["lerp", "stein"] * 2
    assert set(table["result"]) == {"01_numbers", "01_numbers.methods", "01_table"}


def test_a_committed_notebook_takes_the_outputs_of_its_run(drawn, tmp_path):
    run = made(drawn, tmp_path)
    executed = nbformat.read(run.folder / "notebook.ipynb", as_version=4)
    bar = nbformat.v4.new_output("stream", name="stderr", text="\r50%")
    executed.cells[3].outputs = [
        bar,
        nbformat.v4.new_output("execute_result", {}, execution_count=4),
    ]
    executed.cells[3].metadata["execution"] = {"started": "now"}
    nbformat.write(executed, run.folder / "notebook.ipynb")
    assert refresh.refresh(run)
    book = nbformat.read(drawn, as_version=4)
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3, 4, 5]
    assert [output.output_type for output in book.cells[2].outputs] == ["execute_result"]
    assert book.cells[2].outputs[0].execution_count == 3
    assert book.cells[3].outputs[0].text == "count 3\n"
    assert not refresh.refresh(run)
    book.cells[2].source += "\n1"
    nbformat.write(book, drawn)
    with pytest.raises(ValueError, match="run make figures"):
        refresh.refresh(run)


def test_a_report_is_one_page_that_loads_nothing(drawn, tmp_path):
    pair = [made(drawn, tmp_path, scale=1.0), made(drawn, tmp_path, scale=3.0)]
    page = report.report(pair, tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(run.name in page for run in pair) and "01_numbers" in page
    assert "default-src 'none'" in page and "MathJax" in page
    assert not re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="(?!data:)', page)


def test_only_finished_runs_are_reported(shelf, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    monkeypatch.setattr(runs.finished_runs, "__defaults__", (tmp_path,))
    run = made(drawn, tmp_path, scale=1.0)
    assert command.reported(["1"], small=False) == [run]
    assert command.reported([f"1/{run.id[:3]}"], small=False) == [run]
    with pytest.raises(ValueError, match=run.id):
        command.reported(["1/zzz"], small=False)
    with pytest.raises(ValueError, match="not finished"):
        command.reported(["1", "scale=9"], small=False)


def test_the_makefile_has_every_command_that_the_project_names():
    makefile = (Path(books.ROOT) / "Makefile").read_text(encoding="utf-8")
    for name in ("figures", "sweep", "list", "report", "refresh"):
        assert f"-m workflow {name}" in makefile
