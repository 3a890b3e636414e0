"""04_digits, 04_digits_sets: every method on pairs of MNIST test digits under the learned score.

Each digit is connected to its own copies, turned by four angles, and to the next digit. The turns
of one digit are one unit in every interval. Geodesics are found as `interpolate` finds them by
default, and those that have not converged on twice as many segments.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from lib import interpolate, scores
from lib.checks import positive
from lib.files import replacing
from lib.methods.baselines import denoise_inner

from .. import data, ink
from ..classifiers import load_classifier, load_reference
from ..evaluation import (
    evaluate,
    load_imagenet,
    load_lpips,
    real_density,
    reference_of,
    set_features,
)
from ..evaluation.table import differences_of_features, summary_of_features
from .base import Rows, Table, Unit, command_line
from .resolved import geodesics

Frames = Float[Tensor, "pairs frames 1 height width"]

# Digits a block: one of each class. A block is resumed as a whole.
BLOCK = 10
BASELINES = (
    "lerp",
    "slerp",
    "ot",
    "lerp_denoised 0.5",
    "lerp_denoised 0.25",
    "shared_noise_lerp",
    "ddim_slerp",
    "noisediffusion",
)


@dataclass(frozen=True)
class Setting:
    """Of a geodesic.

    Attributes:
        method: of `interpolate`.
        sigma: its last noise level.
        alpha: of the density metric; None where there is none.
        points: of its path; None: as many as `interpolate` takes.
    """

    method: str
    sigma: float
    alpha: float | None = None
    points: int | None = None

    @property
    def title(self) -> str:
        """Such as "density 0.05, sigma 0.25"."""
        weight = "" if self.alpha is None else f" {self.alpha:g}"
        return f"{self.method}{weight}, sigma {self.sigma:g}"


GEODESICS = (
    Setting("stein", 0.5),
    Setting("density", 0.5, alpha=0.01),
    Setting("density", 0.5, alpha=0.05),
    # 17 points resolve neither of these
    Setting("density", 0.5, alpha=0.1, points=33),
    Setting("both", 0.5, alpha=0.05, points=33),
    Setting("stein", 0.25),
)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        count: digits, a multiple of ten.
        angles: of the turns, in degrees.
        frames: of a path, both ends included.
        baselines: methods without a metric, with their noise level where they have one.
        geodesics: their metrics and noise levels.
        flow_steps: Heun steps of the probability flow, there and back each.
        denoise: noise level at which frames of geodesics are denoised once.
        real: held-out digits, turned at random, that set measures compare with.
        typical: of these, how many log densities typicality compares with.
        every: set measures of ImageNet networks take every so many frames.
        draws: of the bootstrap.
        seed: of the choice of digits and the shared noise.
    """

    count: int = 20
    angles: tuple[float, ...] = (15.0, 45.0, 90.0, 180.0)
    frames: int = 17
    baselines: tuple[str, ...] = BASELINES
    geodesics: tuple[Setting, ...] = GEODESICS
    flow_steps: int = 9
    denoise: float = 0.35
    real: int = 500
    typical: int = 60
    every: int = 4
    draws: int = 1000
    seed: int = 0


DEFAULT = Settings()
SMALL = Settings(
    count=10,
    angles=(45.0,),
    frames=3,
    baselines=("lerp", "ot", "lerp_denoised 0.5"),
    geodesics=(Setting("density", 10.0, alpha=0.001),),
    flow_steps=3,
    real=20,
    typical=3,
    draws=20,
)


@dataclass(frozen=True)
class Pairs:
    """A block of digits and what is to be connected.

    Attributes:
        truth: true frames of the turns, one after the other angle by angle.
        about: columns kind ("turn" or "between"), angle, digit, unit.
        start: first images of all pairs.
        end: last images of all pairs.
    """

    truth: Frames
    about: dict[str, list]
    start: Tensor
    end: Tensor


class Experiment:
    """Pairs, score and networks, loaded once for all units of work.

    Args:
        settings: of the experiment.
        work: folder that keeps the frames of each method.
    """

    def __init__(self, settings: Settings, work: str | Path) -> None:
        if settings.count < BLOCK or settings.count % BLOCK:
            raise ValueError(f"count must be a multiple of {BLOCK}, got {settings.count}")
        self.settings = settings
        self.folder = Path(work) / "04_digits_frames"
        self.score = scores.load("rotated-mnist", sigma=0.5)
        self.found = data.digits("mnist", split="test")

    @property
    def blocks(self) -> range:
        return range(self.settings.count // BLOCK)

    @cached_property
    def order(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.settings.seed)
        return torch.randperm(len(self.found), generator=generator)

    @cached_property
    def real(self) -> Tensor:
        """Held-out digits turned at random, none of them among the pairs."""
        chosen = self.order[-self.settings.real :]
        generator = torch.Generator().manual_seed(self.settings.seed + 1)
        angles = 360 * torch.rand(len(chosen), generator=generator, dtype=torch.float64)
        return data.rotate(self.found.images[chosen], angles)

    def pairs(self, block: int) -> Pairs:
        """The pairs of ten digits, one of each class."""
        labels = self.found.labels[self.order]
        places = [self.order[labels == digit][block] for digit in range(10)]
        images = self.found.images[torch.stack(places)]
        shares = torch.linspace(0, 1, self.settings.frames, dtype=torch.float64).tolist()
        turns = [
            torch.stack([data.rotate(images, angle * share) for share in shares], 1)
            for angle in self.settings.angles
        ]
        truth = torch.cat(turns)
        following = images.roll(-1, 0)
        units = [BLOCK * block + k for k in range(10)]
        times = len(turns)
        about = {
            "kind": ["turn"] * len(truth) + ["between"] * 10,
            "angle": [angle for angle in self.settings.angles for _ in range(10)] + [None] * 10,
            "digit": list(range(10)) * (times + 1),
            "unit": units * (times + 1),
        }
        start = torch.cat([truth[:, 0], images])
        end = torch.cat([truth[:, -1], following])
        return Pairs(truth, about, start, end)

    def keep(self, method: str, block: int, frames: Frames) -> None:
        """Keep the frames of a method for the set measures."""
        with replacing(self.file(method, block)) as (draft,):
            draft.write_bytes(safetensors.torch.save({"frames": frames.float().contiguous()}))

    def file(self, method: str, block: int) -> Path:
        return self.folder / f"{_file_name(method)}-{block}.safetensors"

    def kept(self, method: str) -> Frames:
        """The frames of a method, all blocks."""
        files = [self.file(method, block) for block in self.blocks]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(
                f"frames are missing ({missing[0]}): delete the folder 04_digits beside "
                f"{self.folder.name} and run again"
            )
        return torch.cat([safetensors.torch.load_file(file)["frames"] for file in files])

    def rows(
        self,
        method: str,
        block: int,
        pairs: Pairs,
        frames: Frames,
        *,
        evaluations: float | list[float],
        converged: Tensor | None,
        **columns: Any,
    ) -> Rows:
        """Measures of one method on one block, a row a pair; its frames are kept."""
        frames = frames.float()
        self.keep(method, block, frames)
        turns = len(pairs.truth)
        common = {
            "distances": {"lpips": self.lpips},
            "score": self.score,
            "real": self.density,
            "classifier": self.classifier,
        }
        parts = [
            evaluate({method: frames[:turns]}, pairs.truth, **common),
            evaluate({method: frames[turns:]}, **common),
        ]
        table = pd.concat(parts, ignore_index=True)
        table["pair"] = len(table) * block + table.index
        for name, values in {**pairs.about, **columns}.items():
            table[name] = values
        table["evaluations"] = evaluations
        table["converged"] = None if converged is None else converged.tolist()
        table = table.astype(object).where(table.notna(), None)
        return table.to_dict("records")

    @cached_property
    def lpips(self) -> Callable:
        return load_lpips("squeeze")

    @cached_property
    def classifier(self) -> Any:
        return load_classifier("digits")

    @cached_property
    def density(self) -> Any:
        return real_density(self.score, self.real[: self.settings.typical])

    # ---- units of work

    def units(self) -> Iterator[Unit]:
        """Ten digits by every method, then the next ten."""
        for block in self.blocks:
            yield Unit(f"true-turn-{block}", self.unit(self.truth_rows, block))
            for method in self.settings.baselines:
                name = _file_name(method)
                yield Unit(f"{name}-{block}", self.unit(self.baseline_rows, block, method))
            for setting in self.settings.geodesics:
                name = f"{_file_name(setting.title)}-{block}"
                yield Unit(name, self.unit(self.geodesic_rows, block, setting))

    def unit(self, rows: Callable[..., Rows], block: int, *arguments: Any) -> Callable[[], Rows]:
        def work() -> Rows:
            return rows(block, self.pairs(block), *arguments)

        return work

    def truth_rows(self, block: int, pairs: Pairs) -> Rows:
        """The turns themselves: what an ideal method would score. Between digits there is none."""
        turns = len(pairs.truth)
        common = {"distances": {"lpips": self.lpips}, "classifier": self.classifier}
        table = evaluate(
            {"true turn": pairs.truth},
            pairs.truth,
            score=self.score,
            real=self.density,
            **common,
        )
        self.keep("true turn", block, pairs.truth)
        table["pair"] = len(pairs.start) * block + table.index
        for name, values in pairs.about.items():
            table[name] = values[:turns]
        table["denoised"] = False
        table = table.drop(columns="psnr")
        return table.astype(object).where(table.notna(), None).to_dict("records")

    def baseline_rows(self, block: int, pairs: Pairs, method: str) -> Rows:
        """A path without a metric."""
        name, *level = method.split()
        count = self.settings.frames
        if name == "ot":
            frames = ink.displacement(pairs.start, pairs.end, count)
            evaluations = 0.0
        else:
            settings: dict[str, Any] = {"method": name, "frames": count}
            if level:
                settings["sigma"] = positive("sigma", float(level[0]))
            if name in ("shared_noise_lerp", "ddim_slerp", "noisediffusion"):
                settings |= {"flow_steps": self.settings.flow_steps, "flow_method": "heun"}
                settings["seed"] = self.settings.seed
            made = interpolate(self.score, pairs.start, pairs.end, **settings)
            frames = made.frames
            evaluations = made.evaluations / len(frames)
        columns = {"family": name, "denoised": name == "lerp_denoised"}
        return self.rows(
            method,
            block,
            pairs,
            frames,
            evaluations=evaluations,
            converged=None,
            **columns,
        )

    def geodesic_rows(self, block: int, pairs: Pairs, setting: Setting) -> Rows:
        """Geodesics, as they are and with their frames denoised once."""
        count = self.settings.frames
        settings: dict[str, Any] = {}
        if setting.alpha is not None:
            settings["alpha"] = setting.alpha
        if setting.points is not None:
            settings["points"] = setting.points
        made = geodesics(
            self.score,
            pairs.start,
            pairs.end,
            method=setting.method,
            frames=count,
            sigma=setting.sigma,
            **settings,
        )
        denoised = denoise_inner(self.score.at(self.settings.denoise), made.frames)
        versions = {"": (made.frames, 0), ", denoised": (denoised, count - 2)}
        rows: Rows = []
        for suffix, (frames, extra) in versions.items():
            rows += self.rows(
                setting.title + suffix,
                block,
                pairs,
                frames,
                evaluations=(made.evaluations + extra).tolist(),
                converged=made.converged,
                family=setting.method,
                alpha=setting.alpha,
                sigma=setting.sigma,
                denoised=extra > 0,
            )
        return rows

    @property
    def methods(self) -> list[str]:
        """Names of all methods, baselines first."""
        names = list(self.settings.baselines)
        for setting in self.settings.geodesics:
            names += [setting.title, f"{setting.title}, denoised"]
        return names

    def set_units(self) -> Iterator[Unit]:
        """Set measures by each network, turns and pairs of digits apart."""
        for network in ("classifier", "efficientnet-lite0", "squeezenet1.1"):
            yield Unit(network, lambda network=network: self.set_rows(network))

    def set_rows(self, name: str) -> Rows:
        """Each method's set measures, and its differences from every baseline's."""
        if name == "classifier":
            network = self.classifier
            reference = load_reference("digits")
            every = 1
        else:
            network = load_imagenet(name)
            reference = reference_of(network, self.real, "held-out digits turned at random")
            every = self.settings.every
        kinds = {"turn": [], "between": []}
        for block in self.blocks:
            about = pd.DataFrame(self.pairs(block).about)
            for kind, parts in kinds.items():
                parts.append(about[about.kind == kind].unit)
        features = {
            method: set_features(self.kept(method), network, every=every)
            for method in ["true turn", *self.methods]
        }
        rows: Rows = []
        for kind, parts in kinds.items():
            units = pd.concat(parts).tolist()
            of_kind = {
                method: self.of_kind(kind, x)
                for method, x in features.items()
                if kind == "turn" or method != "true turn"
            }
            settings = {"network": network, "units": units, "draws": self.settings.draws}
            values = summary_of_features(of_kind, reference, **settings)
            differences = differences_of_features(
                of_kind, self.methods, list(self.settings.baselines), reference, **settings
            )
            made = pd.concat([values, differences], ignore_index=True)
            made.insert(0, "kind", kind)
            rows += made.astype(object).where(made.notna(), None).to_dict("records")
        return rows

    def of_kind(self, kind: str, features: Tensor) -> Tensor:
        """Rows of the turns or of the pairs between digits, of all blocks."""
        turns = BLOCK * len(self.settings.angles)
        whole = turns + BLOCK
        if len(features) == turns * len(self.blocks):
            return features
        blocks = features.unflatten(0, (-1, whole))
        chosen = blocks[:, :turns] if kind == "turn" else blocks[:, turns:]
        return chosen.flatten(0, 1)


def pairs_table(settings: Settings, work: str | Path) -> Table:
    """04_digits: one row a method and pair."""
    return _table("04_digits", Experiment(settings, work), Experiment.units)


def sets_table(settings: Settings, work: str | Path) -> Table:
    """04_digits_sets: set measures of each method, and differences from each baseline.

    The frames are those that `pairs_table` has left in the work folder.
    """
    return _table("04_digits_sets", Experiment(settings, work), Experiment.set_units)


def _table(
    name: str, experiment: Experiment, units: Callable[[Experiment], Iterator[Unit]]
) -> Table:
    settings = experiment.settings
    return Table(
        name,
        command_line("digits", count=settings.count),
        list(units(experiment)),
        parameters=asdict(settings),
        sources=[experiment.found.source],
        models=[experiment.score.origin],
    )


def _file_name(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")
