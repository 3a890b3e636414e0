"""Is a notebook's result the same every time? Three runs into fresh folders, on 1, 1 and 2 threads, compared in all they say."""

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster import environment
from .execution import THREADS, perform
from .folder import Run, read
from .tables import is_time, is_work, number, tables

PLAN = {"first": 1, "again": 1, "two threads": 2}  # folder → threads
SLEEP = {
    "OMP_WAIT_POLICY": "passive"
}  # threads that wait give way: on a busy machine that is faster
TOLERANCE = 1e-3  # between 1 and 2 threads, of the largest value of a column
WORK = 0.1  # the same for counts of evaluations: in float32 rounding decides whether a solver takes one step more


@dataclass(frozen=True)
class Difference:
    """The largest difference of two runs' numbers over the largest value of its column, where it is, and what else differs.

    work: the same of counts of what a solver did (evaluations, batches, iterations), which are not in `relative`.
    """

    relative: float
    where: str
    other: tuple[str, ...] = ()
    work: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Of one notebook. cells: checked ones; texts, arrays: what differs; repeat, threads: numbers, 1 against 1 and 2 threads."""

    notebook: str
    seconds: float
    cells: int = 0
    numbers: int = 0
    texts: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    repeat: Difference = Difference(0.0, "")
    threads: Difference = Difference(0.0, "")
    error: str = ""
    tolerance: float = TOLERANCE

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be, in words; none: the notebook is deterministic."""
        said = [self.error] if self.error else []
        said += [f"checked output differs: {text}" for text in self.texts]
        said += [f"on one thread {name} differs" for name in self.arrays]
        said += [f"on one thread {what}" for what in self.repeat.other]
        said += [f"on two threads {what}" for what in self.threads.other]
        if self.repeat.relative > 0:
            said.append(
                f"on one thread results differ by {self.repeat.relative:.2g} in {self.repeat.where}"
            )
        if self.repeat.work > 0 or self.threads.work > WORK:
            said.append(
                f"counts of evaluations differ by {self.repeat.work:.2g} on one thread, by {self.threads.work:.2g} on "
                f"two, where 0 and {WORK:g} are allowed"
            )
        if self.threads.relative > self.tolerance:
            said.append(
                f"on two threads results differ by {self.threads.relative:.2g} in {self.threads.where}, "
                f"more than {self.tolerance:g}"
            )
        return said


def examine(
    notebook: Path,
    given: Mapping[str, Any],
    *,
    keep: Path | None = None,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Run a notebook three times (twice on 1 thread, once on 2), never reusing a finished run, and compare.

    Checked outputs must be equal over the three, numbers and the plotted arrays over the first two; between 1 and 2 threads
    numbers may differ by `tolerance` of the largest value of their column, counts of evaluations by `WORK` of it, texts and truth
    values not at all. Measured times are left out.
    keep: an empty or new folder that the runs stay in. A run that fails is an error of the verdict.
    """
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise ValueError(
            f"{keep} is not empty; finished runs in it would not be repeated, so name a new folder"
        )
    with tempfile.TemporaryDirectory() as temporary:
        found, seconds = [], 0.0
        for name, count in PLAN.items():
            with environment(dict.fromkeys(THREADS, str(count)) | SLEEP):
                outcome = perform(Run(notebook, given, (keep or Path(temporary)) / name))
            seconds += outcome.seconds
            if outcome.state == "failed":
                return Verdict(
                    notebook.stem, seconds, error=f"{name}: {outcome.error}", tolerance=tolerance
                )
            found.append(read(outcome.folder / "results.json"))
    return judge(*found, seconds=seconds, tolerance=tolerance)


def judge(
    first: Mapping[str, Any],
    again: Mapping[str, Any],
    two: Mapping[str, Any],
    *,
    seconds: float = 0.0,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """The verdict on the contents of three results.json: two of one thread, one of two threads."""
    texts = []
    for name, run in (("again", again), ("two threads", two)):
        if len(first["checked"]) != len(run["checked"]):
            texts.append(f"{len(first['checked'])} and {len(run['checked'])} cells ({name})")
        texts += [
            f"cell {one['cell']} {_first_difference(one['text'], other['text'])} ({name})"
            for one, other in zip(first["checked"], run["checked"], strict=False)
            if one["text"] != other["text"]
        ]
    arrays = [
        f"array {name} of figure {figure}"
        for figure, known in first["arrays"].items()
        for name, digest in known.items()
        if again["arrays"].get(figure, {}).get(name) != digest
    ]
    arrays += [f"figure {figure}" for figure in set(again["arrays"]) - set(first["arrays"])]
    counted = sum(
        number(value) is not None
        for _, rows in tables(first["results"])
        for row in rows
        for value in row.values()
    )
    return Verdict(
        first["notebook"],
        round(seconds, 1),
        len(first["checked"]),
        counted,
        tuple(texts),
        tuple(arrays),
        difference(first["results"], again["results"]),
        difference(first["results"], two["results"]),
        tolerance=tolerance,
    )


def difference(ones: Mapping[str, Any], others: Mapping[str, Any]) -> Difference:
    """Compare the results of two runs, measured times left out."""
    one, other = dict(tables(ones)), dict(tables(others))
    wrong = [f"result {name} is not in both" for name in sorted(set(one) ^ set(other))]
    worst, work = (0.0, ""), 0.0
    for name in sorted(set(one) & set(other)):
        if len(one[name]) != len(other[name]):
            wrong.append(f"{name} has {len(one[name])} and {len(other[name])} rows")
            continue
        scales = _scales(one[name])
        for place, (row, counterpart) in enumerate(zip(one[name], other[name], strict=True)):
            for key in row.keys() | counterpart.keys():
                if _timed(key, row):
                    continue
                size = _apart(row.get(key), counterpart.get(key), scales.get(key, 1.0))
                where = f"{name}.{key}, row {place}"
                if size is None:
                    wrong.append(f"{where}: {row.get(key)!r} and {counterpart.get(key)!r}")
                elif is_work(key):
                    work = max(work, size)
                elif size > worst[0]:
                    worst = (size, where)
    return Difference(*worst, tuple(wrong), work)


def lines(verdicts: Iterable[Verdict]) -> list[str]:
    """The verdicts as a table of text, one line a notebook, and the sum of them."""
    verdicts = list(verdicts)
    rows = [
        (
            "notebook",
            "checked cells",
            "equal",
            "arrays",
            "results",
            "1 and 1 thread",
            "1 and 2 threads",
            "work",
            "where",
            "seconds",
        )
    ]
    for verdict in verdicts:
        equal = (
            ["no" if differ else "yes" for differ in (verdict.texts, verdict.arrays)]
            if not verdict.error
            else ["failed"] * 2
        )
        rows.append(
            (
                verdict.notebook,
                str(verdict.cells),
                *equal,
                str(verdict.numbers),
                f"{verdict.repeat.relative:.1g}",
                f"{verdict.threads.relative:.1g}",
                f"{verdict.threads.work:.1g}",
                verdict.threads.where or "-",
                f"{verdict.seconds:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    good = sum(not verdict.complaints for verdict in verdicts)
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ] + [f"deterministic: {good} of {len(verdicts)}"]


def _apart(one: Any, other: Any, scale: float) -> float | None:
    """|one − other| / scale; None for two that no tolerance makes equal: texts, truth values, a NaN and a number."""
    if one == other:
        return 0.0
    a, b = number(one), number(other)
    if (
        a is None
        or b is None
        or isinstance(one, bool)
        or isinstance(other, bool)
        or not (math.isfinite(a) and math.isfinite(b))
    ):
        return None
    return abs(a - b) / scale if scale else math.inf


def _scales(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Column → its largest finite magnitude."""
    scales: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            size = number(value)
            if size is not None and math.isfinite(size):
                scales[key] = max(scales.get(key, 0.0), abs(size))
    return scales


def _timed(key: str, row: Mapping[str, Any]) -> bool:
    return is_time(key, *(value for value in row.values() if isinstance(value, str)))


def _first_difference(one: str, other: str) -> str:
    ones, others = one.splitlines(), other.splitlines()
    for a, b in zip(ones, others, strict=False):
        if a != b:
            return f"{a!r} and {b!r}"
    return f"{len(ones)} and {len(others)} lines"
