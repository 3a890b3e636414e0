"""One run as one HTML file that needs nothing beside it: what it was made from, then the notebook with equations and figures."""

import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert import HTMLExporter

from experiments.figures import ROOT, replacing

from .folder import RUNS, read, state
from .parameters import NOTEBOOKS, parameters
from .refresh import strip

TAIL = 40  # lines of the log
# The policy has a browser refuse whatever is not in the file itself. nbconvert's own page would load four scripts from elsewhere.
PAGE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>window.MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], processEscapes: true, tags: "ams"},
 options: {enableMenu: false}};</script>
<script>{{ resources.mathjax }}</script>
{%- endblock -%}
{%- block body_header -%}{{ super() }}{{ resources.about }}{%- endblock -%}
"""
ABOUT = """<style>
.run {font: 14px/1.45 system-ui, sans-serif; max-width: 75em; margin: 1em auto; padding: 0 1em; overflow-wrap: anywhere}
.run table {border-collapse: collapse; margin: .5em 0} .run td, .run th {text-align: left; padding: .15em 1em .15em 0;
 border-bottom: 1px solid #ddd; vertical-align: top}
.run td:first-child {white-space: nowrap} .run details {overflow-x: auto}
.run pre {overflow: auto; background: #f5f5f5; padding: .6em}
.run .changed td {font-weight: bold} .run .bad {border-left: 5px solid #D55E00; padding-left: .8em} .run code {font-size: 13px}
.jp-InputArea, .jp-InputArea-editor {overflow-x: auto !important}
main {max-width: 75em; margin: auto} .jp-OutputArea-output {overflow-x: auto}
img, mjx-container svg {max-width: 100%}
</style>
<header class="run tex2jax_ignore">
<h1>{{ request.notebook }}</h1>
<p>Run <code>{{ request.id }}</code>: <b>{{ state }}</b>{% if request.smoke %}, small parameters for a quick look{% endif %}</p>
{% if state != "finished" %}<div class="bad"><p>This run is not finished: {{ why }}</p>
{% if failure.traceback %}<pre>{{ failure.traceback }}</pre>{% endif %}</div>{% endif %}
<h2>Parameters</h2>
<table><tr><th>name</th><th>value</th><th>default</th><th>meaning</th></tr>
{% for row in parameters %}<tr{% if row.changed %} class="changed"{% endif %}><td><code>{{ row.name }}</code></td>
<td><code>{{ row.value }}</code></td>
<td>{% if row.changed %}<code>{{ row.default }}</code> (changed){% else %}the same{% endif %}</td>
<td>{{ row.help }}</td></tr>{% endfor %}</table>
<h2>Made from</h2>
<table>{% for name, value in facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
{% for title, rows in lists.items() if rows %}<details><summary>{{ title }} ({{ rows|length }})</summary>
<table>{% for name, value in rows.items() %}<tr><td>{{ name }}</td><td><code>{{ value }}</code></td></tr>{% endfor %}</table>
</details>{% endfor %}
{% if log %}<details><summary>End of the log</summary><pre>{{ log }}</pre></details>{% endif %}
</header>
"""


def report(run: str | Path, out: Path | None = None, *, root: Path = RUNS) -> Path:
    """Write the report of a run, given by its folder or the first digits of its id, to `out`; returns that path.

    Default: build/reports/NOTEBOOK-ID.html. Of a failed run its traceback and the notebook up to there. ValueError: no such run
    (the nearest is named), several, or one that has neither finished nor failed.
    """
    folder = locate(run, root)
    about = _about(folder)
    request, failed = about["request"], about["state"] == "failed"
    notebook = folder / ("notebook.failed.ipynb" if failed else "notebook.ipynb")
    if not (failed or notebook.is_file()):
        raise ValueError(
            f"{request['notebook']}/{request['id']} is {about['state']} and has no {notebook.name} to report; "
            "continue it with: python -m lib.runs resume"
        )
    book = (
        strip(nbformat.read(notebook, as_version=4))
        if notebook.is_file()
        else nbformat.v4.new_notebook()
    )
    book.metadata["title"] = f"{request['notebook']} {request['id']}"
    about["parameters"] = _parameters(parameters(notebook) if notebook.is_file() else {}, request)
    header = jinja2.Environment(autoescape=True).from_string(ABOUT).render(about)
    quiet = logging.getLogger("nbconvert.quiet")
    quiet.setLevel(
        logging.ERROR
    )  # else it counts on stderr the figures that have no alternative text
    exporter = HTMLExporter(raw_template=PAGE, embed_images=True, log=quiet)
    resources = {
        "metadata": {"path": str(NOTEBOOKS), "name": request["notebook"]},
        "about": header,
        "mathjax": mathjax(),
    }
    page, _ = exporter.from_notebook_node(book, resources)
    out = out or ROOT / "build" / "reports" / f"{request['notebook']}-{request['id']}.html"
    with replacing(out) as (draft,):
        draft.write_text(page, encoding="utf-8")
    return out


def locate(run: str | Path, root: Path) -> Path:
    """The folder of a run: a path, or the first digits of the id of one below `root`. ValueError with the nearest ids."""
    if (Path(run) / "request.json").is_file():
        return Path(run)
    name, folders = (
        str(run),
        {path.parent.name: path.parent for path in sorted(root.glob("*/*/request.json"))},
    )
    found = [identifier for identifier in folders if identifier.startswith(name)]
    if len(found) == 1:
        return folders[found[0]]
    if found:
        raise ValueError(
            f"{len(found)} runs begin with {name!r}: {', '.join(sorted(found)[:8])}; give more digits"
        )
    near = get_close_matches(
        name, {identifier[: len(name)] for identifier in folders}, n=3, cutoff=0.3
    )
    told = [
        f"{identifier} ({folders[identifier].parent.name})"
        for identifier in folders
        if identifier[: len(name)] in near
    ]
    raise ValueError(
        f"no run {name!r} in {os.path.relpath(root)}; "
        + (f"the nearest: {', '.join(told[:4])}" if told else "see: python -m lib.runs status")
    )


def mathjax() -> str:
    """MathJax with its fonts in one script, from the package that the site is made with; it sets equations without a network."""
    found = importlib.util.find_spec(
        "sphinx-mathjax-offline"
    )  # a package whose name no import statement can spell
    if found is None:
        raise ModuleNotFoundError(
            "sphinx-mathjax-offline is not installed; install requirements.txt"
        )
    script = Path(found.submodule_search_locations[0]) / "static" / "mathjax" / "tex-svg-full.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")


def _about(folder: Path) -> dict[str, Any]:
    """What the header shows of a run; files that are not there yet count as empty."""
    found = state(folder)
    request, made, failure = (
        read(folder / f"{name}.json") for name in ("request", "provenance", "failed")
    )
    request = {
        "notebook": folder.parent.name,
        "id": folder.name,
        "effective": {},
        "parameters": {},
        "parts": {},
    } | request
    commit = made.get("commit") and made["commit"] + (
        ", with uncommitted changes" if made.get("modified") else ""
    )
    facts = {
        "seed": request["effective"].get("seed"),
        "threads": made.get("threads"),
        "commit": commit,
        "seconds": made.get("seconds", failure.get("seconds")),
        "Python": made.get("python"),
    }
    facts |= {
        "platform": made.get("platform"),
        "models": _short(made.get("models")),
        "data": _short(made.get("data")),
    }
    log = folder / "log.txt"
    return {
        "state": found.name,
        "why": found.detail,
        "request": request,
        "failure": failure,
        "facts": {name: value for name, value in facts.items() if value not in (None, "")},
        "lists": {
            "Versions": made.get("versions"),
            "Checksums of what went in": request["parts"],
            "Files": made.get("files"),
        },
        "log": "\n".join(log.read_text(encoding="utf-8").splitlines()[-TAIL:])
        if log.is_file()
        else "",
    }


def _parameters(known: Mapping[str, Any], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a parameter; where the notebook's defaults are not known, what was given counts as changed."""
    rows = []
    for name, value in request["effective"].items():
        default = known.get(name, {}).get("default")
        changed = value != default if name in known else name in request["parameters"]
        rows.append(
            {
                "name": name,
                "value": repr(value),
                "changed": changed,
                "help": known.get(name, {}).get("help", ""),
                "default": repr(default) if name in known else "",
            }
        )
    return rows


def _short(found: Any) -> str:
    """Models or data in words, from whatever their loaders said of them."""
    return json.dumps(found, ensure_ascii=False) if found else ""
