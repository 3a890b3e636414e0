"""Which notebooks there are, and whether they take the parameters someone wants to give them."""

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import papermill
import yaml

from experiments.figures import ROOT

NOTEBOOKS = ROOT / "notebooks"


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks NN_topic.ipynb of a folder, in order. FileNotFoundError if there is none."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebook named NN_topic.ipynb in {folder}")
    return found


def find(name: str, folder: Path = NOTEBOOKS) -> Path:
    """The notebook called "3", "03", "03_rotated_digits" or the like. ValueError if none is, naming the nearest."""
    by_name = {path.stem: path for path in notebooks(folder)}
    wanted = Path(name).stem
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    for stem, path in by_name.items():
        if wanted in (stem, stem[:2]):
            return path
    raise ValueError(f"no notebook {name!r}; {_nearest(wanted, by_name)}")


def parameters(notebook: Path) -> dict[str, dict[str, Any]]:
    """Parameters of a notebook: name → {"default": value, "help": comment}, in the order of its parameters cell."""
    inspected = papermill.inspect_notebook(str(notebook))
    return {
        name: {"default": _literal(found["default"]), "help": found["help"]}
        for name, found in inspected.items()
    }


def check(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` if the notebook has those parameters and the types fit its defaults, else ValueError.

    papermill itself would run with a misspelt parameter as if nothing had been said. An int does for a float and is made
    one, so that lam=1 and lam=1.0 are the same run; a list's numbers likewise, and they have to be of its default's type.
    """
    known, fit = parameters(notebook), {}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{notebook.stem} has no parameter {name!r}; {_nearest(name, known)}")
        default = known[name]["default"]
        if not _fits(value, default):
            raise ValueError(
                f"{name} = {value!r} is of type {type(value).__name__}; {notebook.stem} wants "
                f"{type(default).__name__} such as {default!r}"
            )
        fit[name] = _converted(value, default)
    return fit


def parse(notebook: Path, assignments: Iterable[str]) -> dict[str, Any]:
    """Checked parameters from command-line text such as ["points=65", "source=mnist", "sigmas=[1.0, 0.5]"]."""
    known, given = parameters(notebook), {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is no parameter; write name=value")
        is_text = isinstance(known.get(name.strip(), {}).get("default"), str)
        given[name.strip()] = text if is_text else _literal(text)
    return check(notebook, given)


def smoke_parameters(notebook: Path) -> dict[str, Any]:
    """The checked small parameters of a notebook in smoke.yml beside it; ValueError if it has none there."""
    try:
        small = yaml.safe_load((notebook.parent / "smoke.yml").read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"smoke.yml is no YAML: {' '.join(str(error).split())}; mend it"
        ) from error
    if notebook.stem not in small:
        raise ValueError(f"smoke.yml says nothing about {notebook.stem}; add its small parameters")
    return check(notebook, small[notebook.stem] or {})


def _literal(text: str) -> Any:
    """The Python literal in `text`, or the text itself where there is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def _fits(value: Any, default: Any) -> bool:
    if default is None or isinstance(value, bool) or isinstance(default, bool):
        return default is None or isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (float, int)) and math.isfinite(value)
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and (
            not _alike(default) or all(_fits(item, default[0]) for item in value)
        )
    return isinstance(value, type(default))


def _converted(value: Any, default: Any) -> Any:
    if isinstance(default, float):
        return float(value)
    if isinstance(default, (list, tuple)):
        return [_converted(item, default[0] if _alike(default) else None) for item in value]
    return value


def _alike(default: Sequence[Any]) -> bool:
    """Whether a list's items are of one type, which other values have to be of, too."""
    return len({type(item) for item in default}) == 1


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
