"""Each benchmark runs small and shows the columns it promises; verdicts are honest; the command refuses unknown names."""

import json
import math
from functools import cache

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import (
    Result,
    Target,
    fine_energy,
    latent,
    order,
    peers,
    run,
    sphere,
    sphere_ends,
    table,
)
from lib import exact
from lib.metrics import SteinMetric
from lib.scores import SphereScore

COLUMNS = {
    "accuracy": [
        "d",
        "lam",
        "degree",
        "batches",
        "evaluations",
        "energy / exact − 1",
        "fine energy / exact − 1",
        "dip / exact − 1",
    ],
    "convergence": ["lam", "degree", "T", "energy / exact − 1", "order"],
    "memory": ["quantity", "value", "unit"],
    "first_order": [
        "problem",
        "method",
        "best energy",
        "above exact",
        "cost to its best",
        "cost to 1 %",
        "derivatives in all",
    ],
    "density_sphere": ["sigma", "alpha", "start", "batches", "energy / exact − 1", "exact dip"],
    "density_mixtures": ["mixture", "batches", "length", "grid", "length / grid − 1"],
    "ablation": ["sigma", "alpha", "variant", "batches", "solved"],
    "initial_value": ["metric", "acceleration against autodiff", "speed drift", "exp(log) miss"],
    "digits": ["digit", "line", "geodesic", "line / geodesic", "evaluations"],
    "mnist": ["digit", "line", "graph, sigma 0.6", "graph, sigma 1 → 0.6", "reference"],
    "quadrature": [
        "lam",
        "points",
        "degree",
        "coarse",
        "evaluations",
        "energy / exact − 1",
        "fine energy / exact − 1",
    ],
    "sharing": ["how", "batches", "evaluations", "time, relative"],
    "trade": ["sigma", "lam", "T", "batches", "fine energy / exact − 1", "exact dip"],
    "latent": [
        "side",
        "evaluations",
        "measured",
        "seconds",
        "CPU s / evaluation",
        "peak, GB",
        "weights, GB",
    ],
}


def test_every_benchmark_has_promised_columns():
    assert set(COLUMNS) == set(run.BENCHMARKS)


@cache
def small(name):
    return run.measure(name, quick=True)


@pytest.mark.parametrize("name", COLUMNS)
def test_runs_small(name, tmp_path):
    result = small(name)
    assert result.name == name and len(result.rows) > 0
    assert not set(COLUMNS[name]) - set(result.rows.columns)
    assert all(
        isinstance(target, Target) and isinstance(target.met, bool) and target.reached
        for target in result.targets
    )
    run.show(run.Console(quiet=True), result)
    run.keep(result, tmp_path, threads=1)
    assert json.loads((tmp_path / f"{name}-verdict.json").read_text())["notes"] == result.notes
    assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(result.rows)


@pytest.mark.parametrize(
    "name", ["accuracy", "density_sphere", "density_mixtures", "initial_value"]
)
def test_small_runs_keep_their_promises(name):
    assert all(target.met for target in small(name).targets)


def test_fine_energy_of_the_exact_path_is_the_exact_energy():
    truth = exact.sphere_geodesic(2.0, lam=10.0)
    path = truth.path(401, dim=4)[None]
    assert fine_energy(SteinMetric(SphereScore(), 10.0), path).item() == pytest.approx(
        truth.energy, rel=1e-5
    )
    line = torch.lerp(
        path[:, :1], path[:, -1:], torch.linspace(0, 1, 401, dtype=torch.float64)[None, :, None]
    )
    assert fine_energy(SteinMetric(SphereScore(), 10.0), line).item() > 10 * truth.energy


def test_sphere_ends_are_on_the_sphere_two_radians_apart():
    start, end = sphere_ends(7, 3)
    assert torch.allclose(start.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(
        (start * end).sum(1), torch.full((3,), math.cos(2.0), dtype=torch.float64)
    )


def test_order_reads_a_power_law():
    assert order([3.0 / n**4 for n in (8, 16, 48)], [8, 16, 48]) == pytest.approx([4, 4])


def test_peak_memory_is_that_of_a_fresh_process():
    assert 5e7 < sphere.peak_memory() < 64e9


def test_latent_sides_count_what_they_cost():
    """17 points and 15 a Gauss–Newton step; 17 images times 50 steps, twice with guidance, one of the steps taken."""
    rows = small("latent").rows.set_index("side")
    assert rows.evaluations.to_dict() == {
        "geodesic": 17 + 15,
        "sampling": 17 * 50,
        "guided sampling": 2 * 17 * 50,
    }
    assert rows.measured.to_dict() == {
        "geodesic": 17 + 15,
        "sampling": 17,
        "guided sampling": 2 * 17,
    }
    assert (rows["peak, GB"] >= rows["before, GB"]).all() and (rows["CPU seconds"] > 0).all()
    assert "extrapolated from the first 1 of 50" in small("latent").notes[0]


def test_a_latent_side_runs_in_a_process_of_its_own():
    setting = latent.Setting(narrow=8)
    (row,) = latent.in_fresh_process("decoding", setting)
    assert (
        row["side"] == "decoding 1"
        and row["seconds"] > 0
        and row["peak, GB"] > row["weights, GB"] > 0.05
    )


def test_a_latent_side_that_fails_is_left_out_and_the_others_are_kept(monkeypatch):
    def killed(name, setting):
        if name == "sampling":
            raise RuntimeError("ended with code -9: killed: too little memory?")
        return [{"side": name, "seconds": 1.0, "CPU seconds": 0.9, "evaluations": 3, "measured": 3}]

    monkeypatch.setattr(latent, "in_fresh_process", killed)
    kept = []
    result = latent.compare(
        latent.Setting(), ["geodesic", "sampling", "calls"], each=lambda r: kept.append(len(r.rows))
    )
    assert kept == [1, 1, 2] and list(result.rows["CPU s / evaluation"]) == pytest.approx(
        [0.3, 0.3]
    )
    assert result.notes[-1] == "left out: sampling: ended with code -9: killed: too little memory?"


def test_missing_peers_are_named_with_the_mend(monkeypatch):
    def absent(problem, iterations):
        raise ImportError("No module named 'stochman'")

    monkeypatch.setattr(peers, "stochman", absent)
    monkeypatch.setattr(peers, "geomstats", absent)
    methods, notes = peers._methods(peers.PROBLEMS[0], 3)
    assert "gauss_newton" in methods and not any("stochman" in name for name in methods)
    assert all(peers.INSTALL in note for note in notes) and len(notes) == 2


def test_a_failing_method_is_reported_and_the_rest_goes_on():
    def broken(trace):
        raise RuntimeError("no longer supported")

    notes = []
    trace = peers._trace(peers.PROBLEMS[0], "peer", broken, notes)
    assert trace.paths == [] and "no longer supported" in notes[0]


def test_a_path_that_misses_the_end_has_no_energy():
    problem = peers.Problem("short", 10.0, 0.0, dim=3, points=9)
    trace = peers.Trace(problem)
    start, end = sphere_ends(3)
    trace(0, torch.lerp(start, end, torch.linspace(0, 0.5, 9, dtype=torch.float64)[:, None])[None])
    assert trace.curve[1][-1] == math.inf and math.isnan(trace.until(1e9))


def test_command(tmp_path, monkeypatch):
    targets = [Target("x", "1", True), Target("y", "2", False)]
    result = Result("tiny", "t", table([{"a": 1.0, "b": math.nan}]), targets, ["left out: z"])
    monkeypatch.setattr(run, "BENCHMARKS", {"tiny": lambda quick: result})
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(run.app, ["--only", "tiny", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0
    assert all(
        text in done.output
        for text in ("PASS  x: 1", "MISSED  y: 2", "note: left out: z", "1 of 2 kept")
    )
    assert (tmp_path / "tiny.csv").exists()
    assert CliRunner().invoke(run.app, ["--only", "accurcy"]).exit_code != 0
