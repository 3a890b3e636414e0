"""Paths between photographs of hands by every method: quality, steps, convergence, known answers.

Four tables: a row a method and pair (06_hands), set measures with intervals and differences on the
same pairs (06_hands_sets), movements whose true frames are known (06_hands_movements), and a sweep
of alpha, lam and prompts on fewer pairs (06_hands_sweep).

Optimal transport of ink is left out: a photograph has no ink. Its light is everywhere, the more so
beside the hand, and moving the mass of its channels moves background.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from lib import checks, flow, interpolate, paths, scores
from lib.density import along_path
from lib.files import replacing
from lib.latents import decode, encode
from lib.methods.baselines import denoise_inner
from lib.scores import ProductScore, Score
from lib.solvers import GaussNewton, MovingDensityWarning

from .. import hands
from ..classifiers import Classifier, Reference, load_classifier
from ..evaluation import (
    Lpips,
    RealDensity,
    differences_of_features,
    evaluate,
    load_imagenet,
    load_lpips,
    psnr,
    real_density,
    reference_of,
    set_features,
    summary_of_features,
)
from ..evaluation.sets import Network
from .base import WORK, Rows, Table, Unit, command_line
from .resolved import geodesics

FRAMES = 17
STEIN_POINTS = 33
FLOW_STEPS = 12
# pairs at once: what a kill loses
CHUNK = 5
# photographs of each digit that paths start from, and as many that they end at
ENDS_OF_A_DIGIT = 6
# where log-densities are taken: frames lie about 2.5 apart, chords have a point in the middle
DENSITY_SIGMA = 1.0
DRAWS = 1000
MOVEMENTS: dict[str, dict[str, Any]] = {
    "turn": {"degrees": 20.0},
    "shift": {"shift": (0.1, -0.06)},
    "size": {"scale": 1.2},
}

# what every other row is compared with, on the same pairs
AGAINST = ("lerp", "lerp, denoised 0.2", "noisediffusion")

Paths = Float[Tensor, "pairs frames channels height width"]


@dataclass(frozen=True)
class Row:
    """A method with its settings.

    Attributes:
        name: in the tables.
        method: of `interpolate`.
        settings: of `interpolate`.
        sigma: last noise level, at which it works.
        of: name of the row whose frames between the ends are changed; None to find paths.
        change: "denoised" once at sigma, or "renoised": noised to sigma and brought back.
        prompts: density between two prompts, as in `experiments.pairs`.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sigma: float = 1.0
    of: str | None = None
    change: str = ""
    prompts: str = "none"


def _geodesic(name: str, method: str, last: float, points: int, **settings: Any) -> Row:
    levels = [level for level in (4.0, 2.0, 1.0, 0.5) if level >= last]
    # few points where the density is smooth, all of them at the last level
    coarse = tuple(count for count in (5, 9, 17) if count < points)
    solver = GaussNewton(tol=1e-4, max_iter=60, coarse=coarse)
    more = {"space": "clean", "points": points, "noise_levels": levels, "solver": solver}
    return Row(name, method, {**more, **settings}, sigma=last)


def stein(lam: float = 1000.0, name: str = "stein") -> Row:
    """The Stein metric at sigma = 1: 17 points do not resolve the energy of all of its paths."""
    return _geodesic(name, "stein", 1.0, STEIN_POINTS, lam=lam)


def density(alpha: float, name: str | None = None) -> Row:
    """The density metric, annealed from sigma = 4 to 0.5."""
    return _geodesic(name or f"density {alpha:g}", "density", 0.5, FRAMES, alpha=alpha)


def denoised(row: Row, sigma: float) -> Row:
    """The frames of another row, each denoised once."""
    return Row(f"{row.name}, denoised", row.method, sigma=sigma, of=row.name, change="denoised")


def renoised(row: Row, sigma: float) -> Row:
    """The frames of another row with the noise of its ends, brought back."""
    name = f"{row.name}, renoised {sigma:g}"
    return Row(name, row.method, sigma=sigma, of=row.name, change="renoised")


FLOW = {"flow_steps": FLOW_STEPS}
BASELINES = (
    Row("lerp", "lerp"),
    Row("slerp", "slerp"),
    Row("lerp, denoised 0.2", "lerp_denoised", sigma=0.2),
    Row("lerp, denoised 0.5", "lerp_denoised", sigma=0.5),
    Row("shared noise", "shared_noise_slerp", FLOW),
    Row("ddim slerp", "ddim_slerp", FLOW),
    Row("noisediffusion", "noisediffusion", FLOW),
)
STEIN = stein()
DENSITIES = tuple(density(alpha) for alpha in (0.002, 0.01))
BOTH = _geodesic("both", "both", 1.0, STEIN_POINTS, lam=10.0, alpha=0.01)
GEODESICS = (STEIN, *DENSITIES, BOTH)
CHANGED = (
    denoised(STEIN, 0.2),
    denoised(DENSITIES[0], 0.2),
    renoised(STEIN, 0.35),
    renoised(BASELINES[0], 0.35),
)
ROWS = (*BASELINES, *GEODESICS, *CHANGED)
MOVED = ("lerp", "lerp, denoised 0.2", "ddim slerp", "noisediffusion", "stein", "density 0.002")
MOVED += ("density 0.01", "both")
SWEEP = (
    *(density(alpha) for alpha in (0.005, 0.02)),
    *(stein(lam, f"stein {lam:g}") for lam in (100.0, 10000.0)),
)


def _between_prompts(row: Row, prompts: str) -> Row:
    settings = row.settings
    if prompts == "moving":
        # without an end: it never converges
        settings = {**settings, "max_iter": 20}
    return Row(f"{row.name}, {prompts}", row.method, settings, row.sigma, prompts=prompts)


PROMPTS = tuple(
    _between_prompts(row, prompts)
    for row in (STEIN, DENSITIES[-1])
    for prompts in ("product", "moving")
)


@dataclass(frozen=True)
class Connected:
    """Paths between pairs of latents.

    Attributes:
        latents: of the frames.
        evaluations: of each pair.
        converged: 1 or 0 for each pair; NaN where there is no geodesic.
    """

    latents: Paths
    evaluations: Float[Tensor, " pairs"]
    converged: Float[Tensor, " pairs"]

    def convergence(self) -> list[bool | None]:
        """Whether each converged; None where there is no geodesic."""
        return [None if value.isnan() else bool(value) for value in self.converged]


def tables(pairs: int = 60, *, work: Path = WORK, small: bool = False) -> list[Table]:
    """The four tables, in the order in which they must be made.

    Args:
        pairs: of photographs, 3 to 60. Up to twelve of them, half of all, go through the sweep; up
            to six, a third, are connected under both prompts; and up to eight photographs, two
            fifths of the number of pairs, are moved, each in three ways.
        work: keeps finished units, and the frames that later units read.
        small: two pairs by few methods, in seconds.
    """
    if not 3 <= checks.count("pairs", pairs) <= 10 * ENDS_OF_A_DIGIT:
        raise ValueError(f"pairs must be 3 to {10 * ENDS_OF_A_DIGIT}, got {pairs}")
    sweep = min(12, pairs // 2)
    prompts = min(6, pairs // 3)
    movements = min(8, 2 * pairs // 5)
    rows = ROWS
    command = command_line("hands", pairs=pairs)
    unseen = None
    if small:
        unseen = 1
        pairs, movements, sweep, prompts = 2, 1, 0, 0
        quick = Row(STEIN.name, "stein", {**STEIN.settings, "points": 5, "max_iter": 2, "tol": 0.1})
        changed = [row for row in CHANGED if row.of == STEIN.name]
        rows = (*BASELINES[:1], *BASELINES[2:3], quick, *changed)
        command = command_line("hands", small=True)
    moved = [row for row in rows if row.name in MOVED]
    experiment = Experiment(Path(work) / "06_hands_frames", unseen)
    swept = [row for row in rows if row in (*DENSITIES, STEIN)] + list(SWEEP)
    compared = [row for row in rows if row in (STEIN, DENSITIES[-1])] + list(PROMPTS)
    sets = [Unit("all", partial(experiment.set_rows, rows, pairs))]
    if sweep:
        sets.append(Unit("sweep", partial(experiment.set_rows, swept, sweep)))
    if prompts:
        sets.append(Unit("prompts", partial(experiment.set_rows, compared, prompts)))
    units = {
        # chunk by chunk, so that a part of the pairs is whole for all methods
        "06_hands": [
            unit for chunk in _chunks(pairs) for unit in _connecting(experiment, rows, chunk)
        ],
        "06_hands_sweep": [
            *(unit for chunk in _chunks(sweep) for unit in _connecting(experiment, SWEEP, chunk)),
            *(
                unit
                for chunk in _chunks(prompts)
                for unit in _connecting(experiment, PROMPTS, chunk)
            ),
        ],
        "06_hands_sets": sets,
        "06_hands_movements": [
            Unit(file_name(row.name), partial(experiment.movement_rows, row, movements))
            for row in moved
        ],
    }
    return [
        Table(
            name,
            command,
            of_table,
            parameters={
                "frames": FRAMES,
                "rows": [asdict(row) for row in (*rows, *SWEEP, *PROMPTS)],
            },
            sources=[experiment.photographs.source],
            models=[experiment.score.origin],
        )
        for name, of_table in units.items()
    ]


def _chunks(count: int) -> list[range]:
    return [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]


def _connecting(experiment: "Experiment", rows: Sequence[Row], chunk: range) -> list[Unit]:
    return [
        Unit(
            f"{file_name(row.name)}-{chunk[0]:02d}-{chunk[-1]:02d}",
            partial(experiment.pair_rows, row, chunk),
        )
        for row in rows
    ]


def renoise(score: Score, latents: Paths, sigma: float) -> Paths:
    """Frames with the noise of their ends, brought back by the probability flow.

    The flow carries both ends to sigma; what it adds, over sigma, is each end's own noise, so that
    the ends come back as they were but for the flow's error. Each frame gets a noise between the
    two, on a great circle, and goes back: what a smooth frame lacks comes from the model.
    """
    noise = [
        (flow.diffuse(score, end, sigma, steps=FLOW_STEPS) - end) / sigma
        for end in (latents[:, 0], latents[:, -1])
    ]
    noisy = latents + sigma * paths.slerp(*noise, latents.shape[1])
    back = flow.denoise(score, noisy.flatten(0, 1), sigma, steps=FLOW_STEPS)
    return back.reshape(latents.shape)


def of_digit(labels: Tensor, digit: int) -> Tensor:
    """Indices of the photographs of one digit."""
    return torch.nonzero(labels == digit).flatten()


def ends_of(labels: Tensor, pairs: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Indices of the first and of the last photograph of each pair, of different digits."""
    first = [of_digit(labels, i % 10)[i // 10] for i in pairs]
    last = [of_digit(labels, (i + 3 + i // 10) % 10)[ENDS_OF_A_DIGIT + i // 10] for i in pairs]
    return torch.stack(first), torch.stack(last)


def file_name(row: str) -> str:
    """Name of a row as files have it."""
    return "-".join(re.findall(r"[a-z0-9.]+", row))


class Experiment:
    """Photographs, model and measures; the frames that units hand on.

    Args:
        folder: of the frames.
        unseen: photographs of each digit that frames are compared with; None for all that are no
            end of a path.
    """

    def __init__(self, folder: Path, unseen: int | None = None) -> None:
        self.folder = folder
        self.unseen_of_a_digit = slice(2 * ENDS_OF_A_DIGIT, None)
        if unseen is not None:
            self.unseen_of_a_digit = slice(2 * ENDS_OF_A_DIGIT, 2 * ENDS_OF_A_DIGIT + unseen)
        self.photographs = hands.photographs("test")
        self.score = scores.load("hands", prompt="", sigma=DENSITY_SIGMA)
        self.images = hands.move(self.photographs.pixels)

    @cached_property
    def latents(self) -> Tensor:
        return encode(self.score, self.images)

    @cached_property
    def classifier(self) -> Classifier:
        return load_classifier("hands")

    @cached_property
    def lpips(self) -> Lpips:
        return load_lpips("squeeze")

    @cached_property
    def networks(self) -> list[Network]:
        return [self.classifier, load_imagenet(), load_imagenet("squeezenet1.1")]

    @cached_property
    def unseen(self) -> Tensor:
        """Indices of the photographs that are no end of any path."""
        return torch.cat([self.of_digit(digit)[self.unseen_of_a_digit] for digit in range(10)])

    @cached_property
    def references(self) -> list[Reference]:
        """Features of the unseen photographs through the autoencoder, of each network."""
        shown = decode(self.score, self.latents[self.unseen])
        words = f"{len(shown)} held-out photographs through the autoencoder"
        return [reference_of(network, shown, words) for network in self.networks]

    @cached_property
    def real(self) -> RealDensity:
        return real_density(self.score, self.latents[self.unseen])

    def of_digit(self, digit: int) -> Tensor:
        """Indices of its photographs."""
        return of_digit(self.photographs.labels, digit)

    def density(self, row: Row, first: Tensor, last: Tensor) -> Score:
        """The score that a row finds its paths under."""
        score = self.score.at(row.sigma)
        if row.prompts == "none":
            return score
        start, end = (
            [
                hands.CAPTIONS[0].format(hands.WORDS[digit])
                for digit in self.photographs.labels[ends]
            ]
            for ends in (first, last)
        )
        if row.prompts == "product":
            return ProductScore([score.prompted(start), score.prompted(end)])
        return score.prompted(start, end_prompt=end)

    def connect(self, row: Row, score: Score, start: Tensor, end: Tensor) -> Connected:
        """Paths of a row between latents."""
        settings = {"method": row.method, "frames": FRAMES, **row.settings}
        if "solver" in settings:
            with warnings.catch_warnings():
                # there are rows that show what a moving prompt does
                warnings.simplefilter("ignore", MovingDensityWarning)
                found = geodesics(score, start, end, **settings)
            return Connected(found.frames, found.evaluations, found.converged.double())
        made = interpolate(score, start, end, **settings)
        n = len(start)
        unknown = torch.full((n,), torch.nan)
        return Connected(made.frames, torch.full((n,), made.evaluations / n), unknown)

    def change(self, row: Row, found: Connected) -> Connected:
        """The frames of another row between the ends, denoised or renoised."""
        score = self.score.at(row.sigma)
        if row.change == "denoised":
            latents = denoise_inner(score, found.latents)
            return Connected(latents, found.evaluations + FRAMES - 2, found.converged)
        before = self.score.counter.evaluations
        latents = renoise(self.score, found.latents, row.sigma)
        spent = (self.score.counter.evaluations - before) / len(latents)
        return Connected(latents, found.evaluations + spent, found.converged)

    def pair_rows(self, row: Row, chunk: range) -> Rows:
        """Paths of a row between some pairs: measured, and kept with their features."""
        first, last = ends_of(self.photographs.labels, chunk)
        if row.of is None:
            score = self.density(row, first, last)
            found = self.connect(row, score, self.latents[first], self.latents[last])
        else:
            found = self.change(row, self.kept(row.of, chunk))
        shown = decode(self.score, found.latents)
        about = {"pair": list(chunk)}
        about["digit"] = self.photographs.labels[first].tolist()
        about["end_digit"] = self.photographs.labels[last].tolist()
        about |= self.log_densities(found.latents)
        given = decode(self.score, torch.stack([self.latents[first], self.latents[last]], 1))
        ends = psnr(shown[:, [0, -1]].flatten(0, 1), given.flatten(0, 1))
        about["ends_psnr"] = ends.reshape(-1, 2).amin(1).tolist()
        table = evaluate(
            {row.name: shown},
            distances={"lpips": self.lpips},
            classifier=self.classifier,
            evaluations={row.name: found.evaluations},
            about=about,
        )
        table["converged"] = found.convergence()
        features = [set_features(shown, network) for network in self.networks]
        self.keep(row.name, chunk, found, features)
        return table.to_dict("records")

    def movement_rows(self, row: Row, count: int) -> Rows:
        """Paths between the ends of known movements, against the true frames."""
        still = [self.of_digit(i % 10)[2 * ENDS_OF_A_DIGIT + i // 10] for i in range(count)]
        amount = torch.linspace(-0.5, 0.5, FRAMES)
        pixels = self.photographs.pixels[torch.stack(still)]
        rows = []
        for name, how in MOVEMENTS.items():
            truth = hands.movement(pixels, amount, **how)
            start = encode(self.score, truth[:, 0])
            end = encode(self.score, truth[:, -1])
            found = self.connect(row, self.score.at(row.sigma), start, end)
            table = evaluate(
                {row.name: decode(self.score, found.latents)},
                truth,
                distances={"lpips": self.lpips},
                evaluations={row.name: found.evaluations},
                about={"movement": [name] * count, "photograph": list(range(count))},
            )
            table["converged"] = found.convergence()
            rows += table.to_dict("records")
        return rows

    def set_rows(self, rows: Sequence[Row], count: int) -> Rows:
        """Set measures of rows, and their differences from the baselines among them."""
        names = [row.name for row in rows]
        against = [row.name for row in rows if row.name in AGAINST]
        others = [name for name in names if name not in against]
        tables = []
        for k, (network, reference) in enumerate(zip(self.networks, self.references, strict=True)):
            key = f"features {k}"
            features = {name: self.stored(name, range(count), key) for name in names}
            settings = {"network": network, "draws": DRAWS}
            tables.append(summary_of_features(features, reference, **settings))
            if against:
                tables.append(
                    differences_of_features(features, others, against, reference, **settings)
                )
        table = pd.concat(tables, ignore_index=True).fillna({"baseline": ""})
        return table.to_dict("records")

    def log_densities(self, latents: Paths) -> dict[str, list[float]]:
        """log p at the frames against that at the ends, and against that of real photographs.

        The line integral goes along the chords, each with a point in its middle.
        """
        count = latents.shape[1]
        finer = paths.evaluate(latents, torch.linspace(0, 1, 2 * count - 1), degree=1)
        value = along_path(self.score, finer)[:, ::2]
        to_start = paths.lerp(self.real.origin.expand_as(latents[:, 0]), latents[:, 0], 33)
        start = along_path(self.score, to_start)[:, -1]
        inner = start + value[:, 1:-1].mean(1)
        typical = (inner - self.real.values.mean()) / self.real.values.std()
        lower_end = value[:, [0, -1]].amin(1)
        return {
            "log_density_mean": (value.mean(1) - value[:, [0, -1]].mean(1)).tolist(),
            "log_density_dip": (lower_end - value.amin(1)).clamp_min(0).tolist(),
            "typicality": typical.tolist(),
        }

    # ---- what units hand on

    def path(self, name: str, pair: int) -> Path:
        return self.folder / file_name(name) / f"{pair:02d}.safetensors"

    def keep(self, name: str, chunk: range, found: Connected, features: Sequence[Tensor]) -> None:
        """Store the paths of some pairs and their frames' features."""
        tensors = {f"features {k}": values for k, values in enumerate(features)}
        tensors |= vars(found)
        for row, pair in enumerate(chunk):
            own = {name: values[row].contiguous() for name, values in tensors.items()}
            with replacing(self.path(name, pair)) as (draft,):
                draft.write_bytes(save(own))

    def stored(self, name: str, pairs: Sequence[int], key: str) -> Tensor:
        """One of the tensors that `keep` stored, of some pairs."""
        files = [self.path(name, pair).read_bytes() for pair in pairs]
        return torch.stack([load(file)[key] for file in files])

    def kept(self, name: str, pairs: Sequence[int]) -> Connected:
        """The paths that `keep` stored."""
        keys = ("latents", "evaluations", "converged")
        return Connected(*(self.stored(name, pairs, key) for key in keys))
