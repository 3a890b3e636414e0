"""The numbers in results.json, whatever their shape there: rows of fields, a field being a number or a text."""

from collections.abc import Iterator, Mapping
from typing import Any

NOT_FINITE = ("nan", "inf", "-inf")  # how experiments.figures.plain writes such numbers


def tables(results: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every result of results.json as (name, rows), a row being field → number or text.

    Nested records get dotted names; a list of records becomes a table "result.key" of its own, another list one row an item.
    Texts among the numbers of a record label all of its rows.
    """
    for name, record in results.items():
        if isinstance(record, Mapping) and set(record) == {"columns", "rows"}:
            yield name, [dict(row) for row in record["rows"]]
        else:
            yield from _unfolded(name, record)


def number(value: Any) -> float | None:
    """A leaf of results.json as a float (true is 1, null is NaN), or None where it is a text."""
    if value is None or value in NOT_FINITE:
        return float(value or "nan")
    return None if isinstance(value, str) else float(value)


def is_time(*names: str) -> bool:
    """Whether a quantity, or a label of its row, says that it is a measured time: "seconds", "net_seconds"."""
    return any(name.rpartition(".")[2].rpartition("_")[2] == "seconds" for name in names)


def is_work(name: str) -> bool:
    """Whether a quantity counts what a solver did: "evaluations", "score_batches", "lerp.iterations"."""
    return name.rpartition(".")[2].rpartition("_")[2] in ("evaluations", "batches", "iterations")


def _unfolded(name: str, record: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    single: dict[str, Any] = {}
    listed: dict[str, list[Any]] = {}
    for key, value in _flat(record).items():
        if not isinstance(value, list):
            single[key] = value
        elif any(isinstance(item, Mapping) for item in value):
            yield f"{name}.{key}", [_flat(item, lists=True) for item in value]
        else:
            listed[key] = value
    texts = {
        key: value
        for key, value in single.items()
        if isinstance(value, str) and value not in NOT_FINITE
    }
    rows: list[dict[str, Any]] = [dict(single)] if single else []
    for key, items in listed.items():
        rows += [dict(texts) for _ in range(len(items) - len(rows))]
        for row, item in zip(rows, items, strict=False):
            row |= _flat(item, key, lists=True)
    if rows:
        yield name, rows


def _flat(value: Any, key: str = "", *, lists: bool = False) -> dict[str, Any]:
    """Nested records with dots between the names; a list stays, or with `lists` its items are numbered from 0."""
    if lists and isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {key or "value": value}
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves |= _flat(item, f"{key}.{name}" if key else str(name), lists=lists)
    return leaves
