"""Riemannian geometry from the score of a diffusion model: the names that most users need.

Example:
    >>> from lib import METHODS, SOLVERS
    >>> METHODS["stein"].summary
    'Stein score metric, Gauss–Newton'
    >>> sorted(SOLVERS)
    ['functional_gradient', 'gauss_newton', 'georce', 'portfolio', 'relaxation', 'shooting']
"""

from .methods.interpolate import Frames, extrapolate, interpolate
from .methods.presets import METHODS
from .metrics import (
    DensityMetric,
    EuclideanMetric,
    JacobianMetric,
    Metric,
    ScoreMetric,
    SpaceTimeMetric,
    SteinMetric,
)
from .scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    GaussianScore,
    Score,
    SphereScore,
)
from .solvers import (
    SOLVERS,
    ConvergenceWarning,
    Geodesic,
    MovingDensityWarning,
    distance,
    geodesic,
    shoot,
)

__all__ = [
    "METHODS",
    "SOLVERS",
    "ConvergenceWarning",
    "DensityMetric",
    "EmpiricalScore",
    "EuclideanMetric",
    "Frames",
    "FunctionScore",
    "GaussianMixtureScore",
    "GaussianScore",
    "Geodesic",
    "JacobianMetric",
    "Metric",
    "MovingDensityWarning",
    "Score",
    "ScoreMetric",
    "SpaceTimeMetric",
    "SphereScore",
    "SteinMetric",
    "distance",
    "extrapolate",
    "geodesic",
    "interpolate",
    "shoot",
]
