"""Log-density from a score: relative along a path by a line integral, absolute by the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import checks
from .divergence import basis, quadratic_forms, rademacher
from .elements import elements
from .ode import integrate
from .scores.base import Score
from .scores.function import as_score

EXACT_UP_TO = 64  # dimensions in which "auto" takes the exact divergence
DIVERGENCES = ("auto", "exact", "hutchinson")


@dataclass(frozen=True)
class LogDensity:
    """value (n,): log p_sigma_min(x) in nats. standard_error (n,): of the random probes alone, zero for the exact divergence.

    by_probe (n, probes): the value by each probe alone, (n, 1) for the exact divergence. All points share the probes, so a
    difference of two points has the standard error of the differences in its columns, not that of two independent values.
    score_evaluations: points at which the score was computed; derivative_evaluations: at which it was differentiated.
    """

    value: Tensor
    standard_error: Tensor
    score_evaluations: int
    derivative_evaluations: int
    settings: dict
    by_probe: Tensor


def along_path(
    score: Score | Callable[[Tensor], Tensor], points: Tensor, degree: int = 2
) -> Tensor:
    """log p(γ) − log p(start) at every point of paths (batch, N, *event) -> (batch, N), float64: the line integral ∫ s·dx.

    One score a point, in one batch; exact for a score that is linear along each element (elements.py, degree 1 to 4).
    """
    checks.finite("points", checks.floating("points", points))
    if points.ndim < 3 or points.shape[1] < 2:
        raise ValueError(
            f"points must have shape (batch, N ≥ 2, *event), got {tuple(points.shape)}"
        )
    with torch.no_grad():
        scores = (
            as_score(score)
            .along(elements(points.shape[1]).times)(points.flatten(0, 1))
            .reshape(points.shape)
        )
    return elements(points.shape[1], degree).line_integral(
        points.flatten(2).double(), scores.flatten(2).double()
    )


def log_density(
    score: Score,
    x: Tensor,
    *,
    sigma_max: float,
    sigma_min: float | None = None,
    steps: int = 100,
    divergence: str = "auto",
    probes: int = 16,
    generator: torch.Generator | None = None,
    prior: tuple[Tensor | float, Tensor | float] | None = None,
    method: str = "rk4",
    rtol: float | None = None,
    atol: float | None = None,
) -> LogDensity:
    """log p_sigma_min(x) for x (n, *event) or one point (*event), by the probability-flow ODE (Song et al. 2021, eq. 39):

        dx/dσ = −σ s(x, σ),   log p_sigma_min(x) = log prior(x(sigma_max)) − ∫ σ div s(x(σ), σ) dσ,

    integrated in log σ from sigma_min (the score's own level unless given) to sigma_max. method: "rk4" with `steps` steps or
    "dopri5" (rtol, atol; see lib.ode). divergence: "exact" (d directional derivatives a point and stage), "hutchinson" (`probes`
    ≥ 2 Rademacher probes, the same for all points and times, drawn from `generator`, else from one seeded with 0), or
    "auto", exact up to 64 dimensions. prior: (mean, variance) of the data, numbers or (*event); the density at sigma_max is
    taken to be N(mean, variance + sigma_max²), by default N(0, sigma_max²): an error of order ‖mean‖/sigma_max.
    Raises ValueError or TypeError for bad input, ArithmeticError if the solution blows up.
    """
    x, low, high = _checked(score, x, sigma_min, sigma_max)
    event, before = x.shape[1:], replace(score.counter)
    kind = checks.choice("divergence", divergence, DIVERGENCES)
    exact = kind == "exact" or (kind == "auto" and event.numel() <= EXACT_UP_TO)
    directions = (
        basis(event)
        if exact
        else rademacher(checks.count("probes", probes, least=2), event, generator)
    )
    checks.count("steps", steps)
    times = torch.linspace(
        math.log(low), math.log(high), steps + 1, dtype=torch.float64, device=x.device
    )
    y = torch.cat([x.flatten(1), x.new_zeros(len(x), 1 if exact else probes)], 1)
    with torch.no_grad():
        y = integrate(_flow(score, event, directions, exact), y, times, method, rtol, atol)[:, -1]
        if not bool(torch.isfinite(y).all()):
            raise ArithmeticError(
                "the probability-flow ODE ran into NaN or infinity; raise sigma_min= or steps="
            )
        end, integrals = y[:, : event.numel()], y[:, event.numel() :]
        by_probe = _gaussian(end.reshape(x.shape), high, prior)[:, None] - integrals
        value = by_probe.mean(1)
    error = torch.zeros_like(value) if exact else integrals.std(1) / math.sqrt(probes)
    after, settings = (
        score.counter,
        {
            "sigma_min": low,
            "sigma_max": high,
            "divergence": "exact" if exact else f"hutchinson, {probes} probes",
            "prior": "N(0, sigma_max²)" if prior is None else "N(mean, variance + sigma_max²)",
            "method": method,
            "steps": steps,
        },
    )
    spent = after.evaluations - before.evaluations, after.derivatives - before.derivatives
    return LogDensity(value, error, *spent, settings, by_probe)


def _checked(
    score: Score, x: Tensor, sigma_min: float | None, sigma_max: float
) -> tuple[Tensor, float, float]:
    if not isinstance(score, Score) or score.sigma is None:
        raise TypeError(
            "log_density needs a score that knows noise levels, FunctionScore(..., sigma=...); "
            "differences of log p at one level need none: along_path"
        )
    if sigma_min is None and isinstance(score.sigma, Tensor):
        raise ValueError("the score has one noise level a point; give sigma_min=")
    low = checks.positive("sigma_min", score.sigma if sigma_min is None else sigma_min)
    high = checks.positive("sigma_max", sigma_max)
    if high <= low:
        raise ValueError(f"sigma_max must be above sigma_min, got {high} and {low}")
    return checks.batched("x", x, score.event_shape), low, high


def _flow(
    score: Score, event: torch.Size, directions: Tensor, exact: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """d/d(log σ) of (x, integrals) = (−σ² s, σ² div s), one integral for the exact divergence, else one a probe."""

    def equation(log_sigma: Tensor, y: Tensor) -> Tensor:
        sigma = float(log_sigma.exp())
        level, x = score.at(sigma), y[:, : event.numel()].reshape(-1, *event)
        forms = quadratic_forms(level, x, directions).T
        forms = forms.sum(1, keepdim=True) if exact else forms
        return sigma**2 * torch.cat([-level(x).flatten(1), forms], 1)

    return equation


def _gaussian(
    x: Tensor, sigma: float, prior: tuple[Tensor | float, Tensor | float] | None
) -> Tensor:
    """log N(x; mean, variance + sigma²), (n,)."""
    mean, variance = (
        torch.as_tensor(p, dtype=x.dtype, device=x.device)
        for p in ((0.0, 0.0) if prior is None else prior)
    )
    if bool((variance < 0).any()) or not bool(
        torch.isfinite(mean).all() & torch.isfinite(variance).all()
    ):
        raise ValueError("prior must be (mean, variance), finite and with variance ≥ 0")
    total = (variance + sigma**2).expand(x.shape)
    return -((x - mean) ** 2 / total + (2 * math.pi * total).log()).flatten(1).sum(1) / 2
