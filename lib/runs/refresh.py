"""Committed notebooks, executed anew: the same run gives the same file."""

import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from experiments.figures import replacing

from .execution import QUIET, Outcome, explain


def refresh(notebook: Path) -> Outcome:
    """Execute a committed notebook in place and strip what differs between two equal runs; untouched if it fails."""
    start, error = time.perf_counter(), ""
    try:
        book = nbformat.read(notebook, as_version=4)
        NotebookClient(
            book,
            kernel_name="python3",
            timeout=None,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=QUIET,
            resources={"metadata": {"path": str(notebook.parent)}},
        ).execute()
        with replacing(notebook) as (draft,):
            nbformat.write(strip(book), draft)
    except (
        Exception
    ) as caught:  # whatever it is, the other notebooks shall still run; the caller reports it
        error = explain(caught)
    return Outcome(
        notebook.stem, "failed" if error else "passed", time.perf_counter() - start, error=error
    )


def strip(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep cells, tags and outputs of an executed notebook; drop timestamps, versions, widgets and progress bars."""
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in book.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
    return nbformat.from_dict(book)


def _is_progress(output: nbformat.NotebookNode) -> bool:
    bar = output.output_type == "stream" and output.name == "stderr" and "\r" in output.text
    return bar or "application/vnd.jupyter.widget-view+json" in output.get("data", {})
