"""Every figure of a notebook gets its number and caption, and a place in the gallery.

A figure's name is the one its cell saves it under, so nothing has to be written into the notebooks;
captions.yml has a caption for each name.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from workflow.parameters import ROOT, notebooks

FIGURES = ROOT / "figures"
CAPTIONS = ROOT / "site" / "captions.yml"
SAVED = re.compile(r"figures\.save\(\s*\w+,\s*\"([\w-]+)\"|Picture\(.*\"([\w-]+)\.gif\"")
GALLERY = "<!-- every figure -->"
FILES = {"png": "picture", "pdf": "PDF", "npz": "plotted arrays"}


class Captions(dict):
    """name → caption."""

    def __missing__(self, name: str):
        raise ValueError(
            f"captions.yml has no caption for the figure {name}: look at it, and say what it shows"
        )


def captions() -> Captions:
    """The captions; a first sentence says without formulas what the picture shows."""
    texts = yaml.safe_load(CAPTIONS.read_text(encoding="utf-8"))
    return Captions((name, text.strip()) for name, text in texts.items())


def first_sentence(caption: str) -> str:
    return re.split(r"(?<=\.)\s", caption)[0]


def figure_of(cell: Mapping[str, Any]) -> str | None:
    """The name under which a code cell saves, or from which it shows, its picture."""
    found = SAVED.search("".join(cell["source"]))
    if found is None or cell["cell_type"] != "code":
        return None
    for output in cell["outputs"]:
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            return found[1] or found[2]
    return None


def numbered(notebook: Mapping[str, Any], chapter: int) -> dict[str, str]:
    """name → "Figure 2.3", in the order of the notebook."""
    names = [name for name in map(figure_of, notebook["cells"]) if name]
    return {name: f"Figure {chapter}.{place}" for place, name in enumerate(names, 1)}


def caption_cells(notebook: Mapping[str, Any], chapter: int, texts: Mapping[str, str]) -> None:
    """Give pictures anchor, number, caption and alternative text; fold the code that draws them."""
    numbers = numbered(notebook, chapter)
    for cell in notebook["cells"]:
        name = figure_of(cell)
        if name is None:
            continue
        cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        cell["metadata"]["mystnb"] = {
            "image": {"alt": first_sentence(texts[name])},
            "figure": {"name": f"fig-{name}", "caption": f"**{numbers[name]}.** {texts[name]}"},
        }


def gallery() -> str:
    """Each notebook's figures in its order, then its animations and result files."""
    texts = captions()
    return "\n".join(gallery_chapter(path, texts) for path in notebooks())


def gallery_chapter(path: Path, texts: Mapping[str, str]) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    prefix = path.name[:2]
    title = "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
    parts = [f"## {title.split(':')[0]}"]
    for name, number in numbered(notebook, int(prefix)).items():
        # an animation has no picture of its own
        if (FIGURES / f"{name}.png").exists():
            parts.append(gallery_figure(name, number, texts[name]))
    animations = sorted(FIGURES.glob(f"{prefix}_*.gif"))
    if animations:
        items = [gallery_animation(file, texts[file.stem]) for file in animations]
        parts.append("\n".join([":::::{grid} 2 3 3 3", ":gutter: 3", *items, ":::::"]))
    found = sorted(FIGURES.glob(f"{prefix}_*"))
    results = [download(file, file.name) for file in found if file.suffix in (".csv", ".json")]
    if results:
        parts.append(f"Results of this notebook in numbers: {', '.join(results)}.")
    return "\n\n".join([*parts, ""])


def download(path: Path, text: str) -> str:
    return f"{{download}}`{text} <../figures/{path.name}>`"


def gallery_figure(name: str, number: str, caption: str) -> str:
    files = [download(FIGURES / f"{name}.{ending}", text) for ending, text in FILES.items()]
    return f""":::{{figure}} ../figures/{name}.png
:alt: {first_sentence(caption)}
:name: gallery-{name}
**[{number}](#fig-{name}).** {caption}

{" · ".join(files)}
:::"""


def gallery_animation(file: Path, caption: str) -> str:
    return f"""::::{{grid-item}}
:::{{figure}} ../figures/{file.name}
:alt: {first_sentence(caption)}
{caption}
:::
::::"""


def read(app, docname: str, source: list[str]) -> None:
    """Before a page is parsed: captions into a notebook, figures into the gallery."""
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        caption_cells(notebook, int(docname.split("/")[1][:2]), captions())
        source[0] = json.dumps(notebook)
    elif GALLERY in source[0]:
        source[0] = source[0].replace(GALLERY, gallery())
        for path in [*notebooks(), *FIGURES.iterdir()]:
            app.env.note_dependency(str(path), docname=docname)
    else:
        return
    app.env.note_dependency(str(CAPTIONS), docname=docname)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
