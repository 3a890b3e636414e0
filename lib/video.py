"""Videos as paths: how far they lie from a path, a whole sequence improved, and its next frames.

A video is a tensor (batch, frames, *event), frames at equal steps in time: images, or their latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import checks, paths
from .elements import elements
from .metrics import ScoreMetric
from .solvers.functional_gradient import project_out
from .solvers.gauss_newton import DiscreteEnergy, PathState, starting_curvature


class Deviation(NamedTuple):
    """Of each frame from a path, (batch, frames) float64: distance / distance of the first from the last frame.

    equal: from the path at the frame's own time. matched: from the path as a curve, at the best times that never go back (both
    ends kept), `times` (batch, frames): what is left when the video may run along the curve at a speed of its own.
    """

    equal: Tensor
    matched: Tensor
    times: Tensor


def deviation(path: Tensor, frames: Tensor, *, fine: int = 256) -> Deviation:
    """How far frames (batch, frames ≥ 3, *event) lie from paths (batch, N, *event) between the first and the last of them.

    fine: steps in which the curve is searched; a matched distance comes out too large by at most about half such a step.
    ValueError: other shapes, or a first frame that equals the last.
    """
    x, n = (
        checks.finite("frames", checks.floating("frames", frames)).flatten(2).double(),
        frames.shape[1],
    )
    if (
        path.shape[:1] + path.shape[2:] != frames.shape[:1] + frames.shape[2:]
        or n < 3
        or path.shape[1] < 2
    ):
        raise ValueError(
            f"a path must be (batch, N ≥ 2, *event) and a video (batch, frames ≥ 3, *event), got "
            f"{tuple(path.shape)} and {tuple(frames.shape)}"
        )
    chord = (x[:, -1:] - x[:, :1]).norm(dim=2)
    if bool((chord == 0).any()):
        raise ValueError(
            "a video's first frame equals its last: there is no path between them to compare with; cut it"
        )
    curve = paths.evaluate(
        path.flatten(2).double(),
        torch.linspace(0, 1, checks.count("fine", fine) + 1, dtype=torch.float64),
    )
    in_step = paths.evaluate(path.flatten(2).double(), torch.linspace(0, 1, n, dtype=torch.float64))
    away = torch.cdist(x, curve, compute_mode="donot_use_mm_for_euclid_dist")
    best = _never_back(away.square())
    matched = away.gather(2, best[..., None])[..., 0]
    return Deviation((in_step - x).norm(dim=2) / chord, matched / chord, best.double() / fine)


def _never_back(cost: Tensor) -> Tensor:
    """Places j_0 = 0 ≤ j_1 ≤ … ≤ last that make Σ_k cost[k, j_k] least: (batch, frames, places) -> (batch, frames)."""
    total = torch.full_like(cost[:, 0], torch.inf)
    total[:, 0], sources = cost[:, 0, 0], []
    for k in range(1, cost.shape[1]):
        least, source = total.cummin(1)
        total = least + cost[:, k]
        sources.append(source)
    places = [torch.full_like(sources[0][:, :1], cost.shape[2] - 1)]
    for source in reversed(sources):
        places.append(source.gather(1, places[-1]))
    return torch.cat(places[::-1], 1)


def turning(frames: Tensor) -> Tensor:
    """Angle between adjacent steps of a video (batch, frames ≥ 3, *event), in degrees: (batch, frames − 2); 0 for a line."""
    step = frames.flatten(2).double().diff(dim=1)
    step = step / step.norm(dim=2, keepdim=True)
    ahead, back = step[:, 1:], step[:, :-1]
    return torch.rad2deg(2 * torch.atan2((ahead - back).norm(dim=2), (ahead + back).norm(dim=2)))


@dataclass(frozen=True)
class Smoothed:
    """frames (batch, frames, *event), the first and last as given; moved (batch,): root mean square of the change of an interior
    entry; steps (batch,): taken; reason: why each video's ended."""

    frames: Tensor
    moved: Tensor
    steps: Tensor
    reason: list[str]


def smooth(
    metric: ScoreMetric,
    frames: Tensor,
    *,
    distance: float,
    damping: float = 1.0,
    max_iter: int = 20,
    tol: float = 1e-4,
) -> Smoothed:
    """A whole sequence improved: damped Gauss–Newton steps on the path's energy E from the frames (batch, frames, *event).

    Each step is one of implicit Euler along the gradient flow of E (damping times the stiffness of a node is 1/time step), so it
    takes away much of what jumps from frame to frame and little of a slow bend: with damping 1 and no metric 2/3 and 6 % (of nine
    frames). It ends where the frames have moved by `distance`, root mean square over the interior entries, the last step cut to
    meet it: the noise that the frames are known to carry (Morozov's discrepancy principle). Or where a step lowers E by less
    than tol, or after max_iter. Ends stay. ValueError, TypeError: bad input.
    """
    _sequence(metric, frames)
    if metric.score.moves:
        raise ValueError(
            "a prompt that changes along the video is no gradient of one density: give one prompt for all frames"
        )
    (
        checks.positive("distance", distance),
        checks.positive("damping", damping),
        checks.count("max_iter", max_iter),
    )
    with torch.no_grad():
        return _flow(metric, frames, distance, damping, max_iter, tol)


def _flow(
    metric: ScoreMetric, frames: Tensor, distance: float, damping: float, max_iter: int, tol: float
) -> Smoothed:
    given = frames.flatten(2).double()
    active = torch.arange(len(frames))
    energy = DiscreteEnergy(metric, given)

    def state(x: Tensor, rows: Tensor) -> PathState:
        scores = metric.pick(rows).scores_along(x.reshape(-1, *frames.shape[1:]).to(frames))
        return energy.state(x, scores.flatten(2).double())

    now, mu = state(given, active), torch.full((len(frames),), damping, dtype=torch.float64)
    kappa = starting_curvature(metric, given)
    steps, reason = torch.zeros_like(active), ["max_iter reached"] * len(frames)
    for _ in range(max_iter):
        old = now.rows(active)
        delta, _ = energy.step(old, mu[active], kappa[active])
        share = _until(old.x[:, 1:-1] - given[active, 1:-1], delta, distance)
        x = old.x.clone()
        x[:, 1:-1] += share[:, None, None] * delta
        new = state(x, active)
        gain = -(new.log_energy - old.log_energy).expm1()
        better = gain >= 0
        now = now.replace(active[better], new.rows(better.nonzero().flatten()))
        steps[active[better]] += 1
        mu[active] = torch.where(better, damping, 4 * mu[active])
        ends = {
            "moved by the distance asked for": better & (share < 1),
            "the energy no longer falls": gain.abs() <= tol,
        }
        for why, rows in reversed(ends.items()):
            for i in active[rows].tolist():
                reason[i] = why
        active = active[~torch.stack(list(ends.values())).any(0)]
        if len(active) == 0:
            break
    moved = (now.x - given)[:, 1:-1].flatten(1).square().mean(1).sqrt()
    return Smoothed(now.x.reshape(frames.shape).to(frames), moved, steps, reason)


def _until(moved: Tensor, delta: Tensor, distance: float) -> Tensor:
    """The share in (0, 1] of a step (batch, n, d) at which moved + share·delta has this root mean square; 1 if it never has."""
    a, b = moved.flatten(1), delta.flatten(1)
    aa, ab, bb = (a * a).mean(1) - distance**2, (a * b).mean(1), (b * b).mean(1).clamp_min(1e-300)
    return ((-ab + (ab**2 - aa * bb).clamp_min(0).sqrt()) / bb).clamp(max=1)


def functional_smooth(
    metric: ScoreMetric,
    frames: Tensor,
    *,
    iterations: int = 100,
    step: float = 0.1,
    share: float = 0.5,
    rule: bool = True,
    seed: int = 0,
) -> Smoothed:
    """A whole sequence improved as arXiv 2504.06675 does it: its functional gradient, on the spline through all frames.

    Frames (batch, frames, *event) are put on the sphere of their mean norm. In each iteration the random share of the interior
    ones (at least one, the same of all videos) moves by rate·(P s + P γ''/(alpha ‖v‖²)), back to the sphere, rate falling
    linearly from `step` to 0 and divided by the number that moves; positions and velocities on great circles, γ'' by the natural
    cubic spline. rule: a video whose mean ‖P s‖ is below its mean ‖P γ''‖/(alpha ‖v‖²) skips the iteration, as in the paper's
    boundary value problem. share, rule and iterations are our reading: the released code lacks this part. Every frame gets its
    own norm back, so that the ends stay. metric: lam = 0, alpha > 0 (`DensityMetric`), in the coordinates of the frames.
    """
    _sequence(metric, frames)
    if metric.lam > 0 or metric.alpha == 0 or not 0 < share <= 1:
        raise ValueError(
            f"functional_smooth needs a DensityMetric and a share in (0, 1], got {metric.name} and {share}"
        )
    generator, times = torch.Generator().manual_seed(seed), elements(frames.shape[1]).times
    norms = frames.flatten(2).norm(dim=2, keepdim=True)
    radius, inner = norms.mean(1, keepdim=True), frames.shape[1] - 2
    knots, taken = frames.flatten(2) * radius / norms, torch.zeros(len(frames), dtype=torch.long)
    for k in range(checks.count("iterations", iterations)):
        picked = (
            1
            + torch.randperm(inner, generator=generator)[: max(1, round(share * inner))]
            .sort()
            .values
        )
        with torch.no_grad():
            pull, bend = _forces(
                metric, knots, picked, times[picked], (norms / radius)[:, picked], frames.shape[2:]
            )
        go = (pull.norm(dim=2).mean(1) >= bend.norm(dim=2).mean(1)) | (not rule)
        rate = checks.positive("step", step) * (1 - k / iterations) / len(picked)
        moved = knots[:, picked] + rate * go[:, None, None] * (pull + bend)
        knots[:, picked] = moved * radius / moved.norm(dim=2, keepdim=True)
        taken += go.cpu()
    out = (knots * norms / radius).reshape(frames.shape)
    out[:, [0, -1]] = frames[:, [0, -1]]
    change = (out - frames)[:, 1:-1].flatten(1).double().square().mean(1).sqrt()
    return Smoothed(
        out, change, taken, [f"{int(n)} of {iterations} iterations taken" for n in taken]
    )


def _forces(
    metric: ScoreMetric,
    knots: Tensor,
    picked: Tensor,
    t: Tensor,
    scale: Tensor,
    event: Sequence[int],
) -> tuple:
    """P s and P γ''/(alpha ‖v‖²) at the picked control points (batch, m, d), both first made tangent to the sphere."""
    curve, x = paths.SphericalSpline(knots), knots[:, picked]
    points = (x * scale).reshape(-1, *event)
    v, a = curve.velocity(t), project_out(curve.acceleration(t), x)
    s = project_out(metric.score.along(t)(points).reshape(x.shape), x)
    return project_out(s, v), project_out(a, v) / (metric.alpha * v.square().sum(-1, keepdim=True))


def velocity(frames: Tensor, last: int = 3, degree: int = 1) -> Tensor:
    """Change a frame at the end of a video (batch, frames, *event) -> (batch, *event).

    The slope, at the last frame, of the polynomial of this degree fitted to the `last` frames by least squares.
    """
    checks.count("degree", degree)
    if not degree < checks.count("last", last, least=2) <= frames.shape[1]:
        raise ValueError(
            f"a fit of degree {degree} needs more than {degree} frames, and at most the video's {frames.shape[1]}: "
            f"got last={last}"
        )
    weights = np.linalg.pinv(np.vander(np.arange(1 - last, 1), degree + 1, increasing=True))[1]
    return torch.einsum("n,bn...->b...", torch.as_tensor(weights).to(frames), frames[:, -last:])


def _sequence(metric: ScoreMetric, frames: Tensor) -> None:
    if not isinstance(metric, ScoreMetric):
        raise TypeError(
            f"metric must be a ScoreMetric (SteinMetric, DensityMetric), got {type(metric).__name__}"
        )
    checks.finite("frames", checks.floating("frames", frames))
    if frames.ndim < 3 or frames.shape[1] < 3:
        raise ValueError(
            f"frames must have shape (batch, frames ≥ 3, *event), got {tuple(frames.shape)}; one: frames[None]"
        )
