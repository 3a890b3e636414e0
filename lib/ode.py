"""Ordinary differential equations by torchdiffeq: one call, clear errors, a batch as accurate as its rows one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

from . import checks

METHODS = ("rk4", "dopri5")
MOST_STEPS = 20_000  # of the adaptive method


def integrate(
    equation: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    times: Tensor,
    method: str = "rk4",
    rtol: float | None = None,
    atol: float | None = None,
) -> Tensor:
    """Solve y' = equation(t, y) for y (batch, k) given at times[0]: times (m,) -> (batch, m, k).

    method: "rk4", one step of fourth order between two times, or "dopri5", adaptive to rtol and atol (1e-8 and 1e-10; in
    float32 1e-5 and 1e-7) in the worst row. Raises ArithmeticError if "dopri5" gives up; "rk4" passes NaN on.
    """
    if checks.choice("method", method, METHODS) == "rk4":
        return odeint(equation, y, times, method="rk4").transpose(0, 1)
    fine = y.dtype == torch.float64
    rtol = checks.positive("rtol", (1e-8 if fine else 1e-5) if rtol is None else rtol)
    atol = checks.positive("atol", (1e-10 if fine else 1e-7) if atol is None else atol)
    options = {
        "norm": lambda error: error.reshape(len(y), -1).pow(2).mean(1).sqrt().max(),
        "max_num_steps": MOST_STEPS,
    }
    try:
        return odeint(
            equation, y, times, method="dopri5", rtol=rtol, atol=atol, options=options
        ).transpose(0, 1)
    except (
        AssertionError
    ) as error:  # torchdiffeq's way to say: NaN, vanishing step or too many steps
        raise ArithmeticError(
            f"dopri5 gave up ({error}): the solution blows up or the score is not smooth; "
            "integrate over a shorter time, raise rtol= or use method='rk4'"
        ) from error
