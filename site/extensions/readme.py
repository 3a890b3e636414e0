"""Sections of README.md on a page: `<!-- README: a heading -->` stands for what is below it.

Links to notebooks, to pages of the site and to the web stay. Of a link to another path of the
repository, which the site does not carry, the text remains. Pictures are left to the page.
"""

import re

from workflow.parameters import ROOT

README = ROOT / "README.md"
PLACE = re.compile(r"<!-- README: (.+?) -->")
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n+", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]*)\)")


def section(heading: str) -> str:
    """The text below `## heading`, up to the next heading of that rank."""
    text = README.read_text(encoding="utf-8")
    pattern = rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(f"README.md has no section '## {heading}'; mend README.md or the page")
    return LINK.sub(reachable, PICTURE.sub("", found[1])).strip()


def reachable(link: re.Match) -> str:
    """The link as a page beside this folder has it, or its text."""
    if re.match(r"https?:|notebooks/", link[2]):
        return link[0]
    if link[2].startswith("site/"):
        return f"[{link[1]}]({link[2].removeprefix('site/')})"
    return link[1]


def read(app, docname: str, source: list[str]) -> None:
    if PLACE.search(source[0]):
        source[0] = PLACE.sub(lambda place: section(place[1]), source[0])
        app.env.note_dependency(str(README), docname=docname)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
