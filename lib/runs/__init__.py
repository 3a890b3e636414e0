"""Running notebooks: `python -m lib.runs --help`; the functions behind it are these."""

from lib.runs.execution import Outcome, execute, fingerprint
from lib.runs.parameters import NOTEBOOKS, check, find, notebooks, parameters, parse, smoke_parameters
from lib.runs.refresh import refresh, strip

__all__ = ["NOTEBOOKS", "Outcome", "check", "execute", "find", "fingerprint", "notebooks", "parameters", "parse",
           "refresh", "smoke_parameters", "strip"]
