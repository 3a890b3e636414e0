"""Frames between many pairs of images by several methods, as files and one table.

    python -m experiments.pairs FOLDER --out DIR --model hands --methods lerp,slerp,stein

A run that was cut short goes on where it was: a pair whose frames are whole is not made again.
"""

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib import checks, latents
from lib.methods.interpolate import interpolate
from lib.scores import PipelineScore, ProductScore, Score
from lib.scores.pipeline import in_words

from .command import Methods, Options, listed, run, with_options
from .evaluation import evaluate, load_lpips, mse, path_log_density, summary
from .evaluation.frames import Distance
from .figures import plain, save_results
from .pair_folders import Pairs, read_pairs
from .plans import Plan, method_plan, most_evaluations
from .run_page import Item, not_converged, row_name, write_page
from .stored_frames import (
    animate,
    checksum,
    load_frames,
    model_name,
    require_own_folder,
    store,
    stored,
    to_json,
)

__all__ = ["Pairs", "animate", "load_frames", "read_pairs", "run_pairs", "what_it_costs"]

WRITTEN = ("frames", "animations", "table.csv", "summary.csv", "settings.json", "run.html")
# Their scores are asked without saying whose points they are: one pair a batch
ONE_BY_ONE = ("georce", "shooting", "spacetime")


def run_pairs(
    score: PipelineScore,
    pairs: Pairs,
    methods: Sequence[str],
    out: str | Path,
    *,
    frames: int = 17,
    batch: int = 8,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    prompts: str = "none",
    density_sigma: float | None = None,
    distances: Mapping[str, Distance] | None = None,
    gif: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Frames between the images of every pair by every method, and a table, a row a (method, pair).

    Writes to `out`: frames/METHOD/PAIR/00.png … with record.json (what they were made from, and
    what it took), animations/METHOD/PAIR.gif, table.csv, summary.csv (means with intervals) and
    settings.json. Frames whose record fits the same images, prompts, model and settings are not
    made again; at most one batch is lost when the run is killed.

    A pair with one prompt has one density, p(x | prompt). Between two prompts there are three ways:

    * "none": p(x), the density without a prompt. One density for the whole path, at the least cost.
    * "product": p(x | start)^½ p(x | end)^½ (`lib.scores.ProductScore`). One density too, which
      asks the network twice a point; its paths look like those without a prompt.
    * "moving": the embedding goes linearly from one prompt to the other along the path, as in arXiv
      2504.06675. That is another density at each place, and no function that a path could be a
      geodesic of: the solver finds no minimum and warns.

    Args:
        score: the latent model; each pair's prompts replace its own.
        pairs: what to connect.
        methods: names of `lib.METHODS` or of `lib.methods.baselines.INTERPOLATIONS`, or labels.
        out: a folder that is new, empty, or of an earlier run.
        frames: of a path, both ends included, at least 3.
        batch: pairs at once; halved, with a warning, where memory runs out.
        settings: method → what `interpolate` takes. With "method" among them the name is a label,
            so that one method can run with several settings. "prompts" among them is for this
            method alone.
        prompts: the density of a path between two different prompts, see above. "yu2025" keeps
            "moving", its paper's, unless its settings say otherwise.
        density_sigma: noise level of the log-density along the latents, which is taken under one
            density for all methods: the product of both prompts' for "product", else without a
            prompt. The score's own level if None.
        distances: name → images twice -> (n,), between adjacent frames. LPIPS if None, or squared
            errors, with a warning, where its weights are not on this machine.
        gif: animations too.
        progress: a bar on stderr.

    Returns:
        The table. Distances are those of the stored frames, 8 bits; seconds and evaluations are a
        batch's, shared evenly by its pairs. For FID, KID or a true path give `load_frames` to
        `experiments.evaluation`.

    Raises:
        ValueError, TypeError: bad input, before any work.
        MemoryError: one pair alone is too large.
        OSError: the folder cannot be written.
    """
    if distances is None:
        distances = _default_distances()
    checks.count("batch", batch)
    plan = method_plan(methods, settings or {}, prompts)
    run = _Run(score, pairs, plan, Path(out), frames, prompts, density_sigma)
    _check_columns(pairs, distances)
    require_own_folder(run.out, WRITTEN)
    total = len(run.plan) * len(pairs)
    with tqdm(total=total, desc="pairs", unit="pair", disable=not progress) as bar:
        for label in run.plan:
            bar.set_postfix_str(label)
            run.make_missing(label, batch, bar)
    rows = [_table_row(run, label, i, distances) for label in run.plan for i in range(len(pairs))]
    table = pd.DataFrame(rows)
    if gif:
        for label in run.plan:
            for i in range(len(pairs)):
                if not run.animation(label, i).exists():
                    animate(run.place(label, i), run.animation(label, i))
    save_results("table", table, folder=run.out)
    save_results("summary", summary(table), folder=run.out)
    used = {
        "methods": run.plan,
        "frames": frames,
        "prompts": prompts,
        "density_sigma": run.density_sigma,
        "distances": list(distances),
        "model": run.model,
    }
    save_results("settings", json.loads(to_json(used)), folder=run.out)
    return table


# ---- the run


@dataclass
class _Run:
    score: PipelineScore
    pairs: Pairs
    plan: Plan
    out: Path
    frames: int
    # of the density that all methods are measured under
    prompts: str
    density_sigma: float | None
    # Checksums of both images of each pair
    images: list[list[str]] = field(init=False)
    model: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Hold model, images and prompts against one another, before any work."""
        checks.count("frames", self.frames, least=3)
        if not isinstance(self.score, PipelineScore):
            raise TypeError(
                "run_pairs wants the score of a latent text-to-image model (lib.scores.load), got "
                f"{type(self.score).__name__}"
            )
        if self.score.event_shape is None:
            raise ValueError(
                "this model does not say how large its images are; load it with "
                "size=(height, width)"
            )
        if self.density_sigma is None:
            self.density_sigma = self.score.sigma
        self.density_sigma = float(self.score.at(self.density_sigma).sigma)
        self.images = []
        for i, name in enumerate(self.pairs.name):
            self.images.append(
                [checksum(image) for image in self.pairs.images(i, self.score.image_size)]
            )
            try:
                self.score.embed(_together([self.pairs.prompt[i]]))
                self.score.embed(_together([self.pairs.end_prompt[i]]))
            except ValueError as error:
                raise ValueError(f"pair {name!r}: {error}") from error
        self.model = model_name(self.score)

    def place(self, label: str, i: int) -> Path:
        return self.out / "frames" / label / self.pairs.name[i]

    def animation(self, label: str, i: int) -> Path:
        return self.out / "animations" / label / f"{self.pairs.name[i]}.gif"

    def inputs(self, label: str, i: int) -> str:
        """A checksum of all that the frames of one pair depend on."""
        prompts = [self.pairs.prompt[i], self.pairs.end_prompt[i]]
        measures = [self.frames, self.prompts, self.density_sigma]
        return checksum([self.images[i], prompts, self.plan[label], measures, self.model])

    def is_whole(self, label: str, i: int) -> bool:
        return stored(self.place(label, i), self.inputs(label, i)) is not None

    def make_missing(self, label: str, batch: int, bar: tqdm) -> None:
        """Make the frames that are not there, in smaller batches where memory runs out."""
        limit = 1 if self.plan[label][0] in ONE_BY_ONE else batch
        for rows in self.batches(limit):
            missing = [i for i in rows if not self.is_whole(label, i)]
            bar.update(len(rows) - len(missing))
            while missing:
                part = missing[:limit]
                try:
                    self.make(label, part)
                except (MemoryError, torch.OutOfMemoryError) as error:
                    if len(part) == 1:
                        raise MemoryError(
                            f"{label}, pair {self.pairs.name[part[0]]!r} alone: {error} (options "
                            "of the command: --micro-batch 1, --dtype float16, "
                            "--attention-slicing, --vae-tiling, --offload, --size)"
                        ) from error
                    limit = len(part) // 2
                    warnings.warn(
                        f"{label}: not enough memory for {len(part)} pairs at once; it goes on "
                        f"with {limit}",
                        stacklevel=3,
                    )
                else:
                    missing = missing[limit:]
                    bar.update(len(part))

    def batches(self, size: int) -> list[list[int]]:
        """All pairs; those whose prompt changes along the path apart, for their cost is another.

        The division does not depend on what is there, so that a run that was cut between two
        batches repeats every bit.
        """
        changing = [i for i in range(len(self.pairs)) if self.changes(i)]
        others = [i for i in range(len(self.pairs)) if i not in changing]
        return [
            rows[k : k + size] for rows in (others, changing) for k in range(0, len(rows), size)
        ]

    def changes(self, i: int) -> bool:
        return checksum(self.pairs.prompt[i]) != checksum(self.pairs.end_prompt[i])

    def density(self, rows: Sequence[int], prompts: str) -> Score:
        """The score under the prompts of these pairs, all of one kind (`changes`)."""
        start = self.score.prompted(_together([self.pairs.prompt[i] for i in rows]))
        if not self.changes(rows[0]):
            return start
        end_prompt = _together([self.pairs.end_prompt[i] for i in rows])
        if prompts == "moving":
            return self.score.prompted(start.prompt, end_prompt=end_prompt)
        if prompts == "product":
            return ProductScore([start, self.score.prompted(end_prompt)])
        # guidance has nothing to strengthen
        return self.score.prompted("", guidance=1.0)

    def make(self, label: str, rows: Sequence[int]) -> None:
        """Make the frames of these pairs at once, and write them pair by pair."""
        method, settings = self.plan[label]
        prompts = settings["prompts"]
        settings = {name: value for name, value in settings.items() if name != "prompts"}
        score = self.density(rows, prompts)
        images = [self.pairs.images(i, self.score.image_size) for i in rows]
        start = latents.encode(self.score, torch.stack([first for first, _ in images]))
        end = latents.encode(self.score, torch.stack([last for _, last in images]))
        begun = time.perf_counter()
        made = interpolate(score, start, end, method=method, frames=self.frames, **settings)
        seconds = time.perf_counter() - begun
        broken = [
            self.pairs.name[i]
            for i, path in zip(rows, made.frames, strict=True)
            if not torch.isfinite(path).all()
        ]
        if broken:
            raise ValueError(
                f"{label} ran into NaN or infinity between the images of {', '.join(broken)}: "
                "change its settings, load with dtype=torch.float32, or leave the pair out"
            )
        shown = latents.decode(self.score, made.frames)
        fixed = self.density(rows, "product" if self.prompts == "product" else "none")
        density = path_log_density(fixed.at(self.density_sigma), made.frames)
        of_a_batch = ("prompt", "end_prompt", "product")
        used = {name: value for name, value in made.settings.items() if name not in of_a_batch}
        used["prompts"] = prompts
        for k, i in enumerate(rows):
            result = {
                "log_density_mean": float(density.mean[k]),
                "log_density_dip": float(density.dip[k]),
                "evaluations": made.evaluations / len(rows),
                "seconds": seconds / len(rows),
                "converged": None if made.path is None else bool(made.path.converged[k]),
                "settings": json.dumps(plain(used)),
            }
            self.animation(label, i).unlink(missing_ok=True)
            store(self.place(label, i), shown[k], self.inputs(label, i), result)


def _table_row(run: _Run, label: str, i: int, distances: Mapping[str, Distance]) -> dict[str, Any]:
    frames = {label: load_frames(run.place(label, i))[None]}
    measures = evaluate(frames, distances=distances).drop(columns=["method", "pair"]).iloc[0]
    return {
        "method": label,
        "pair": run.pairs.name[i],
        **{name: values[i] for name, values in run.pairs.about.items()},
        "prompt": in_words(run.pairs.prompt[i]),
        "end_prompt": in_words(run.pairs.end_prompt[i]),
        **measures,
        **stored(run.place(label, i)),
    }


# ---- what a run would cost


def what_it_costs(
    score: PipelineScore,
    pairs: Pairs,
    methods: Sequence[str],
    out: str | Path,
    *,
    frames: int = 17,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    prompts: str = "none",
    density_sigma: float | None = None,
) -> pd.DataFrame:
    """What `run_pairs` would do with these arguments, a row a method: nothing is written.

    The evaluations of a geodesic are of max_iter iterations (`experiments.plans`): a path that
    converges earlier costs less.

    Returns:
        method, pairs (those still to be made), evaluations (of all of them together), without the
        evaluations of the log-density along the frames.

    Raises:
        ValueError, TypeError: bad input, as `run_pairs` would refuse it.
    """
    plan = method_plan(methods, settings or {}, prompts)
    run = _Run(score, pairs, plan, Path(out), frames, prompts, density_sigma)
    rows = []
    for label, (method, own) in run.plan.items():
        missing = [i for i in range(len(pairs)) if not run.is_whole(label, i)]
        # a prompt that changes costs more
        examples = {run.changes(i): i for i in missing}
        each = {
            changes: most_evaluations(run.density([i], own["prompts"]), method, own, frames)
            for changes, i in examples.items()
        }
        total = sum(each[run.changes(i)] for i in missing)
        rows.append({"method": label, "pairs": len(missing), "evaluations": total})
    return pd.DataFrame(rows)


def _default_distances() -> dict[str, Distance]:
    try:
        return {"lpips": load_lpips()}
    except FileNotFoundError as error:
        warnings.warn(f"ppl and pdv are of squared errors, not of LPIPS: {error}", stacklevel=3)
        return {"mse": mse}


# ---- files


def _check_columns(pairs: Pairs, distances: Mapping[str, Distance]) -> None:
    own = {"method", "pair", "prompt", "end_prompt", "log_density_mean", "log_density_dip"}
    own |= {"evaluations", "seconds", "converged", "settings"}
    own |= {f"{kind}_{name}" for kind in ("ppl", "pdv") for name in distances}
    taken = sorted(own.intersection(pairs.about))
    if taken:
        raise ValueError(f"the result has columns {', '.join(taken)} of its own; rename the pairs'")


def _together(prompts: list[str | Tensor]) -> list[str] | Tensor:
    return torch.stack(prompts) if isinstance(prompts[0], Tensor) else prompts


# ---- the command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_options
def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="a table (pairs.csv), NAME_0.png and NAME_1.png, or subfolders of two images; or "
            "the file of a table",
        ),
    ],
    options: Options,
    methods: Methods = "lerp,slerp,stein",
    frames: Annotated[int, typer.Option(help="of a path, both ends included")] = 17,
    batch: Annotated[int, typer.Option(help="pairs at once")] = 8,
    prompts: Annotated[
        str,
        typer.Option(
            help="between two prompts, the density without a prompt (none), the product "
            "of both (product), or one that moves along the path (moving)"
        ),
    ] = "none",
    gif: Annotated[bool, typer.Option("--gif", help="a file of each animation too")] = False,
) -> None:
    """Frames between the two images of every pair, by every method: files, tables and a page."""
    names = listed(methods)
    wanted = {
        "frames": frames,
        "settings": options.settings(names),
        "prompts": prompts,
        "density_sigma": options.density_sigma,
    }
    pairs = read_pairs(source, fit=options.fit)
    score = options.score()
    if options.dry_run:
        costs = what_it_costs(score, pairs, names, options.out, **wanted)
        _print_pairs(pairs, score)
        print("\nevaluations of the score for the pairs still to be made (geodesics: at max_iter)")
        print(costs.to_string(index=False))
        return
    table = run_pairs(score, pairs, names, options.out, batch=batch, gif=gif, **wanted)
    page = _write_page(options.out, table)
    print(summary(table).to_string(index=False, float_format="{:.4g}".format))
    print("".join(f"{line}\n" for line in not_converged(table)), end="")
    print(
        f"{len(pairs)} pairs, {len(names)} methods: {os.path.relpath(options.out / 'table.csv')}, "
        f"{os.path.relpath(page)}"
    )


def _write_page(out: Path, table: pd.DataFrame) -> Path:
    means = summary(table).pivot(index="method", columns="measure", values="estimate")

    def items() -> Iterator[Item]:
        for pair, rows in table.groupby("pair", sort=False):
            frames = {
                row_name(row.method, row.converged): load_frames(out / "frames" / row.method / pair)
                for row in rows.itertuples()
            }
            asked = rows[["prompt", "end_prompt"]].iloc[0]
            yield Item(pair, " → ".join(dict.fromkeys(asked)), frames, tuple(frames))

    return write_page(
        out,
        title="Frames between pairs of images",
        table=table,
        means=means.rename_axis(columns=None).reset_index(),
        items=items(),
        count=table["pair"].nunique(),
    )


def _print_pairs(pairs: Pairs, score: PipelineScore) -> None:
    height, width = score.image_size
    print(f"{len(pairs)} pairs, made {width}×{height} ({pairs.fit})")
    for i, name in enumerate(pairs.name):
        ends = []
        for path in (pairs.start[i], pairs.end[i]):
            with Image.open(path) as image:
                ends.append(f"{path.name} {image.width}×{image.height}")
        prompts = " → ".join(dict.fromkeys([pairs.prompt[i], pairs.end_prompt[i]]))
        print(f"  {name}: {', '.join(ends)}; {prompts or 'no prompt'}")


if __name__ == "__main__":
    run(app)
