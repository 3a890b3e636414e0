"""What notebook 06 prints and plots of its committed tables of photographs of hands."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from . import charts
from .evaluation import summary
from .figures import RESULTS, colour

# Method in the tables → its name for people, and the method whose colour it has.
NAMES = {
    "lerp": ("straight line", "lerp"),
    "slerp": ("great circle", "slerp"),
    "lerp, denoised 0.2": ("straight line, denoised", "lerp_denoised"),
    "lerp, denoised 0.5": ("line, denoised at σ = 0.5", "lerp_denoised"),
    "lerp, renoised 0.35": ("straight line, renoised", "lerp_denoised"),
    "shared noise": ("shared noise", "shared_noise_lerp"),
    "ddim slerp": ("DDIM inversion", "ddim_slerp"),
    "noisediffusion": ("NoiseDiffusion", "noisediffusion"),
    "stein": ("Stein", "stein"),
    "stein, denoised": ("Stein, denoised", "stein"),
    "stein, renoised 0.35": ("Stein, renoised", "stein"),
    "density 0.002": ("density, weak", "density"),
    "density 0.002, denoised": ("density, weak, denoised", "density"),
    "density 0.01": ("density, strong", "density"),
    "both": ("both metrics", "both"),
}
# Where labels of points that lie close together stand: offset in points, and side.
BESIDE = {
    "lerp": ((-8, 7), "right"),
    "stein": ((-8, -4), "right"),
    "both": ((-8, -15), "right"),
    "density 0.002": ((4, 16), "left"),
    "stein, denoised": ((-8, -13), "right"),
    "stein, renoised 0.35": ((-8, -13), "right"),
    "lerp, denoised 0.2": ((5, -13), "left"),
    "lerp, denoised 0.5": ((5, 18), "left"),
}
# Weight of a metric → its method.
ALPHAS = {
    0.002: "density 0.002",
    0.005: "density 0.005",
    0.01: "density 0.01",
    0.02: "density 0.02",
}
LAMBDAS = {100: "stein 100", 1000: "stein", 10000: "stein 10000"}
# Which prompts the density knows: none, both, or one that moves along the path.
WAYS = ("", ", product", ", moving")
# Methods that are compared with baselines.
COMPARED = ("stein", "stein, denoised", "stein, renoised 0.35", "density 0.002", "density 0.01")
# Decibels above which two images differ by rounding alone.
EXACT = 100.0


class Tables(NamedTuple):
    """The four tables of `experiments.tables.hands`.

    Attributes:
        base: Every method on every pair, a row a method and pair.
        sweep: Further settings on a few of the pairs.
        sets: KID and FID of all frames of a method, and differences from a baseline.
        movements: Movements of a hand whose true frames are known.
    """

    base: pd.DataFrame
    sweep: pd.DataFrame
    sets: pd.DataFrame
    movements: pd.DataFrame

    @property
    def together(self) -> pd.DataFrame:
        """The rows of `base`, and those of `sweep` that are not in it."""
        return pd.concat([self.base, self.sweep[~self.sweep.method.isin(self.base.method)]])

    def kid(self, pairs: int) -> pd.DataFrame:
        """1000 KID by EfficientNet on so many pairs: estimate, low and high of each method."""
        rows = self.sets[(self.sets.baseline == "") & (self.sets.pairs == pairs)]
        rows = rows[rows.measure == "kid_efficientnet"].set_index("method")
        return 1000 * rows[["estimate", "low", "high"]]


def read(folder: str | Path = RESULTS) -> Tables:
    """The committed tables."""
    folder = Path(folder)
    return Tables(
        base=pd.read_csv(folder / "06_hands.csv"),
        sweep=pd.read_csv(folder / "06_hands_sweep.csv"),
        sets=pd.read_csv(folder / "06_hands_sets.csv", keep_default_na=False),
        movements=pd.read_csv(folder / "06_hands_movements.csv"),
    )


def known_movements(tables: Tables) -> pd.DataFrame:
    """Distance from the true frames of a movement, a row a method."""
    groups = tables.movements.groupby("method", sort=False)
    shown = groups[["lpips", "psnr"]].mean().round({"lpips": 3, "psnr": 1})
    shown["converged"] = groups.converged.agg(_converged)
    return _named(shown.rename(columns={"lpips": "LPIPS", "psnr": "PSNR, dB"}))


def under_prompts(tables: Tables) -> pd.DataFrame:
    """Geodesics without a prompt, under the product of two, and under one that moves."""
    part = tables.together
    few = tables.sweep[tables.sweep.method == "stein, product"].pair.unique()
    methods = [f"{name}{way}" for name in ("stein", "density 0.01") for way in WAYS]
    groups = part[part.pair.isin(few)].groupby("method")
    shown = pd.DataFrame(
        {
            "converged": groups.converged.agg(_converged),
            "evaluations": groups.evaluations.mean().round(),
            "largest step": groups.largest_step_lpips.mean().round(3),
        }
    )
    return shown.loc[methods].astype({"evaluations": int})


def methods(tables: Tables) -> pd.DataFrame:
    """Every method on all pairs, the least KID first.

    Returns:
        A row a method, with the columns KID (1000 times, by EfficientNet-Lite0), KID' (by
        SqueezeNet), FID (by the hand classifier), largest step (LPIPS), ends ("exact", or the
        median PSNR to the given ones), converged and evaluations.
    """
    pairs = tables.base.pair.nunique()
    whole = tables.sets[(tables.sets.baseline == "") & (tables.sets.pairs == pairs)]
    values = whole.pivot(index="method", columns="measure", values="estimate")
    groups = tables.base.groupby("method", sort=False)
    wide = pd.DataFrame(
        {
            "KID": 1000 * values.kid_efficientnet,
            "KID'": 1000 * values.kid_squeezenet,
            "FID": values.fid.round(1),
            "largest step": groups.largest_step_lpips.mean().round(3),
            "ends": groups.ends_psnr.median().map(_decibels),
            "converged": groups.converged.agg(_converged),
            "evaluations": groups.evaluations.mean(),
        }
    ).sort_values("KID")
    rounded = wide.round({"KID": 0, "KID'": 0, "evaluations": 0})
    return _named(rounded.astype({"KID": int, "KID'": int, "evaluations": int}))


def kid_less_that_of(tables: Tables, baselines: Sequence[str]) -> pd.DataFrame:
    """Differences of 1000 KID from baselines on the same pairs, with 95 % intervals, in words.

    Args:
        tables: Of `read`.
        baselines: Names in the tables; a column each.
    """
    rows = tables.sets[tables.sets.pairs == tables.base.pair.nunique()]
    rows = rows[(rows.measure == "kid_efficientnet") & rows.baseline.isin(baselines)]
    rows = rows[rows.method.isin(COMPARED)]
    around = [
        f"{1000 * row.estimate:+.0f} [{1000 * row.low:+.0f}, {1000 * row.high:+.0f}]"
        for row in rows.itertuples()
    ]
    shown = rows.assign(around=around).pivot(index="method", columns="baseline", values="around")
    return _named(shown.loc[list(COMPARED), list(baselines)])


def stronger_pulls(tables: Tables) -> pd.DataFrame:
    """KID, typicality and cost of the density metric by its alpha, on the pairs of the sweep."""
    few = _swept(tables)
    groups = tables.together[tables.together.pair.isin(few)].groupby("method")
    shown = pd.DataFrame(
        {
            "KID": tables.kid(len(few)).estimate.round(),
            "typicality": groups.typicality.mean().round(1) + 0.0,
            "evaluations": groups.evaluations.mean().round(),
        }
    ).loc[list(ALPHAS.values())]
    shown.index = pd.Index(ALPHAS, name="alpha")
    return shown.astype({"KID": int, "evaluations": int})


def draw_trade_off(tables: Tables) -> tuple[Figure, pd.DataFrame]:
    """Good frames against even steps, each method with its intervals; and the points."""
    kid = tables.kid(tables.base.pair.nunique())
    steps = summary(tables.base).set_index(["measure", "method"]).loc["largest_step_lpips"]
    points = kid.add_prefix("kid_").join(steps[["estimate", "low", "high"]].add_prefix("step_"))
    points = points.rename(columns={"kid_estimate": "kid", "step_estimate": "step"})
    # the great circle is the straight line over again
    points = points.loc[[name for name in NAMES if name != "slerp"]]
    points["family"] = [NAMES[name][1] for name in points.index]
    points["denoised"] = points.index.str.contains("denoised|renoised")
    figure, axes = plt.subplots(figsize=(8.4, 5.6))
    charts.trade_off(axes, points, "step", "kid")
    for name, row in points.iterrows():
        shift, side = BESIDE.get(name, ((7, 5), "left"))
        look = {"ha": side, "textcoords": "offset points", "fontsize": 10.5}
        # labels stay readable where they cross an interval
        look["path_effects"] = [withStroke(linewidth=3, foreground="white")]
        axes.annotate(NAMES[name][0], (row.step, row.kid), xytext=shift, **look)
    axes.set_xlabel("largest LPIPS step (even paths to the left)")
    axes.set_ylabel("1000 KID (good frames below)")
    # room for the labels of small steps
    axes.set_xlim(left=0)
    return figure, points


def draw_sweep(tables: Tables) -> tuple[Figure, dict[str, pd.Series]]:
    """KID, largest step and typicality by the weight of each metric; and the means."""
    few = _swept(tables)
    kid = tables.kid(len(few))
    of_few = tables.together[tables.together.pair.isin(few)]
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.4), sharey="col")
    means = {}
    for row, family, words, weights in (
        (axes[0], "density", "α of the density metric", ALPHAS),
        (axes[1], "stein", "λ of the Stein metric", LAMBDAS),
    ):
        tone = colour(family)
        names = list(weights.values())
        row[0].fill_between(list(weights), kid.low[names], kid.high[names], color=tone, alpha=0.15)
        means[f"{family}_1000_KID"] = kid.estimate[names]
        for panel, measure in zip(row[1:], ("largest_step_lpips", "typicality"), strict=True):
            each = of_few.pivot(index="pair", columns="method", values=measure)
            panel.plot(list(weights), each[names].T, color=tone, linewidth=0.7, alpha=0.3)
            panel.axhline(each["lerp"].mean(), color=colour("lerp"), linestyle="--")
            means[f"{family}_{measure}"] = each[names].mean()
        shown = [values for name, values in means.items() if name.startswith(family)]
        titles = ("1000 KID", "largest LPIPS step", "typicality")
        for panel, title, middle in zip(row, titles, shown, strict=True):
            panel.plot(list(weights), middle, "o-", color=tone, linewidth=2)
            panel.set(xscale="log", xlabel=words, ylabel=title)
            panel.set_xticks(list(weights), labels=[f"{value:g}" for value in weights])
            panel.minorticks_off()
    return figure, means


def _swept(tables: Tables) -> list[int]:
    """The pairs of the sweep."""
    return list(tables.sweep[tables.sweep.method == ALPHAS[0.02]].pair.unique())


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows under their names for people."""
    return table.rename(index={name: words for name, (words, _) in NAMES.items()})


def _converged(column: pd.Series) -> str:
    """How many geodesics converged, in words; nothing where there are none."""
    if column.isna().all():
        return ""
    return f"{int(column.astype(float).sum())} of {len(column)}"


def _decibels(value: float) -> str:
    return "exact" if value > EXACT else f"{value:.0f} dB"
