"""Which methods of `interpolate` run with which settings, and what they cost."""

import ast
import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib import checks
from lib.methods.baselines import INTERPOLATIONS
from lib.methods.interpolate import interpolate, keyword_names
from lib.methods.presets import METHODS
from lib.scores import ProductScore, Score
from lib.scores.base import Counter
from lib.solvers import geodesic
from lib.solvers.solve import SOLVERS

from .names import folder_name

# What a path between two prompts is found under
PROMPTS = ("none", "product", "moving")
# The paper's direction is a difference of predictions with and without a prompt
OWN_PROMPTS = {"yu2025": "moving"}

# Label → method of `interpolate` and its settings
Plan = dict[str, tuple[str, dict[str, Any]]]


def method_plan(
    methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]], prompts: str
) -> Plan:
    """Each label with its method of `interpolate`, its settings and prompts, all names known."""
    checks.choice("prompts", prompts, PROMPTS)
    methods = [methods] if isinstance(methods, str) else list(methods)
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"give one method or more, each once, got {', '.join(methods) or 'none'}")
    for label in settings:
        checks.choice("method in settings", label, methods)
    plan = {}
    for label in methods:
        own = dict(settings.get(label, {}))
        method = checks.choice("method", own.pop("method", label), [*METHODS, *INTERPOLATIONS])
        for name in own:
            checks.choice(f"setting of {label}", name, _setting_names(method) | {"prompts"})
        own.setdefault("prompts", OWN_PROMPTS.get(method, prompts))
        checks.choice(f"prompts of {label}", own["prompts"], PROMPTS)
        plan[folder_name("a method", label)] = (method, own)
    return plan


def _setting_names(method: str) -> set[str]:
    """What `interpolate` takes for this method."""
    names = keyword_names(interpolate)
    if method in METHODS:
        names = [*names, *keyword_names(geodesic), *METHODS[method].metric_settings]
    return set(names) - {"method", "frames", "callback"}


def settings_from_text(assignments: Iterable[str], methods: Sequence[str]) -> dict[str, dict]:
    """Settings as a command line has them.

    Args:
        assignments: "stein.lam=10" for one method, "flow_steps=20" for all; values as Python
            writes them, else text.
        methods: their names or labels.

    Raises:
        ValueError: no assignment, or another method.
    """
    settings: dict[str, dict[str, Any]] = {label: {} for label in methods}
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        label, _, name = place.strip().rpartition(".")
        if not equals or not name:
            raise ValueError(
                f"{assignment!r} is no setting; write name=value, or method.name=value"
            )
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            value = text.strip()
        for one in [checks.choice("method", label, methods)] if label else methods:
            settings[one][name] = value
    return settings


def most_evaluations(score: Score, method: str, settings: Mapping[str, Any], frames: int) -> int:
    """The most evaluations of one path by a method of `interpolate`.

    The method counts them, at work on a standard normal density. Those of a geodesic are of
    max_iter iterations, each as dear as its second one.
    """
    counter = Counter()
    parts = [copy.copy(part) for part in getattr(score, "scores", [score])]
    for part in parts:
        part.counter = counter
        part.denoise_part = _standard_normal_mean
    stand_in = ProductScore(parts) if isinstance(score, ProductScore) else parts[0]
    ends = torch.randn(2, *score.event_shape, generator=torch.Generator().manual_seed(0))
    own = {name: value for name, value in settings.items() if name != "prompts"}
    if method in INTERPOLATIONS:
        return interpolate(stand_in, *ends, method=method, frames=frames, **own).evaluations
    counts = []
    for iterations in (1, 2):
        never = {"tol": 1e-12, "max_iter": iterations}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made = interpolate(stand_in, *ends, method=method, frames=frames, **own | never)
        counts.append(made.evaluations)
    solver = own.get("solver", METHODS[method].on(score).solver)
    solver = SOLVERS[solver]() if isinstance(solver, str) else solver
    most = own.get("max_iter", solver.max_iter)
    return counts[0] + (most - 1) * (counts[1] - counts[0])


def _standard_normal_mean(x: Tensor, sigma: Tensor, *conditions: Tensor) -> Tensor:
    """The posterior mean in noise sigma, without a network."""
    return x / (1 + sigma.to(x).reshape(-1, *[1] * (x.ndim - 1)) ** 2)
