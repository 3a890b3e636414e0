"""Scores s(x, t) that change along a path, against a Gaussian whose mean moves."""

import copy
import warnings

import pytest
import torch

from lib import density, paths
from lib.elements import elements
from lib.metrics import DensityMetric, ScoreMetric, SteinMetric
from lib.scores import Score
from lib.scores.variance_preserving import VariancePreservingScore
from lib.solvers import (
    FunctionalGradient,
    GaussNewton,
    MovingDensityWarning,
    Portfolio,
    Relaxation,
    geodesic,
)
from lib.solvers.gauss_newton import DiscreteEnergy
from lib.solvers.solve import distance

pytestmark = pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.MovingDensityWarning")


class MovingGaussian(Score):
    """N(mean_t, (spread² + sigma²) I), mean_t = first + t (last − first), (pairs, d) each.

    It refuses points whose number is not pairs × times: nobody may forget which pairs, or where.
    """

    name, moves = "moving Gaussian", True

    def __init__(self, first, last, spread=0.7, sigma=0.1):
        super().__init__()
        self.first, self.last, self.spread, self.sigma, self.times = (
            first,
            last,
            spread,
            sigma,
            None,
        )
        self.event_shape = tuple(first.shape[1:])

    def pick(self, rows):
        other = copy.copy(self)
        other.first, other.last = self.first[rows], self.last[rows]
        return other

    def along(self, times):
        other = copy.copy(self)
        other.times = times
        return other

    def evaluate(self, x):
        assert self.times is not None and len(x) == len(self.first) * len(self.times)
        t = self.times.to(x)[:, None]
        mean = ((1 - t) * self.first[:, None] + t * self.last[:, None]).flatten(0, 1)
        return (mean - x) / (self.spread**2 + self.sigma_column(x) ** 2)


def moving(pairs, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    first, last, start, end = torch.randn(4, pairs, d, generator=g, dtype=torch.float64)
    return MovingGaussian(first, last), start, end


@pytest.mark.parametrize("lam, alpha", [(2.0, 0.0), (0.0, 0.4), (1.5, 0.3)])
@pytest.mark.parametrize("degree, tolerance", [(1, 1e-6), (2, 0.02)])
def test_gradient_of_the_energy_when_the_score_moves(lam, alpha, degree, tolerance):
    """By central differences: exact for straight elements, else to the order of the quadrature.

    Without the drift it is wrong.
    """
    score, start, end = moving(3, 2)
    metric = ScoreMetric(score, lam=lam, alpha=alpha)
    x = paths.slerp(start, end, 17)
    discrete = DiscreteEnergy(metric, x, degree)
    state = discrete.state(x, metric.scores_along(x))
    rate = (score.last - score.first)[:, None] / (score.spread**2 + score.sigma**2)
    drift = rate.expand_as(x[:, 1:-1])
    scale = (state.log_energy.exp() / state.scaled_energy)[:, None, None]
    made = scale * discrete.half_gradient(state, drift)
    without = scale * discrete.half_gradient(state)

    def energy(x):
        return discrete.state(x, metric.scores_along(x)).log_energy.exp()

    h = 1e-5
    wanted = torch.zeros_like(made)
    for j in range(1, 16):
        for k in range(2):
            step = torch.zeros_like(x)
            step[:, j, k] = h
            wanted[:, j - 1, k] = (energy(x + step) - energy(x - step)) / (4 * h)  # half gradient
    assert (made - wanted).norm() <= tolerance * wanted.norm()
    assert (without - wanted).norm() > 0.05 * wanted.norm()


def test_conserved_quantity_of_the_moving_stein_metric():
    """In one dimension, y = x − mean_t with mean' = c, L = (y' + c)² h(y), h = 1 + lam y²/v².

    So (c² − y'²) h(y) is constant.
    """
    lam = 3.0
    score = MovingGaussian(
        torch.tensor([[0.0]]).double(), torch.tensor([[1.5]]).double(), spread=0.8, sigma=0.1
    )
    start, end = torch.tensor([[0.9]]).double(), torch.tensor([[-0.4]]).double()
    path = geodesic(
        SteinMetric(score, lam=lam), start, end, points=129, tol=1e-12, solver=GaussNewton(degree=1)
    )
    assert bool(path.converged.all())
    x, c, v, t = (
        path.points[0, :, 0],
        1.5,
        0.8**2 + 0.1**2,
        torch.linspace(0, 1, 129, dtype=torch.float64),
    )
    y = x - c * t
    rate, middle = y.diff() * 128, (y[1:] + y[:-1]) / 2
    constant = (c**2 - rate**2) * (1 + lam * (middle / v) ** 2)
    assert (constant - constant.mean()).abs().max() < 2e-3 * constant.abs().mean()
    straight = (
        start - c * t.reshape(-1, 1) + (end - start) * t.reshape(-1, 1)
    )  # and it is no property of every path
    off = (c**2 - (straight.diff(dim=0) * 128) ** 2) * (
        1 + lam * ((straight[1:] + straight[:-1]) / 2 / v) ** 2
    )
    assert (off - off.mean()).abs().max() > 0.2 * off.abs().mean()


SOLVERS = [
    GaussNewton(),
    GaussNewton(coarse=(9,)),
    Portfolio(starts=2),
    Relaxation(max_iter=60),
    Relaxation(optimizer="lbfgs", max_iter=50),
    Relaxation(derivative="frozen", max_iter=30),
    FunctionalGradient(step=0.05, spherical=False),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
def test_every_solver_says_which_pairs_and_where(solver):
    """A batch of pairs gives what its pairs give alone, each with its own moving density."""
    score, start, end = moving(3, 3, seed=4)
    density_alone = isinstance(solver, FunctionalGradient)
    kind = (
        DensityMetric(score, alpha=0.3) if density_alone else ScoreMetric(score, lam=1.0, alpha=0.1)
    )
    levels = [1.0, 0.5] if isinstance(solver, Portfolio) else None

    def run(metric, a, b):
        return geodesic(metric, a, b, points=13, solver=solver, noise_levels=levels)

    together = run(kind, start, end)
    straight = kind.speed_squared(paths.lerp(start, end, 13)) @ elements(13).w
    assert bool((together.energy <= straight * 1.02).all())
    for i in range(3):
        alone = run(kind.pick(torch.tensor([i])), start[i : i + 1], end[i : i + 1])
        torch.testing.assert_close(together.points[i], alone.points[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            together.log_density[i], alone.log_density[0], rtol=1e-5, atol=1e-6
        )


@pytest.mark.filterwarnings(
    "default::lib.solvers.geodesic.MovingDensityWarning",
    "ignore::lib.solvers.geodesic.ConvergenceWarning",
)
def test_an_energy_under_a_density_that_moves_is_warned_of():
    score, start, end = moving(1, 2)
    with pytest.warns(MovingDensityWarning, match="ProductScore"):
        geodesic(SteinMetric(score, lam=1.0), start, end, points=17)
    with warnings.catch_warnings(record=True) as caught:
        # it minimises no energy
        solver = FunctionalGradient(step=0.05, spherical=False)
        geodesic(DensityMetric(score, alpha=0.3), start, end, points=5, solver=solver)
    assert not any(issubclass(one.category, MovingDensityWarning) for one in caught)


def test_log_density_distance_and_coordinates_ask_with_the_place():
    score, start, end = moving(3, 2, seed=1)
    path = paths.lerp(start, end, 9)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    mean = (1 - t) * score.first[:, None] + t * score.last[:, None]
    s = (mean - path) / (score.spread**2 + score.sigma**2)
    line = ((s[:, 1:] + s[:, :-1]) / 2 * path.diff(dim=1)).sum(-1).cumsum(1)
    torch.testing.assert_close(density.along_path(score, path, degree=1)[:, 1:], line)
    metric = SteinMetric(score, lam=1.0)
    end[1] = start[1]
    some = distance(metric, start, end, points=9)
    assert some[1] == 0 and bool((some[[0, 2]] > 0).all())
    torch.testing.assert_close(
        some[2:], distance(metric.pick(torch.tensor([2])), start[2:], end[2:], points=9)
    )
    held = VariancePreservingScore(score)
    assert held.moves
    z = held.encode(path)
    torch.testing.assert_close(held.along(t[:, 0])(z.flatten(0, 1)).reshape(z.shape) * held.unit, s)
    assert held.pick(torch.tensor([0])).score.first.shape == (1, 2)


def test_scores_that_do_not_move_need_not_be_told():
    score = Score()
    assert (
        score.pick(torch.tensor([0])) is score
        and score.along(torch.zeros(1)) is score
        and not score.moves
    )
