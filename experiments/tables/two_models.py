"""Two networks that learned the same photographs: have they learned one geometry?

By default "hands" (v-prediction by a U-Net) and "hands-flow" (rectified flow by a transformer),
which share an autoencoder, so that a latent means the same image to both. Beside them stands the
Gaussian of mean and covariance of the training photographs: what it knows, a network need not have
seen any hand to know.

Two tables: the scores of all three at the same points (10_two_models_scores), and their geodesics
between the same held-out photographs (10_two_models).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from lib import METHODS, ConvergenceWarning, Geodesic, Metric, checks, geodesic, latents, paths
from lib.methods.annealing import annealing_schedule
from lib.scores import FunctionScore, PipelineScore, Score, load
from lib.solvers.base import Solution
from lib.solvers.geodesic import measure

from .. import hands
from .base import Rows, Table, Unit, command_line
from .hands import ENDS_OF_A_DIGIT, ends_of

NAME = "10_two_models"
MODELS = ("hands", "hands-flow")
GAUSSIAN = "gaussian"

SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
PLACES = ("noised photographs", "photographs", "blends", "noise")
SIGMA = 1.0  # of the metrics
GEODESICS = ("stein", "density")
PAIRS = 12
MAX_ITER = 100

COMPARED = 33  # points at which two paths are compared
FITTED = 4000  # photographs, each moved at random, whose Gaussian it is
SEED = 0

Latents = Float[Tensor, "n channels height width"]
Curve = Float[Tensor, "1 points channels height width"]


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of latents, convolved with noise.

    Attributes:
        mean: Flattened.
        variances: Of the covariance.
        axes: Its eigenvectors, a column each.
    """

    mean: Float[Tensor, " d"]
    variances: Float[Tensor, " d"]
    axes: Float[Tensor, "d d"]

    @classmethod
    def of(cls, points: Latents) -> "Gaussian":
        """The Gaussian with mean and covariance of some points, more of them than dimensions."""
        rows = points.flatten(1).double()
        if len(rows) <= rows.shape[1]:
            raise ValueError(
                f"a covariance of {rows.shape[1]} dimensions wants more points than that, got "
                f"{len(rows)}"
            )
        variances, axes = torch.linalg.eigh(rows.T.cov())
        return cls(rows.mean(0).float(), variances.float(), axes.float())

    def __call__(self, x: Latents, sigma: float | Tensor) -> Latents:
        """Its score at noise level sigma."""
        level = torch.as_tensor(sigma).to(x).reshape(-1, 1)
        gap = (x.flatten(1) - self.mean.to(x)) @ self.axes.to(x)
        pull = gap / (self.variances.to(x) + level**2)
        return -(pull @ self.axes.to(x).T).reshape(x.shape)

    def score(self, like: Score) -> FunctionScore:
        """It as a score of points of the same shape as another's."""
        return FunctionScore(self, sigma=like.sigma, event_shape=like.event_shape)


def same_points(one: PipelineScore, other: PipelineScore) -> bool:
    """Whether a latent means the same image to two models: their autoencoders agree."""
    if one.event_shape != other.event_shape or one.image_size != other.image_size:
        return False
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand(1, 3, *one.image_size, generator=generator)
    first, second = (latents.encode(score, image) for score in (one, other))
    return torch.allclose(first, second, atol=1e-3)


class Comparison:
    """Two models, the Gaussian, and the photographs that they meet at.

    Args:
        models: Names or folders of two latent models with the same autoencoder.
        fitted: Training photographs that the Gaussian is fitted to.

    Raises:
        ValueError: Models of different latents, or of one name.
    """

    def __init__(self, models: Sequence[str] = MODELS, fitted: int = FITTED) -> None:
        one, other = (load(model, prompt="", sigma=SIGMA, micro_batch=64) for model in models)
        if not same_points(one, other):
            raise ValueError(
                f"{models[0]} and {models[1]} have different autoencoders: a latent of one means "
                "nothing to the other, and their scores cannot be compared"
            )
        self.networks = {score.origin["name"]: score for score in (one, other)}
        if len(self.networks) < 2:
            raise ValueError(f"both models are called {models[0]}: name two different ones")
        self.one = one
        self.fitted = fitted
        self.photographs = hands.photographs("test")

    @cached_property
    def latents(self) -> Latents:
        """Of all held-out photographs."""
        return latents.encode(self.one, hands.move(self.photographs.pixels))

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Name → score, the Gaussian last."""
        pixels = hands.photographs("train").pixels
        generator = torch.Generator().manual_seed(SEED)
        chosen = torch.randperm(self.fitted, generator=generator) % len(pixels)
        moved = hands.augment(pixels[chosen], generator)
        gaussian = Gaussian.of(latents.encode(self.one, moved))
        return {**self.networks, GAUSSIAN: gaussian.score(self.one)}

    # ---- scores at the same points

    def score_rows(self, sigma: float, count: int) -> Rows:
        """The scores of all at one noise level, at `count` points of each kind."""
        generator = torch.Generator().manual_seed(SEED)
        first, last = ends_of(self.photographs.labels, range(count))
        start, end = self.latents[first], self.latents[last]
        noise = torch.randn(start.shape, generator=generator)
        points = {
            "noised photographs": start + sigma * noise,
            "photographs": start,
            # Double exposures: the middle of the straight line.
            "blends": (start + end) / 2,
            # No image at all, of the spread that latents have.
            "noise": torch.randn(start.shape, generator=generator),
        }
        rows = []
        for place in PLACES:
            found = {}
            with torch.no_grad():
                for name, score in self.scores.items():
                    found[name] = score.at(sigma)(points[place]).flatten(1).double()
            columns = agreement(found)
            if place == "noised photographs":
                columns |= identities(found, points[place], noise, sigma)
            for k in range(count):
                own = {column: values[k].item() for column, values in columns.items()}
                rows.append({"sigma": sigma, "place": place, "point": k, **own})
        return rows

    # ---- geodesics between the same images

    def pair_rows(
        self, metric: str, pair: int, points: int | None = None, max_iter: int = MAX_ITER
    ) -> Rows:
        """The geodesics of one metric between the photographs of one pair, under every score.

        Args:
            metric: Of `GEODESICS`.
            pair: Its number.
            points: Of a path, by default as many as `interpolate` takes.
            max_iter: Most steps of a solver at each noise level.
        """
        first, last = ends_of(self.photographs.labels, [pair])
        start, end = self.latents[first], self.latents[last]
        rulers = {name: ruler(metric, score) for name, score in self.scores.items()}
        connect = partial(self.between, start=start, end=end, points=points, max_iter=max_iter)
        found = {name: connect(own) for name, own in rulers.items()}
        own = {name: path.points for name, path in found.items()}
        one, other = self.networks
        # Are they two valleys of one landscape? Each solver starts again from the other's path.
        for name, start_of in ((one, other), (other, one)):
            found[f"{name}, from {start_of}"] = connect(rulers[name], init=own[start_of])

        line = paths.lerp(start, end, own[one].shape[1])
        of_line = {name: along(ruler, line).energy.item() for name, ruler in rulers.items()}
        about = {
            "metric": metric,
            "pair": pair,
            "digit": self.photographs.labels[first].item(),
            "end_digit": self.photographs.labels[last].item(),
            "chord": (end - start).norm().item(),
        }
        solved = {"converged": None, "evaluations": None, "length": None}
        columns = self.path_columns(line, own, rulers, of_line)
        rows = [{**about, "path": "line", **solved, **columns}]
        for name, path in found.items():
            solved = {
                "converged": bool(path.converged),
                "evaluations": path.score_evaluations,
                "length": path.length.item(),
            }
            columns = self.path_columns(path.points, own, rulers, of_line)
            rows.append({**about, "path": name, **solved, **columns})
        return rows

    def between(
        self,
        metric: Metric,
        start: Latents,
        end: Latents,
        *,
        init: Curve | None = None,
        points: int | None = None,
        max_iter: int = MAX_ITER,
    ) -> Geodesic:
        """A geodesic as `interpolate` finds it by default, or from a given path at once.

        The schedule is that of the first network, the same for all.
        """
        preset = METHODS[metric.kind].learned
        schedule = annealing_schedule(self.one, points=points, least=preset.points)
        settings = {"points": schedule.points, "max_iter": max_iter}
        if init is None:
            settings["noise_levels"] = schedule.noise_levels
            settings["solver"] = replace(preset.solver, coarse=schedule.coarse)
        else:
            # At a larger noise level the solver would leave the path at once.
            settings |= {"init": init, "noise_levels": (SIGMA,), "solver": preset.solver}
        with warnings.catch_warnings():
            # The table has a column for it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return geodesic(metric, start, end, **settings)

    def path_columns(
        self,
        points: Curve,
        own: Mapping[str, Curve],
        rulers: Mapping[str, Metric],
        of_line: Mapping[str, float],
    ) -> dict[str, float | None]:
        """One path against the geodesics of every score, and under the ruler of each."""
        scores = {name: ruler.scores_along(points) for name, ruler in rulers.items()}
        inner = [scores[name][0, 1:-1].flatten(1) for name in self.networks]
        bend = bend_of(points)
        columns = {
            "bend": rms(bend),
            "score_cosine": torch.cosine_similarity(*inner).mean().item(),
        }
        for name, path in own.items():
            other = bend_of(path)
            columns[f"distance {name}"] = rms(bend - other)
            columns[f"cosine {name}"] = cosine_of(bend, other)
            energy = along(rulers[name], points, scores[name]).energy.item()
            columns[f"energy {name}"] = energy / of_line[name]
        return columns


def agreement(found: Mapping[str, Float[Tensor, "n d"]]) -> dict[str, Float[Tensor, " n"]]:
    """How alike two networks' scores are, each to the Gaussian's, and beyond the Gaussian."""
    one, other, gaussian = found.values()
    first, second, _ = found
    cosine = partial(torch.cosine_similarity, dim=1)
    return {
        "cosine": cosine(one, other),
        "cosine beyond gaussian": cosine(one - gaussian, other - gaussian),
        f"cosine {first}, gaussian": cosine(one, gaussian),
        f"cosine {second}, gaussian": cosine(other, gaussian),
        "norm ratio": other.norm(dim=1) / one.norm(dim=1),
    }


def identities(
    found: Mapping[str, Float[Tensor, "n d"]], points: Latents, noise: Latents, sigma: float
) -> dict[str, Float[Tensor, " n"]]:
    """What the mean over noised data must be: x·s = −d (Stein), −sigma noise·s = sigma²‖s‖²."""
    d = points[0].numel()
    columns = {}
    for name, s in found.items():
        columns[f"x.s/d {name}"] = (points.flatten(1) * s).sum(1) / d
        columns[f"noise.s/d {name}"] = -sigma * (noise.flatten(1) * s).sum(1) / d
        columns[f"square/d {name}"] = sigma**2 * s.square().sum(1) / d
    return columns


def ruler(metric: str, score: Score) -> Metric:
    """A metric with the weight that `interpolate` gives it on a learned score."""
    return METHODS[metric].learned.metric(score)


def along(metric: Metric, points: Curve, scores: Curve | None = None) -> Geodesic:
    """Energy and length of a given path under a metric; scores at its points save evaluations."""
    return measure(metric, Solution(points, torch.ones(1, dtype=torch.bool), [""], scores))


def bend_of(points: Curve) -> Float[Tensor, "points d"]:
    """How a path leaves the straight line, across it, at equal Euclidean distances.

    In chords. What a path does along the chord is its timing, which differs between metrics.
    """
    even = paths.resample(points.double(), COMPARED).flatten(2)[0]
    chord = even[-1] - even[0]
    away = even - even[0]
    across = away - torch.outer(away @ chord / chord.square().sum(), chord)
    return across / chord.norm()


def rms(bend: Float[Tensor, "points d"]) -> float:
    """Root mean square over a path."""
    return bend.square().sum(1).mean().sqrt().item()


def cosine_of(one: Float[Tensor, "points d"], other: Float[Tensor, "points d"]) -> float | None:
    """Of two bends as one vector each; None where a path is straight but for rounding."""
    norms = rms(one) * rms(other)
    if min(rms(one), rms(other)) < 1e-6:
        return None
    return (one * other).sum(1).mean().item() / norms


# ---- the tables


def tables(
    pairs: int = PAIRS, models: Sequence[str] = MODELS, *, small: bool = False
) -> list[Table]:
    """The two tables of notebook 10.

    Args:
        pairs: Of photographs, 2 to 60.
        models: Names or folders of two models with the same autoencoder.
        small: Two pairs, one noise level, few steps: does it run?
    """
    if not 2 <= checks.count("pairs", pairs) <= 10 * ENDS_OF_A_DIGIT:
        raise ValueError(f"pairs must be 2 to {10 * ENDS_OF_A_DIGIT}, got {pairs}")
    command = command_line("two-models", pairs=pairs, model=models[0], other=models[1])
    points = None
    max_iter = MAX_ITER
    sigmas = SIGMAS
    fitted = FITTED
    if small:
        command = command_line("two-models", small=True)
        pairs = 2
        points = 5
        max_iter = 2
        sigmas = (1.0,)
        fitted = 1100
    comparison = Comparison(models, fitted)
    shared = {
        "command": command,
        "parameters": {
            "pairs": pairs,
            "sigmas": list(sigmas),
            "sigma": SIGMA,
            "metrics": list(GEODESICS),
            "points": points,
            "max_iter": max_iter,
            "fitted": fitted,
            "seed": SEED,
        },
        "sources": [comparison.photographs.source, hands.photographs("train").source],
        "models": [score.origin for score in comparison.networks.values()],
    }
    scores = [
        Unit(f"sigma-{sigma:g}", partial(comparison.score_rows, sigma, pairs)) for sigma in sigmas
    ]
    connected = [
        Unit(f"{metric}-{pair:02d}", partial(comparison.pair_rows, metric, pair, points, max_iter))
        for pair in range(pairs)
        for metric in GEODESICS
    ]
    return [
        Table(f"{NAME}_scores", units=scores, **shared),
        Table(NAME, units=connected, **shared),
    ]
