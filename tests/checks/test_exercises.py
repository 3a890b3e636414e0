"""Every notebook's "Try it": three exercises or more that can be set as they are written."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from workflow.execute import execute
from workflow.parameters import check, find, notebooks, smoke
from workflow.results import code_cells
from workflow.runs import Run

SETTING = re.compile(r"`([a-z]\w*) = ([^`]+)`")


def try_it(notebook: Path) -> list[str]:
    """The numbered items under "## Try it", each on one line."""
    cells = nbformat.read(notebook, as_version=4).cells
    (text,) = [cell.source for cell in cells if "## Try it" in cell.source]
    section = re.split(r"(?m)^#+ ", text.split("## Try it", 1)[1])[0]
    return [" ".join(item.split()) for item in re.split(r"(?m)^\d+\. ", section)[1:]]


def settings(item: str) -> dict:
    """What an exercise says to set: name → value."""
    task = item.partition("*Expected:*")[0]
    return {name: ast.literal_eval(value) for name, value in SETTING.findall(task)}


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_every_exercise_can_be_set_and_says_what_to_expect(notebook):
    items = try_it(notebook)
    assert len(items) >= 3
    for item in items:
        title, _, expected = item.partition("*Expected:*")
        assert re.match(r"\*\*[^*]+\.\*\* ", title), item
        assert check(notebook, settings(item)), item
        assert len(expected.split()) >= 5, item


@pytest.mark.notebook
def test_a_colder_start_comes_out_as_the_exercise_says(tmp_path):
    """Notebook 03's first exercise, small: few digits are turned by 90°, all by 45°."""
    notebook = find("03")
    given = smoke(notebook) | settings(try_it(notebook)[0])
    folder = execute(Run(notebook, given, tmp_path))
    cells = code_cells(folder / "notebook.ipynb")
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert re.search(r"45\.0 +10 +10 +10 +10\n90\.0 +[0-3] ", printed)
