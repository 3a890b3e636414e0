"""The bundled latent model's parts: photographs moved as said, captions as tokens, and training, saving, loading, sampling."""

import functools
import hashlib
import math
import os
import tomllib

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from experiments import hands
from experiments.classifiers import HandClassifier
from experiments.training import hands as training
from experiments.training import networks
from experiments.training.__main__ import app
from experiments.training.loop import Settings
from lib.scores import StableDiffusionScore, load

SHORT = Settings(steps=3, batch=2, rate=1e-3, warmup=1, every=2)


def test_identity_move_averages_pixels_and_keeps_the_range(generator):
    pixels = torch.rand(3, 3, 32, 32, generator=generator)
    torch.testing.assert_close(
        hands.move(pixels, size=32),
        torch.nn.functional.avg_pool2d(
            torch.nn.functional.interpolate(
                pixels, scale_factor=2, mode="bilinear", align_corners=False
            ),
            2,
        ),
        atol=2e-6,
        rtol=0,
    )
    moved = hands.augment(pixels, generator, 16)
    assert moved.shape == (3, 3, 16, 16) and moved.min() >= 0 and moved.max() <= 1


def test_turn_shift_scale_and_mirror_go_where_they_say():
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 30:34, 46:50] = 1  # a quarter of the side right of the centre

    def centre(**move):
        image = hands.move(spot, **move)[0, 0]
        at = (torch.arange(64) + 0.5) / 64 - 0.5
        return [
            ((image.sum(axis) * at).sum() / image.sum()).item() for axis in (0, 1)
        ]  # to the right, down

    for move, expected in (
        ({}, (0.25, 0)),
        ({"degrees": 90.0}, (0, -0.25)),
        ({"mirror": True}, (-0.25, 0)),
        ({"scale": 1.2}, (0.3, 0)),
        ({"shift": torch.tensor([[0.1, 0.2]])}, (0.35, 0.2)),
        (
            {"degrees": 45.0, "shift": 0.1},
            (0.25 * math.sqrt(0.5) + 0.1, 0.1 - 0.25 * math.sqrt(0.5)),
        ),
    ):
        np.testing.assert_allclose(centre(**move), expected, atol=4e-3, err_msg=str(move))


def test_each_image_is_moved_on_its_own(generator):
    pixels = torch.rand(4, 3, 40, 40, generator=generator)
    move = {
        "degrees": torch.tensor([0.0, 10, -20, 5]),
        "scale": torch.tensor([1.0, 1.1, 0.9, 1]),
        "shift": torch.rand(4, 2, generator=generator) / 10,
        "mirror": torch.tensor([True, False, True, False]),
    }
    alone = [
        hands.move(pixels[i : i + 1], **{name: value[i : i + 1] for name, value in move.items()})
        for i in range(4)
    ]
    torch.testing.assert_close(hands.move(pixels, **move), torch.cat(alone))


def test_a_movement_is_the_move_of_each_share(generator):
    images = torch.rand(2, 3, 64, 64, generator=generator)
    found = hands.movement(
        images, torch.tensor([-0.5, 0.0, 0.5]), degrees=20.0, shift=(0.1, -0.2), scale=1.21
    )
    for i, (degrees, shift, scale) in enumerate(
        ((-10.0, (-0.05, 0.1), 1 / 1.1), (0.0, (0.0, 0.0), 1.0), (10.0, (0.05, -0.1), 1.1))
    ):
        torch.testing.assert_close(
            found[:, i],
            hands.move(images, degrees=degrees, shift=torch.tensor(shift), scale=scale),
            atol=1e-5,
            rtol=0,
        )


def test_captions_name_their_digit_and_a_tenth_is_silent(generator):
    labels = torch.arange(10).repeat(1000)
    places = hands.draw_captions(labels, generator)
    texts = hands.all_captions()
    assert all(
        hands.WORDS[k] in texts[i].split()
        for k, i in zip(labels.tolist(), places.tolist(), strict=True)
        if i
    )
    assert abs((places == 0).double().mean() - 0.1) < 0.012  # four standard deviations
    assert set(places.tolist()) == set(range(len(texts)))


def test_words_of_captions_are_one_token_and_others_are_spelt():
    words = networks.tokenizer()
    for text in hands.all_captions():
        assert [token.removesuffix("</w>") for token in words.tokenize(text)] == text.split()
    assert (
        len(words("a wrist").input_ids) > 4
        and words.decode(words("a wrist").input_ids, skip_special_tokens=True) == "a wrist"
    )
    ids = words(["", "five"], padding="max_length").input_ids
    assert np.shape(ids) == (2, 16) and ids[0] == [words.bos_token_id] + 15 * [words.eos_token_id]


@pytest.mark.skipif("GEODESICS_DATA" not in os.environ, reason="the photographs are not bundled")
def test_every_tenth_photograph_is_held_out():
    train, test, every = map(hands.photographs, ("train", "test", "all"))
    assert (len(train), len(test), len(every)) == (1853, 206, 2059) and every.pixels.shape == (
        2059,
        3,
        100,
        100,
    )
    assert torch.equal(test.pixels, every.pixels[::10]) and torch.equal(
        train.labels[:9], every.labels[1:10]
    )
    assert torch.bincount(every.labels).tolist() == [
        205,
        206,
        206,
        206,
        207,
        207,
        207,
        203,
        208,
        204,
    ]
    assert torch.bincount(test.labels).min() >= 20


def test_a_short_training_saves_what_loads_and_samples(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS", 1)
    reader = HandClassifier().eval().requires_grad_(False)
    made = training.train_hands(
        tmp_path / "hands",
        tmp_path / "work",
        SHORT,
        SHORT,
        copies=2,
        samples=1,
        classifier=reader,
        rated=1,
        progress=False,
    )
    written = {
        path.relative_to(tmp_path / "hands").as_posix()
        for path in (tmp_path / "hands").rglob("*")
        if path.is_file()
    }
    assert written == training.WRITTEN
    assert sum(path.stat().st_size for path in (tmp_path / "hands").rglob("*")) < 40e6
    with safe_open(tmp_path / "hands/unet/diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 == {torch.float16}
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "hands")
    for part in ("vae", "unet", "text_encoder"):
        assert getattr(pipe, part).dtype == torch.float32
        assert training.fingerprint(getattr(pipe, part)) == training.fingerprint(
            getattr(made, part)
        ), part
    torch.testing.assert_close(training.sample_digits(pipe, 1), training.sample_digits(made, 1))
    image = pipe("three", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[
        0
    ]
    assert isinstance(image, Image.Image) and image.size == (64, 64)
    old = CLIPTokenizer(
        str(tmp_path / "hands/tokenizer/vocab.json"), str(tmp_path / "hands/tokenizer/merges.txt")
    )
    assert old("a hand showing six").input_ids == made.tokenizer("a hand showing six").input_ids
    # Another seed than that of samples.png.
    shares = training.right_shares(reader, training.sample_digits(made, 1, seed=1))
    words = training.describe_right(shares, 1, reader)
    assert f"{shares.mean():.3f} of 10, 1 of each digit" in words
    assert f"9: {shares[9]:.2f}" in words
    card = (tmp_path / "hands/README.md").read_text()
    assert f"| samples that show the digit asked for | {words} |" in card
    latents = training.encode_copies(
        made.vae, hands.photographs(), 2, tmp_path / "work/latents.safetensors"
    )
    assert math.isclose((made.vae.config.scaling_factor * latents).std().item(), 1, rel_tol=1e-4)


def test_it_learns_and_goes_on_bit_for_bit(drawn, tmp_path):
    steps = Settings(steps=6, batch=2, rate=1e-3, warmup=1, every=2)
    training.train_autoencoder(tmp_path / "cut", steps, until=3, progress=False)
    again, whole = (
        training.train_autoencoder(tmp_path / name, steps, progress=False)
        for name in ("cut", "whole")
    )
    assert training.fingerprint(again.average) == training.fingerprint(whole.average)
    assert whole.losses == again.losses and whole.losses[-1] < whole.losses[0]


def test_without_photographs_or_with_a_foreign_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="GEODESICS_DATA"):
        training.train_hands(tmp_path / "hands", tmp_path / "work", SHORT, SHORT)
    with pytest.raises(ValueError, match="split"):
        hands.photographs("training")
    (tmp_path / "hands").mkdir()
    (tmp_path / "hands" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        training.train_hands(tmp_path / "hands", tmp_path / "work", SHORT, SHORT)
    assert not (tmp_path / "work").exists()


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
    assert files.keys() == training.WRITTEN - {
        "README.md",
        "samples.png",
        "reconstructions.png",
    }
    for name, file in files.items():
        content = (folder / name).read_bytes()
        assert file["size"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    score = load(folder, prompt="three", sigma=0.5)
    assert isinstance(score, StableDiffusionScore)
    assert score.event_shape == (4, 16, 16)
