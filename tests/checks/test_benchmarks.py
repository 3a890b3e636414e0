"""Each benchmark runs small, and one that fails does not end the others."""

import json
import math
from functools import cache

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import (
    Claim,
    Result,
    fine_energy,
    large,
    latent,
    order,
    peers,
    reporting,
    run,
    table,
)
from lib import exact
from lib.metrics import SteinMetric
from lib.scores import SphereScore


@cache
def small(name):
    return run.measure(name, quick=True)


@pytest.mark.parametrize("name", run.BENCHMARKS)
def test_runs_small_and_keeps_its_numbers(name, tmp_path):
    result = small(name)
    assert result.name == name
    assert len(result.rows) > 0
    reporting.show(reporting.Console(quiet=True), result)
    reporting.keep(result, tmp_path, {"threads": 1})
    verdict = json.loads((tmp_path / f"{name}-verdict.json").read_text(encoding="utf-8"))
    assert verdict["notes"] == result.notes
    assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(result.rows)


@pytest.mark.parametrize(
    "name", ["accuracy", "density_sphere", "density_mixtures", "initial_value"]
)
def test_the_claims_hold_in_small_runs(name):
    assert all(claim.met for claim in small(name).claims)


def test_fine_energy_of_the_exact_path_is_the_exact_energy():
    truth = exact.sphere_geodesic(2.0, lam=10.0)
    path = truth.path(401, dim=4)[None]
    metric = SteinMetric(SphereScore(), 10.0)
    assert fine_energy(metric, path).item() == pytest.approx(truth.energy, rel=1e-5)
    times = torch.linspace(0, 1, 401, dtype=torch.float64)[None, :, None]
    line = torch.lerp(path[:, :1], path[:, -1:], times)
    assert fine_energy(metric, line).item() > 10 * truth.energy


def test_order_of_a_power_law():
    assert order([3.0 / n**4 for n in (8, 16, 48)], [8, 16, 48]) == pytest.approx([4, 4])


def test_latent_sides_count_their_evaluations():
    """A step on 13 points, then one on 17: all points, then the inner ones; 17 images, 50 steps."""
    rows = small("latent").rows.set_index("side")
    assert rows.evaluations.to_dict() == {
        "geodesic": 13 + 11 + 17 + 15,
        "sampling": 17 * 50,
        "guided sampling": 2 * 17 * 50,
    }
    assert (rows["peak, GB"] >= rows["before, GB"]).all()


def test_large_models_count_their_evaluations():
    """A step on 9 points at each of two noise levels; 9 images in 50 steps."""
    rows = small("large").rows
    assert list(rows.model) == [name for name in large.NAMES.values() for _ in range(2)]
    assert list(rows.evaluations) == 2 * [9 * 50, 2 * (9 + 7)]
    relative = rows["time, relative"] / rows["time an evaluation, relative"]
    assert list(relative) == pytest.approx(2 * [1, 32 / 450])
    assert (rows["peak, GB"] > rows["weights, GB"]).all()


def test_a_large_model_that_fails_is_named_and_the_other_is_kept(monkeypatch):
    def killed(version, setting, module):
        if version == "xl":
            raise RuntimeError("ended with code -9: killed: too little memory?")
        row = {"CPU seconds": 9.0, "evaluations": 9, "weights, GB": 1.0, "parameters": 5e8}
        peaks = {"sampling": 2.0, "geodesic": 3.0}
        return [row | {"side": side, "peak, GB": peak} for side, peak in peaks.items()]

    monkeypatch.setattr(latent, "in_fresh_process", killed)
    result = large.true_size()
    assert list(result.rows["peak, GB"]) == [2.0, 3.0]
    assert "SDXL" in result.notes[-1]
    assert not result.claims[0].met and "50 %" in result.claims[0].reached


def test_a_latent_side_that_fails_is_named_and_the_others_are_kept(monkeypatch):
    def killed(name, setting):
        if name == "sampling":
            raise RuntimeError("ended with code -9: killed: too little memory?")
        return [{"side": name, "seconds": 1.0, "CPU seconds": 0.9, "evaluations": 3, "measured": 3}]

    monkeypatch.setattr(latent, "in_fresh_process", killed)
    kept = []
    result = latent.compare(
        latent.Setting(), ["geodesic", "sampling", "calls"], each=lambda r: kept.append(len(r.rows))
    )
    assert kept == [1, 1, 2]
    assert list(result.rows["CPU s / evaluation"]) == pytest.approx([0.3, 0.3])
    assert "sampling" in result.notes[-1]


def test_a_missing_peer_and_a_failing_method_are_named(monkeypatch):
    def absent(problem, iterations):
        raise ImportError("No module named 'stochman'")

    def broken(trace):
        raise RuntimeError("no longer supported")

    monkeypatch.setattr(peers, "stochman", absent)
    monkeypatch.setattr(peers, "geomstats", absent)
    methods, notes = peers.methods_of(peers.PROBLEMS[0], 3)
    assert "gauss_newton" in methods
    assert len(notes) == 2
    assert all(peers.INSTALL in note for note in notes)
    trace = peers.traced(peers.PROBLEMS[0], "peer", broken, notes)
    assert trace.paths == []
    assert "no longer supported" in notes[-1]


def test_a_path_that_misses_the_end_has_no_energy():
    problem = peers.Problem("short", 10.0, 0.0, dim=3, points=9)
    trace = peers.Trace(problem)
    start, end = peers.sphere_ends(3)
    times = torch.linspace(0, 0.5, 9, dtype=torch.float64)[:, None]
    trace(0, torch.lerp(start, end, times)[None])
    assert trace.curve[1][-1] == math.inf
    assert math.isnan(trace.until(1e9))


def test_command(tmp_path, monkeypatch):
    claims = [Claim("x", "1", True), Claim("y", "2", False)]
    result = Result("tiny", "t", table([{"a": 1.0, "b": math.nan}]), claims, ["left out: z"])
    monkeypatch.setattr(run, "BENCHMARKS", {"tiny": lambda quick: result})
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(run.app, ["--only", "tiny", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0
    for text in ("PASS  x: 1", "FAIL  y: 2", "note: left out: z", "1 of 2 hold"):
        assert text in done.output
    assert (tmp_path / "tiny.csv").exists()
    assert CliRunner().invoke(run.app, ["--only", "tyni"]).exit_code != 0
