"""`interpolate` and `extrapolate` by the name of every method, and the baselines."""

import math

import pytest
import torch
from networks import EVENT, gaussian_denoiser, moments

from lib import (
    METHODS,
    ConvergenceWarning,
    FunctionScore,
    GaussianMixtureScore,
    GaussianScore,
    SphereScore,
    SteinMetric,
    extrapolate,
    flow,
    geodesic,
    interpolate,
    paths,
)
from lib.exact import sphere_geodesic
from lib.methods import baselines
from lib.scores import VariancePreservingScore
from lib.solvers import Portfolio, Relaxation


def ends(angle=1.0):
    return (
        torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64),
    )


def mixture():
    means = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]], dtype=torch.float64)
    return GaussianMixtureScore(means, 0.6, sigma=0.3)


SMALL = {
    "azeglio2025": dict(solver=Relaxation(optimizer="adam", derivative="frozen", max_iter=20)),
    "shooting": dict(points=17, lam=10.0, max_iter=10),
    "georce": dict(lam=10.0, points=9),
    "spacetime": dict(points=7),
    "jacobian": dict(points=7),
}


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@pytest.mark.parametrize("method", [*METHODS, *baselines.INTERPOLATIONS])
def test_every_method_gives_frames_between_the_ends(method):
    start, end = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[1.9, 1.2]]).double()
    result = interpolate(mixture(), start, end, method=method, frames=5, **SMALL.get(method, {}))
    assert result.frames.shape == (1, 5, 2)
    assert torch.isfinite(result.frames).all()
    assert result.method == method
    baseline = baselines.INTERPOLATIONS.get(method)
    if baseline is not None and baseline.space != "clean":
        assert result.path is None
        assert result.evaluations > 0
        assert result.settings["ends"] == "reconstructed"
        return
    assert result.settings["space"] == "clean"
    assert result.settings["ends"] == "given"
    torch.testing.assert_close(result.frames[:, 0], start, atol=1e-6, rtol=0)
    # A shot that missed ends where it landed.
    if method != "shooting" or bool(result.path.converged):
        torch.testing.assert_close(result.frames[:, -1], end, atol=1e-6, rtol=0)
    if method in METHODS:
        assert result.evaluations == result.path.score_evaluations > 0
    else:
        assert result.path is None
        # the denoised line's three frames between the ends
        assert result.evaluations == (3 if baseline.denoises else 0)


def test_stein_frames_lie_on_the_exact_geodesic():
    result = interpolate(SphereScore(), *ends(), method="stein", lam=1000.0, frames=9)
    exact = sphere_geodesic(1.0, lam=1000.0).path(9)
    torch.testing.assert_close(result.frames[0], exact, atol=2e-3, rtol=0)


def test_settings_reach_metric_solver_and_noise_level():
    loose = interpolate(
        SphereScore(sigma=0.5),
        *ends(),
        sigma=0.1,
        lam=10.0,
        points=17,
        tol=1e-3,
        noise_levels=(0.4, 0.2, 0.1),
    )
    assert loose.settings["metric"] == "stein(lam=10, alpha=0)" and loose.settings["points"] == 17
    assert loose.settings["noise_levels"] == [0.4, 0.2, 0.1] and loose.settings["tol"] == 1e-3


def test_a_function_is_a_model():
    result = interpolate(lambda x: -x, *ends(), method="density", alpha=0.5, frames=3)
    assert result.frames.shape == (1, 3, 3)


@pytest.mark.parametrize(
    "method", ["stein", "density", "both", "yu2025", *baselines.EXTRAPOLATIONS]
)
def test_every_extrapolation_starts_at_the_start(method):
    start, velocity = ends()[0], torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    result = extrapolate(SphereScore(), start, velocity, method=method, frames=6)
    assert result.frames.shape == (1, 6, 3) and torch.isfinite(result.frames).all()
    torch.testing.assert_close(result.frames[:, 0], start)
    assert (result.path is None) == (method in baselines.EXTRAPOLATIONS)
    assert result.settings["space"] == "clean" and result.settings["ends"] == "given"


def test_the_settings_of_an_extrapolation_are_kept():
    x, v = ends()[0], torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    walk = extrapolate(SphereScore(), x, v, method="guided_walk", time=2.0, sigma=0.2, frames=4)
    assert walk.settings == {
        "time": 2.0,
        "space": "clean",
        "sigma": 0.2,
        "ends": "given",
    }
    line = extrapolate(SphereScore(), x, v, method="straight", time=3.0, frames=4)
    assert line.settings["time"] == 3.0
    shot = extrapolate(SphereScore(), x, v, lam=10.0, steps=20, sigma=0.2, frames=4)
    expected = {"metric": "stein(lam=10, alpha=0)", "steps": 20, "sigma": 0.2}
    assert shot.settings | expected == shot.settings


@pytest.mark.parametrize(
    "method", ["stein", "density", "both", "yu2025", *baselines.EXTRAPOLATIONS]
)
def test_extrapolation_in_the_noised_space_is_that_of_its_coordinates(method):
    """By hand in z = √ᾱ (2x − 1), from an interpolation's noised point; the velocity is 2 √ᾱ v."""
    score, start, end = network_and_ends()
    velocity = (end - start) / 2
    common = dict(space="shared_noise", sigma=0.6, seed=7, frames=5, flow_steps=12)
    settings = {} if method in baselines.EXTRAPOLATIONS else {"steps": 16}
    if method in ("stein", "both"):
        settings["lam"] = 1.0
    if method in ("density", "both"):
        settings["alpha"] = 0.2
    result = extrapolate(score, start, velocity, method=method, **common, **settings)
    first = interpolate(score, start, end, method="lerp", **common).frames[:, 0]
    torch.testing.assert_close(result.frames[:, 0], first, atol=1e-6, rtol=0)

    room = VariancePreservingScore(score.at(0.6))
    noise = torch.randn(EVENT, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    z = room.encode(start + 0.6 * noise)
    v = room.unit * velocity
    if method == "straight":
        by_hand = paths.lerp(z, z + v, 5)
    else:
        by_hand = extrapolate(room, z, v, method=method, frames=5, **settings).frames
    shown = flow.denoise(score, room.decode(by_hand).flatten(0, 1), 0.6, steps=12)
    torch.testing.assert_close(result.frames.flatten(0, 1), shown, atol=1e-6, rtol=0)

    expected = {"space": "shared_noise", "sigma": 0.6, "noise_seed": 7, "ends": "reconstructed"}
    assert result.settings | expected == result.settings
    evaluations = {"straight": 0, "guided_walk": 2 * 4}
    if result.path is not None:
        evaluations[method] = result.path.score_evaluations
    assert result.evaluations == 2 * 5 * 12 + evaluations[method]
    single = extrapolate(score, start[1], velocity[1], method=method, **common, **settings)
    torch.testing.assert_close(result.frames[1:], single.frames, atol=1e-6, rtol=0)


@pytest.mark.parametrize("space", ["clean", "shared_noise"])
def test_images_in_0_to_255_are_refused_for_a_model_of_pixels(space):
    score, start, end = network_and_ends()
    start = start.clamp(0, 1)
    end = end.clamp(0, 1)
    common = dict(space=space, sigma=0.2, frames=3, flow_steps=5)
    for call in (
        lambda a, b: interpolate(score, a, b, method="lerp", **common),
        lambda a, b: extrapolate(score, a, b, method="straight", **common),
    ):
        with pytest.raises(ValueError, match=r"start has values .* by 255"):
            call(255 * start, 255 * end)
        with pytest.raises(ValueError, match=r"start has values .* by 255"):
            call(-2 * torch.ones_like(start) - 1, end)
    with pytest.raises(ValueError, match="end has values"):
        interpolate(score, start, 255 * end, method="lerp", **common)
    assert score.counter.batches == 0


def test_noisy_end_points_and_other_units_are_no_images_in_0_to_255():
    score, start, end = network_and_ends()
    noise = torch.randn(EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.5, 10.0):
        a = start + sigma * noise
        b = end + sigma * noise
        assert interpolate(score, a, b, method="lerp", sigma=sigma).frames.shape[1] == 17
    latents = gaussian_denoiser(scale=1.0, shift=0.0)
    assert interpolate(latents, 20 * start, 20 * end, method="lerp").frames.abs().max() > 5
    a, b = ends()
    sphere = SphereScore(radius=300.0)
    assert interpolate(sphere, 300 * a, 300 * b, method="lerp").frames.abs().max() > 250


def test_the_adaptive_integrator_is_reached_by_name():
    start, velocity = ends()[0], torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64)
    fixed, adaptive = (
        extrapolate(SphereScore(), start, velocity, lam=10.0, ode=ode).frames
        for ode in ("rk4", "dopri5")
    )
    torch.testing.assert_close(fixed, adaptive, atol=1e-6, rtol=0)


def test_an_own_function_works_at_one_noise_level_a_point():
    score = FunctionScore(lambda x, sigma: -x / (1 + sigma**2), sigma=0.1)
    each = score.at(torch.tensor([1.0, 2.0]))(torch.ones(2, 2))
    torch.testing.assert_close(each, -torch.ones(2, 2) / torch.tensor([[2.0], [5.0]]))
    start, end = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[0.9, 1.2]]).double()
    result = interpolate(score, start, end, method="spacetime", frames=3, points=5)
    assert result.frames.shape == (1, 3, 2)


def test_stein_extrapolation_stays_nearer_to_the_sphere_than_the_straight_one():
    start, velocity = ends()[0], torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    off = {}
    for method in ("stein", "straight", "guided_walk"):
        frames = extrapolate(SphereScore(), start, velocity, method=method).frames
        off[method] = float((frames.norm(dim=2) - 1).abs().max())
    assert off["stein"] < off["straight"] / 5 and off["guided_walk"] < off["straight"]


def test_guided_walk_takes_steps_of_the_given_length_where_the_score_is_silent():
    flat = SphereScore(radius=1e6, sigma=1e6)
    start = torch.tensor([[1e6, 0.0]], dtype=torch.float64)
    velocity = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    steps = baselines.guided_walk(flat, start, velocity, 4).diff(dim=1).norm(dim=2)
    torch.testing.assert_close(steps, torch.ones(1, 3).double(), rtol=1e-5, atol=0)


def test_baselines_are_the_paths_module():
    a, b = ends()
    torch.testing.assert_close(
        interpolate(SphereScore(), a, b, method="lerp", frames=4).frames, paths.lerp(a, b, 4)
    )
    torch.testing.assert_close(baselines.straight(None, a, b, 3, time=2.0)[:, -1], a + 2 * b)


def test_the_denoised_line_holds_posterior_means():
    """Of N(m, 2²) at sigma 1: E[x₀ | x] = (4 x + m) / 5; the ends stay as given."""
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    score = GaussianScore(mean, 2.0, sigma=0.5)
    a, b = torch.tensor([[0.0, 0.0], [4.0, 2.0]], dtype=torch.float64)
    frames = interpolate(score, a, b, method="lerp_denoised", frames=3, sigma=1.0).frames[0]
    middle = (4 * (a + b) / 2 + mean) / 5
    torch.testing.assert_close(frames, torch.stack([a, middle, b]))
    assert interpolate(score, a, b, method="lerp_denoised", frames=2).evaluations == 0
    with pytest.raises(ValueError, match="fixed density"):
        interpolate(lambda x: -x, a, b, method="lerp_denoised")
    with pytest.raises(ValueError, match="space"):
        interpolate(score, a, b, method="lerp_denoised", space="ddim")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="stien"),
            ValueError,
            "'stein'",
        ),
        (lambda a, b: interpolate(SphereScore(), a, b, frames=1), ValueError, "frames"),
        (lambda a, b: interpolate(SphereScore(), a, a), ValueError, "equal"),
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="lerp", lam=3.0),
            TypeError,
            "lam",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="density", lam=3.0),
            TypeError,
            "lam .* 'stein'",
        ),
        (lambda a, b: interpolate(SphereScore(), a, b, pionts=9), TypeError, "'points'"),
        (lambda a, b: extrapolate(SphereScore(), a, b, stesp=9), TypeError, "'steps'"),
        (
            lambda a, b: extrapolate(SphereScore(), a, b, method="guided_walk", lam=9.0),
            TypeError,
            "lam",
        ),
        (lambda a, b: interpolate(SphereScore(), a, b, sigma=-1.0), ValueError, "sigma"),
        (lambda a, b: interpolate("model", a, b), TypeError, "callable"),
        (lambda a, b: interpolate(SphereScore(), a, b, space="noise"), ValueError, "space"),
        (
            lambda a, b: interpolate(SphereScore(), a, b, space="ddim", flow_steps=1),
            ValueError,
            "flow_steps",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, space="ddim", flow_method="euler"),
            ValueError,
            "flow_method",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, space="ddim", sigma=0.0),
            ValueError,
            "sigma",
        ),
        (
            lambda a, b: interpolate(lambda x: -x, a, b, space="shared_noise"),
            ValueError,
            "one fixed density",
        ),
        (
            lambda a, b: interpolate(lambda x: -x, a, b, method="ddim_slerp"),
            ValueError,
            "one fixed density",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="ddim_slerp", space="clean"),
            ValueError,
            "space=",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="ddim_slerp", lam=2.0),
            TypeError,
            "lam",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, method="spacetime", space="ddim"),
            ValueError,
            "space=",
        ),
        (
            lambda a, b: interpolate(
                SphereScore(), a, b, space="ddim", sigma=0.5, noise_levels=(0.6, 0.4)
            ),
            ValueError,
            "below",
        ),
        (
            lambda a, b: interpolate(SphereScore(), a, b, space="ddim", init=a[:, :2]),
            ValueError,
            "init",
        ),
        (lambda a, b: extrapolate(SphereScore(), a, 0 * b), ValueError, "zero"),
        (lambda a, b: extrapolate(SphereScore(), a, 0 * b, space="ddim"), ValueError, "zero"),
        (
            lambda a, b: extrapolate(SphereScore(), a, b, space="clear"),
            ValueError,
            "'clean'",
        ),
        (
            lambda a, b: extrapolate(lambda x: -x, a, b, space="shared_noise"),
            ValueError,
            "one fixed density",
        ),
        (
            lambda a, b: extrapolate(SphereScore(), a, b, method="georce"),
            ValueError,
            "method",
        ),
        (lambda a, b: extrapolate(SphereScore(), a, b[:, :2]), ValueError, "shape"),
        (
            lambda a, b: extrapolate(lambda x: -x, a, b, method="guided_walk"),
            ValueError,
            "noise level",
        ),
        (
            lambda a, b: extrapolate(SphereScore(), a, 0 * b, method="guided_walk"),
            ValueError,
            "zero",
        ),
        (
            lambda a, b: extrapolate(SphereScore(), a, b, method="straight", time=math.nan),
            ValueError,
            "time",
        ),
        (
            lambda a, b: extrapolate(
                FunctionScore(lambda x, s: x * math.nan, sigma=0.1), a, b, method="guided_walk"
            ),
            ValueError,
            "NaN",
        ),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, error, message):
    with pytest.raises(error, match=message):
        call(*ends())


def network_and_ends(pairs=2):
    """A Gaussian "network" on images (1, 3, 4) and draws from its data."""
    score, g = gaussian_denoiser(), torch.Generator().manual_seed(0)
    mean, std = moments(score)
    return score, *(mean + std * torch.randn(2, pairs, *EVENT, generator=g, dtype=torch.float64))


QUICK = {
    "stein": dict(lam=1.0),
    "azeglio2025": dict(solver=Relaxation(optimizer="adam", derivative="frozen", max_iter=30)),
    "jacobian": dict(solver=Relaxation(optimizer="adam", max_iter=30)),
    "georce": dict(lam=0.01, points=9),
    "spacetime": dict(points=7),
    "shooting": dict(lam=0.01, points=9, max_iter=10),
}
PIPELINES = {
    "azeglio2025": "shared_noise",
    "yu2025": "ddim",
    "jacobian": "ddim",
    "shared_noise_lerp": "shared_noise",
    "shared_noise_slerp": "shared_noise",
    "ddim_slerp": "ddim",
    "noisediffusion": "ddim",
}


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@pytest.mark.parametrize("method", [*METHODS, *baselines.INTERPOLATIONS])
def test_every_method_runs_its_pipeline_on_a_network_and_a_batch_is_its_pairs_one_by_one(method):
    score, start, end = network_and_ends()
    settings = dict(method=method, frames=5, flow_steps=12, **QUICK.get(method, {}))
    both = interpolate(score, start, end, **settings)
    single = interpolate(score, start[1], end[1], **settings)
    assert both.frames.shape == (2, 5, *EVENT)
    assert torch.isfinite(both.frames).all()
    torch.testing.assert_close(both.frames[1:], single.frames, atol=1e-6, rtol=0)

    space = PIPELINES.get(method, "clean")
    assert both.settings["space"] == space
    assert both.settings["ends"] == ("given" if space == "clean" else "reconstructed")
    evaluations = {"clean": 0, "shared_noise": 2 * 5 * 12, "ddim": 2 * 5 * 12 + 2 * 2 * 11}[space]
    if both.path is not None:
        evaluations += both.path.score_evaluations
    if method == "lerp_denoised":
        evaluations += 2 * 3
    assert both.evaluations == evaluations
    if space == "clean":
        torch.testing.assert_close(both.frames[:, 0], start, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@pytest.mark.parametrize("space", ["shared_noise", "ddim"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "spacetime"] + ["lerp", "slerp"])
def test_every_method_works_in_both_noised_spaces_of_a_closed_form(method, space):
    score = GaussianScore(torch.tensor([1.0, 0.5]).double(), 0.7, sigma=0.3)
    start, end = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[1.9, 1.2]]).double()
    settings = dict(frames=3, flow_steps=5, **QUICK.get(method, {}))
    result = interpolate(score, start, end, method=method, space=space, sigma=0.5, **settings)
    assert result.frames.shape == (1, 3, 2) and torch.isfinite(result.frames).all()
    assert result.settings["space"] == space and result.settings["sigma"] == 0.5


def test_paper_a_starts_from_the_same_noise_at_t_400_in_variance_preserving_coordinates():
    score, start, end = network_and_ends()
    noise = torch.randn(EVENT, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    solver = Relaxation(optimizer="adam", derivative="frozen", max_iter=2)
    with pytest.warns(ConvergenceWarning):
        path = interpolate(score, start, end, method="azeglio2025", seed=7, solver=solver).path
    alpha_bar = score.scheduler.alphas_cumprod[400].double()
    for x, z in ((start, path.points[:, 0]), (end, path.points[:, -1])):
        by_hand = alpha_bar.sqrt() * (2 * x - 1) + (1 - alpha_bar).sqrt() * noise
        torch.testing.assert_close(z, by_hand, atol=1e-6, rtol=0)
    assert path.settings["metric"] == "stein(lam=1000, alpha=0)"
    assert path.points.shape[1] == 10


def test_lam_of_the_noised_space_is_lam_over_alpha_bar_and_the_pixel_scale_squared():
    score, start, end = network_and_ends()
    sigma = 0.6
    lam = 3.0
    alpha_bar = 1 / (1 + (2 * sigma) ** 2)
    noise = torch.randn(EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = dict(lam=lam, points=9, frames=9, tol=1e-12)
    ours = interpolate(
        score, start, end, method="stein", space="shared_noise", sigma=sigma, **settings
    )
    metric = SteinMetric(score.at(sigma), lam=lam / (alpha_bar * 4))
    pixels = geodesic(metric, start + sigma * noise, end + sigma * noise, points=9, tol=1e-12)
    torch.testing.assert_close(ours.path.energy, alpha_bar * 4 * pixels.energy, rtol=1e-8, atol=0)
    decoded = VariancePreservingScore(metric.score).decode(ours.path.points)
    torch.testing.assert_close(decoded, pixels.points, atol=1e-5, rtol=0)
    shown = flow.denoise(score, pixels.points.flatten(0, 1), sigma, steps=30)
    torch.testing.assert_close(ours.frames.flatten(0, 1), shown, atol=1e-5, rtol=0)


def test_a_line_through_inverted_ends_of_a_gaussian_comes_back_as_the_line():
    score, start, end = network_and_ends()
    result = interpolate(
        score,
        start,
        end,
        method="lerp",
        space="ddim",
        sigma=1.0,
        flow_steps=150,
        flow_method="heun",
        frames=5,
    )
    torch.testing.assert_close(result.frames, paths.lerp(start, end, 5), atol=2e-3, rtol=0)


@pytest.mark.parametrize("space", ["shared_noise", "ddim"])
def test_a_velocity_is_carried_into_a_noised_space(space):
    """Of a Gaussian the flow is linear: a line comes back as the line, with the velocity given."""
    score, start, end = network_and_ends()
    common = dict(
        method="straight",
        space=space,
        sigma=1.0,
        flow_steps=150,
        flow_method="heun",
        frames=5,
        time=2.0,
    )
    ahead = extrapolate(score, start, end - start, **common).frames
    moved = (ahead[:, -1] - ahead[:, 0]) / (2 * (end - start))
    if space == "ddim":
        torch.testing.assert_close(ahead, paths.lerp(start, 2 * end - start, 5), atol=4e-3, rtol=0)
        expected = torch.ones_like(moved)
    else:
        assert (ahead[:, 0] - start).abs().max() > 0.05
        # The flow from sigma 1 to 0 shrinks each coordinate by this factor.
        std = moments(score)[1]
        expected = (std / (std**2 + 1.0).sqrt()).expand_as(moved)
    torch.testing.assert_close(moved, expected, rtol=1e-2, atol=0)


def test_ddim_slerp_is_a_great_circle_in_the_model_s_coordinates():
    """Against z = √ᾱ y by hand; in pixels, whose origin is black, the arc is another one."""
    score, start, end = network_and_ends()
    sigma = flow.noise_at(score, 1.0)
    noisy = [flow.diffuse(score, x, sigma) for x in (start, end)]
    arc = (paths.slerp(*(2 * x - 1 for x in noisy), 5) + 1) / 2
    shown = flow.denoise(score, arc.flatten(0, 1), sigma)
    frames = interpolate(score, start, end, method="ddim_slerp", frames=5).frames
    torch.testing.assert_close(frames.flatten(0, 1), shown, atol=1e-8, rtol=0)


def test_noisediffusion_by_hand():
    a = torch.tensor([[3.0, 1.0]])
    b = torch.tensor([[-1.0, 2.5]])
    clean_a = torch.tensor([[0.5, 0.0]])
    clean_b = torch.tensor([[0.0, 1.0]])
    z = baselines.noisediffusion(a, b, 3, clean_a, clean_b)
    # a is clipped to 2 before it is mixed, and what would be 2.4 afterwards.
    half = math.sqrt(0.5)
    middle = torch.tensor([half * (2 - 1) + (0.6 - half) * 0.5, 2.0])
    torch.testing.assert_close(z[0, 1], middle)
    torch.testing.assert_close(z[0, [0, 2]], torch.tensor([[2.0, 1.0], [-1.0, 2.0]]))


def test_points_and_levels_among_the_settings_are_those_of_the_clean_space():
    score, start, end = network_and_ends()
    common = dict(method="stein", space="ddim", sigma=0.5, lam=1.0, points=9, flow_steps=10)
    line = paths.lerp(start, end, 9)
    plain = interpolate(score, start, end, init=line, noise_levels=(1.0, 0.5), **common)
    unit = 2 / math.sqrt(1 + (2 * 0.5) ** 2)
    assert plain.path.settings["noise_levels"] == pytest.approx([unit, unit / 2])
    assert plain.path.converged.all()
    g = torch.Generator().manual_seed(1)
    mean, std = moments(score)
    samples = mean + std * torch.randn(60, *EVENT, generator=g, dtype=torch.float64)
    graph = interpolate(score, start, end, init="graph", samples=samples, **common)
    torch.testing.assert_close(graph.path.energy, plain.path.energy, rtol=0.05, atol=0)


@pytest.mark.parametrize("space", ["clean", "ddim"])
def test_a_portfolio_is_a_solver_in_every_space(space):
    score, start, end = network_and_ends()
    result = interpolate(
        score,
        start,
        end,
        method="stein",
        space=space,
        sigma=0.5,
        lam=1.0,
        points=9,
        solver=Portfolio(starts=2),
        noise_levels=(1.0, 0.7, 0.5),
        flow_steps=10,
        frames=5,
    )
    assert result.path.converged.all()
    assert result.settings["starts"] == 2
    assert "energies" in result.path.history[-1]


def test_not_converged_is_a_warning():
    with pytest.warns(ConvergenceWarning):
        interpolate(SphereScore(), *ends(), max_iter=1)
