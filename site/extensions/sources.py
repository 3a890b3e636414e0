"""The notebooks as sources of the site, mirrored there: Sphinx takes no pages from elsewhere.

A notebook that `make figures` has executed is shown so, another one as it is committed. The mirror
lies one folder deeper than the notebooks, so a link to a file of the repository gets one more step.
"""

import zlib
from pathlib import Path

from workflow.parameters import NOTEBOOKS, notebooks
from workflow.refresh import refreshed
from workflow.runs import Run

MIRROR = Path(__file__).resolve().parent.parent / "notebooks"


def shown(notebook: Path) -> str:
    """The text of the notebook file that the site shows."""
    run = Run(notebook, {})
    if run.finished:
        try:
            return refreshed(run)
        except ValueError:
            # it has changed since it ran
            pass
    return notebook.read_text(encoding="utf-8")


def deeper(text: str) -> str:
    """The text of a notebook file whose Markdown links start one folder further down."""
    return text.replace("](../", "](../../")


def mirror(app, config) -> None:
    """Write what is new or changed, delete what is gone; what is as before is not read again."""
    MIRROR.mkdir(exist_ok=True)
    texts = {path.name: deeper(shown(path)) for path in notebooks(NOTEBOOKS)}
    for path in MIRROR.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        copy = MIRROR / name
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("config-inited", mirror)
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    # other code, other pages
    return {"parallel_read_safe": True, "env_version": zlib.crc32(code)}
