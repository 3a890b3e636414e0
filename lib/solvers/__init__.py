"""Boundary and initial value solvers."""

from .gauss_newton import GaussNewton
from .geodesic import ConvergenceWarning, Geodesic
from .solve import SOLVERS, distance, geodesic

__all__ = ["SOLVERS", "ConvergenceWarning", "GaussNewton", "Geodesic", "distance", "geodesic"]
