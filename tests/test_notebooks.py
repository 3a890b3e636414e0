"""The committed notebooks: as agreed in form, and running with small parameters. The rules of form are tested, too."""

import books
import nbformat
import pytest
import yaml
from notebook_rules import complaints

from lib.runs import NOTEBOOKS, check, execute, smoke_parameters

FOUND = sorted(NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", FOUND, ids=lambda path: path.stem)


def test_every_notebook_has_small_parameters_and_the_other_way_round():
    small = yaml.safe_load((NOTEBOOKS / "smoke.yml").read_text(encoding="utf-8")) or {}
    assert FOUND and sorted(small) == [path.stem for path in FOUND]


@each_notebook
def test_form(notebook):
    assert complaints(notebook) == []


@each_notebook
def test_small_parameters_are_parameters(notebook):
    smoke_parameters(notebook)
    with pytest.raises(
        ValueError, match="has no parameter 'figure_dir'; did you mean 'figures_dir'"
    ):
        check(notebook, {"figure_dir": "."})


@pytest.mark.notebook
@each_notebook
def test_runs_small_and_writes_its_figures(notebook, tmp_path):
    outcome = execute(
        notebook, smoke_parameters(notebook), build=tmp_path / "build", out=tmp_path / "figures"
    )
    assert outcome.state == "passed", outcome.error
    pictures = [path for path in outcome.files if path.suffix == ".png"]
    assert pictures
    for picture in pictures:
        assert {picture.with_suffix(end) for end in (".pdf", ".npz")} <= set(outcome.files)


def without_heading(book):
    book.cells[0].source = book.cells[0].source.replace("## Theory", "Theory")


def add(*cells):
    return lambda book: book.cells.extend(cells)


def parameter(line):
    def change(book):
        book.cells[1].source += "\n" + line

    return change


def checked(**changes):
    return lambda book: book.cells[3].update(changes)


ERROR = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]
BAR = [
    nbformat.v4.new_output("stream", name="stderr", text="\r50%"),
    nbformat.v4.new_output("stream", text="3"),
]
FAULTS = {
    "no heading 'theory'": without_heading,
    "words of prose": lambda book: book.cells[0].update(
        source=book.cells[0].source.replace("word ", "$x$ ")
    ),
    "0 cells tagged parameters": lambda book: book.cells[1].metadata.update(tags=[]),
    "2 cells tagged parameters": add(
        books.markdown("x"), books.code("a = 1  # one", "parameters", count=3)
    ),
    "name = literal": parameter("lam = 2 * 3  # not a literal"),
    "'name = literal  # comment': 'lam = 2'": parameter("lam = 2"),
    "sigma=0": parameter("lam = 2  # for sigma=0"),
    "parameters lack figures_dir": lambda book: book.cells[1].update(source="lam = 2.0  # one"),
    "code cell of 26 lines": checked(source="assert True\n" * 25),
    "3 code cells in a row": add(books.code("1", count=3), books.code("2", count=4)),
    "f has 11 lines": checked(source="%time 1\ndef f():\n" + "    assert True\n" * 10),
    "no assertion": checked(source="print(count)"),
    "line ends in ';'": checked(source="assert True\nprint(count);"),
    "absolute path '/home/'": checked(source="assert True\nopen('/home/me/x')"),
    "absolute path '/tmp/'": checked(
        outputs=[nbformat.v4.new_output("stream", text="wrote /tmp/x.png")]
    ),
    "usetex": checked(source="assert True\nrc['text.usetex'] = True"),
    "kernel is 'ir'": lambda book: book.metadata.kernelspec.update(name="ir"),
    "not executed": checked(execution_count=None),
    "not executed from top": checked(execution_count=7),
    "error output ValueError": checked(outputs=ERROR),
    "no cell tagged nbval-check-output": lambda book: book.cells[3].metadata.update(tags=[]),
    "prints nothing": checked(outputs=[]),
    "progress bar": checked(outputs=BAR),
    "MB, at most 4": checked(outputs=[nbformat.v4.new_output("stream", text="3" * 5 * 2**20)]),
}


def test_a_notebook_as_agreed_has_no_complaints(tmp_path):
    nbformat.write(books.model(), tmp_path / "01_good.ipynb")
    assert complaints(tmp_path / "01_good.ipynb") == []


@pytest.mark.parametrize("words", FAULTS)
def test_every_rule_can_fail(tmp_path, words):
    book = books.model()
    FAULTS[words](book)
    nbformat.write(book, tmp_path / "01_bad.ipynb")
    found = complaints(tmp_path / "01_bad.ipynb")
    assert any(words in complaint for complaint in found), found
