"""Mentions in a notebook's text become links: "notebook 03" to that notebook, a known work to the bibliography.

Which words name a work stands in the field `mentions` of references.bib, a regular expression; the first mention in each
notebook is followed by its number. The notebooks themselves stay plain Markdown. On the page of references each work
says where it is cited.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from pybtex.database import parse_file

SITE = Path(__file__).resolve().parent.parent
NOTEBOOKS, BIBLIOGRAPHY = SITE.parent / "notebooks", SITE / "references.bib"
# what is no running text: code blocks, code, formulas, links, headings
KEPT = re.compile(
    r"(```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|^#.*?$)",
    re.DOTALL | re.MULTILINE,
)
NUMBERED = re.compile(r"\b[Nn]otebooks?\s+\d\d(?:(?:,\s+|\s+and\s+|\s+to\s+)\d\d)*")


def works() -> dict[str, re.Pattern]:
    """citation key → how it is mentioned."""
    entries = parse_file(str(BIBLIOGRAPHY), "bibtex").entries
    return {
        key: re.compile(entry.fields["mentions"])
        for key, entry in entries.items()
        if "mentions" in entry.fields
    }


def pages() -> dict[str, str]:
    return {path.name[:2]: path.name for path in NOTEBOOKS.glob("[0-9]*.ipynb")}


def link_notebooks(text: str, known: dict[str, str], own: str) -> str:
    """Each number of another notebook in "notebooks 03 and 04" becomes a link; a single one takes the word along."""

    def one(found):
        words = found.group()
        numbers = re.findall(r"\d\d", words)
        if len(numbers) == 1 and numbers[0] in known and numbers[0] != own:
            return f"[{words}]({known[numbers[0]]})"
        return re.sub(
            r"\d\d",
            lambda n: f"[{n[0]}]({known[n[0]]})" if n[0] in known and n[0] != own else n[0],
            words,
        )

    return NUMBERED.sub(one, text)


def cite(text: str, unseen: dict[str, re.Pattern]) -> str:
    """The citation behind the first mention of each work; a work that was mentioned leaves `unseen`."""
    for key, pattern in list(unseen.items()):
        if found := pattern.search(text):
            text = f"{text[: found.end()]} {{cite:p}}`{key}`{text[found.end() :]}"
            del unseen[key]
    return text


def running_text(markdown: str, change) -> str:
    """`change` applied to everything but code, formulas, links and headings."""
    return "".join(part if k % 2 else change(part) for k, part in enumerate(KEPT.split(markdown)))


def link(notebook: dict, own: str) -> None:
    unseen, known = works(), pages()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = running_text(
                "".join(cell["source"]), lambda text: link_notebooks(cite(text, unseen), known, own)
            )


def read(app, docname: str, source: list[str]) -> None:
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        link(notebook, docname.split("/")[1][:2])
        source[0] = json.dumps(notebook)
        app.env.note_dependency(str(BIBLIOGRAPHY), docname=docname)


def outdated(app, env) -> list[str]:
    """The references are written anew whenever anything is: another page may cite another work."""
    return ["references"]


def cited_in(app, doctree, docname: str) -> None:
    """Behind each entry of the bibliography, links to the pages that cite it."""
    domain = app.env.get_domain("cite")
    for entry in doctree.findall(nodes.citation):
        keys = {c.key for c in domain.citations if c.citation_id in entry["ids"]}
        places = sorted(
            {
                ref.docname
                for ref in domain.citation_refs
                for target in ref.targets
                if target.key in keys
            }
            - {docname}
        )
        if places:
            entry.append(
                nodes.paragraph(
                    "", "Cited in ", *_links(app, docname, places), classes=["cited-in"]
                )
            )


def _links(app, docname: str, places: list[str]):
    for k, place in enumerate(places):
        title = app.env.titles[place].astext().split(":")[0]
        uri = app.builder.get_relative_uri(docname, place)
        yield from ([nodes.Text(", ")] if k else [])
        yield nodes.reference("", title, internal=True, refuri=uri)


def setup(app):
    app.connect("source-read", read)
    app.connect("env-updated", outdated)
    app.connect("doctree-resolved", cited_in)
    return {"parallel_read_safe": True}
