"""Mentions in a notebook's text become links: "notebook 03" to that notebook, a work to its entry.

Which words name a work stands in the field `mentions` of references.bib, a regular expression; the
first mention in each notebook is followed by its number. The notebooks themselves stay plain
Markdown. On the page of references each work says where it is cited.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from docutils import nodes
from pybtex.database import parse_file

from workflow.parameters import ROOT, notebooks

BIBLIOGRAPHY = ROOT / "site" / "references.bib"
# what is no running text: code blocks, code, formulas, links, headings
NO_TEXT = re.compile(
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


def link_notebooks(text: str, pages: Mapping[str, str]) -> str:
    """Each number in "notebooks 03 and 04" becomes a link; a single one takes the word along."""

    def link_number(found: re.Match) -> str:
        number = found[0]
        return f"[{number}]({pages[number]})" if number in pages else number

    def link_all(found: re.Match) -> str:
        words = found[0]
        numbers = re.findall(r"\d\d", words)
        if len(numbers) == 1 and numbers[0] in pages:
            return f"[{words}]({pages[numbers[0]]})"
        return re.sub(r"\d\d", link_number, words)

    return NUMBERED.sub(link_all, text)


def cite(text: str, unseen: dict[str, re.Pattern]) -> str:
    """A citation behind the first mention of each work, which then leaves `unseen`."""
    for key, pattern in list(unseen.items()):
        found = pattern.search(text)
        if found:
            text = f"{text[: found.end()]} {{cite:p}}`{key}`{text[found.end() :]}"
            del unseen[key]
    return text


def in_running_text(markdown: str, change: Callable[[str], str]) -> str:
    """`change` applied to everything but code, formulas, links and headings."""
    parts = NO_TEXT.split(markdown)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def link(notebook: dict[str, Any], number: str) -> None:
    """Links and citations in the text cells of a notebook."""
    unseen = works()
    pages = {path.name[:2]: path.name for path in notebooks() if path.name[:2] != number}

    def change(text: str) -> str:
        return link_notebooks(cite(text, unseen), pages)

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = in_running_text("".join(cell["source"]), change)


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
        keys = {
            citation.key for citation in domain.citations if citation.citation_id in entry["ids"]
        }
        places = {
            reference.docname
            for reference in domain.citation_refs
            if keys & {target.key for target in reference.targets}
        }
        places.discard(docname)
        if places:
            links = page_links(app, docname, sorted(places))
            entry.append(nodes.paragraph("", "Cited in ", *links, classes=["cited-in"]))


def page_links(app, docname: str, places: list[str]) -> Iterator[nodes.Node]:
    for number, place in enumerate(places):
        if number:
            yield nodes.Text(", ")
        title = app.env.titles[place].astext().split(":")[0]
        uri = app.builder.get_relative_uri(docname, place)
        yield nodes.reference("", title, internal=True, refuri=uri)


def setup(app):
    app.connect("source-read", read)
    app.connect("env-updated", outdated)
    app.connect("doctree-resolved", cited_in)
    return {"parallel_read_safe": True}
