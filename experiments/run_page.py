"""One HTML page of a run: strips, moving pictures, tables and settings, with nothing to load."""

import base64
import io
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from torch import Tensor

from lib.files import replacing

from . import gallery

# Frames of a row, and pixels a panel of a moving picture
COLUMNS = 9
SIDE = 144
# A page of more items is slow to open
MOST = 40
NOT_CONVERGED = "not converged"

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }
h1 { font-size: 1.6em; line-height: 1.2 }
h2 { font-size: 1.2em; margin: 2em 0 0.5em }
div { margin: 0.5em 0; overflow-x: auto }
img { display: block; max-width: 100% }
img.strip { max-width: none }
table { border-collapse: collapse; font-size: 0.85em; font-variant-numeric: tabular-nums }
td, th { border: 0; border-bottom: 1px solid #ccc; padding: 0.2em 0.7em; text-align: left }
td { white-space: nowrap }
</style>
<h1>{{ title }}</h1>
<p>{{ text }}</p>
{% if means is not none %}<div>{{ means }}</div>{% endif %}
{% for item in items %}
<h2>{{ item.name }}</h2>
<p>{{ item.text }}</p>
<div><img class="strip" alt="frames of {{ item.name }}, a row a method"
src="data:image/webp;base64,{{ item.strip }}"></div>
{% if item.gif %}
<img alt="the same, moving" src="data:image/gif;base64,{{ item.gif }}">
{% endif %}
{% endfor %}
{% if left_out %}<p>{{ left_out }} more are in the table and folders of this run.</p>{% endif %}
<h2>Table</h2>
<div>{{ table }}</div>
<details><summary>Settings</summary><div><pre>{{ settings }}</pre></div></details>
</html>
"""


@dataclass(frozen=True)
class Item:
    """What a page shows of one pair or video.

    Attributes:
        name: of it.
        text: what was asked, the prompts for instance.
        rows: name of a method → its frames (n, 3, height, width) in [0, 1].
        moving: those of the rows that a moving picture shows side by side, of equal length.
    """

    name: str
    text: str
    rows: Mapping[str, Tensor]
    moving: tuple[str, ...]


def write_page(
    out: Path,
    *,
    title: str,
    table: pd.DataFrame,
    means: pd.DataFrame | None,
    items: Iterable[Item],
    count: int,
) -> Path:
    """Write run.html of a finished run.

    Args:
        out: folder of the run, with its settings.json.
        title: above the page.
        table: of the run.
        means: a row a method, above the pictures; None for none.
        items: what is shown, a strip and a moving picture each; the first forty of them.
        count: how many items there are.

    Returns:
        The path of the page.

    Raises:
        OSError: it cannot be written; what stood there is untouched.
    """
    shown = []
    for item in islice(items, MOST):
        moving = {name: item.rows[name] for name in item.moving}
        gif = _gif(moving) if moving else ""
        shown.append({"name": item.name, "text": item.text, "strip": _strip(item.rows), "gif": gif})
    page = (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            title=title,
            text=" ".join(not_converged(table)) or "Every geodesic converged.",
            means=None if means is None else _html(means),
            table=_html(table.drop(columns="settings")),
            items=shown,
            left_out=count - len(shown),
            settings=(out / "settings.json").read_text(encoding="utf-8"),
        )
    )
    path = out / "run.html"
    with replacing(path) as (draft,):
        draft.write_text(page, encoding="utf-8", newline="\n")
    return path


def row_name(method: str, converged: Any) -> str:
    """A method's name above its frames; marked where its path is no geodesic."""
    lost = not pd.isna(converged) and not converged
    return f"{method}\n({NOT_CONVERGED})" if lost else method


def not_converged(table: pd.DataFrame) -> list[str]:
    """A sentence for each method some of whose geodesics did not converge."""
    sentences = []
    for label, rows in table.groupby("method", sort=False):
        lost = int(rows["converged"].eq(False).sum())
        if lost:
            sentences.append(
                f"{label}: {lost} of {len(rows)} geodesics did not converge (column converged)."
            )
    return sentences


def _html(table: pd.DataFrame) -> Markup:
    # pandas prints a None as such, but not what is no number
    shown = table.fillna(float("nan"))
    return Markup(
        shown.to_html(index=False, border=0, na_rep="", float_format=lambda x: f"{x:.4g}")
    )


def _strip(rows: Mapping[str, Tensor]) -> str:
    figure = gallery.frame_rows({name: _some(frames) for name, frames in rows.items()}, cell=1.0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=96)
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _some(frames: Tensor) -> Tensor:
    """Equally spaced ones, first and last among them."""
    count = min(COLUMNS, len(frames))
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _gif(panels: Mapping[str, Tensor]) -> str:
    # one line of words above a panel
    named = {
        name.replace(NOT_CONVERGED, "not conv.").replace("\n", " "): frames
        for name, frames in panels.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = gallery.moving_picture(named, Path(folder) / "moving.gif", side=SIDE)
        return base64.b64encode(path.read_bytes()).decode()
