"""Log-densities against mixtures and data sets whose log-density is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from lib.density import along_path, log_density
from lib.divergence import basis, curl, quadratic_forms, rademacher
from lib.scores import EmpiricalScore, FunctionScore, GaussianMixtureScore, GaussianScore

D = 4


@pytest.fixture
def mixture(generator):
    return GaussianMixtureScore(
        torch.randn(3, D, dtype=torch.float64, generator=generator), 0.6, sigma=0.1
    )


@pytest.fixture
def prior(mixture):
    """Mean and variance of the mixture: the Gaussian that it tends to under noise."""
    return mixture.means.mean(0), 0.36 + mixture.means.var(0, unbiased=False)


@pytest.fixture
def x(generator):
    return torch.randn(6, D, dtype=torch.float64, generator=generator)


def test_along_path_is_the_difference_of_log_densities(mixture, x):
    t = torch.linspace(0, 1, 65, dtype=torch.float64)[None, :, None]
    paths = x[:3, None] * (1 - t) + x[3:, None] * t + (math.pi * t).sin()
    exact = mixture.log_density(paths.flatten(0, 1)).reshape(3, 65)
    before = mixture.counter.batches
    assert (along_path(mixture, paths) - (exact - exact[:, :1])).abs().max() < 1e-4
    assert mixture.counter.batches == before + 1


@pytest.mark.parametrize("degree, order", [(1, 2), (2, 4), (4, 6)])
def test_along_path_has_the_order_of_its_degree(mixture, x, degree, order):
    def error(points):
        t = torch.linspace(0, 1, points, dtype=torch.float64)[None, :, None]
        paths = x[:3, None] * (1 - t) + x[3:, None] * t + (math.pi * t).sin()
        ends = mixture.log_density(paths[:, -1]) - mixture.log_density(paths[:, 0])
        return (along_path(mixture, paths, degree)[:, -1] - ends).abs().max()

    assert abs(math.log2(error(65) / error(129)) - order) < 0.3


def test_along_path_takes_a_function_and_is_exact_for_a_gaussian(x):
    """A linear score on straight paths: the quadrature has no error, from three points on."""
    t = torch.linspace(0, 1, 3, dtype=torch.float64)[None, :, None]
    paths = x[:3, None] * (1 - t) + x[3:, None] * t
    exact = -(paths**2).sum(2) / 2
    assert torch.allclose(along_path(lambda y: -y, paths), exact - exact[:, :1])


def test_log_density_of_a_mixture(mixture, prior, x):
    result = log_density(mixture, x, sigma_max=200.0, prior=prior)
    assert (result.value - mixture.log_density(x)).abs().max() < 2e-3
    assert bool((result.standard_error == 0).all())
    assert result.score_evaluations == 6 * 400 and result.derivative_evaluations == 6 * D * 400


def test_rk4_has_order_four(mixture, prior, x):
    values = [
        log_density(mixture, x, sigma_max=20.0, prior=prior, steps=n).value for n in (30, 60, 120)
    ]
    order = math.log2((values[0] - values[1]).norm() / (values[1] - values[2]).norm())
    assert 3.5 < order < 4.5


def test_error_of_the_default_prior_falls_as_promised(mixture, x):
    levels, truth = (10.0, 20.0, 40.0), mixture.log_density(x)
    errors = [
        float((log_density(mixture, x, sigma_max=s, steps=60).value - truth).abs().max())
        for s in levels
    ]
    # The mean that N(0, sigma_max²) leaves out costs x·mean/sigma_max², and x ~ sigma_max there.
    assert errors[0] < 1 and all(0.4 < b / a < 0.6 for a, b in pairwise(errors)), errors


def test_gaussian_prior_is_exact_for_a_gaussian(x):
    """With the right prior no truncation is left, whatever sigma_max."""
    score = GaussianScore(torch.full((D,), 0.3, dtype=torch.float64), 0.7, sigma=0.2)
    result = log_density(score, x, sigma_max=1.0, prior=(0.3, 0.49), steps=60)
    assert (result.value - score.log_density(x)).abs().max() < 1e-6


def test_other_lower_noise_level(mixture, prior, x):
    result = log_density(mixture, x, sigma_min=0.5, sigma_max=200.0, prior=prior)
    assert (result.value - mixture.at(0.5).log_density(x)).abs().max() < 2e-3


def test_data_set(generator):
    score = EmpiricalScore(torch.randn(50, 2, dtype=torch.float64, generator=generator), sigma=0.3)
    x, data = (
        torch.randn(6, 2, dtype=torch.float64, generator=generator),
        score.points + score.centre,
    )
    result = log_density(
        score, x, sigma_max=80.0, prior=(data.mean(0), data.var(0, unbiased=False))
    )
    assert (result.value - score.log_density(x)).abs().max() < 1e-3
    image = EmpiricalScore(data.reshape(50, 1, 1, 2), sigma=0.3)
    shaped = log_density(image, x.reshape(6, 1, 1, 2), sigma_max=80.0, steps=20)
    assert torch.allclose(shaped.value, log_density(score, x, sigma_max=80.0, steps=20).value)


def test_the_standard_error_covers(mixture, prior, x):
    """Over 16 draws of 16 probes 93.6% of the errors lie within two standard errors (Student)."""
    truth, inside = log_density(mixture, x, sigma_max=50.0, prior=prior, steps=25).value, []
    for seed in range(16):
        draw = torch.Generator().manual_seed(seed)
        result = log_density(
            mixture,
            x,
            sigma_max=50.0,
            prior=prior,
            steps=25,
            probes=16,
            generator=draw,
        )
        assert bool((result.standard_error > 0).all())
        inside.append((result.value - truth).abs() < 2 * result.standard_error)
    assert 0.85 < float(torch.stack(inside).double().mean()) < 1.0


def test_probes_fall_as_their_root_and_repeat(mixture, x):
    settings = {"sigma_max": 20.0, "steps": 20}
    few, many = (log_density(mixture, x, probes=n, **settings) for n in (32, 512))
    assert abs(float((few.standard_error / many.standard_error).mean()) - 4) < 1.5
    assert torch.equal(few.value, log_density(mixture, x, probes=32, **settings).value)


def test_differences_are_paired_over_the_same_probes(mixture, x):
    near = torch.cat(
        [x[:1], x[:1] + 1e-3]
    )  # almost the same point: almost the same error of every probe
    found = log_density(mixture, near, sigma_max=20.0, steps=20, probes=16)
    torch.testing.assert_close(found.by_probe.mean(1), found.value)
    torch.testing.assert_close(found.by_probe.std(1) / 4, found.standard_error)
    paired = (found.by_probe[1] - found.by_probe[0]).std() / 4
    assert found.by_probe.shape == (2, 16) and paired < 0.02 * found.standard_error.min()
    assert log_density(mixture, x, sigma_max=20.0, steps=20).by_probe.shape == (len(x), 1)


@pytest.mark.parametrize("probes", [None, 16])
def test_batch_is_one_by_one(mixture, x, probes):
    settings = {"sigma_max": 20.0, "steps": 20, "probes": probes}
    both = log_density(mixture, x, **settings)
    for i in range(3):
        one = log_density(mixture, x[i], **settings)
        assert torch.allclose(one.value[0], both.value[i], atol=1e-10)
        assert torch.allclose(one.standard_error[0], both.standard_error[i], atol=1e-10)


def test_float32(mixture, prior, x):
    low, high = (log_density(mixture, y, sigma_max=50.0, prior=prior) for y in (x.float(), x))
    assert low.value.dtype == torch.float32 and (low.value - high.value).abs().max() < 1e-2


def test_quadratic_forms_are_those_of_the_jacobian(mixture, x, generator):
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: mixture.evaluate(y[None])[0]))(x)
    signs = rademacher(5, (D,), generator)
    assert torch.allclose(
        quadratic_forms(mixture, x, signs), torch.einsum("ki,nij,kj->kn", signs, jacobian, signs)
    )
    assert torch.allclose(
        quadratic_forms(mixture, x, basis((D,))).sum(0), jacobian.diagonal(dim1=1, dim2=2).sum(1)
    )


def test_no_global_seed_is_touched(mixture, x):
    state = torch.get_rng_state()
    log_density(mixture, x, sigma_max=2.0, steps=2, probes=16)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sigma_max": 0.05}, "above sigma_min"),
        ({"sigma_max": math.inf}, "sigma_max must be"),
        ({"sigma_min": 0.0}, "sigma_min must be"),
        ({"steps": 0}, "steps must be"),
        ({"probes": 1}, "probes must be"),
        ({"prior": (0.0, -1.0)}, "prior must be"),
    ],
)
def test_bad_settings(mixture, x, settings, message):
    with pytest.raises(ValueError, match=message):
        log_density(mixture, x, **({"sigma_max": 10.0} | settings))


def test_bad_points_and_scores(mixture, x):
    with pytest.raises(ValueError, match="NaN"):
        log_density(mixture, x * math.nan, sigma_max=10.0)
    with pytest.raises(ValueError, match="the score takes"):
        log_density(mixture, x[:, :2], sigma_max=10.0)
    with pytest.raises(TypeError, match="knows noise levels"):
        log_density(FunctionScore(lambda y: -y), x, sigma_max=10.0)
    with pytest.raises(ArithmeticError, match="NaN or infinity"):
        log_density(FunctionScore(lambda y, sigma: y * math.nan, sigma=0.1), x, sigma_max=10.0)
    with pytest.raises(ValueError, match="points must have shape"):
        along_path(mixture, x)


def test_an_image_is_no_case_for_the_exact_divergence():
    """By default 16 derivatives a point and stage in 256 dimensions, and 4 in 4."""
    settings = {"sigma_max": 2.0, "steps": 2}
    wide = log_density(GaussianScore(torch.zeros(256), 1.0, sigma=1.0), torch.ones(256), **settings)
    assert wide.by_probe.shape == (1, 16)
    narrow = log_density(GaussianScore(torch.zeros(4), 1.0, sigma=1.0), torch.ones(4), **settings)
    assert narrow.by_probe.shape == (1, 1)


def test_curl_is_the_antisymmetric_share_of_the_jacobian(generator):
    """Known for a linear field, and zero for the score of any density."""
    matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    expected = (v @ (matrix.T - matrix)).norm(dim=1) / (v @ (matrix.T + matrix)).norm(dim=1)
    torch.testing.assert_close(curl(FunctionScore(lambda x: x @ matrix.T), x, v), expected)
    points = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    assert float(curl(EmpiricalScore(points, sigma=0.7), x, v).max()) < 1e-12
