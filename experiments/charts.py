"""Charts of tables of methods: ratios on the same pairs, a trade-off, a measure's validation."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .evaluation import paired_ratio
from .figures import BASELINES, colour

# Names of the methods of experiments.tables.digits for people.
LABELS = {
    "lerp": "straight line",
    "slerp": "great circle",
    "ot": "transport of ink",
    "lerp_denoised": "straight line, denoised",
    "shared_noise_lerp": "line under shared noise",
    "ddim_slerp": "DDIM inversion, great circle",
    "noisediffusion": "NoiseDiffusion",
    "stein": "Stein geodesic",
    "density": "density geodesic",
    "both": "both metrics",
}
MEASURES = {
    "kid": "classifier, KID",
    "fid": "classifier, FID",
    "kid_efficientnet": "EfficientNet, KID",
    "kid_squeezenet": "SqueezeNet, KID",
}
MEASURE_COLOURS = {
    "kid": "#0072B2",
    "fid": "#56B4E9",
    "kid_efficientnet": "#D55E00",
    "kid_squeezenet": "#E69F00",
}
DEFECTS = {
    "blend": "share of a second picture",
    "blur": "Gaussian blur, pixels",
    "grain": "white noise, standard deviation",
}


def ratios(table: pd.DataFrame, baseline: str, measure: str, by: str, units: str) -> pd.DataFrame:
    """Each method's measure over a baseline's on the same pairs, with intervals.

    Args:
        table: one row a method and pair.
        baseline: a method.
        measure: a column.
        by: column whose values are compared apart.
        units: column of the pairs that are drawn together.
    """
    rows = []
    for value, part in table.groupby(by, sort=True):
        complete = part.dropna(subset=[measure])
        for method in complete.method.unique():
            if method == baseline:
                continue
            interval = paired_ratio(complete, method, baseline, measure, units=units)
            rows.append({by: value, "method": method, **interval._asdict()})
    return pd.DataFrame(rows)


def small_multiples(
    rows: Mapping[str, pd.DataFrame], families: Mapping[str, str], by: str, titles: Sequence[str]
) -> Figure:
    """Ratios with their intervals: a column of panels for each value of `by`, a row a measure.

    Args:
        rows: measure in words → `ratios`.
        families: method → its name in `LABELS`, in the order from top to bottom.
        by: column of the panels.
        titles: of the columns.
    """
    values = sorted(next(iter(rows.values()))[by].unique())
    size = (2.3 * len(values) + 2, (0.25 * len(families) + 0.9) * len(rows))
    figure, axes = plt.subplots(
        len(rows), len(values), figsize=size, sharey=True, sharex="row", squeeze=False
    )
    for line, (measure, table) in zip(axes, rows.items(), strict=True):
        for panel, value in zip(line, values, strict=True):
            part = table[table[by] == value].set_index("method")
            for height, (method, family) in enumerate(families.items()):
                row = part.loc[method]
                interval = [[row.estimate - row.low], [row.high - row.estimate]]
                mark = {"fmt": "o", "ms": 4, "color": colour(family)}
                panel.errorbar(row.estimate, height, xerr=interval, **mark)
            panel.axvline(1, color="0.5", lw=1, ls="--")
            panel.set_xscale("log")
            panel.set_xticks([0.5, 1, 2], labels=["0.5", "1", "2"])
            panel.minorticks_off()
        line[0].set(yticks=range(len(families)), yticklabels=list(families))
        line[len(values) // 2].set_xlabel(measure)
    axes[0, 0].invert_yaxis()
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    return figure


def trade_off(
    axes: Axes, points: pd.DataFrame, x: str, y: str, *, lines: Sequence[str] = ()
) -> None:
    """Methods as points of two measures with their intervals; lower and left is better.

    Circles are geodesics, diamonds baselines; frames denoised once are white inside. Settings of
    one family share a colour.

    Args:
        axes: to draw on.
        points: columns family, denoised, and each measure with its _low and _high.
        x: measure across.
        y: measure upwards.
        lines: families whose settings are joined, in the order of the rows.
    """
    for (family, denoised), part in points.groupby(["family", "denoised"], sort=False):
        style = {"color": colour(family), "ms": 6, "lw": 1}
        style["marker"] = "D" if family in BASELINES else "o"
        style["mfc"] = "white" if denoised else colour(family)
        geodesic_denoised = denoised and family not in BASELINES
        style["label"] = LABELS[family] + (", denoised" if geodesic_denoised else "")
        intervals = [
            np.abs(part[[f"{name}_low", f"{name}_high"]].to_numpy().T - part[name].to_numpy())
            for name in (x, y)
        ]
        shape = "-" if family in lines else ""
        axes.errorbar(
            part[x],
            part[y],
            xerr=intervals[0],
            yerr=intervals[1],
            ls=shape,
            elinewidth=0.6,
            **style,
        )


def validation(table: pd.DataFrame) -> Figure:
    """Set measures against the level of a defect, each over its value for even double exposures.

    Args:
        table: of `experiments.evaluation.validation.validate`.
    """
    figure, axes = plt.subplots(1, len(DEFECTS), figsize=(10, 3.6), sharey=True)
    for measure, part in table.groupby("measure", sort=False):
        half = part[(part.defect == "blend") & (part.level == 0.5)].estimate.item()
        untouched = part[part.defect == "none"]
        for panel, defect in zip(axes, DEFECTS, strict=True):
            rows = pd.concat([untouched, part[part.defect == defect].sort_values("level")])
            intervals = np.abs(rows[["low", "high"]].to_numpy().T - rows.estimate.to_numpy())
            panel.errorbar(
                rows.level,
                rows.estimate / half,
                yerr=intervals / half,
                fmt="o-",
                ms=4,
                color=MEASURE_COLOURS[measure],
                label=MEASURES[measure],
            )
    for panel, label in zip(axes, DEFECTS.values(), strict=True):
        panel.set_xlabel(label)
        panel.set_yscale("symlog", linthresh=0.1)
    axes[0].set_ylabel("value / that of\nhalf and half")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
