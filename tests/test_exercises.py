"""Every notebook's "Try it": three exercises or more that can be set as they are written, with what to expect of them."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from lib.runs import NOTEBOOKS, check, execute, find, smoke_parameters

FOUND = sorted(NOTEBOOKS.glob("*.ipynb"))
SETTING = re.compile(r"`([a-z]\w*) = ([^`]+)`")


def try_it(path: Path) -> list[str]:
    """The numbered items under "## Try it", each on one line, up to the next heading or code cell."""
    cells = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    sections = [
        re.split(r"(?m)^#+ ", text.split("## Try it", 1)[1])[0]
        for text in cells
        if "## Try it" in text
    ]
    assert len(sections) == 1, f"{len(sections)} sections 'Try it' instead of one"
    return [" ".join(item.split()) for item in re.split(r"(?m)^\d+\. ", sections[0])[1:]]


def settings(item: str) -> dict:
    """What an exercise says to set: name → value. ValueError or SyntaxError: no literal."""
    return {
        name: ast.literal_eval(value)
        for name, value in SETTING.findall(item.partition("*Expected:*")[0])
    }


def faults(notebook: Path, item: str) -> list[str]:
    """What an exercise lacks; ValueError if it sets what the notebook does not take."""
    title, _, expected = item.partition("*Expected:*")
    found = [] if re.match(r"\*\*[^*]+\.\*\* ", title) else ["a bold title"]
    found += [] if check(notebook, settings(item)) else ["`name = value` to set"]
    return found + ([] if len(expected.split()) >= 5 else ["what to expect"])


@pytest.mark.parametrize("notebook", FOUND, ids=lambda path: path.stem)
def test_every_exercise_can_be_set_and_says_what_to_expect(notebook):
    items = try_it(notebook)
    assert len(items) >= 3
    assert {item: faults(notebook, item) for item in items} == {item: [] for item in items}


GOOD = "**Thinner.** Set `sigma = 0.05`. *Expected:* the errors grow by a half."


@pytest.mark.parametrize(
    "old, new, lacks",
    [
        ("**Thinner.** ", "Thinner: ", "a bold title"),
        ("`sigma = 0.05`", "sigma lower", "`name = value` to set"),
        (" the errors grow by a half.", "", "what to expect"),
    ],
)
def test_an_exercise_that_lacks_something_is_found(old, new, lacks):
    assert faults(find("09"), GOOD) == []
    assert faults(find("09"), GOOD.replace(old, new)) == [lacks]


@pytest.mark.parametrize(
    "value, error", [("2 * x", ValueError), ("[1", SyntaxError), ("'thin'", ValueError)]
)
def test_a_setting_of_no_value_or_of_another_type_is_refused(value, error):
    with pytest.raises(error):
        faults(find("09"), GOOD.replace("0.05", value))


def test_a_setting_that_the_notebook_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no parameter 'sigam'; did you mean 'sigma'"):
        faults(find("09"), GOOD.replace("sigma", "sigam"))


@pytest.mark.notebook
def test_a_colder_start_comes_out_as_the_exercise_says(tmp_path):
    """Notebook 03's first exercise at smoke size: no geodesic of the big turn, every one of the small turn."""
    notebook = find("03")
    given = smoke_parameters(notebook) | settings(try_it(notebook)[0])
    outcome = execute(notebook, given, build=tmp_path / "build", out=tmp_path / "figures")
    assert outcome.state == "passed", outcome.error
    book = nbformat.read(outcome.folder / "notebook.ipynb", as_version=4)
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", [])
    )
    assert "annealed path at least ten times closer than the line: False" in said
    assert re.search(r"45° +10 +10 +10\n", said)
