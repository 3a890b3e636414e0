"""Loading learned scores: every layout, every way a checkpoint can be wrong, and no pickle."""

import hashlib
import json
import pickle
import shutil
import sys

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UNet1DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from pipelines import TOKENS, pipeline, saved
from safetensors.torch import load_file, save_file

from experiments import data
from lib import flow
from lib.latents import decode
from lib.scores import DenoiserScore, PipelineScore, load, loading

pytestmark = pytest.mark.usefixtures("no_unpickling")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NETWORK = "unet/config.json"
SCHEDULE = "scheduler/scheduler_config.json"
INDEX = "model_index.json"


def network(channels=1, size=8, **settings):
    settings = {
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "out_channels": channels,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    } | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(sample_size=size, in_channels=channels, **settings).eval()


@pytest.fixture
def folder(tmp_path):
    """A model of pixels."""
    DDPMPipeline(network(), DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def latent_original(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def latent_folder(latent_original, tmp_path):
    """A Stable Diffusion."""
    return shutil.copytree(latent_original, tmp_path / "latent")


def answers(score, seed=0):
    x = torch.rand(2, *score.event_shape, generator=torch.Generator().manual_seed(seed))
    return score.at(0.5)(x)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Layouts


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(),
        DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
        EDMEulerScheduler(sigma_data=0.6),
    ],
    ids=["DDPM", "DDIM v", "cosine sample", "EDM"],
)
@pytest.mark.parametrize("channels, size", [(1, 8), (3, (8, 16))])
def test_a_saved_pipeline_gives_the_score_of_its_parts(tmp_path, scheduler, channels, size):
    unet = network(channels, size)
    state = torch.get_rng_state()
    kind = DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline
    kind(unet, scheduler).save_pretrained(tmp_path / "model")
    score = load(tmp_path / "model")
    assert score.event_shape == (channels, 8, 8 if size == 8 else 16)
    assert type(score.scheduler) is type(scheduler)
    assert torch.equal(answers(score), answers(DenoiserScore(unet, scheduler)))
    assert not score.model.training
    assert not any(weight.requires_grad for weight in score.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("index", [False, True])
def test_config_weights_and_scheduler_side_by_side(tmp_path, folder, index):
    shutil.copytree(folder / "unet", tmp_path / "flat")
    shutil.copy(folder / SCHEDULE, tmp_path / "flat")
    if index:
        shutil.copy(folder / INDEX, tmp_path / "flat")
    assert torch.equal(answers(load(str(tmp_path / "flat"))), answers(load(folder)))


def test_settings_reach_the_score(folder):
    settings = {"sigma": 0.7, "micro_batch": 3, "scale": 1.0, "shift": 0.0}
    score = load(folder, dtype=torch.float64, device="cpu", **settings)
    assert {name: getattr(score, name) for name in settings} == settings
    assert next(score.model.parameters()).dtype == torch.float64


def test_a_class_conditional_model_takes_its_label(tmp_path):
    unet = network(num_class_embeds=5)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    expected = DenoiserScore(unet, DDPMScheduler(), label=2)
    assert torch.equal(answers(load(tmp_path, label=2)), answers(expected))
    # Its last class is a class like any other, as long as config.json does not say otherwise.
    with pytest.raises(ValueError, match="give label="):
        load(tmp_path)
    unet.register_to_config(_no_class=2)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    assert torch.equal(answers(load(tmp_path)), answers(expected))


def test_a_learned_variance_is_left_aside(tmp_path):
    scheduler = DDPMScheduler(variance_type="learned_range")
    DDPMPipeline(network(2, out_channels=4), scheduler).save_pretrained(tmp_path)
    assert answers(load(tmp_path)).shape == (2, 2, 8, 8)


def test_the_original_score_model_and_one_of_signals(tmp_path):
    noisy = network(time_embedding_type="fourier")
    kind = ScoreSdeVeScheduler(sigma_max=50.0)
    ScoreSdeVePipeline(noisy, kind).save_pretrained(tmp_path / "images")
    score = load(tmp_path / "images")
    assert (score.scale, score.shift) == (1, 0)
    assert torch.equal(answers(score), answers(DenoiserScore(noisy, kind)))
    with torch.random.fork_rng(devices=[]):
        signals = UNet1DModel(
            sample_size=16,
            time_embedding_type="positional",
            extra_in_channels=32,
            block_out_channels=(32, 32),
            down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
            up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        ).eval()
    signals.save_pretrained(tmp_path / "signals")
    DDPMScheduler().save_pretrained(tmp_path / "signals")
    score = load(tmp_path / "signals")
    assert score.event_shape == (2, 16)
    assert torch.equal(answers(score), answers(DenoiserScore(signals, DDPMScheduler())))


def test_half_precision_and_variants(tmp_path):
    unet = network().half()
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "half")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "variant", variant="fp16")
    wide = load(tmp_path / "half")
    assert next(wide.model.parameters()).dtype == torch.float32
    assert torch.equal(answers(load(tmp_path / "variant", variant="fp16")), answers(wide))
    half = load(tmp_path / "half", dtype=torch.float16)
    assert next(half.model.parameters()).dtype == torch.float16
    with pytest.raises(FileNotFoundError, match=r"fp16.safetensors.*variant="):
        load(tmp_path / "variant")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files(tmp_path, variant):
    unet = network()
    model = DDPMPipeline(unet, DDPMScheduler())
    model.save_pretrained(tmp_path, max_shard_size="100KB", variant=variant)
    score = load(tmp_path, variant=variant)
    assert torch.equal(answers(score), answers(DenoiserScore(unet, DDPMScheduler())))
    assert sum("-of-" in name for name in score.origin["sha256"]) > 1


@pytest.mark.parametrize("version", ["1.5", "2.1"])
def test_a_stable_diffusion_is_its_pipeline(tmp_path, version):
    folder = saved(tmp_path / "model", version)
    settings = {"prompt": "a cat", "guidance": 2.0, "sigma": 1.0}
    score = load(folder, attention_slicing=True, vae_tiling=True, micro_batch=2, **settings)
    given = PipelineScore(pipeline(version), **settings)
    torch.testing.assert_close(answers(score), answers(given), rtol=1e-3, atol=1e-4)
    assert score.schedule.prediction == {"1.5": "epsilon", "2.1": "v_prediction"}[version]
    assert score.settings == given.settings
    for part in (score.model, score.pipe.vae, score.pipe.text_encoder):
        assert not any(weight.requires_grad for weight in part.parameters())
    half = load(folder, dtype=torch.bfloat16, **settings)
    assert half.model.dtype == half.pipe.text_encoder.dtype == torch.bfloat16
    assert (answers(half) - answers(score)).norm() < 0.1 * answers(score).norm()


def test_variants_of_a_stable_diffusion(tmp_path):
    folder = saved(tmp_path / "model", variant="fp16")
    assert load(folder, variant="fp16").event_shape == (4, 8, 8)
    with pytest.raises(FileNotFoundError, match="variant="):
        load(folder)


def test_files_as_stable_diffusion_came_out_with_them(latent_folder, latent_original):
    """Its tokenizer in two files, position numbers as weights, old names in the VAE's attention."""
    same = load(latent_original, prompt="a cat")
    tokenizer = latent_folder / "tokenizer"
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")

    path = latent_folder / "text_encoder/model.safetensors"
    weights = load_file(path)
    prefix = "text_model." if any(key.startswith("text_model.") for key in weights) else ""
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(TOKENS)[None]
    save_file(weights, path, {"format": "pt"})

    path = latent_folder / "vae/diffusion_pytorch_model.safetensors"
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in load_file(path).items():
        for new, old in old_names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[key] = value
    assert any("proj_attn" in key for key in renamed)
    save_file(renamed, path, {"format": "pt"})

    score = load(latent_folder, prompt="a cat")
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(score.embed("a cat"), same.embed("a cat"))
    assert torch.equal(score.pipe.vae.decode(z).sample, same.pipe.vae.decode(z).sample)


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_the_origin_names_what_was_read_and_no_place(kind, folder, latent_folder):
    folder = folder if kind == "pixels" else latent_folder
    score = load(folder)
    read = [
        *folder.glob("unet/*"),
        *folder.glob("scheduler/*"),
        *folder.glob("vae/*"),
        *folder.glob("text_encoder/*"),
        *folder.glob("tokenizer/*"),
    ]
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in read
    }
    assert score.origin == {"name": folder.name, "revision": None, "sha256": sums}
    assert score.at(0.3).origin == score.origin


# What is refused


def change(edit, file=WEIGHTS):
    def harm(folder):
        tensors = load_file(folder / file)
        edit(tensors)
        save_file(tensors, folder / file, {"format": "pt"})

    return harm


def configure(file, **settings):
    def harm(folder):
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | settings))

    return harm


def write(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def cut(file):
    def harm(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return harm


def remove(name):
    def harm(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def pickled(file, pickle_name):
    """Weights as a pickle alone."""

    def harm(folder):
        (folder / file).unlink()
        (folder / file).with_name(pickle_name).write_bytes(pickle.dumps({"conv_in.bias": [0.0]}))

    return harm


FAULTS = {
    "weights cut short": (cut(WEIGHTS), ValueError, "unet.*copy it again"),
    "weights empty": (write(WEIGHTS, b""), ValueError, "unet.*copy it again"),
    "a pickle by that name": (write(WEIGHTS, pickle.dumps({})), ValueError, "copy it again"),
    "missing": (change(lambda t: t.pop("conv_in.bias")), ValueError, r"missing.*\(conv_in.bias\)"),
    "no weight left": (change(lambda t: t.clear()), ValueError, "missing"),
    "superfluous": (change(lambda t: t.update(extra=torch.ones(2))), ValueError, r"\(extra\)"),
    "another size": (
        change(lambda t: t.update({"conv_in.bias": torch.ones(5)})),
        ValueError,
        "of another model",
    ),
    "not a number": (
        change(lambda t: t["conv_in.bias"].fill_(float("nan"))),
        ValueError,
        r"not all finite \(conv_in.bias\)",
    ),
    "wider network": (configure(NETWORK, block_out_channels=[16, 32]), ValueError, "another model"),
    "shallower network": (configure(NETWORK, mid_block_type=None), ValueError, "unexpected"),
    "unknown block": (
        configure(NETWORK, down_block_types=["DownBlock3D", "DownBlock2D"]),
        ValueError,
        "DownBlock3D",
    ),
    "another class": (
        configure(NETWORK, _class_name="Transformer2DModel"),
        ValueError,
        "is a Transformer2DModel, not a UNet2DModel",
    ),
    "another time": (configure(NETWORK, time_embedding_type="fourier"), ValueError, "fourier"),
    "another class embedding": (
        configure(NETWORK, class_embed_type="identity"),
        ValueError,
        "class_embed_type 'identity'",
    ),
    "config cut short": (cut(NETWORK), ValueError, "config.json of unet is no JSON"),
    "config a list": (write(NETWORK, b"[]"), ValueError, "holds no settings"),
    "config not text": (write(NETWORK, b"\xff\xfe\x00"), ValueError, "is no JSON"),
    "scheduler cut short": (cut(SCHEDULE), ValueError, "is no JSON"),
    "no scheduler class": (configure(SCHEDULE, _class_name="utils"), ValueError, "no scheduler"),
    "unknown schedule": (configure(SCHEDULE, beta_schedule="sudden"), ValueError, "sudden"),
    "unknown prediction": (
        configure(SCHEDULE, prediction_type="epsilom"),
        ValueError,
        "did you mean 'epsilon'",
    ),
    "distilled scheduler": (
        configure(SCHEDULE, _class_name="LCMScheduler"),
        TypeError,
        "LCMScheduler",
    ),
    "no scheduler": (remove("scheduler"), FileNotFoundError, "scheduler.save_pretrained"),
    "no weights": (remove(WEIGHTS), FileNotFoundError, "no weights at all"),
    "no config": (remove(NETWORK), FileNotFoundError, "neither unet/config.json nor config.json"),
    "a vae beside it": (
        lambda folder: (folder / "vae").mkdir(),
        ValueError,
        "DDPMPipeline is of no family",
    ),
    "a vae in the index": (
        configure(INDEX, vqvae=["diffusers", "VQModel"]),
        ValueError,
        "DDPMPipeline is of no family",
    ),
}
for pickle_name in ("diffusion_pytorch_model.bin", "model.pt", "last.ckpt"):
    FAULTS[pickle_name] = (
        pickled(WEIGHTS, pickle_name),
        FileNotFoundError,
        f"only {pickle_name}.*safe_serialization=True",
    )

LATENT_FAULTS = {
    "no index": (remove(INDEX), ValueError, "no model_index.json names its pipeline"),
    "no vae": (remove("vae"), FileNotFoundError, "neither vae/config.json"),
    "no tokenizer": (remove("tokenizer"), FileNotFoundError, "tokenizer"),
    "no weights": (remove(WEIGHTS), FileNotFoundError, "unet holds no diffusion_pytorch_model"),
    "pickled text encoder": (
        pickled("text_encoder/model.safetensors", "pytorch_model.bin"),
        FileNotFoundError,
        "text_encoder holds no model.safetensors, only pytorch_model.bin",
    ),
    "SDXL": (
        configure(INDEX, _class_name="StableDiffusionXLPipeline"),
        ValueError,
        "has no text_encoder_2",
    ),
    "inpainting": (
        configure(INDEX, _class_name="StableDiffusionInpaintPipeline"),
        ValueError,
        "StableDiffusionInpaintPipeline has no score here",
    ),
    "another network": (
        configure(NETWORK, _class_name="Transformer2DModel"),
        ValueError,
        "not a UNet2DConditionModel",
    ),
    "other text": (configure(NETWORK, cross_attention_dim=64), ValueError, "another model"),
    "deeper text encoder": (
        configure("text_encoder/config.json", num_hidden_layers=3),
        ValueError,
        "text_encoder do not fit.*missing",
    ),
    "damaged tokenizer": (write("tokenizer/tokenizer.json", b"{"), ValueError, "tokenizer"),
    "damaged vae": (
        write("vae/diffusion_pytorch_model.safetensors", b"no"),
        ValueError,
        "vae.*copy it again",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_of_pixels_that_is_damaged_or_another_one(folder, fault):
    harm, error, words = FAULTS[fault]
    harm(folder)
    before = contents(folder)
    with pytest.raises(error, match=words):
        load(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("fault", LATENT_FAULTS)
def test_a_stable_diffusion_that_is_damaged_or_another_one(latent_folder, fault):
    harm, error, words = LATENT_FAULTS[fault]
    harm(latent_folder)
    with pytest.raises(error, match=words):
        load(latent_folder)


def test_other_networks_are_refused(tmp_path):
    with torch.random.fork_rng(devices=[]):
        text = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            cross_attention_dim=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
    text.save_pretrained(tmp_path / "text" / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "text" / "scheduler")
    with pytest.raises(ValueError, match="is a UNet2DConditionModel, not a UNet2DModel"):
        load(tmp_path / "text")
    DDPMPipeline(network(3, out_channels=1), DDPMScheduler()).save_pretrained(tmp_path / "channels")
    with pytest.raises(ValueError, match="makes 1 channels of 3"):
        load(tmp_path / "channels")


def test_a_part_that_is_left_out_of_the_index_is_none(folder):
    configure(INDEX, vae=[None, None], vqvae=None)(folder)
    assert load(folder).event_shape == (1, 8, 8)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"prompt": "a cat"}, "setting of a model of pixels: 'prompt'"),
        ({"micro_bach": 2}, "did you mean 'micro_batch'"),
        ({"sigma": 1e-4}, "sigma must lie in"),
        ({"label": 1}, "without classes"),
        ({"revision": "main"}, "revision=None"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_settings_that_a_model_of_pixels_has_not(folder, settings, words):
    with pytest.raises(ValueError, match=words):
        load(folder, **settings)


@pytest.mark.parametrize("setting", [{"label": 3}, {"scale": 2.0}, {"promt": "a cat"}])
def test_settings_that_a_stable_diffusion_has_not(latent_original, setting):
    with pytest.raises(ValueError, match=f"a Stable Diffusion: '{next(iter(setting))}'"):
        load(latent_original, **setting)


def test_names_that_are_nothing(tmp_path):
    with pytest.raises(ValueError, match="rotated-mnist, hands"):
        load("rotated-mnits")
    for place in (tmp_path / "typo", "data/models/rotated-mnst"):
        with pytest.raises(FileNotFoundError, match="name the folder"):
            load(place)


# Bundled models


@pytest.fixture
def bundled(folder, monkeypatch):
    """A small model in the place of the bundled one."""
    lines = [f'[rotated-mnist]\nbundled = "{folder.name}"\nfiles = [']
    for path in contents(folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        lines.append(
            f'    {{ name = "{name}", size = {path.stat().st_size}, sha256 = "{digest}" }},'
        )
    (folder.parent / "registry.toml").write_text("\n".join([*lines, "]\n"]))
    monkeypatch.setattr(loading, "DATA", folder.parent)
    return folder


def test_a_bundled_model_is_compared_with_its_checksums(bundled):
    score = load("rotated-mnist")
    assert score.origin["name"] == "rotated-mnist"
    assert torch.equal(answers(score), answers(load(bundled)))
    content = bytearray((bundled / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bundled / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        load("rotated-mnist")
    (bundled / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="training rotated-mnist"):
        load("rotated-mnist")


def test_the_bundled_model_denoises_digits():
    digits = data.rotate(data.digits("sklearn", limit=20).images, torch.arange(20.0) * 18)
    score = load("rotated-mnist", sigma=0.5)
    noisy = digits + 0.5 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    assert score.event_shape == (1, 28, 28)
    assert (score.denoise(noisy) - digits).square().mean() < 0.1 * 0.25


def test_two_bundled_models_of_the_same_photographs_agree(generator):
    """One predicts v by a U-Net, one the velocity of a flow by a transformer."""
    one = load("hands", prompt="")
    other = load("hands-flow", prompt="")
    drawn = flow.sample(one, 2, generator, steps=8)
    noisy = drawn + torch.randn(drawn.shape, generator=generator)
    steps = [score.at(1.0)(noisy).flatten(1) for score in (one, other)]
    assert torch.cosine_similarity(*steps).min() > 0.9
    pictures = [decode(score, drawn) for score in (one, other)]
    torch.testing.assert_close(*pictures)


# The hub


@pytest.fixture
def hub(folder, latent_folder, tmp_path, monkeypatch):
    """A hub with two models; returns what was fetched, and the revisions asked for."""
    fetched, revisions = [], []

    def snapshot_download(name, *, revision, allow_patterns):
        revisions.append(revision)
        source = {"someone/digits": folder, "someone/sd": latent_folder}[name]
        names = [path.relative_to(source).as_posix() for path in contents(source)]
        for file in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            fetched.append(file)
            (tmp_path / "0c0ffee" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, tmp_path / "0c0ffee" / file)
        return str(tmp_path / "0c0ffee")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return fetched, revisions


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [False, True])
def test_only_the_weights_needed_are_fetched_and_of_one_commit(folder, hub, variant, shards):
    unet = network()
    size = {"max_shard_size": "100KB"} if shards else {}
    (folder / WEIGHTS).unlink()
    for name in (None, "fp16"):
        unet.save_pretrained(folder / "unet", variant=name, **size)
    for name in (
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "model.safetensors",
        "ema/diffusion_pytorch_model.safetensors",
        "unet/run.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    score = load("someone/digits", variant=variant)
    weights = [name for name in hub[0] if not name.endswith(".json")]
    assert all(name.endswith(".safetensors") for name in weights)
    assert all((".fp16" in name) == (variant == "fp16") for name in weights)
    assert len(weights) == len([name for name in score.origin["sha256"] if "pytorch" in name])
    assert hub[1] == [None, "0c0ffee"]
    assert score.origin["revision"] == "0c0ffee"
    assert torch.equal(answers(score), answers(DenoiserScore(unet, DDPMScheduler())))


def test_a_stable_diffusion_from_the_hub(hub, latent_folder):
    score = load("someone/sd", revision="v1", prompt="a cat")
    assert hub[1] == ["v1", "0c0ffee"]
    assert score.origin["name"] == "someone/sd"
    assert torch.equal(answers(score), answers(load(latent_folder, prompt="a cat")))


@pytest.mark.parametrize(
    "device, error, words", [("cpu", ValueError, "device="), ("meta", ImportError, "pip install")]
)
def test_weights_that_cannot_be_offloaded_are_not_loaded(
    device, error, words, latent_folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    (latent_folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(error, match=words):
        load(latent_folder, device=device, cpu_offload=True)


@pytest.mark.parametrize("fault", ["another class", "another time", "distilled scheduler"])
def test_what_does_not_fit_is_refused_before_its_weights_are_fetched(folder, hub, fault):
    harm, error, words = FAULTS[fault]
    harm(folder)
    with pytest.raises(error, match=words):
        load("someone/digits")
    assert all(name.endswith(".json") for name in hub[0])


def test_a_hub_id_is_taken_from_the_cache_by_its_revision(folder, tmp_path, monkeypatch):
    """huggingface_hub's own cache layout, filled by hand: found without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--digits"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    original = huggingface_hub.snapshot_download
    cache = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: original(*a, **cache, **k)
    )
    for revision in (None, commit):
        score = load("someone/digits", revision=revision)
        assert (score.origin["name"], score.origin["revision"]) == ("someone/digits", commit)
        assert torch.equal(answers(score), answers(load(folder)))


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    # Nobody listens there.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"someone/faces' \(revision v2\)"):
        load("someone/faces", revision="v2")
