"""Stable Diffusion 2.1-base at its true size, random weights: a geodesic against plain sampling.

    python -m benchmarks.run --only latent
        64 pixels, what one CPU thread does in minutes
    python -m benchmarks.latent --size 512 --device cuda --dtype float16
        the true size, everything run to its end

A geodesic of 17 frames and a sampling of 17 images call the same `PipelineScore`, each in a
fresh process. Random weights cost what trained ones cost, but what a solver needs to converge on
them says nothing of a trained model. So the geodesic runs for a set number of steps, and its count
is exact for that number: points + (points − 2) a step.
"""

import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from lib import checks, flow, interpolate, latents
from lib.scores import PipelineScore
from lib.solvers import ConvergenceWarning

from . import Result, reporting, sphere, table

ROOT = Path(__file__).resolve().parent.parent
FRAMES = 17
# DDIM steps of a sampling
STEPS = 50
GUIDANCE = 7.5
# points a call
CALLS = (1, 4, 8, 17)
TIMES = ("seconds", "CPU seconds")
DTYPES = ("float32", "float16", "bfloat16")
COLUMNS = (
    "side",
    "evaluations",
    "measured",
    *TIMES,
    "CPU s / evaluation",
    "before, GB",
    "peak, GB",
    "weights, GB",
    "converged",
)


@dataclass(frozen=True)
class Setting:
    """What is measured, and on what.

    Args:
        size: pixels a side.
        dtype: of the networks, a name of DTYPES.
        device: of torch.
        micro_batch: points a call of the network.
        iterations: most Gauss–Newton steps at a noise level, each one batch of the inner points.
        measured: DDIM steps that are taken of STEPS. All cost the same; the rest is extrapolated.
        frames: of the geodesic, and images of the sampling.
        sigma: noise level of the geodesic.
        method: of `interpolate`.
        version: of Stable Diffusion.
        narrow: divides all widths (1: true size).
        threads: of torch.
    """

    size: int = 64
    dtype: str = "float32"
    device: str = "cpu"
    micro_batch: int = 8
    iterations: int = 8
    measured: int = 3
    frames: int = FRAMES
    sigma: float = 2.0
    method: str = "both"
    version: str = "2.1-base"
    narrow: int = 1
    threads: int = 1

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"


def reset_peak(setting: Setting) -> None:
    """Let the peak start anew from what is in use now; where the system cannot, it goes on."""
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
        return
    # Linux alone: Documentation/filesystems/proc.rst, clear_refs
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(setting: Setting) -> int:
    """Bytes: torch.cuda.max_memory_allocated on a GPU, else the peak resident memory."""
    if setting.cuda:
        return torch.cuda.max_memory_allocated(setting.device)
    return sphere.peak_memory()


def synchronise(setting: Setting) -> None:
    if setting.cuda:
        torch.cuda.synchronize()


def measured(setting: Setting, run: Callable[[], object]) -> dict[str, float]:
    """Seconds of one run by the clock and of this process's threads, memory before and at most."""
    synchronise(setting)
    reset_peak(setting)
    before = peak_memory(setting)
    began = time.perf_counter()
    busy = time.process_time()
    run()
    synchronise(setting)
    return {
        "seconds": time.perf_counter() - began,
        "CPU seconds": time.process_time() - busy,
        "before, GB": before / 1e9,
        "peak, GB": peak_memory(setting) / 1e9,
    }


def networks(score: PipelineScore) -> tuple[torch.nn.Module, ...]:
    return tuple(x for x in score.pipe.components.values() if isinstance(x, torch.nn.Module))


def load(setting: Setting) -> PipelineScore:
    """The score of the pipeline with random weights, warmed up by one call."""
    from .stable_diffusion import pipeline

    torch.set_num_threads(setting.threads)
    pipe = pipeline(setting.version, setting.narrow).to(checks.device(setting.device))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.to(getattr(torch, setting.dtype))
    score = PipelineScore(
        pipe,
        "a photo of a cat",
        size=(setting.size, setting.size),
        micro_batch=setting.micro_batch,
        sigma=setting.sigma,
    )
    # a GPU chooses its kernels by shape
    score(noise(score, setting.micro_batch if setting.cuda else 1))
    return score


def noise(score: PipelineScore, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *score.event_shape, generator=generator).to(score.family.device)


def weights(score: PipelineScore) -> float:
    """Gigabytes of all parameters."""
    parameters = [p for network in networks(score) for p in network.parameters()]
    return sum(p.numel() * p.element_size() for p in parameters) / 1e9


def geodesic_side(score: PipelineScore, setting: Setting) -> list[dict]:
    """Our method between two latents; decoding the frames is a side of its own."""
    start, end = noise(score, 2).split(1)
    results = []

    def run() -> None:
        frames = interpolate(
            score,
            start,
            end,
            method=setting.method,
            frames=setting.frames,
            points=setting.frames,
            max_iter=setting.iterations,
        )
        results.append(frames)

    with warnings.catch_warnings():
        # a column says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        row = measured(setting, run)
    result = results[0]
    row["side"] = "geodesic"
    row["evaluations"] = result.evaluations
    row["measured"] = result.evaluations
    row["converged"] = str(bool(result.path.converged.all()))
    return [row]


def sampling_side(score: PipelineScore, setting: Setting, guidance: float = 1.0) -> list[dict]:
    """DDIM through the first `measured` of its STEPS noise levels."""
    score = score.prompted(score.prompt, guidance=guidance)
    highest = score.noise_range[1]
    levels = [*flow.noise_levels(score, highest, STEPS), 0.0][: setting.measured + 1]
    x = highest * noise(score, setting.frames)
    before = score.counter.evaluations
    row = measured(setting, lambda: flow.follow(score, x, levels))
    evaluations = score.counter.evaluations - before
    share = setting.measured / STEPS
    for name in TIMES:
        row[name] = row[name] / share
    row["side"] = "sampling" if guidance == 1 else "guided sampling"
    row["evaluations"] = round(evaluations / share)
    row["measured"] = evaluations
    return [row]


def guided_side(score: PipelineScore, setting: Setting) -> list[dict]:
    """As `sampling_side`, with classifier-free guidance: two network inputs a point."""
    return sampling_side(score, setting, GUIDANCE)


def decoding_side(score: PipelineScore, setting: Setting) -> list[dict]:
    x = noise(score, setting.frames if setting.cuda else 1)
    row = measured(setting, lambda: latents.decode(score, x))
    row["side"] = f"decoding {len(x)}"
    return [row]


def calls_side(score: PipelineScore, setting: Setting) -> list[dict]:
    """One call of the network for each size of micro-batch."""
    rows = []
    for n in CALLS:
        score.micro_batch = n
        x = noise(score, n)
        if setting.cuda:
            # another shape takes other kernels, which are chosen at its first call
            score(x)
        row = measured(setting, partial(score, x))
        row["side"] = f"one call of {n}"
        row["evaluations"] = n
        row["measured"] = n
        rows.append(row)
    return rows


SIDES: dict[str, Callable[[PipelineScore, Setting], list[dict]]] = {
    "geodesic": geodesic_side,
    "sampling": sampling_side,
    "guided": guided_side,
    "decoding": decoding_side,
    "calls": calls_side,
}


def side(name: str, setting: Setting, score: PipelineScore | None = None) -> list[dict]:
    """The rows of one side, measured in this process, on `score` or on a new one."""
    if score is None:
        score = load(setting)
    gigabytes = weights(score)
    return [row | {"weights, GB": gigabytes} for row in SIDES[name](score, setting)]


def in_fresh_process(name: str, setting: Setting, module: str = "latent") -> list[dict]:
    """The same in a process of its own.

    Args:
        name: of the side.
        setting: what is measured.
        module: of this package, whose `side` is asked.

    Raises:
        RuntimeError: it failed, or was killed for want of memory.
    """
    program = (
        "import json\n"
        "from benchmarks.latent import Setting\n"
        f"from benchmarks.{module} import side\n"
        f"print(json.dumps(side({name!r}, Setting(**{asdict(setting)!r}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(setting.threads)},
    )
    if done.returncode == -9:
        raise RuntimeError("ended with code -9: killed: too little memory?")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"ended with code {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    setting: Setting,
    sides: list[str] | None = None,
    *,
    fresh: bool = True,
    each: Callable[[Result], None] | None = None,
) -> Result:
    """Measure the sides; one that fails is named in the notes, and the others go on.

    Args:
        setting: what is measured.
        sides: names of SIDES, all of them if None or empty.
        fresh: each side in a process of its own; else all in this one.
        each: called with the result so far after every side.
    """
    names = [checks.choice("side", name, SIDES) for name in sides or SIDES]
    size = "the true size" if setting.narrow == 1 else f"widths divided by {setting.narrow}"
    title = (
        f"Stable Diffusion {setting.version}, {size}, random weights, "
        f"{setting.size}×{setting.size} pixels, {setting.dtype}, "
        f"micro-batches of {setting.micro_batch}"
    )
    run = in_fresh_process if fresh else partial(side, score=load(setting))
    notes = explanations(setting)
    rows = []
    result = Result("latent", title, table(rows), [], notes)
    for name in names:
        try:
            rows += [in_order(row) for row in run(name, setting)]
        except (RuntimeError, MemoryError) as error:
            notes.append(f"left out: {name}: {error}")
        result = Result("latent", title, table(rows), [], notes)
        if each is not None:
            each(result)
    return result


def in_order(row: dict) -> dict:
    """All columns, with NaN or nothing where a side has no such number."""
    row = dict(row)
    if row.get("evaluations"):
        row["CPU s / evaluation"] = row["CPU seconds"] / row["evaluations"]
    row.setdefault("converged", "")
    return {column: row.get(column, math.nan) for column in COLUMNS}


def explanations(setting: Setting) -> list[str]:
    """What the numbers are, and what they are not."""
    if setting.measured < STEPS:
        steps = (
            f"extrapolated from the first {setting.measured} of {STEPS} DDIM steps, which all "
            "cost the same"
        )
    else:
        steps = f"all {STEPS} DDIM steps were taken"
    if setting.cuda:
        name = torch.cuda.get_device_name(setting.device)
        where = f"on {name}; peak: torch.cuda.max_memory_allocated"
    else:
        where = (
            f"on {setting.threads} threads of a CPU ({platform.machine()}, {os.cpu_count()} in "
            "all); CPU seconds leave out waiting for other programs; peak: resident memory of the "
            "process, libraries included"
        )
    notes = [
        f"sampling, guided sampling: evaluations and seconds are {steps}",
        f"geodesic: at most {setting.iterations} Gauss–Newton steps from the straight line, one "
        "prompt for all points; a changing prompt doubles the evaluations a step; how many steps "
        "a trained model needs is not measured here",
        where,
    ]
    if setting.size < 512:
        notes.append(
            f"{setting.size} pixels, not 512: an evaluation of 512 pixels costs far more time; "
            "--size 512 measures it"
        )
    return notes


def full_size(quick: bool = False) -> Result:
    """What a CPU does in minutes; quick: a narrow network, in this process."""
    setting = Setting(threads=torch.get_num_threads())
    if not quick:
        return compare(setting)
    small = replace(setting, narrow=8, iterations=1, measured=1, micro_batch=FRAMES)
    return compare(small, ["geodesic", "sampling", "guided"], fresh=False)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    size: Annotated[int, typer.Option(help="pixels a side, a multiple of 64")] = 64,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float32",
    device: str = "cpu",
    micro_batch: Annotated[int, typer.Option(help="points a call of the network")] = 8,
    iterations: Annotated[
        int | None, typer.Option(help="Gauss–Newton steps; 8 on a CPU, 40 on a GPU")
    ] = None,
    measured: Annotated[
        int | None, typer.Option(help=f"DDIM steps taken of {STEPS}; 3 on a CPU, all on a GPU")
    ] = None,
    sides: Annotated[
        str, typer.Option(help=f"of {', '.join(SIDES)}, separated by commas; all if empty")
    ] = "",
    out: Annotated[Path, typer.Option(help="folder for the numbers")] = Path("build/benchmarks"),
    threads: Annotated[int, typer.Option(help="threads of torch", min=1)] = 1,
) -> None:
    """Measure both sides at any size, precision and device."""
    if size % 64 or size < 64:
        raise ValueError(
            f"size must be a multiple of 64, three halvings of the latents, got {size}"
        )
    setting = Setting(
        size=size,
        dtype=checks.choice("dtype", dtype, DTYPES),
        device=str(checks.device(device)),
        micro_batch=micro_batch,
        threads=threads,
    )
    if iterations is None:
        iterations = 40 if setting.cuda else 8
    if measured is None:
        measured = STEPS if setting.cuda else 3
    setting = replace(setting, iterations=iterations, measured=min(measured, STEPS))
    name = f"latent_{size}_{dtype}_{torch.device(device).type}"
    names = [part.strip() for part in sides.split(",") if part.strip()]

    def keep(result: Result) -> None:
        reporting.keep(replace(result, name=name), out, asdict(setting))

    result = compare(setting, names, each=keep)
    reporting.show(reporting.console(width=180), result)


if __name__ == "__main__":
    app()
