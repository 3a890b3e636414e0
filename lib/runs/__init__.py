"""Running notebooks: `python -m lib.runs --help`; the functions behind it are these."""

from .collect import collect, overview
from .determinism import Verdict, examine
from .execution import Outcome, execute, perform
from .folder import RUNS, STATES, Run, State, state
from .parameters import NOTEBOOKS, check, find, notebooks, parameters, parse, smoke_parameters
from .publish import publish
from .refresh import refresh, strip
from .report import report
from .status import UNFINISHED, found_runs, resumable
from .sweep import grid, parse_grid, read_sweep

__all__ = [
    "NOTEBOOKS",
    "RUNS",
    "STATES",
    "UNFINISHED",
    "Outcome",
    "Run",
    "State",
    "Verdict",
    "check",
    "collect",
    "examine",
    "execute",
    "find",
    "found_runs",
    "grid",
    "notebooks",
    "overview",
    "parameters",
    "parse",
    "parse_grid",
    "perform",
    "publish",
    "read_sweep",
    "refresh",
    "report",
    "resumable",
    "run_all",
    "smoke_parameters",
    "state",
    "strip",
]


def run_all(runs, **how):
    """`lib.runs.cluster.run_all`, which imports dask only when it is called."""
    from .cluster import run_all as made

    return made(runs, **how)
