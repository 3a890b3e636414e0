"""The comparison figure: what the results of many runs of a notebook are over the parameters that were varied."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures

from .. import checks
from .tables import is_time

PANELS = 6  # in a figure of quantities that nobody asked for by name; of those that were: 12
COLOURS = (
    16  # a text label with more values than this is no colour; each value has panels of its own
)
WIDE = 30  # largest over smallest value from which on an axis is logarithmic


Legend = dict[str, mpl.artist.Artist]


def compare(
    table: pd.DataFrame, notebook: str, quantities: Sequence[str] = (), *, out: Path
) -> tuple[dict[str, Path], list[str]]:
    """Draw one notebook's part of `lib.runs.collect`'s table: a panel a quantity, over the parameter with the most values.

    Colours are the second parameter, else a text label. A point is a run: the mean over the rows of a result with equal labels,
    where "00", "01" and what they determine count as items of a sample; lines join means over further parameters, bars reach
    from least to greatest. quantities: "quantity" or "result.quantity"; default: the first that differ between the runs, times
    left out. ValueError with the nearest for an unknown one.
    Returns ({"png", "pdf", "npz", "json"} → path, what is not shown); no path where nothing was varied.
    """
    part, asked = (
        table[(table["notebook"] == notebook) & np.isfinite(table["value"])],
        _asked(table, quantities),
    )
    parameters, labels = (
        [name for name in names if part[name].notna().any()] for names in _columns(part)
    )
    labels = _kinds(part, labels)
    varied = sorted(
        (name for name in parameters if part[name].nunique(dropna=False) > 1),
        key=lambda name: -part[name].nunique(),
    )
    if not varied or part["id"].nunique() < 2:
        return {}, [
            f"{notebook}: no figure, for no parameter differs between its runs with numbers"
        ]
    coloured = varied[1:2] or [name for name in labels if 1 < part[name].nunique() <= COLOURS][:1]
    means = _means(part, varied, labels, [name for name in labels if name not in coloured])
    means = (
        means[_named(means, asked)]
        if asked
        else _telling(means, [name for name in coloured if name in labels])
    )
    panels, most = list(dict.fromkeys(means["_panel"])), 2 * PANELS if asked else PANELS
    if not panels:
        return {}, [f"{notebook}: no figure, for no quantity differs between its runs"]
    left = [
        f"{notebook}: {len(panels) - most} more panels; choose with --quantity: {', '.join(sorted(set(means['quantity'])))}"
    ]
    means = means[means["_panel"].isin(panels[:most])]
    figure = _draw(means, varied[0], *coloured)
    shown = {
        "x": means[varied[0]],
        "panel": means["_panel"],
        "value": means["_mean"],
        "rows": means["_count"],
    }
    shown["run"] = means["id"]
    if coloured:
        shown["colour"] = means[coloured[0]]
    about = {
        "notebook": notebook,
        "x": varied[0],
        "colour": coloured,
        "averaged": varied[2:],
        "quantities": list(quantities),
        "codes": sorted(set(part["code"])),
        "cells": sorted(set(part["cells"])),
    }
    files = figures.save(
        figure,
        f"{notebook[:2]}_comparison",
        folder=out,
        arrays={name: _array(column) for name, column in shown.items()},
    )
    files |= figures.save_results(f"{notebook[:2]}_comparison", about, folder=out)
    plt.close(figure)
    return files, left if len(panels) > most else []


def _named(means: pd.DataFrame, asked: Iterable[str]) -> pd.Series:
    return means["quantity"].isin(asked) | (means["result"] + "." + means["quantity"]).isin(asked)


def _asked(part: pd.DataFrame, quantities: Sequence[str]) -> list[str]:
    known = set(part["quantity"]) | set(part["result"] + "." + part["quantity"])
    return [checks.choice("quantity", name, known) for name in quantities]


def _columns(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The table's parameters (before the column result) and its labels (between row and quantity)."""
    names = list(table)
    return names[names.index("cells") + 1 : names.index("result")], names[
        names.index("row") + 1 : names.index("quantity")
    ]


def _kinds(part: pd.DataFrame, labels: list[str]) -> list[str]:
    """The labels that tell kinds of rows apart, such as methods: neither numbers of items nor the same in all rows of an item."""
    items = [name for name in labels if part[name].dropna().astype(str).str.isdigit().all()]
    kinds = []
    for name in (name for name in labels if name not in items):
        rows = part.dropna(subset=[*items, name])
        if not items or rows.empty or rows.groupby(items)[name].nunique().max() > 1:
            kinds.append(name)
    return kinds


def _means(
    part: pd.DataFrame, varied: list[str], labels: list[str], apart: list[str]
) -> pd.DataFrame:
    """A row a (run, result, labels, quantity): mean and count of the values; labels without a colour name the panel."""
    keys = ["id", *varied, "result", *labels, "quantity"]
    means = (
        part.groupby(keys, dropna=False, sort=False)["value"]
        .agg(_mean="mean", _count="count")
        .reset_index()
    )
    texts = [
        ", ".join(str(text) for text in row if not pd.isna(text))
        for row in means[apart].itertuples(index=False)
    ]
    names = zip(means["result"], means["quantity"], texts, strict=True)
    means["_panel"] = [
        f"{result}\n{quantity}" + (f": {text}" if text else "") for result, quantity, text in names
    ]
    means["_timed"] = [
        is_time(*map(str, row)) for row in means[["quantity", *labels]].itertuples(index=False)
    ]
    return means


def _telling(means: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Panels in which something differs between runs by more than rounding; no measured times."""
    means = means[~means["_timed"]]
    groups = means.groupby(["_panel", *labels], dropna=False)["_mean"]
    differs = groups.transform("max") - groups.transform("min") > 1e-9 * means["_mean"].abs()
    return means[means["_panel"].isin(means["_panel"][differs])]


def _draw(means: pd.DataFrame, x: str, colour: str | None = None) -> Figure:
    figures.use_style()
    panels = list(dict.fromkeys(means["_panel"]))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    palette = {} if colour is None else _palette(means[colour].dropna().unique())
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.2 * columns + 1.5 * bool(colour), 3.4 * rows), squeeze=False
    )
    legend: Legend = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        legend |= _panel(axes, means[means["_panel"] == panel], x, colour, palette)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if legend:
        figure.legend(
            [legend[name] for name in palette], palette, title=colour, loc="outside right upper"
        )
    return figure


def _panel(
    axes: Axes, drawn: pd.DataFrame, x: str, colour: str | None, palette: dict[str, object]
) -> Legend:
    """One quantity; returns what its legend would show."""
    hue = {"color": "black"} if palette else {}
    if colour is not None and drawn[colour].notna().all():
        hue = {"hue": drawn[colour].astype(str), "palette": palette}
    if pd.api.types.is_numeric_dtype(drawn[x]):
        sns.lineplot(
            drawn,
            x=x,
            y="_mean",
            marker="o",
            errorbar=("pi", 100),
            err_style="bars",
            ax=axes,
            **hue,
        )
    else:
        beside = 0.3 if "hue" in hue else False
        sns.pointplot(
            drawn,
            x=x,
            y="_mean",
            linestyle="none",
            errorbar=("pi", 100),
            dodge=beside,
            ax=axes,
            **hue,
        )
    for axis, values in (("x", drawn[x]), ("y", drawn["_mean"])):
        if (
            pd.api.types.is_numeric_dtype(values)
            and values.min() > 0
            and values.max() > WIDE * values.min()
        ):
            axes.set(**{f"{axis}scale": "log"})
    result, _, quantity = drawn["_panel"].iloc[0].partition("\n")
    over = f" (mean of {drawn['_count'].max()} rows)" if drawn["_count"].max() > 1 else ""
    axes.set(title=quantity, ylabel=result + over, xlabel=x)
    handles, names = axes.get_legend_handles_labels()
    if axes.get_legend():
        axes.get_legend().remove()
    return dict(zip(names, handles, strict=True))


def _palette(values: Iterable[object]) -> dict[str, object]:
    """A colour for every value, the same in all panels: the style's, or evenly spaced hues where these are too few."""
    names, cycle = (
        [str(value) for value in values],
        mpl.rcParams["axes.prop_cycle"].by_key()["color"],
    )
    return dict(
        zip(
            names, cycle if len(names) <= len(cycle) else sns.husl_palette(len(names)), strict=False
        )
    )


def _array(column: pd.Series) -> np.ndarray:
    return (
        column.to_numpy()
        if pd.api.types.is_numeric_dtype(column)
        else np.array([str(item) for item in column])
    )
