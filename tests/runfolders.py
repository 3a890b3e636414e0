"""Run folders as lib.runs leaves them, made by hand in milliseconds, for testing what reads them."""

import hashlib
import json
from pathlib import Path

import books
import nbformat


def make(
    root: Path,
    number: int,
    results: dict | None = None,
    *,
    state: str = "finished",
    notebook: str = "01_drawn",
    lib: str = "a",
    checked: str = "3\n",
    **effective,
) -> Path:
    """A run's folder; its id is `number` in twelve hex digits."""
    folder = root / notebook / f"{number:012x}"
    folder.mkdir(parents=True)
    parts = {name: name[0] * 64 for name in ("notebook", "environment", "models", "data")}
    parts |= {"lib": hashlib.sha256(lib.encode()).hexdigest(), "parameters": f"{number:064x}"}
    effective = {"count": 3, "scale": 2.0} | effective
    request = {
        "notebook": notebook,
        "parameters": effective,
        "effective": effective,
        "id": folder.name,
        "parts": parts,
    }
    _write(folder / "request.json", request)
    if state == "failed":
        _write(
            folder / "failed.json",
            {"error": "ValueError: no luck", "traceback": "line 1\nValueError: no luck"},
        )
    if state in ("planned", "failed"):
        return folder
    (folder / "figures").mkdir()
    cell = books.code("print(count)", "nbval-check-output", said=checked, count=2)
    nbformat.write(
        books.book(books.code(books.PARAMETERS, "parameters", count=1), cell),
        folder / "notebook.ipynb",
    )
    _write(
        folder / "results.json",
        {
            "notebook": notebook,
            "id": folder.name,
            "parameters": effective,
            "checked": [{"cell": 1, "text": checked}],
            "results": results or {},
            "arrays": {},
        },
    )
    about = {key: request[key] for key in ("id", "notebook", "parameters", "parts")}
    about |= {
        "python": "3.11.2",
        "platform": "linux-x86_64",
        "versions": {"torch": "2.15.0"},
        "commit": "0" * 40,
    }
    about |= {
        "modified": False,
        "models": [],
        "data": [],
        "inputs": {},
        "seed": 0,
        "threads": 1,
        "gpu": None,
        "seconds": 1.5,
    }
    _write(folder / "provenance.json", about)
    seal(folder)
    if state == "damaged":
        (folder / "results.json").write_text("{}")
    return folder


def seal(folder: Path) -> None:
    """Have provenance.json agree with the files as they are now."""
    about = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("notebook.ipynb", "results.json")
    }
    _write(folder / "provenance.json", about | {"files": files})


def table(*rows: dict) -> dict:
    """A result as a csv table leaves it."""
    return {"columns": list(rows[0]), "rows": list(rows)}


def _write(path: Path, record: dict) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")
