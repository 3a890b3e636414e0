"""Small throw-away notebooks, good and bad, for testing what handles notebooks."""

from pathlib import Path

import nbformat

PARAMETERS = """count = 3  # points, 1 to 9
scale = 2.0  # metres
name = "auto"  # text
sigmas = [1.0, 0.5]  # metres
quick = False  # yes or no
figures_dir = "../build/figures"  # folder"""
# writes what experiments.figures.save would, without the seconds it takes to import torch
DRAW = """import json, pathlib
folder = pathlib.Path(figures_dir)
folder.mkdir(parents=True, exist_ok=True)
source = {"name": "toy", "fallback": name == "auto", "message": "toy numbers instead of real ones"}
record = {"parameters": {"count": count}, "data": [source]}
(folder / "drawn.png").write_bytes(bytes(range(count)))
(folder / "drawn.json").write_text(json.dumps(record))"""


def markdown(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(text)


def code(
    source: str, *tags: str, said: str = "", count: int | None = None
) -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=said)] if said else []
    return nbformat.v4.new_code_cell(
        source, outputs=outputs, execution_count=count, metadata={"tags": list(tags)}
    )


def book(*cells: nbformat.NotebookNode, kernel: str = "python3") -> nbformat.NotebookNode:
    spec = {"name": kernel, "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": spec})


def model() -> nbformat.NotebookNode:
    """A notebook without a fault."""
    headings = "# Toy\n## Aim\n## What you will see\n## Theory\n## Reading the figure\n## Try it\n## Reproduce\n"
    return book(
        markdown(headings + "word " * 400),
        code(PARAMETERS, "parameters", count=1),
        markdown("then"),
        code("assert count > 0\nprint(count)", "nbval-check-output", said="3\n", count=2),
    )


def write(folder: Path, name: str, *cells: nbformat.NotebookNode) -> Path:
    """A notebook file of a parameters cell and the given cells."""
    path = folder / f"{name}.ipynb"
    nbformat.write(book(code(PARAMETERS, "parameters"), *cells), path)
    return path
