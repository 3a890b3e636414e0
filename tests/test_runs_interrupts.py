"""Ctrl-C, SIGTERM and SIGKILL: what is finished stays, nothing else looks finished, no kernel lives on."""

import os
import signal
import subprocess
import sys
import time

import books
import psutil
import pytest

from experiments.figures import ROOT
from lib import runs

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="signals between processes as POSIX has them"
)


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.mark.parametrize(
    "number, status, workers", [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)]
)
def test_an_interrupt_keeps_what_is_finished_and_nothing_half_done(
    shelf, tmp_path, number, status, workers
):
    begun = tmp_path / "begun"
    waiting = f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(100)"
    books.write(shelf, "01_drawn", books.code(books.DRAW))
    books.write(
        shelf, "02_other", books.code(books.DRAW.replace("drawn", "other")), books.code(waiting)
    )
    (shelf / "durations.yml").write_text("01_drawn: 2\n02_other: 1\n")
    words = [
        "figures",
        "--notebooks",
        shelf,
        "--out",
        tmp_path / "figures",
        "--build",
        tmp_path / "build",
        "-w",
        workers,
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "lib.runs", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        deadline = time.monotonic() + 240
        while (
            not (begun.exists() and (tmp_path / "figures" / "drawn.png").exists())
            and time.monotonic() < deadline
        ):
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.2)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == status, said
    assert sorted(os.listdir(tmp_path / "figures")) == ["drawn.json", "drawn.png"]
    assert [found.state.name for found in runs.found_runs(tmp_path / "build")] == [
        "finished",
        "interrupted",
    ]
    left = next((tmp_path / "build" / "02_other").iterdir())
    assert sorted(os.listdir(left)) == [".lock", "log.txt", "request.json"]
    assert not psutil.pid_exists(int(begun.read_text()))  # the kernel is gone with it


def test_a_killed_run_looks_interrupted_and_is_continued(shelf, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"
    wait = (
        f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.1)"
    )
    run = runs.Run(
        books.write(shelf, "01_drawn", books.code(books.DRAW), books.code(wait)),
        {},
        tmp_path / "runs",
    )
    words = ["run", "1", "--notebooks", shelf, "--root", tmp_path / "runs"]
    with subprocess.Popen(
        [sys.executable, "-m", "lib.runs", *map(str, words)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 240
        while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.state().name == "running"
        process.kill()
    kernel = int(begun.read_text())
    assert run.state().name == "interrupted" and not (run.folder / "provenance.json").exists()
    psutil.wait_procs([psutil.Process(kernel)] if psutil.pid_exists(kernel) else [], timeout=30)
    assert not psutil.pid_exists(kernel)  # ipykernel ends itself when its parent is gone
    go.touch()
    found = runs.resumable(tmp_path / "runs", folder=shelf)
    assert [each.id for each in found] == [run.id]
    assert [outcome.state for outcome in runs.run_all(found)] == ["passed"]
    assert run.state().name == "finished" and not list(run.folder.glob(".draft-*"))
    assert runs.resumable(tmp_path / "runs", folder=shelf) == []
