"""Every family of pipelines: exact scores in its own layout, its own sampling, what is refused."""

import copy
import json
import math
import shutil
from types import SimpleNamespace

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    FluxPipeline,
    LCMScheduler,
)
from families import MADE, family
from networks import gaussian_denoiser
from safetensors.torch import load_file, save_file

from lib import extrapolate, flow, interpolate, latents
from lib.scores import DenoiserScore, GaussianMixtureScore, from_pipeline, load
from lib.scores.families import FAMILIES, REFUSED, family_of
from lib.scores.pipeline import PipelineScore

NAMES = list(MADE)
every_family = pytest.mark.parametrize("name", NAMES)
SMALL = {"FLUX.1": (16, 16), "FLUX.2-klein": (16, 16)}
PROMPTS = {"DiT": (3, 5)}
FLOWS = ("Stable Diffusion 3", "FLUX.1", "FLUX.2-klein", "Sana")
PIPES = {name: family(name) for name in NAMES}


def score_of(name, pipe=None, **settings):
    settings = {"prompt": PROMPTS.get(name, ("a cat",))[0], "micro_batch": 4} | settings
    if name in SMALL:
        settings.setdefault("size", SMALL[name])
    return from_pipeline(PIPES[name] if pipe is None else pipe, **settings)


def points(score, n=2, seed=0):
    return torch.randn(n, *score.event_shape, generator=torch.Generator().manual_seed(seed))


# Exact scores, in each family's own layout, time and sign


class Exact(torch.nn.Module):
    """A network of a family that has learned a Gaussian mixture perfectly.

    Its layout is taken from diffusers' own pipelines, its noise levels from the schedulers' papers,
    and nothing from lib.scores.
    """

    def __init__(self, name, pipe, mixture):
        super().__init__()
        self.name, self.pipe, self.mixture = name, pipe, mixture
        self.config = getattr(pipe, "unet" if hasattr(pipe, "unet") else "transformer").config
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def forward(self, *args, **kwargs):
        if "timestep" in kwargs:
            time = kwargs["timestep"]
            z = args[0] if args else kwargs["hidden_states"]
        else:
            z, time = args
        if self.name == "FLUX.1":
            assert bool((kwargs["guidance"] == 1).all())
            return self.packed(z, time, kwargs, self.unpacked_flux, self.packed_flux)
        if self.name == "FLUX.2-klein":
            return self.packed(
                z, time, kwargs, self.unpacked_flux2, Flux2KleinPipeline._pack_latents
            )
        if self.name == "Sana":
            return SimpleNamespace(sample=self.velocity(z, time / 0.5 / 1000))
        if self.name in FLOWS:
            return SimpleNamespace(sample=self.velocity(z, time / 1000))
        noise = self.noise(z, time)
        if self.name in ("PixArt", "DiT"):
            noise = torch.cat([noise, torch.full_like(noise, 7.0)], 1)
        return SimpleNamespace(sample=noise)

    def packed(self, tokens, time, told, unpack, pack):
        return SimpleNamespace(sample=pack(self.velocity(unpack(tokens, told["img_ids"]), time)))

    def unpacked_flux(self, tokens, places):
        height, width = (int(places[:, axis].max()) + 1 for axis in (1, 2))
        assert torch.equal(
            places, FluxPipeline._prepare_latent_image_ids(1, height, width, "cpu", places.dtype)
        )
        return FluxPipeline._unpack_latents(tokens, 4 * height, 4 * width, 2)

    def packed_flux(self, z):
        return FluxPipeline._pack_latents(z, *z.shape)

    def unpacked_flux2(self, tokens, places):
        return Flux2KleinPipeline._unpack_latents_with_ids(tokens, places)

    def velocity(self, z, t):
        """E[noise − data | z], z = (1−t) data + t·noise."""
        t = t.reshape(-1, 1, 1, 1)
        clean = self.denoised(z / (1 - t), t / (1 - t))
        return (z - (1 - t) * clean) / t - clean

    def noise(self, z, time):
        """E[noise | z], z = √ᾱ data + √(1−ᾱ) noise, at whole steps."""
        assert bool((time - time.round()).abs().max() < 1e-3)
        kept = self.pipe.scheduler.alphas_cumprod.double()[time.round().long()]
        kept = kept.reshape(-1, 1, 1, 1)
        clean = self.denoised(z / kept.sqrt(), ((1 - kept) / kept).sqrt())
        return (z - kept.sqrt() * clean) / (1 - kept).sqrt()

    def denoised(self, y, sigma):
        sigma = sigma.expand(len(y), 1, 1, 1).flatten()
        flat = y.flatten(1) + sigma[:, None] ** 2 * self.mixture.at(sigma)(y.flatten(1))
        return flat.reshape(y.shape)


@every_family
def test_the_score_of_a_perfect_network_is_the_exact_one(name):
    pipe = copy.copy(PIPES[name])
    plain = score_of(name, pipe)
    dimension = math.prod(plain.event_shape)
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(3, dimension, generator=generator, dtype=torch.float64)
    mixture = GaussianMixtureScore(means, torch.tensor([0.5, 0.9, 0.2]).double(), sigma=1.0)
    setattr(pipe, plain.family.network, Exact(name, pipe, mixture))
    score = score_of(name, pipe)
    if name in FLOWS:
        levels = [t / (1 - t) for t in (0.02, 0.2, 0.45, 0.7, 0.9, 0.99)]
    else:
        kept = pipe.scheduler.alphas_cumprod.double()
        levels = [math.sqrt(1 / kept[t] - 1) for t in (3, 150, 400, 581, 800, 990)]
    noise = torch.randn(5, dimension, generator=generator, dtype=torch.float64)
    for sigma in levels:
        flat = means[[0, 1, 2, 0, 1]] + sigma * noise
        found = score.at(sigma)(flat.reshape(5, *score.event_shape))
        expected = mixture.at(sigma)(flat)
        torch.testing.assert_close(
            found.flatten(1), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
        )
    # One level a point, and the mean of the posterior.
    each = torch.tensor([levels[1], levels[2], levels[3], levels[4], levels[2]])
    flat = means[[0, 1, 2, 0, 1]] + each[:, None].double() * noise
    found = score.at(each.double()).denoise(flat.reshape(5, *score.event_shape)).flatten(1)
    expected = flat + each[:, None].double() ** 2 * mixture.at(each.double())(flat)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# The pipeline's own sampling


# diffusers' Euler scheduler makes arrays of tensors, which numpy 2 does not like.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@every_family
def test_the_probability_flow_is_the_pipeline_s_own_sampling(name):
    """Same text, guidance, layout and grid: the same latents at the end."""
    # In double precision: an untrained network magnifies what is rounded.
    pipe = copy.deepcopy(PIPES[name]).to(torch.float64)
    start, guided = {}, {"guidance_scale": 3.0, "negative_prompt": "blur"}
    if name in FLOWS:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if name == "Sana" else 1.5)
        start["sigmas"] = [0.9, 0.5, 0.3, 0.1]
    elif name != "Stable Diffusion XL":
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config,
            clip_sample=False,
            set_alpha_to_one=True,
            timestep_spacing="trailing",
        )
    settings = {"negative": "blur", "guidance": 3.0}
    if name == "FLUX.1":
        guided = {"true_cfg_scale": 3.0, "negative_prompt": "blur", "guidance_scale": 1.0}
    if name == "FLUX.2-klein":
        guided, settings = {"guidance_scale": 3.0}, {"negative": "", "guidance": 3.0}
    if name == "DiT":
        settings = {"guidance": 3.0}
    score = score_of(name, pipe, **settings)
    noise = points(score, 1, seed=7).double()
    if name == "DiT":
        # It draws its own noise, and knows no class beside ImageNet's thousand.
        score = score_of(name, pipe)
        noise = torch.randn(
            noise.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64
        )
        shown = pipe([3], 1.0, torch.Generator().manual_seed(7), 4, output_type="np").images
        made = torch.from_numpy(shown).permute(0, 3, 1, 2)
    else:
        size = dict(zip(("height", "width"), score.image_size, strict=True))
        if name in ("Sana", "PixArt"):
            guided |= {"use_resolution_binning": False, "clean_caption": False}
        given = noise.clone()
        if name == "FLUX.1":
            given = FluxPipeline._pack_latents(given, *given.shape)
        made = pipe(
            prompt="a cat",
            num_inference_steps=4,
            latents=given,
            output_type="latent",
            **size,
            **start,
            **guided,
        ).images
        if name == "FLUX.1":
            made = FluxPipeline._unpack_latents(made, *score.image_size, 2)
        if name == "FLUX.2-klein":
            made = score.family.normalise(made)
    if name in FLOWS:
        levels = [t / (1 - t) for t in pipe.scheduler.sigmas[:-1].tolist()]
        noise = noise * (1 + levels[0])
    elif name == "Stable Diffusion XL":
        levels = pipe.scheduler.sigmas[:-1].tolist()
        noise = noise * float(pipe.scheduler.init_noise_sigma)
    else:
        levels = [score.schedule.sigma(float(t)) for t in pipe.scheduler.timesteps]
        noise = noise * (1 + levels[0] ** 2) ** 0.5
    ours = flow.follow(score, noise, [*levels, 0.0])
    if name == "DiT":
        ours = latents.decode(score, ours)
    size = float(made.abs().max())
    torch.testing.assert_close(ours.to(made), made, rtol=1e-4, atol=1e-4 * size)


# From images to paths and back


@pytest.mark.filterwarnings("ignore::lib.solvers.geodesic.ConvergenceWarning")
# Stable Diffusion's paths have a module of their own.
@pytest.mark.parametrize("name", NAMES[1:])
def test_images_go_to_latents_along_paths_and_back(name):
    score = score_of(name, sigma=1.0)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *score.image_size, generator=generator)
    z = latents.encode(score, images)
    assert z.shape == (2, *score.event_shape) and z.dtype == images.dtype
    inner = score.family.denormalise(z)
    assert torch.allclose(score.family.normalise(inner), z, atol=1e-5)
    few = {"frames": 3, "flow_steps": 2}
    solver = {"points": 5, "max_iter": 2}
    for method, more in (
        ("stein", {**solver, "sigma": 1.0, "lam": 10.0}),
        ("density", {**solver, "sigma": 1.0, "alpha": 0.1}),
        ("stein", {**solver, "space": "shared_noise"}),
        ("azeglio2025", {"max_iter": 2}),
        ("noisediffusion", {}),
        ("ddim_slerp", {}),
    ):
        made = interpolate(score, z[0], z[1], method=method, **few, **more)
        assert made.frames.shape == (1, 3, *score.event_shape), method
        assert bool(torch.isfinite(made.frames).all()), method
    shown = latents.decode(score, made.frames)
    assert shown.shape == (1, 3, 3, *score.image_size)
    negative = 5 if name == "DiT" else "blur"
    other = score.prompted(score.prompt, negative=negative)
    yu = interpolate(other, z[0], z[1], method="yu2025", points=5, max_iter=1, **few)
    assert bool(torch.isfinite(yu.frames).all()) and "distillation" in yu.settings
    walk = extrapolate(score, z[:1], 0.1 * z[1:], method="stein", steps=2, sigma=1.0, **few)
    assert bool(torch.isfinite(walk.frames).all())


@every_family
def test_the_papers_levels_are_the_same_signal_to_noise(name):
    score = score_of(name)
    for step in (400, 581):
        own = flow.noise_at(score, step / 1000)
        if name in FLOWS:
            own_kept = 1 / (1 + own**2)
            betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
            kept = float((1 - betas).cumprod(0)[step])
        else:
            kept, own_kept = float(score.scheduler.alphas_cumprod[step]), 1 / (1 + own**2)
        assert own_kept == pytest.approx(kept, rel=1e-4)


@every_family
def test_batches_prompts_and_moving_ones(name):
    score = score_of(name, sigma=1.0)
    x = points(score, 3)
    together = score(x)
    alone = torch.cat([score(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert score(x.double()).dtype == torch.float64
    first, last = PROMPTS.get(name, ("a cat", "a dog of two"))
    assert (score.prompted(last)(x) - together).norm() > 1e-4 * together.norm()
    pairs = score.prompted([first, last])
    torch.testing.assert_close(pairs(x[:2])[1:], score.prompted(last)(x[1:2]), rtol=1e-3, atol=1e-4)
    guided = score.prompted(first, guidance=2.5)
    without = score.prompted("" if guided.negative_text is None else score.negative)
    expected = torch.lerp(without.denoise(x), score.denoise(x), 2.5)
    if name not in ("Stable Diffusion XL", "Sana"):
        torch.testing.assert_close(guided.denoise(x), expected, rtol=1e-3, atol=1e-3)
    told = score.embed(last)
    torch.testing.assert_close(score.prompted(told)(x), score.prompted(last)(x))
    if name == "DiT":
        with pytest.raises(ValueError, match="do not go over"):
            score.prompted(first, end_prompt=last)
        assert torch.equal(score.prompted("red fox")(x), together)
        assert torch.equal(score.conditioned(3)(x), together)
        with pytest.raises(ValueError, match=r"0\.\.9 or a name"):
            score.prompted("a cat")
        return
    moving = score.prompted(first, end_prompt=last).along(torch.tensor([0.0, 0.5, 1.0]))
    assert moving.moves
    values = moving(x)
    torch.testing.assert_close(values[0], together[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(values[2], score.prompted(last)(x)[2], rtol=1e-3, atol=1e-4)


def test_no_negative_prompt_is_what_the_model_was_trained_with():
    """SDXL: zeros; Sana: without the instruction that stands before a prompt."""
    pipe = PIPES["Stable Diffusion XL"]
    score = score_of("Stable Diffusion XL", guidance=2.0)
    _, negative, _, pooled = pipe.encode_prompt("a cat", device="cpu")
    assert torch.equal(score.negative_text["encoder_hidden_states"], negative)
    assert torch.equal(score.negative_text["text_embeds"], pooled)
    assert not pooled.any()
    pipe = PIPES["Sana"]
    score = score_of("Sana", guidance=2.0, negative="blur")
    _, _, negative, mask = pipe.encode_prompt("a cat", negative_prompt="blur", device="cpu")
    assert torch.equal(score.negative_text["encoder_hidden_states"], negative)
    assert torch.equal(score.negative_text["encoder_attention_mask"], mask.float())


@pytest.mark.parametrize("name", ["Stable Diffusion", "FLUX.2-klein", "Sana", "PixArt"])
def test_text_inversion_with_one_text_encoder(name, tmp_path):
    score = score_of(name, sigma=1.0)
    x = points(score, 1)
    found = latents.text_inversion(score, x, tmp_path, prompt="a cat", steps=2, batch=1)
    assert (score.prompted(found)(x) - score(x)).abs().max() > 0
    again = latents.text_inversion(score, x, tmp_path, prompt="a cat", steps=2, batch=1)
    torch.testing.assert_close(again, found)


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3", "FLUX.1", "DiT"])
def test_text_inversion_of_several_text_encoders_is_refused(name, tmp_path):
    score = score_of(name)
    with pytest.raises(ValueError, match="one text encoder"):
        latents.text_inversion(score, points(score, 1), tmp_path, prompt=score.prompt)


# Memory and precision


@every_family
def test_half_precision(name):
    pipe = copy.deepcopy(PIPES[name])
    full = score_of(name, pipe, sigma=1.0)
    x = points(full)
    expected = full(x)
    pipe.to(torch.bfloat16)
    half = score_of(name, pipe, sigma=1.0)
    found = half(x)
    assert found.dtype == torch.float32 and half.model.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert bool(torch.isfinite(latents.decode(half, x)).all())


@pytest.mark.parametrize("name", ["FLUX.1", "FLUX.2-klein"])
def test_noise_levels_close_together_stay_apart_in_half_precision(name):
    """Its network would round 368.3 to 368."""
    pipe = copy.deepcopy(PIPES[name]).to(torch.bfloat16)
    score = score_of(name, pipe)
    embedding = pipe.transformer.get_submodule(score.family.time_embedding)
    seen = []
    watch = embedding.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    t = 0.3683
    score.at(t / (1 - t))(points(score))
    watch.remove()
    assert float(seen[0][0]) == pytest.approx(368.3, abs=1e-3)
    assert len(embedding._forward_pre_hooks) == 0
    if name == "FLUX.1":
        assert float(seen[1][0]) == 1000


@every_family
def test_slicing_and_tiling_change_nothing_but_memory(name):
    plain = score_of(name, sigma=1.0)
    x = points(plain)
    expected, images = plain(x), latents.decode(plain, x)
    pipe = copy.deepcopy(PIPES[name])
    pipe.enable_attention_slicing("max")
    pipe.vae.enable_tiling()
    thrifty = score_of(name, pipe, sigma=1.0, micro_batch=1)
    torch.testing.assert_close(thrifty(x), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(latents.decode(thrifty, x), images, rtol=1e-3, atol=1e-3)


def arrive_whole(network, inputs):
    """As `network.to(device)` in the hook of model offloading."""
    network._apply(torch.clone)


def offload(pipe, how):
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    for network in networks:
        if how == "sequential":
            accelerate.cpu_offload(network, torch.device("cpu"))
        if how == "new weights":
            network._hf_hook = SimpleNamespace(execution_device=torch.device("cpu"))
            network.register_forward_pre_hook(arrive_whole)


@pytest.mark.parametrize("how", ["new weights", "model", "sequential"])
@pytest.mark.parametrize("name", ["Stable Diffusion XL", "FLUX.2-klein"])
def test_weights_that_come_when_they_are_needed(name, how):
    """In half precision: SDXL's autoencoder overflows there, and a copy goes on in float32."""

    def answers(score):
        x = points(score)
        # Forward mode first: weights that arrive in it must be of use afterwards.
        slope = score.derivative(x, x)
        images = latents.decode(score, x)
        guided = score.prompted("a dog", guidance=2.0)
        return slope, score(x), images, latents.encode(score, images), guided(x)

    pipe = copy.deepcopy(PIPES[name]).to(torch.float16)
    expected = answers(score_of(name, pipe, sigma=1.0))
    offload(pipe, how)
    score = score_of(name, pipe, sigma=1.0)
    torch.testing.assert_close(answers(score), expected, rtol=1e-2, atol=1e-2)
    if how == "model" and name == "Stable Diffusion XL":
        # The copy sends the pipeline's own network away, and has none of its own.
        assert score.guarded_vae.module._hf_hook.prev_module_hook.model is pipe.unet


def test_a_network_alone_whose_weights_come_when_they_are_needed():
    score = gaussian_denoiser(sigma=1.0)
    x = points(score).double()
    expected = score(x)
    hook = AlignDevicesHook(torch.device("cpu"), offload=True, place_submodules=True)
    add_hook_to_module(score.model, hook)
    assert next(score.model.parameters()).is_meta
    assert torch.equal(score(x), expected)


# Loading


@every_family
def test_loaded_as_it_was_saved(name, tmp_path, no_unpickling):
    PIPES[name].save_pretrained(tmp_path)
    given = score_of(name, sigma=1.0)
    settings = {"size": SMALL[name]} if name in SMALL else {}
    score = load(tmp_path, prompt=given.prompt, sigma=1.0, micro_batch=4, **settings)
    x = points(given)
    torch.testing.assert_close(score(x), given(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.decode(score, x), latents.decode(given, x))
    assert score.origin["name"] == tmp_path.name and score.settings == given.settings
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    unread = {"model_index.json", "text_encoder/generation_config.json"}
    assert set(score.origin["sha256"]) == files - unread


@pytest.mark.parametrize("length", [256, 0])
def test_stable_diffusion_3_without_its_largest_text_encoder(length, tmp_path, no_unpickling):
    """Zeros stand for its tokens, or nothing where config.json says that the model knows none."""
    pipe = copy.deepcopy(PIPES["Stable Diffusion 3"])
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    if length == 0:
        pipe.transformer.register_to_config(_max_sequence_length=0)
    pipe.save_pretrained(tmp_path)
    score = load(tmp_path, prompt="a cat", sigma=1.0)
    tokens = score.embed("a cat")["encoder_hidden_states"].shape[1]
    assert tokens == score.pipe.tokenizer.model_max_length + length
    given = from_pipeline(pipe, prompt="a cat", sigma=1.0)
    torch.testing.assert_close(score(points(score)), given(points(score)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="this model reads 16"):
        score.prompted("a hand of many fingers")


def change(folder, **settings):
    """Another config.json of the network."""
    path = next(folder.glob("transformer/config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def drop_a_weight(folder):
    path = next(folder.glob("transformer/*.safetensors"))
    weights = load_file(path)
    weights.pop("proj_out.bias")
    save_file(weights, path, {"format": "pt"})


def take_scheduler(folder, name):
    shutil.rmtree(folder / "scheduler")
    PIPES[name].scheduler.save_pretrained(folder / "scheduler")


def leave_out(folder, part):
    index = folder / "model_index.json"
    settings = json.loads(index.read_text())
    del settings[part]
    index.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "harm, error, words",
    [
        (drop_a_weight, ValueError, r"missing weights \(proj_out.bias\)"),
        (
            lambda folder: change(folder, _class_name="FluxTransformer2DModel"),
            ValueError,
            "is a FluxTransformer2DModel, not a SD3Transformer2DModel: parts of two models",
        ),
        (lambda folder: change(folder, in_channels=8), ValueError, "makes 4 channels of 8"),
        (lambda folder: take_scheduler(folder, "DiT"), TypeError, "kind flow.*is of kind discrete"),
        (lambda folder: leave_out(folder, "vae"), ValueError, "has no vae in its model_index"),
        (lambda folder: leave_out(folder, "text_encoder_2"), ValueError, "has no text_encoder_2"),
        (
            lambda folder: shutil.rmtree(folder / "vae"),
            FileNotFoundError,
            "neither vae/config.json",
        ),
    ],
)
def test_folders_that_are_damaged_or_of_two_families(harm, error, words, tmp_path):
    PIPES["Stable Diffusion 3"].save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(error, match=words):
        load(tmp_path)


def test_a_single_file_says_how_to_convert_it(tmp_path):
    (tmp_path / "dream.safetensors").write_bytes(b"")
    for name in (tmp_path / "dream.safetensors", "dream.safetensors"):
        with pytest.raises(ValueError, match=r"from_single_file\('dream.safetensors'\)\n.*'dream'"):
            load(name)


def test_a_folder_by_the_name_of_a_distilled_model(tmp_path):
    PIPES["Stable Diffusion XL"].save_pretrained(tmp_path / "SDXL-Lightning")
    with pytest.raises(ValueError, match="lightning"):
        load(tmp_path / "SDXL-Lightning")


# What is refused


def with_network(name, **config):
    """A pipeline whose network says another thing of itself."""
    pipe = copy.copy(PIPES[name])
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    network = copy.deepcopy(getattr(pipe, part))
    network.register_to_config(**config)
    setattr(pipe, part, network)
    return pipe


def with_scheduler(name, scheduler):
    pipe = copy.copy(PIPES[name])
    pipe.scheduler = scheduler
    return pipe


def with_config(name, **config):
    pipe = copy.copy(PIPES[name])
    pipe.register_to_config(**config)
    return pipe


def without(name, part):
    pipe = copy.copy(PIPES[name])
    setattr(pipe, part, None)
    return pipe


def schnell():
    pipe = with_network("FLUX.1", guidance_embeds=False)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    return pipe


@pytest.mark.parametrize(
    "pipe, error, words",
    [
        (lambda: with_scheduler("Stable Diffusion", LCMScheduler()), TypeError, "consistency"),
        (lambda: with_network("Stable Diffusion", time_cond_proj_dim=8), ValueError, "consistency"),
        (lambda: with_network("Stable Diffusion", in_channels=9), ValueError, "inpainting"),
        (
            lambda: with_network("Stable Diffusion", addition_embed_type="text_time"),
            ValueError,
            "more than text",
        ),
        (
            lambda: with_scheduler("Stable Diffusion", FlowMatchEulerDiscreteScheduler()),
            TypeError,
            "kind discrete.*is of kind flow",
        ),
        (
            lambda: with_scheduler("Stable Diffusion 3", EulerDiscreteScheduler()),
            TypeError,
            "kind flow.*is of kind discrete",
        ),
        (lambda: with_scheduler("PixArt", FlowMatchEulerDiscreteScheduler()), TypeError, "kind"),
        (schnell, ValueError, "FLUX.1-dev"),
        (lambda: with_config("FLUX.2-klein", is_distilled=True), ValueError, "is_distilled"),
        (lambda: with_network("Sana", guidance_embeds=True), ValueError, "Sprint"),
        (
            lambda: with_config("Stable Diffusion XL", _name_or_path="a/sdxl-turbo"),
            ValueError,
            "turbo",
        ),
        (lambda: without("Stable Diffusion 3", "vae"), ValueError, "no vae"),
        (lambda: SimpleNamespace(config={}), ValueError, "of no family"),
    ],
)
def test_pipelines_without_a_score(pipe, error, words):
    with pytest.raises(error, match=words):
        from_pipeline(pipe())


def test_families_that_are_not_known_say_why():
    for pipeline in ("StableDiffusionInpaintPipeline", "FluxControlNetPipeline", "WanPipeline"):
        with pytest.raises(ValueError, match=f"{pipeline} has no score here: "):
            family_of(pipeline)
    with pytest.raises(ValueError, match=r"CONTRIBUTING.md"):
        family_of("AllegroPipeline")
    # A word that refuses must not hide a family.
    for known in FAMILIES:
        for pipeline in known.pipelines:
            assert family_of(pipeline) is known
            assert not any(word in pipeline for word in REFUSED)


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("Stable Diffusion 3", {"size": (16, 18)}, "multiples of 4 pixels"),
        ("Stable Diffusion 3", {"prompt": 3}, "is a text, got 3"),
        ("Stable Diffusion 3", {"size": (64, 64)}, "at most 32 pixels"),
        ("FLUX.1", {"size": (18, 16)}, "multiples of 4 pixels"),
        ("Stable Diffusion XL", {"prompt": "a hand of many fingers"}, "this model reads 16"),
        ("PixArt", {"prompt": "a " * 200}, "this model reads 300"),
        ("FLUX.2-klein", {"prompt": "a " * 300}, "this model reads 512"),
        ("Stable Diffusion 3", {"prompt": torch.zeros(1, 4, 64)}, "pooled_projections"),
        (
            "Stable Diffusion 3",
            {
                "prompt": {
                    "encoder_hidden_states": torch.zeros(1, 4, 64),
                    "pooled_projections": torch.zeros(1, 7),
                }
            },
            r"\(k, 64\).*two models",
        ),
        (
            "Stable Diffusion 3",
            {
                "prompt": {
                    "encoder_hidden_states": torch.zeros(1, 4, 64),
                    "pooled_projections": torch.zeros(2, 64),
                }
            },
            "the same k",
        ),
    ],
)
def test_settings_that_do_not_fit(name, settings, words):
    with pytest.raises(ValueError, match=words):
        score_of(name, **settings)


def test_embedded_guidance_is_named():
    assert "guidance 1" in score_of("FLUX.1").settings["embedded_guidance"]
    assert "embedded_guidance" not in score_of("Stable Diffusion 3").settings


def test_a_prompt_needs_no_text_encoder_once_it_is_read():
    """The largest part of a model can leave the memory."""
    whole = score_of("FLUX.1", sigma=1.0)
    told, x = whole.embed("a cat"), points(whole)
    pipe = copy.copy(PIPES["FLUX.1"])
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        setattr(pipe, part, None)
    assert torch.equal(score_of("FLUX.1", pipe, prompt=told, sigma=1.0)(x), whole(x))


def test_a_dit_without_its_pipeline():
    """Its classes are one more than it names."""
    network = PIPES["DiT"].transformer
    score = DenoiserScore(network, DDPMScheduler(), scale=1.0, shift=0.0, sigma=1.0)
    assert score.label == 10
    x = points(score)
    torch.testing.assert_close(score(x), score_of("DiT", prompt="", sigma=1.0)(x))
    torch.testing.assert_close(score.conditioned(3)(x), score_of("DiT", prompt=3, sigma=1.0)(x))


def test_a_pipeline_score_counts_network_inputs():
    score = score_of("Stable Diffusion 3", guidance=2.0, sigma=1.0)
    score(points(score))
    assert isinstance(score, PipelineScore)
    assert (score.counter.evaluations, score.counter.batches) == (4, 1)
