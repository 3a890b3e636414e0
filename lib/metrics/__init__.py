"""Riemannian metrics made from a score."""

from .base import Metric
from .euclidean import EuclideanMetric
from .score_metric import DensityMetric, ScoreMetric, SteinMetric

__all__ = ["Metric", "EuclideanMetric", "ScoreMetric", "SteinMetric", "DensityMetric"]
