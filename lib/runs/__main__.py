"""Run notebooks from the command line: checked parameters, unchanged work skipped, nothing half-written.

    python -m lib.runs list                       notebooks, their parameters and defaults
    python -m lib.runs run 01 -p points=65        one notebook with other parameters, into build/runs
    python -m lib.runs figures                    every notebook, figures into figures/ (what `make figures` calls)
    python -m lib.runs refresh                    re-execute the committed notebooks in place (`make notebooks`)
    python -m lib.runs train rotated-mnist        train a bundled model again (`make train`), or hands, or hand-classifier
    python -m lib.runs pairs FOLDER --out DIR     frames and one table for a folder of image pairs, several methods
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from lib.figures import ROOT, plain
from lib.runs import NOTEBOOKS, Outcome, execute, find, notebooks, parameters, parse, refresh, smoke_parameters

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help=__doc__.splitlines()[0])
Folder = Annotated[Path, typer.Option("--notebooks", help="where the notebooks lie", show_default=False)]
Only = Annotated[list[str] | None, typer.Option("--only", help="number or name of a notebook; may be repeated")]


@app.command("list")
def list_command(folder: Folder = NOTEBOOKS) -> None:
    """List the notebooks with their parameters, defaults and what they mean."""
    for notebook in notebooks(folder):
        print(notebook.stem)
        for name, found in parameters(notebook).items():
            print(f"    {name} = {found['default']!r}".ljust(44), f"# {found['help']}")


@app.command("run")
def run_command(name: str, assignments: Annotated[list[str] | None, typer.Option("-p", help="name=value")] = None,
                into: Annotated[Path, typer.Option(help="a folder per set of parameters is made here")]
                = ROOT / "build" / "runs", folder: Folder = NOTEBOOKS) -> None:
    """Run one notebook with other parameters; a run that already stands is not repeated."""
    notebook = find(name, folder)
    given = parse(notebook, assignments or [])
    label = hashlib.sha256(json.dumps(plain(given), sort_keys=True).encode()).hexdigest()[:8]
    place = into / f"{notebook.stem}-{label}"
    _report([execute(notebook, given, build=place, out=place)])


@app.command("figures")
def figures_command(out: Annotated[Path | None, typer.Option(help="default: figures; with --smoke build/smoke/figures")]
                    = None, build: Path = ROOT / "build" / "notebooks", only: Only = None, smoke: bool = False,
                    folder: Folder = NOTEBOOKS) -> None:
    """Run every notebook whose inputs changed; write figures, say what was written and which fallbacks were used."""
    chosen = [find(name, folder) for name in only] if only else notebooks(folder)
    build, out = (build / "smoke" if smoke else build), out or ROOT / ("build/smoke/figures" if smoke else "figures")
    outcomes = []
    for number, notebook in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {notebook.stem}", file=sys.stderr, flush=True)
        outcomes.append(execute(notebook, smoke_parameters(notebook) if smoke else {}, build=build, out=out))
    _report(outcomes)


@app.command("refresh")
def refresh_command(only: Annotated[list[str] | None, typer.Argument()] = None, folder: Folder = NOTEBOOKS) -> None:
    """Re-execute the committed notebooks in place, metadata noise stripped."""
    chosen = [find(name, folder) for name in only] if only else notebooks(folder)
    _report([refresh(notebook) for notebook in tqdm(chosen, desc="refreshing", unit="notebook", disable=None)])


@app.command("train")
def train_command(
        name: Annotated[str, typer.Argument(help="rotated-mnist, hands or hand-classifier")],
        out: Annotated[Path | None, typer.Option(help="the model is written here", show_default="build/models/NAME")] = None,
        work: Annotated[Path | None, typer.Option(help="checkpoints are kept here; a training that was cut short goes on",
                                                  show_default="build/training/NAME")] = None,
        images: Annotated[Path | None, typer.Option(help="train on the images of this folder, as they are")] = None,
        digits: Annotated[str | None, typer.Option(help="mnist, sklearn, or auto (what is there)", show_default="mnist")] = None,
        download: Annotated[bool, typer.Option(help="MNIST may be downloaded")] = False,
        steps: Annotated[int | None, typer.Option(help="length of the learning-rate schedule", show_default="its own")] = None,
        until: Annotated[int | None, typer.Option(help="stop after this step of it, to go on another time")] = None,
        seed: Annotated[int | None, typer.Option(show_default="0")] = None,
        device: Annotated[str | None, typer.Option(show_default="cpu")] = None,
        samples: Annotated[int | None, typer.Option(help="draws for samples.png; hands: of each digit",
                                                    show_default="100; hands: 8")] = None,
        machine: Annotated[str | None, typer.Option(help="in words, for the model card")] = None) -> None:
    """Train a bundled model again, or on other images; measures it and writes it with its model card."""
    from lib.runs import trainers

    options = {"images": images, "digits": digits, "download": download or None, "steps": steps, "until": until, "seed": seed,
               "device": device, "samples": samples, "machine": machine}
    train = trainers.fitting(name, given := {key: value for key, value in options.items() if value is not None})
    label = images.resolve().name if images else name
    out, work = out or ROOT / "build" / "models" / label, work or ROOT / "build" / "training" / label
    train(out, work, **given)
    print(trainers.registry_lines(name, out), end="")
    print(f"model: {os.path.relpath(out)}")


@app.command("pairs")
def pairs_command(
        folder: Annotated[Path, typer.Argument(help="pairs.csv, NAME_0.png and NAME_1.png, or subfolders of two images")],
        out: Annotated[Path, typer.Option(help="frames and tables go here; what stands there is not made again")],
        model: Annotated[str, typer.Option(help="hands, a folder in the StableDiffusionPipeline layout, or a hub id")] = "hands",
        methods: Annotated[str, typer.Option(help="names with commas between")] = "lerp,slerp,stein",
        frames: int = 17, batch: Annotated[int, typer.Option(help="pairs at once")] = 8,
        assignments: Annotated[list[str] | None, typer.Option(
            "-p", help="method.name=value for one method, name=value for all; NAME.method=stein makes another NAME")] = None,
        size: Annotated[int | None, typer.Option(help="pixels a side, the model's own if left out")] = None,
        revision: Annotated[str | None, typer.Option(help="of a hub id")] = None,
        sigma: Annotated[float | None, typer.Option(help="noise level that methods work at")] = None,
        density_sigma: Annotated[float | None, typer.Option(help="noise level of the log-density columns")] = None,
        guidance: float = 1.0, negative: str = "", device: str = "cpu", gif: bool = False,
        micro_batch: Annotated[int, typer.Option(help="images or latents a network call")] = 8) -> None:
    """Frames between the two images of every pair, by every method, as files and one table; a cut run goes on."""
    from lib import pairs
    from lib.pairs.plan import parsed

    wanted = [name.strip() for name in methods.split(",") if name.strip()]
    settings = parsed(assignments or [], wanted)
    found = pairs.read_pairs(folder)
    score = _latent_model(model, size, revision=revision, sigma=sigma, device=device, micro_batch=micro_batch)
    score = score.prompted("", guidance=guidance, negative=negative)
    table = pairs.run_pairs(score, found, wanted, out, frames=frames, batch=batch, settings=settings, density_sigma=density_sigma,
                            gif=gif)
    print((out / "summary.csv").read_text(encoding="utf-8"), end="")
    for label, lost in table["converged"].eq(False).groupby(table["method"], sort=False).sum().items():
        if lost:
            print(f"{label}: {lost} of {len(found)} geodesics did not converge (column converged of the table)")
    print(f"{len(found)} pairs, {len(wanted)} methods: {os.path.relpath(out / 'table.csv')}")


def _latent_model(name: str, size: int | None, **settings: Any) -> Any:
    """A bundled model by its name, else a folder or a hub id."""
    from lib.scores import StableDiffusionScore, load, load_stable_diffusion
    from lib.scores.loading import BUNDLED

    if name not in BUNDLED:
        return load_stable_diffusion(name, size=None if size is None else (size, size), **settings)
    if size is not None:
        raise ValueError(f"{name} has its own size; leave --size out")
    score = load(name, **settings)
    if not isinstance(score, StableDiffusionScore):
        raise ValueError(f"{name} is no latent text-to-image model; name hands, a folder or a hub id")
    return score


def _report(outcomes: list[Outcome]) -> None:
    """Print files, fallbacks, times and failures, the closing line last; exit 1 if anything failed."""
    fallbacks: dict[str, list[str]] = {}
    for outcome in outcomes:
        when = "last run" if outcome.state == "unchanged" else "in"
        print(f"{outcome.name}: {outcome.state} ({when} {outcome.seconds:.1f} s)")
        for path in outcome.files if outcome.state == "passed" else []:
            print(f"    {os.path.relpath(path)}")
        for message in outcome.fallbacks():
            fallbacks.setdefault(message, []).append(outcome.name)
        if outcome.error:
            print("    " + outcome.error.replace("\n", "\n    "))
    for message, names in fallbacks.items():
        print(f"fallback in {', '.join(names)}: {message}")
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    print(f"notebooks: {len(outcomes) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """The command line; a mistake of its user is one line on stderr and exit status 2, not a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that drafts are removed then, too
    try:
        app()
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
