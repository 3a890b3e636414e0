"""Where s = grad log p comes from: known shapes, Gaussian mixtures, a data set, a user's function."""

from .base import Counter, Score
from .empirical import EmpiricalScore
from .function import FunctionScore, as_score
from .gaussian import GaussianMixtureScore, GaussianScore
from .manifold import SphereScore, TubeScore, circle, curve, helix, helix_point, torus

__all__ = ["Counter", "Score", "EmpiricalScore", "FunctionScore", "as_score", "GaussianMixtureScore", "GaussianScore",
           "SphereScore", "TubeScore", "circle", "curve", "helix", "helix_point", "torus"]
