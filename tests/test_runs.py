"""Running notebooks: parameters checked, unchanged work skipped, nothing half-done after failures and interrupts."""

import errno
import json
import os
import re
import shutil
import signal
import sys

import books
import nbformat
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lib import runs
from lib.runs import __main__ as command
from lib.runs import execution
from lib.runs.commands import reruns


@pytest.fixture
def shelf(tmp_path):
    """A folder with two good notebooks and their small parameters."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    books.write(folder, "01_drawn", books.code(books.DRAW))
    books.write(folder, "02_other", books.code(books.DRAW.replace("drawn", "other")))
    (folder / "smoke.yml").write_text("01_drawn: {count: 1}\n02_other:\n")
    return folder


@pytest.fixture
def cli(shelf, tmp_path):
    def call(name, *arguments, into=True):
        places = (
            ["--out", tmp_path / "figures", "--build", tmp_path / "build", "--workers", "1"]
            if into
            else []
        )
        words = [name, *arguments, *places, "--notebooks", shelf]
        return CliRunner().invoke(command.app, list(map(str, words)))

    return call


@pytest.mark.parametrize("name", ["1", "01", "01_drawn", "01_drawn.ipynb"])
def test_find(shelf, name):
    assert runs.find(name, shelf).name == "01_drawn.ipynb"


def test_find_names_the_nearest(shelf, tmp_path):
    with pytest.raises(ValueError, match="did you mean '01_drawn'"):
        runs.find("01_dawn", shelf)
    with pytest.raises(FileNotFoundError, match="no notebook named NN_topic"):
        runs.find("1", tmp_path)


def test_parse_knows_the_types_of_the_defaults(shelf):
    text = ["count=7", "scale=3", "name=5", "sigmas=[2.0, 1]", "quick=True"]
    expected = {"count": 7, "scale": 3, "name": "5", "sigmas": [2.0, 1], "quick": True}
    found = runs.parse(runs.find("1", shelf), text)
    assert found == expected
    assert isinstance(found["scale"], float) and all(
        isinstance(value, float) for value in found["sigmas"]
    )


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("cuont=7", "no parameter 'cuont'; did you mean 'count'"),
        ("count=7.5", "wants int such as 3"),
        ("count=many", "wants int"),
        ("count=True", "wants int"),
        ("quick=1", "wants bool"),
        ("sigmas=2.0", "wants list"),
        ("count", "write name=value"),
        ("sigmas=[2, 'x']", "wants list"),
        ("scale=1e999", "wants float"),
    ],
)
def test_wrong_parameters_are_refused(shelf, assignment, words):
    with pytest.raises(ValueError, match=words):
        runs.parse(runs.find("1", shelf), [assignment])


def test_smoke_parameters_must_be_there_and_known(shelf):
    assert runs.smoke_parameters(runs.find("1", shelf)) == {"count": 1}
    (shelf / "smoke.yml").write_text("01_drawn: {conut: 1}\n")
    with pytest.raises(ValueError, match="did you mean 'count'"):
        runs.smoke_parameters(runs.find("1", shelf))
    with pytest.raises(ValueError, match="says nothing about 02_other"):
        runs.smoke_parameters(runs.find("2", shelf))


def test_list_shows_names_defaults_and_comments(cli):
    said = cli("list", into=False).output
    assert (
        "01_drawn" in said
        and "sigmas: list = [1.0, 0.5]" in said
        and "# points, 1 to 9" in said
        and "02_other" in said
    )
    one = cli("list", "2", into=False).output
    assert "02_other" in one and "01_drawn" not in one and "quick: bool = False" in one


def test_list_is_a_table_where_a_person_looks(cli, monkeypatch, capsys):
    monkeypatch.setattr(reruns, "Console", lambda: Console(force_terminal=True, width=100))
    said = cli("list", "1", into=False).output
    assert "parameter" in said and "meaning" in said and "[1.0, 0.5]" in said and "│" in said
    reruns.show("title", ("one",), [("[b]",)], print)
    assert "[b]" in capsys.readouterr().out


def test_help_teaches(cli):
    said = CliRunner().invoke(command.app, ["--help"]).output
    for name in (
        "list",
        "run",
        "sweep",
        "status",
        "resume",
        "figures",
        "refresh",
        "train",
        "pairs",
    ):
        assert f"│ {name} " in said
    assert "sweep 01 --grid lam=1,10 sigma=0.1,0.2" in said and "--dry-run" in said


def test_figures_runs_everything_once_and_then_only_what_changed(cli, shelf, tmp_path):
    first = cli("figures")
    assert first.exit_code == 0, first.output
    assert first.stdout.endswith("notebooks: 2 passed, 0 failed\n") and "drawn.json" in first.stdout
    assert "fallback in 01_drawn, 02_other: toy numbers instead of real ones" in first.stdout
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        f"{name}.{end}" for name in ("drawn", "other") for end in ("png", "json")
    )
    assert not [path for path in tmp_path.rglob(".draft-*")]

    books.write(
        shelf, "02_other", books.code(books.DRAW.replace("drawn", "other")), books.markdown("more")
    )
    second = cli("figures").stdout
    assert re.search("01_drawn/.*: unchanged", second) and re.search("02_other/.*: passed", second)
    (tmp_path / "figures" / "drawn.png").write_bytes(b"another")
    third = cli("figures").stdout
    assert re.search("01_drawn/.*: unchanged", third) and "published again: drawn.png" in third
    assert (tmp_path / "figures" / "drawn.png").read_bytes() == bytes(range(3))


def test_a_failing_notebook_is_shown_leaves_no_stamp_and_does_not_stop_the_others(
    cli, shelf, tmp_path
):
    figures = tmp_path / "figures"
    assert cli("figures", "--only", "1").exit_code == 0
    before = (figures / "drawn.png").read_bytes()
    books.write(
        shelf,
        "01_drawn",
        books.code("count = 9\n" + books.DRAW),
        books.code("raise ValueError('no luck')"),
    )
    done = cli("figures")
    assert done.exit_code == 1 and done.stdout.endswith("notebooks: 1 passed, 1 failed\n")
    assert "ValueError: no luck" in done.stdout and "raise ValueError" in done.stdout
    assert (
        figures / "drawn.png"
    ).read_bytes() == before  # the figure drawn before the failure is not published
    states = sorted(
        (found.folder.parent.name, found.state.name)
        for found in runs.found_runs(tmp_path / "build")
    )
    assert states == [("01_drawn", "failed"), ("01_drawn", "finished"), ("02_other", "finished")]
    failed = next(
        found for found in runs.found_runs(tmp_path / "build") if found.state.name == "failed"
    )
    assert "no luck" in failed.state.detail and "no luck" in (failed.folder / "log.txt").read_text()
    assert sorted(path.name for path in failed.folder.iterdir()) == [
        ".lock",
        "failed.json",
        "log.txt",
        "notebook.failed.ipynb",
        "request.json",
    ]


def test_a_notebook_without_a_figure_fails(shelf, tmp_path):
    path = books.write(shelf, "03_silent", books.code("print(count)"))
    outcome = runs.execute(path, {}, build=tmp_path / "build", out=tmp_path / "figures")
    assert outcome.state == "failed" and "wrote no figure" in outcome.error


def test_a_full_disk_is_reported_and_leaves_nothing(shelf, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(execution.papermill, "execute_notebook", full)
    outcome = runs.execute(
        runs.find("1", shelf), {}, build=tmp_path / "build", out=tmp_path / "figures"
    )
    assert (
        outcome.state == "failed"
        and "No space left" in outcome.error
        and "free space" in outcome.error
    )
    assert not (tmp_path / "figures").exists()
    assert [found.state.name for found in runs.found_runs(tmp_path / "build")] == ["failed"]
    assert not list((tmp_path / "build").rglob(".draft-*")) and not list(
        (tmp_path / "build").rglob("provenance.json")
    )


def test_a_disk_that_takes_no_figures_leaves_them_as_they_were(shelf, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "drawn.png").write_bytes(b"old")
    monkeypatch.setattr(shutil, "copyfile", full)
    outcome = runs.execute(
        runs.find("1", shelf), {}, build=tmp_path / "build", out=tmp_path / "figures"
    )
    assert (
        outcome.state == "failed"
        and "cannot write figures" in outcome.error
        and "free space" in outcome.error
    )
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "figures").iterdir()] == [
        ("drawn.png", b"old")
    ]
    assert [found.state.name for found in runs.found_runs(tmp_path / "build")] == [
        "finished"
    ]  # the run itself is not lost


def test_outputs_alone_make_no_other_run(shelf, tmp_path):
    path = runs.find("1", shelf)
    before = runs.Run(path).id
    assert runs.refresh(path).state == "passed"
    assert runs.Run(path).id == before


def test_run_makes_a_folder_per_set_of_parameters(cli, tmp_path):
    said = [
        cli("run", "1", "-p", f"count={count}", "--root", tmp_path / "runs", into=False)
        for count in (4, 5, 4)
    ]
    assert [done.exit_code for done in said] == [0, 0, 0] and "unchanged" in said[2].stdout
    drawn = (tmp_path / "runs").glob("01_drawn/*/figures/drawn.json")
    assert sorted(json.loads(path.read_text())["parameters"]["count"] for path in drawn) == [4, 5]


def test_a_mistake_on_the_command_line_is_one_line(shelf, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["runs", "run", "1", "-p", "cuont=1", "--notebooks", str(shelf)]
    )
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        command.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and "did you mean 'count'" in said


def test_refresh_gives_the_same_file_twice_and_keeps_outputs_and_tags(shelf):
    source = "import sys\nprint(count)\nprint('50%', end='\\r', file=sys.stderr)"
    path = books.write(shelf, "03_said", books.code(source, "nbval-check-output"))
    assert runs.refresh(path).state == "passed"
    first, book = path.read_bytes(), nbformat.read(path, as_version=4)
    assert runs.refresh(path).state == "passed" and path.read_bytes() == first
    assert [cell.metadata.tags for cell in book.cells] == [["parameters"], ["nbval-check-output"]]
    assert [output.text for output in book.cells[1].outputs] == ["3\n"]  # the progress bar is gone
    assert set(book.cells[1].metadata) == {"tags"} and set(book.metadata) == {
        "kernelspec",
        "language_info",
    }


def test_refresh_leaves_a_notebook_that_fails_as_it_was(cli, shelf):
    path = books.write(shelf, "02_other", books.code("print(1)\nraise ValueError('no luck')"))
    before = path.read_bytes()
    done = cli("refresh", "2", "1", into=False)
    assert (
        done.exit_code == 1
        and "no luck" in done.stdout
        and "notebooks: 1 passed, 1 failed" in done.stdout
    )
    assert path.read_bytes() == before
    assert sorted(os.listdir(shelf)) == ["01_drawn.ipynb", "02_other.ipynb", "smoke.yml"]
