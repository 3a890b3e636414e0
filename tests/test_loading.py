"""Loading learned scores: every layout, and every way a checkpoint can be wrong. Nothing is ever unpickled."""

import hashlib
import json
import pickle
import shutil

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file

from experiments import data
from lib.scores import DenoiserScore, load

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
pytestmark = pytest.mark.usefixtures("no_unpickling")


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
    DDPMPipeline(network(), DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def answers(score, seed=0):
    x = torch.rand(2, *score.event_shape, generator=torch.Generator().manual_seed(seed))
    return score.at(0.5)(x)


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
@pytest.mark.parametrize("channels, size", [(1, 8), (3, 8), (3, (8, 16)), (2, 12)])
def test_a_saved_pipeline_gives_the_score_of_its_parts(tmp_path, scheduler, channels, size):
    unet, state = network(channels, size), torch.get_rng_state()
    pipeline = DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline
    pipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    score = load(tmp_path / "model")
    assert score.event_shape == (channels, *(size if isinstance(size, tuple) else (size, size)))
    assert score.schedule.prediction == scheduler.config.prediction_type and type(
        score.scheduler
    ) is type(scheduler)
    assert torch.equal(answers(score), answers(DenoiserScore(unet, scheduler)))
    assert not score.model.training and not any(p.requires_grad for p in score.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_bare_folder_with_its_scheduler_beside_it(tmp_path):
    unet, scheduler = network(), EDMEulerScheduler(sigma_data=0.6)
    unet.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    assert torch.equal(answers(load(str(tmp_path))), answers(DenoiserScore(unet, scheduler)))


def test_settings_reach_the_score(folder):
    score = load(
        folder, sigma=0.7, micro_batch=3, scale=1.0, shift=0.0, dtype=torch.float64, device="cpu"
    )
    assert (score.sigma, score.micro_batch, score.scale, score.shift) == (0.7, 3, 1.0, 0.0)
    assert next(score.model.parameters()).dtype == torch.float64
    with pytest.raises(ValueError, match="sigma must lie in"):
        load(folder, sigma=1e-4)
    with pytest.raises(ValueError, match="without classes"):
        load(folder, label=1)
    with pytest.raises(ValueError, match="unknown setting of a model of pixels: 'prompt'.*label"):
        load(folder, prompt="a cat")


def test_a_class_conditional_model_takes_its_label(tmp_path):
    unet = network(num_class_embeds=5)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "foreign")
    assert torch.equal(
        answers(load(tmp_path / "foreign", label=2)),
        answers(DenoiserScore(unet, DDPMScheduler(), label=2)),
    )
    with pytest.raises(ValueError, match="label must lie"):
        load(tmp_path / "foreign", label=5)
    with pytest.raises(
        ValueError, match=r"give label= \(0\.\.4\)"
    ):  # its last class is a class like any other
        load(tmp_path / "foreign")
    unet.register_to_config(_no_class=3)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "declared")
    assert torch.equal(
        answers(load(tmp_path / "declared")), answers(load(tmp_path / "foreign", label=3))
    )


def test_a_learned_variance_is_left_aside(tmp_path):
    unet = network(2, out_channels=4)
    DDPMPipeline(unet, DDPMScheduler(variance_type="learned_range")).save_pretrained(tmp_path)
    score = load(tmp_path)
    assert score.event_shape == (2, 8, 8) and answers(score).shape == (2, 2, 8, 8)


def test_half_precision_weights_and_variants(tmp_path):
    unet = network().half()
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "half")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "variant", variant="fp16")
    wide = load(tmp_path / "half")
    assert next(wide.model.parameters()).dtype == torch.float32
    assert torch.equal(answers(wide), answers(DenoiserScore(unet.float(), DDPMScheduler())))
    assert torch.equal(answers(load(tmp_path / "variant", variant="fp16")), answers(wide))
    assert (
        next(load(tmp_path / "half", dtype=torch.float16).model.parameters()).dtype == torch.float16
    )
    with pytest.raises(
        FileNotFoundError, match=r"only diffusion_pytorch_model.fp16.safetensors.*variant="
    ):
        load(tmp_path / "variant")


def test_weights_in_several_files(tmp_path):
    unet = network()
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path, max_shard_size="100KB")
    score = load(tmp_path)
    assert torch.equal(answers(score), answers(DenoiserScore(unet, DDPMScheduler())))
    assert sum("-of-" in name for name in score.origin["sha256"]) > 1


def test_the_origin_names_what_was_read_and_no_place(folder):
    score = load(folder)
    files = ("unet/config.json", WEIGHTS, "scheduler/scheduler_config.json")
    assert score.origin == {
        "name": "model",
        "revision": None,
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files
        },
    }
    assert score.at(0.3).origin == score.origin and str(folder.parent) not in json.dumps(
        score.origin
    )


def change(change_tensors):
    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        change_tensors(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return damage


def configure(file, **settings):
    def damage(folder):
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | settings))

    return damage


def cut(file, content=None):
    def damage(folder):
        raw = (folder / file).read_bytes()
        (folder / file).write_bytes(raw[: len(raw) // 2] if content is None else content)

    return damage


NETWORK, SCHEDULE = "unet/config.json", "scheduler/scheduler_config.json"
FAULTS = {
    "weights cut short": (cut(WEIGHTS), "damaged or belong to another network"),
    "weights empty": (cut(WEIGHTS, b""), "damaged or belong to another network"),
    "a pickle by that name": (
        cut(WEIGHTS, pickle.dumps({"conv_in.weight": 1})),
        "damaged or belong to another network",
    ),
    "missing weights": (
        change(lambda t: t.pop("conv_in.bias")),
        r"1 missing weights \(conv_in.bias\)",
    ),
    "superfluous weights": (
        change(lambda t: t.update(extra=torch.ones(2))),
        r"1 unexpected weights \(extra\)",
    ),
    "weights of another size": (
        change(lambda t: t.update({"conv_in.bias": torch.ones(5)})),
        "another network",
    ),
    "not a number": (
        change(lambda t: t["conv_in.bias"].fill_(float("nan"))),
        r"not all finite \(conv_in.bias\)",
    ),
    "no tensor left": (change(lambda t: t.clear()), "missing weights"),
    "wider network": (configure(NETWORK, block_out_channels=[16, 32]), "another network"),
    "deeper network": (configure(NETWORK, layers_per_block=2), "another network"),
    "shallower network": (configure(NETWORK, mid_block_type=None), "unexpected weights"),
    "unknown block": (
        configure(NETWORK, down_block_types=["DownBlock3D", "DownBlock2D"]),
        "another network",
    ),
    "another class": (
        configure(NETWORK, _class_name="Transformer2DModel"),
        "holds a Transformer2DModel, not a UNet2DModel",
    ),
    "another time": (
        configure(NETWORK, time_embedding_type="fourier"),
        "time_embedding_type 'fourier'",
    ),
    "classes as embeddings": (
        configure(NETWORK, class_embed_type="identity"),
        "class_embed_type 'identity'",
    ),
    "classes as times": (
        configure(NETWORK, class_embed_type="timestep"),
        r"missing weights \(class_embedding",
    ),
    "config cut short": (cut(NETWORK), "config.json of unet is no JSON"),
    "config empty list": (cut(NETWORK, b"[]"), "holds no settings"),
    "config not text": (cut(NETWORK, b"\xff\xfe\x00"), "is no JSON"),
    "scheduler cut short": (cut(SCHEDULE), "is no JSON"),
    "no scheduler class": (
        configure(SCHEDULE, _class_name="UNet2DModel"),
        "no scheduler of diffusers",
    ),
    "code as scheduler": (configure(SCHEDULE, _class_name="utils"), "no scheduler of diffusers"),
    "unknown scheduler": (
        configure(SCHEDULE, _class_name="FutureScheduler"),
        "no scheduler of diffusers",
    ),
    "unknown schedule": (
        configure(SCHEDULE, beta_schedule="sudden"),
        "scheduler_config.json is damaged",
    ),
    "unknown prediction": (
        configure(SCHEDULE, prediction_type="epsilom"),
        "did you mean 'epsilon'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_and_wrong_checkpoints_are_refused(folder, fault):
    damage, words = FAULTS[fault]
    damage(folder)
    with pytest.raises(ValueError, match=words):
        load(folder)


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
    with pytest.raises(ValueError, match="UNet2DConditionModel, not a UNet2DModel"):
        load(tmp_path / "text")
    DDPMPipeline(network(3, out_channels=1), DDPMScheduler()).save_pretrained(tmp_path / "channels")
    with pytest.raises(ValueError, match="makes 1 channels of 3"):
        load(tmp_path / "channels")
    whole = network(time_embedding_type="learned", num_train_timesteps=10)
    DDPMPipeline(whole, DDPMScheduler(10)).save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="whole time steps only"):
        load(tmp_path / "whole")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickled_weights_are_refused_with_the_mend(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / "unet" / name).write_bytes(pickle.dumps({"conv_in.bias": [0.0]}))
    with pytest.raises(
        FileNotFoundError,
        match=rf"only {name}.*pickled weights are never opened.*safe_serialization=True",
    ):
        load(folder)


def test_missing_files_are_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "no scheduler", ignore=shutil.ignore_patterns("scheduler"))
    with pytest.raises(
        FileNotFoundError,
        match=r"neither scheduler/scheduler_config.json nor.*scheduler.save_pretrained",
    ):
        load(tmp_path / "no scheduler")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no weights at all"):
        load(folder)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither unet/config\.json nor config\.json"):
        load(folder)


def test_names_that_are_nothing(tmp_path):
    with pytest.raises(
        ValueError, match=r"no bundled model \(rotated-mnist, hands\), no folder and no hub id"
    ):
        load("rotated-mnits")
    for place in (tmp_path / "typo", "data/models/rotated-mnst"):
        with pytest.raises(
            FileNotFoundError, match=r"is no folder here, and no hub id \(owner/model\) either"
        ):
            load(place)
    with pytest.raises(ValueError, match=r"device 'abacus' cannot be used here.*use device='cpu'"):
        load("rotated-mnist", device="abacus")
    with pytest.raises(ValueError, match="leave revision=None"):
        load(tmp_path, revision="main")


def test_a_hub_id_is_taken_from_the_cache_by_its_revision(folder, tmp_path, monkeypatch):
    """huggingface_hub's own cache layout, filled by hand: found without a network, origin by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--digits"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    real, cache = (
        huggingface_hub.snapshot_download,
        {"cache_dir": tmp_path / "hub", "local_files_only": True},
    )
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, **cache, **k)
    )
    for revision in (None, commit):
        score = load("someone/digits", revision=revision)
        assert (score.origin["name"], score.origin["revision"]) == ("someone/digits", commit)
        assert torch.equal(answers(score), answers(load(folder)))
    with pytest.raises(
        ConnectionError,
        match=r"no folder here, and could not get 'someone/faces' \(revision v2\).*mend",
    ):
        load("someone/faces", revision="v2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_device_that_is_not_here_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"device 'cuda' cannot be used here.*use device='cpu'"):
        load(tmp_path / "nothing", device="cuda")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub with one repository, `folder`; returns what was fetched from it, and the revisions asked for."""
    fetched, revisions = [], []

    def snapshot_download(name, *, revision, allow_patterns):
        revisions.append(revision)
        files = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
        for file in huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns):
            fetched.append(file)
            (tmp_path / "0c0ffee" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / "0c0ffee" / file)
        return str(tmp_path / "0c0ffee")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return fetched, revisions


CONFIGS = ["model_index.json", SCHEDULE, NETWORK]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_only_the_weights_needed_are_fetched_and_of_one_commit(folder, hub, variant):
    unet = network()
    unet.save_pretrained(folder / "unet", variant="fp16")
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
    weights = WEIGHTS if variant is None else WEIGHTS.replace(".safe", ".fp16.safe")
    assert sorted(hub[0]) == sorted([*CONFIGS, weights]) and hub[1] == [None, "0c0ffee"]
    assert score.origin["revision"] == "0c0ffee" and torch.equal(
        answers(score), answers(DenoiserScore(unet, DDPMScheduler()))
    )


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_come_from_the_hub(folder, hub, variant):
    (folder / WEIGHTS).unlink()
    network().save_pretrained(folder / "unet", max_shard_size="100KB", variant=variant)
    score = load("someone/digits", variant=variant)
    assert sum("-of-" in name for name in hub[0]) > 1 and torch.equal(
        answers(score), answers(load(folder, variant=variant))
    )


@pytest.mark.parametrize(
    "damage, words",
    [
        (configure(NETWORK, _class_name="UNet2DConditionModel"), "not a UNet2DModel"),
        (configure(NETWORK, time_embedding_type="fourier"), "fourier"),
        (
            configure(SCHEDULE, _class_name="FlowMatchEulerDiscreteScheduler"),
            "neither alphas_cumprod nor EDM",
        ),
        (configure("model_index.json", vqvae=["diffusers", "VQModel"]), "latent diffusion model"),
    ],
    ids=["another network", "another time", "another scheduler", "latent"],
)
def test_what_does_not_fit_is_refused_before_its_weights_are_fetched(folder, hub, damage, words):
    damage(folder)
    with pytest.raises((ValueError, TypeError), match=words):
        load("someone/digits")
    assert sorted(hub[0]) == CONFIGS


@pytest.mark.parametrize("part", ["vae", "vqvae"])
def test_latent_models_are_refused(folder, part):
    configure("model_index.json", vae=[None, None], vqvae=None)(folder)
    load(folder)  # a part that is left empty is none
    (folder / part).mkdir()
    with pytest.raises(
        ValueError, match=rf"latent diffusion model \({part} beside unet\).*scale=1, shift=0"
    ):
        load(folder)
    (folder / part).rmdir()
    configure("model_index.json", **{part: ["diffusers", "AutoencoderKL"]})(folder)
    with pytest.raises(ValueError, match="latents, not the pixels"):
        load(folder)


@pytest.fixture
def bundled(folder, tmp_path, monkeypatch):
    """A small model in the place of the bundled one."""
    names = ("model_index.json", "unet/config.json", WEIGHTS, "scheduler/scheduler_config.json")
    entry = {
        "title": "small",
        "licence": "own",
        "origin": "here",
        "bundled": folder.name,
        "files": [
            {
                "name": name,
                "size": (folder / name).stat().st_size,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            }
            for name in names
        ],
    }
    monkeypatch.setattr(data, "REGISTRY", tmp_path / "registry.toml")
    monkeypatch.setattr(data, "registry", lambda: {"rotated-mnist": entry})
    return folder


def test_the_bundled_model_is_checked_by_its_checksum(bundled):
    score = load("rotated-mnist", sigma=0.5)
    assert score.origin["name"] == "rotated-mnist" and torch.equal(
        answers(score), answers(load(bundled))
    )
    raw = bytearray((bundled / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (bundled / WEIGHTS).write_bytes(raw)
    with pytest.raises(ValueError, match="sha256"):
        load("rotated-mnist")


def test_a_bundled_model_that_is_not_there_names_the_mend(bundled):
    (bundled / WEIGHTS).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"restore data/ .*python -m experiments.training rotated-mnist"
    ):
        load("rotated-mnist")


@pytest.mark.skipif(
    "rotated-mnist" not in data.registry(), reason="the bundled model is not there yet"
)
def test_the_bundled_model_denoises_digits():
    digits = data.rotate(data.digits("sklearn", limit=20).images, torch.arange(20.0) * 18)
    score = load("rotated-mnist", sigma=0.5)
    noisy = digits + 0.5 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    assert (
        score.event_shape == (1, 28, 28)
        and (score.denoise(noisy) - digits).square().mean() < 0.1 * 0.25
    )
    assert sum(p.numel() for p in score.model.parameters()) * 4 < 12e6
