"""Many runs from few words: a grid on the command line, or a file that lists notebooks, parameters, grids and single runs."""

import ast
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from .folder import RUNS, Run
from .parameters import NOTEBOOKS, _literal, _nearest, find, parameters, smoke_parameters

KEYS = ("notebook", "parameters", "grid", "runs")


def grid(
    notebook: Path,
    axes: Mapping[str, Sequence[Any]],
    given: Mapping[str, Any] | None = None,
    *,
    smoke: bool = False,
    root: Path = RUNS,
) -> list[Run]:
    """A run for every combination of the axes' values, the last axis fastest; equal ones once.

    axes: parameter → its values. given: parameters that all runs share. smoke: the rest from smoke.yml instead of the defaults.
    ValueError: an axis without values, or what `Run` says of a parameter.
    """
    if empty := [name for name, values in axes.items() if not values]:
        raise ValueError(f"no values for {', '.join(empty)}; give at least one, or leave it out")
    base = (smoke_parameters(notebook) if smoke else {}) | dict(given or {})
    runs = [
        Run(notebook, base | dict(zip(axes, values, strict=True)), root, smoke)
        for values in product(*axes.values())
    ]
    return unique(runs)


def parse_grid(notebook: Path, words: Iterable[str]) -> dict[str, list[Any]]:
    """Axes from words such as ["lam=1,10", "noise_levels=[1.0,0.5],[1.0]", 'prompt="a hand, open",a fist'].

    A comma parts values; a text that holds one is quoted. ValueError: no "=", an axis twice, an unknown parameter.
    """
    known, axes = parameters(notebook), {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals:
            raise ValueError(f"{word!r} is no axis of a grid; write name=value,value")
        if name in axes:
            raise ValueError(f"{name} is given twice; write all its values behind one {name}=")
        if name not in known:
            raise ValueError(f"{notebook.stem} has no parameter {name!r}; {_nearest(name, known)}")
        axes[name] = _values(text, isinstance(known[name]["default"], str))
    return axes


def read_sweep(
    file: Path, *, smoke: bool = False, root: Path = RUNS, folder: Path = NOTEBOOKS
) -> list[Run]:
    """The runs that a YAML file lists: one entry, or a list of them, each with some of the keys of `KEYS`.

    notebook: number or name. parameters: name → value, for all runs of the entry. grid: name → list of values. runs: list of
    name → value, further runs; an entry with neither grid nor runs is one run. ValueError: anything else, with what was meant.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    entries = entries if isinstance(entries, list) else [entries]
    return unique(
        run
        for number, entry in enumerate(entries, 1)
        for run in _entry(f"{file.name}, entry {number}", entry, smoke, root, folder)
    )


def unique(runs: Iterable[Run]) -> list[Run]:
    """The runs in their order, those with the same notebook and identifier once."""
    return list({run.folder: run for run in runs}.values())


def _entry(where: str, entry: Any, smoke: bool, root: Path, folder: Path) -> Iterator[Run]:
    if not isinstance(entry, dict) or "notebook" not in entry:
        raise ValueError(
            f"{where} names no notebook; write notebook: 03, and below it some of {', '.join(KEYS[1:])}"
        )
    for key in entry:
        if key not in KEYS:
            raise ValueError(f"{where} has an unknown key {key!r}; {_nearest(str(key), KEYS)}")
    shapes = {"parameters": dict, "grid": dict, "runs": list}
    found = {key: _shaped(where, key, entry.get(key), kind) for key, kind in shapes.items()}
    notebook = find(str(entry["notebook"]), folder)
    shared = _read(notebook, found["parameters"])
    axes = {
        name: [
            _read(notebook, {name: value})[name]
            for value in _shaped(where, f"grid, {name}", values, list)
        ]
        for name, values in found["grid"].items()
    }
    if axes or not found["runs"]:
        yield from grid(notebook, axes, shared, smoke=smoke, root=root)
    for single in found["runs"]:
        more = _read(notebook, _shaped(where, "runs", single, dict))
        yield from grid(notebook, {}, shared | more, smoke=smoke, root=root)


def _shaped(where: str, key: str, value: Any, kind: type) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        wanted = {dict: "name: value", list: "a list, [1, 2] or lines with - before"}[kind]
        raise ValueError(f"{where}: {key} wants {wanted}, and is {value!r}")
    return value


def _read(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """YAML takes 1e-5 for a text; where a text is not wanted, it is read as Python reads it."""
    known = parameters(notebook)
    return {
        name: _literal(value)
        if isinstance(value, str) and not isinstance(known.get(name, {}).get("default"), str)
        else value
        for name, value in given.items()
    }


def _values(text: str, is_text: bool) -> list[Any]:
    """The values between commas: Python literals where the whole reads as such, else texts, quoted where they hold commas."""
    if not is_text:
        try:
            return ast.literal_eval(f"[{text}]")
        except (ValueError, SyntaxError):
            pass
    words = next(csv.reader([text], skipinitialspace=True), [])
    return [word if is_text else _literal(word) for word in words]
