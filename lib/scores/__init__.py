"""Where s = grad log p comes from: known shapes, a data set, a function, a learned model."""

from .base import Counter, Score, WrappedScore
from .denoiser import DenoiserScore
from .distillation import DistillationScore
from .empirical import EmpiricalScore
from .families import FAMILIES, Family
from .function import FunctionScore, as_score
from .gaussian import GaussianMixtureScore, GaussianScore
from .loading import load
from .manifold import SphereScore, TubeScore, circle, curve, helix, helix_point, torus
from .pipeline import PipelineScore, from_pipeline
from .product import ProductScore
from .schedule import NoiseSchedule
from .variance_preserving import VariancePreservingScore

__all__ = [
    "FAMILIES",
    "Counter",
    "DenoiserScore",
    "DistillationScore",
    "EmpiricalScore",
    "Family",
    "FunctionScore",
    "GaussianMixtureScore",
    "GaussianScore",
    "NoiseSchedule",
    "PipelineScore",
    "ProductScore",
    "Score",
    "SphereScore",
    "TubeScore",
    "VariancePreservingScore",
    "WrappedScore",
    "as_score",
    "circle",
    "curve",
    "from_pipeline",
    "helix",
    "helix_point",
    "load",
    "torus",
]
