"""`interpolate` and `extrapolate` by the name of every method, the baselines, and the rows of frames."""

import math

import pytest
import torch

from lib import METHODS, ConvergenceWarning, FunctionScore, GaussianMixtureScore, SphereScore, baselines, extrapolate, interpolate, paths
from lib.exact import sphere_geodesic
from lib.gallery import frame_rows
from lib.solvers import Relaxation


def ends(angle=1.0):
    return (torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
            torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64))


def mixture():
    means = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]], dtype=torch.float64)
    return GaussianMixtureScore(means, 0.6, sigma=0.3)


SMALL = {"azeglio2025": dict(solver=Relaxation(optimizer="adam", derivative="frozen", max_iter=20)), "shooting": dict(points=17, lam=10.0, max_iter=10),
         "georce": dict(lam=10.0, points=9), "spacetime": dict(points=7), "jacobian": dict(points=7)}


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@pytest.mark.parametrize("method", [*METHODS, *baselines.INTERPOLATIONS])
def test_every_method_gives_frames_between_the_ends(method):
    start, end = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[1.9, 1.2]]).double()
    result = interpolate(mixture(), start, end, method=method, frames=5, **SMALL.get(method, {}))
    assert result.frames.shape == (1, 5, 2) and torch.isfinite(result.frames).all() and result.method == method
    torch.testing.assert_close(result.frames[:, 0], start, atol=1e-6, rtol=0)
    if result.path is None or bool(result.path.converged) or method != "shooting":     # a shot that missed ends where it landed
        torch.testing.assert_close(result.frames[:, -1], end, atol=1e-6, rtol=0)
    if method in METHODS:
        assert result.evaluations == result.path.score_evaluations > 0
    else:
        assert result.path is None and result.evaluations == 0


def test_stein_frames_lie_on_the_exact_geodesic():
    result = interpolate(SphereScore(), *ends(), method="stein", lam=1000.0, frames=9)
    exact = sphere_geodesic(1.0, lam=1000.0).path(9)
    torch.testing.assert_close(result.frames[0], exact, atol=2e-3, rtol=0)


def test_settings_reach_metric_solver_and_noise_level():
    loose = interpolate(SphereScore(sigma=0.5), *ends(), sigma=0.1, lam=10.0, points=17, tol=1e-3, noise_levels=(0.4, 0.2, 0.1))
    assert loose.settings["metric"] == "stein(lam=10, alpha=0)" and loose.settings["points"] == 17
    assert loose.settings["noise_levels"] == [0.4, 0.2, 0.1] and loose.settings["tol"] == 1e-3


def test_a_function_is_a_model():
    result = interpolate(lambda x: -x, *ends(), method="density", alpha=0.5, frames=3)
    assert result.frames.shape == (1, 3, 3)


@pytest.mark.parametrize("method", ["stein", "density", "both", "yu2025", *baselines.EXTRAPOLATIONS])
def test_every_extrapolation_starts_at_the_start(method):
    start, velocity = ends()[0], torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    result = extrapolate(SphereScore(), start, velocity, method=method, frames=6)
    assert result.frames.shape == (1, 6, 3) and torch.isfinite(result.frames).all()
    torch.testing.assert_close(result.frames[:, 0], start)
    assert (result.path is None) == (method in baselines.EXTRAPOLATIONS)


def test_the_adaptive_integrator_is_reached_by_name():
    start, velocity = ends()[0], torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    fixed, adaptive = (extrapolate(SphereScore(), start, velocity, lam=10.0, ode=ode).frames for ode in ("rk4", "dopri5"))
    torch.testing.assert_close(fixed, adaptive, atol=1e-6, rtol=0)


def test_an_own_function_works_at_one_noise_level_a_point():
    score = FunctionScore(lambda x, sigma: -x / (1 + sigma**2), sigma=0.1)
    torch.testing.assert_close(score.at(torch.tensor([0.0 + 1, 2.0]))(torch.ones(2, 2)), -torch.ones(2, 2) / torch.tensor([[2.0], [5.0]]))
    start, end = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[0.9, 1.2]]).double()
    assert interpolate(score, start, end, method="spacetime", frames=3, points=5).frames.shape == (1, 3, 2)


def test_stein_extrapolation_stays_nearer_to_the_sphere_than_the_straight_one():
    start, velocity = ends()[0], torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    off = {m: float((extrapolate(SphereScore(), start, velocity, method=m).frames.norm(dim=2) - 1).abs().max())
           for m in ("stein", "straight", "guided_walk")}
    assert off["stein"] < off["straight"] / 5 and off["guided_walk"] < off["straight"]


def test_guided_walk_takes_steps_of_the_given_length_where_the_score_is_silent():
    flat = SphereScore(radius=1e6, sigma=1e6)
    walk = baselines.guided_walk(flat, torch.tensor([[1e6, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double(), 4)
    torch.testing.assert_close((walk[:, 1:] - walk[:, :-1]).norm(dim=2), torch.ones(1, 3).double(), rtol=1e-5, atol=0)


def test_baselines_are_the_paths_module():
    a, b = ends()
    torch.testing.assert_close(interpolate(SphereScore(), a, b, method="lerp", frames=4).frames, paths.lerp(a, b, 4))
    torch.testing.assert_close(baselines.straight(a, b, 3, time=2.0)[:, -1], a + 2 * b)


@pytest.mark.parametrize("call, error, message", [
    (lambda a, b: interpolate(SphereScore(), a, b, method="stien"), ValueError, "did you mean 'stein'"),
    (lambda a, b: interpolate(SphereScore(), a, b, frames=1), ValueError, "frames"),
    (lambda a, b: interpolate(SphereScore(), a, a), ValueError, "equal"),
    (lambda a, b: interpolate(SphereScore(), a, b, method="lerp", lam=3.0), TypeError, "no settings"),
    (lambda a, b: interpolate(SphereScore(), a, b, method="density", lam=3.0), TypeError, "lam is no setting"),
    (lambda a, b: interpolate(SphereScore(), a, b, pionts=9), TypeError, "pionts"),
    (lambda a, b: interpolate(SphereScore(), a, b, sigma=-1.0), ValueError, "sigma"),
    (lambda a, b: interpolate("model", a, b), TypeError, "callable"),
    (lambda a, b: extrapolate(SphereScore(), a, 0 * b), ValueError, "zero"),
    (lambda a, b: extrapolate(SphereScore(), a, b, method="georce"), ValueError, "unknown method"),
    (lambda a, b: extrapolate(SphereScore(), a, b[:, :2]), ValueError, "shape"),
    (lambda a, b: extrapolate(lambda x: -x, a, b, method="guided_walk"), ValueError, "noise level"),
    (lambda a, b: extrapolate(SphereScore(), a, 0 * b, method="guided_walk"), ValueError, "zero"),
    (lambda a, b: extrapolate(SphereScore(), a, b, method="straight", time=math.nan), ValueError, "time"),
    (lambda a, b: extrapolate(FunctionScore(lambda x, s: x * math.nan, sigma=0.1), a, b, method="guided_walk"), ValueError, "NaN"),
])
def test_bad_input_is_refused_with_its_reason(call, error, message):
    with pytest.raises(error, match=message):
        call(*ends())


def test_not_converged_is_a_warning():
    with pytest.warns(ConvergenceWarning):
        interpolate(SphereScore(), *ends(), max_iter=1)


def test_frame_rows_shows_every_frame():
    figure = frame_rows({"a": torch.rand(9, 1, 8, 8), "b": torch.rand(5, 3, 8, 8)}, columns=3, titles=["0", "½", "1"])
    assert len(figure.axes) == 6 and figure.axes[0].get_ylabel() == "a" and figure.axes[2].get_title() == "1"


@pytest.mark.parametrize("rows, message", [({}, "at least one"), ({"a": torch.rand(3, 8, 8)}, "frames must have shape"),
                                           ({"a": torch.full((2, 1, 4, 4), math.nan)}, "NaN")])
def test_frame_rows_refuses_what_is_no_row_of_images(rows, message):
    with pytest.raises(ValueError, match=message):
        frame_rows(rows)
