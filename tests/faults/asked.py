"""What is asked of the runs of notebooks: unknown names, other types, sweeps and YAML that make no sense."""

import os

from lib import runs
from lib.runs.folder import Run

from . import contents, fault
from .runs import shelf

NOT_A_FILE = "notebooks and runs, byte for byte: nothing was planned"


def small(folder, text):
    """The small parameters of notebook 01 from a smoke.yml of this text."""
    (folder / "smoke.yml").write_text(text)
    return runs.smoke_parameters(folder / "01_drawn.ipynb")


# what goes wrong, what provokes it with the folder of notebooks, error, what is said
TABLE = [
    (
        "an unknown notebook",
        lambda f: runs.find("01_dawn", f),
        ValueError,
        "did you mean '01_drawn'",
    ),
    (
        "a folder without notebooks",
        lambda f: runs.notebooks(f.parent),
        FileNotFoundError,
        "no notebook named NN_topic",
    ),
    (
        "a notebook without parameters",
        lambda f: Run(f / "04_bare.ipynb"),
        ValueError,
        "04_bare has no parameter 'figures_dir'",
    ),
    (
        "an unknown parameter",
        lambda f: runs.parse(f / "01_drawn.ipynb", ["cuont=1"]),
        ValueError,
        "did you mean 'count'",
    ),
    (
        "a parameter of another type",
        lambda f: runs.parse(f / "01_drawn.ipynb", ["count=many"]),
        ValueError,
        "wants int such as",
    ),
    (
        "a parameter that is NaN",
        lambda f: Run(f / "01_drawn.ipynb", {"scale": float("nan")}),
        ValueError,
        "wants float such as",
    ),
    (
        "a list of something else",
        lambda f: runs.parse(f / "01_drawn.ipynb", ["sigmas=['a']"]),
        ValueError,
        "wants list such as",
    ),
    (
        "a parameter without a value",
        lambda f: runs.parse(f / "01_drawn.ipynb", ["count"]),
        ValueError,
        "write name=value",
    ),
    (
        "the folder of figures as a parameter",
        lambda f: Run(f / "01_drawn.ipynb", {"figures_dir": "x"}),
        ValueError,
        "not a free parameter",
    ),
    (
        "no small parameters",
        lambda f: runs.smoke_parameters(f / "02_fails.ipynb"),
        ValueError,
        "add its small parameters",
    ),
    (
        "small parameters that are unknown",
        lambda f: small(f, "01_drawn: {cuont: 1}"),
        ValueError,
        "did you mean 'count'",
    ),
    (
        "small parameters that are no YAML",
        lambda f: small(f, "01_drawn: {count: 1"),
        ValueError,
        "smoke.yml is no YAML.*mend it",
    ),
    (
        "an axis without values",
        lambda f: runs.grid(f / "01_drawn.ipynb", {"count": []}),
        ValueError,
        "give at least one",
    ),
    (
        "an axis that is none",
        lambda f: runs.parse_grid(f / "01_drawn.ipynb", ["count"]),
        ValueError,
        "write name=value,value",
    ),
    (
        "an axis twice",
        lambda f: runs.parse_grid(f / "01_drawn.ipynb", ["count=1", "count=2"]),
        ValueError,
        "all its values",
    ),
    (
        "an unknown axis",
        lambda f: runs.parse_grid(f / "01_drawn.ipynb", ["cuont=1"]),
        ValueError,
        "did you mean 'count'",
    ),
    (
        "the status of nothing",
        lambda f: runs.found_runs(f / "typo"),
        FileNotFoundError,
        "runs are made by run, sweep",
    ),
    (
        "a table of no run",
        lambda f: runs.collect(f),
        FileNotFoundError,
        "make some with: python -m lib.runs run NN",
    ),
    (
        "a report of no run",
        lambda f: runs.report("0123", root=f),
        ValueError,
        "no run '0123' .*see: python -m lib.runs status",
    ),
    (
        "a check that would find finished runs",
        lambda f: runs.examine(f / "01_drawn.ipynb", {}, keep=f),
        ValueError,
        "is not empty.*name a new folder",
    ),
    (
        "an unknown state to resume",
        lambda f: runs.resumable(f, ["interupted"]),
        ValueError,
        "did you mean 'interrupted'",
    ),
]


def simple(what, act, error, says):
    @fault("lib.runs", what, error, says, left=NOT_A_FILE)
    def bad_request(world):
        folder = shelf(world)
        notebooks = {name: raw for name, raw in contents(folder).items() if name.endswith(".ipynb")}
        yield lambda: act(folder)
        assert {
            name: raw
            for name, raw in contents(world.folder / "notebooks").items()
            if name.endswith(".ipynb")
        } == notebooks
        assert os.listdir(world.folder) == ["notebooks"]


for entry in TABLE:
    simple(*entry)


def bad_sweep(what, text, says):
    @fault("lib.runs", f"a sweep of {what}", ValueError, says, left=NOT_A_FILE)
    def bad_file(world):
        folder = shelf(world)
        (world.tree() / "sweep.yml").write_text(text)
        yield lambda: runs.read_sweep(
            world.folder / "sweep.yml", root=world.folder / "runs", folder=folder
        )


bad_sweep("broken YAML", "notebook: [01", "is no YAML")
bad_sweep("no notebook", "grid: {count: [1]}", "names no notebook; write notebook: 03")
bad_sweep(
    "a key that does not exist",
    "{notebook: 1, gird: {count: [1]}}",
    "unknown key 'gird'; did you mean 'grid'",
)
bad_sweep("a value for a list", "{notebook: 1, grid: {count: 1}}", "grid, count wants a list")
bad_sweep("an unknown parameter", "{notebook: 1, grid: {cuont: [1]}}", "did you mean 'count'")
