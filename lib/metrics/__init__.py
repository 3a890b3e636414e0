"""Riemannian metrics made from a score."""

from .base import EuclideanMetric, Metric
from .jacobian import JacobianMetric
from .score_metric import DensityMetric, ScoreMetric, SteinMetric
from .spacetime import SpaceTimeMetric

__all__ = [
    "DensityMetric",
    "EuclideanMetric",
    "JacobianMetric",
    "Metric",
    "ScoreMetric",
    "SpaceTimeMetric",
    "SteinMetric",
]
