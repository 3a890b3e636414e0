"""The one ruler and the one counter by which notebook 09 compares solvers."""

import numpy as np
import pytest
import torch

from experiments import race
from lib import SphereScore, SteinMetric, exact
from lib.solvers import GaussNewton


def test_a_run_is_charged_and_measured_on_its_way_to_the_exact_energy():
    start = torch.tensor([[1.0, 0.0, 0.0]]).double()
    end = torch.tensor([[np.cos(1.0), np.sin(1.0), 0.0]]).double()
    metric = SteinMetric(SphereScore(sigma=0.1), lam=100.0)
    made = race.run(metric, start, end, solver=GaussNewton(), points=33)
    assert made.geodesic.converged.all() and made.costs == sorted(made.costs)
    assert made.costs[-1] >= made.geodesic.score_evaluations
    best = exact.sphere_geodesic(1.0, lam=100.0, sigma=0.1).energy
    costs, over = race.excess(metric, made, end, best)
    assert (np.diff(over) <= 0).all() and abs(over[-1]) < 1e-3
    assert race.cost_to(costs, over, 1e-2) < costs[-1]
    assert np.isnan(race.cost_to(costs, over, -1.0))
    elsewhere = race.excess(metric, made, end + 1, best)[1]
    assert np.isnan(elsewhere).all()


def test_the_ruler_in_flat_space_is_the_chain_of_chords():
    times = torch.linspace(0, 2, 17).double()
    arc = torch.stack([times.cos(), times.sin()], 1)[None]
    flat = SteinMetric(SphereScore(sigma=0.1), lam=1e-12)
    chain = 16 * 2 * np.sin(2 / 16 / 2)
    assert race.ruler(flat, arc).item() == pytest.approx(chain**2)
