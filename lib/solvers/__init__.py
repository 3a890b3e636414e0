"""Boundary and initial value solvers."""

from .gauss_newton import GaussNewton
from .geodesic import ConvergenceWarning, Geodesic
from .initial_value import shoot
from .portfolio import Portfolio
from .solve import SOLVERS, distance, geodesic

__all__ = ["SOLVERS", "ConvergenceWarning", "GaussNewton", "Portfolio", "Geodesic", "distance", "geodesic", "shoot"]
