"""Stable Diffusion 2.1-base at its true size, random weights: a geodesic of 17 frames against plain sampling of 17 images.

    python -m benchmarks.run --only latent                                  64 pixels, what one CPU thread does in minutes
    python -m benchmarks.latent --size 512 --device cuda --dtype float16    the true size, everything run to its end

Both sides ask the same `StableDiffusionScore`, each in a fresh process. Random weights cost what trained ones cost, but what
a solver needs to converge on them says nothing of a trained model; so the geodesic runs for a set number of steps, and its
count is exact for that number: points + (points − 2) a step.
"""

from __future__ import annotations

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

from experiments.figures import ROOT
from lib import checks, flow, interpolate, latents
from lib.scores import StableDiffusionScore
from lib.solvers import ConvergenceWarning

from . import Result, sphere, table

FRAMES, STEPS, GUIDANCE, CALLS = 17, 50, 7.5, (1, 4, 8, 17)
TIMES = ("seconds", "CPU seconds")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Setting:
    """size: pixels a side. narrow: divides all widths (1: true size). iterations: Gauss–Newton steps at most, each one batch of
    15 points. measured: DDIM steps truly taken of STEPS, which all cost the same; the rest is extrapolated."""

    size: int = 64
    dtype: str = "float32"
    device: str = "cpu"
    micro_batch: int = 8
    iterations: int = 8
    measured: int = 3
    sigma: float = 2.0
    method: str = "both"
    version: str = "2.1-base"
    narrow: int = 1
    threads: int = 1

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"


def reset_peak(setting: Setting) -> None:
    """Let the peak start anew from what is in use now; where the system cannot, it goes on from the largest so far."""
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    else:
        with suppress(OSError):  # Linux alone: Documentation/filesystems/proc.rst, clear_refs
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(setting: Setting) -> int:
    """Bytes: torch.cuda.max_memory_allocated on a GPU, else the largest resident memory of this process."""
    return torch.cuda.max_memory_allocated(setting.device) if setting.cuda else sphere.peak_memory()


def measured(setting: Setting, run: Callable[[], object]) -> dict[str, float]:
    """Seconds of one run, by the clock and of this process's threads together, and memory before it and at most during it."""
    wait = torch.cuda.synchronize if setting.cuda else lambda: None
    wait()
    reset_peak(setting)
    before, began, busy = peak_memory(setting), time.perf_counter(), time.process_time()
    run()
    wait()
    return {
        "seconds": time.perf_counter() - began,
        "CPU seconds": time.process_time() - busy,
        "before, GB": before / 1e9,
        "peak, GB": peak_memory(setting) / 1e9,
    }


def load(setting: Setting) -> StableDiffusionScore:
    """The score of the pipeline with random weights, warmed up by one call."""
    from .stable_diffusion import pipeline

    torch.set_num_threads(setting.threads)
    pipe = pipeline(setting.version, setting.narrow).to(checks.device(setting.device))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.to(getattr(torch, setting.dtype))
    score = StableDiffusionScore(
        pipe,
        "a photo of a cat",
        size=(setting.size,) * 2,
        micro_batch=setting.micro_batch,
        sigma=setting.sigma,
    )
    score(
        noise(score, setting.micro_batch if setting.cuda else 1)
    )  # a GPU chooses its kernels by shape
    return score


def noise(score: StableDiffusionScore, n: int) -> Tensor:
    return torch.randn(n, *score.event_shape, generator=torch.Generator().manual_seed(0)).to(
        score.pipe.unet.device
    )


def weights(score: StableDiffusionScore) -> float:
    """Gigabytes of all parameters."""
    parts = (score.pipe.unet, score.pipe.vae, score.pipe.text_encoder)
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters()) / 1e9


def geodesic_side(score: StableDiffusionScore, setting: Setting) -> list[dict]:
    """Our method between two latents; decoding the frames is a side of its own, the same for both."""
    (start, end), made = noise(score, 2).split(1), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a column says so
        row = measured(
            setting,
            lambda: made.append(
                interpolate(
                    score,
                    start,
                    end,
                    method=setting.method,
                    frames=FRAMES,
                    points=FRAMES,
                    max_iter=setting.iterations,
                )
            ),
        )
    return [
        row
        | {
            "side": "geodesic",
            "evaluations": made[0].evaluations,
            "measured": made[0].evaluations,
            "converged": str(bool(made[0].path.converged.all())),
        }
    ]


def sampling_side(
    score: StableDiffusionScore, setting: Setting, guidance: float = 1.0
) -> list[dict]:
    """DDIM through the first `measured` of its STEPS noise levels."""
    score = score.prompted("a photo of a cat", guidance=guidance)
    levels = [*flow.noise_levels(score, top := score.noise_range[1], STEPS), 0.0][
        : setting.measured + 1
    ]
    x, before = top * noise(score, FRAMES), score.counter.evaluations
    row, part = measured(setting, lambda: flow.follow(score, x, levels)), setting.measured / STEPS
    spent = score.counter.evaluations - before
    return [
        row
        | {
            "side": "sampling" if guidance == 1 else "guided sampling",
            "evaluations": round(spent / part),
            "measured": spent,
            **{name: row[name] / part for name in TIMES},
        }
    ]


def decoding_side(score: StableDiffusionScore, setting: Setting) -> list[dict]:
    x = noise(score, FRAMES if setting.cuda else 1)
    return [measured(setting, lambda: latents.decode(score, x)) | {"side": f"decoding {len(x)}"}]


def calls_side(score: StableDiffusionScore, setting: Setting) -> list[dict]:
    """One call of the network for each size of micro-batch."""

    def row(n: int) -> dict:
        score.micro_batch = n
        score(noise(score, n)) if setting.cuda else None  # other shapes take other kernels
        return measured(setting, lambda: score(noise(score, n))) | {
            "side": f"one call of {n}",
            "evaluations": n,
            "measured": n,
        }

    return [row(n) for n in CALLS]


SIDES: dict[str, Callable[[StableDiffusionScore, Setting], list[dict]]] = {
    "geodesic": geodesic_side,
    "sampling": sampling_side,
    "guided": lambda score, setting: sampling_side(score, setting, GUIDANCE),
    "decoding": decoding_side,
    "calls": calls_side,
}


def side(name: str, setting: Setting, score: StableDiffusionScore | None = None) -> list[dict]:
    """The rows of one side, measured in this process, on a score that is there already or on a new one."""
    score = score or load(setting)
    return [row | {"weights, GB": weights(score)} for row in SIDES[name](score, setting)]


def in_fresh_process(name: str, setting: Setting) -> list[dict]:
    """The same in a process of its own. RuntimeError: it failed, or was killed for want of memory."""
    program = (
        f"import json; from benchmarks.latent import Setting, side; "
        f"print(json.dumps(side({name!r}, Setting(**{asdict(setting)!r}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(setting.threads)},
    )
    if done.returncode:
        last = (
            "killed: too little memory?"
            if done.returncode == -9
            else (done.stderr.strip().splitlines() or ["no message"])[-1]
        )
        raise RuntimeError(f"ended with code {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


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


def compare(
    setting: Setting,
    sides: list[str] | None = None,
    *,
    fresh: bool = True,
    each: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Each side in a fresh process, else all in this one; one that fails is named. each: gets the result after every side."""
    rows, notes, names = (
        [],
        said(setting),
        [checks.choice("side", name, SIDES) for name in sides or SIDES],
    )
    run = in_fresh_process if fresh else partial(side, score=load(setting))
    size = "the true size" if setting.narrow == 1 else f"widths divided by {setting.narrow}"
    title = (
        f"Stable Diffusion {setting.version}, {size}, random weights, {setting.size}×{setting.size} pixels, "
        f"{setting.dtype}, micro-batches of {setting.micro_batch}"
    )
    for name in names:
        try:
            rows += [in_order(row) for row in run(name, setting)]
        except (RuntimeError, MemoryError) as error:
            notes.append(f"left out: {name}: {error}")
        each(result := Result("latent", title, table(rows), [], notes))
    return result


def in_order(row: dict) -> dict:
    """All columns, with NaN or nothing where a side has no such number."""
    if row.get("evaluations"):
        row = row | {"CPU s / evaluation": row["CPU seconds"] / row["evaluations"]}
    return {key: row.get(key, "" if key == "converged" else math.nan) for key in COLUMNS}


def said(setting: Setting) -> list[str]:
    """What the numbers are, and what they are not."""
    steps = (
        f"extrapolated from the first {setting.measured} of {STEPS} DDIM steps, which all cost the same"
        if setting.measured < STEPS
        else f"all {STEPS} DDIM steps were taken"
    )
    where = (
        f"on {torch.cuda.get_device_name(setting.device)}; peak: torch.cuda.max_memory_allocated"
        if setting.cuda
        else (
            f"on {setting.threads} threads of a CPU ({platform.machine()}, {os.cpu_count()} in all); CPU seconds leave out waiting "
            "for other programs; peak: resident memory of the process, libraries included"
        )
    )
    small = f"{setting.size} pixels, not 512: an evaluation of 512 pixels costs far more time; --size 512 measures it"
    return [
        f"sampling, guided sampling: evaluations and seconds are {steps}",
        f"geodesic: at most {setting.iterations} Gauss–Newton steps from the straight line, one prompt for all points; a "
        "changing prompt doubles the evaluations a step; how many steps a trained model needs is not measured here",
        where,
        *([small] if setting.size < 512 else []),
    ]


def full_size(quick: bool = False) -> Result:
    """What a CPU does in minutes; quick: a narrow network, in this process."""
    setting = Setting(threads=torch.get_num_threads())
    small = replace(setting, narrow=8, iterations=1, measured=1, micro_batch=FRAMES)
    return (
        compare(small, ["geodesic", "sampling", "guided"], fresh=False)
        if quick
        else compare(setting)
    )


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
    from . import run

    if size % 64 or size < 64:
        raise ValueError(
            f"size must be a multiple of 64, three halvings of the latents, got {size}"
        )
    setting = Setting(
        size,
        checks.choice("dtype", dtype, DTYPES),
        str(checks.device(device)),
        micro_batch,
        threads=threads,
    )
    setting = replace(
        setting,
        iterations=iterations or (40 if setting.cuda else 8),
        measured=min(measured or (STEPS if setting.cuda else 3), STEPS),
    )
    name, wanted = (
        f"latent_{size}_{dtype}_{torch.device(device).type}",
        [s.strip() for s in sides.split(",") if s.strip()],
    )
    result = compare(
        setting, wanted, each=lambda r: run.keep(replace(r, name=name), out, **asdict(setting))
    )
    run.show(run.Console(width=None if run.Console().is_terminal else 180), result)


if __name__ == "__main__":
    app()
