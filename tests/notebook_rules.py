"""What a notebook of this project has to look like; each rule yields complaints."""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import nbformat

HEADINGS = ("aim", "what you will see", "theory", "reading the figure", "try it", "reproduce")
WORDS = 400
CELLS_IN_A_ROW = 2
MEGABYTES = 4
CHECKED = "nbval-check-output"
ABSOLUTE = re.compile(
    r"(?<![\w./:~-])/(?:home|root|Users|tmp|work|mnt|opt|var|usr|private|content)/|\b[A-Z]:\\\\?\w"
)


def complaints(path: Path) -> list[str]:
    """Everything a notebook file does that it should not; empty if it is as agreed."""
    book = nbformat.read(path, as_version=4)
    found = [complaint for rule in RULES for complaint in rule(book)]
    size = path.stat().st_size / 2**20
    return found + ([f"{size:.1f} MB, at most {MEGABYTES}"] if size > MEGABYTES else [])


def code(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tagged(book, tag: str) -> list:
    return [cell for cell in code(book) if tag in cell.metadata.get("tags", [])]


def tree(cell) -> ast.Module:
    """Syntax of a code cell, without lines that only IPython understands."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))


def texts(output) -> str:
    """What an output says in words: streams and plain text, not pictures."""
    return output.get("text", "") or "".join(output.get("data", {}).get("text/plain", ""))


def skeleton(book) -> Iterator[str]:
    lines = [
        line
        for cell in book.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
    ]
    titles = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
    yield from (
        f"no heading {wanted!r}"
        for wanted in HEADINGS
        if not any(wanted in title for title in titles)
    )


def prose(book) -> Iterator[str]:
    markdown = " ".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    words = re.findall(
        r"[^\W\d_]{2,}", re.sub(r"\$\$.*?\$\$|\$[^$]*\$|```.*?```", " ", markdown, flags=re.DOTALL)
    )
    if len(words) < WORDS:
        yield f"{len(words)} words of prose, at least {WORDS}"


def parameters_cell(book) -> Iterator[str]:
    cells = tagged(book, "parameters")
    if len(cells) != 1:
        yield f"{len(cells)} cells tagged parameters instead of one"
    for line in cells[0].source.splitlines() if cells else []:
        if line.strip() and not (literal_line(line) and line.count("=") == 1):
            yield f"parameter line is not 'name = literal  # comment': {line!r}"
    if cells and 'figures_dir = "../build/figures"' not in cells[0].source:
        yield 'parameters lack figures_dir = "../build/figures"'


def literal_line(line: str) -> bool:
    match = re.fullmatch(r"[a-z]\w* = (.+?)  # \S.*", line)
    if match is None:
        return False
    try:
        ast.literal_eval(match[1])
    except (ValueError, SyntaxError):
        return False
    return True


def rows(book) -> Iterator[str]:
    for kind, run in groupby(book.cells, key=lambda cell: cell.cell_type):
        cells = list(run)
        if kind == "code" and len(cells) > CELLS_IN_A_ROW:
            yield f"{len(cells)} code cells in a row, at most {CELLS_IN_A_ROW}: {first(cells[0])}"


def asserts(book) -> Iterator[str]:
    if not any(
        isinstance(node, ast.Assert) for cell in code(book) for node in ast.walk(tree(cell))
    ):
        yield "no assertion against theory"


def semicolons(book) -> Iterator[str]:
    for cell in code(book):
        yield from (
            f"line ends in ';': {line!r}"
            for line in cell.source.splitlines()
            if line.rstrip().endswith(";")
        )


def portable(book) -> Iterator[str]:
    for cell in book.cells:
        for text in [cell.source, *map(texts, cell.get("outputs", []))]:
            if match := ABSOLUTE.search(text):
                yield f"absolute path {match[0]!r} in: {first(cell)}"
    if any("usetex" in cell.source for cell in code(book)):
        yield "usetex needs a TeX installation"
    if (kernel := book.metadata.get("kernelspec", {}).get("name")) != "python3":
        yield f"kernel is {kernel!r}, not 'python3'"


def executed(book) -> Iterator[str]:
    cells = [cell for cell in code(book) if cell.source.strip()]
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "not executed from top to bottom in one go: run make notebooks"
    for cell in cells:
        yield from (
            f"error output {out.ename} in: {first(cell)}"
            for out in cell.outputs
            if out.output_type == "error"
        )


def checked(book) -> Iterator[str]:
    if not tagged(book, CHECKED):
        yield f"no cell tagged {CHECKED}"
    for cell in tagged(book, CHECKED):
        if not any(
            texts(output).strip() for output in cell.outputs if output.get("name") != "stderr"
        ):
            yield f"checked cell prints nothing that could be compared: {first(cell)}"
        if any("\r" in texts(output) for output in cell.outputs):
            yield f"checked cell has a progress bar: {first(cell)}"


def first(cell) -> str:
    return cell.source.strip().split("\n")[0][:60]


RULES = (
    skeleton,
    prose,
    parameters_cell,
    rows,
    asserts,
    semicolons,
    portable,
    executed,
    checked,
)
