"""Which methods run with which settings: refused before hours of work, not after them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lib import checks
from lib.methods.baselines import INTERPOLATIONS
from lib.methods.interpolate import interpolate
from lib.methods.presets import METHODS
from lib.solvers import geodesic

from .files import folder_name

Plan = dict[str, tuple[str, dict[str, Any]]]  # label → method, settings


def planned(methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Each label with its method of `interpolate` and the settings; ValueError for unknown names."""
    methods = [methods] if isinstance(methods, str) else list(methods)
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"give one method or more, each once, got {', '.join(methods) or 'none'}")
    for label in settings:
        checks.choice("method in settings", label, methods)
    plan = {}
    for label in methods:
        given = dict(settings.get(label, {}))
        method = checks.choice("method", given.pop("method", label), [*METHODS, *INTERPOLATIONS])
        for name in given:
            checks.choice(f"setting of {label}", name, _settings(method))
        plan[folder_name("a method", label)] = method, given
    return plan


def _settings(method: str) -> set[str]:
    own = {
        name
        for function in (interpolate, *[geodesic] * (method in METHODS))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    metric = (
        {"lam", "alpha", "regularisation", "probes", *METHODS[method].metric_settings}
        if method in METHODS
        else set()
    )
    return (own | metric) - {"method", "frames", "callback"}


def parsed(assignments: Iterable[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings from text: "stein.lam=10" for one method, "flow_steps=20" for all; values as Python writes them, else text."""
    settings: dict[str, dict[str, Any]] = {label: {} for label in methods}
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        label, dot, name = place.strip().rpartition(".")
        if not equals or not name:
            raise ValueError(
                f"{assignment!r} is no setting; write name=value, or method.name=value"
            )
        for one in [checks.choice("method", label, methods)] if dot else methods:
            settings[one][name] = _literal(text)
    return settings


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()
