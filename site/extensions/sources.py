"""The notebooks as sources of the site: Sphinx takes pages from below its own folder only, so they are mirrored there."""

import shutil
import zlib
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent
NOTEBOOKS, MIRROR = SITE.parent / "notebooks", SITE / "notebooks"


def mirror(app, config) -> None:
    """Copy what is new or changed, delete what is gone; what is as before keeps its time and is not read again."""
    MIRROR.mkdir(exist_ok=True)
    originals = {path.name: path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    for path in MIRROR.iterdir():
        if path.name not in originals:
            path.unlink()
    for name, path in originals.items():
        copy = MIRROR / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def setup(app):
    app.connect("config-inited", mirror)
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {"parallel_read_safe": True, "env_version": zlib.crc32(code)}  # other code, other pages
