"""Running notebooks: parameters checked, unchanged work skipped, nothing half-done after failures and interrupts."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import books
import nbformat
import pytest
from typer.testing import CliRunner

from lib import runs
from lib.figures import ROOT
from lib.runs import __main__ as command
from lib.runs import execution


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
        places = ["--out", tmp_path / "figures", "--build", tmp_path / "build"] if into else []
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
    assert runs.parse(runs.find("1", shelf), text) == expected


@pytest.mark.parametrize("assignment, words", [
    ("cuont=7", "no parameter 'cuont'; did you mean 'count'"), ("count=7.5", "wants int such as 3"),
    ("count=many", "wants int"), ("count=True", "wants int"), ("quick=1", "wants bool"), ("sigmas=2.0", "wants list"),
    ("count", "write name=value")])
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
    assert "01_drawn" in said and "sigmas = [1.0, 0.5]" in said and "# points, 1 to 9" in said


def test_figures_runs_everything_once_and_then_only_what_changed(cli, shelf, tmp_path):
    first = cli("figures")
    assert first.exit_code == 0, first.output
    assert first.stdout.endswith("notebooks: 2 passed, 0 failed\n") and "drawn.json" in first.stdout
    assert "fallback in 01_drawn, 02_other: toy numbers instead of real ones" in first.stdout
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        f"{name}.{end}" for name in ("drawn", "other") for end in ("png", "json"))
    assert not [path for path in tmp_path.rglob(".draft-*")]

    books.write(shelf, "02_other", books.code(books.DRAW.replace("drawn", "other")), books.markdown("more"))
    second = cli("figures").stdout
    assert "01_drawn: unchanged" in second and "02_other: passed" in second
    (tmp_path / "figures" / "drawn.png").unlink()
    third = cli("figures").stdout
    assert "01_drawn: passed" in third and "02_other: unchanged" in third


def test_a_failing_notebook_is_shown_leaves_no_stamp_and_does_not_stop_the_others(cli, shelf, tmp_path):
    figures = tmp_path / "figures"
    assert cli("figures", "--only", "1").exit_code == 0
    before = (figures / "drawn.png").read_bytes()
    books.write(shelf, "01_drawn", books.code("count = 9\n" + books.DRAW), books.code("raise ValueError('no luck')"))
    done = cli("figures")
    assert done.exit_code == 1 and done.stdout.endswith("notebooks: 1 passed, 1 failed\n")
    assert "ValueError: no luck" in done.stdout and "raise ValueError" in done.stdout
    assert (figures / "drawn.png").read_bytes() == before  # the figure drawn before the failure is not published
    left = sorted(path.name for path in (tmp_path / "build").iterdir())
    assert left == ["01_drawn.failed.ipynb", "01_drawn.ipynb", "02_other.ipynb", "02_other.stamp.json"]


def test_a_notebook_without_a_figure_fails(shelf, tmp_path):
    path = books.write(shelf, "03_silent", books.code("print(count)"))
    outcome = runs.execute(path, {}, build=tmp_path / "build", out=tmp_path / "figures")
    assert outcome.state == "failed" and "wrote no figure" in outcome.error


def test_a_full_disk_is_reported_and_leaves_nothing(shelf, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(execution.papermill, "execute_notebook", full)
    outcome = runs.execute(runs.find("1", shelf), {}, build=tmp_path / "build", out=tmp_path / "figures")
    assert outcome.state == "failed" and "No space left" in outcome.error and "free space" in outcome.error
    assert [path for folder in ("build", "figures") for path in (tmp_path / folder).iterdir()] == []


@pytest.mark.parametrize("change", ["cells", "parameters", "data", "target"])
def test_the_fingerprint_follows_every_input(shelf, tmp_path, monkeypatch, change):
    path, given, out = runs.find("1", shelf), {"count": 3}, tmp_path / "figures"
    before = runs.fingerprint(path, given, out)
    assert before == runs.fingerprint(path, given, out)
    if change == "cells":
        books.write(shelf, "01_drawn", books.code(books.DRAW + "\n1"))
    elif change == "data":
        monkeypatch.setattr(execution, "availability", lambda: {"mnist-test": "here", "mnist-train": "missing"})
    given, out = ({"count": 4} if change == "parameters" else given), (tmp_path if change == "target" else out)
    assert runs.fingerprint(path, given, out) != before


def test_the_fingerprint_follows_the_sources(shelf, tmp_path, monkeypatch):
    (tmp_path / "lib" / "scores").mkdir(parents=True)
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    prints = set()
    for text in ("a = 1", "a = 2"):
        (tmp_path / "lib" / "scores" / "one.py").write_text(text)
        prints.add(runs.fingerprint(runs.find("1", shelf), {}, tmp_path))
    assert len(prints) == 2


def test_outputs_alone_do_not_change_the_fingerprint(shelf, tmp_path):
    path = runs.find("1", shelf)
    before = runs.fingerprint(path, {}, tmp_path)
    assert runs.refresh(path).state == "passed"
    assert runs.fingerprint(path, {}, tmp_path) == before


def test_run_makes_a_folder_per_set_of_parameters(cli, tmp_path):
    said = [cli("run", "1", "-p", f"count={count}", "--into", tmp_path / "runs", into=False) for count in (4, 5, 4)]
    assert [done.exit_code for done in said] == [0, 0, 0] and "unchanged" in said[2].stdout
    counts = [json.loads(path.read_text())["parameters"]["count"] for path in (tmp_path / "runs").glob("*/drawn.json")]
    assert sorted(counts) == [4, 5]


def test_a_mistake_on_the_command_line_is_one_line(shelf, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runs", "run", "1", "-p", "cuont=1", "--notebooks", str(shelf)])
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
    assert set(book.cells[1].metadata) == {"tags"} and set(book.metadata) == {"kernelspec", "language_info"}


def test_refresh_leaves_a_notebook_that_fails_as_it_was(cli, shelf):
    path = books.write(shelf, "02_other", books.code("print(1)\nraise ValueError('no luck')"))
    before = path.read_bytes()
    done = cli("refresh", "2", "1", into=False)
    assert done.exit_code == 1 and "no luck" in done.stdout and "notebooks: 1 passed, 1 failed" in done.stdout
    assert path.read_bytes() == before
    assert sorted(os.listdir(shelf)) == ["01_drawn.ipynb", "02_other.ipynb", "smoke.yml"]


@pytest.mark.skipif(os.name != "posix", reason="signals between processes as POSIX has them")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_is_finished_and_nothing_half_done(shelf, tmp_path, number, status):
    begun = tmp_path / "begun"
    waiting = f"open({str(begun)!r}, 'w').close()\nimport time\ntime.sleep(60)"
    books.write(shelf, "02_other", books.code(books.DRAW.replace("drawn", "other")), books.code(waiting))
    words = ["figures", "--notebooks", shelf, "--out", tmp_path / "figures", "--build", tmp_path / "build"]
    with subprocess.Popen([sys.executable, "-m", "lib.runs", *words], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 90
        while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == status, said
    assert sorted(os.listdir(tmp_path / "figures")) == ["drawn.json", "drawn.png"]
    assert sorted(os.listdir(tmp_path / "build")) == ["01_drawn.ipynb", "01_drawn.stamp.json"]
