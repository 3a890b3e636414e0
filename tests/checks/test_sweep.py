"""Sweeps as a person types them, with kernels: what failed, what changed, what was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import books
import psutil
import pytest

from workflow import results


@pytest.fixture
def checkout(tmp_path):
    return books.checkout(tmp_path / "checkout")


def started(checkout, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "workflow", *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def typed(checkout, *words):
    """Exit status and output of a command."""
    process = started(checkout, *words)
    output = process.communicate(timeout=300)[0]
    return process.returncode, output


def runs(checkout):
    """count → provenance of the finished runs of notebook 01."""
    found = {}
    for path in (checkout / "build" / "runs" / "01_drawn").glob("*/provenance.json"):
        record = json.loads(path.read_text())
        found[record["parameters"]["count"]] = record
    return found


def diary(checkout, word):
    """The counts of the notebooks that began, or ended."""
    path = checkout / "diary.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(int(line.split()[1]) for line in lines if line.startswith(word))


def test_figures_are_made_once_and_again_when_something_changed(checkout):
    status, output = typed(checkout, "figures", "1")
    assert status == 0 and "fallback in 01: toy numbers" in output, output
    record = runs(checkout)[3]
    assert record["seed"] == 0 and record["threads"] == 1 and record["commit"] is None
    assert record["packages"]["papermill"] and record["sources"]["data"][0]["name"] == "toy"
    assert (checkout / "figures" / "01_numbers.json").is_file()
    book = checkout / "notebooks" / "01_drawn.ipynb"
    typed(checkout, "refresh", "1")
    assert typed(checkout, "figures", "1")[0] == 0
    assert diary(checkout, "end") == [3]
    (checkout / "lib" / "metric.py").write_text("changed = True\n")
    typed(checkout, "figures", "1")
    assert diary(checkout, "end") == [3, 3]
    book.write_text(book.read_text().replace("'count'", "'counts'"))
    typed(checkout, "figures", "1")
    assert diary(checkout, "end") == [3, 3, 3]


def test_a_failure_says_where_and_the_other_notebooks_are_made(checkout):
    status, output = typed(checkout, "figures")
    assert status == 1 and "1 of 2" in output
    for words in ("02_fails/default failed in cell", "x = 1", "RuntimeError: no luck", "log.txt"):
        assert words in output
    folder = checkout / "build" / "runs" / "02_fails" / "default"
    assert (folder / "notebook.failed.ipynb").is_file()
    assert "no luck" in (folder / "log.txt").read_text()
    assert not (folder / "provenance.json").exists()
    assert list(runs(checkout)) == [3]


@pytest.mark.parametrize("begun", [1, 2])
def test_a_killed_sweep_goes_on_and_every_run_is_finished_once(checkout, begun):
    """Killed at once when the first run is finished, and when the second one has begun."""
    book = checkout / "notebooks" / "01_drawn.ipynb"
    # the order of the runs is Snakemake's: none may end while the command is being killed
    wait = "import time; time.sleep(4)"
    book.write_text(book.read_text().replace("print('count', count)", wait))
    words = ("sweep", "1", "count=1,2,3", "--cores", "1")
    process = started(checkout, *words)
    until(lambda: runs(checkout) and len(diary(checkout, "begin")) >= begun, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 1 <= len(runs(checkout)) < 3
    finished = runs(checkout)
    # notebook and kernel end with what started them
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [] and runs(checkout) == finished
    status, output = typed(checkout, *words)
    assert status == 0 and "3 of 3" in output, output
    assert diary(checkout, "end") == [1, 2, 3]
    assert sorted(runs(checkout)) == [1, 2, 3]
    assert all(runs(checkout)[count] == record for count, record in finished.items())
    assert not list((checkout / "build" / "runs").rglob(".draft-*"))
    table = checkout / "build" / "tables" / "01_drawn.csv"
    assert table.read_text().count("energy") == 3


def until(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_hangs_on_threads_is_found(checkout):
    code = 'import os; count = int(os.environ["OMP_NUM_THREADS"])'
    books.write(checkout / "notebooks", "03_threads", books.code(code), books.code(books.DRAW))
    (checkout / "notebooks" / "smoke.yml").write_text("01_drawn: {count: 1}\n03_threads: {}\n")
    status, output = typed(checkout, "determinism", "1", "3")
    assert status == 1 and "01_drawn: deterministic" in output, output
    assert "03_threads: differs" in output and "01_numbers.energy differs" in output


def test_an_executed_notebook_is_compared_without_a_kernel(checkout):
    compare = [sys.executable, "-m", "pytest", "notebooks/01_drawn.ipynb", "-p", "no:cacheprovider"]

    def compared():
        done = subprocess.run(compare, cwd=checkout, capture_output=True, text=True)
        return done.returncode, done.stdout

    status, output = compared()
    assert status == 1 and "run make figures" in output
    typed(checkout, "figures", "1")
    assert compared()[0] == 0
    book = checkout / "notebooks" / "01_drawn.ipynb"
    book.write_text(book.read_text().replace("count 3", "count 4"))
    status, output = compared()
    assert status == 1 and "count 4" in output
    assert results.checked_texts(book) == {"code cell 3": "count 4\n"}
