"""Everything runs on a device without float64 (MPS), played by the CPU."""

import pytest
import torch
from families import family
from stand_in import NoFloat64, on

from lib import (
    METHODS,
    SOLVERS,
    DensityMetric,
    FunctionScore,
    SteinMetric,
    distance,
    extrapolate,
    flow,
    geodesic,
    interpolate,
    latents,
    shoot,
)
from lib.density import along_path, log_density
from lib.methods.baselines import INTERPOLATIONS
from lib.scores import from_pipeline

pytestmark = pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")


def ring(x, sigma):
    """The score of a ring of radius 1, blurred."""
    r = x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
    return (x / r - x) / (0.1 + sigma**2)


def score():
    return FunctionScore(ring, sigma=0.5)


@pytest.fixture
def ends():
    return on(torch.tensor([[1.0, 0.1]])), on(torch.tensor([[-0.3, 0.9]]))


@pytest.fixture(autouse=True)
def device():
    with NoFloat64():
        yield


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver(solver, ends):
    metric = (DensityMetric if solver == "functional_gradient" else SteinMetric)(score())
    levels = (1.0,) if solver == "portfolio" else None
    path = geodesic(metric, *ends, points=5, solver=solver, noise_levels=levels, max_iter=3)
    assert path.points.dtype == torch.float32
    assert bool(torch.isfinite(path.length).all())
    assert path.resample(5).shape == (1, 5, 2)


@pytest.mark.parametrize("init", ["slerp", "graph"])
def test_every_start(init, ends):
    samples = on(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)))
    more = {"samples": samples} if init == "graph" else {}
    path = geodesic(SteinMetric(score()), *ends, points=5, init=init, noise_levels=(1.0,), **more)
    assert path.points.dtype == torch.float32


@pytest.mark.parametrize("method", [*METHODS, *INTERPOLATIONS])
def test_every_method(method, ends):
    few = {"max_iter": 2, "points": 5} if method in METHODS else {}
    made = interpolate(score(), *ends, method=method, frames=3, **few)
    assert made.frames.dtype == torch.float32


def test_paths_from_one_end_and_densities(ends, generator):
    start, end = ends
    for made in (
        shoot(DensityMetric(score(), 0.1), start, end - start, steps=2).points,
        extrapolate(score(), start, end - start, method="stein", steps=2, frames=3).frames,
        distance(SteinMetric(score()), start, end),
        flow.denoise(score(), start, 1.0, steps=2),
        log_density(score(), start, sigma_max=5.0, steps=2).value,
        along_path(score(), torch.stack([start, end], 1)),
    ):
        assert made.dtype == torch.float32


@pytest.mark.parametrize("name", ["Stable Diffusion 3", "FLUX.1"])
def test_a_pipeline(name, generator):
    pipe = family(name)
    x, y = on(torch.randn(2, 4, 8, 8, generator=generator))
    made = from_pipeline(pipe, prompt="a cat", sigma=1.0, size=(16, 16))
    path = interpolate(made, x, y, method="stein", points=3, frames=3, max_iter=2)
    assert path.frames.dtype == torch.float32
    assert latents.decode(made, path.frames).dtype == torch.float32
    assert latents.encode(made, on(torch.rand(1, 3, 16, 16))).dtype == torch.float32
