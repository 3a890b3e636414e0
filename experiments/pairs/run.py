"""Many pairs of images, several methods: frames as files and one table; a run that was cut short goes on where it was."""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from lib import checks, latents
from lib.methods.interpolate import interpolate
from lib.scores.stable_diffusion import StableDiffusionScore, in_words, vae_factor

from ..classifiers import Classifier, Reference
from ..evaluation import evaluate, load_lpips, mse, path_log_density, set_summary, summary
from ..evaluation.frames import Distance
from ..evaluation.table import is_measure
from ..figures import save_results
from . import files
from .files import digest, kept, named, stored, told, total
from .folder import Pairs
from .plan import Plan, planned

ALONE = (
    "georce",
    "shooting",
    "spacetime",
)  # ask the score without the points' places: one prompt a call, one pair a batch
OWN = ("method", "pair", "prompt", "end_prompt", "converged", "settings")


def run_pairs(
    score: StableDiffusionScore,
    pairs: Pairs,
    methods: Sequence[str],
    out: str | Path,
    *,
    frames: int = 17,
    batch: int = 8,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    density_sigma: float | None = None,
    distances: Mapping[str, Distance] | None = None,
    classifier: Classifier | None = None,
    reference: Reference | None = None,
    truth: Tensor | None = None,
    gif: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Frames between the images of every pair by every method, and a table with one row a (method, pair).

    methods: names of METHODS or baselines.INTERPOLATIONS. settings: name → what `interpolate` takes; "method" among them lets
    the name be any label, for one method with several settings. frames ≥ 3. batch: pairs at once, halved with a warning where
    memory runs out. density_sigma: noise level of the log-density along the latents, under each pair's own prompts, the same
    for all methods (the score's if None). distances: name → images twice -> (n,), LPIPS by default, squared error where that
    is not on the machine (a warning says so); known again by their names. truth: the true frames (pairs, frames, 3, h, w).
    classifier: its features give FID and KID against `reference`, or else against the given images. gif: animations too.

    Writes to `out`: frames/METHOD/PAIR/00.png … with record.json (what they were made from, and what was measured), table.csv,
    summary.csv (means with intervals, FID, KID) with their provenance, animations/METHOD/PAIR.gif. All image measures are those
    of the stored frames, 8 bits. Frames whose record fits the same images, prompts, model, settings and version are not made
    again; at most one batch is lost when the run is killed. seconds and evaluations: a batch's, shared evenly by its pairs.
    ValueError and TypeError for bad input, before any work; MemoryError if one pair alone is too large; OSError of the disk.
    """
    run = _Run(
        score,
        pairs,
        Path(out),
        planned(methods, settings or {}),
        frames,
        density_sigma,
        truth,
        _default_distances() if distances is None else dict(distances),
        gif,
    )
    run.check(classifier, reference)
    chunks = {label: run.missing(label, checks.count("batch", batch)) for label in run.plan}
    every, todo = (
        len(run.plan) * len(pairs),
        sum(len(rows) for queue in chunks.values() for rows in queue),
    )
    with tqdm(
        total=every, initial=every - todo, desc="pairs", unit="pair", disable=not progress
    ) as bar:
        for label, queue in chunks.items():
            bar.set_postfix_str(label)
            _work_off(run, label, queue, bar)
    return _report(run, classifier, reference)


@dataclass
class _Run:
    score: StableDiffusionScore
    pairs: Pairs
    out: Path
    plan: Plan
    frames: int
    sigma: float | None
    truth: Tensor | None
    distances: dict[str, Distance]
    gif: bool

    def check(self, classifier: Classifier | None, reference: Reference | None) -> None:
        """Everything that can be wrong is better known before the work; digests of images and model are taken here."""
        if not isinstance(self.score, StableDiffusionScore):
            raise TypeError(
                f"run_pairs wants a StableDiffusionScore (lib.scores.load), got {type(self.score).__name__}"
            )
        checks.count("frames", self.frames, least=3)
        self.sigma = float(
            self.score.sigma if self.sigma is None else self.score.at(self.sigma).sigma
        )
        shape = (len(self.pairs), self.frames, 3, *self.size)
        if self.truth is not None and tuple(self.truth.shape) != shape:
            raise ValueError(f"truth must have shape {shape}, got {tuple(self.truth.shape)}")
        if classifier is not None and len(self.pairs) < 2:
            raise ValueError("FID and KID need two pairs or more; leave classifier=None")
        if classifier is None and reference is not None:
            raise ValueError(
                "a reference without a classifier says nothing; give the classifier= whose features it holds"
            )
        if foreign := sorted(
            name for name in self.pairs.about if name in (*OWN, *self.distances) or is_measure(name)
        ):
            raise ValueError(
                f"columns {', '.join(foreign)} of the pairs are called as the result's own are; rename them"
            )
        self.images = [
            [digest(x) for x in self.pairs.images(i, self.size)] for i in range(len(self.pairs))
        ]
        for i in range(len(self.pairs)):
            try:
                self.prompted([i])
            except ValueError as error:
                raise ValueError(f"pair {self.pairs.name[i]!r}: {error}") from error
        if classifier is not None:
            classifier.features(
                torch.stack(self.pairs.images(0, self.size))
            )  # it may want another size
        self.model = files.model_of(self.score)
        files.usable(self.out)

    @property
    def size(self) -> tuple[int, int]:
        if self.score.event_shape is None:
            raise ValueError(
                "this model does not say how large its images are; load it with size=(height, width)"
            )
        factor = vae_factor(self.score.pipe.vae)
        return tuple(factor * side for side in self.score.event_shape[1:])

    def prompted(self, rows: Sequence[int]) -> StableDiffusionScore:
        """The score under the prompts of these pairs, which are all of one kind (`moves`)."""
        start, end = (
            _texts([side[i] for i in rows]) for side in (self.pairs.prompt, self.pairs.end_prompt)
        )
        return self.score.prompted(start, end_prompt=end if self.moves(rows[0]) else None)

    def moves(self, i: int) -> bool:
        """Whether the prompt changes along the path; a score that does is met another way, so pairs of both kinds never mix."""
        return named(self.pairs.prompt[i]) != named(self.pairs.end_prompt[i])

    def inputs(self, label: str, i: int) -> str:
        """sha256 over all that the frames of one pair hang on."""
        method, settings = self.plan[label]
        return total(
            {
                "images": self.images[i],
                "prompt": named(self.pairs.prompt[i]),
                "method": method,
                "frames": self.frames,
                "end_prompt": named(self.pairs.end_prompt[i]),
                "model": self.model,
                "density_sigma": self.sigma,
                "settings": {k: named(v) for k, v in settings.items()},
            }
        )

    def measures(self, i: int) -> str:
        """sha256 over what the frames are measured with."""
        return total(
            {
                "distances": {name: told(distance) for name, distance in self.distances.items()},
                "truth": None if self.truth is None else digest(self.truth[i]),
            }
        )

    def place(self, label: str, i: int) -> Path:
        return self.out / files.FRAMES / label / self.pairs.name[i]

    def animation(self, label: str, i: int) -> Path:
        return self.out / files.ANIMATIONS / label / f"{self.pairs.name[i]}.gif"

    def missing(self, label: str, batch: int) -> list[list[int]]:
        """Batches of the pairs to be made: always the same division, so that a run cut between two of them repeats every bit."""
        size = 1 if self.plan[label][0] in ALONE else batch
        chunks = []
        for kind in (False, True):
            rows = [i for i in range(len(self.pairs)) if self.moves(i) == kind]
            chunks += [rows[k : k + size] for k in range(0, len(rows), size)]
        todo = [
            [i for i in rows if kept(self.place(label, i), self.inputs(label, i)) is None]
            for rows in chunks
        ]
        return [rows for rows in todo if rows]

    def make(self, label: str, rows: Sequence[int]) -> None:
        """Frames of these pairs at once, written pair by pair, and measured."""
        method, settings = self.plan[label]
        score = self.prompted(rows)
        images = [self.pairs.images(i, self.size) for i in rows]
        start, end = (
            latents.encode(self.score, torch.stack(side)) for side in zip(*images, strict=True)
        )
        begun = time.perf_counter()
        made = interpolate(score, start, end, method=method, frames=self.frames, **settings)
        seconds = time.perf_counter() - begun
        self._finite(label, rows, made.frames)
        shown = latents.decode(self.score, made.frames)
        density = path_log_density(score.at(self.sigma), made.frames)
        said = {
            name: value
            for name, value in made.settings.items()
            if name not in ("prompt", "end_prompt")
        }
        for k, i in enumerate(rows):
            row = {
                "log_density_mean": density.mean[k],
                "log_density_dip": density.dip[k],
                "seconds": seconds / len(rows),
                "evaluations": made.evaluations / len(rows),
                "settings": said,
                "converged": None if made.path is None else bool(made.path.converged[k]),
            }
            self.animation(label, i).unlink(missing_ok=True)
            files.keep(
                self.place(label, i), shown[k], {"inputs": self.inputs(label, i), "made": row}
            )
            self.measured(label, i)

    def _finite(self, label: str, rows: Sequence[int], made: Tensor) -> None:
        if bad := [
            self.pairs.name[i]
            for i, x in zip(rows, made, strict=True)
            if not bool(torch.isfinite(x).all())
        ]:
            raise ValueError(
                f"{label} ran into NaN or infinity between the images of {', '.join(bad)}: change its settings, "
                "load with dtype=torch.float32, or leave the pair out"
            )

    def measured(self, label: str, i: int) -> dict[str, Any]:
        """The row of frames that stand; measured anew only where they were measured with something else."""
        place, key = self.place(label, i), self.measures(i)
        record = kept(place, self.inputs(label, i))
        if record.get("measured_with") != key:
            truth = None if self.truth is None else self.truth[i : i + 1]
            found = evaluate(
                {label: stored(place, self.frames)[None]}, truth, distances=self.distances
            )
            measures = found.drop(columns=["method", "pair"]).iloc[0].to_dict()
            record = files.remember(place, record | {"measured_with": key, "measures": measures})
        if self.gif and not self.animation(label, i).exists():
            files.animate(self.animation(label, i), place, self.frames)
        made = record["made"]
        return {
            "method": label,
            "pair": self.pairs.name[i],
            **{name: values[i] for name, values in self.pairs.about.items()},
            "prompt": in_words(self.pairs.prompt[i]),
            "end_prompt": in_words(self.pairs.end_prompt[i]),
            **{name: float(value) for name, value in record["measures"].items()},
            **{
                name: float(made[name])
                for name in ("log_density_mean", "log_density_dip", "evaluations", "seconds")
            },
            "converged": made["converged"],
            "settings": json.dumps(made["settings"]),
        }


def _work_off(run: _Run, label: str, chunks: Iterable[list[int]], bar: tqdm) -> None:
    queue = deque(chunks)
    limit = max(map(len, queue), default=1)
    while queue:
        rows = queue.popleft()
        if len(rows) > limit:
            queue.extendleft([rows[limit:], rows[:limit]])
            continue
        try:
            run.make(label, rows)
            bar.update(len(rows))
        except (MemoryError, RuntimeError) as error:
            if not (
                isinstance(error, (MemoryError, torch.OutOfMemoryError))
                or "allocate memory" in str(error)
            ):
                raise
            if len(rows) == 1:
                raise MemoryError(
                    f"{label}, pair {run.pairs.name[rows[0]]!r} alone: {error}"
                ) from error
            limit = len(rows) // 2
            queue.appendleft(rows)
            warnings.warn(
                f"{label}: not enough memory for {len(rows)} pairs at once; it goes on with {limit}",
                stacklevel=3,
            )


def _report(run: _Run, classifier: Classifier | None, reference: Reference | None) -> pd.DataFrame:
    """Write the table and its summary; return the table."""
    table = pd.DataFrame(
        [run.measured(label, i) for label in run.plan for i in range(len(run.pairs))]
    )
    means = [summary(table)]
    if classifier is not None:
        reference = reference or _of_the_pairs(run, classifier)
        for label in run.plan:
            every = torch.stack(
                [stored(run.place(label, i), run.frames) for i in range(len(run.pairs))]
            )
            means.append(set_summary({label: every}, reference, classifier=classifier))
    plan = {
        label: {"method": method, **{k: named(v) for k, v in given.items()}}
        for label, (method, given) in run.plan.items()
    }
    about = {
        "methods": plan,
        "frames": run.frames,
        "density_sigma": run.sigma,
        "distances": {name: told(distance) for name, distance in run.distances.items()},
        "fid_and_kid_against": None if reference is None else reference.made_of,
        "model": run.model,
    }
    about["data"] = {
        "pairs": len(run.pairs),
        "sha256": total([run.images, [*map(named, run.pairs.prompt + run.pairs.end_prompt)]]),
    }
    for name, part in (("table", table), ("summary", pd.concat(means, ignore_index=True))):
        save_results(name, part, folder=run.out)
    save_results("table", about, folder=run.out)
    return table


def _of_the_pairs(run: _Run, classifier: Classifier) -> Reference:
    every = (torch.stack(run.pairs.images(i, run.size)) for i in range(len(run.pairs)))
    x = torch.cat([classifier.features(images) for images in every]).double()
    return Reference(x.mean(0), x.T.cov(), x, f"the {len(x)} images given", classifier.sha256)


def _default_distances() -> dict[str, Distance]:
    try:
        return {"lpips": load_lpips()}
    except FileNotFoundError as error:
        warnings.warn(f"ppl and pdv are of squared errors, not of LPIPS: {error}", stacklevel=3)
        return {"mse": mse}


def _texts(values: list[str | Tensor]) -> list[str] | Tensor:
    return torch.stack(values) if isinstance(values[0], Tensor) else values
