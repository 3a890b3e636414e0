"""Runs as one HTML file that needs no internet: a table of their results, then each notebook."""

import importlib.util
import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from workflow.collect import collect
from workflow.parameters import NOTEBOOKS, parameters
from workflow.refresh import is_passing
from workflow.results import is_time
from workflow.runs import BUILD, Run, provenance

REPORTS = BUILD / "reports"
# The policy has a browser refuse what is not in the file; nbconvert's own page loads four scripts.
PAGE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>window.MathJax = {options: {enableMenu: false},
 tex: {inlineMath: [["$", "$"]], processEscapes: true, tags: "ams"}};</script>
<script>{{ resources.mathjax }}</script>
{%- endblock -%}
"""
FACTS = ("commit", "modified", "seconds", "python", "sources")


def report(runs: Sequence[Run], out: Path) -> Path:
    """Write the report of finished runs to `out`, which is returned."""
    markdown = nbformat.v4.new_markdown_cell
    title = runs[0].name if len(runs) == 1 else f"{runs[0].notebook.stem}: {len(runs)} runs"
    cells = [markdown(f"# Report of {title}\n\n{results_table(runs)}")]
    for run in runs:
        cells.append(markdown(f"# {run.name}\n\n{facts_table(run)}"))
        for cell in nbformat.read(run.folder / "notebook.ipynb", as_version=4).cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                continue
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if not is_passing(output)]
            # two runs of one notebook have the same cells
            cell["id"] = f"{run.id}-{len(cells)}"
            cells.append(cell)
    book = nbformat.v4.new_notebook(cells=cells, metadata={"title": title})
    # nbconvert counts on stderr the figures without an alternative text
    quiet = logging.getLogger("nbconvert.quiet")
    quiet.setLevel(logging.ERROR)
    exporter = HTMLExporter(raw_template=PAGE, embed_images=True, log=quiet)
    resources = {"metadata": {"path": str(NOTEBOOKS), "name": "report"}, "mathjax": mathjax()}
    page, _ = exporter.from_notebook_node(book, resources)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def results_table(runs: Sequence[Run]) -> str:
    """The numbers of all runs, a column a run."""
    table = collect(runs)
    table = table[~table["quantity"].map(is_time)]
    wide = table.pivot_table("value", ["result", "row", "labels", "quantity"], "id", sort=False)
    shown = wide.reset_index().rename_axis(columns=None)
    rows = shown.to_html(index=False, float_format="{:.4g}".format, border=0)
    return f"<details><summary>Results in numbers</summary>\n{rows}\n</details>"


def facts_table(run: Run) -> str:
    """Parameters, those that were given in bold, and what the run was made from."""
    record = provenance(run.folder)
    known = parameters(run.notebook)
    rows = []
    for name, value in record["parameters"].items():
        shown = f"<code>{escape(repr(value))}</code>"
        if name in record["given"]:
            shown = f"<b>{shown}</b>"
        comment = known[name].comment if name in known else ""
        rows.append((name, shown, escape(comment)))
    for name in FACTS:
        rows.append((name, escape(str(record[name])), ""))
    table = pd.DataFrame(rows, columns=["name", "value", "meaning"])
    return table.to_html(index=False, escape=False, border=0)


def mathjax() -> str:
    """MathJax with its fonts in one script, from the package that the site is made with."""
    package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
    script = Path(package) / "static" / "mathjax" / "tex-svg-full.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")
