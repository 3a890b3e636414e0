"""What runs made, copied to where it is committed, if it differs from what lies there."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from workflow.parameters import ROOT, cells
from workflow.results import array_differences, arrays, table_differences, tables
from workflow.runs import Run, provenance

FIGURES = ROOT / "figures"
RESULTS = ROOT / "data" / "results"
# mean difference of two pictures, of 255 grey levels, that nobody sees
UNSEEN = 1.0


def publish(runs: Sequence[Run], out: Path = FIGURES) -> list[str]:
    """Copy what has changed; what agrees is left alone: another machine's rounding changes no file.

    A figure agrees if its arrays do, to `workflow.results.TOLERANCE` of their largest value, and
    its picture looks the same; a table of results likewise.

    Returns:
        Lines to print: what was written, and what no notebook makes any more.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    count = 0
    for run in runs:
        figures = run.folder / "figures"
        ours = {path.name for path in figures.iterdir() if is_published(path)}
        for stem in sorted({Path(name).stem for name in ours}):
            count += 1
            if agree(figures, out, stem):
                continue
            for path in sorted(figures.glob(f"{stem}.*")):
                copy(path, out / path.name)
            lines.append(f"written: {os.path.relpath(out / stem)}.*")
        prefix = run.notebook.stem[:2]
        for path in sorted(out.glob(f"{prefix}_*")):
            if path.name not in ours:
                lines.append(f"no longer made: {os.path.relpath(path)}")
    written = sum(line.startswith("written") for line in lines)
    return [*lines, f"figures and results: {written} written, {count - written} as before"]


def publish_results(run: Run, out: Path = RESULTS) -> list[str]:
    """Copy the tables of a run that its notebook reads from data/results, where they have changed.

    NN_parameters.json beside them says what they were made with.

    Returns:
        Lines to print: what was written, what is as before.
    """
    figures = run.folder / "figures"
    source = "\n".join(text for _, text, _ in cells(run.notebook))
    lines = []
    for name in sorted(set(re.findall(r"data/results/(\w+\.csv)", source))):
        if not (figures / name).is_file():
            continue
        same = not table_differences(tables(figures, name), tables(out, name))
        if not same:
            copy(figures / name, out / name)
        lines.append(f"{'as before' if same else 'written'}: {os.path.relpath(out / name)}")
    # the notebook reads them only if its own parameters are these
    path = out / f"{run.notebook.stem[:2]}_parameters.json"
    text = json.dumps(provenance(run.folder)["parameters"], indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")
    return lines


def is_published(path: Path) -> bool:
    return path.name != "sources.json" and not path.name.startswith(".")


def agree(ones: Path, others: Path, stem: str) -> bool:
    """Whether the files of one name in two folders say and show the same."""
    names = {path.name for path in ones.glob(f"{stem}.*")}
    if names != {path.name for path in others.glob(f"{stem}.*")}:
        return False
    if all((ones / name).read_bytes() == (others / name).read_bytes() for name in names):
        return True
    for name in names:
        if name.endswith((".png", ".gif")) and not look_alike(ones / name, others / name):
            return False
    only = f"{stem}.*"
    return not array_differences(arrays(ones, only), arrays(others, only)) and not (
        table_differences(tables(ones, only), tables(others, only))
    )


def look_alike(one: Path, other: Path) -> bool:
    """Whether nobody sees a difference between two pictures, or frames of two animations."""
    with Image.open(one) as first, Image.open(other) as second:
        ones = [frame.convert("RGB") for frame in ImageSequence.Iterator(first)]
        others = [frame.convert("RGB") for frame in ImageSequence.Iterator(second)]
    if [frame.size for frame in ones] != [frame.size for frame in others]:
        return False
    for a, b in zip(ones, others, strict=True):
        if np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() > UNSEEN:
            return False
    return True


def copy(path: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    draft = target.with_name(f".draft-{target.name}")
    try:
        shutil.copyfile(path, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def fallbacks(runs: Sequence[Run]) -> list[str]:
    """One line for each data set that stood in for a better one, with its notebooks."""
    notebooks: dict[str, list[str]] = {}
    for run in runs:
        for source in provenance(run.folder)["sources"].get("data", []):
            if source.get("fallback"):
                notebooks.setdefault(source["message"], []).append(run.notebook.stem[:2])
    return [
        f"fallback in {', '.join(dict.fromkeys(numbers))}: {message}"
        for message, numbers in notebooks.items()
    ]
