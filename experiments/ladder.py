"""One ladder from a sphere to videos: how far a path is from a known truth, over the straight line.

On each rung the truth between two ends is known: the great circle of a sphere, a rotating digit,
a hand that moves. The numbers are those that the notebooks keep as results: figures/09_sphere.csv,
and 03_crowd, 04_networks, 04_digits, 06_hands_movements and 08_film of data/results.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .evaluation import bootstrap
from .figures import colour
from .tables.crowd import TURNED, shares

# From the shape alone to a world of images.
RUNGS = ("sphere", "one digit's ring", "crowd of digits", "network", "latents", "video")
# Digits that the exact score of the crowd knows: the most for which the graph was searched.
CROWD = 300
# Turns of the digits, in degrees; the ladder shows the first.
ANGLES = (45.0, 90.0)
# Noise level of the exact scores and of the network that stands beside them.
SIGMA = 1.0

# Method → its colour and marker. Paths that start at the truth are white inside.
METHODS = {
    "Stein, from the line": ("stein", "o"),
    "Stein, from a graph": ("stein", "s"),
    "Stein, from the truth": ("stein", "D"),
    "density, from the line": ("density", "o"),
    "density, from the truth": ("density", "D"),
    "straight line, denoised": ("lerp_denoised", "^"),
    "NoiseDiffusion": ("noisediffusion", "v"),
}
# The same methods in the tables. Density's alpha is the default, 10 over the dimension.
STARTS = {
    "line": "Stein, from the line",
    "graph": "Stein, from a graph",
    "turn": "Stein, from the truth",
}
DIGITS = {
    "density 0.01, sigma 0.5": "density, from the line",
    "lerp_denoised 0.5": "straight line, denoised",
    "noisediffusion": "NoiseDiffusion",
}
HANDS = {
    "stein": "Stein, from the line",
    "density 0.01": "density, from the line",
    "lerp, denoised 0.2": "straight line, denoised",
    "noisediffusion": "NoiseDiffusion",
}
VIDEOS = {
    "stein": "Stein, from the line",
    "density 0.01": "density, from the line",
    "density 0.01, from the video": "density, from the truth",
    "lerp denoised": "straight line, denoised",
}


def units(results: Path, figures: Path, *, angle: float = ANGLES[0]) -> pd.DataFrame:
    """Errors of all rungs, a row a rung, method and unit.

    A unit is what the interval draws: a pair of ends, a digit, a photograph or a hand. Its errors
    are means over its movements.

    Args:
        results: Folder of the tables, data/results.
        figures: Folder of the notebooks' records, figures.
        angle: Of the rotated digits, in degrees: 45 or 90.

    Returns:
        The columns rung, method, unit, error (mean squared, to the truth), line_error (that of the
        straight line) and converged (a share, empty where there is no solver).
    """
    crowd = pd.read_csv(results / "03_crowd.csv")
    networks = pd.read_csv(results / "04_networks.csv")
    exact = crowd[(crowd.sigma == SIGMA) & (crowd.angle == angle)]
    # the same ten digits, which this network has not seen
    learned = networks[(networks.sigma == SIGMA) & (networks.angle == angle) & ~networks.seen]
    parts = [
        ("sphere", _sphere(pd.read_csv(figures / "09_sphere.csv"))),
        ("one digit's ring", _turns(exact[exact.digits == 1])),
        ("crowd of digits", _turns(exact[exact.digits == CROWD])),
        ("network", _turns(learned)),
        ("network", _pairs(pd.read_csv(results / "04_digits.csv"), angle)),
        ("latents", _movements(pd.read_csv(results / "06_hands_movements.csv"))),
        ("video", _videos(pd.read_csv(results / "08_film.csv"))),
    ]
    table = pd.concat([part.assign(rung=rung) for rung, part in parts])
    table["converged"] = table.converged.astype(float)
    by_unit = table.groupby(["rung", "method", "unit"], sort=False)
    return by_unit[["error", "line_error", "converged"]].mean().reset_index()


def ladder(errors: pd.DataFrame) -> pd.DataFrame:
    """Mean error over the mean error of the straight line, with a 95 % interval over units.

    Args:
        errors: Of `units`.

    Returns:
        The columns rung, method, units (their number), ratio, low, high, and converged (the share).
    """
    rows = []
    for rung in RUNGS:
        for method in METHODS:
            part = errors[(errors.rung == rung) & (errors.method == method)]
            if part.empty:
                continue
            values = torch.tensor(part[["error", "line_error"]].to_numpy().T)
            ratio, low, high = bootstrap(values, _ratio_of_means)
            row = {"rung": rung, "method": method, "units": len(part)}
            row |= {"ratio": ratio, "low": low, "high": high}
            rows.append(row | {"converged": part.converged.mean()})
    return pd.DataFrame(rows)


def found_and_held(results: Path) -> pd.DataFrame:
    """How many of ten digits each start rotates: on their ring, in the crowd, under the network.

    Returns:
        The columns rung, angle, start ("line", "graph" or "turn"), turned (by a path that has
        converged) and converged, numbers of the `of` digits.
    """
    made = pd.concat(
        [pd.read_csv(results / "03_crowd.csv"), pd.read_csv(results / "04_networks.csv")]
    )
    of_digits = {1: RUNGS[1], CROWD: RUNGS[2]}
    unseen_by_network = (made.score == "network") & ~made.seen
    rung = made.digits.where(made.score == "exact").map(of_digits)
    made = made.assign(rung=rung.mask(unseen_by_network, RUNGS[3]))
    made = made[made.rung.notna() & (made.sigma == SIGMA) & made.start.isin(STARTS)]
    made = made.assign(turned=made.turned & made.converged)
    parts = [shares(part).assign(rung=rung) for rung, part in made.groupby("rung", sort=False)]
    return pd.concat(parts)[["rung", "angle", "start", "turned", "converged", "of"]]


def draw(errors: pd.DataFrame, shown: pd.DataFrame, counts: pd.DataFrame) -> Figure:
    """The ladder, and beside it how many rotations are found and held.

    Args:
        errors: Of `units`.
        shown: Of `ladder`.
        counts: Of `found_and_held`.
    """
    figure = plt.figure(figsize=(12.4, 5.2), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    grid = figure.add_gridspec(2, 2, width_ratios=[2.5, 1])
    _draw_ladder(figure.add_subplot(grid[:, 0]), errors, shown)
    for row, angle in enumerate(ANGLES):
        _draw_counts(figure.add_subplot(grid[row, 1]), counts[counts.angle == angle], angle)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _draw_ladder(axes: Axes, errors: pd.DataFrame, shown: pd.DataFrame) -> None:
    named = set()
    crosses = {"s": 22, "color": "black", "marker": "x", "lw": 1}
    for place, rung in enumerate(RUNGS):
        rows = shown[shown.rung == rung]
        shifts = 0.13 * (np.arange(len(rows)) - (len(rows) - 1) / 2)
        for x, row in zip(place + shifts, rows.itertuples(), strict=True):
            label = None if row.method in named else row.method
            named.add(row.method)
            style = _style(row.method)
            single = errors[(errors.rung == rung) & (errors.method == row.method)]
            ratios = single.error / single.line_error
            lost = (single.converged < 1).to_numpy()
            dots = {"s": 9, "color": style["color"], "alpha": 0.3, "lw": 0}
            axes.scatter(np.full((~lost).sum(), x), ratios[~lost], **dots)
            axes.scatter(np.full(lost.sum(), x), ratios[lost], **crosses)
            interval = [[row.ratio - row.low], [row.high - row.ratio]]
            axes.errorbar(x, row.ratio, interval, ms=8, lw=1.8, label=label, **style)
    axes.axhline(1, color=colour("lerp"), ls="--", lw=1.6, zorder=0, label="straight line")
    axes.axhline(TURNED, color="0.4", ls=":", lw=1.4, zorder=0, label="a quarter: found")
    axes.scatter([], [], **crosses, label="not converged")
    axes.set(yscale="log", ylim=(5e-5, 4), xlim=(-0.5, len(RUNGS) - 0.5))
    axes.set_ylabel("squared error / straight line's")
    axes.set_xticks(range(len(RUNGS)), labels=[rung.replace(" ", "\n", 1) for rung in RUNGS])
    axes.grid(axis="x", visible=False)
    axes.minorticks_off()


def _draw_counts(axes: Axes, counts: pd.DataFrame, angle: float) -> None:
    rungs = RUNGS[1:4]
    for shift, (start, method) in zip((-0.22, 0, 0.22), STARTS.items(), strict=True):
        part = counts[counts.start == start].set_index("rung")
        there = [rung for rung in rungs if rung in part.index]
        heights = [part.turned[rung] for rung in there]
        places = [rungs.index(rung) + shift for rung in there]
        style = _style(method) | {"ls": ""}
        axes.vlines(places, 0, heights, color=style["color"], lw=1.4)
        axes.plot(places, heights, ms=8, clip_on=False, zorder=3, **style)
    axes.set(ylim=(0, 10.5), xlim=(-0.5, 2.5), title=f"rotation by {angle:.0f}°")
    axes.set_yticks([0, 5, 10])
    axes.set_ylabel("rotated, of 10")
    axes.set_xticks(range(3), labels=["ring", "crowd", "network"])
    axes.grid(axis="x", visible=False)


def _style(method: str) -> dict[str, str]:
    name, marker = METHODS[method]
    tone = colour(name)
    fill = "white" if "from the truth" in method else tone
    return {"color": tone, "marker": marker, "mfc": fill}


def _sphere(table: pd.DataFrame) -> pd.DataFrame:
    names = {"stein": "Stein, from the line", "density": "density, from the line"}
    return _named(table, names).rename(columns={"angle": "unit"})[COLUMNS]


def _turns(table: pd.DataFrame) -> pd.DataFrame:
    """Of `experiments.tables.crowd`."""
    table = table.assign(method=table.start)
    return _named(table, STARTS).rename(columns={"digit": "unit"})[COLUMNS]


def _pairs(table: pd.DataFrame, angle: float) -> pd.DataFrame:
    """Of `experiments.tables.digits`: the turns by one angle."""
    turns = table[(table.kind == "turn") & (table.angle == angle)]
    return _with_line(turns, "mse", "pair", DIGITS)


def _movements(table: pd.DataFrame) -> pd.DataFrame:
    """Of `experiments.tables.hands`; a photograph is a unit of three movements."""
    return _with_line(table, "mse", ["photograph", "movement"], HANDS)


def _videos(table: pd.DataFrame) -> pd.DataFrame:
    """Of `experiments.tables.film`, which keeps roots of mean squares over the ends' distance."""
    table = table.assign(squared=(table.in_step * table.chord) ** 2)
    return _with_line(table, "squared", ["hand", "movement", "speed"], VIDEOS)


COLUMNS = ["method", "unit", "error", "line_error", "converged"]


def _with_line(
    table: pd.DataFrame, measure: str, pair: str | list[str], names: dict[str, str]
) -> pd.DataFrame:
    """Errors of some methods, and the straight line's on the same pairs.

    Args:
        table: A row a method and pair.
        measure: Column of the errors.
        pair: Columns that tell pairs apart, that of the units first.
        names: Method in the table → in `METHODS`.
    """
    line = table[table.method == "lerp"].set_index(pair)[measure].rename("line_error")
    joined = _named(table, names).join(line, on=pair)
    first = pair if isinstance(pair, str) else pair[0]
    return joined.assign(error=joined[measure], unit=joined[first])[COLUMNS]


def _named(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Rows of some methods, under their names in `METHODS`."""
    missing = sorted(set(names) - set(table.method))
    # a graph is not searched under a network
    if missing and missing != ["graph"]:
        raise ValueError(f"the table has no method {', '.join(missing)}; make it again")
    chosen = table[table.method.isin(names)]
    return chosen.assign(method=chosen.method.map(names))


def _ratio_of_means(values: Tensor) -> Tensor:
    return values[0].mean(-1) / values[1].mean(-1)
