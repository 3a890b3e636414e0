"""Bad points and failures midway: a clear error, the caller's tensors as they were."""

import pytest
import torch

from lib import (
    SOLVERS,
    ConvergenceWarning,
    DensityMetric,
    FunctionScore,
    JacobianMetric,
    SphereScore,
    SteinMetric,
    distance,
    extrapolate,
    geodesic,
    interpolate,
    shoot,
)
from lib.calculus import frechet_mean, logarithm, parallel_transport
from lib.paths import resample

NAN = float("nan")
SPHERE = SphereScore(sigma=0.5)
METRIC = SteinMetric(SPHERE, lam=2.0)
STEEP = DensityMetric(FunctionScore(lambda x: x**3))


@pytest.fixture
def ends():
    """Two points (1, 2) near the unit circle: they and the global generator stay as they are."""
    a = torch.tensor([[1.0, 0.2]])
    b = torch.tensor([[-0.3, 1.0]])
    before = a.clone(), b.clone(), torch.get_rng_state()
    yield a, b
    assert all(map(torch.equal, (a, b, torch.get_rng_state()), before))


# what is wrong: what provokes it, the error, and the word that names the culprit or the mend
MISTAKES = {
    "NaN in an end point": (lambda a, b: geodesic(METRIC, a * NAN, b), ValueError, "start has 2"),
    "infinity in an end point": (lambda a, b: geodesic(METRIC, a, b / 0), ValueError, "end has 2"),
    "ends of two shapes": (lambda a, b: geodesic(METRIC, a, b[:, :1]), ValueError, "shape"),
    "ends of two dtypes": (lambda a, b: geodesic(METRIC, a, b.double()), TypeError, "convert"),
    "whole numbers": (lambda a, b: geodesic(METRIC, a.long(), b.long()), TypeError, r"\.float\(\)"),
    "lists": (lambda a, b: geodesic(METRIC, a.tolist(), b.tolist()), TypeError, "as_tensor"),
    "equal ends": (lambda a, b: geodesic(METRIC, a, a), ValueError, "drop these pairs"),
    "an empty batch": (lambda a, b: geodesic(METRIC, a[:0], b[:0]), ValueError, "empty"),
    "no metric": (lambda a, b: geodesic(SPHERE, a, b), TypeError, r"SteinMetric\(score\)"),
    "a solver of other metrics": (
        lambda a, b: geodesic(JacobianMetric(SPHERE), a, b),
        TypeError,
        "relaxation",
    ),
    "noise that rises": (
        lambda a, b: geodesic(METRIC, a, b, noise_levels=[0.5, 1.0]),
        ValueError,
        "fall",
    ),
    "distance of two dtypes": (lambda a, b: distance(METRIC, a, b.double()), TypeError, "convert"),
    "a velocity of zero": (lambda a, b: shoot(METRIC, a, 0 * b), ValueError, "drop these rows"),
    "a shot that blows up": (
        lambda a, b: shoot(STEEP, a, 50 * b, steps=20),
        ArithmeticError,
        "smaller time=",
    ),
    "a logarithm between shapes": (
        lambda a, b: logarithm(METRIC, a, b[:, :1]),
        ValueError,
        "takes|shape",
    ),
    "the mean of one point": (lambda a, b: frechet_mean(METRIC, a), ValueError, "m ≥ 2"),
    "transport along a point": (
        lambda a, b: parallel_transport(METRIC, a[:, None], b),
        ValueError,
        "N ≥ 2",
    ),
    "one point of a path": (lambda a, b: resample(torch.stack([a, b], 1), 1), ValueError, "count"),
    "an unknown method": (
        lambda a, b: interpolate(SPHERE, a, b, method="stien"),
        ValueError,
        "did you mean 'stein'",
    ),
    "time backwards": (lambda a, b: extrapolate(SPHERE, a, b, time=-1.0), ValueError, "time"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, ends):
    act, error, word = MISTAKES[mistake]
    with pytest.raises(error, match=word):
        act(*ends)


class Breaks(SphereScore):
    """The score of the sphere, and something else from its third call on."""

    def __init__(self, act):
        super().__init__(sigma=0.5)
        self.act = act
        self.calls = []  # one list for all noise levels

    def evaluate(self, x):
        self.calls.append(len(x))
        score = super().evaluate(x)
        return score if len(self.calls) < 3 else self.act(score)


def solve(solver, score, a, b, **settings):
    # The functional gradient solves density metrics alone; a portfolio needs noise levels.
    metric = SteinMetric(score, lam=2.0)
    if solver == "functional_gradient":
        metric = DensityMetric(score, alpha=0.3)
    if solver == "portfolio":
        settings["noise_levels"] = [1.0, 0.5]
    iterations = 8 if solver == "shooting" else 20
    return geodesic(metric, a, b, solver=solver, points=9, **{"max_iter": iterations} | settings)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
def test_ctrl_c_in_the_middle_of_a_solver_leaves_no_trace(solver, ends):
    def interrupt(score):
        raise KeyboardInterrupt

    undisturbed = solve(solver, SPHERE, *ends).points
    with pytest.raises(KeyboardInterrupt):
        solve(solver, Breaks(interrupt), *ends)
    assert torch.equal(solve(solver, SPHERE, *ends).points, undisturbed)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_that_does_not_converge_says_so_and_keeps_the_ends(solver, ends):
    with pytest.warns(ConvergenceWarning, match=r"did not converge \(pair 0: .+"):
        path = solve(solver, SPHERE, *ends, max_iter=1, tol=1e-12)
    assert not path.converged.any() and torch.isfinite(path.points).all()
    assert torch.equal(path.points[:, 0], ends[0])
    # A shot's last point is where it lands.
    assert torch.equal(path.points[:, -1], ends[1]) != (solver == "shooting")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_score_that_turns_nan_midway_is_named_and_leaves_a_finite_path(solver, ends):
    score = Breaks(lambda score: score * NAN)
    if solver == "portfolio":  # NaN meets it on a starting path of its own
        with pytest.raises(ValueError, match="larger noise level"):
            solve(solver, score, *ends)
        return
    with pytest.warns(ConvergenceWarning, match="NaN or infinite|blows up"):
        path = solve(solver, score, *ends)
    assert not path.converged.any() and torch.isfinite(path.points).all()
    assert torch.equal(path.points[:, [0, -1]], torch.stack(ends, 1))


def test_many_dimensions_give_the_geodesic_of_the_plane():
    metric = SteinMetric(SphereScore(sigma=0.3))
    a, b = torch.eye(2, 16384, dtype=torch.float64).split(1)
    path = geodesic(metric, a, b, points=17)
    plane = geodesic(metric, a[:, :2], b[:, :2], points=17)
    assert path.converged.all()
    assert torch.allclose(path.points[..., :2], plane.points, atol=1e-6)


def test_a_huge_lam_keeps_to_equal_log_density():
    a, b = torch.eye(2, dtype=torch.float64).split(1)
    path = geodesic(SteinMetric(SphereScore(sigma=0.5), lam=1e12), a, b, init="slerp")
    assert path.converged.all() and torch.isfinite(path.energy).all()
    assert path.log_density.abs().max() < 1e-4
