"""`make bench`: measure, print tables and which claims PASS or FAIL, and store all of it.

    python -m benchmarks.run --only accuracy,memory --out build/benchmarks

Times appear as ratios only.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from lib import checks
from lib.solvers import ConvergenceWarning

from . import Result, density, digits, large, latent, learned, peers, reporting, sphere

BENCHMARKS: dict[str, Callable[[bool], Result]] = {
    "accuracy": sphere.accuracy,
    "convergence": sphere.convergence,
    "memory": sphere.memory,
    "first_order": peers.first_order,
    "density_sphere": density.on_sphere,
    "density_mixtures": density.mixtures,
    "ablation": density.ablation,
    "ablation_learned": learned.ablation,
    "noise_floor": learned.noise_floor,
    "initial_value": sphere.initial_value,
    "digits": digits.alone,
    "mnist": digits.mnist,
    "quadrature": sphere.quadrature,
    "sharing": sphere.sharing,
    "trade": sphere.trade,
    "latent": latent.full_size,
    "large": large.true_size,
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    only: Annotated[
        str, typer.Option(help="names of benchmarks, separated by commas; all if empty")
    ] = "",
    out: Annotated[Path, typer.Option(help="folder for the numbers")] = Path("build/benchmarks"),
    threads: Annotated[int, typer.Option(help="threads of torch", min=1)] = 1,
) -> None:
    """Run the benchmarks and say which claims hold."""
    given = [name.strip() for name in only.split(",") if name.strip()]
    names = [checks.choice("benchmark", name, BENCHMARKS) for name in given]
    torch.set_num_threads(threads)
    console = reporting.console()
    began = time.perf_counter()
    claims = []
    for name in names or BENCHMARKS:
        result = measure(name)
        claims += result.claims
        reporting.show(console, result)
        reporting.keep(result, out, {"benchmark": name, "threads": threads})
    console.rule("claims")
    for claim in claims:
        style = "green" if claim.met else "bold red"
        console.print(str(claim), style=style, highlight=False, markup=False)
    met = sum(claim.met for claim in claims)
    seconds = time.perf_counter() - began
    console.print(
        f"{met} of {len(claims)} hold; {seconds:.0f} s; numbers in {out}", highlight=False
    )


def measure(name: str, quick: bool = False) -> Result:
    """Run one benchmark; quick: a small one that shows the same columns."""
    with warnings.catch_warnings():
        # each table counts the paths that did not converge in a column of its own
        warnings.simplefilter("ignore", ConvergenceWarning)
        return BENCHMARKS[name](quick)


if __name__ == "__main__":
    app()
