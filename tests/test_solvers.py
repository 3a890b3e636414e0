"""What every boundary value solver keeps: bookkeeping, result, trouble midway, bad input."""

import dataclasses
import math
import warnings

import pytest
import torch

from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import FunctionScore, GaussianMixtureScore, SphereScore
from lib.solvers import (
    SOLVERS,
    ConvergenceWarning,
    GaussNewton,
    Geodesic,
    Portfolio,
    Relaxation,
    distance,
    geodesic,
)
from lib.solvers.base import CONVERGED, MAX_ITER, NO_FALL, STOPPED, Progress
from lib.solvers.graph import graph_path

STEIN = SteinMetric(SphereScore(), 10.0)


def ends(angle=2.0):
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    end = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    return start, end


# ---- who is active, who has converged, and why


def test_progress_follows_each_pair_to_its_end():
    progress = Progress(4, callback=lambda iteration, *_: iteration == 2)
    points = torch.zeros(4, 3, 2)
    energy = torch.ones(4)

    progress.end(progress.active[torch.tensor([False, True, False, True])], CONVERGED)
    assert progress.active.tolist() == [0, 2]
    progress.record(iteration=1, energy=energy.tolist())
    assert not progress.stopped(1, points, energy)
    progress.end(torch.tensor([0]), NO_FALL, ["(by 3)"])
    # a pair may lose what it had
    progress.end(torch.tensor([1]), NO_FALL)
    assert progress.stopped(2, points, energy)

    assert len(progress.active) == 0
    assert progress.converged.tolist() == [False, False, False, True]
    solution = progress.solution(points)
    assert [entry["active"] for entry in solution.history] == [2]
    assert NO_FALL.text in solution.reason[0] and "(by 3)" in solution.reason[0]
    assert solution.reason[2:] == [STOPPED.text, CONVERGED.text]


def test_a_pair_that_nobody_has_ended_has_reached_max_iter():
    progress = Progress(2)
    progress.end(torch.tensor([0]), CONVERGED)
    progress.restart()
    assert progress.active.tolist() == [0, 1]
    assert progress.reasons()[1].startswith(MAX_ITER.text)


# ---- the result


def test_result_describes_itself_and_survives_a_round_trip(tmp_path):
    path = geodesic(DensityMetric(SphereScore(), 0.5), *ends(), points=17)
    truth = SphereScore().log_density(path.points[0])[None]
    torch.testing.assert_close(path.log_density, truth, rtol=0, atol=2e-3)
    assert path.length.item() ** 2 <= path.energy.item() * (1 + 1e-12)

    back = Geodesic.load(path.save(tmp_path / "new" / "path.safetensors"))
    for field in dataclasses.fields(Geodesic):
        mine, loaded = getattr(path, field.name), getattr(back, field.name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, loaded), field.name
        elif field.name != "settings":
            assert mine == loaded, field.name
    assert back.settings["metric"] == path.settings["metric"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["path.safetensors"]


def test_damaged_foreign_or_missing_files_are_refused(tmp_path):
    file = geodesic(STEIN, *ends(), points=9).save(tmp_path / "path.safetensors")
    with pytest.raises(FileNotFoundError, match="save"):
        Geodesic.load(tmp_path / "none")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        Geodesic.load(file)
    file.write_text("no tensors")
    with pytest.raises(ValueError, match="damaged"):
        Geodesic.load(file)


def test_equal_points_have_distance_zero():
    a = torch.stack([ends()[0], ends()[0]])
    b = torch.stack([ends()[0], ends()[1]])
    found = distance(STEIN, a, b, points=17)
    assert found[0] == 0 and found[1] > (b[1] - a[1]).norm()


def test_a_callback_sees_the_path_and_may_stop():
    seen = []

    def watch(iteration, points, energy):
        seen.append((iteration, tuple(points.shape), float(energy)))
        return iteration == 3

    with pytest.warns(ConvergenceWarning, match="callback"):
        path = geodesic(STEIN, *ends(), points=17, callback=watch)
    assert [iteration for iteration, *_ in seen] == [1, 2, 3] and seen[0][1] == (1, 17, 3)
    assert not bool(path.converged) and seen[-1][2] < seen[0][2]


# ---- trouble midway, for every solver


class Breaks(SphereScore):
    """A score that does what `act` says from its third call on."""

    def __init__(self, act):
        super().__init__(sigma=0.5)
        self.act = act

    def evaluate(self, x):
        if self.counter.batches < 3:
            return super().evaluate(x)
        return self.act(x)


def solve(name, score, a, b, **settings):
    metric = SteinMetric(score, lam=2.0)
    if name == "functional_gradient":
        metric = DensityMetric(score, alpha=0.3)
    if name == "portfolio":
        settings["noise_levels"] = [1.0, 0.5]
    settings.setdefault("max_iter", 8 if name == "shooting" else 20)
    return geodesic(metric, a, b, solver=name, points=9, **settings)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interrupt_leaves_the_callers_points_alone(name, error):
    def interrupt(x):
        raise error

    a, b = (x.float()[None] for x in ends())
    before = a.clone(), b.clone()
    with pytest.raises(error):
        solve(name, Breaks(interrupt), a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_that_does_not_converge_returns_a_finite_path_and_says_so(name):
    a, b = (x.float()[None] for x in ends())
    with pytest.warns(ConvergenceWarning):
        path = solve(name, SphereScore(sigma=0.5), a, b, max_iter=1, tol=1e-12)
    assert bool(torch.isfinite(path.points).all()) and not bool(path.converged)
    assert torch.equal(path.points[:, 0], a)
    # a shot keeps its own points, and lands where it lands
    assert torch.equal(path.points[:, -1], b) != (name == "shooting")


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "portfolio"])
def test_a_score_that_turns_nan_on_the_way_leaves_a_finite_path(name):
    a, b = (x.float()[None] for x in ends())
    with pytest.warns(ConvergenceWarning, match="NaN or infinite|blows up"):
        path = solve(name, Breaks(lambda x: x * torch.nan), a, b)
    assert bool(torch.isfinite(path.points).all()) and not bool(path.converged)
    assert torch.equal(path.points[:, 0], a) and torch.equal(path.points[:, -1], b)


def test_each_start_of_a_portfolio_is_a_starting_path():
    with pytest.raises(ValueError, match="larger noise level"):
        solve("portfolio", Breaks(lambda x: x * torch.nan), *(x[None] for x in ends()))


@pytest.mark.parametrize("name", ["gauss_newton", "relaxation", "functional_gradient", "georce"])
def test_a_score_that_is_nan_on_the_starting_path_is_refused(name):
    score = FunctionScore(lambda x: torch.where(x[:, :1] > 0.2, torch.nan, -x))
    with pytest.raises(ValueError, match="larger noise level"):
        solve(name, score, *(x[None] for x in ends(1.0)))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_gives_the_same_again_and_its_name(name):
    a, b = (x[None] for x in ends(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first, again = (solve(name, SphereScore(sigma=0.5), a, b) for _ in range(2))
    assert torch.equal(first.points, again.points)
    assert first.settings["solver"] == name == SOLVERS[name].name


# ---- bad input


@pytest.mark.parametrize(
    "change, error, culprit",
    [
        ({"start": torch.full((3,), math.nan).double()}, ValueError, "start"),
        ({"end": torch.full((3,), math.inf).double()}, ValueError, "end"),
        ({"end": torch.ones(4).double()}, ValueError, "shape"),
        ({"end": torch.ones(3)}, TypeError, "dtype"),
        ({"end": ends()[0]}, ValueError, "equal"),
        ({"start": [1.0]}, TypeError, "torch.Tensor"),
        ({"start": torch.ones(3, dtype=torch.long)}, TypeError, "floating"),
        ({"start": torch.tensor(1.0)}, ValueError, "scalar"),
        (
            {"start": torch.zeros(0, 3).double(), "end": torch.zeros(0, 3).double()},
            ValueError,
            "empty",
        ),
        ({"points": 2}, ValueError, "points"),
        ({"points": 7.5}, ValueError, "points"),
        ({"tol": 0}, ValueError, "tol"),
        ({"tol": "small"}, TypeError, "tol"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"solver": "gaus_newton"}, ValueError, "gauss_newton"),
        ({"solver": 3}, TypeError, "solver"),
        ({"init": "lerpp"}, ValueError, "'lerp'"),
        ({"init": "graph"}, ValueError, "samples"),
        ({"init": "graph", "samples": torch.zeros(5, 4).double()}, ValueError, "samples"),
        ({"init": torch.zeros(1, 5, 3).double()}, ValueError, "init"),
        ({"init": [[0.0]]}, TypeError, "init"),
        ({"noise_levels": (0.1, 0.2)}, ValueError, "noise_levels"),
        ({"noise_levels": (0.2, 0.0)}, ValueError, "noise_levels"),
        ({"noise_levels": (0.2, 0.01)}, ValueError, "noise_levels"),
        ({"noise_levels": 0.5}, TypeError, "noise_levels"),
        ({"metric": lambda x: -x}, TypeError, "SteinMetric"),
        ({"metric": EuclideanMetric()}, TypeError, "relaxation"),
        ({"metric": SteinMetric(lambda x: -x), "noise_levels": (1, 0.5)}, ValueError, "noise"),
        ({"solver": "portfolio"}, ValueError, "noise_levels"),
        (
            {"solver": Relaxation(derivative="frozen"), "metric": EuclideanMetric()},
            TypeError,
            "exact",
        ),
    ],
)
def test_bad_input_is_refused_by_name(change, error, culprit):
    start, end = ends()
    with pytest.raises(error, match=culprit):
        geodesic(**{"metric": STEIN, "start": start, "end": end, **change})


@pytest.mark.parametrize(
    "solver, settings",
    [
        (GaussNewton, {"tol": -1.0}),
        (GaussNewton, {"tol": math.nan}),
        (GaussNewton, {"max_iter": 0}),
        (Relaxation, {"optimizer": "sgd"}),
        (Relaxation, {"derivative": "none"}),
        (Relaxation, {"lr": 0}),
        (Relaxation, {"window": 0}),
        (Relaxation, {"preconditioned": True}),
    ],
)
def test_settings_of_a_solver_are_checked(solver, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        solver(**settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SteinMetric(SphereScore(), lam=0.0),
        lambda: DensityMetric(SphereScore(), alpha=0.0),
        lambda: ScoreMetric(SphereScore(), lam=math.nan),
        lambda: ScoreMetric(SphereScore(), alpha=-0.1),
        lambda: STEIN.at(0.0),
    ],
)
def test_settings_of_a_metric_must_be_positive(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_graph_names_the_pairs_that_it_cannot_connect():
    islands = torch.cat([torch.rand(20, 2), torch.rand(20, 2) + 100]).double()
    with pytest.raises(ValueError, match=r"\[0\] are not connected"):
        graph_path(islands[:1], islands[-1:], islands, 9, neighbours=3)


def test_a_pair_has_the_same_graph_path_in_a_batch_as_alone():
    """The ends of the inner pairs would be a bridge for the outer one, straight across."""
    angle = torch.linspace(0, 2 * torch.pi, 41, dtype=torch.float64)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    radius = torch.arange(1.0, 0.0, -0.15, dtype=torch.float64)[:, None]
    start = radius * circle[0]
    end = radius * circle[20]
    together = graph_path(start, end, circle, 9)
    alone = [graph_path(start[i : i + 1], end[i : i + 1], circle, 9) for i in range(len(start))]
    assert torch.equal(together, torch.cat(alone))


def test_copies_among_the_samples_do_not_cut_the_graph():
    line = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None] * torch.ones(1, 2).double()
    path = graph_path(line[:1], line[-1:], line.repeat(3, 1), 9)
    torch.testing.assert_close(path[0], line[[0]] + torch.linspace(0, 1, 9).double()[:, None])


def test_a_portfolio_without_bent_starts_is_the_annealed_path(generator):
    score = GaussianMixtureScore(torch.randn(3, 3, generator=generator, dtype=torch.float64), 0.5)
    levels = (2.0, 1.0)
    alone = geodesic(ScoreMetric(score, 5.0), *ends(), points=9, noise_levels=levels, tol=1e-9)
    portfolio = Portfolio(starts=0, tol=1e-9)
    found = geodesic(
        ScoreMetric(score, 5.0), *ends(), points=9, noise_levels=levels, solver=portfolio
    )
    torch.testing.assert_close(found.points, alone.points, rtol=0, atol=1e-5)
