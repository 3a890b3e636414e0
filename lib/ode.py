"""Ordinary differential equations by torchdiffeq: a batch as accurate as its rows one by one."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, float64
from torchdiffeq import odeint

from . import checks

METHODS = ("rk4", "dopri5")
# Of the adaptive method.
MAX_STEPS = 20_000


def integrate(
    equation: Callable[[Tensor, Tensor], Tensor],
    y: Float[Tensor, "batch k"],
    times: Float[Tensor, "m"],
    method: str = "rk4",
    rtol: float | None = None,
    atol: float | None = None,
) -> Float[Tensor, "batch m k"]:
    """Solve y' = equation(t, y) from y at times[0].

    Args:
        equation: equation(t, y) -> y', in the shape of y.
        y: the values at times[0].
        times: where the solution is wanted, monotone.
        method: "rk4", one step of fourth order between two times, or "dopri5", adaptive.
        rtol: relative tolerance of "dopri5" in the worst row; 1e-8, in float32 1e-5, by default.
        atol: absolute tolerance; 1e-10, in float32 1e-7, by default.

    Returns:
        The solution at all times.

    Raises:
        ArithmeticError: "dopri5" gave up; "rk4" passes NaN on.
    """
    if checks.choice("method", method, METHODS) == "rk4":
        return odeint(equation, y, times, method="rk4").transpose(0, 1)
    precise = y.dtype == float64
    if rtol is None:
        rtol = 1e-8 if precise else 1e-5
    if atol is None:
        atol = 1e-10 if precise else 1e-7

    def worst_row(error: Tensor) -> Tensor:
        return error.reshape(len(y), -1).pow(2).mean(1).sqrt().max()

    try:
        solution = odeint(
            equation,
            y,
            times,
            method="dopri5",
            rtol=checks.positive("rtol", rtol),
            atol=checks.positive("atol", atol),
            options={"norm": worst_row, "max_num_steps": MAX_STEPS},
        )
    # torchdiffeq's way to say: NaN, a vanishing step or too many steps.
    except AssertionError as error:
        raise ArithmeticError(
            f"dopri5 gave up ({error}): the solution blows up or the score is not smooth; "
            "integrate over a shorter time, raise rtol= or use method='rk4'"
        ) from error
    return solution.transpose(0, 1)
