"""Drawings of two ideas: a prompt that moves has no potential, and a mode is no typical sample."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import colour

# where each of the two densities of `two_routes` is highest
PEAKS = (-1.0, 1.0)
TONES = ("stein", "density")


def climb(peak: float) -> float:
    """log p at the end less log p at the start, under one density of `two_routes`.

    Example:
        >>> climb(-1.0), climb(1.0)
        (-2.0, 2.0)
    """
    start, end = PEAKS
    return ((start - peak) ** 2 - (end - peak) ** 2) / 2


def two_routes() -> Figure:
    """Two ways from (latent, prompt) to (latent, prompt), and what the score adds up to on each.

    Under each prompt the density of a latent is a Gaussian about its own picture. One route moves
    the latent first, the other the prompt; the score is asked only where the latent moves.
    """
    figure, (plane, densities) = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
    start, end = PEAKS
    corners = {
        "stein": ((start, 0), (end, 0), (end, 1)),
        "density": ((start, 0), (start, 1), (end, 1)),
    }
    for tone, stops in corners.items():
        for here, there in itertools.pairwise(stops):
            look = "-" if here[1] == there[1] else ":"
            arrow = {"arrowstyle": "-|>", "color": colour(tone), "lw": 2.4, "ls": look}
            plane.annotate("", there, here, arrowprops=arrow)
    labels = (
        ("stein", -0.12, f"latent first: $\\int s\\cdot dz = {climb(start):+.0f}$"),
        ("density", 1.12, f"prompt first: $\\int s\\cdot dz = {climb(end):+.0f}$"),
    )
    for tone, height, words in labels:
        plane.text(0, height, words, color=colour(tone), ha="center", va="center")
    plane.plot([start, end], [0, 1], "o", color="black", ms=7, zorder=5)
    plane.set(xlim=(-1.35, 1.35), ylim=(-0.35, 1.35), xlabel="latent", ylabel="prompt")
    plane.set_xticks(PEAKS, labels=["$z_0$", "$z_1$"])
    plane.set_yticks([0, 1], labels=["two", "five"])
    plane.set_title("two routes between the same ends")
    plane.grid(False)
    _draw_densities(densities)
    return figure


def _draw_densities(axes: Axes) -> None:
    z = np.linspace(-2, 2, 200)
    for peak, tone, prompt in zip(PEAKS, TONES, ("two", "five"), strict=True):
        axes.plot(z, -((z - peak) ** 2) / 2, color=colour(tone), label=f"under the prompt {prompt}")
        heights = [-((place - peak) ** 2) / 2 for place in PEAKS]
        axes.plot(PEAKS, heights, "o", color=colour(tone), ms=6)
    axes.set(ylim=(-4.6, 1.3), xlabel="latent", ylabel="log p of the latent")
    axes.set_xticks(PEAKS, labels=["$z_0$", "$z_1$"])
    axes.set_title("one density a prompt")
    axes.legend(loc="lower center")


def by_radius(dimension: int) -> dict[str, np.ndarray]:
    """A standard Gaussian in many dimensions by the distance from its mode.

    The distance of a sample has the chi distribution, r^(d−1) exp(−r²/2) up to a factor.

    Args:
        dimension: d of the space, > 1.

    Returns:
        "radius"; "log_density" less that of the mode; "share" of the samples, at most 1.
    """
    r = np.linspace(1e-3, 1.35 * math.sqrt(dimension), 1500)
    log_share = (dimension - 1) * np.log(r) - r**2 / 2
    return {"radius": r, "log_density": -(r**2) / 2, "share": np.exp(log_share - log_share.max())}


def mode_and_shell(dimension: int) -> Figure:
    """A Gaussian in many dimensions: where it is highest, and where its samples are.

    Args:
        dimension: d of the space, > 1.
    """
    typical = math.sqrt(dimension)
    curves = by_radius(dimension)
    r = curves["radius"]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7.2, 4.2), sharex=True, layout="constrained"
    )
    top.plot(r, curves["log_density"], color="black")
    top.set(ylabel="log p less\nthat of the mode")
    bottom.fill_between(r, curves["share"], color=colour("density"), alpha=0.35, lw=0)
    bottom.plot(r, curves["share"], color=colour("density"))
    bottom.set(xlabel=f"distance from the mode, {dimension} dimensions", ylabel="share of samples")
    bottom.set_yticks([])
    marks = {
        "mode": 0.0,
        "half way between\ntwo samples": typical / math.sqrt(2),
        "samples": typical,
    }
    for name, place in marks.items():
        top.plot(place, -(place**2) / 2, "o", color=colour("stein"), ms=7)
        shift = (8, -14) if place == 0 else (8, 8)
        top.annotate(name, (place, -(place**2) / 2), xytext=shift, textcoords="offset points")
        bottom.axvline(place, color=colour("stein"), lw=1, ls=":")
    return figure
