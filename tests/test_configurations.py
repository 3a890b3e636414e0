"""The true configurations of Stable Diffusion 1.5, 2.1-base and 2.1, with widths an eighth."""

import copy
import json
import warnings

import pytest
import torch

from benchmarks import stable_diffusion
from benchmarks.stable_diffusion import (
    CONFIGURATIONS,
    WIDTHS,
    configuration,
    large_parts,
    parts,
)
from lib import latents
from lib.scores import PipelineScore, load

NARROW, PROMPT = 8, "a cat"
SIZES = {
    "1.5": (859_520_964, 83_653_863, 123_060_480),
    "2.1-base": (865_910_724, 83_653_863, 340_387_840),
    "2.1": (865_910_724, 83_653_863, 340_387_840),
}  # parameters of U-Net, VAE, text encoder
every_version = pytest.mark.parametrize("version", CONFIGURATIONS)


@pytest.fixture(scope="module")
def pipes():
    return {version: stable_diffusion.pipeline(version, NARROW) for version in CONFIGURATIONS}


@pytest.fixture(scope="module")
def folders(pipes, tmp_path_factory):
    """Each version as `save_pretrained` writes it."""
    made = {version: tmp_path_factory.mktemp("true") / version for version in CONFIGURATIONS}
    for version, folder in made.items():
        pipes[version].save_pretrained(folder)
    return made


def points(score, n=2):
    return torch.randn(n, *score.event_shape, generator=torch.Generator().manual_seed(0))


@every_version
def test_published_numbers_of_parameters(version):
    with torch.device("meta"):
        made = parts(version)
    counts = tuple(
        sum(p.numel() for p in made[name].parameters()) for name in ("unet", "vae", "text_encoder")
    )
    assert counts == SIZES[version]


@pytest.mark.parametrize(
    "version, sizes",
    [("xl", (2_567_463_684, 83_653_863)), ("3-medium", (2_028_328_000, 83_819_683))],
)
def test_published_numbers_of_parameters_of_larger_models(version, sizes):
    with torch.device("meta"):
        made = large_parts(version)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in made.values()) == sizes


@every_version
def test_scaled_down_differs_in_widths_alone(version, folders):
    """In the files: widths and sizes are an eighth, everything else is the true model's."""
    for part in ("unet", "vae", "text_encoder"):
        kept, true = (
            json.loads((folders[version] / part / "config.json").read_text()),
            CONFIGURATIONS[version][part],
        )
        assert {key: kept[key] for key in true} == configuration(version, part, NARROW)
        shrunk = {key for key, value in true.items() if kept[key] != value}
        assert shrunk == WIDTHS & true.keys()


@every_version
def test_loaded_as_it_was_saved(version, folders, pipes):
    score = load(folders[version], prompt=PROMPT, sigma=1.0)
    prediction = {"1.5": "epsilon", "2.1-base": "epsilon", "2.1": "v_prediction"}
    assert score.schedule.prediction == prediction[version]
    assert (
        score.event_shape == {"1.5": (4, 8, 8), "2.1-base": (4, 8, 8), "2.1": (4, 12, 12)}[version]
    )
    torch.testing.assert_close(
        score.embed(PROMPT), pipes[version].encode_prompt(PROMPT, "cpu", 1, False)[0]
    )  # padded with "!" in 2.x
    x = points(score)
    given = PipelineScore(pipes[version], PROMPT, sigma=1.0)
    torch.testing.assert_close(score(x), given(x), rtol=1e-4, atol=1e-5)
    kept = 1 / (1 + 1.0**2)  # ᾱ at sigma = 1
    with torch.no_grad():
        out = score.model(
            x * kept**0.5,
            score.schedule.timestep(torch.ones(2, dtype=torch.float64)),
            encoder_hidden_states=score.embed(PROMPT).expand(2, -1, -1),
        ).sample
    clean = kept * x - (1 - kept) ** 0.5 * out if prediction[version] == "v_prediction" else x - out
    torch.testing.assert_close(score.denoise(x), clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["1.5", "2.1"])
def test_slicing_tiling_and_micro_batches_change_nothing_but_memory(version, folders):
    plain, thrifty = (
        load(folders[version], prompt=PROMPT, sigma=1.0, **settings)
        for settings in ({}, {"attention_slicing": True, "vae_tiling": True, "micro_batch": 1})
    )
    x = points(plain)
    torch.testing.assert_close(thrifty(x), plain(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        latents.decode(thrifty, x), latents.decode(plain, x), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "version, dtype",
    [("1.5", torch.float16), ("2.1-base", torch.bfloat16), ("2.1", torch.bfloat16)],
)
def test_half_precision_on_a_cpu(version, dtype, folders):
    full, half = (
        load(folders[version], prompt=PROMPT, sigma=1.0, dtype=d) for d in (torch.float32, dtype)
    )
    x = points(full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it does not fall back to single precision here
        values = half(x)
    assert values.dtype == x.dtype and {p.dtype for p in half.model.parameters()} == {dtype}
    assert (values - full(x)).norm() < (0.05 if dtype == torch.bfloat16 else 0.01) * full(x).norm()
    assert (latents.decode(half, x) - latents.decode(full, x)).abs().max() < 0.05


@pytest.mark.parametrize("size", [(64, 96), (128, 64)])
def test_other_sizes(size, folders):
    """Any multiple of 8 pixels: a network of convolutions and attention has no size of its own."""
    score = load(folders["2.1-base"], prompt=PROMPT, sigma=1.0, size=size)
    assert score.event_shape == (4, size[0] // 8, size[1] // 8)
    x = points(score, 1)
    assert score(x).shape == x.shape and bool(torch.isfinite(score(x)).all())
    images = latents.decode(score, x)
    assert images.shape == (1, 3, *size) and latents.encode(score, images).shape == x.shape


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards(variant, pipes, tmp_path):
    """As large models are kept: several files a part and an index."""
    pipe = copy.deepcopy(pipes["1.5"]).to(torch.float16 if variant else torch.float32)
    pipe.save_pretrained(tmp_path, variant=variant)
    for part in ("unet", "text_encoder"):
        for path in (tmp_path / part).glob("*.safetensors"):
            path.unlink()
        getattr(pipe, part).save_pretrained(
            tmp_path / part, variant=variant, max_shard_size="500KB"
        )
        assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    score = load(tmp_path, variant=variant, prompt=PROMPT, sigma=1.0)
    x, given = points(score), PipelineScore(pipe.to(torch.float32), PROMPT, sigma=1.0)
    torch.testing.assert_close(score(x), given(x), rtol=1e-3, atol=1e-4)
    shards = [
        name
        for name in score.origin["sha256"]
        if name.startswith("unet/") and name.endswith(".safetensors")
    ]
    assert len(shards) == len(list((tmp_path / "unet").glob("*.safetensors")))
