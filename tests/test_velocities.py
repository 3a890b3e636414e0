"""Velocities against closed forms: posterior covariance, lines and circles, two denoisers."""

import math

import pytest
import torch
from pipelines import pipeline

from lib import GaussianScore, SphereScore, paths
from lib.scores import FunctionScore, PipelineScore
from lib.velocities import along_data, at_length, beyond, towards, white

SCORE = PipelineScore(pipeline(), "a cat", sigma=2.0)


def latents(n=2, seed=0):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rounds", [1, 3])
def test_along_data_is_the_posterior_covariance_of_a_gaussian(rounds, generator):
    """Cov[x_0 | x] = (C^-1 + I/sigma²)^-1 for x_0 ~ N(0, C)."""
    a = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    covariance, sigma = a @ a.T + 0.1 * torch.eye(4).double(), 0.7
    score = GaussianScore(torch.zeros(4).double(), covariance).at(sigma)
    x, v = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    jacobian = (
        torch.linalg.inv(torch.linalg.inv(covariance) + torch.eye(4).double() / sigma**2) / sigma**2
    )
    torch.testing.assert_close(
        along_data(score, x, v, rounds=rounds), v @ torch.linalg.matrix_power(jacobian, rounds)
    )


def test_along_data_keeps_the_tangent_of_a_sphere_and_not_its_normal():
    x = torch.tensor([[1.0, 0.0, 0.0]]).double()
    tangent, normal = torch.tensor([[0.0, 1.0, 0.0]]).double(), x
    score = SphereScore(sigma=0.1)
    assert along_data(score, x, normal).norm() < 1e-10
    torch.testing.assert_close(along_data(score, x, tangent), tangent)


def test_beyond_goes_on_along_lines_and_circles():
    a, b = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[2.0, 0.0]]).double()
    torch.testing.assert_close(beyond(paths.lerp(a, b, 5)), b - a)
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    circle = torch.stack([t.cos(), t.sin()], 1)[None]
    torch.testing.assert_close(
        beyond(circle), torch.tensor([[-math.sin(1), math.cos(1)]]).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(beyond(paths.lerp(a, b, 2)), b - a)


def test_towards_is_the_mean_difference_of_two_denoised_estimates():
    x, g = latents(), torch.Generator().manual_seed(3)
    noises = torch.randn(2, 4, 8, 8, generator=g, dtype=torch.float64).float()
    other = SCORE.prompted("hat")
    wanted = (
        sum(4.0 * (other(x + 2 * n) - SCORE(x + 2 * n)) for n in noises) / 2
    )  # sigma² times the difference of scores
    found = towards(SCORE, x, "hat", draws=2, seed=3)
    assert wanted.norm() > 0 and (found - wanted).norm() < 1e-2 * wanted.norm()
    torch.testing.assert_close(
        towards(SCORE, x, ["hat", "tin"], draws=2, seed=3)[:1], found[:1], rtol=1e-3, atol=1e-4
    )
    assert towards(SCORE, x, "a cat").abs().max() == 0 and not found.requires_grad


def test_white_noise_and_lengths(generator):
    x = latents(50)
    v = white(x, generator)
    assert (
        v.dtype == x.dtype and abs(v.std().item() - 1) < 0.02 and abs(v.mean().item()) < 0.03
    )  # 12,800 draws
    norms = torch.arange(1.0, 51.0)
    torch.testing.assert_close(at_length(v, norms).flatten(1).norm(dim=1), norms)
    torch.testing.assert_close(at_length(v, 3.0)[7], at_length(v[7:8], 3.0)[0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: at_length(0 * latents(), 1.0), r"zero in row\(s\) \[0, 1\]"),
        (
            lambda: along_data(FunctionScore(lambda x: -x), torch.ones(1, 2), torch.ones(1, 2)),
            "needs a noise level",
        ),
        (lambda: along_data(SCORE, latents(), latents(1)), "differ in shape"),
        (lambda: along_data(SCORE, latents(), latents(), rounds=0), "rounds"),
        (lambda: towards(SCORE, latents(), "hat", draws=0), "draws"),
        (lambda: towards(SCORE, latents()[..., :2], "hat"), "x has shape"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
