"""Drawings in the plane: a density, the arrows of its score, and the unit balls of a metric."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from torch import Tensor

from lib.metrics import ScoreMetric
from lib.scores import Score

# Samples along an axis of the drawn square.
CELLS = 161
# From white to a grey on which every colour of a method can still be read.
SHADES = plt.get_cmap("Greys")(np.linspace(0.0, 0.55, 256))


def density(axes: Axes, score: Score, *, size: float) -> None:
    """Shade a density on the square of half-width `size`: the darker, the denser.

    Args:
        axes: To draw on.
        score: Of a density in the plane, which has its log p in closed form.
        size: Half the side of the square.
    """
    axis = torch.linspace(-size, size, CELLS)
    log_p = score.log_density(torch.cartesian_prod(axis, axis)).reshape(CELLS, CELLS)
    p = (log_p - log_p.max()).exp()
    axes.contourf(axis, axis, p.T, levels=14, colors=SHADES[:: 256 // 14])
    axes.set(xlim=(-size, size), ylim=(-size, size), xticks=[], yticks=[], aspect="equal")
    axes.grid(False)


def denoising(axes: Axes, score: Score, points: Float[Tensor, "n 2"], *, color: str) -> None:
    """An arrow from each point to where it is denoised: sigma² times the score, unscaled."""
    arrows = score.denoise(points) - points
    axes.quiver(
        *points.T,
        *arrows.T,
        color=color,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
        zorder=3,
    )


def rulers(
    axes: Axes, metric: ScoreMetric, points: Float[Tensor, "n 2"], *, step: float, color: str
) -> None:
    """Around each point, where a small step of one and the same cost ends.

    The half-axes are step · p^alpha across the score, and shorter by (1 + lam ‖s‖²)^(−½) along it.

    Args:
        axes: To draw on.
        metric: Whose score has its log p in closed form if alpha > 0.
        points: Centres.
        step: Cost of a step.
        color: Of the ellipses.
    """
    s = metric.score(points)
    across = step * metric.weight(points) ** -0.5
    along = across / (1 + metric.lam * s.square().sum(1)).sqrt()
    direction = torch.atan2(s[:, 1], s[:, 0]).rad2deg()
    ellipses = EllipseCollection(
        2 * along.numpy(),
        2 * across.numpy(),
        direction.numpy(),
        units="xy",
        offsets=points.numpy(),
        transOffset=axes.transData,
        facecolors=color,
        alpha=0.35,
        linewidths=0,
        zorder=2,
    )
    axes.add_collection(ellipses)
