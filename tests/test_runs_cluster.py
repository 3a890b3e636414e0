"""Many runs on a cluster of this machine: a killed worker's runs are made by others, each once; GPUs and threads shared out."""

import gc
import json
import os
import signal
import threading
from pathlib import Path

import books
import psutil
import pytest
from distributed import LocalCluster

from lib import runs
from lib.runs import cluster, identity

# distributed leaves sockets and event loops to the garbage collector, which `collected` calls while that is still allowed
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# each finished run adds one line to a file; kernels that are killed come no further than the sleep
NOTE = """import os, time
time.sleep(scale)
seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")} | {"worker": os.getppid()}
record["parameters"].update(seen)
(folder / "drawn.json").write_text(json.dumps(record))
with open(name, "a") as file:
    file.write(f"{count}\\n")"""


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


@pytest.fixture
def notebook(tmp_path):
    return books.write(tmp_path, "01_drawn", books.code(books.DRAW), books.code(NOTE))


def seen(run):
    return json.loads((run.folder / "figures" / "drawn.json").read_text())["parameters"]


def kill_a_worker(root: Path, stop: threading.Event, killed: list, doors: list):
    """SIGKILL to the worker of a run that goes on, once a quarter of all are finished."""
    while not stop.wait(0.1):
        busy = list(root.glob("*/*/running.json"))
        if len(list(root.glob("*/*/provenance.json"))) >= 25 and busy:
            about = runs.folder.read(busy[0])
            if about.get("pid") not in (None, os.getpid()):
                doors.extend(
                    link.laddr.ip
                    for link in psutil.net_connections("tcp")
                    if link.status == psutil.CONN_LISTEN and link.pid in {os.getpid(), about["pid"]}
                )
                os.kill(about["pid"], signal.SIGKILL)
                killed.append(about["pid"])
                return


@pytest.mark.timeout(600)
def test_a_hundred_runs_two_workers_one_killed_each_finished_once(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = runs.grid(
        notebook,
        {"count": list(range(100))},
        {"name": str(tmp_path / "done.txt"), "scale": 0.05},
        smoke=False,
        root=tmp_path / "runs",
    )
    stop, killed, doors = threading.Event(), [], []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "runs", stop, killed, doors))
    killer.start()
    try:
        outcomes = runs.run_all(made, workers=2, threads=1)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 1 and set(doors) == {"127.0.0.1"}
    assert [outcome.state for outcome in outcomes] == ["passed"] * 100, [
        outcome.error for outcome in outcomes if outcome.error
    ]
    assert [found.state.name for found in runs.found_runs(tmp_path / "runs")] == ["finished"] * 100
    assert not list((tmp_path / "runs").rglob(".draft-*")) and not list(
        (tmp_path / "runs").rglob("running.json")
    )
    lines = sorted(map(int, (tmp_path / "done.txt").read_text().split()))
    # the killed run's kernel lives on for up to a second and may reach its last line, though its result is thrown away
    assert sorted(set(lines)) == list(range(100)) and len(lines) <= 101
    begun = [(run.folder / "log.txt").read_text().count("begins") for run in made]
    finished = [(run.folder / "log.txt").read_text().count("finished in") for run in made]
    assert finished == [1] * 100 and sum(begun) == 101 and max(begun) == 2
    assert {seen(run)["CUDA_VISIBLE_DEVICES"] for run in made} == {"0", "1"}
    assert {seen(run)["OMP_NUM_THREADS"] for run in made} == {"1"}
    assert len({seen(run)["worker"] for run in made}) == 3
    before = [(run.folder / "provenance.json").stat().st_mtime_ns for run in made]
    assert {outcome.state for outcome in runs.run_all(made)} == {"unchanged"}
    assert before == [(run.folder / "provenance.json").stat().st_mtime_ns for run in made]


def test_a_notebook_that_kills_its_worker_is_given_up_and_the_others_are_made(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "DEATHS", 1)
    deadly = books.write(
        tmp_path,
        "02_deadly",
        books.code("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"),
    )
    good = books.write(tmp_path, "01_good", books.code(books.DRAW))
    made = [runs.Run(path, {}, tmp_path / "runs") for path in (deadly, good)]
    outcomes = runs.run_all(made, workers=2)
    assert [outcome.state for outcome in outcomes] == ["failed", "passed"]
    assert (
        "its worker died 1 times" in outcomes[0].error
        and "its worker died" in made[0].state().detail
    )
    assert made[0].state().name == "failed" and made[1].state().name == "finished"


def test_an_existing_cluster_is_used_if_it_has_the_same_sources(notebook, tmp_path, monkeypatch):
    made = [runs.Run(notebook, {"name": str(tmp_path / "done.txt"), "scale": 0}, tmp_path / "runs")]
    options = {
        "processes": False,
        "dashboard_address": "127.0.0.1:0",
        "protocol": "tcp",
        "host": "127.0.0.1",
    }
    with LocalCluster(1, threads_per_worker=1, **options) as there:
        with pytest.raises(ValueError, match="leave --threads out"):
            runs.run_all(made, scheduler=there.scheduler_address, threads=2)
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "about", lambda probe: {"lib": "other", "sees": True})
            with pytest.raises(ValueError, match="has other sources of lib"):
                runs.run_all(made, scheduler=there.scheduler_address)
            patch.setattr(
                cluster, "about", lambda probe: {"lib": identity.lib_digest(), "sees": False}
            )
            with pytest.raises(ValueError, match="shared file system"):
                runs.run_all(made, scheduler=there.scheduler_address)
        assert made[0].state().name == "planned"
        assert [
            outcome.state for outcome in runs.run_all(made, scheduler=there.scheduler_address)
        ] == ["passed"]
    with (
        LocalCluster(1, threads_per_worker=2, **options) as there,
        pytest.raises(ValueError, match="--nthreads 1"),
    ):
        runs.run_all(
            [runs.Run(notebook, {"count": 9}, tmp_path / "runs")], scheduler=there.scheduler_address
        )


def test_a_worker_that_would_make_another_run_refuses(notebook, tmp_path):
    run = runs.Run(notebook, {}, tmp_path / "runs")
    asked = json.loads(cluster._asked(run))
    asked["parts"]["lib"], asked["id"] = "other", "0" * 12
    with pytest.raises(ValueError, match="lib differ from where 000000000000 was planned"):
        cluster.task(json.dumps(asked))
