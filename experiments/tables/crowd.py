"""03_crowd, 04_networks: what the turn of a digit is to a score that knows 1, 10, … 60,000 digits.

Ten digits are connected to their own copies, turned by 45° and 90°, under the Stein metric: with
the exact score of N turned digits (the ten among them), and with the scores of networks that were
trained on N turned digits. A path *turns* its digit if its mean squared error to the true turn is
less than a quarter of the straight line's. The turn is *found* if the path from the straight line
turns the digit, and *held* if the path that starts at the true turn still does.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib import checks, paths
from lib.metrics import SteinMetric
from lib.scores import EmpiricalScore, load
from lib.scores.base import Score
from lib.solvers import ConvergenceWarning, GaussNewton, Portfolio, geodesic
from lib.solvers.base import Solution
from lib.solvers.geodesic import Geodesic, measure
from lib.solvers.graph import graph_path

from .. import data
from ..training.rotated_mnist import denoising_error, turn
from .base import ROOT, Rows, Table, Unit, command_line

NETWORKS = ROOT / "build" / "models"
# Digits of the bundled network: MNIST's training set.
ALL = 60_000
# A path turns its digit if its error is less than this share of the straight line's.
TURNED = 0.25
STARTS = ("line", "portfolio", "graph", "turn")


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        digits: source of the digits, as in `data.digits`.
        counts: numbers of digits that the exact score knows.
        networks: numbers of digits that networks were trained on.
        angles: of the turns, in degrees.
        spacing: degrees between two points of a path, at the noise level 1.
        step: degrees between two turns of a digit in the exact score, at the noise level 1.
        levels: noise levels, falling; geodesics are those of the last one.
        fine_levels: the same for scores that are asked at a lower noise level, too.
        fine_counts: numbers of digits for which the exact score is.
        lam: weight of the Stein metric over sigma².
        tol: of Gauss–Newton.
        max_iter: of Gauss–Newton, at each level.
        bent: bent starts of the portfolio.
        portfolio_limit: largest number of digits for which the portfolio is run.
        graph_limit: largest number of digits for which the graph of their turns is made.
        graph_step: degrees between two turns in the graph.
    """

    digits: str = "mnist"
    counts: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000)
    networks: tuple[int, ...] = (10, 100, 1000)
    angles: tuple[float, ...] = (45.0, 90.0)
    spacing: float = 1.875
    step: float = 2.0
    levels: tuple[float, ...] = (3.0, 2.0, 1.5, 1.0)
    fine_levels: tuple[float, ...] = (3.0, 2.0, 1.5, 1.0, 0.7, 0.5)
    fine_counts: tuple[int, ...] = (10,)
    lam: float = 1000.0
    tol: float = 1e-3
    max_iter: int = 60
    bent: int = 4
    portfolio_limit: int = 30
    graph_limit: int = 300
    graph_step: float = 6.0


MNIST = Settings()
SKLEARN = Settings(digits="sklearn", counts=(1, 3, 10, 30, 100, 300), fine_counts=())
SMALL = Settings(
    digits="sklearn",
    counts=(1, 12),
    angles=(45.0,),
    spacing=5.625,
    step=6.0,
    levels=(2.0, 1.0),
    fine_counts=(),
    bent=1,
    graph_step=12.0,
)


class TurnedDigits(EmpiricalScore):
    """The exact score of digits in evenly spread turns; at larger noise levels fewer turns will do.

    At the noise level sigma two adjacent turns are at most sigma·step degrees apart. For MNIST's
    digits and a step of 2° that is a median distance of 1.1 sigma, 1.75 sigma at most. A row of
    Gaussians at distances of δ is a smooth ridge but for ripples of 2·exp(−2π² sigma²/δ²) in p: at
    most 0.3 % here.

    Args:
        digits: (n, 1, height, width).
        sigma: noise level.
        step: degrees between two turns at the noise level 1.

    Example:
        >>> import torch
        >>> score = TurnedDigits(torch.rand(2, 1, 8, 8), sigma=1.0, step=2.0)
        >>> len(score.samples), len(score.at(3.0).samples)
        (360, 120)
    """

    name = "turned digits"

    def __init__(
        self, digits: Float[Tensor, "n 1 height width"], sigma: float, *, step: float = 2.0
    ) -> None:
        self.step = step
        self.turns = math.ceil(360 / (step * sigma))
        degrees = torch.arange(self.turns) * (360 / self.turns)
        images = torch.cat([data.rotate(digits, angle) for angle in degrees.tolist()])
        super().__init__(images, sigma)
        self.all_points = self.points

    def at(self, sigma: float | Tensor) -> "TurnedDigits":
        """The score at another noise level, of as many turns as it needs."""
        other = super().at(sigma)
        most = int(self.step * float(other.sigma) * self.turns / 360 + 1e-9)
        stride = max(k for k in range(1, max(1, most) + 1) if self.turns % k == 0)
        by_turn = self.all_points.unflatten(0, (self.turns, -1))
        other.points = by_turn[::stride].flatten(0, 1)
        other.squares = other.points.square().sum(1)
        return other


@dataclass(frozen=True)
class Case:
    """A score, and the digits to turn under it.

    Attributes:
        kind: "exact" or "network".
        count: number of digits that the score knows.
        seen: whether the ten digits are among them.
        levels: noise levels.
    """

    kind: str
    count: int
    seen: bool
    levels: tuple[float, ...]

    @property
    def sigma(self) -> float:
        """The last noise level."""
        return self.levels[-1]

    @property
    def name(self) -> str:
        """For files."""
        seen = "" if self.seen else "-unseen"
        return f"{self.kind}-{self.count}{seen}-{self.sigma:g}"


def exact_table(settings: Settings) -> Table:
    """03_crowd: exact scores, a unit for each number of digits, angle and start."""
    cases = [Case("exact", count, True, settings.levels) for count in settings.counts]
    cases += [Case("exact", count, True, settings.fine_levels) for count in settings.fine_counts]
    real = settings.digits == "mnist"
    return Table(
        name="03_crowd" if real else f"03_crowd_{settings.digits}",
        command=command_line("crowd", digits=None if real else settings.digits),
        units=_units(cases, settings, NETWORKS),
        parameters={**asdict(settings), "turned": TURNED},
        sources=[data.digits(settings.digits).source],
    )


def network_table(settings: Settings, networks: Path = NETWORKS) -> Table:
    """04_networks: learned scores of MNIST's digits, the bundled one among them.

    Args:
        settings: of the experiment.
        networks: folder of the networks rotated-mnist-N, which know N test digits.
    """
    cases = [Case("network", count, True, settings.levels) for count in settings.networks]
    # The bundled network knows the training digits: ten of these are turned, and ten test digits.
    cases += [Case("network", ALL, seen, settings.levels) for seen in (True, False)]
    fine = [Case("network", ALL, seen, settings.fine_levels) for seen in (True, False)]
    units = _units(cases, settings, networks)
    units += _units(fine, replace(settings, angles=settings.angles[:1]), networks)
    return Table(
        name="04_networks",
        command=command_line("networks"),
        units=units,
        parameters={**asdict(settings), "turned": TURNED},
        sources=[data.digits(settings.digits, split=split).source for split in ("test", "train")],
    )


def _units(cases: list[Case], settings: Settings, networks: Path) -> list[Unit]:
    units = []
    for degrees in settings.angles:
        for case in cases:
            models = []
            if case.kind == "network":
                models.append(load(_network(case.count, networks)).origin)
            for start in starts(case, settings):
                unit = partial(rows, case, degrees, start, settings, networks)
                units.append(Unit(f"{case.name}-{degrees:g}-{start}", unit, models))
    return units


def starts(case: Case, settings: Settings) -> Iterator[str]:
    """Where the solver starts under this score; what takes too long is left out."""
    yield "line"
    if case.kind == "exact" and case.count <= settings.portfolio_limit:
        yield "portfolio"
    if case.kind == "exact" and case.count <= settings.graph_limit:
        yield "graph"
    yield "turn"


def rows(
    case: Case, degrees: float, start: str, settings: Settings, networks: Path = NETWORKS
) -> Rows:
    """Geodesics of the ten digits under one score, from one start: a row a digit."""
    split = "train" if case.count == ALL and case.seen else "test"
    ten = data.balanced(data.digits(settings.digits, split=split), 10)
    points = 1 + 2 * round(degrees / (settings.spacing * case.sigma) / 2)
    made = []
    # A score of fewer than ten digits knows one of the ten; any other serves all of them at once.
    groups = [[k] for k in range(10)] if case.count < 10 else [list(range(10))]
    for group in groups:
        score = score_of(case, group[0], settings, networks)
        metric = SteinMetric(score, lam=settings.lam * case.sigma**2)
        truth = true_turns(ten.images[group], degrees, points)
        path = find(metric, ten.images[group], degrees, points, start, case.levels, settings)
        line = paths.lerp(truth[:, 0], truth[:, -1], points)
        for row, k in enumerate(group):
            error = mean_squared_error(path.points[row], truth[row])
            line_error = mean_squared_error(line[row], truth[row])
            entry = {
                "score": case.kind,
                "digits": case.count,
                "seen": case.seen,
                "sigma": case.sigma,
                "angle": degrees,
                "digit": int(ten.labels[k]),
                "start": start,
                "error": error,
                "line_error": line_error,
                "turned": error < TURNED * line_error,
                "energy": float(path.energy[row]),
                "truth_energy": float(path.truth_energy[row]),
                "converged": bool(path.converged[row]),
                "evaluations": float(path.evaluations[row]),
            }
            made.append(entry)
    if case.kind == "network":
        made = [row | denoising(case, ten, score) for row in made]
    return made


@dataclass
class Found:
    """Geodesics between the ends of true turns, each at as many points as it needs.

    Attributes:
        points: Of each path, at the times that were asked for.
        energy: At the points of the solver.
        truth_energy: Of the true turns at as many points.
        converged: Whether each has converged.
        evaluations: Of the score, for each path.
    """

    points: Float[Tensor, "batch points *event"]
    energy: Float[Tensor, "batch"]
    truth_energy: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    evaluations: Float[Tensor, "batch"]


def find(
    metric: SteinMetric,
    images: Float[Tensor, "batch 1 height width"],
    degrees: float,
    points: int,
    start: str,
    levels: tuple[float, ...],
    settings: Settings,
) -> Found:
    """Geodesics; those that have not converged are solved again on twice as many segments."""
    truth = true_turns(images, degrees, points)
    path = solve(metric, truth, start, levels, settings)
    evaluations = torch.full((len(images),), path.score_evaluations / len(images))
    found = Found(path.points, path.energy, energies(metric, truth), path.converged, evaluations)
    again = (~found.converged).nonzero().flatten()
    if len(again) > 0:
        truth = true_turns(images[again], degrees, 2 * points - 1)
        path = solve(metric, truth, start, levels, settings)
        found.points[again] = path.points[:, ::2]
        found.energy[again] = path.energy
        found.truth_energy[again] = energies(metric, truth)
        found.converged[again] = path.converged
        found.evaluations[again] += path.score_evaluations / len(again)
    return found


def solve(
    metric: SteinMetric,
    truth: Float[Tensor, "batch points *event"],
    start: str,
    levels: tuple[float, ...],
    settings: Settings,
) -> Geodesic:
    """Geodesics between the ends of true turns; "turn" starts at these turns themselves.

    Lines are annealed from the largest noise level. A chain of samples has kinks, which the last
    level but one smooths. The true turn is near a geodesic already.
    """
    checks.choice("start", start, STARTS)
    solver = GaussNewton(tol=settings.tol, max_iter=settings.max_iter)
    options: dict[str, Any] = {"solver": solver}
    if start == "portfolio":
        options["solver"] = Portfolio(
            starts=settings.bent, tol=settings.tol, max_iter=settings.max_iter
        )
    if start in ("line", "portfolio"):
        options["noise_levels"] = levels
    if start == "graph":
        options["init"] = graph_start(metric.score, truth, settings.graph_step)
        options["noise_levels"] = levels[-2:]
    if start == "turn":
        options["init"] = truth
    with warnings.catch_warnings():
        # The table has a column `converged`.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return geodesic(metric, truth[:, 0], truth[:, -1], points=truth.shape[1], **options)


def graph_start(
    score: TurnedDigits, truth: Float[Tensor, "batch points *event"], step: float
) -> Float[Tensor, "batch points *event"]:
    """Shortest paths through the turns that the score knows, one every `step` degrees."""
    stride = max(1, round(step * score.turns / 360))
    nodes = score.samples.unflatten(0, (score.turns, -1))[::stride].flatten(0, 1)
    return graph_path(truth[:, 0], truth[:, -1], nodes, truth.shape[1])


def score_of(case: Case, digit: int, settings: Settings, networks: Path) -> Score:
    """The score of a case; `digit` matters where the score knows one digit alone."""
    if case.kind == "network":
        return load(_network(case.count, networks), sigma=case.sigma)
    known = data.balanced(data.digits(settings.digits), max(case.count, 10)).images
    if case.count < 10:
        # Its own digit, and the next ones.
        known = known.roll(-digit, 0)[: case.count]
    return TurnedDigits(known, case.sigma, step=settings.step)


def denoising(case: Case, known: data.Digits, score: Score) -> dict[str, float]:
    """Mean squared denoising errors of a network at its noise level: has it learned by heart?

    Args:
        case: what the network knows.
        known: ten digits; those of the training set if it knows them.
        score: of the network.

    Returns:
        "own_error" on digits that it knows, "other_error" on test digits that no network knows,
        each on 100 images of ten digits, turned by random angles.
    """
    test = data.balanced(data.digits("mnist"), 1010).images
    if not case.seen:
        known = data.balanced(data.digits("mnist", split="train"), 10)
    errors = {}
    for name, images in (("own_error", known.images), ("other_error", test[1000:])):
        turned = turn(images.repeat(10, 1, 1, 1), torch.Generator().manual_seed(0))
        errors[name] = denoising_error(score, turned, [case.sigma])[case.sigma]
    return errors


def true_turns(
    images: Float[Tensor, "n 1 height width"], degrees: float, points: int
) -> Float[Tensor, "n points 1 height width"]:
    """Each image turned at constant speed from 0 to some degrees."""
    angles = torch.linspace(0, degrees, points).tolist()
    return torch.stack([data.rotate(images, angle) for angle in angles], 1)


def energies(metric: SteinMetric, given: Float[Tensor, "batch points *event"]) -> Tensor:
    """Energies of given paths, as `geodesic` measures them."""
    count = len(given)
    return measure(
        metric, Solution(given, torch.ones(count, dtype=torch.bool), [""] * count)
    ).energy


def mean_squared_error(path: Tensor, truth: Tensor) -> float:
    """Of pixel values, over all points of a path."""
    return float((path - truth).square().mean())


def _network(count: int, networks: Path) -> str | Path:
    """The network of so many digits, a name or a folder."""
    if count == ALL:
        return "rotated-mnist"
    folder = networks / f"rotated-mnist-{count}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no network of {count} digits in {networks.name}; train it: python -m "
            f"experiments.training rotated-mnist --count {count} --split test "
            "--from rotated-mnist"
        )
    return folder


def shares(made: pd.DataFrame) -> pd.DataFrame:
    """How many of the digits are turned: a row for each score, angle and start.

    Args:
        made: the table.

    Returns:
        The columns score, digits, seen, sigma, angle, start; turned and converged, numbers of the
        `of` digits; both, the number whose path turns and has converged; cheaper, the number of
        digits for which the path from the true turn has less energy than the path from this start;
        ratio, the median of error / line_error.
    """
    keys = ["score", "digits", "seen", "sigma", "angle"]
    made = made.assign(ratio=made.error / made.line_error)
    held = made[made.start == "turn"].set_index([*keys, "digit"]).energy
    other = made.join(held.rename("held_energy"), on=[*keys, "digit"])
    cheaper = other.held_energy < other.energy
    made = other.assign(cheaper=cheaper, both=other.turned & other.converged)
    grouped = made.groupby([*keys, "start"], sort=False)
    counted = grouped[["turned", "converged", "both", "cheaper"]].sum()
    return counted.assign(ratio=grouped.ratio.median(), of=grouped.size()).reset_index()
