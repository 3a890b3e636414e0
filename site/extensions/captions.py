"""Every figure of a notebook gets the number and the caption that captions.yml has for it, and a place in the gallery.

A figure's name is the one its cell saves it under, so nothing has to be written into the notebooks.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

SITE = Path(__file__).resolve().parent.parent
FIGURES, NOTEBOOKS, REGISTRY = (
    SITE.parent / "figures",
    SITE.parent / "notebooks",
    SITE / "captions.yml",
)
SAVED = re.compile(r"figures\.save\(\s*\w+,\s*\"([\w-]+)\"|Picture\(.*\"([\w-]+)\.gif\"")
GALLERY = "<!-- every figure -->"
FILES = {"png": "picture", "pdf": "PDF", "npz": "plotted arrays"}


class Captions(dict):
    """name → caption; ValueError, which names the mend, for a figure without one."""

    def __missing__(self, name: str):
        raise ValueError(
            f"{REGISTRY.name} has no caption for the figure {name}: look at it, and write what it shows"
        )


def captions() -> Captions:
    """The captions of the registry; a first sentence says without formulas what the picture shows."""
    return Captions(
        (name, text.strip())
        for name, text in yaml.safe_load(REGISTRY.read_text(encoding="utf-8")).items()
    )


def first_sentence(caption: str) -> str:
    return re.split(r"(?<=\.)\s", caption)[0]


def figure_of(cell: dict) -> str | None:
    """The name under which a code cell saves (or from which it shows) its picture."""
    found = SAVED.search("".join(cell["source"]))
    shown = any(
        kind.startswith("image/")
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    )
    return (
        next(filter(None, found.groups()))
        if found and shown and cell["cell_type"] == "code"
        else None
    )


def numbered(notebook: dict, chapter: int) -> dict[str, str]:
    """name → "Figure 2.3", in the order of the notebook."""
    names = filter(None, map(figure_of, notebook["cells"]))
    return {name: f"Figure {chapter}.{k}" for k, name in enumerate(names, 1)}


def caption_cells(notebook: dict, chapter: int, texts: Mapping[str, str]) -> None:
    """Turn the notebook's pictures into figures with anchor, number, caption and alternative text; fold the code that draws."""
    numbers = numbered(notebook, chapter)
    for cell in notebook["cells"]:
        if name := figure_of(cell):
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
            cell["metadata"]["mystnb"] = {
                "image": {"alt": first_sentence(texts[name])},
                "figure": {"name": f"fig-{name}", "caption": f"**{numbers[name]}.** {texts[name]}"},
            }


def gallery() -> str:
    """The gallery's body: each notebook's figures in its order, then its animations and result tables."""
    texts = captions()
    return "\n".join(_chapter(path, texts) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")))


def _chapter(path: Path, texts: Mapping[str, str]) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    prefix = path.name[:2]
    numbers = numbered(notebook, int(prefix))
    shown = [
        _figure(name, f"**[{number}](#fig-{name}).** {texts[name]}", first_sentence(texts[name]))
        for name, number in numbers.items()
        if (FIGURES / f"{name}.png").exists()
    ]  # an animation has none
    moving = [_animation(file, texts) for file in sorted(FIGURES.glob(f"{prefix}_*.gif"))]
    grid = [":::::{grid} 2 3 3 3", ":gutter: 3", *moving, ":::::"] if moving else []
    return "\n\n".join([f"## {_title(notebook)}", *shown, "\n".join(grid), *_results(prefix), ""])


def _results(prefix: str) -> list[str]:
    """A line with the tables (csv) and numbers (json) of a notebook."""
    found = [*sorted(FIGURES.glob(f"{prefix}_*.csv")), *sorted(FIGURES.glob(f"{prefix}_*.json"))]
    links = [_file(path, path.name) for path in found]
    return [f"Results of this notebook in numbers: {', '.join(links)}."] if links else []


def _title(notebook: dict) -> str:
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ").split(":")[0]


def _file(path: Path, text: str) -> str:
    return f"{{download}}`{text} <../figures/{path.name}>`"


def _figure(name: str, caption: str, alt: str) -> str:
    files = [_file(FIGURES / f"{name}.{ending}", text) for ending, text in FILES.items()]
    return "\n".join(
        [
            f":::{{figure}} ../figures/{name}.png",
            f":alt: {alt}",
            f":name: gallery-{name}",
            caption,
            "",
            " · ".join(files),
            ":::",
        ]
    )


def _animation(file: Path, texts: Mapping[str, str]) -> str:
    return "\n".join(
        [
            "::::{grid-item}",
            f":::{{figure}} ../figures/{file.name}",
            f":alt: {first_sentence(texts[file.stem])}",
            texts[file.stem],
            ":::",
            "::::",
        ]
    )


def read(app, docname: str, source: list[str]) -> None:
    """Before a page is parsed: captions into a notebook, figures into the gallery."""
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        caption_cells(notebook, int(docname.split("/")[1][:2]), captions())
        source[0] = json.dumps(notebook)
    elif GALLERY in source[0]:
        source[0] = source[0].replace(GALLERY, gallery())
        for path in [*NOTEBOOKS.glob("*.ipynb"), *FIGURES.iterdir()]:
            app.env.note_dependency(str(path), docname=docname)
    else:
        return
    app.env.note_dependency(str(REGISTRY), docname=docname)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
