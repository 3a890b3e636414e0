"""Many runs at once, by dask.distributed: one run a process, threads that do not fight, a dead worker's runs made by others.

An existing cluster is named by its scheduler, --scheduler tcp://HOST:8786. All its workers need this checkout with its
environment, the folder of the runs on a file system they share, and one thread each. A kernel's own threads are the
OMP_NUM_THREADS of its worker, 1 where that is not set. Made after the tools' documentation, not tried on such machines:

Slurm       pip install dask-jobqueue; then, in Python and kept open while the runs go on:
            cluster = dask_jobqueue.SLURMCluster(cores=1, processes=1, memory="8GB", job_cpu=2, walltime="04:00:00",
            job_script_prologue=["export OMP_NUM_THREADS=2"]); cluster.scale(jobs=20); print(cluster.scheduler_address)
Kubernetes  helm install --repo https://helm.dask.org --generate-name dask-kubernetes-operator; pip install dask-kubernetes
            cluster = dask_kubernetes.operator.KubeCluster(image=YOURS, worker_command="dask worker --nthreads 1"),
            with the image made from this checkout and a shared volume; cluster.scale(20); print(cluster.scheduler_address)
SSH         .venv/bin/pip install paramiko; then the scheduler on HOST1 and workers on all hosts:
            .venv/bin/dask ssh --nthreads 1 --nworkers 4 --remote-python $PWD/.venv/bin/python HOST1 HOST2 HOST3
            and in another terminal: .venv/bin/python -m lib.runs sweep FILE.yml --scheduler tcp://HOST1:8786
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
import torch
import yaml
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster, as_completed
from distributed.scheduler import KilledWorker
from tqdm import tqdm

from . import identity
from .execution import THREADS, Outcome, explain, finished, perform, record_failure
from .folder import Run, held, read, tidy

DEATHS = 3  # workers that may die of one run before it is given up
CONFIG = {
    "distributed.scheduler.worker-saturation": 1.0,  # a worker holds one run, not a second in store that dies with it
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.worker.http.routes": [],
    "distributed.scheduler.http.routes": [],
    "distributed.nanny.pre-spawn-environ": {},
}  # a kernel shall find this environment, not dask's


@dataclass(frozen=True)
class Layout:
    """How many runs at once, threads of each kernel (None: as the environment says), and the GPUs, shared out in turn."""

    workers: int
    threads: int | None
    gpus: tuple[str, ...] = ()

    def environment(self, worker: int) -> dict[str, str]:
        """What is set for the kernels of a worker."""
        few = dict.fromkeys(THREADS, str(self.threads)) if self.threads else {}
        return few | (
            {"CUDA_VISIBLE_DEVICES": self.gpus[worker % len(self.gpus)]} if self.gpus else {}
        )


def layout(runs: Sequence[Run], workers: int | None = None, threads: int | None = None) -> Layout:
    """Workers and threads for this machine: cores // workers threads each, at least one, and no more than OMP_NUM_THREADS.

    With GPUs each worker sees one of them; runs that ask for one (device=cuda) then get a worker a GPU. ValueError below 1.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    gpus = visible_gpus()
    wanted = (
        len(gpus)
        if gpus and any(str(run.effective.get("device", "")).startswith("cuda") for run in runs)
        else None
    )
    count = min(workers or wanted or max(1, CPU_COUNT // (threads or 1)), max(1, len(runs)))
    most = int(os.environ.get("OMP_NUM_THREADS") or CPU_COUNT)
    return Layout(count, threads or max(1, min(most, CPU_COUNT // count)), gpus)


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs that CUDA shows to this process, as CUDA_VISIBLE_DEVICES wants them."""
    count = torch.cuda.device_count()
    named = [
        name.strip()
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if name.strip()
    ]
    return tuple(named[:count] if named else map(str, range(count)))


def run_all(
    runs: Iterable[Run],
    *,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    then: Callable[[Outcome], Outcome] = lambda outcome: outcome,
) -> list[Outcome]:
    """Make all runs, several at once; the outcomes in their order. Finished runs are not made again.

    workers: runs at once, here; threads: of each; scheduler: address of an existing cluster instead. then: is called here
    with every outcome as soon as it is there, and may replace it. One run, or one worker, needs no cluster and is made in this
    process. A script that calls this wants `if __name__ == "__main__":`, since workers import it. An interrupt leaves finished
    runs finished and the others to `resume`.
    ValueError: workers of the scheduler that have other sources or do not see the folder. OSError: no scheduler there.
    """
    runs = list(runs)
    for run in runs:
        run.plan()
    done = {run.folder: then(finished(run)) for run in runs if run.state().name == "finished"}
    todo = list({run.folder: run for run in runs if run.folder not in done}.values())
    if todo:
        make = (
            _elsewhere(todo, scheduler, threads)
            if scheduler
            else _here(todo, layout(todo, workers, threads))
        )
        for run, outcome in tqdm(
            make, total=len(todo), desc="runs", unit="run", disable=None if len(todo) > 1 else True
        ):
            done[run.folder] = then(outcome)
            if not sys.stderr.isatty():  # a log shows no bar
                print(
                    f"{run.name}: {outcome.state} ({outcome.seconds:.1f} s)",
                    file=sys.stderr,
                    flush=True,
                )
    return [done[run.folder] for run in runs]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for what it starts meanwhile, then put everything back as it was."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def about(probe: str) -> dict[str, Any]:
    """What a worker says of itself: its sources of lib, and whether it sees the file `probe`."""
    return {"lib": identity.lib_digest(), "sees": Path(probe).is_file()}


def task(text: str) -> str:
    """One run, on a worker: JSON in, JSON out."""
    asked = json.loads(text)
    run = Run(Path(asked["notebook"]), asked["given"], Path(asked["root"]), asked["smoke"])
    if run.id != asked["id"]:
        differ = [name for name, digest in run.parts.items() if asked["parts"].get(name) != digest]
        raise ValueError(
            f"this worker would make another run: {', '.join(differ)} differ from where {asked['id']} was planned"
        )
    return json.dumps(asdict(perform(run)), default=str)


def _here(runs: list[Run], plan: Layout) -> Iterator[tuple[Run, Outcome]]:
    if plan.workers == 1:
        with environment(plan.environment(0)):
            yield from ((run, perform(run, bar=len(runs) == 1)) for run in longest_first(runs))
        return
    with tempfile.TemporaryDirectory(prefix="runs-") as scratch, environment({}), _configured():
        options = {
            "host": "127.0.0.1",
            "nthreads": 1,
            "memory_limit": 0,
            "local_directory": scratch,
            "dashboard": False,
            "silence_logs": logging.ERROR,
        }
        nannies = {
            index: {"cls": Nanny, "options": {**options, "env": plan.environment(index)}}
            for index in range(plan.workers)
        }
        scheduler = {
            "cls": Scheduler,
            "options": {
                "host": "127.0.0.1",
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
            },
        }
        with (
            SpecCluster(nannies, scheduler, silence_logs=logging.ERROR) as cluster,
            Client(cluster) as client,
        ):
            try:
                yield from _submitted(client, runs)
            except BaseException:
                _end(cluster)
                for run in runs:
                    tidy(run.folder)
                raise


@contextmanager
def _configured() -> Iterator[None]:
    with dask.config.set(CONFIG | {"distributed.scheduler.allowed-failures": DEATHS - 1}):
        yield


def _elsewhere(
    runs: list[Run], scheduler: str, threads: int | None
) -> Iterator[tuple[Run, Outcome]]:
    if threads:
        raise ValueError(
            "leave --threads out: workers of an existing cluster have theirs, by OMP_NUM_THREADS at their start"
        )
    with Client(scheduler) as client:
        _check_workers(client, scheduler, runs[0].root)
        yield from _submitted(client, runs)


def _check_workers(client: Client, scheduler: str, root: Path) -> None:
    """ValueError unless every worker runs one thing at a time, has the same sources of lib and sees the folder of the runs."""
    if not client.nthreads():
        raise ValueError(f"{scheduler} has no workers; start some first")
    if several := [name for name, count in client.nthreads().items() if count != 1]:
        raise ValueError(
            f"{several[0]} has several threads and would mix runs in one process; start workers with --nthreads 1"
        )
    with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
        try:
            said = client.run(about, str(Path(probe.name).resolve()))
        except ImportError as error:
            raise ValueError(
                f"a worker of {scheduler} cannot import lib.runs ({error}); start workers from this checkout's "
                "environment"
            ) from error
    if others := [name for name, told in said.items() if told["lib"] != identity.lib_digest()]:
        raise ValueError(
            f"{others[0]} has other sources of lib than this process; update its checkout and start it again"
        )
    if blind := [name for name, told in said.items() if not told["sees"]]:
        raise ValueError(
            f"{blind[0]} does not see {root}; the folder of the runs has to lie on a shared file system"
        )


def _submitted(client: Client, runs: list[Run]) -> Iterator[tuple[Run, Outcome]]:
    """Runs and outcomes as they come, the longest begun first."""
    futures = {
        client.submit(
            task, _asked(run), key=f"{run.notebook.stem}-{run.id}", pure=False, priority=-rank
        ): run
        for rank, run in enumerate(longest_first(runs))
    }
    for future in as_completed(list(futures)):
        run, error = futures[future], future.exception()
        yield run, _given_up(run, error) if error else _told(future.result())


def longest_first(runs: Sequence[Run]) -> list[Run]:
    """Runs by how long their notebook took before (else by durations.yml beside it), the unknown ones at the front."""
    known = (
        {(name, False): float(seconds) for name, seconds in _usual(runs[0].notebook.parent).items()}
        if runs
        else {}
    )
    measured: dict[tuple[str, bool], float] = {}
    for file in {
        path for run in runs for path in (run.root / run.notebook.stem).glob("*/provenance.json")
    }:
        key = (file.parent.parent.name, bool(read(file.parent / "request.json").get("smoke")))
        measured[key] = max(measured.get(key, 0.0), read(file).get("seconds", 0.0))
    return sorted(
        runs, key=lambda run: -(known | measured).get((run.notebook.stem, run.smoke), float("inf"))
    )


def _usual(folder: Path) -> dict[str, float]:
    file = folder / "durations.yml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def _asked(run: Run) -> str:
    return json.dumps(
        {
            "notebook": str(run.notebook.resolve()),
            "given": dict(run.given),
            "root": str(run.root.resolve()),
            "smoke": run.smoke,
            "id": run.id,
            "parts": run.parts,
        }
    )


def _told(text: str) -> Outcome:
    told = json.loads(text)
    return Outcome(
        **{**told, "files": [Path(name) for name in told["files"]], "folder": Path(told["folder"])}
    )


def _given_up(run: Run, error: BaseException) -> Outcome:
    """A run that no worker could make: recorded as failed, with the reason."""
    why = f"its worker died {DEATHS} times (too little memory, or the notebook ends its process)"
    text = why if isinstance(error, KilledWorker) else explain(error)
    with held(run.folder):
        record_failure(run, text, "", 0.0)
    return Outcome(run.notebook.stem, "failed", 0.0, error=text, folder=run.folder)


def _end(cluster: SpecCluster) -> None:
    """End the workers at once, with their kernels, which would otherwise go on for some seconds."""
    for nanny in list(cluster.workers.values()):
        nanny.close_gracefully()  # so that none is started in place of those that end now
    heads = [psutil.Process(nanny.pid) for nanny in cluster.workers.values() if nanny.pid]
    family = heads + [child for head in heads for child in head.children(recursive=True)]
    for process in family:  # workers first: none shall take its kernel's end for a failure
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)
