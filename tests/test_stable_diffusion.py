"""Stable Diffusion as a score, on small random pipelines, against diffusers' own formulas."""

import copy
import warnings

import pytest
import torch
from diffusers import DDIMScheduler
from pipelines import TOKENS, VERSIONS, WIDTH, pipeline

from lib import extrapolate, flow, interpolate
from lib.metrics import DensityMetric, SteinMetric
from lib.scores import DistillationScore, PipelineScore
from lib.scores.distillation import NEGATIVE, distilled
from lib.scores.variance_preserving import VariancePreservingScore
from lib.solvers import ConvergenceWarning, FunctionalGradient, geodesic, shoot
from lib.solvers.initial_value import geodesic_flow as flow_of

LATENT = (4, 8, 8)
PIPES = {version: pipeline(version) for version in VERSIONS}
pytestmark = [
    pytest.mark.usefixtures("no_unpickling"),
    pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.MovingDensityWarning"),
]
every_version = pytest.mark.parametrize("version", VERSIONS)


def score_of(version="1.5", prompt="a cat", **settings):
    return PipelineScore(PIPES[version], prompt, **settings)


def points(n=3, seed=0):
    return torch.randn(n, *LATENT, generator=torch.Generator().manual_seed(seed))


def prediction(pipe, z, t, text):
    with torch.no_grad():
        return pipe.unet(
            z, torch.full((len(z),), t), encoder_hidden_states=text.expand(len(z), -1, -1)
        ).sample


def clean(pipe, z, t, text):
    """x_0 as diffusers' DDIM step estimates it."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(1000)
    return scheduler.step(prediction(pipe, z, t, text), t, z).pred_original_sample


@every_version
def test_denoiser_is_that_of_diffusers(version):
    """y = z/√ᾱ at sigma_t = √((1 − ᾱ)/ᾱ), epsilon and v prediction."""
    pipe, t, x = PIPES[version], 400, points()
    kept = pipe.scheduler.alphas_cumprod[t].double()
    sigma = ((1 - kept) / kept).sqrt().item()
    score = score_of(version, sigma=sigma)
    text, blank = pipe.encode_prompt("a cat", "cpu", 1, True, "blur")
    torch.testing.assert_close(score.start_text["encoder_hidden_states"], text)
    expected = clean(pipe, x * kept.sqrt().float(), t, text)
    torch.testing.assert_close(score.denoise(x), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(score(x), (expected - x) / sigma**2, rtol=1e-3, atol=1e-4)
    assert (score.counter.evaluations, score.counter.batches) == (6, 2)

    guided = score.prompted("a cat", negative="blur", guidance=7.5)
    without = clean(pipe, x * kept.sqrt().float(), t, blank)
    torch.testing.assert_close(
        guided.denoise(x), without + 7.5 * (expected - without), rtol=1e-3, atol=1e-3
    )
    assert (
        guided.counter is score.counter and score.counter.evaluations == 6 + 6
    )  # two network inputs a point
    assert (expected - without).norm() > 0.002 * expected.norm()  # the prompt matters here


@every_version
def test_sampling_goes_as_the_pipeline_does(version):
    """The probability flow through the pipeline's DDIM steps ends where the pipeline ends."""
    pipe = copy.copy(PIPES[version])
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    )
    noise = points(2)
    made = pipe(
        "a cat",
        negative_prompt="blur",
        guidance_scale=3.0,
        num_inference_steps=5,
        latents=noise.clone(),
        num_images_per_prompt=2,
        output_type="latent",
    ).images
    score = PipelineScore(pipe, "a cat", negative="blur", guidance=3.0)
    levels = [score.schedule.sigma(float(t)) for t in pipe.scheduler.timesteps]
    start = noise * (1 + levels[0] ** 2) ** 0.5
    ours = flow.follow(score, start, [*levels, 0.0])
    torch.testing.assert_close(ours, made, rtol=5e-3, atol=5e-3)


def test_prompt_goes_linearly_along_the_path():
    score = score_of(prompt=["a cat", "hat"], end_prompt=["a dog", "house"])
    assert score.moves and not score_of().moves
    first, last = score.embed(["a cat", "hat"]), score.embed(["a dog", "house"])
    times, x = torch.tensor([0.0, 0.25, 1.0]), points(6)
    told = score.along(times)
    torch.testing.assert_close(
        told.texts(6)["encoder_hidden_states"].reshape(2, 3, TOKENS, WIDTH)[:, 1],
        0.75 * first + 0.25 * last,
    )
    together = told(x)
    for pair in range(2):
        alone = score.pick(torch.tensor([pair])).along(times)(x[3 * pair : 3 * pair + 3])
        torch.testing.assert_close(together[3 * pair : 3 * pair + 3], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[0], score.prompted("a cat")(x[:1])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[5], score.prompted("house")(x[5:])[0], rtol=1e-4, atol=1e-5)
    each = torch.stack([times, times.flip(0)])  # times of its own for each pair
    torch.testing.assert_close(score.along(each).texts(6)["encoder_hidden_states"][3], last[1])
    torch.testing.assert_close(
        score_of(prompt=["a cat", "hat"])(x[:2])[1:],
        score.prompted("hat")(x[1:2]),
        rtol=1e-4,
        atol=1e-5,
    )
    one_end = score_of(prompt="a cat", end_prompt=["a dog", "house"]).along(times)
    torch.testing.assert_close(one_end.texts(6)["encoder_hidden_states"][5], last[1])
    torch.testing.assert_close(one_end.texts(6)["encoder_hidden_states"][3], first[0])
    with pytest.raises(ValueError, match="without their place"):
        score(x)
    with pytest.raises(
        ValueError, match="5 points do not fit 3 times a path and prompts for 2 pairs"
    ):
        told(x[:5])
    with pytest.raises(ValueError, match="3 prompts and 2 end prompts"):
        score_of(prompt=["a", "b", "c"], end_prompt=["d", "e"])
    with pytest.raises(ValueError, match="one text for all pairs"):
        score_of(negative=score.embed(["a", "b"]))


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@every_version
def test_geodesic_of_a_moving_prompt(version):
    """Gauss–Newton with prompts that differ by pair: the energy falls, work is counted."""
    score = score_of(version, prompt=["a cat", "hat"], end_prompt=["a dog", "house"], sigma=4.0)
    start, end = points(2, 1), points(2, 2)
    metric, settings = SteinMetric(score, lam=5000.0), {"points": 7, "max_iter": 8}
    path = geodesic(metric, start, end, **settings)
    assert bool(torch.isfinite(path.energy).all())
    straight = geodesic(metric, start, end, points=7, max_iter=1, tol=1e9)
    assert bool((path.energy < 0.9999 * straight.energy).all())
    assert torch.equal(path.points[:, 0], start) and torch.equal(path.points[:, -1], end)
    assert path.score_evaluations <= 2 * (
        7 + 8 * 2 * 5
    )  # a score and its change with the prompt, each step
    alone = geodesic(metric.pick(torch.tensor([1])), start[1:], end[1:], **settings)
    torch.testing.assert_close(path.points[1], alone.points[0], rtol=1e-3, atol=1e-3)


def test_distillation_direction_is_the_papers():
    """g = ½ (eps_neg − eps_prompt) at a point noised anew, step by step as released."""
    pipe, t = PIPES["1.5"], 581
    score = score_of(negative="blur")
    score = score.at(score.schedule.sigma(t))
    direction = VariancePreservingScore(score).wrap(DistillationScore(score, seed=3))
    z, kept = points(2), pipe.scheduler.alphas_cumprod
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 1)  # the first call
    new_t = t + int(torch.randint(-100, 100, (), generator=generator))
    noise = torch.randn(2, *LATENT, generator=generator, dtype=torch.float64).float()
    original = (z - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()
    noised = pipe.scheduler.add_noise(original, noise, torch.tensor([new_t]))
    expected = (
        prediction(pipe, noised, new_t, score.embed("blur"))
        - prediction(pipe, noised, new_t, score.embed("a cat"))
    ) / 2
    g = direction(z)
    torch.testing.assert_close(g, expected, rtol=1e-2, atol=1e-4)
    assert score.counter.evaluations == 4 and score.counter.batches == 1
    assert (direction(z) - g).norm() > 0.01 * g.norm()  # fresh draws at each call
    fixed = VariancePreservingScore(score).wrap(DistillationScore(score, fresh=False))
    assert torch.equal(fixed(z), fixed(z))
    again = fixed.along(torch.zeros(2))(
        torch.cat([z, z])
    )  # noise belongs to the place, not to the pair
    torch.testing.assert_close(again[:2], again[2:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(DistillationScore(score).denoise(z), score.denoise(z))
    assert distilled(VariancePreservingScore(score)).score.settings["distillation"] == {
        "negative": "blur",
        "spread": 100,
        "seed": 0,
        "fresh": True,
    }
    assert DistillationScore(score_of(truncate=True)).negative == NEGATIVE
    with pytest.raises(ValueError, match="negative="):
        DistillationScore(score_of())
    with pytest.raises(ValueError, match="one noise level"):
        DistillationScore(score.at(torch.tensor([1.0, 2.0])))


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
@pytest.mark.parametrize("method", ["yu2025", "stein", "azeglio2025", "ddim_slerp"])
def test_methods_by_name(method):
    """Each from one prompt to another; what was asked stands in the settings."""
    score = score_of("2.1", "a cat", end_prompt="a dog", negative="blur")
    few = {
        "yu2025": {"solver": FunctionalGradient(levels=(1, 3), max_iter=2), "points": 7},
        "stein": {"points": 5, "max_iter": 2, "sigma": 2.0},
        "azeglio2025": {"max_iter": 2},
    }.get(method, {})
    start, end = points(2, 3), points(2, 4)
    made = interpolate(score, start, end, method=method, frames=3, flow_steps=2, **few)
    assert made.frames.shape == (2, 3, *LATENT) and bool(torch.isfinite(made.frames).all())
    assert (
        made.settings["prompt"] == "a cat"
        and made.settings["end_prompt"] == "a dog"
        and made.settings["guidance"] == 1.0
    )
    assert ("distillation" in made.settings) == (method == "yu2025")
    alone = interpolate(score, start[1], end[1], method=method, frames=3, flow_steps=2, **few)
    if method == "ddim_slerp":  # the ends are met under their own prompts
        back = flow.denoise(
            score.prompted("a dog"),
            flow.diffuse(score.prompted("a dog"), end, made.settings["sigma"], steps=2),
            made.settings["sigma"],
            steps=2,
        )
        torch.testing.assert_close(made.frames[:, -1], back, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(made.frames[1], alone.frames[0], rtol=1e-2, atol=2e-2)


def test_extrapolation_by_name():
    """One prompt a start, row by row what each start gives alone."""
    score, start, velocity = (
        score_of(prompt=["a cat", "hat"], negative="blur"),
        points(2, 5),
        0.1 * points(2, 6),
    )
    for method, space in (("yu2025", "clean"), ("stein", "shared_noise"), ("straight", "clean")):
        few = {} if method == "straight" else {"steps": 2}
        made = extrapolate(
            score,
            start,
            velocity,
            method=method,
            space=space,
            frames=3,
            sigma=2.0,
            flow_steps=2,
            **few,
        )
        assert made.frames.shape == (2, 3, *LATENT) and made.settings["prompt"] == ["a cat", "hat"]
        assert ("distillation" in made.settings) == (method == "yu2025")
        alone = extrapolate(
            score.prompted("hat"),
            start[1],
            velocity[1],
            method=method,
            space=space,
            frames=3,
            sigma=2.0,
            flow_steps=2,
            **few,
        )
        if method != "yu2025":  # its noise is fresh at each call
            torch.testing.assert_close(made.frames[1], alone.frames[0], rtol=1e-2, atol=2e-2)


def test_a_prompt_moves_along_an_extrapolation():
    """Evaluated at the place reached, with rk4 and two steps first at 0, last at 1."""
    score, start, velocity = (
        score_of(end_prompt="a dog", negative="blur"),
        points(2, 5),
        0.1 * points(2, 6),
    )
    for prompt in ("a cat", "a dog"):
        fixed = shoot(
            DensityMetric(score_of(prompt=prompt, sigma=2.0), 0.1), start, velocity, steps=2
        )
        moving = shoot(
            DensityMetric(score_of(prompt=prompt, end_prompt=prompt, sigma=2.0), 0.1),
            start,
            velocity,
            steps=2,
        )
        torch.testing.assert_close(moving.points, fixed.points, rtol=1e-4, atol=1e-4)
    places = []
    metric = DensityMetric(score.at(2.0), 0.1)
    metric.along = lambda times: (
        places.append(float(times[0])) or DensityMetric(score.at(2.0).along(times), 0.1)
    )
    flow_of(metric, start, velocity, time=3.0, steps=2)
    assert (
        places[0] == 0
        and places[-1] == 1
        and sorted(set(places)) == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
    )
    ball = DensityMetric(DistillationScore(score_of(negative="blur", sigma=2.0), fresh=False), 0.1)
    both = shoot(ball, start, velocity, steps=2, form="yu2025", radius="start").points
    alone = shoot(ball, start[1], velocity[1], steps=2, form="yu2025", radius="start").points
    torch.testing.assert_close(both[1], alone[0], rtol=1e-3, atol=1e-3)
    with pytest.warns(ConvergenceWarning, match="the score moves along the path"):
        shoot(DensityMetric(score.at(2.0), 0.5), start, velocity, steps=2)
    walk = extrapolate(score, start, velocity, method="guided_walk", sigma=2.0, frames=3)
    assert bool(torch.isfinite(walk.frames).all())


def test_micro_batches_sizes_and_derivatives():
    score, x = score_of(guidance=2.0, micro_batch=3), points(4)
    torch.testing.assert_close(score(x), score_of(guidance=2.0)(x), rtol=1e-4, atol=1e-5)
    wide = score_of(size=(64, 96))
    assert wide.event_shape == (4, 8, 12) and wide(torch.randn(1, 4, 8, 12)).shape == (1, 4, 8, 12)
    with pytest.raises(ValueError, match="multiples of 8"):
        score_of(size=(60, 64))
    with pytest.raises(ValueError, match=r"\(n, 4, 8, 8\)"):
        score(torch.randn(1, 4, 8, 12))
    v, h = points(4, 9), 1e-2
    slope = (score(x + h * v) - score(x - h * v)) / (2 * h)
    assert (score.derivative(x, v) - slope).norm() < 1e-2 * slope.norm()
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(score(x)[0].sum(), x)
    assert gradient[0].norm() > 0 and gradient[1:].norm() == 0
    levels = torch.tensor([0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(
        score.at(levels)(points(4))[2:3], score.at(2.0)(points(4)[2:3]), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="sigma must lie in"):
        score.at(1e3)
    assert DensityMetric(score).event_shape == LATENT


def test_long_prompts_are_refused_or_cut_when_asked():
    long = "a hand of many fingers"  # every letter is a token here
    count = len(PIPES["1.5"].tokenizer(long).input_ids)
    with pytest.raises(
        ValueError,
        match=f"has {count} tokens with its marks, and this model reads {TOKENS}: "
        f"shorten it by {count - TOKENS}",
    ):
        score_of(prompt=long)
    cut = score_of(prompt=long, truncate=True)
    torch.testing.assert_close(
        cut.embed(long), PIPES["1.5"].encode_prompt(long, "cpu", 1, False)[0]
    )
    with pytest.raises(ValueError, match=r"\(k, tokens, 32\)"):
        score_of(prompt=torch.zeros(1, TOKENS, 7))
    with pytest.raises(ValueError, match="NaN"):
        score_of(prompt=torch.full((1, TOKENS, WIDTH), torch.nan))


def test_half_precision_that_overflows_goes_on_in_single():
    pipe = pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1e6).clamp_(-6e4, 6e4)
        pipe.unet.conv_out.bias.fill_(6e4)
    pipe.unet.half()
    score = PipelineScore(pipe, "a cat")
    single = PipelineScore(copy.copy(pipe), "a cat")
    single.guarded_network.module = copy.deepcopy(pipe.unet).float()
    with pytest.warns(
        UserWarning, match="NaN or infinity in torch.float16; it goes on in float32"
    ) as told:
        values = score(points())
    torch.testing.assert_close(values, single(points()), rtol=1e-3, atol=1e-3)
    assert (
        len(told) == 1 and pipe.unet.dtype == torch.float16
    )  # the caller's network stays as it was
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bool(
            torch.isfinite(score.at(1.0)(points())).all()
        )  # warned once, at all noise levels


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_says_what_to_do(error, monkeypatch):
    score = score_of()

    def full(*_, **__):
        raise error

    monkeypatch.setattr(score.model, "forward", full)
    with pytest.raises(MemoryError, match="micro_batch="):
        score(points())


def test_other_failures_pass_unchanged(monkeypatch):
    score = score_of()
    monkeypatch.setattr(
        score.model,
        "forward",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes differ")),
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        score(points())


def test_networks_of_other_latents_are_refused():
    pipe = copy.copy(PIPES["1.5"])
    pipe.unet = copy.deepcopy(pipe.unet)
    pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(ValueError, match="inpainting"):
        PipelineScore(pipe)
