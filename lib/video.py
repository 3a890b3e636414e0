"""Videos as paths: how far they lie from a path, a whole sequence improved, and its next frames.

A video is a tensor (batch, frames, *event), frames at equal steps in time: images or latents.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import checks, paths
from .elements import elements, working_dtype
from .metrics.score_metric import ScoreMetric
from .solvers.base import Progress, Reason
from .solvers.functional_gradient import descent_direction
from .solvers.gauss_newton import DiscreteEnergy, starting_curvature

# factor by which the damping rises after a rejected step
DAMPING_RISE = 4

MOVED = Reason("moved by the given distance", converged=True)
SETTLED = Reason("the energy no longer falls", converged=True)


class Deviation(NamedTuple):
    """How far each frame lies from a path, in distances of the first from the last frame.

    Attributes:
        equal: From the path at the frame's own time.
        matched: From the path as a curve, at the best times that never go back (both ends kept):
            what is left when the video may run along the curve at a speed of its own.
        times: These best times, in [0, 1].
    """

    equal: Float[Tensor, "batch frames"]
    matched: Float[Tensor, "batch frames"]
    times: Float[Tensor, "batch frames"]


def deviation(
    path: Float[Tensor, "batch points *event"],
    frames: Float[Tensor, "batch frames *event"],
    *,
    fine: int = 256,
) -> Deviation:
    """How far the frames of videos lie from paths between their first and their last frame.

    Args:
        path: At least 2 points each.
        frames: At least 3 each, the first other than the last.
        fine: Steps in which the curve is searched; a matched distance comes out too large by at
            most about half such a step.

    Returns:
        The deviations, in float64 where the device has it.

    Raises:
        ValueError: Other shapes, numbers that are not finite, or equal ends.

    Example:
        >>> line = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
        >>> video = torch.tensor([[[0.0, 0.0], [0.5, 0.4], [2.0, 0.0]]])
        >>> off = deviation(line, video, fine=100)
        >>> [round(d[0, 1].item(), 3) for d in off]  # in step; from the line; at which time
        [0.32, 0.2, 0.25]
    """
    checks.finite("path", checks.floating("path", path))
    checks.finite("frames", checks.floating("frames", frames))
    fits = path.shape[:1] + path.shape[2:] == frames.shape[:1] + frames.shape[2:]
    if not fits or frames.shape[1] < 3 or path.shape[1] < 2:
        raise ValueError(
            "a path must be (batch, N ≥ 2, *event) and a video (batch, frames ≥ 3, *event), got "
            f"{tuple(path.shape)} and {tuple(frames.shape)}"
        )
    work = working_dtype(frames)
    x = frames.flatten(2).to(work)
    chord = (x[:, -1:] - x[:, :1]).norm(dim=2)
    if bool((chord == 0).any()):
        raise ValueError(
            "a video's first frame equals its last: there is no path between them to compare with; "
            "cut it"
        )
    nodes = path.flatten(2).to(work)
    steps = checks.count("fine", fine)
    curve = paths.evaluate(nodes, torch.linspace(0, 1, steps + 1, dtype=work))
    in_step = paths.evaluate(nodes, torch.linspace(0, 1, frames.shape[1], dtype=work))
    distances = torch.cdist(x, curve, compute_mode="donot_use_mm_for_euclid_dist")
    places = monotone_matching(distances.square())
    matched = distances.gather(2, places[..., None])[..., 0]
    return Deviation(
        equal=(in_step - x).norm(dim=2) / chord,
        matched=matched / chord,
        times=places.to(work) / steps,
    )


def monotone_matching(
    cost: Float[Tensor, "batch frames places"],
) -> Int[Tensor, "batch frames"]:
    """Places j_0 = 0 ≤ j_1 ≤ … ≤ last that make Σ_k cost[k, j_k] least, by dynamic programming."""
    # least cost of frames 0…k with frame k at each place
    total = torch.full_like(cost[:, 0], torch.inf)
    total[:, 0] = cost[:, 0, 0]
    # for each frame k > 0: the best place of frame k − 1 if frame k is at a place
    sources = []
    for k in range(1, cost.shape[1]):
        least, source = total.cummin(1)
        total = least + cost[:, k]
        sources.append(source)
    last = cost.shape[2] - 1
    places = [torch.full_like(sources[0][:, :1], last)]
    for source in reversed(sources):
        places.append(source.gather(1, places[-1]))
    return torch.cat(places[::-1], 1)


def turning(frames: Float[Tensor, "batch frames *event"]) -> Float[Tensor, "batch angles"]:
    """Angles between adjacent steps of a video, in degrees; 0 for a straight line.

    Args:
        frames: At least 3 each.

    Returns:
        The angles at the interior frames.
    """
    step = frames.flatten(2).to(working_dtype(frames)).diff(dim=1)
    step = step / step.norm(dim=2, keepdim=True)
    return torch.rad2deg(paths.angle_between(step[:, :-1], step[:, 1:])[..., 0])


@dataclass(frozen=True)
class Smoothed:
    """Improved videos.

    Attributes:
        frames: The first and last as they were given.
        moved: Root mean square of the change of an interior entry.
        steps: How many were taken.
        reason: Why each video's steps ended.
    """

    frames: Float[Tensor, "batch frames *event"]
    moved: Float[Tensor, "batch"]
    steps: Int[Tensor, "batch"]
    reason: list[str]


def smooth(
    metric: ScoreMetric,
    frames: Float[Tensor, "batch frames *event"],
    *,
    distance: float,
    damping: float = 1.0,
    max_iter: int = 20,
    tol: float = 1e-4,
) -> Smoothed:
    """A whole sequence improved: damped Gauss–Newton steps on the energy of the path of its frames.

    Each step is one of implicit Euler along the gradient flow of the energy (damping times the
    stiffness of a node is 1/time step), so it takes away much of what jumps from frame to frame and
    little of a slow bend: with damping 1 and no metric 2/3 and 6 % (of nine frames). The steps end
    where the frames have moved by `distance`, the last one cut to meet it: the noise that the
    frames are known to carry (Morozov's discrepancy principle).

    Args:
        metric: Of the score family.
        frames: At least 3 each; the ends stay.
        distance: Root mean square over the interior entries, > 0.
        damping: Of the first step, > 0; it rises while steps are rejected.
        max_iter: Most steps.
        tol: The steps also end where one lowers the energy by less than this, relative.

    Returns:
        The videos, and how far each has moved.

    Raises:
        TypeError: The metric is of another kind.
        ValueError: A wrong shape or value, or a score that moves along the video.
    """
    _check_sequence(metric, frames)
    if metric.score.moves:
        raise ValueError(
            "a prompt that changes along the video is no gradient of one density: give one prompt "
            "for all frames"
        )
    checks.positive("distance", distance)
    checks.positive("damping", damping)
    checks.count("max_iter", max_iter)

    given = frames.flatten(2).to(working_dtype(frames))
    energy = DiscreteEnergy(metric, given)

    def scores(x: Tensor, rows: Tensor) -> Tensor:
        points = x.reshape(-1, *frames.shape[1:]).to(frames)
        return metric.pick(rows).scores_along(points).flatten(2).to(x)

    progress = Progress(len(frames))
    with torch.no_grad():
        state = energy.state(given, scores(given, progress.active))
        mu = given.new_full((len(frames),), damping)
        kappa = starting_curvature(metric, given)
        steps = torch.zeros(len(frames), dtype=torch.long)
        for _ in range(max_iter):
            active = progress.active
            old = state.rows(active)
            step, _ = energy.step(old, mu[active], kappa[active])
            share = _share_within(old.x[:, 1:-1] - given[active, 1:-1], step, distance)
            x = old.x.clone()
            x[:, 1:-1] += share[:, None, None] * step
            new = energy.state(x, scores(x, active))
            fall = (-(new.log_energy - old.log_energy).expm1()).cpu()
            # False where the new energy is NaN
            better = fall >= 0
            state = state.replace(active[better], new.rows(better.nonzero().flatten()))
            steps[active[better]] += 1
            mu[active[better]] = damping
            mu[active[~better]] *= DAMPING_RISE
            progress.end(active[fall.abs() <= tol], SETTLED)
            progress.end(active[better & (share < 1).cpu()], MOVED)
            if len(progress.active) == 0:
                break
    moved = (state.x - given)[:, 1:-1].flatten(1).square().mean(1).sqrt()
    improved = state.x.reshape(frames.shape).to(frames)
    return Smoothed(improved, moved, steps, progress.reasons())


def _share_within(moved: Tensor, step: Tensor, distance: float) -> Tensor:
    """The share in (0, 1] of a step (batch, n, d) at which moved + share·step has this root mean
    square; 1 if it never has."""
    a = moved.flatten(1)
    b = step.flatten(1)
    # the positive root of ‖a + share·b‖² = distance², in means over the entries
    aa = (a * a).mean(1) - distance**2
    ab = (a * b).mean(1)
    bb = (b * b).mean(1).clamp_min(torch.finfo(b.dtype).tiny)
    return ((-ab + (ab**2 - aa * bb).clamp_min(0).sqrt()) / bb).clamp(max=1)


def functional_smooth(
    metric: ScoreMetric,
    frames: Float[Tensor, "batch frames *event"],
    *,
    iterations: int = 100,
    step: float = 0.1,
    rule: bool = True,
    seed: int = 0,
) -> Smoothed:
    """A whole sequence improved as arXiv 2504.06675 does it: by its functional gradient.

    The frames are the knots of a spline, put on the sphere of their mean norm. In each iteration a
    random half of the interior ones, the same of all videos, moves by rate·(P s + P γ''/(alpha
    ‖v‖²)) and back to the sphere; the rate falls linearly from `step` to 0 and is divided by the
    number that moves. Positions and velocities are those of great circles, γ'' is the natural cubic
    spline's. Every frame gets its own norm back, so that the ends stay.

    Args:
        metric: With lam = 0 and alpha > 0 (`DensityMetric`), in the coordinates of the frames.
        frames: At least 3 each.
        iterations: How many. This, the half and rule are our reading: the released code lacks them.
        step: First rate, > 0.
        rule: A video whose mean ‖P s‖ is below its mean ‖P γ''‖/(alpha ‖v‖²) skips the iteration,
            as in the paper's boundary value problem.
        seed: Of the choice of frames.

    Returns:
        The videos, and how many iterations each has taken.

    Raises:
        TypeError: The metric is of another kind.
        ValueError: A wrong shape or value.
    """
    _check_sequence(metric, frames)
    if metric.lam > 0 or metric.alpha == 0:
        raise ValueError(f"functional_smooth needs a DensityMetric, got {metric.name}")
    checks.count("iterations", iterations)
    checks.positive("step", step)
    generator = torch.Generator().manual_seed(seed)
    times = elements(frames.shape[1]).times
    norms = frames.flatten(2).norm(dim=2, keepdim=True)
    radius = norms.mean(1, keepdim=True)
    knots = frames.flatten(2) * radius / norms
    interior = frames.shape[1] - 2
    moving = max(1, round(interior / 2))
    steps = torch.zeros(len(frames), dtype=torch.long)
    for k in range(iterations):
        chosen = 1 + torch.randperm(interior, generator=generator)[:moving].sort().values
        t = times[chosen]
        x = knots[:, chosen]
        curve = paths.SphericalSpline(knots)
        points = (x * (norms / radius)[:, chosen]).reshape(-1, *frames.shape[2:])
        with torch.no_grad():
            s = metric.score.along(t)(points).reshape(x.shape)
        pull, bend = descent_direction(
            curve.velocity(t), curve.acceleration(t), s, metric.alpha, normal=x
        )
        go = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
        if rule:
            go = pull.norm(dim=2).mean(1) >= bend.norm(dim=2).mean(1)
        rate = step * (1 - k / iterations) / moving
        moved = x + rate * go[:, None, None] * (pull + bend)
        knots[:, chosen] = moved * radius / moved.norm(dim=2, keepdim=True)
        steps += go.cpu()
    improved = (knots * norms / radius).reshape(frames.shape)
    improved[:, [0, -1]] = frames[:, [0, -1]]
    change = (improved - frames)[:, 1:-1].flatten(1).to(working_dtype(frames))
    reason = [f"{taken} of {iterations} iterations taken" for taken in steps.tolist()]
    return Smoothed(improved, change.square().mean(1).sqrt(), steps, reason)


def velocity(
    frames: Float[Tensor, "batch frames *event"], last: int = 3
) -> Float[Tensor, "batch *event"]:
    """Change a frame at the end of a video.

    The slope of the line fitted to the last frames by least squares.

    Args:
        frames: The videos.
        last: Frames that are fitted, at least 2.

    Returns:
        One velocity a video, per frame.

    Raises:
        ValueError: Too few frames.

    Example:
        >>> velocity(torch.tensor([[[0.0], [1.0], [3.0]]]), last=2).tolist()
        [[2.0]]
    """
    if checks.count("last", last, least=2) > frames.shape[1]:
        raise ValueError(f"last must be at most the video's {frames.shape[1]} frames, got {last}")
    powers = np.vander(np.arange(1 - last, 1), 2, increasing=True)
    slope = torch.as_tensor(np.linalg.pinv(powers)[1]).to(frames)
    return torch.einsum("n,bn...->b...", slope, frames[:, -last:])


def _check_sequence(metric: ScoreMetric, frames: Tensor) -> None:
    if not isinstance(metric, ScoreMetric):
        raise TypeError(
            "metric must be a ScoreMetric (SteinMetric, DensityMetric), "
            f"got {type(metric).__name__}"
        )
    checks.finite("frames", checks.floating("frames", frames))
    if frames.ndim < 3 or frames.shape[1] < 3:
        raise ValueError(
            "frames must have shape (batch, frames ≥ 3, *event), "
            f"got {tuple(frames.shape)}; one: frames[None]"
        )
