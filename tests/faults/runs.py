"""Runs of notebooks: notebooks that fail, disks that fill, processes that die, files that were changed since."""

import io
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr

import books
import nbformat
import pandas as pd

from lib import runs
from lib.runs import __main__ as command
from lib.runs.collect import write
from lib.runs.folder import Run, State, state

from . import ROOT, Status, contents, fault


def shelf(world):
    """A folder of notebooks: 01 draws, 02 fails at its second cell, 03 draws nothing, 04 has no parameters cell."""
    folder = world.folder / "notebooks"
    folder.mkdir()
    books.write(folder, "01_drawn", books.code(books.DRAW))
    books.write(
        folder, "02_fails", books.code(books.DRAW), books.code("raise RuntimeError('no luck')")
    )
    books.write(folder, "03_blank", books.code("print(1)"))
    nbformat.write(books.book(books.code("print(1)")), folder / "04_bare.ipynb")
    (folder / "smoke.yml").write_text("01_drawn: {count: 1}\n")
    return folder


def drawn(world, **given):
    """Notebook 01 as a run below `runs`."""
    folder = world.folder / "notebooks"
    return Run(
        (folder if folder.exists() else shelf(world)) / "01_drawn.ipynb",
        given,
        world.folder / "runs",
    )


def failing(number, says, left):
    @fault(
        "lib.runs",
        f"a notebook that {'fails' if number == 2 else 'writes no figure'}",
        Status,
        says,
        left=left,
    )
    def bad_notebook(world):
        run = Run(runs.find(str(number), shelf(world)), {}, world.folder / "runs")
        yield lambda: told(run)
        assert run.state().name == "failed" and not (run.folder / "provenance.json").exists()
        assert not (run.folder / "figures").exists() and (
            run.folder / "notebook.failed.ipynb"
        ).exists() == (number == 2)


def told(run):
    """Perform a run; raises what its outcome says if it failed."""
    outcome = runs.perform(run)
    if outcome.state == "failed":
        raise Status(1, outcome.error)
    return outcome


failing(
    2,
    "RuntimeError: no luck",
    "the notebook up to there, the traceback; no figures, nothing that looks finished",
)
failing(
    3,
    "wrote no figure; pass figures_dir to experiments.figures.save",
    "the reason in failed.json; nothing that looks finished",
)


FULL = """import os, pathlib
run, flag = pathlib.Path(figures_dir).resolve().parents[1], pathlib.Path({flag!r})
if not flag.exists():
    flag.touch()
    (run / f".draft-{{os.getppid()}}-{name}").symlink_to("/dev/full")"""


def cannot_be_written(name, what, left):
    @fault(
        "lib.runs",
        f"the disk is full at {what}",
        Status,
        f"cannot write {name} .*No space left.*free space",
        left=left,
    )
    def full_disk(world):
        run = drawn(world)
        run.folder.mkdir(parents=True)
        if name == "request.json":
            world.full(run.folder / name)
        else:  # only once the notebook has begun: what a run finds in its folder it clears away
            source = FULL.format(flag=str(world.folder / "flag"), name=name)
            books.write(
                world.folder / "notebooks", "01_drawn", books.code(books.DRAW), books.code(source)
            )
            run = drawn(world)
        yield lambda: told(run)
        assert run.state().name != "finished"
        assert told(run).state == "passed" and run.state() == State("finished")


cannot_be_written(
    "request.json", "a run's request", "nothing that looks finished; a next run is made"
)
cannot_be_written(
    "provenance.json",
    "a run's last file",
    "nothing that looks finished, though all was done; a next run is made",
)


@fault(
    "lib.runs",
    "a finished run that was changed since",
    None,
    "",
    left="the changed files in damaged-1, the run made anew",
)
def damaged_run(world):
    run = drawn(world)
    told(run)
    (run.folder / "figures/drawn.png").write_bytes(b"half")
    assert run.state() == State("damaged", "figures/drawn.png has changed")
    yield lambda: told(run)
    assert (
        run.state() == State("finished")
        and (run.folder / "damaged-1/figures/drawn.png").read_bytes() == b"half"
    )


@fault(
    "lib.runs",
    "the disk is full at the table of all runs",
    OSError,
    "cannot write results.csv .*No space left.*free space",
    left="the older table, whole, and the run",
)
def full_table(world):
    run = drawn(world)
    told(run)
    found = runs.collect(run.root), runs.overview(run.root)
    world.full(*write(*found, world.tree(world.folder / "table")))
    world.tree(run.folder)
    yield lambda: write(pd.concat([found[0]] * 9), found[1], world.folder / "table")


@fault(
    "lib.runs",
    "a report of a run that is only planned",
    ValueError,
    "continue it with: python -m lib.runs resume",
    left="the run's folder; no half of a report",
)
def report_of_nothing(world):
    run = drawn(world)
    run.plan()
    world.tree()
    yield lambda: runs.report(run.folder, world.folder / "report.html")


@fault(
    "lib.runs",
    "a provenance cut short",
    None,
    "",
    left="the run, known as damaged: never taken for finished",
)
def cut_provenance(world):
    folder = world.tree() / "runs/01_drawn/0123456789ab"
    folder.mkdir(parents=True)
    (folder / "request.json").write_text('{"notebook": "01_drawn"}')
    (folder / "provenance.json").write_text('{"files": {"a')
    yield lambda: state(folder)
    assert state(folder) == State("damaged", "provenance.json is damaged")


@fault(
    "lib.runs",
    "a lock that a dead process left",
    None,
    "",
    left="the run, which goes on as if nothing had been",
)
def stale_lock(world):
    run = drawn(world)
    run.plan()
    (run.folder / ".lock").touch()
    (run.folder / "running.json").write_text(
        json.dumps({"pid": 1, "host": "gone", "since": "then"})
    )
    assert run.state().name == "interrupted"
    yield lambda: told(run)
    assert run.state() == State("finished") and not (run.folder / "running.json").exists()


HOLD = """import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()"""


@fault(
    "lib.runs",
    "two processes at one run",
    None,
    "",
    left="the run of the first; the second waits and makes nothing anew",
)
def two_processes(world):
    run = drawn(world)
    told(run)
    before, found = contents(run.folder), []

    def second():
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, run.folder / ".lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as first:
            first.stdout.readline()
            (run.folder / "provenance.json").rename(world.folder / "aside")
            found.append(run.state().name)  # as it is while the first one works
            waiting = threading.Thread(target=lambda: found.append(told(run).state))
            waiting.start()
            time.sleep(0.2)
            (world.folder / "aside").rename(run.folder / "provenance.json")
            first.stdin.close()
            waiting.join(60)

    yield second
    assert found == ["running", "unchanged"] and contents(run.folder) == before


def started(world, *words):
    places = ["--notebooks", world.folder / "notebooks", "--root", world.folder / "runs"]
    return subprocess.Popen(
        [sys.executable, "-m", "lib.runs", *words, *map(str, places)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


WAIT = """import pathlib, time
flag = pathlib.Path({flag!r})
if count == 2 and not flag.exists():
    flag.touch()
    time.sleep(60)"""


def dies(what, number, status, words, left):
    @fault("lib.runs", f"{what} in the middle of a {words[0]}", status, "", left=left)
    def ended(world):
        world.killed, begun = number == signal.SIGKILL, world.folder / "begun"
        books.write(
            shelf(world),
            "01_drawn",
            books.code(books.DRAW),
            books.code(WAIT.format(flag=str(begun))),
        )

        def act():
            with started(world, *words) as process:
                until(begun.exists, process)
                process.send_signal(number)
                said = process.communicate(timeout=60)[0]
            raise Status(process.returncode, said)

        yield act
        first, second = (drawn(world, count=count) for count in (1, 2))
        assert (
            second.state().name == "interrupted"
            and not (second.folder / "provenance.json").exists()
        )
        done = contents(first.folder)
        assert first.state() == State("finished" if words[0] == "sweep" else "planned")
        assert (
            told(second).state == "passed"
            and second.state() == State("finished")
            and not world.drafts()
        )
        assert contents(first.folder) == done


def until(happened, process):
    deadline = time.monotonic() + 90
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)


dies(
    "Ctrl-C",
    signal.SIGINT,
    130,
    ["sweep", "1", "--grid", "count=1,2", "--workers", "1"],
    "the finished runs, byte for byte; the one that went on is known as interrupted, and a next attempt finishes it",
)
dies(
    "SIGKILL",
    signal.SIGKILL,
    -signal.SIGKILL,
    ["run", "1", "-p", "count=2"],
    "a run that is known as interrupted; the next attempt finishes it and clears away its drafts",
)


@fault(
    "lib.runs",
    "a mistake on the command line",
    2,
    r"^error: 01_drawn has no parameter 'cuont'; did you mean 'count'\?\n$",
    left="notebooks and runs: one line is said, no traceback",
)
def command_line(world):
    words = [
        "runs",
        "run",
        "1",
        "-p",
        "cuont=1",
        "--notebooks",
        str(shelf(world)),
        "--root",
        str(world.folder / "runs"),
    ]
    world.monkeypatch.setattr(sys, "argv", words)
    world.monkeypatch.setattr(signal, "signal", lambda *_: None)
    world.tree()

    def main():
        with redirect_stderr(io.StringIO()) as said:
            try:
                command.main()
            except SystemExit as end:
                raise Status(end.code, said.getvalue()) from end

    yield main
