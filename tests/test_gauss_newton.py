"""Gauss–Newton, annealing, graph and portfolio against exact geodesics; `geodesic`'s contract."""

import math
import warnings

import pytest
import torch

from lib import paths
from lib.exact import sphere_geodesic
from lib.metrics import DensityMetric, EuclideanMetric, ScoreMetric, SteinMetric
from lib.scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    SphereScore,
    helix,
    helix_point,
)
from lib.solvers import (
    SOLVERS,
    ConvergenceWarning,
    GaussNewton,
    Geodesic,
    Portfolio,
    distance,
    geodesic,
)
from lib.solvers.graph import graph_path


def ends(dim=3, angle=2.0, dtype=torch.float64):
    a, b = torch.zeros(2, dim, dtype=dtype)
    a[0], b[0], b[1] = 1, math.cos(angle), math.sin(angle)
    return a, b


@pytest.mark.parametrize("lam", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("dim", [2, 3, 1000])
def test_stein_geodesic_on_the_sphere_is_clairauts(lam, dim):
    exact, g = (
        sphere_geodesic(2.0, lam=lam),
        geodesic(SteinMetric(SphereScore(), lam), *ends(dim), points=51),
    )
    assert bool(g.converged) and g.score_batches <= 13
    assert abs(float(g.energy) / exact.energy - 1) < 1e-4
    assert abs(1 - float(g.points.norm(dim=2).min()) - exact.dip) < 1e-4
    assert (
        float((g.points[0] - exact.path(51, dim)).norm(dim=1).max()) < 5e-3
    )  # the whole path, parametrisation included
    assert float(g.speed_variation) < 0.01


@pytest.mark.parametrize("alpha, lam", [(0.5, 0.0), (1.0, 0.0), (0.5, 10.0), (0.2, 1000.0)])
def test_density_and_both_on_the_sphere_are_clairauts(alpha, lam):
    exact = sphere_geodesic(2.0, lam=lam, alpha=alpha)
    g = geodesic(ScoreMetric(SphereScore(), lam=lam, alpha=alpha), *ends(), points=65)
    assert bool(g.converged) and abs(float(g.energy) / exact.energy - 1) < 2e-3


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_thin_sphere_is_solved_by_annealing(alpha):
    metric = DensityMetric(SphereScore(sigma=0.05), alpha)
    g = geodesic(metric, *ends(), points=65, noise_levels=(0.4, 0.2, 0.1, 0.05))
    assert (
        bool(g.converged)
        and abs(float(g.energy) / sphere_geodesic(2.0, alpha=alpha, sigma=0.05).energy - 1) < 2e-3
    )


@pytest.mark.parametrize("degree, least, most", [(1, 1.8, 2.2), (2, 3.3, 5.0)])
def test_order_of_the_energy_in_the_segment_length(degree, least, most):
    exact = sphere_geodesic(1.0, lam=1.0, sigma=0.3).energy
    solver = GaussNewton(degree=degree, tol=1e-13)
    error = []
    for n in (17, 33, 65):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # 1e-13 is below what rounding lets a step promise
            g = geodesic(
                SteinMetric(SphereScore(sigma=0.3), 1.0), *ends(angle=1.0), points=n, solver=solver
            )
        error.append(abs(float(g.energy) - exact))
    slope = math.log2(error[1] / error[2])
    assert least < slope < most, (slope, error)


def test_flat_space_is_solved_by_the_straight_line_in_one_batch():
    a, b = ends(5)
    g = geodesic(ScoreMetric(SphereScore()), a, b, points=9)
    torch.testing.assert_close(g.points, paths.lerp(a[None], b[None], 9))
    assert g.score_batches == 1 and abs(float(g.length) - float((b - a).norm())) < 1e-12


@pytest.mark.parametrize(
    "metric",
    [
        lambda s: SteinMetric(s, 50.0),
        lambda s: DensityMetric(s, 0.5),
        lambda s: ScoreMetric(s, 5.0, 0.3),
    ],
)
def test_invariants(metric, generator):
    """Energy never rises; a batch gives what pairs give; turning the problem turns the answer; d(a, b) = d(b, a)."""
    means = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    a, b = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    make = lambda m: metric(GaussianMixtureScore(m, 0.8))
    together = geodesic(make(means), a, b, points=17)
    energies = torch.tensor([h["energy"] for h in together.history])
    assert (energies[1:] <= energies[:-1] * (1 + 1e-12)).all()
    for i in range(5):
        alone = geodesic(make(means), a[i], b[i], points=17)
        torch.testing.assert_close(alone.points[0], together.points[i], rtol=0, atol=1e-9)
    turned = geodesic(make(means @ turn.T), a @ turn.T, b @ turn.T, points=17)
    torch.testing.assert_close(turned.points, together.points @ turn.T, rtol=0, atol=1e-8)
    tight = dict(points=33, tol=1e-10)
    torch.testing.assert_close(
        distance(make(means), a, b, **tight),
        distance(make(means), b, a, **tight),
        rtol=1e-6,
        atol=0,
    )


def test_lower_bound_of_the_stein_distance(generator):
    """distance² ≥ ‖b − a‖² + lam (f(b) − f(a))², the chord of the graph."""
    score = GaussianMixtureScore(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    a, b = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)
    chord = (b - a).pow(2).sum(1) + 20 * (score.log_density(b) - score.log_density(a)) ** 2
    assert (distance(SteinMetric(score, 20.0), a, b) ** 2 >= chord * (1 - 1e-6)).all()


def test_float32_agrees_with_float64_and_ends_are_exact():
    metric = SteinMetric(SphereScore(), 100.0)
    single, double = (
        geodesic(metric, *ends(dtype=t), points=21) for t in (torch.float32, torch.float64)
    )
    assert single.points.dtype == torch.float32
    assert abs(float(single.energy) / float(double.energy) - 1) < 1e-4
    a, b = ends(dtype=torch.float32)
    assert torch.equal(single.points[0, 0], a) and torch.equal(single.points[0, -1], b)


def test_only_the_pairs_still_at_work_are_evaluated():
    (a, b), (c, d) = ends(), ends(angle=0.7)
    pairs = torch.stack([a, c]), torch.stack([b, d])
    metric = SteinMetric(SphereScore(), 1000.0)
    both = geodesic(metric, *pairs, points=21)
    single = [geodesic(metric, pairs[0][i], pairs[1][i], points=21) for i in range(2)]
    assert both.score_evaluations == sum(g.score_evaluations for g in single)
    assert both.score_batches == max(g.score_batches for g in single)


def test_coarse_to_fine_needs_fewer_evaluations_for_the_same_path():
    metric = SteinMetric(SphereScore(), 1000.0)
    direct = geodesic(metric, *ends(), points=65, solver=GaussNewton(tol=1e-8))
    coarse = geodesic(metric, *ends(), points=65, solver=GaussNewton(tol=1e-8, coarse=(9, 17, 33)))
    assert coarse.score_evaluations < 0.7 * direct.score_evaluations
    torch.testing.assert_close(coarse.points, direct.points, rtol=0, atol=1e-3)


def test_graph_start_walks_round_a_helix_where_the_straight_start_fails():
    t = torch.linspace(-1, 5.5, 400, dtype=torch.float64)
    score = helix(sigma=0.1)
    a, b = helix_point(torch.tensor([0.0, 4.5]).double(), 50)
    metric = SteinMetric(score, 100.0)
    walked = geodesic(metric, a, b, points=49, init="graph", samples=helix_point(t, 50))
    with pytest.warns(ConvergenceWarning):
        straight = geodesic(metric, a, b, points=49)
    assert (
        float(score.distance(walked.points[0]).max())
        < 0.1
        < float(score.distance(straight.points[0]).max())
    )
    assert float(walked.energy) < float(straight.energy)


def test_graph_says_which_pairs_it_cannot_connect():
    islands = torch.cat([torch.rand(20, 2), torch.rand(20, 2) + 100]).double()
    with pytest.raises(ValueError, match="not connected"):
        graph_path(islands[:1], islands[-1:], islands, 9, neighbours=3)


def test_portfolio_finds_the_deeper_basin_and_keeps_the_least_energy():
    """On a ring of points the least energy wins: the short way round, for a pair alone and in a batch."""
    t = torch.linspace(0, 2 * math.pi, 181)[:-1].double()
    ring = EmpiricalScore(2 * torch.stack([t.cos(), t.sin()], -1), sigma=0.3)
    a, b = (
        torch.tensor([[2.0, 0.0]]).double(),
        torch.tensor([[2 * math.cos(2.5), 2 * math.sin(2.5)]]).double(),
    )
    levels, metric = (1.5, 1.0, 0.7, 0.5, 0.3), SteinMetric(ring, 100.0)
    found = geodesic(metric, a, b, points=25, noise_levels=levels, solver=Portfolio(starts=6))
    energies = found.history[-1]["energies"][0]
    assert abs(float(found.energy) / min(energies) - 1) < 1e-12 and len(energies) == 7
    assert abs(float(found.length) / 5.0 - 1) < 0.05  # the short way round, 2 · 2.5
    assert found.settings["solver"] == "portfolio" and found.settings["inner"] == GaussNewton()
    pair = geodesic(
        metric,
        a.repeat(2, 1),
        torch.cat([b, -b]),
        points=25,
        noise_levels=levels,
        solver=Portfolio(starts=6),
    )
    torch.testing.assert_close(pair.points[:1], found.points, rtol=0, atol=1e-6)


def test_result_describes_itself_and_survives_a_round_trip(tmp_path):
    g = geodesic(DensityMetric(SphereScore(), 0.5), *ends(), points=17)
    torch.testing.assert_close(
        g.log_density, SphereScore().log_density(g.points[0])[None], rtol=0, atol=2e-3
    )
    assert g.length.item() ** 2 <= g.energy.item() * (1 + 1e-12) and g.speed.shape == (1, 16)
    back = Geodesic.load(g.save(tmp_path / "g.safetensors"))
    for name in ("points", "energy", "length", "speed", "log_density", "converged"):
        assert torch.equal(getattr(back, name), getattr(g, name))
    assert back.reason == g.reason and back.settings["metric"] == "density(lam=0, alpha=0.5)"
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]
    assert g.resample(5).shape == (1, 5, 3)


def test_damaged_or_missing_files_are_refused(tmp_path):
    file = geodesic(SteinMetric(SphereScore()), *ends(), points=9).save(tmp_path / "g.safetensors")
    with pytest.raises(FileNotFoundError, match="save"):
        Geodesic.load(tmp_path / "none")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        Geodesic.load(file)


def test_callback_can_stop_and_is_told_the_energy():
    seen = []
    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        g = geodesic(
            SteinMetric(SphereScore()),
            *ends(),
            points=17,
            callback=lambda i, x, e: seen.append((i, tuple(x.shape), float(e))) or i == 3,
        )
    assert [i for i, *_ in seen] == [1, 2, 3] and seen[0][1] == (1, 17, 3)
    assert not bool(g.converged) and seen[-1][2] < seen[0][2]


def test_interrupt_in_the_middle_leaves_the_inputs_alone():
    a, b = ends()
    a0, b0 = a.clone(), b.clone()

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geodesic(SteinMetric(SphereScore()), a, b, points=17, callback=interrupt)
    assert torch.equal(a, a0) and torch.equal(b, b0)


def test_score_that_turns_nan_on_the_way_gives_a_reasoned_result():
    base = SphereScore()
    broken = FunctionScore(
        lambda x: (
            torch.where(x[:, :1] ** 2 + x[:, 1:2] ** 2 > 0.5, torch.nan, base(x))
            if len(x) != 19
            else base(x)
        )
    )
    with pytest.raises(ValueError, match="starting path"):
        geodesic(SteinMetric(broken, 10.0), *ends(), points=17)
    calls = []
    later = FunctionScore(lambda x: base(x) if calls.append(1) or len(calls) < 3 else x * torch.nan)
    with pytest.warns(ConvergenceWarning, match="NaN or infinite beside the path"):
        g = geodesic(SteinMetric(later, 10.0), *ends(), points=17)
    assert torch.isfinite(g.points).all() and not bool(g.converged)


def test_max_iter_is_reported():
    with pytest.warns(ConvergenceWarning, match="max_iter reached"):
        g = geodesic(SteinMetric(SphereScore()), *ends(), points=17, max_iter=2)
    assert not bool(g.converged) and g.score_batches == 3


STEIN = SteinMetric(SphereScore(), 10.0)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(start=torch.full((3,), math.nan).double()), ValueError, "NaN"),
        (dict(end=torch.full((3,), math.inf).double()), ValueError, "infinite"),
        (dict(end=torch.ones(4).double()), ValueError, "shape"),
        (dict(end=torch.ones(3)), TypeError, "dtype"),
        (dict(end=ends()[0]), ValueError, "equal"),
        (dict(start=[1.0]), TypeError, "torch.Tensor"),
        (dict(start=torch.ones(3, dtype=torch.long)), TypeError, "floating"),
        (dict(start=torch.tensor(1.0)), ValueError, "scalar"),
        (
            dict(start=torch.zeros(0, 3).double(), end=torch.zeros(0, 3).double()),
            ValueError,
            "empty",
        ),
        (dict(points=2), ValueError, "points"),
        (dict(points=0), ValueError, "points"),
        (dict(points=-3), ValueError, "points"),
        (dict(points=7.5), ValueError, "points"),
        (dict(tol=0), ValueError, "tol"),
        (dict(tol=-1.0), ValueError, "tol"),
        (dict(max_iter=0), ValueError, "max_iter"),
        (dict(solver="gaus_newton"), ValueError, "did you mean 'gauss_newton'"),
        (dict(solver=3), TypeError, "solver"),
        (dict(init="lerpp"), ValueError, "did you mean 'lerp'"),
        (dict(init="graph"), ValueError, "samples"),
        (dict(init="graph", samples=torch.zeros(5, 4).double()), ValueError, "samples"),
        (dict(init=torch.zeros(1, 5, 3).double()), ValueError, "init"),
        (dict(noise_levels=(0.1, 0.2)), ValueError, "fall"),
        (dict(noise_levels=(0.2, 0.2)), ValueError, "fall"),
        (dict(noise_levels=(0.2, 0.0)), ValueError, "noise_levels"),
        (dict(noise_levels=(0.2, 0.01)), ValueError, "below"),
        (dict(noise_levels=0.5), TypeError, "sequence"),
        (dict(init=[[0.0]]), TypeError, "init"),
        (dict(metric=lambda x: -x), TypeError, "SteinMetric"),
        (dict(solver="portfolio"), ValueError, "noise_levels"),
    ],
)
def test_bad_input_is_refused_with_its_reason(change, error, message):
    a, b = ends()
    with pytest.raises(error, match=message):
        geodesic(**{"metric": STEIN, "start": a, "end": b, **change})


@pytest.mark.parametrize(
    "make",
    [
        lambda: SteinMetric(SphereScore(), lam=0.0),
        lambda: SteinMetric(SphereScore(), lam=-1.0),
        lambda: DensityMetric(SphereScore(), alpha=0.0),
        lambda: ScoreMetric(SphereScore(), lam=math.nan),
        lambda: ScoreMetric(SphereScore(), alpha=-0.1),
        lambda: STEIN.at(0.0),
        lambda: STEIN.at(-1.0),
    ],
)
def test_settings_of_a_metric_must_be_positive(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_noise_levels_need_a_score_that_has_them():
    with pytest.raises(ValueError, match="no other noise levels"):
        geodesic(SteinMetric(lambda x: -x, 1.0), *ends(), noise_levels=(1.0, 0.5))


def test_gauss_newton_names_the_solver_for_other_metrics():
    with pytest.raises(TypeError, match="relaxation"):
        geodesic(EuclideanMetric(), *ends())


def test_every_solver_has_its_name():
    assert all(SOLVERS[name].name == name for name in SOLVERS) and "gauss_newton" in SOLVERS


@pytest.mark.parametrize(
    "settings",
    [
        dict(tol=-1.0),
        dict(tol=math.nan),
        dict(damping=-1.0),
        dict(max_iter=0),
        dict(max_rejections=0),
    ],
)
def test_settings_of_the_solver_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GaussNewton(**settings)
