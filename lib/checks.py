"""Input checks shared by the public functions: each error says what is wrong and how to mend it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """Return `value` if it is a finite number > 0 (≥ 0 with `zero=True`), else raise ValueError; TypeError for no number."""
    number = float(_number(name, value))
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(
            f"{name} must be a finite number {'≥ 0' if zero else '> 0'}, got {value!r}"
        )
    return number


def noise_level(sigma: float | Tensor, name: str = "sigma") -> float | Tensor:
    """A noise level: a positive number, or a tensor (n,) of one positive level a point."""
    if not isinstance(sigma, Tensor):
        return positive(name, sigma)
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise ValueError(
            f"{name} must be finite and > 0 everywhere, got a minimum of {float(sigma.min())}"
        )
    return sigma


def count(name: str, value: object, *, least: int = 1) -> int:
    """Return `value` if it is a whole number ≥ `least`, else raise ValueError; TypeError for no number."""
    if (
        isinstance(value, bool)
        or not math.isfinite(_number(name, value))
        or int(value) != value
        or value < least
    ):
        raise ValueError(f"{name} must be a whole number ≥ {least}, got {value!r}")
    return int(value)


def _number(name: str, value: object) -> float:
    try:
        if not isinstance(
            value, (str, bytes)
        ):  # float("10") would do, and "ten" would be another kind of error
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")


def choice(name: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`, else raise ValueError with the nearest name."""
    known = sorted(known)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {name} {value!r}{hint} (known: {', '.join(known)})")


def device(name: str | torch.device) -> torch.device:
    """Return the torch device of that name if it can be used here, else raise ValueError."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {str(name)!r} cannot be used here ({str(error).splitlines()[0]}); use device='cpu'"
        ) from error


def finite(name: str, x: Tensor) -> Tensor:
    """Return the tensor if every entry is finite, else raise ValueError that counts the others."""
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {x.numel()} entries that are NaN or infinite; clean the input first"
        )
    return x


def floating(name: str, x: Tensor) -> Tensor:
    """Return the tensor if it is a real floating tensor, else raise TypeError."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor(...)"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be a floating tensor, got {x.dtype}; use .float() (and images in [0, 1])"
        )
    return x


def same_layout(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise if two tensors differ in shape, dtype or device."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} differ in shape: {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.dtype != b.dtype:
        raise TypeError(
            f"{name_a} and {name_b} differ in dtype: {a.dtype} and {b.dtype}; convert one of them"
        )
    if a.device != b.device:
        raise ValueError(
            f"{name_a} and {name_b} live on different devices: {a.device} and {b.device}; "
            "move one of them with .to(...)"
        )


def batched(name: str, x: Tensor, event_shape: Sequence[int] | None) -> Tensor:
    """Give a single point its batch axis: returns (batch, *event).

    With a known `event_shape` the shape decides; without one, a 1-D tensor is a single point.
    """
    floating(name, x)
    finite(name, x)
    if event_shape is None:
        if x.ndim == 0:
            raise ValueError(f"{name} is a scalar; a point needs shape (d,) and a batch (n, d)")
        x = x[None] if x.ndim == 1 else x
    else:
        event = tuple(event_shape)
        x = x[None] if tuple(x.shape) == event else x
        if tuple(x.shape[1:]) != event:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but the score takes {event} or (n, *{event})"
            )
    if x.shape[0] == 0:
        raise ValueError(f"{name} is an empty batch")
    return x


def end_points(
    start: Tensor, end: Tensor, event_shape: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Check a batch of pairs: finite, of one layout, and different. Returns both as (batch, *event)."""
    start, end = batched("start", start, event_shape), batched("end", end, event_shape)
    same_layout("start", start, "end", end)
    equal = (start == end).flatten(1).all(1).nonzero().flatten().tolist()
    if equal:
        raise ValueError(
            f"start and end are equal in pair(s) {equal[:8]}: the geodesic is a point; drop these pairs"
        )
    return start, end


def noise_schedule(
    levels: Sequence[float] | None, final: float | Tensor | None
) -> tuple[float, ...]:
    """Check an annealing schedule: positive and strictly falling, down to the score's own level `final`."""
    if levels is None:
        return ()
    if isinstance(levels, (int, float)):
        raise TypeError(
            f"noise_levels must be a sequence of falling noise levels, got the number {levels}"
        )
    levels = tuple(positive("noise_levels", s) for s in levels)
    if any(b >= a for a, b in zip(levels, levels[1:])):
        raise ValueError(f"noise_levels must fall strictly (large noise first), got {levels}")
    if isinstance(final, (int, float)) and levels[-1] < final * (1 - 1e-6):
        raise ValueError(
            f"noise_levels end at {levels[-1]}, below the metric's own sigma {final}; "
            f"end at {final} or build the metric at the lower level"
        )
    return levels
