"""The probability flow against its closed form for a Gaussian, and diffusers' own DDIM."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler
from networks import gaussian_denoiser, moments
from torch.distributions import MultivariateNormal

from lib import flow
from lib.scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianScore,
    SphereScore,
    VariancePreservingScore,
)
from lib.scores.denoiser import DenoiserScore

MEAN = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)
STD = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.5, 0.4], [0.2, 0.0, 0.8]], dtype=torch.float64)


def gaussian(sigma=0.1):
    return GaussianScore(MEAN, torch.diag(STD**2), sigma=sigma)


def exact(x, low, high, mean=MEAN, std=STD):
    """The flow of a Gaussian: x − mean scales with the standard deviation."""
    return mean + (x - mean) * ((std**2 + high**2) / (std**2 + low**2)).sqrt()


def points(generator, n=5):
    return MEAN + STD * torch.randn(n, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("low, high", [(0.05, 3.0), (3.0, 0.05)])
@pytest.mark.parametrize("method, order", [("ddim", 1), ("heun", 2)])
def test_the_flow_of_a_gaussian_at_the_order_of_its_method(method, order, low, high, generator):
    x, errors = points(generator), []
    for steps in (40, 80, 160):
        levels = torch.linspace(low ** (1 / 7), high ** (1 / 7), steps + 1).double().pow(7).tolist()
        errors.append(
            float((flow.follow(gaussian(), x, levels, method) - exact(x, low, high)).abs().max())
        )
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(s - order) < 0.15 for s in slopes) and errors[-1] < (
        0.05 if order == 1 else 5e-4
    ), (errors, slopes)


def test_diffuse_and_denoise_of_a_network_follow_the_closed_form(generator):
    score = gaussian_denoiser()
    mean, std = moments(score)
    x = mean + std * torch.randn(4, *mean.shape, generator=generator, dtype=torch.float64)
    noisy = flow.diffuse(score, x, 1.0, steps=200, method="heun")
    torch.testing.assert_close(noisy, exact(x, 0, 1.0, mean, std), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        flow.denoise(score, noisy, 1.0, steps=200, method="heun"), x, atol=2e-3, rtol=0
    )


def test_ddim_is_diffusers_ddim(generator):
    score = gaussian_denoiser()
    scheduler = DDIMScheduler(
        prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)
    kept = scheduler.alphas_cumprod[scheduler.timesteps].double()
    y = 2 * torch.rand(3, 1, 3, 4, generator=generator, dtype=torch.float64) - 1
    z = start = y + torch.randn(y.shape, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        z = scheduler.step(score.model(z, t.expand(3).double()).sample.detach(), t, z).prev_sample
    levels = [score.schedule.sigma(float(t)) / 2 for t in scheduler.timesteps] + [0.0]
    ours = flow.follow(score, (start / kept[0].sqrt() + 1) / 2, levels)
    torch.testing.assert_close(
        2 * ours - 1, z, atol=2e-5, rtol=1e-5
    )  # the scheduler's table is float32


def test_samples_have_the_mean_and_covariance_of_the_data(generator):
    score, n = GaussianScore(MEAN, ROOT @ ROOT.T, sigma=1.0), 20_000
    x = flow.sample(score, n, generator, steps=40, sigma=80.0).double()
    torch.testing.assert_close(
        x.mean(0), MEAN, atol=4 * 1.1 / math.sqrt(n) + 0.02, rtol=0
    )  # 4 s.e. + the start's bias
    torch.testing.assert_close(x.T.cov(), ROOT @ ROOT.T, atol=4 * 1.7 / math.sqrt(n), rtol=0.02)


def test_a_model_is_sampled_from_the_top_of_its_noise_range(generator):
    score = gaussian_denoiser()
    mean, std = moments(score)
    x = flow.sample(score, 4000, generator)
    assert x.shape == (4000, 1, 3, 4) and x.dtype == torch.float32
    torch.testing.assert_close(x.double().mean(0), mean, atol=4 * 0.35 / math.sqrt(4000), rtol=0)
    torch.testing.assert_close(
        x.double().std(0), std, atol=0, rtol=4 / math.sqrt(8000) + 0.03
    )  # 4 standard errors, 24 steps
    again = flow.sample(score, 4, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        again, flow.sample(score, 4, torch.Generator().manual_seed(3)), rtol=0, atol=0
    )


def test_karras_levels_are_those_of_the_paper():
    score = gaussian()
    score.noise_range = (0.002, 80.0)
    levels = flow.noise_levels(score, 80.0, 18)
    expected = [
        (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)
    ]
    assert levels == pytest.approx(expected, rel=1e-12) and (levels[0], levels[-1]) == (80.0, 0.002)
    assert flow.noise_levels(gaussian(), 1.0, 1) == [1.0] and flow.noise_levels(
        gaussian(), 1.0, 2
    ) == [1.0, 1e-3]


def test_noise_at_a_time_of_the_model():
    sigma = flow.noise_at(gaussian(), 0.4)
    assert 1 / (1 + sigma**2) == pytest.approx(float(DDPMScheduler().alphas_cumprod[400]), rel=1e-5)
    assert flow.noise_at(gaussian_denoiser(), 0.4) == pytest.approx(sigma / 2)
    assert flow.noise_at(gaussian(), 1.0) == pytest.approx(
        157.4, rel=1e-3
    )  # ᾱ = 4.04e-5 at t = 999
    edm = DenoiserScore(
        torch.nn.Linear(1, 1), EDMEulerScheduler(sigma_max=80.0), event_shape=(1, 2, 2)
    )
    silent = DenoiserScore(
        torch.nn.Linear(1, 1), DDPMScheduler(rescale_betas_zero_snr=True), event_shape=(1, 2, 2)
    )
    assert (
        silent.noise_range[1] > 1e5 and flow.noise_at(silent, 1.0) == 100.0
    )  # no signal left at the top: capped
    assert flow.noise_at(edm, 0.4) == pytest.approx(sigma / 2) and flow.noise_at(
        edm, 1.0
    ) == pytest.approx(40.0)


@pytest.mark.parametrize("method, there, back", [("ddim", 6, 7), ("heun", 12, 13)])
@pytest.mark.parametrize("make", [gaussian, lambda: EmpiricalScore(ROOT)])
def test_every_evaluation_is_counted(make, method, there, back, generator):
    score = make()
    noisy = flow.diffuse(score, points(generator), 1.0, steps=7, method=method)
    assert (score.counter.evaluations, score.counter.batches) == (5 * there, there)
    flow.denoise(score, noisy, 1.0, steps=7, method=method)
    assert (score.counter.evaluations, score.counter.batches) == (5 * (there + back), there + back)


def test_the_caller_s_points_stay_and_no_graph_is_made(generator):
    x = points(generator).requires_grad_()
    before, state = x.detach().clone(), torch.get_rng_state()
    noisy = flow.diffuse(gaussian(), x, 1.0)
    assert (
        not noisy.requires_grad
        and bool((x.detach() == before).all())
        and bool((torch.get_rng_state() == state).all())
    )
    torch.testing.assert_close(flow.diffuse(gaussian(), x[0], 1.0)[0], noisy[0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: flow.diffuse(gaussian(), x, 1.0, steps=1), ValueError, "steps"),
        (lambda x: flow.diffuse(gaussian(), x, -1.0), ValueError, "sigma"),
        (lambda x: flow.diffuse(gaussian(), x, 1.0, method="euler"), ValueError, "ddim, heun"),
        (
            lambda x: flow.denoise(gaussian_denoiser(), x.new_zeros(1, 1, 3, 4), 1e-4),
            ValueError,
            "above the lowest",
        ),
        (lambda x: flow.denoise(gaussian(), x * math.nan, 0.1), ValueError, "NaN"),
        (
            lambda x: flow.denoise(FunctionScore(lambda x: -x), x, 0.1),
            ValueError,
            "no other noise levels",
        ),
        (
            lambda x: flow.denoise(FunctionScore(lambda x, s: x * math.inf, sigma=1.0), x, 0.1),
            ArithmeticError,
            "more steps",
        ),
        (
            lambda x: flow.denoise(gaussian_denoiser(), x.new_zeros(1, 1, 3, 4), 100.0),
            ValueError,
            "trained for",
        ),
        (lambda x: flow.sample(gaussian(), 3, torch.Generator()), ValueError, "noise_range"),
        (
            lambda x: flow.sample(SphereScore(), 3, torch.Generator(), sigma=1.0),
            ValueError,
            "event_shape",
        ),
        (lambda x: flow.noise_at(gaussian(), 400), ValueError, "fraction"),
        (
            lambda x: VariancePreservingScore(FunctionScore(lambda x: -x)),
            ValueError,
            "one noise level",
        ),
        (
            lambda x: VariancePreservingScore(gaussian().at(torch.ones(5))),
            ValueError,
            "one noise level",
        ),
        (lambda x: VariancePreservingScore(gaussian(0.0)), ValueError, "sigma"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, error, message, generator):
    with pytest.raises(error, match=message):
        call(points(generator))


@pytest.mark.parametrize("level", [None, 0.7])
def test_variance_preserving_score_of_a_gaussian(level, generator):
    """z ~ N(√ᾱ (scale·mean + shift), ᾱ scale² covariance + (1 − ᾱ) I)."""
    vp = VariancePreservingScore(GaussianScore(MEAN, ROOT @ ROOT.T, sigma=0.6), 2.0, -1.0)
    kept = 1 / (1 + 1.2**2)
    assert vp.alpha_bar == pytest.approx(kept) and vp.sigma == pytest.approx(math.sqrt(1 - kept))
    vp = vp if level is None else vp.at(level)
    centre, spread = math.sqrt(kept) * (2 * MEAN - 1), 4 * kept * ROOT @ ROOT.T
    law = MultivariateNormal(centre, spread + vp.sigma**2 * torch.eye(3).double())
    z, v = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(vp.log_density(z), law.log_prob(z))
    torch.testing.assert_close(vp(z), -(z - centre) @ law.precision_matrix)
    torch.testing.assert_close(vp.derivative(z, v), -v @ law.precision_matrix)
    torch.testing.assert_close(vp.denoise(z), centre + (z - centre) @ law.precision_matrix @ spread)
    torch.testing.assert_close(vp.decode(vp.encode(z)), z)
    assert (vp.score.counter.evaluations, vp.counter.derivatives) == (12, 6) and vp.has_log_density


def test_a_network_s_variance_preserving_score_takes_its_scale_and_shift(generator):
    score = gaussian_denoiser(sigma=0.4)
    vp = VariancePreservingScore(score)
    z, kept = torch.randn(3, 1, 3, 4, generator=generator, dtype=torch.float64), 1 / (1 + 0.8**2)
    mean, variance = math.sqrt(kept) * score.model.mean, kept * score.model.std**2 + 1 - kept
    torch.testing.assert_close(vp(z), (-(z - mean) / variance).detach())
    x = torch.rand(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(vp.encode(x), math.sqrt(kept) * (2 * x - 1))
