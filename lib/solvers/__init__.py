"""Boundary and initial value solvers."""

from .functional_gradient import FunctionalGradient
from .gauss_newton import GaussNewton
from .geodesic import ConvergenceWarning, Geodesic, MovingDensityWarning
from .georce import Georce
from .initial_value import shoot
from .portfolio import Portfolio
from .relaxation import Relaxation
from .shooting import Shooting
from .solve import SOLVERS, distance, geodesic

__all__ = [
    "SOLVERS",
    "ConvergenceWarning",
    "FunctionalGradient",
    "GaussNewton",
    "Geodesic",
    "Georce",
    "MovingDensityWarning",
    "Portfolio",
    "Relaxation",
    "Shooting",
    "distance",
    "geodesic",
    "shoot",
]
