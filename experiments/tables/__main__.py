"""`python -m experiments.tables NAME` makes a committed table of results again."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lib import checks

from ..command import run
from . import base

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a committed table of results again, with its provenance beside it. A run that was "
    "cut short goes on when the same command is given again.",
)

Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of NN_name.csv and .json.",
        show_default="data/results, with --small the work folder",
    ),
]
Work = Annotated[Path, typer.Option(help="Finished units are kept here.", show_default=False)]
Small = Annotated[bool, typer.Option("--small", help="A few units, in seconds: does it run?")]
Dirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Make it although the code is not committed.")
]


@app.command()
def crowd(
    digits: Annotated[str, typer.Option(help="mnist, or sklearn: always there, fewer.")] = "mnist",
    out: Out = None,
    work: Work = base.WORK,
    small: Small = False,
    allow_dirty: Dirty = False,
) -> None:
    """Turns of digits under the exact score of 1 to 1,000 digits (notebook 03)."""
    from .crowd import MNIST, SKLEARN, SMALL, exact_table

    checks.choice("digits", digits, ("mnist", "sklearn"))
    settings = MNIST if digits == "mnist" else SKLEARN
    write(exact_table(SMALL if small else settings), out, work, small, allow_dirty)


@app.command()
def networks(
    models: Annotated[
        Path | None,
        typer.Option(help="Folder of rotated-mnist-N.", show_default="build/models"),
    ] = None,
    out: Out = None,
    work: Work = base.WORK,
    allow_dirty: Dirty = False,
) -> None:
    """Turns of digits under the scores of networks that know 10 to 60,000 digits (notebook 04)."""
    from .crowd import MNIST, NETWORKS, network_table

    table = network_table(MNIST, NETWORKS if models is None else models)
    write(table, out, work, False, allow_dirty)


@app.command()
def film(
    out: Out = None, work: Work = base.WORK, small: Small = False, allow_dirty: Dirty = False
) -> None:
    """Videos of moving hands against the paths between their ends (notebook 08)."""
    from .film import table

    write(table(small=small), out, work, small, allow_dirty)


@app.command()
def hands(
    out: Out = None,
    work: Work = base.WORK,
    small: Small = False,
    allow_dirty: Dirty = False,
    pairs: Annotated[int, typer.Option(help="Of photographs, 3 to 60.")] = 60,
) -> None:
    """Paths between photographs of hands by every method, in four tables (notebook 06)."""
    from .hands import tables

    for table in tables(pairs, work=work, small=small):
        write(table, out, work, small, allow_dirty)


@app.command()
def digits(
    count: Annotated[int, typer.Option(help="Digits, ten a block, each turned four times.")] = 20,
    out: Out = None,
    work: Work = base.WORK,
    small: Small = False,
    allow_dirty: Dirty = False,
) -> None:
    """Every method on pairs of digits under the learned score (notebook 04): pairs, then sets."""
    from .digits import DEFAULT, SMALL, pairs_table, sets_table

    settings = SMALL if small else replace(DEFAULT, count=count)
    write(pairs_table(settings, work), out, work, small, allow_dirty)
    write(sets_table(settings, work), out, work, small, allow_dirty)


@app.command()
def validation(
    out: Out = None, work: Work = base.WORK, small: Small = False, allow_dirty: Dirty = False
) -> None:
    """Which set measure sees double exposures? 04_validation (digits), 06_validation (hands)."""
    from .validation import digits_table, photographs_table

    count = {"count": 4} if small else {}
    write(digits_table(**count), out, work, small, allow_dirty)
    write(photographs_table(**count), out, work, small, allow_dirty)


@app.command()
def two_models(
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "hands",
    other: Annotated[str, typer.Option(help="One with the same autoencoder.")] = "hands-flow",
    pairs: Annotated[int, typer.Option(help="Of photographs, 2 to 60.")] = 12,
    out: Out = None,
    work: Work = base.WORK,
    small: Small = False,
    allow_dirty: Dirty = False,
) -> None:
    """Do two models of the same photographs have the same geodesics (notebook 10)? Two tables."""
    from .two_models import tables

    for table in tables(pairs, (model, other), small=small):
        write(table, out, work, small, allow_dirty)


def write(table: base.Table, out: Path | None, work: Path, small: bool, dirty: bool) -> None:
    """Make a table at the place that the options name."""
    if out is None:
        out = work if small else base.RESULTS
    made = base.make(table, out, work, allow_dirty=dirty or small)
    base.report(table, out, made)


if __name__ == "__main__":
    run(app)
