"""Hands: photographs moved as asked, captions as tokens; training, saving, loading, sampling."""

import functools
import hashlib
import math
import os
import tomllib

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from experiments import hands
from experiments.classifiers import HandClassifier
from experiments.training import hands as training
from experiments.training import networks
from experiments.training.__main__ import app
from experiments.training.loop import Settings
from lib.scores import PipelineScore, load

SHORT = Settings(steps=3, batch=2, rate=1e-3, warmup=1, every=2)


# movements


def test_no_movement_averages_pixels_and_keeps_the_range(generator):
    pixels = torch.rand(3, 3, 32, 32, generator=generator)
    large = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.avg_pool2d(large, 2)
    torch.testing.assert_close(hands.move(pixels, size=32), expected, atol=2e-6, rtol=0)
    moved = hands.augment(pixels, generator, 16)
    assert moved.shape == (3, 3, 16, 16)
    assert 0 <= moved.min() < moved.max() <= 1


@pytest.mark.parametrize(
    "amounts, expected",
    [
        ({}, (0.25, 0)),
        ({"degrees": 90.0}, (0, -0.25)),
        ({"mirror": True}, (-0.25, 0)),
        ({"scale": 1.2}, (0.3, 0)),
        ({"shift": torch.tensor([[0.1, 0.2]])}, (0.35, 0.2)),
        (
            {"degrees": 45.0, "shift": 0.1},
            (0.25 * math.sqrt(0.5) + 0.1, 0.1 - 0.25 * math.sqrt(0.5)),
        ),
    ],
)
def test_a_spot_goes_where_the_movement_says(amounts, expected):
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 30:34, 46:50] = 1  # a quarter of the side right of the middle
    image = hands.move(spot, **amounts)[0, 0]
    place = (torch.arange(64) + 0.5) / 64 - 0.5
    across = (image.sum(0) * place).sum() / image.sum()
    down = (image.sum(1) * place).sum() / image.sum()
    assert (across, down) == pytest.approx(expected, abs=4e-3)


def test_each_image_is_moved_on_its_own(generator):
    pixels = torch.rand(4, 3, 40, 40, generator=generator)
    amounts = {
        "degrees": torch.tensor([0.0, 10, -20, 5]),
        "scale": torch.tensor([1.0, 1.1, 0.9, 1]),
        "shift": torch.rand(4, 2, generator=generator) / 10,
        "mirror": torch.tensor([True, False, True, False]),
    }
    alone = []
    for i in range(4):
        own = {name: value[i : i + 1] for name, value in amounts.items()}
        alone.append(hands.move(pixels[i : i + 1], **own))
    torch.testing.assert_close(hands.move(pixels, **amounts), torch.cat(alone))


def test_a_movement_is_the_move_of_each_share(generator):
    images = torch.rand(2, 3, 64, 64, generator=generator)
    shares = torch.tensor([-0.5, 0.0, 0.5])
    frames = hands.movement(images, shares, degrees=20.0, shift=(0.1, -0.2), scale=1.21)
    expected = [
        hands.move(images, degrees=-10.0, shift=torch.tensor([-0.05, 0.1]), scale=1 / 1.1),
        hands.move(images),
        hands.move(images, degrees=10.0, shift=torch.tensor([0.05, -0.1]), scale=1.1),
    ]
    torch.testing.assert_close(frames, torch.stack(expected, 1), atol=1e-5, rtol=0)


# photographs and captions


@pytest.mark.skipif("GEODESICS_DATA" not in os.environ, reason="the photographs are not bundled")
def test_every_tenth_photograph_is_held_out():
    train = hands.photographs("train")
    test = hands.photographs("test")
    every = hands.photographs("all")
    assert (len(train), len(test), len(every)) == (1853, 206, 2059)
    assert every.pixels.shape == (2059, 3, 100, 100)
    assert torch.equal(test.pixels, every.pixels[::10])
    assert torch.equal(train.labels[:9], every.labels[1:10])
    counts = [205, 206, 206, 206, 207, 207, 207, 203, 208, 204]
    assert torch.bincount(every.labels).tolist() == counts
    assert torch.bincount(test.labels).min() >= 20


def test_unknown_split_and_missing_photographs_are_named(monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    with pytest.raises(ValueError, match="split"):
        hands.photographs("tset")
    with pytest.raises(FileNotFoundError, match="GEODESICS_DATA"):
        hands.photographs()


def test_captions_name_their_digit_and_a_tenth_is_silent(generator):
    labels = torch.arange(10).repeat(1000)
    places = hands.draw_captions(labels, generator)
    captions = hands.all_captions()
    for label, place in zip(labels.tolist(), places.tolist(), strict=True):
        assert place == 0 or hands.WORDS[label] in captions[place].split()
    # Four standard deviations.
    assert abs((places == 0).double().mean() - 0.1) < 0.012
    assert set(places.tolist()) == set(range(len(captions)))


def test_words_of_captions_are_one_token_and_others_are_spelt():
    tokens = networks.tokenizer()
    for caption in hands.all_captions():
        words = [token.removesuffix("</w>") for token in tokens.tokenize(caption)]
        assert words == caption.split()
    ids = tokens("a wrist").input_ids
    assert len(ids) > 4
    assert tokens.decode(ids, skip_special_tokens=True) == "a wrist"
    empty, five = tokens(["", "five"], padding="max_length").input_ids
    assert empty == [tokens.bos_token_id] + 15 * [tokens.eos_token_id]
    assert len(five) == 16


def test_the_tokenizer_is_the_same_each_time():
    """A training that goes on makes it anew, and its embeddings are of the old one's numbers."""
    first = networks.tokenizer().get_vocab()
    assert all(networks.tokenizer().get_vocab() == first for _ in range(4))


# training


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_short_training_saves_what_loads_and_samples(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS", 1)
    reader = HandClassifier().eval().requires_grad_(False)
    folder = tmp_path / "hands"
    work = tmp_path / "work"
    made = training.train_hands(
        folder,
        work,
        SHORT,
        SHORT,
        copies=2,
        samples=1,
        classifier=reader,
        rated=1,
        progress=False,
    )
    assert names(folder) == training.WRITTEN
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 40e6
    stored = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    for part in ("vae", "unet", "text_encoder"):
        loaded = getattr(pipe, part)
        assert loaded.dtype == torch.float32
        assert training.fingerprint(loaded) == training.fingerprint(getattr(made, part))
    torch.testing.assert_close(training.sample_digits(pipe, 1), training.sample_digits(made, 1))
    seed = torch.Generator().manual_seed(0)
    (image,) = pipe("three", num_inference_steps=2, generator=seed).images
    assert isinstance(image, Image.Image)
    assert image.size == (64, 64)
    files = [str(folder / "tokenizer" / name) for name in ("vocab.json", "merges.txt")]
    caption = "a hand showing six"
    assert CLIPTokenizer(*files)(caption).input_ids == made.tokenizer(caption).input_ids
    # Another seed than that of samples.png.
    shares = training.right_shares(reader, training.sample_digits(made, 1, seed=1))
    words = training.describe_right(shares, 1, reader)
    assert f"{shares.mean():.3f} of 10, 1 of each digit" in words
    assert f"9: {shares[9]:.2f}" in words
    card = (folder / "README.md").read_text()
    assert f"| samples that show the digit asked for | {words} |" in card
    path = work / "latents.safetensors"
    latents = training.encode_copies(made.vae, hands.photographs(), 2, path)
    spread = (made.vae.config.scaling_factor * latents).std().item()
    assert spread == pytest.approx(1, rel=1e-4)


def test_latents_of_another_autoencoder_or_damaged_are_made_anew(drawn, tmp_path):
    path = tmp_path / "latents.safetensors"
    photographs = hands.photographs("test")
    first = training.encode_copies(networks.autoencoder(seed=0).eval(), photographs, 1, path)
    other = training.encode_copies(networks.autoencoder(seed=1).eval(), photographs, 1, path)
    assert not torch.equal(first, other)
    path.write_bytes(path.read_bytes()[:100])
    again = training.encode_copies(networks.autoencoder(seed=0).eval(), photographs, 1, path)
    assert torch.equal(first, again)


def test_the_autoencoder_learns_and_goes_on_bit_for_bit(drawn, tmp_path):
    steps = Settings(steps=6, batch=2, rate=1e-3, warmup=1, every=2)
    training.train_autoencoder(tmp_path / "cut", steps, until=3, progress=False)
    again = training.train_autoencoder(tmp_path / "cut", steps, progress=False)
    whole = training.train_autoencoder(tmp_path / "whole", steps, progress=False)
    assert training.fingerprint(again.average) == training.fingerprint(whole.average)
    assert whole.losses == again.losses
    assert whole.losses[-1] < whole.losses[0]


def test_the_denoiser_goes_on_bit_for_bit(drawn, tmp_path):
    vae = training.round_weights(networks.autoencoder())

    def train(name, until=None):
        state, _ = training.train_denoiser(
            tmp_path / name, vae, SHORT, until=until, copies=1, progress=False
        )
        return state

    train("cut", until=1)
    again = train("cut")
    whole = train("whole")
    assert training.fingerprint(again.average) == training.fingerprint(whole.average)
    assert whole.losses == again.losses


def test_one_command_trains_hands(drawn, tmp_path, monkeypatch):
    def missing(name):
        raise FileNotFoundError("no classifier here")

    short = functools.partial(training.train_hands, copies=1)
    monkeypatch.setattr(training, "STEPS", 1)
    monkeypatch.setattr(training, "AUTOENCODER", SHORT)
    monkeypatch.setattr(training, "DENOISER", SHORT)
    monkeypatch.setattr(training, "load_classifier", missing)
    monkeypatch.setattr(training, "train_hands", short)
    folder = tmp_path / "hands"
    arguments = ["hands", "--out", folder, "--work", tmp_path / "work", "--until", 2]
    arguments += ["--samples", 1, "--seed", 4, "--machine", "a machine"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "no classifier here" in done.stderr
    card = (folder / "README.md").read_text()
    assert "not measured: the hand classifier was not there" in card
    assert "seed 4" in card
    assert card.count("a machine") == 2
    assert card.count("| steps made | 2 of 3 |") == 2
    # What is printed is what data/registry.toml must say of the folder.
    lines, last = done.stdout.rsplit("model: ", 1)
    assert last.strip().endswith("hands")
    files = {file["name"]: file for file in tomllib.loads(lines)["hands"]["files"]}
    pictures = {"README.md", "samples.png", "reconstructions.png"}
    assert files.keys() == training.WRITTEN - pictures
    for name, file in files.items():
        content = (folder / name).read_bytes()
        assert file["size"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    score = load(folder, prompt="three", sigma=0.5)
    assert isinstance(score, PipelineScore)
    assert score.event_shape == (4, 16, 16)
