"""Log-density from a score: along a path by a line integral, absolute by the probability flow."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from . import checks
from .divergence import basis, quadratic_forms, rademacher
from .elements import elements, working_dtype
from .ode import integrate
from .scores.base import Score
from .scores.function import as_score

# dimensions in which the exact divergence, d derivatives a point and stage, is the default
EXACT_UP_TO = 64
PROBES = 16


@dataclass(frozen=True)
class LogDensity:
    """log p_sigma_min at n points.

    Attributes:
        value: in nats, (n,).
        standard_error: of the random probes alone, (n,); zero for the exact divergence.
        by_probe: the value by each probe alone, (n, probes); (n, 1) for the exact divergence. All
            points share the probes: a difference of two points has the standard error of the
            differences in its columns, not that of two independent values.
        score_evaluations: points at which the score was computed.
        derivative_evaluations: points at which it was differentiated.
    """

    value: Tensor
    standard_error: Tensor
    by_probe: Tensor
    score_evaluations: int
    derivative_evaluations: int


def along_path(
    score: Score | Callable[[Tensor], Tensor],
    points: Float[Tensor, "batch points *event"],
    degree: int = 2,
) -> Float[Tensor, "batch points"]:
    """log p(γ) − log p(start) at every point of paths: the line integral ∫ s·dx.

    One score a point, in one batch; exact for a score that is linear along each element.

    Args:
        score: at one noise level.
        points: paths of two or more points.
        degree: of the elements, see `lib.elements`.
    """
    checks.finite("points", checks.floating("points", points))
    if points.ndim < 3 or points.shape[1] < 2:
        raise ValueError(
            f"points must have shape (batch, N ≥ 2, *event), got {tuple(points.shape)}"
        )
    count = points.shape[1]
    with torch.no_grad():
        score = as_score(score).along(elements(count).times)
        scores = score(points.flatten(0, 1)).reshape(points.shape)
    work = working_dtype(points)
    return elements(count, degree).line_integral(
        points.flatten(2).to(work), scores.flatten(2).to(work)
    )


def log_density(
    score: Score,
    x: Float[Tensor, "*batch_event"],
    *,
    sigma_max: float,
    sigma_min: float | None = None,
    steps: int = 100,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    prior: tuple[Tensor | float, Tensor | float] | None = None,
) -> LogDensity:
    """log p_sigma_min(x) by the probability-flow ODE (Song et al. 2021, eq. 39):

        dx/dσ = −σ s(x, σ),
        log p_sigma_min(x) = log prior(x(sigma_max)) − ∫ σ div s(x(σ), σ) dσ,

    integrated in log σ from sigma_min to sigma_max, by the Runge–Kutta method of order 4.

    Args:
        score: knows several noise levels.
        x: points (n, *event), or one point (*event).
        sigma_max: where the density is known.
        sigma_min: the score's own level by default.
        steps: of the integration.
        probes: a number ≥ 2 of random probes that estimate the divergence, the same for all points
            and times (Hutchinson). By default the divergence is exact in up to 64 dimensions, and
            estimated by 16 probes in more.
        generator: draws the probes; one seeded with 0 by default.
        prior: (mean, variance) of the data, numbers or (*event). The density at sigma_max is taken
            to be N(mean, variance + sigma_max²), by default N(0, sigma_max²), an error of order
            ‖mean‖/sigma_max.

    Raises:
        ValueError: bad settings or points.
        TypeError: a score without noise levels.
        ArithmeticError: the solution blows up.
    """
    if not isinstance(score, Score) or score.sigma is None:
        raise TypeError(
            "log_density needs a score that knows noise levels, FunctionScore(..., sigma=...); "
            "differences of log p at one level need none: along_path"
        )
    low = checks.positive("sigma_min", score.sigma if sigma_min is None else sigma_min)
    high = checks.positive("sigma_max", sigma_max)
    if high <= low:
        raise ValueError(f"sigma_max must be above sigma_min, got {high} and {low}")
    x = checks.batched("x", x, score.event_shape)
    checks.count("steps", steps)
    event = x.shape[1:]
    if probes is None and event.numel() > EXACT_UP_TO:
        probes = PROBES
    exact = probes is None
    if exact:
        directions = basis(event)
    else:
        directions = rademacher(checks.count("probes", probes, least=2), event, generator)
    before = replace(score.counter)

    # One integral for the exact divergence, else one a probe, behind the point itself.
    integrals = x.new_zeros(len(x), 1 if exact else probes)
    y = torch.cat([x.flatten(1), integrals], 1)
    times = torch.linspace(
        math.log(low), math.log(high), steps + 1, dtype=working_dtype(x), device=x.device
    )
    with torch.no_grad():
        equation = _flow(score, event, directions, exact)
        y = integrate(equation, y, times)[:, -1]
        if not bool(torch.isfinite(y).all()):
            raise ArithmeticError(
                "the probability-flow ODE ran into NaN or infinity; raise sigma_min= or steps="
            )
        end = y[:, : event.numel()].reshape(x.shape)
        integrals = y[:, event.numel() :]
        by_probe = _gaussian(end, high, prior)[:, None] - integrals
    value = by_probe.mean(1)
    error = torch.zeros_like(value) if exact else integrals.std(1) / math.sqrt(probes)
    return LogDensity(
        value,
        error,
        by_probe,
        score.counter.evaluations - before.evaluations,
        score.counter.derivatives - before.derivatives,
    )


def _flow(
    score: Score, event: torch.Size, directions: Tensor, exact: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """d/d(log σ) of (x, integrals) = (−σ² s, σ² div s)."""

    def equation(log_sigma: Tensor, y: Tensor) -> Tensor:
        sigma = float(log_sigma.exp())
        score_at = score.at(sigma)
        x = y[:, : event.numel()].reshape(-1, *event)
        divergence = quadratic_forms(score_at, x, directions).T
        if exact:
            divergence = divergence.sum(1, keepdim=True)
        return sigma**2 * torch.cat([-score_at(x).flatten(1), divergence], 1)

    return equation


def _gaussian(
    x: Tensor, sigma: float, prior: tuple[Tensor | float, Tensor | float] | None
) -> Tensor:
    """log N(x; mean, variance + sigma²), (n,)."""
    mean, variance = (0.0, 0.0) if prior is None else prior
    mean = torch.as_tensor(mean, dtype=x.dtype, device=x.device)
    variance = torch.as_tensor(variance, dtype=x.dtype, device=x.device)
    finite = bool(torch.isfinite(mean).all() & torch.isfinite(variance).all())
    if not finite or bool((variance < 0).any()):
        raise ValueError("prior must be (mean, variance), finite and with variance ≥ 0")
    total = (variance + sigma**2).expand(x.shape)
    return -((x - mean) ** 2 / total + (2 * math.pi * total).log()).flatten(1).sum(1) / 2
