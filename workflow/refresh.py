"""Committed notebooks take the outputs of their executed selves."""

import os
from pathlib import Path

import nbformat
from nbval.plugin import coalesce_streams

from workflow.results import code_cells
from workflow.runs import Run

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def refresh(run: Run) -> bool:
    """Put the outputs of a default run into the committed notebook; whether it changed.

    Raises:
        ValueError: The notebook has changed since it ran.
    """
    return replace_text(run.notebook, refreshed(run))


def refreshed(run: Run) -> str:
    """The committed notebook with the outputs of a run, as the text of a file.

    What differs between two equal runs is left out: times, versions, widgets, progress bars.
    """
    book = nbformat.read(run.notebook, as_version=4)
    executed = code_cells(run.folder / "notebook.ipynb")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if [cell.source for cell in code] != [cell.source for cell in executed]:
        raise ValueError(f"{run.notebook.stem} has changed since it ran; run make figures")
    book.metadata = METADATA
    for cell in book.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    for count, (cell, made) in enumerate(zip(code, executed, strict=True), 1):
        cell.execution_count = count
        # where a stream is cut into pieces is a matter of timing
        cell.outputs = coalesce_streams([each for each in made.outputs if not is_passing(each)])
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return nbformat.writes(nbformat.from_dict(book)) + "\n"


def is_passing(output: nbformat.NotebookNode) -> bool:
    """Progress bars and widgets: they belong to the moment."""
    if output.output_type == "stream":
        return output.name == "stderr" and "\r" in output.text
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def replace_text(path: Path, text: str) -> bool:
    """Write a file whole or not at all, and only if it changes; whether it did."""
    if path.read_text(encoding="utf-8") == text:
        return False
    draft = path.with_name(f".draft-{path.name}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
    return True
