"""Sections of README.md or of a notebook on a page, so that nothing is written twice.

`<!-- README: a heading -->` and `<!-- 00_start_here: a heading -->` stand for what is below it.
Links to notebooks, to pages of the site and to the web stay. Of a link to another path of the
repository, which the site does not carry, the text remains. Pictures are left to the page.
"""

import json
import re
from pathlib import Path

from workflow.parameters import NOTEBOOKS, ROOT

PLACE = re.compile(r"<!-- (README|\d\d_\w+): (.+?) -->")
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n+", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]*)\)")


def source_of(name: str) -> Path:
    return ROOT / "README.md" if name == "README" else NOTEBOOKS / f"{name}.ipynb"


def prose(path: Path) -> str:
    """The text of a Markdown file, or of a notebook's text cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def section(name: str, heading: str) -> str:
    """The text below `## heading`, up to the next heading of that rank."""
    path = source_of(name)
    pattern = rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, prose(path), re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(f"{path.name} has no section '## {heading}'; mend it or the page")
    return LINK.sub(reachable, PICTURE.sub("", found[1])).strip()


def reachable(link: re.Match) -> str:
    """The link as a page of this folder has it, or its text."""
    text, target = link.groups()
    if re.match(r"https?:|notebooks/|#", target):
        return link[0]
    if target.startswith("site/"):
        return f"[{text}]({target.removeprefix('site/')})"
    if re.match(r"\d\d_\w+\.ipynb", target):
        return f"[{text}](notebooks/{target})"
    return text


def read(app, docname: str, source: list[str]) -> None:
    places = PLACE.findall(source[0])
    source[0] = PLACE.sub(lambda place: section(place[1], place[2]), source[0])
    for name, _ in places:
        app.env.note_dependency(str(source_of(name)), docname=docname)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
