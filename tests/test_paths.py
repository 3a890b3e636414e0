"""Elements, curves and re-sampling against polynomials, circles and each other."""

import math
from itertools import pairwise

import pytest
import torch

from lib import paths
from lib.elements import elements, lagrange
from lib.metrics import DensityMetric, EuclideanMetric, SteinMetric
from lib.scores import FunctionScore, GaussianScore, SphereScore


def points(batch=3, dim=4, seed=0):
    return torch.randn(
        2, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 12, 33])
def test_elements_differentiate_and_integrate_polynomials_of_their_degree(degree, n):
    e = elements(n, degree)
    p = min(
        nodes.shape[1] - 1 for nodes, *_ in e.blocks
    )  # what is left over may make an element of lower degree
    assert p >= min(degree, n - 1, 2) or degree == 1
    t, x = e.times, (e.times**p)[:, None]
    at = e.M @ e.times
    torch.testing.assert_close(e.M @ x, (at**p)[:, None])
    torch.testing.assert_close(e.D @ x, (p * at ** (p - 1))[:, None])
    torch.testing.assert_close(e.w @ at ** (2 * p - 2), torch.tensor(1 / (2 * p - 1)).double())
    assert e.w.numel() == n - 1 and (e.w > 0).all()
    torch.testing.assert_close(
        e.line_integral(t[None, :, None], x[None]), (t ** (p + 1) / (p + 1))[None]
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_lagrange_weights_reproduce_nodes_and_polynomials(n, degree):
    node_times = torch.linspace(0, 1, n, dtype=torch.float64)
    times = torch.cat([torch.linspace(0, 1, 37, dtype=torch.float64), node_times])
    nodes, weights = lagrange(n, times, degree)
    p = min(degree, n - 1, 2)
    torch.testing.assert_close((weights * node_times[nodes] ** p).sum(-1), times**p)
    at_nodes = torch.zeros(n, n).double().scatter_add(1, nodes[37:], weights[37:])
    torch.testing.assert_close(at_nodes, torch.eye(n).double())


def test_lerp_and_slerp_keep_their_ends_and_their_shape():
    a, b = points()
    for path in (paths.lerp(a, b, 7), paths.slerp(a, b, 7)):
        assert path.shape == (3, 7, 4)
        torch.testing.assert_close(path[:, 0], a)
        torch.testing.assert_close(path[:, -1], b)
    image = torch.rand(2, 1, 8, 8)
    assert paths.slerp(image, 1 - image, 5).shape == (2, 5, 1, 8, 8)


def test_slerp_has_constant_angular_speed_and_falls_back_to_lerp():
    a, b = (
        torch.tensor([[1.0, 0, 0]]).double(),
        torch.tensor([[math.cos(2), math.sin(2), 0]]).double(),
    )
    path = paths.slerp(a, b, 9)[0]
    torch.testing.assert_close(path.norm(dim=1), torch.ones(9).double())
    torch.testing.assert_close(
        torch.acos((path[1:] * path[:-1]).sum(1)),
        torch.full((8,), 0.25).double(),
        atol=1e-6,
        rtol=0,
    )
    for other in (2 * a, -a, torch.zeros_like(a)):
        torch.testing.assert_close(paths.slerp(a, other, 5), paths.lerp(a, other, 5))
    tiny = torch.tensor([[1.0, 1e-5, 0]]).double()  # a small angle is still an arc, not a fallback
    torch.testing.assert_close(
        paths.slerp(a, tiny, 3)[0, 1], torch.tensor([1.0, 5e-6, 0]).double(), atol=1e-10, rtol=0
    )


def test_natural_spline_interpolates_with_matching_derivatives():
    knots = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    spline, t = paths.NaturalSpline(knots), torch.linspace(0, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(spline.position(t), knots)
    assert spline.acceleration(torch.tensor([0.0, 1.0])).abs().max() < 1e-9
    h, mid = 1e-5, torch.tensor([0.33, 0.71], dtype=torch.float64)

    def difference(f):
        return (f(mid + h) - f(mid - h)) / (2 * h)

    torch.testing.assert_close(
        difference(spline.position), spline.velocity(mid), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        difference(spline.velocity), spline.acceleration(mid), rtol=1e-6, atol=1e-6
    )


def test_spherical_spline_stays_on_the_sphere_and_its_velocity_is_tangent():
    knots = (
        torch.nn.functional.normalize(
            torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(4)).double(), dim=2
        )
        * 3
    )
    spline, t, h = (
        paths.SphericalSpline(knots),
        torch.tensor([0.1, 0.45, 0.8], dtype=torch.float64),
        1e-6,
    )
    x, v = spline.position(t), spline.velocity(t)
    torch.testing.assert_close(x.norm(dim=2), torch.full((2, 3), 3.0).double())
    assert (x * v).sum(2).abs().max() < 1e-9
    torch.testing.assert_close(
        (spline.position(t + h) - spline.position(t - h)) / (2 * h), v, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(spline.position(torch.linspace(0, 1, 5).double()), knots)


def test_length_of_a_circle_converges_with_fourth_order():
    errors = []
    for n in (9, 17, 33):
        t = torch.linspace(0, 2, n, dtype=torch.float64)
        arc = torch.stack([t.cos(), t.sin()], -1)[None]
        errors.append(abs(float(paths.length(arc)) - 2))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(3.8 < s < 4.3 for s in slopes), slopes


@pytest.mark.parametrize("metric", [None, EuclideanMetric()])
def test_resampling_makes_the_speed_constant_on_the_same_path(metric):
    t = torch.linspace(0, 1, 65, dtype=torch.float64) ** 2
    path = torch.stack([t.cos(), t.sin()], -1)[None]
    even = paths.resample(path, 9, metric)
    torch.testing.assert_close(even.norm(dim=2), torch.ones(1, 9).double(), atol=1e-5, rtol=0)
    chord = (even[:, 1:] - even[:, :-1]).norm(dim=2)
    assert float((chord.amax() - chord.amin()) / chord.mean()) < 1e-2
    assert (even[:, 0] == path[:, 0]).all() and (even[:, -1] == path[:, -1]).all()


def test_length_under_a_metric_on_a_ray_is_the_integral_of_the_density():
    """p = exp(−x), alpha = 1: the ray from 0 to 1 has ∫ e^x dx, f = 0 on average at its ends."""
    metric = DensityMetric(FunctionScore(lambda x: -torch.ones_like(x)), alpha=1.0)
    path = torch.linspace(0, 1, 33, dtype=torch.float64).reshape(1, 33, 1)
    torch.testing.assert_close(
        paths.length(path, metric),
        torch.tensor([(math.e - 1) * math.exp(-0.5)]).double(),
        rtol=1e-6,
        atol=0,
    )


def test_length_under_the_stein_metric_is_that_of_the_graph():
    """G = I + lam s s^T is the metric of the graph of sqrt(lam) f: a parabola for f = −x²/2."""
    metric = SteinMetric(GaussianScore(torch.zeros(1).double()), lam=4.0)
    path = torch.linspace(0, 1, 129, dtype=torch.float64).reshape(1, 129, 1)
    exact = 0.5 * (2 * math.sqrt(5) + math.asinh(2)) / 2  # ∫ sqrt(1 + 4x²) dx over [0, 1]
    torch.testing.assert_close(
        paths.length(path, metric), torch.tensor([exact]).double(), rtol=1e-8, atol=0
    )


def test_path_functions_leave_their_input_alone():
    a, b = points()
    a0, b0 = a.clone(), b.clone()
    paths.resample(paths.slerp(a, b, 9), 5, SteinMetric(SphereScore(), lam=1.0))
    assert torch.equal(a, a0) and torch.equal(b, b0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: elements(1), ValueError, "points"),
        (lambda: elements(9, 5), ValueError, "degree"),
        (lambda: elements(9, 0), ValueError, "degree"),
        (lambda: paths.lerp(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, "shape"),
        (lambda: paths.lerp(torch.zeros(2, 3), torch.zeros(2, 3).double()), TypeError, "dtype"),
        (lambda: paths.slerp(torch.zeros(2, 3), torch.zeros(2, 3), 1), ValueError, "points"),
        (lambda: paths.resample(torch.zeros(1, 5, 2), 1), ValueError, "count"),
    ],
)
def test_bad_input_is_refused_with_its_reason(make, error, message):
    with pytest.raises(error, match=message):
        make()
