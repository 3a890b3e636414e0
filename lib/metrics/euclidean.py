"""Flat space, the metric every other one is compared with."""

from torch import Tensor

from .base import Metric


class EuclideanMetric(Metric):
    """G = I: geodesics are straight lines."""

    name = "euclidean"

    def apply(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def solve(self, x: Tensor, w: Tensor) -> Tensor:
        return w

    def acceleration(self, x: Tensor, v: Tensor) -> Tensor:
        return v * 0
