"""Checks of input shared by the public functions: each error says what is wrong, and its mend."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """A finite number above 0 (or 0, with `zero=True`); ValueError, or TypeError for no number."""
    number = _number(name, value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        wanted = "≥ 0" if zero else "> 0"
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}")
    return number


def count(name: str, value: object, *, least: int = 1) -> int:
    """A whole number that is at least `least`; ValueError, or TypeError for no number."""
    number = _number(name, value)
    whole = math.isfinite(number) and number == int(number) and not isinstance(value, bool)
    if not whole or number < least:
        raise ValueError(f"{name} must be a whole number ≥ {least}, got {value!r}")
    return int(number)


def _number(name: str, value: object) -> float:
    # float("10") would do, and "ten" would be another kind of error.
    if not isinstance(value, (str, bytes)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")


def noise_level(sigma: float | Tensor) -> float | Tensor:
    """A noise level: a positive number, or a tensor (n,) of one positive level a point."""
    if not isinstance(sigma, Tensor):
        return positive("sigma", sigma)
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise ValueError(
            f"sigma must be finite and > 0 everywhere, got a minimum of {float(sigma.min())}"
        )
    return sigma


def noise_schedule(
    levels: Sequence[float] | None, final: float | Tensor | None
) -> tuple[float, ...]:
    """An annealing schedule: positive, strictly falling, not below the score's own level.

    Args:
        levels: Noise levels, large ones first; None for no annealing.
        final: The score's own level; nothing is asked of the last level if it is no number.
    """
    if levels is None:
        return ()
    if isinstance(levels, (int, float)):
        raise TypeError(
            f"noise_levels must be a sequence of falling noise levels, got the number {levels}"
        )
    levels = tuple(positive("noise_levels", level) for level in levels)
    if any(after >= before for before, after in pairwise(levels)):
        raise ValueError(f"noise_levels must fall strictly (large noise first), got {levels}")
    # A level that has been through float32 may be lower by rounding.
    if isinstance(final, (int, float)) and levels[-1] < final * (1 - 1e-6):
        raise ValueError(
            f"noise_levels end at {levels[-1]}, below the metric's own sigma {final}; "
            f"end at {final} or build the metric at the lower level"
        )
    return levels


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """One of the known names; ValueError with the nearest one otherwise."""
    known = sorted(known)
    if value in known:
        return value
    near = nearest(value, known)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"unknown {name} {value!r}{hint} (known: {', '.join(known)})")


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one resembles, None if there is no such."""
    matches = difflib.get_close_matches(str(name), list(known), n=1)
    return matches[0] if matches else None


def nonzero(name: str, v: Tensor) -> None:
    """Refuse a batch of vectors (n, *event) with one that is zero."""
    rows = (v == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"{name} is zero in row(s) {rows[:8]}: it has no direction; drop these rows"
        )


def device(name: str | torch.device) -> torch.device:
    """The torch device of that name, if it can be used here; ValueError otherwise."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {str(name)!r} cannot be used here ({reason}); use device='cpu'"
        ) from error


def finite(name: str, x: Tensor) -> Tensor:
    """The tensor, if every entry is finite; ValueError that counts the others."""
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {x.numel()} entries that are NaN or infinite; "
            "clean the input first"
        )
    return x


def floating(name: str, x: object) -> Tensor:
    """The tensor, if it is a real floating one; TypeError otherwise."""
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
    """Refuse two tensors that differ in shape, dtype or device."""
    both = f"{name_a} and {name_b}"
    if a.shape != b.shape:
        raise ValueError(f"{both} differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype:
        raise TypeError(f"{both} differ in dtype: {a.dtype} and {b.dtype}; convert one of them")
    if a.device != b.device:
        raise ValueError(
            f"{both} live on different devices: {a.device} and {b.device}; "
            "move one of them with .to(...)"
        )


def batched(name: str, x: object, event_shape: Sequence[int] | None) -> Tensor:
    """A batch of points (n, *event) of finite floats, a single point as a batch of one.

    Args:
        name: What to call it in an error.
        x: A batch or a point.
        event_shape: Shape of a point; None if any will do, and then one axis alone is a point.
    """
    finite(name, floating(name, x))
    if event_shape is None:
        if x.ndim == 0:
            raise ValueError(f"{name} is a scalar; a point needs shape (d,) and a batch (n, d)")
        single = x.ndim == 1
    else:
        single = tuple(x.shape) == tuple(event_shape)
    points = x[None] if single else x
    if event_shape is not None and tuple(points.shape[1:]) != tuple(event_shape):
        event = tuple(event_shape)
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, but the score takes {event} or (n, *{event})"
        )
    if len(points) == 0:
        raise ValueError(f"{name} is an empty batch")
    return points


def pair(
    name_a: str, a: object, name_b: str, b: object, event_shape: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Two batches (n, *event), finite and of one layout; see `batched`."""
    a = batched(name_a, a, event_shape)
    b = batched(name_b, b, event_shape)
    same_layout(name_a, a, name_b, b)
    return a, b


def end_points(
    start: object, end: object, event_shape: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """A batch of pairs (batch, *event), finite, of one layout, and different."""
    start, end = pair("start", start, "end", end, event_shape)
    equal = (start == end).flatten(1).all(1).nonzero().flatten().tolist()
    if equal:
        raise ValueError(
            f"start and end are equal in pair(s) {equal[:8]}: the geodesic is a point; "
            "drop these pairs"
        )
    return start, end
