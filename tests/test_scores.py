"""Scores against the gradient of their own log-density, and against what is known of the shape."""

import math

import pytest
import torch

from lib.scores import (
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    GaussianScore,
    SphereScore,
    as_score,
    circle,
    curve,
    helix,
    helix_point,
    torus,
)


def mixture(sigma=0.0):
    g = torch.Generator().manual_seed(1)
    means = torch.randn(4, 3, generator=g, dtype=torch.float64)
    roots = torch.randn(4, 3, 3, generator=g, dtype=torch.float64)
    return GaussianMixtureScore(
        means,
        roots @ roots.mT + 0.1 * torch.eye(3),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        sigma=sigma,
    )


def data(m=50, shape=(3,)):
    return torch.randn(m, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


SCORES = {
    "sphere": lambda: SphereScore(1.3, 0.3),
    "circle": lambda: circle(1.2, 0.3),
    "torus": lambda: torus(1.0, 0.4, 0.2),
    "helix": lambda: helix(sigma=0.2),
    "gaussian": lambda: GaussianScore(torch.ones(3).double(), 0.7, sigma=0.2),
    "mixture": mixture,
    "noised mixture": lambda: mixture(0.5),
    "empirical": lambda: EmpiricalScore(data(), 0.4),
    "curve": lambda: curve(lambda t: torch.stack([t, t.sin()], -1), (-4.0, 4.0), sigma=0.3),
}


@pytest.mark.parametrize("name", SCORES)
def test_score_is_the_gradient_of_its_log_density(name, generator):
    score = SCORES[name]()
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(score.log_density(x).sum(), x)
    torch.testing.assert_close(score(x.detach()), gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_derivative_is_the_hessian_times_a_vector(name, generator):
    score = SCORES[name]()
    x, v = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    h = 1e-5
    torch.testing.assert_close(
        score.derivative(x, v),
        (score(x + h * v) - score(x - h * v)) / (2 * h),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", SCORES)
def test_dtype_follows_the_input_and_evaluations_are_counted(name, generator):
    score = SCORES[name]()
    x = torch.randn(7, 3, generator=generator)
    assert score(x).dtype == torch.float32
    torch.testing.assert_close(score(x).double(), score(x.double()), rtol=2e-3, atol=2e-3)
    score.derivative(x, x)
    assert (score.counter.evaluations, score.counter.batches, score.counter.derivatives) == (
        21,
        3,
        7,
    )


@pytest.mark.parametrize("name", ["sphere", "gaussian", "empirical"])
def test_one_noise_level_a_point_equals_single_levels_and_shares_the_counter(name, generator):
    score = SCORES[name]()
    x, levels = (
        torch.randn(3, 3, generator=generator, dtype=torch.float64),
        torch.tensor([0.2, 0.5, 1.0]).double(),
    )
    together = score.at(levels)(x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], score.at(float(levels[i]))(x[i : i + 1]))
    assert score.counter.evaluations == 6


def test_mixture_at_a_noise_level_is_the_convolved_mixture():
    noised, by_hand = mixture().at(0.5), mixture()
    covariance = by_hand.axes @ torch.diag_embed(by_hand.variances + 0.25) @ by_hand.axes.mT
    direct = GaussianMixtureScore(by_hand.means, covariance, by_hand.log_weights.exp())
    x = data(5)
    torch.testing.assert_close(noised(x), direct(x))
    torch.testing.assert_close(noised.log_density(x), direct.log_density(x))


def test_empirical_score_equals_a_mixture_of_equal_gaussians():
    points, x = data(30), data(9)
    direct = GaussianMixtureScore(points, 0.3)
    empirical = EmpiricalScore(points, 0.3, chunk=7)
    torch.testing.assert_close(empirical(x), direct(x))
    torch.testing.assert_close(empirical.log_density(x), direct.log_density(x))
    torch.testing.assert_close(empirical.samples, points)


def test_empirical_score_of_one_point_points_at_it_even_far_away():
    point = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x = torch.full((2, 1, 4, 4), 1e3, dtype=torch.float64)
    torch.testing.assert_close(EmpiricalScore(point, 0.1)(x), -x / 0.01)


def test_chunks_do_not_change_images_in_float32():
    images = data(40, (1, 28, 28)).float()
    a, b = EmpiricalScore(images, 5.0, chunk=40), EmpiricalScore(images, 5.0, chunk=6)
    torch.testing.assert_close(a(images[:3]), b(images[:3]), rtol=1e-4, atol=1e-5)


def test_hundred_thousand_images_fit_in_two_gigabytes():
    """Peak resident memory in a process of its own; the data are 0.31 GB of float32."""
    import subprocess
    import sys

    code = (
        "import resource, torch\ntorch.set_num_threads(1)\nfrom lib.scores import EmpiricalScore\n"
        "import_only = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "points = torch.rand(100_000, 784)\nscore = EmpiricalScore(points, 1.0)\ndel points\n"
        "score(torch.rand(33, 784))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - import_only) / 1e6)"
    )
    peak = float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        ).stdout
    )
    assert peak < 2.0, f"{peak:.2f} GB"


@pytest.mark.parametrize("dim", [3, 50, 16384])
def test_circle_in_any_codimension_points_at_the_nearest_point(dim):
    x = torch.zeros(1, dim, dtype=torch.float64)
    x[0, :2], x[0, -1] = torch.tensor([0.6, 0.8]) * 1.5, 0.25 if dim > 2 else 0.0
    expected = torch.zeros_like(x)
    expected[0, :2] = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(circle(1.0, 0.1)(x), (expected - x) / 0.01)


def test_helix_projection_finds_the_nearest_point():
    t = torch.linspace(-6, 6, 25, dtype=torch.float64)
    on = helix_point(t, 5)
    tangent = torch.stack([-t.sin(), t.cos(), torch.full_like(t, 0.25), 0 * t, 0 * t], -1)
    normal = torch.stack([t.cos(), t.sin(), 0 * t, 0 * t + 0.3, 0 * t], -1)
    assert (tangent * normal).sum(-1).abs().max() < 1e-12
    score = helix(sigma=0.1)
    torch.testing.assert_close(score.project(on + 0.2 * normal), on, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        score.distance(on + 0.2 * normal), torch.full_like(t, 0.2 * math.sqrt(1.09))
    )


def test_own_function_is_one_line():
    s = as_score(lambda x: -x)
    torch.testing.assert_close(s(torch.ones(2, 3)), -torch.ones(2, 3))
    assert as_score(s) is s and not s.has_log_density
    with pytest.raises(ValueError, match="no other noise levels"):
        s.at(0.5)
    noisy = FunctionScore(
        lambda x, sigma: -x / sigma**2,
        sigma=1.0,
        log_density=lambda x, sigma: -(x**2).sum(1) / 2 / sigma**2,
    )
    torch.testing.assert_close(noisy.at(0.5)(torch.ones(1, 2)), -4 * torch.ones(1, 2))
    assert noisy.has_log_density


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: SphereScore(sigma=0), ValueError, "sigma"),
        (lambda: SphereScore(sigma=-1.0), ValueError, "sigma"),
        (lambda: SphereScore(radius=float("nan")), ValueError, "radius"),
        (lambda: torus(0.3, 0.4), ValueError, "major > minor"),
        (lambda: curve(lambda t: t[:, None], (1.0, 0.0)), ValueError, "interval"),
        (lambda: EmpiricalScore(torch.zeros(0, 3)), ValueError, "points"),
        (lambda: EmpiricalScore(torch.full((2, 3), math.nan)), ValueError, "NaN"),
        (lambda: EmpiricalScore(torch.zeros(2, 3, dtype=torch.long)), TypeError, "floating"),
        (lambda: EmpiricalScore(torch.zeros(2, 3), chunk=0), ValueError, "chunk"),
        (lambda: GaussianMixtureScore(torch.zeros(3)), ValueError, r"\(k, d\)"),
        (
            lambda: GaussianMixtureScore(torch.zeros(2, 3), weights=torch.tensor([1.0, -1.0])),
            ValueError,
            "weights",
        ),
        (
            lambda: GaussianMixtureScore(torch.zeros(2, 3), -torch.eye(3)),
            ValueError,
            "positive definite",
        ),
        (lambda: GaussianMixtureScore(torch.zeros(2, 3), torch.eye(2)), ValueError, "covariances"),
        (lambda: FunctionScore("no"), TypeError, "callable"),
        (lambda: SphereScore().at(torch.tensor([0.1, -0.1])), ValueError, "minimum"),
        (lambda: SphereScore()(torch.zeros(3)), ValueError, "shape"),
        (lambda: SphereScore()([1.0]), TypeError, "torch.Tensor"),
        (lambda: EmpiricalScore(torch.zeros(2, 3))(torch.zeros(1, 4)), ValueError, "shape"),
        (lambda: as_score(lambda x: x[:, :1])(torch.zeros(2, 3)), ValueError, "keeps the shape"),
        (lambda: as_score(lambda x: 1.0)(torch.zeros(2, 3)), ValueError, "float"),
        (
            lambda: as_score(lambda x: -x).log_density(torch.zeros(2, 3)),
            NotImplementedError,
            "log-density",
        ),
    ],
)
def test_bad_input_is_refused_with_its_reason(make, error, message):
    with pytest.raises(error, match=message):
        make()
