"""The committed notebooks: as agreed in form, and running with small parameters."""

import pytest
import yaml
from notebook_rules import complaints

from workflow.execute import execute
from workflow.parameters import NOTEBOOKS, notebooks, smoke
from workflow.runs import Run

each_notebook = pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)


def test_every_notebook_has_small_parameters_and_the_other_way_round():
    small = yaml.safe_load((NOTEBOOKS / "smoke.yml").read_text(encoding="utf-8"))
    assert sorted(small) == [path.stem for path in notebooks()]


@each_notebook
def test_form(notebook):
    assert complaints(notebook) == []


@pytest.mark.notebook
@each_notebook
def test_a_notebook_runs_small_and_writes_its_figures(notebook, tmp_path):
    figures = execute(Run(notebook, smoke(notebook), tmp_path)) / "figures"
    for picture in figures.glob("*.png"):
        assert picture.with_suffix(".pdf").exists() and picture.with_suffix(".npz").exists()
