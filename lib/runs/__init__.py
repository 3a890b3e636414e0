"""Running notebooks: `python -m lib.runs --help`; the functions behind it are these."""

from lib.runs.collect import collect, overview
from lib.runs.determinism import Verdict, examine
from lib.runs.execution import Outcome, execute, perform
from lib.runs.folder import RUNS, STATES, Run, State, state
from lib.runs.parameters import NOTEBOOKS, check, find, notebooks, parameters, parse, smoke_parameters
from lib.runs.publish import publish
from lib.runs.refresh import refresh, strip
from lib.runs.report import report
from lib.runs.status import UNFINISHED, found_runs, resumable
from lib.runs.sweep import grid, parse_grid, read_sweep

__all__ = ["NOTEBOOKS", "Outcome", "RUNS", "Run", "STATES", "State", "UNFINISHED", "Verdict", "check", "collect", "examine",
           "execute", "find", "found_runs", "grid", "notebooks", "overview", "parameters", "parse", "parse_grid", "perform",
           "publish", "read_sweep", "refresh", "report", "resumable", "run_all", "smoke_parameters", "state", "strip"]


def run_all(runs, **how):
    """`lib.runs.cluster.run_all`, which imports dask only when it is called."""
    from lib.runs.cluster import run_all as made

    return made(runs, **how)
