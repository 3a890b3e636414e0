"""Table 08_film: videos of moving hands against the paths between their first and last frames.

A hand is drawn from the bundled model and moved; the movement, and so every frame between the
first and the last, is known. Each row is one video against one path.

All geodesics of the clean space are those of one density, the model's under the caption that drew
the hand, at noise level SIGMA. A fast video moves by many times SIGMA between two of its POINTS
frames: its own energy, log-density and break-even are then coarse, and notebook 08 computes them
from more frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lib import Frames, Geodesic, interpolate, latents, paths, video
from lib.metrics import DensityMetric
from lib.scores import PipelineScore, load
from lib.solvers.base import Solution
from lib.solvers.geodesic import measure

from .. import hands
from ..evaluation import psnr
from .base import Rows, Table, Unit, command_line

NAME = "08_film"

# the whole movement at speed 1: the width of the random movements that the model was trained on
MOVEMENTS: dict[str, dict[str, Any]] = {
    "turn": {"degrees": 24.0},
    "shift": {"shift": (0.12, 0.0)},
    "all three": {"degrees": 24.0, "shift": (0.12, 0.0), "scale": 1.25},
}
TABLED = ("turn", "all three")
SPEEDS = (0.25, 0.5, 1.0, 2.0)
HANDS = 5
FRAMES = 9  # of a video
POINTS = 33  # of a path, and of a video where it is taken for a path

SIGMA = 0.5  # noise level of the density
LEVELS = (4.0, 2.0, 1.0, SIGMA)
ALPHA = 0.01
METRICS: dict[str, dict[str, Any]] = {
    "stein": {"method": "stein", "lam": 1000 * SIGMA**2},
    "density 0.002": {"method": "density", "alpha": 0.002},
    "density 0.01": {"method": "density", "alpha": ALPHA},
}
BEST = "density 0.01"  # whose frames have no ghosts
TOL = 1e-3
MAX_ITER = 100

# noise level and steps of the controls in the noised space
NOISE = 0.8
FLOW_STEPS = 6

DRAW_STEPS = 15
SEED = 0

Latents = Float[Tensor, "hands frames channels height width"]


@dataclass(frozen=True)
class Videos:
    """The videos of one movement, a hand each.

    Attributes:
        movement: Name of `MOVEMENTS`.
        speed: Of the whole movement.
        pictures: In [0, 1].
        latents: Of the pictures.
        fine: Latents of the same movement at POINTS frames.
        score: At SIGMA, each hand under its own caption.
        max_iter: Most steps of a solver at each noise level.
    """

    movement: str
    speed: float
    pictures: Float[Tensor, "hands frames 3 height width"]
    latents: Latents
    fine: Latents
    score: PipelineScore
    max_iter: int = MAX_ITER

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Latents of the first and the last frames."""
        return self.latents[:, 0], self.latents[:, -1]


def amounts(movement: str, speed: float) -> dict[str, Any]:
    """A whole movement at a speed, as `hands.movement` takes it.

    Args:
        movement: Name of `MOVEMENTS`.
        speed: 1 is the whole range of the model's training, > 0.

    Returns:
        degrees, shift and scale, those that the movement has.

    Example:
        >>> amounts("all three", 0.5)
        {'degrees': 12.0, 'shift': (0.06, 0.0), 'scale': 1.118033988749895}
    """
    whole = MOVEMENTS[movement]
    moved = {}
    if "degrees" in whole:
        moved["degrees"] = speed * whole["degrees"]
    if "shift" in whole:
        moved["shift"] = tuple(speed * share for share in whole["shift"])
    if "scale" in whole:
        moved["scale"] = whole["scale"] ** speed
    return moved


def moved_hands(
    images: Float[Tensor, "hands 3 height width"], movement: str, speed: float, count: int = FRAMES
) -> Float[Tensor, "hands frames 3 height width"]:
    """Videos of a movement, the images themselves in the middle."""
    shares = torch.linspace(-0.5, 0.5, count)
    size = images.shape[-1]
    return hands.movement(images, shares, **amounts(movement, speed), size=size)


def encoded(
    score: PipelineScore, pictures: Float[Tensor, "hands frames 3 height width"]
) -> Latents:
    """Latents of every frame."""
    return latents.encode(score, pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])


def captions(count: int = HANDS) -> list[str]:
    """One caption a hand, from five fingers upwards."""
    return [hands.CAPTIONS[0].format(hands.WORDS[(5 + k) % 10]) for k in range(count)]


@cache
def bundled() -> PipelineScore:
    """The bundled model."""
    return load("hands", micro_batch=64)


@cache
def drawn(count: int) -> Float[Tensor, "hands 3 height width"]:
    """Hands drawn by their captions."""
    seeds = range(SEED, SEED + count)
    return hands.sample(bundled().pipe, captions(count), seeds, steps=DRAW_STEPS)


def make_videos(
    movement: str,
    speed: float,
    count: int = HANDS,
    points: int = POINTS,
    max_iter: int = MAX_ITER,
) -> Videos:
    """The videos of one movement."""
    score = bundled()
    pictures = moved_hands(drawn(count), movement, speed)
    return Videos(
        movement,
        speed,
        pictures,
        encoded(score, pictures),
        encoded(score, moved_hands(drawn(count), movement, speed, points)),
        score.prompted(captions(count), negative=score.embed("")).at(SIGMA),
        max_iter,
    )


# ---- the paths between the first and the last frame


def between(
    videos: Videos,
    metric: str,
    *,
    init: str | Latents = "lerp",
    levels: tuple[float, ...] = LEVELS,
) -> Geodesic:
    """Geodesics between the first and the last frames, annealed down to SIGMA.

    Args:
        videos: Whose ends.
        metric: Name of `METRICS`.
        init: Where the solver starts: "lerp", or paths.
        levels: Noise levels of the annealing.
    """
    settings = {"sigma": SIGMA, "space": "clean", "noise_levels": levels, "init": init}
    settings |= {"points": videos.fine.shape[1], "tol": TOL, "max_iter": videos.max_iter}
    return interpolate(videos.score, *videos.ends, **METRICS[metric], **settings).path


def path_rows(videos: Videos) -> Rows:
    """The frames of these videos against every path between their ends."""
    start, end = videos.ends
    points = videos.fine.shape[1]
    ruler = DensityMetric(videos.score, ALPHA)

    line = measured(ruler, paths.lerp(start, end, points))
    own = measured(ruler, videos.fine)
    even = break_even(own, line)
    rows = rows_of(videos, "video", path_columns(videos, own) | {"break_even": even})
    rows += rows_of(videos, "lerp", path_columns(videos, line))
    round_path = measured(ruler, paths.slerp(start, end, points))
    rows += rows_of(videos, "slerp", path_columns(videos, round_path))
    control = {"method": "lerp", "space": "ddim", "sigma": NOISE, "flow_steps": FLOW_STEPS}
    inverted = interpolate(videos.score, start, end, frames=FRAMES, **control)
    rows += rows_of(videos, "inverted lerp", frame_columns(videos, inverted))
    once = {"method": "lerp_denoised", "sigma": SIGMA}
    denoised = interpolate(videos.score, start, end, frames=FRAMES, **once)
    rows += rows_of(videos, "lerp denoised", frame_columns(videos, denoised))

    for name in METRICS:
        rows += solved_rows(videos, name, between(videos, name), ruler)
    # Without annealing: at a larger noise level the solver would leave the video at once.
    found = between(videos, BEST, init=videos.fine, levels=(SIGMA,))
    rows += solved_rows(videos, f"{BEST}, from the video", found, ruler)
    return rows


def measured(ruler: DensityMetric, points: Latents) -> Geodesic:
    """Energy and log-density of given paths under one metric, the same for all."""
    count = len(points)
    given = Solution(points, torch.ones(count, dtype=torch.bool), [""] * count)
    return measure(ruler, given)


def solved_rows(videos: Videos, method: str, found: Geodesic, ruler: DensityMetric) -> Rows:
    """Rows of geodesics."""
    columns = path_columns(videos, measured(ruler, found.points))
    columns["converged"] = found.converged
    columns["evaluations"] = torch.full(found.energy.shape, found.score_evaluations / len(found))
    return rows_of(videos, method, columns)


def path_columns(videos: Videos, path: Geodesic) -> dict[str, Tensor]:
    """Deviation, middle frame, length and density of paths of the clean space."""
    columns = deviation_columns(videos, path.points)
    columns["length"] = steps(path.points).sum(1)
    columns["log_density"] = centred(path.log_density).mean(1)
    columns["last_frame"] = path.log_density[:, -1]
    columns["energy"] = path.energy
    return columns


def frame_columns(videos: Videos, result: Frames) -> dict[str, Tensor]:
    """Deviation and middle frame of paths of the noised space."""
    columns = deviation_columns(videos, result.frames)
    count = len(result.frames)
    columns["evaluations"] = torch.full((count,), result.evaluations / count)
    if result.path is not None:
        columns["converged"] = result.path.converged
    return columns


def deviation_columns(videos: Videos, points: Latents) -> dict[str, Tensor]:
    """How far the frames lie off the paths, and how good the middle frame's pixels are."""
    off = video.deviation(points, videos.latents)
    middle = paths.evaluate(points, torch.tensor([0.5], dtype=torch.float64))[:, 0]
    pictures = latents.decode(videos.score, middle.to(videos.latents))
    first, last = videos.ends
    return {
        "chord": (last - first).flatten(1).norm(dim=1),
        "in_step": inner_rms(off.equal),
        "matched": inner_rms(off.matched),
        "psnr": psnr(pictures, videos.pictures[:, FRAMES // 2]),
    }


def inner_rms(values: Float[Tensor, "hands frames"]) -> Float[Tensor, "hands"]:
    """Root mean square over the frames between the first and the last."""
    return values[:, 1:-1].double().square().mean(1).sqrt()


def centred(log_density: Float[Tensor, "hands points"]) -> Float[Tensor, "hands points"]:
    """Log-densities along paths, zero on average over both ends, as the metric takes them."""
    return log_density - log_density[:, [0, -1]].mean(1, keepdim=True)


def steps(points: Latents) -> Float[Tensor, "hands segments"]:
    """Euclidean lengths of the segments of paths."""
    return points.flatten(2).double().diff(dim=1).norm(dim=2)


def lengths(
    points: Latents,
    log_density: Float[Tensor, "hands points"],
    powers: Float[Tensor, " powers"],
) -> Float[Tensor, "hands powers"]:
    """Lengths ∫ p^-alpha ‖γ'‖ dt of paths under the density metrics of several alpha.

    Args:
        points: The paths.
        log_density: At the points, up to a constant.
        powers: The values of alpha.
    """
    values = centred(log_density)
    halfway = (values[:, 1:] + values[:, :-1]) / 2
    weight = (-powers[None, :, None] * halfway[:, None, :]).exp()
    return (weight * steps(points)[:, None, :]).sum(2)


def break_even(path: Geodesic, line: Geodesic) -> Float[Tensor, "hands"]:
    """The least alpha ≤ 1 at which a path is shorter than the line; infinite if there is none."""
    powers = torch.logspace(-4, 0, 401, dtype=torch.float64)
    longer = lengths(path.points, path.log_density, powers)
    straight = lengths(line.points, line.log_density, powers)
    shorter = longer < straight
    first = powers[shorter.int().argmax(1)]
    return torch.where(shorter.any(1), first, torch.inf)


def paper_b_rows(videos: Videos) -> Rows:
    """The whole pipeline of arXiv 2504.06675: inversion, its direction, control points."""
    start, end = videos.ends
    settings = {"method": "yu2025", "frames": FRAMES, "flow_steps": FLOW_STEPS}
    result = interpolate(videos.score, start, end, **settings)
    return rows_of(videos, "yu2025", frame_columns(videos, result))


# ---- the table

COLUMNS = (
    "chord",
    "length",
    "in_step",
    "matched",
    "psnr",
    "log_density",
    "last_frame",
    "energy",
    "break_even",
    "converged",
    "evaluations",
)


def rows_of(videos: Videos, method: str, columns: Mapping[str, Tensor]) -> Rows:
    """One row a hand; a column that a method does not have is empty."""
    rows = []
    for hand in range(len(videos.pictures)):
        row = {
            "movement": videos.movement,
            "speed": videos.speed,
            "hand": hand,
            "method": method,
        }
        for name in COLUMNS:
            row[name] = columns[name][hand].item() if name in columns else None
        rows.append(row)
    return rows


def table(*, small: bool = False) -> Table:
    """The table of notebook 08.

    Args:
        small: One hand, one movement, few points and steps: does it run?
    """
    count = 1 if small else HANDS
    points = 5 if small else POINTS
    max_iter = 3 if small else MAX_ITER
    movements = ("turn",) if small else TABLED
    speeds = (0.25,) if small else SPEEDS
    moved = partial(make_videos, count=count, points=points, max_iter=max_iter)

    def unit(name: str, rows: Callable[[Videos], Rows], movement: str, speed: float) -> Unit:
        label = f"{name}-{movement.replace(' ', '_')}-{speed:g}"
        return Unit(label, lambda: rows(moved(movement, speed)))

    units = [unit("path", path_rows, kind, speed) for kind in movements for speed in speeds]
    if not small:
        units.append(unit("yu2025", paper_b_rows, "all three", 1.0))
    return Table(
        name=NAME,
        command=command_line("film", small=small),
        units=units,
        parameters={
            "hands": count,
            "movements": list(movements),
            "speeds": list(speeds),
            "frames": FRAMES,
            "points": points,
            "noise_levels": list(LEVELS),
            "metrics": METRICS,
            "tol": TOL,
            "max_iter": max_iter,
            "seed": SEED,
        },
        models=[bundled().origin],
    )
