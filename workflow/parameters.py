"""What a notebook's parameters cell takes: names, types, small values; and what names a run."""

import ast
import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name = default  # comment`."""

    name: str
    default: Any
    comment: str


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks NN_topic.ipynb of a folder, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def find(name: str, folder: Path = NOTEBOOKS) -> Path:
    """The notebook called "3", "03" or "03_rotated_digits".

    Raises:
        ValueError: There is none; names the nearest.
    """
    by_name = {path.stem: path for path in notebooks(folder)}
    wanted = Path(name).stem
    if wanted.isdigit():
        wanted = wanted.zfill(2)
    for stem, path in by_name.items():
        if wanted in (stem, stem[:2]):
            return path
    raise ValueError(f"no notebook {name!r}; {nearest(wanted, by_name)}")


def parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook by name, in the order of its parameters cell."""
    tagged = [source for _, source, tags in cells(notebook) if "parameters" in tags]
    if not tagged:
        raise ValueError(f"{notebook.stem} has no cell tagged parameters")
    lines = tagged[0].splitlines()
    found = {}
    for statement in ast.parse(tagged[0]).body:
        name = statement.targets[0].id
        # ast counts columns in bytes
        after = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
        found[name] = Parameter(name, ast.literal_eval(statement.value), after.lstrip(" #"))
    return found


def cells(notebook: Path) -> list[tuple[str, str, list[str]]]:
    """Type, source and tags of each cell. Importing nbformat would take two seconds."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in content["cells"]
    ]


def cells_digest(notebook: Path) -> str:
    """sha256 over the cells of a notebook, their outputs left out."""
    return digest(cells(notebook))


def check(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the types of the notebook's defaults: lam=1 and lam=1.0 are one run.

    papermill itself runs with a misspelt parameter as if nothing had been given.

    Raises:
        ValueError: An unknown name, with the nearest one, or a value of another type.
    """
    known = parameters(notebook)
    # where figures go is the run's own business
    known.pop("figures_dir", None)
    for name in given:
        if name not in known:
            raise ValueError(f"{notebook.stem} has no parameter {name!r}; {nearest(name, known)}")
    return {name: fit(name, value, known[name].default) for name, value in given.items()}


def fit(name: str, value: Any, default: Any) -> Any:
    """`value` with the type of `default`; a list's items follow the default's first one."""
    if default is None:
        return value
    if isinstance(default, list) and isinstance(value, list):
        if not default:
            return value
        return [fit(name, item, default[0]) for item in value]
    if isinstance(default, float) and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{name} = {value!r} is of type {type(value).__name__}; "
            f"wanted is {type(default).__name__}, such as {default!r}"
        )
    return value


def parse_grid(notebook: Path, words: Iterable[str]) -> dict[str, list[Any]]:
    """Axes of a grid from words: "lam=1,10", "angles=[45.0],[90.0]", "digits=sklearn,mnist".

    Raises:
        ValueError: No "=", no value, a parameter twice, an unknown one, or no Python literal.
    """
    known = parameters(notebook)
    axes = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no axis of a grid; write name=value,value")
        if name in axes:
            raise ValueError(f"{name} is given twice; write all its values behind one {name}=")
        if name not in known:
            check(notebook, {name: None})
        if not text.strip():
            raise ValueError(f"{name} has no values; give at least one, or leave it out")
        axes[name] = parse_values(name, text, known[name].default)
    return axes


def parse_values(name: str, text: str, default: Any) -> list[Any]:
    """The literals between the commas of `text`; a bare word where a text may stand."""
    try:
        values = list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        if default is not None and not isinstance(default, str):
            raise ValueError(
                f"{name} = {text} is no Python literal; wanted is the like of {default!r}"
            ) from None
        values = text.split(",")
    if isinstance(default, str) and not all(isinstance(value, str) for value in values):
        values = text.split(",")
    return values


def grid(notebook: Path, axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of the axes' values, checked, the last axis fastest.

    Raises:
        ValueError: No axis, an axis without values, or what `check` finds.
    """
    if not axes:
        raise ValueError("the grid is empty; write name=value,value")
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name} wants a list of values, such as [1, 2], and is {values!r}")
    combinations = itertools.product(*axes.values())
    return [check(notebook, dict(zip(axes, values, strict=True))) for values in combinations]


def smoke(notebook: Path) -> dict[str, Any]:
    """The small parameters of a notebook, from smoke.yml beside it, checked."""
    small = yaml.safe_load((notebook.parent / "smoke.yml").read_text(encoding="utf-8"))
    if notebook.stem not in small:
        raise ValueError(f"smoke.yml has no {notebook.stem}; add its small parameters")
    return check(notebook, small[notebook.stem])


def identifier(notebook: Path, given: Mapping[str, Any]) -> str:
    """The folder of a run: "default", or digits of a sha256 over what differs from defaults."""
    known = parameters(notebook)
    changed = {name: value for name, value in given.items() if value != known[name].default}
    return digest(changed)[:12] if changed else "default"


def digest(content: Any) -> str:
    """sha256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
