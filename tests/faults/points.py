"""Points, scores, metrics and solvers: bad input, a score that fails midway, Ctrl-C, too little memory, what must be endured."""

import warnings

import torch

from lib import (
    SOLVERS,
    ConvergenceWarning,
    DensityMetric,
    EmpiricalScore,
    FunctionScore,
    GaussianMixtureScore,
    SphereScore,
    SteinMetric,
    distance,
    extrapolate,
    geodesic,
    interpolate,
    shoot,
)
from lib.calculus import frechet_mean, logarithm, parallel_transport
from lib.density import along_path, log_density
from lib.flow import denoise, sample
from lib.methods.baselines import guided_walk
from lib.methods.spaces import working_space
from lib.metrics import JacobianMetric
from lib.paths import NaturalSpline, resample
from lib.solvers import Relaxation
from lib.velocities import along_data, at_length

from . import fault

NAN, INF = float("nan"), float("inf")
SPHERE = SphereScore(sigma=0.5)
METRIC, FLAT = SteinMetric(SPHERE, lam=2.0), DensityMetric(SPHERE, alpha=0.3)
FIXED = FunctionScore(lambda x: -x)
INPUTS = "the caller's points, bit for bit; the global generator"

# area, what goes wrong, what provokes it with two points (1, 2), error, what is said
TABLE = [
    # scores
    (
        "lib.scores",
        "a score that is no function",
        lambda a, b: FunctionScore(3.0),
        TypeError,
        "a score is a callable",
    ),
    (
        "lib.scores",
        "a score that changes the shape",
        lambda a, b: FunctionScore(lambda x: x[:, :1])(a),
        ValueError,
        "a score keeps the shape",
    ),
    (
        "lib.scores",
        "points of whole numbers",
        lambda a, b: SPHERE(a.long()),
        TypeError,
        r"use \.float\(\)",
    ),
    (
        "lib.scores",
        "a list instead of a tensor",
        lambda a, b: SPHERE(a.tolist()),
        TypeError,
        r"use torch\.as_tensor",
    ),
    (
        "lib.scores",
        "a negative noise level",
        lambda a, b: SphereScore(sigma=-0.1),
        ValueError,
        "sigma must be a finite number > 0",
    ),
    (
        "lib.scores",
        "another level of one fixed density",
        lambda a, b: FIXED.at(0.1),
        ValueError,
        "has no other noise levels",
    ),
    (
        "lib.scores",
        "data with NaN",
        lambda a, b: EmpiricalScore(a * NAN),
        ValueError,
        "clean the input first",
    ),
    (
        "lib.scores",
        "no data at all",
        lambda a, b: EmpiricalScore(a[:0]),
        ValueError,
        "with m ≥ 1, got",
    ),
    (
        "lib.scores",
        "a covariance that is none",
        lambda a, b: GaussianMixtureScore(a, -torch.eye(2)),
        ValueError,
        "positive definite",
    ),
    # metrics
    (
        "lib.metrics",
        "a negative lam",
        lambda a, b: SteinMetric(SPHERE, lam=-1),
        ValueError,
        "lam must be a finite number > 0",
    ),
    (
        "lib.metrics",
        "lam that is NaN",
        lambda a, b: SteinMetric(SPHERE, lam=NAN),
        ValueError,
        "lam must be a finite number",
    ),
    (
        "lib.metrics",
        "lam in words",
        lambda a, b: SteinMetric(SPHERE, lam="ten"),
        TypeError,
        "lam must be a number, got 'ten'",
    ),
    (
        "lib.metrics",
        "density unknown at single points",
        lambda a, b: DensityMetric(FIXED).inner(a, b, b),
        ValueError,
        "pass log_density=",
    ),
    (
        "lib.metrics",
        "a metric that is singular",
        lambda a, b: JacobianMetric(FunctionScore(lambda x: x * 0), 0.0).solve(a, b),
        ArithmeticError,
        "the metric is singular here; add a multiple of the identity",
    ),
    # geodesic
    (
        "lib.solvers",
        "NaN in an end point",
        lambda a, b: geodesic(METRIC, a * NAN, b),
        ValueError,
        "start has 2 of 2 entries .* clean the input first",
    ),
    (
        "lib.solvers",
        "infinity in an end point",
        lambda a, b: geodesic(METRIC, a, b * INF),
        ValueError,
        "end has .* infinite",
    ),
    (
        "lib.solvers",
        "ends of different shapes",
        lambda a, b: geodesic(METRIC, a, b[:, :1]),
        ValueError,
        "differ in shape",
    ),
    (
        "lib.solvers",
        "ends of different dtypes",
        lambda a, b: geodesic(METRIC, a, b.double()),
        TypeError,
        "differ in dtype.*convert one of them",
    ),
    (
        "lib.solvers",
        "equal ends",
        lambda a, b: geodesic(METRIC, a, a),
        ValueError,
        r"equal in pair\(s\) \[0\].*drop these pairs",
    ),
    (
        "lib.solvers",
        "an empty batch",
        lambda a, b: geodesic(METRIC, a[:0], b[:0]),
        ValueError,
        "empty batch",
    ),
    (
        "lib.solvers",
        "a path of one point",
        lambda a, b: geodesic(METRIC, a, b, points=1),
        ValueError,
        "points must be .* ≥ 3",
    ),
    (
        "lib.solvers",
        "an unknown solver",
        lambda a, b: geodesic(METRIC, a, b, solver="gaus_newton"),
        ValueError,
        "did you mean 'gauss_newton'",
    ),
    (
        "lib.solvers",
        "an unknown start",
        lambda a, b: geodesic(METRIC, a, b, init="slurp"),
        ValueError,
        "did you mean 'slerp'",
    ),
    (
        "lib.solvers",
        "a graph without samples",
        lambda a, b: geodesic(METRIC, a, b, init="graph"),
        ValueError,
        "needs samples=",
    ),
    (
        "lib.solvers",
        "noise that rises",
        lambda a, b: geodesic(METRIC, a, b, noise_levels=[0.5, 1.0]),
        ValueError,
        "must fall strictly",
    ),
    (
        "lib.solvers",
        "noise below the metric's own",
        lambda a, b: geodesic(METRIC, a, b, noise_levels=[1.0, 0.1]),
        ValueError,
        "end at 0.5 or build the metric at the lower level",
    ),
    (
        "lib.solvers",
        "a score instead of a metric",
        lambda a, b: geodesic(SPHERE, a, b),
        TypeError,
        r"SteinMetric\(score\)",
    ),
    (
        "lib.solvers",
        "a start path of another shape",
        lambda a, b: geodesic(METRIC, a, b, init=torch.zeros(1, 5, 2)),
        ValueError,
        "init must have shape",
    ),
    (
        "lib.solvers",
        "a tolerance of zero",
        lambda a, b: geodesic(METRIC, a, b, tol=0),
        ValueError,
        "tol must be a finite number > 0",
    ),
    (
        "lib.solvers",
        "a tolerance in words",
        lambda a, b: geodesic(METRIC, a, b, tol="small"),
        TypeError,
        "tol must be a number",
    ),
    (
        "lib.solvers",
        "a setting that no solver has",
        lambda a, b: Relaxation(optimizer="sgd"),
        ValueError,
        "known: adam, lbfgs",
    ),
    (
        "lib.solvers",
        "a solver for other metrics",
        lambda a, b: geodesic(JacobianMetric(SPHERE), a, b),
        TypeError,
        "use solver='relaxation'",
    ),
    (
        "lib.solvers",
        "a score that cannot be differentiated",
        lambda a, b: geodesic(
            SteinMetric(FunctionScore(lambda x: -x.detach())), a, b, solver="relaxation"
        ),
        ValueError,
        "derivative='frozen' or solver='gauss_newton'",
    ),
    # shoot, distance, logarithm and what builds on them
    (
        "lib.solvers",
        "a velocity of zero",
        lambda a, b: shoot(METRIC, a, 0 * b),
        ValueError,
        r"zero in row\(s\) \[0\].*drop",
    ),
    (
        "lib.solvers",
        "no time",
        lambda a, b: shoot(METRIC, a, b, time=0),
        ValueError,
        "time must be a finite number > 0",
    ),
    (
        "lib.solvers",
        "a shot that blows up",
        lambda a, b: shoot(DensityMetric(FunctionScore(lambda x: x**3)), a, 50 * b, steps=20),
        ArithmeticError,
        "smaller time= or more steps=",
    ),
    (
        "lib.solvers",
        "distance of unlike points",
        lambda a, b: distance(METRIC, a, b.double()),
        TypeError,
        "convert one of them",
    ),
    (
        "lib.calculus",
        "a logarithm that misses",
        lambda a, b: logarithm(METRIC, a, b, corrections=1, points=5),
        ConvergenceWarning,
        "raise corrections=",
    ),
    (
        "lib.calculus",
        "the mean of one point",
        lambda a, b: frechet_mean(METRIC, a),
        ValueError,
        "m ≥ 2",
    ),
    (
        "lib.calculus",
        "negative weights",
        lambda a, b: frechet_mean(METRIC, torch.cat([a, b]), -torch.ones(2)),
        ValueError,
        "2 positive numbers",
    ),
    (
        "lib.calculus",
        "transport along one point",
        lambda a, b: parallel_transport(METRIC, a[:, None], b),
        ValueError,
        "N ≥ 2",
    ),
    # interpolate and extrapolate
    (
        "lib.interpolate",
        "an unknown method",
        lambda a, b: interpolate(SPHERE, a, b, method="stien"),
        ValueError,
        "did you mean 'stein'",
    ),
    (
        "lib.interpolate",
        "one frame",
        lambda a, b: interpolate(SPHERE, a, b, frames=1),
        ValueError,
        "frames must be .* ≥ 2",
    ),
    (
        "lib.interpolate",
        "a setting of another method",
        lambda a, b: interpolate(SPHERE, a, b, alpha=1.0),
        TypeError,
        "use method='both'",
    ),
    (
        "lib.interpolate",
        "a setting that does not exist",
        lambda a, b: interpolate(SPHERE, a, b, lambda_=1.0),
        TypeError,
        "lambda_",
    ),
    (
        "lib.methods.baselines",
        "settings for a baseline",
        lambda a, b: interpolate(SPHERE, a, b, method="lerp", lam=1.0),
        TypeError,
        "takes no settings, got lam",
    ),
    (
        "lib.methods.baselines",
        "a walk of no step",
        lambda a, b: guided_walk(SPHERE, a, b, 5, -1.0),
        ValueError,
        "time must be",
    ),
    (
        "lib.interpolate",
        "no time to extrapolate",
        lambda a, b: extrapolate(SPHERE, a, b, time=-1.0),
        ValueError,
        "time must be",
    ),
    # densities, paths, spaces, velocities
    (
        "lib.density",
        "a path of one point",
        lambda a, b: along_path(SPHERE, a[:, None]),
        ValueError,
        "N ≥ 2",
    ),
    (
        "lib.density",
        "noise levels the wrong way round",
        lambda a, b: log_density(SPHERE, a, sigma_max=0.1),
        ValueError,
        "above sigma_min",
    ),
    (
        "lib.density",
        "a score without noise levels",
        lambda a, b: log_density(FIXED, a, sigma_max=2.0),
        TypeError,
        "along_path",
    ),
    (
        "lib.density",
        "a flow that blows up",
        lambda a, b: log_density(
            FunctionScore(lambda x, s: x**9, sigma=0.1), 9 * a, sigma_max=5.0, steps=5
        ),
        ArithmeticError,
        "raise sigma_min= or steps=",
    ),
    (
        "lib.paths",
        "knots of NaN",
        lambda a, b: NaturalSpline(a[:, None] * NAN),
        ValueError,
        "clean the input first",
    ),
    (
        "lib.paths",
        "one point asked of a path",
        lambda a, b: resample(torch.stack([a, b], 1), 1),
        ValueError,
        "count must be .* ≥ 2",
    ),
    (
        "lib.methods.spaces",
        "an unknown space",
        lambda a, b: interpolate(SPHERE, a, b, space="ddmi"),
        ValueError,
        "did you mean 'ddim'",
    ),
    (
        "lib.methods.spaces",
        "a noised space without noise",
        lambda a, b: working_space(FIXED, "ddim", 0.5),
        ValueError,
        r"FunctionScore\(\.\.\., sigma=",
    ),
    (
        "lib.flow",
        "a flow of one step",
        lambda a, b: denoise(SPHERE, a, 1.0, grid="time"),
        ValueError,
        "use grid='karras'",
    ),
    (
        "lib.flow",
        "draws without a noise level",
        lambda a, b: sample(SPHERE, 1, torch.Generator(), event_shape=(2,)),
        ValueError,
        "give sigma=",
    ),
    (
        "lib.velocities",
        "a length for no direction",
        lambda a, b: at_length(a * 0, 1.0),
        ValueError,
        "it has no direction",
    ),
    (
        "lib.velocities",
        "a density without noise",
        lambda a, b: along_data(FIXED, a, b),
        ValueError,
        "needs a noise level",
    ),
]


def simple(area, what, act, error, says):
    @fault(area, what, error, says, left=INPUTS)
    def bad_input(world):
        a, b = world.points()
        yield lambda: act(a, b)


for entry in TABLE:
    simple(*entry)


class Breaks(SphereScore):
    """A score of the sphere that does something else from its third call on."""

    def __init__(self, act, at_call=3):
        super().__init__(sigma=0.5)
        self.act, self.at_call, self.calls = act, at_call, []  # one list for all its noise levels

    def evaluate(self, x):
        self.calls.append(len(x))
        return (
            self.act(super().evaluate(x))
            if len(self.calls) >= self.at_call
            else super().evaluate(x)
        )


def metric_for(solver, score):
    """Portfolio starts from denoised way-points of its own; the functional gradient solves density metrics alone."""
    return (
        DensityMetric(score, alpha=0.3)
        if solver == "functional_gradient"
        else SteinMetric(score, lam=2.0)
    )


def solve(solver, score, a, b, **more):
    settings = {"max_iter": 8 if solver == "shooting" else 20} | (
        {"noise_levels": [1.0, 0.5]} if solver == "portfolio" else {}
    )
    return geodesic(metric_for(solver, score), a, b, solver=solver, points=9, **settings | more)


def raising(error):
    def act(score):
        raise error

    return act


def midway(solver):
    undisturbed = "the caller's points; the next call gives what an undisturbed one gives"

    def interrupted(error):
        def provoke(world):
            a, b = world.points()
            yield lambda: solve(solver, Breaks(raising(error)), a, b)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                again = [solve(solver, SphereScore(sigma=0.5), a, b).points for _ in range(2)]
            assert torch.equal(*again) and torch.isfinite(again[0]).all()

        return provoke

    fault(
        "lib.solvers", f"Ctrl-C in the middle of {solver}", KeyboardInterrupt, "", left=undisturbed
    )(interrupted(KeyboardInterrupt()))
    fault(
        "lib.solvers",
        f"too little memory in the middle of {solver}",
        torch.OutOfMemoryError,
        "out of memory",
        left=undisturbed,
    )(interrupted(torch.OutOfMemoryError("out of memory")))

    def finite_path(found):
        path = found.points
        assert not found.converged.any() and torch.isfinite(path).all()
        return path[:, 0], path[:, -1]

    @fault(
        "lib.solvers",
        f"{solver} does not converge",
        ConvergenceWarning,
        r"did not converge \(pair 0: .+",
        left="a finite path from the very start to the very end (a shot's: to where it lands), marked as not converged",
    )
    def not_converged(world):
        (a, b), found = world.points(), []
        yield lambda: found.append(
            solve(solver, SphereScore(sigma=0.5), a, b, max_iter=1, tol=1e-12)
        )
        start, end = finite_path(found[0])
        assert torch.equal(start, a) and torch.equal(end, b) != (solver == "shooting")

    if (
        solver == "portfolio"
    ):  # each of its starts is solved anew, so that NaN meets it on a starting path
        simple(
            "lib.solvers",
            f"a score that turns NaN in the middle of {solver}",
            lambda a, b: solve(solver, Breaks(lambda s: s * NAN), a, b),
            ValueError,
            "NaN or infinite.*larger noise level",
        )
        return

    @fault(
        "lib.solvers",
        f"a score that turns NaN in the middle of {solver}",
        ConvergenceWarning,
        "NaN or infinite|blows up",
        left="a finite path between the very ends, marked as not converged with the reason",
    )
    def nan_midway(world):
        (a, b), found = world.points(), []
        yield lambda: found.append(solve(solver, Breaks(lambda s: s * NAN), a, b))
        start, end = finite_path(found[0])
        assert torch.equal(start, a) and torch.equal(end, b)


for name in SOLVERS:
    midway(name)


@fault(
    "lib.solvers",
    "16,384 dimensions",
    None,
    "",
    left="the geodesic of the plane, to six digits; the caller's points",
)
def many_dimensions(world):
    a, b = world.keep(*torch.eye(2, 16384, dtype=torch.float64).split(1))
    found = []
    yield lambda: found.append(geodesic(SteinMetric(SphereScore(sigma=0.3)), a, b, points=17))
    plane = geodesic(SteinMetric(SphereScore(sigma=0.3)), a[:, :2], b[:, :2], points=17)
    assert found[0].converged.all() and torch.allclose(
        found[0].points[..., :2], plane.points, atol=1e-6
    )


@fault(
    "lib.solvers",
    "lam = 1e12",
    None,
    "",
    left="a finite geodesic, converged, at equal log-density; the caller's points",
)
def huge_lam(world):
    a, b = world.keep(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    found = []
    yield lambda: found.append(
        geodesic(SteinMetric(SphereScore(sigma=0.5), lam=1e12), a, b, init="slerp")
    )
    assert found[0].converged.all() and torch.isfinite(found[0].energy).all()
    assert float(found[0].log_density.abs().max()) < 1e-4
