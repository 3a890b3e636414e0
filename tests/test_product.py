"""The product of densities against closed forms."""

import copy

import pytest
import torch

from lib import interpolate
from lib.scores import (
    FunctionScore,
    GaussianMixtureScore,
    GaussianScore,
    ProductScore,
    VariancePreservingScore,
    load,
)


def gaussians(sigma=0.5):
    """Two Gaussians in the plane."""
    first = GaussianScore(torch.tensor([1.0, 0.0]).double(), 0.5, sigma=sigma)
    second = GaussianScore(torch.tensor([-1.0, 2.0]).double(), 2.0, sigma=sigma)
    return first, second


def points(n=6, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8)])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_product_of_two_gaussians_is_the_gaussian_of_their_precisions(weights, sigma):
    first, second = gaussians()
    product = ProductScore([first, second], weights).at(sigma)
    assert product.sigma == sigma
    precisions = [w / (s**2 + sigma**2) for w, s in zip(weights, (0.5, 2.0), strict=True)]
    precision = sum(precisions)
    means = (torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 2.0]).double())
    mean = sum(p * m for p, m in zip(precisions, means, strict=True)) / precision
    x = points()
    v = points(12)[6:]
    torch.testing.assert_close(product(x), precision * (mean - x))
    torch.testing.assert_close(product.denoise(x), x + sigma**2 * precision * (mean - x))
    torch.testing.assert_close(product.derivative(x, v), -precision * v)
    gap = product.log_density(x) + precision * (x - mean).pow(2).sum(1) / 2
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))


def test_score_is_the_gradient_of_the_log_density_of_mixtures():
    first = GaussianMixtureScore(points(3), 0.8)
    second = GaussianMixtureScore(points(8)[4:], 0.6)
    product = ProductScore([first, second])
    x = points().requires_grad_()
    (gradient,) = torch.autograd.grad(product.log_density(x).sum(), x)
    torch.testing.assert_close(product(x.detach()), gradient)


def test_every_point_counts_once_a_factor_whether_or_not_the_counter_is_shared():
    first, second = gaussians()
    product = ProductScore([first, second])
    product(points(6))
    product.at(2.0).derivative(points(5), points(5))
    product.denoise(points(4))
    assert (product.counter.evaluations, product.counter.derivatives) == (20, 10)
    assert (first.counter.evaluations, second.counter.evaluations) == (10, 10)

    sharing = copy.copy(second)
    sharing.counter = first.counter
    product = ProductScore([first, sharing])
    assert product.counter is first.counter
    before = first.counter.evaluations
    VariancePreservingScore(product)(points(3))
    assert first.counter.evaluations - before == 6


def test_two_prompts_of_one_model_make_one_density_that_does_not_move():
    model = load("hands", prompt="two")
    product = ProductScore([model, model.prompted("five")])
    x = torch.randn(2, *model.event_shape, generator=torch.Generator().manual_seed(0))
    mean = (model(x) + model.prompted("five")(x)) / 2
    torch.testing.assert_close(product(x), mean)
    assert not product.moves and product.noise_range == model.noise_range
    assert product.origin == model.origin
    assert [factor["prompt"] for factor in product.settings["product"]] == ["two", "five"]
    result = interpolate(product, x[:1], x[1:], method="ddim_slerp", frames=3, flow_steps=2)
    # inversion and denoising: two steps each way, two factors
    assert result.evaluations == 2 * (2 * 1 + 3 * 2)

    moving = ProductScore([model, model.prompted("two", end_prompt="five")])
    assert moving.moves
    path = moving.along(torch.tensor([0.0, 1.0]))(x)
    middle = (
        model(x) + model.prompted("two", end_prompt="five").along(torch.tensor([0, 1.0]))(x)
    ) / 2
    torch.testing.assert_close(path, middle)


def test_factors_that_do_not_fit_are_refused():
    first, second = gaussians()
    with pytest.raises(ValueError, match="at least one"):
        ProductScore([])
    with pytest.raises(ValueError, match="sum 1"):
        ProductScore([first, second], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"score\.at"):
        ProductScore([first, second.at(1.0)])
    with pytest.raises(ValueError, match="fixed densities"):
        ProductScore([first, FunctionScore(lambda x: -x)])
    with pytest.raises(ValueError, match="event shapes"):
        ProductScore([first, GaussianScore(torch.zeros(3).double(), sigma=0.5)])
