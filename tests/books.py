"""Small throw-away notebooks, and a throw-away checkout of the workflow around them."""

import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = """count = 3  # points, 1 to 9
scale = 2.0  # metres
name = "auto"  # text, é
sigmas = [1.0, 0.5]  # metres
quick = False  # yes or no
revision = None  # of a model
seed = 0  # seed
figures_dir = "../build/figures"  # folder"""
# writes what experiments.figures would, without the seconds it takes to import torch
DRAW = """import json, pathlib
folder = pathlib.Path(figures_dir)
source = {"name": "toy", "fallback": name == "auto", "message": "toy numbers instead of real ones"}
(folder / "01_drawn.png").write_bytes(bytes(range(count)))
(folder / "01_numbers.json").write_text(json.dumps({"energy": scale * count, "seconds": 0.1}))
(folder / "01_methods.csv").write_text(f"method,error,score_batches\\nlerp,{scale},{count}\\n")
(folder / "sources.json").write_text(json.dumps({"data": [source]}))"""
# a file that tells how often a notebook began and ended
DIARY = """with open("../diary.txt", "a") as file:
    print("{word}", count, file=file)"""


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


def write(folder: Path, name: str, *cells: nbformat.NotebookNode) -> Path:
    """A notebook file of a parameters cell and the given cells."""
    path = folder / f"{name}.ipynb"
    nbformat.write(book(code(PARAMETERS, "parameters"), *cells), path)
    return path


def checkout(folder: Path) -> Path:
    """A checkout of the workflow with two notebooks: 01 draws, 02 fails in its second cell."""
    for name in ("workflow", "notebooks", "lib", "experiments", "data"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(
        ROOT / "workflow",
        folder / "workflow",
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder / "notebooks")
    (folder / "requirements.txt").write_text("")
    (folder / "data" / "registry.toml").write_text("")
    (folder / "lib" / "metric.py").write_text("")
    books = folder / "notebooks"
    printed = code("print('count', count)", "nbval-check-output", said="count 3\n", count=3)
    begin, end = (code(DIARY.format(word=word)) for word in ("begin", "end"))
    write(books, "01_drawn", begin, code(DRAW), printed, end)
    write(books, "02_fails", code(DRAW), code("x = 1\nraise RuntimeError('no luck')"))
    (books / "smoke.yml").write_text("01_drawn: {count: 1}\n02_fails: {count: 1}\n")
    return folder
