"""A run's folder: what names it, what its states are, what damage, a full disk and a second process do to it."""

import os
import threading

import books
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments import data
from experiments.figures import record_sources, save, save_results
from lib import runs
from lib.runs import execution, folder, identity, results

SAY = books.DRAW + "\nprint('drawn', count)"


@pytest.fixture
def notebook(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return books.write(tmp_path / "notebooks", "01_drawn", books.code(SAY, "nbval-check-output"))


@pytest.fixture
def light(monkeypatch):
    """papermill without a kernel: writes what the notebook would, and runs a hook."""

    def execute(source, target, given, *, cwd, stdout_file, **_):
        book = books.book(books.code(SAY, "nbval-check-output", said="drawn\n"))
        with open(target, "w") as file:
            books.nbformat.write(book, file)
        place = os.path.join(cwd, given["figures_dir"])
        with open(os.path.join(place, "drawn.png"), "wb") as file:
            file.write(b"png")
        stdout_file.write("50%\r100%\n")
        hook()

    def hook():
        pass

    def setting(function):
        nonlocal hook
        hook = function

    monkeypatch.setattr(execution.papermill, "execute_notebook", execute)
    return setting


def test_a_run_writes_all_that_was_agreed(notebook, tmp_path):
    run = runs.Run(notebook, {"count": 5}, tmp_path / "runs")
    assert (
        run.state().name == "planned"
        and run.folder == tmp_path / "runs" / "01_drawn" / run.id
        and len(run.id) == 12
    )
    outcome = runs.perform(run)
    assert outcome.state == "passed" and run.state().name == "finished", outcome.error
    assert sorted(path.name for path in run.folder.iterdir()) == [
        ".lock",
        "figures",
        "log.txt",
        "notebook.ipynb",
        "provenance.json",
        "request.json",
        "results.json",
    ]
    request, said, about = (
        folder.read(run.folder / f"{name}.json") for name in ("request", "results", "provenance")
    )
    assert (
        request["parameters"] == {"count": 5}
        and request["effective"]["scale"] == 2.0
        and request["parts"] == run.parts
    )
    assert (
        said["checked"] == [{"cell": 1, "text": "drawn 5\n"}]
        and said["parameters"] == request["effective"]
    )
    assert set(about["files"]) == {
        "request.json",
        "notebook.ipynb",
        "results.json",
        "log.txt",
        "figures/drawn.png",
        "figures/drawn.json",
    }
    assert (
        about["data"][0]["name"] == "toy"
        and about["versions"]["papermill"]
        and about["seconds"] > 0
    )
    assert (
        "drawn 5" in (run.folder / "log.txt").read_text()
        and "finished in" in (run.folder / "log.txt").read_text()
    )


def test_results_hold_tables_records_and_arrays(notebook, tmp_path):
    place = tmp_path / "made" / "figures"
    save(plt.figure(), "one", arrays={"line": [1.0, 2.0]}, folder=place)
    save_results("two", {"best": 0.5}, folder=place)
    save_results("three", pd.DataFrame({"a": [1, 2], "b": ["x", None]}), folder=place)
    record_sources(place, model={"name": "m"})
    cells = [
        books.code("1"),
        books.code("2", "injected-parameters"),
        books.code("3", "nbval-check-output", said="3\n"),
    ]
    books.nbformat.write(books.book(*cells), tmp_path / "made" / "notebook.ipynb")
    said = results.collected(runs.Run(notebook), tmp_path / "made")
    assert said["results"]["two"] == {"best": 0.5} and said["arrays"]["one"]["line"]["shape"] == [2]
    folder.keep(tmp_path / "results.json", said)
    assert folder.read(tmp_path / "results.json")["results"]["three"] == {
        "columns": ["a", "b"],
        "rows": [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
    }
    assert said["checked"] == [{"cell": 1, "text": "3\n"}]  # counted as in the committed notebook
    assert results.sources((tmp_path / "made" / "figures").glob("*.json")) == ([{"name": "m"}], [])


@pytest.mark.parametrize(
    "change", ["cells", "tags", "parameters", "sources", "data", "environment", "python"]
)
def test_the_name_follows_every_input(notebook, tmp_path, monkeypatch, change):
    before, given = runs.Run(notebook).id, {}
    assert (
        runs.Run(notebook, {"count": 3, "scale": 2}, tmp_path, True).id == before
    )  # defaults, folder: the same run
    if change == "cells":
        books.write(notebook.parent, "01_drawn", books.code(SAY + "\n1", "nbval-check-output"))
    elif change == "tags":
        books.write(notebook.parent, "01_drawn", books.code(SAY))
    elif change == "parameters":
        given = {"count": 4}
    elif change == "sources":
        (tmp_path / "lib" / "scores").mkdir(parents=True)
        (tmp_path / "lib" / "scores" / "one.py").write_text("a = 1")
        monkeypatch.setattr(identity, "ROOT", tmp_path)
    elif change == "data":
        monkeypatch.setattr(
            identity, "availability", lambda: {"mnist-test": "here", "mnist-train": "missing"}
        )
    elif change == "environment":
        monkeypatch.setattr(identity, "versions", lambda: {"torch": "0.1"})
    elif change == "python":
        monkeypatch.setattr(identity.platform, "python_version", lambda: "2.7")
    assert runs.Run(notebook, given).id != before


def test_models_and_images_are_known_by_their_content(notebook, tmp_path):
    (tmp_path / "mine").mkdir()
    weights = tmp_path / "mine" / "weights.bin"
    weights.write_bytes(b"one")

    def inputs(**given):
        return identity.inputs(notebook, given)

    assert inputs(model="rotated-mnist")["model"]["sha256"] == {
        file["name"]: file["sha256"] for file in data.registry()["rotated-mnist"]["files"]
    }
    before = inputs(
        model="../mine", images=str(weights), frames_folder="", work="../mine", name="../mine"
    )
    assert set(before) == {"model", "images"}  # an empty text names nothing, `work` is written to
    weights.write_bytes(b"two")
    after = inputs(model="../mine", images=str(weights))
    assert after["model"] != before["model"] and after["images"] != before["images"]
    assert inputs(model="a/b", revision="x")["model"] == {"name": "a/b", "revision": "x"}


def test_a_finished_run_is_not_touched_again(notebook, tmp_path, light):
    run = runs.Run(notebook, {}, tmp_path)
    assert runs.perform(run).state == "passed"
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in run.folder.rglob("*")
        if path.is_file()
    }
    light(lambda: pytest.fail("ran again"))
    assert runs.perform(runs.Run(notebook, {}, tmp_path)).state == "unchanged"
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in run.folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "harm, words",
    [
        (
            lambda place: (place / "figures" / "drawn.png").write_bytes(b"bad"),
            "figures/drawn.png has changed",
        ),
        (lambda place: (place / "log.txt").unlink(), "log.txt is missing"),
        (lambda place: (place / "provenance.json").write_text("{"), "provenance.json is damaged"),
        (lambda place: (place / "request.json").write_text("{}"), "request.json has changed"),
    ],
)
def test_a_damaged_run_says_so_and_is_made_anew_beside_what_was_there(
    notebook, tmp_path, light, harm, words
):
    run = runs.Run(notebook, {}, tmp_path)
    runs.perform(run)
    harm(run.folder)
    assert run.state() == runs.State("damaged", words)
    outcome = runs.perform(run)
    assert outcome.state == "passed" and words in outcome.note and run.state().name == "finished"
    assert len(list((run.folder / "damaged-1").iterdir())) >= 4


def test_sources_that_change_meanwhile_make_no_result(notebook, tmp_path, light):
    light(lambda: books.write(notebook.parent, "01_drawn", books.code("1")))
    run = runs.Run(notebook, {}, tmp_path)
    outcome = runs.perform(run)
    assert outcome.state == "failed" and "changed while 01_drawn ran: notebook" in outcome.error
    assert run.state().name == "failed"


@pytest.mark.parametrize("at", ["results.json", "request.json", "provenance.json", "log.txt"])
def test_a_full_disk_never_leaves_something_that_looks_finished(
    notebook, tmp_path, light, monkeypatch, at
):
    write = folder.replacing

    def full(target):
        if target.name == at:
            raise OSError(28, os.strerror(28))
        return write(target)

    run = runs.Run(notebook, {}, tmp_path)
    with monkeypatch.context() as patch:
        if at == "log.txt":
            patch.setattr(execution.os, "fsync", lambda _: full(run.folder / at))
        else:
            patch.setattr(folder, "replacing", full)
        outcome = runs.perform(run)
    assert (
        outcome.state == "failed"
        and "No space left" in outcome.error
        and "free space" in outcome.error
    )
    assert run.state().name in ("planned", "interrupted", "failed") and not list(
        run.folder.glob(".draft-*")
    )
    assert runs.perform(run).state == "passed" and run.state().name == "finished"


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_read_only_folder_is_named(notebook, tmp_path, light):
    (tmp_path / "runs").mkdir(mode=0o500)
    outcome = runs.perform(runs.Run(notebook, {}, tmp_path / "runs"))
    assert outcome.state == "failed" and "make it writable" in outcome.error


def test_a_second_process_waits_and_then_takes_what_the_first_made(
    notebook, tmp_path, light, capsys
):
    run, begun, go = runs.Run(notebook, {}, tmp_path), threading.Event(), threading.Event()
    light(lambda: (begun.set(), go.wait(30)))
    first = threading.Thread(target=runs.perform, args=(run,))
    first.start()
    assert begun.wait(30)
    found = run.state()
    assert found.name == "running" and f"process {os.getpid()} on" in found.detail
    threading.Timer(0.7, go.set).start()
    assert runs.perform(runs.Run(notebook, {}, tmp_path)).state == "unchanged"
    first.join()
    assert f"waiting for 01_drawn/{run.id}: process {os.getpid()}" in capsys.readouterr().err
