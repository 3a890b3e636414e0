"""The classifiers of digits and hands: bundled as measured, remade by training, never unpickled."""

import hashlib
import json
import math
import pickle
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from experiments import data, evaluation, hands
from experiments.classifiers import (
    KINDS,
    DigitClassifier,
    HandClassifier,
    load_classifier,
    load_reference,
)
from experiments.training import classifiers as training
from experiments.training.__main__ import app
from experiments.training.hands import right_shares
from experiments.training.rotated_mnist import turn

MODELS = data.REGISTRY.parent / "models"
SHORT = replace(training.RECIPES["digits"].settings, steps=4, batch=8)
needs_photographs = pytest.mark.skipif(
    data.locate("sign-digits") is None, reason="the photographs are not on this machine"
)
needs_mnist = pytest.mark.skipif(
    data.locate("mnist-test") is None, reason="MNIST is not on this machine"
)
each_kind = pytest.mark.parametrize("name", KINDS)
each_with_data = pytest.mark.parametrize(
    "name",
    [pytest.param("digits", marks=needs_mnist), pytest.param("hands", marks=needs_photographs)],
)
pytestmark = pytest.mark.usefixtures("no_unpickling")


def config_of(name):
    return json.loads((MODELS / KINDS[name].kind / "config.json").read_text())


# the bundled ones


@each_kind
def test_names_and_folders_open_their_kind(name):
    network = load_classifier(name)
    reference = load_reference(name)
    config = config_of(name)
    folder = MODELS / network.kind
    assert type(network) is KINDS[name]
    assert network.sha256 == reference.model == config["sha256"]
    assert load_classifier(folder).sha256 == network.sha256
    assert config["classes"] == list(network.classes)
    assert config["held_out"]["accuracy"] >= 0.95
    assert network.sha256 in (folder / "README.md").read_text()
    assert reference.sample.shape == (1000, network.widths[-1])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6


def test_an_unknown_name_is_refused():
    with pytest.raises(FileNotFoundError, match=r"feet.*'digits' and 'hands'"):
        load_classifier("feet")


@each_kind
def test_the_rows_of_a_reference_are_of_its_distribution(name):
    reference = load_reference(name)
    assert torch.linalg.eigvalsh(reference.covariance).min() > -1e-6
    assert evaluation.fid(reference.sample, reference) < 0.02 * reference.covariance.trace()
    value, error = evaluation.kid(reference.sample, reference)
    assert abs(value) < 5 * error


@each_with_data
def test_the_reference_is_what_its_function_makes(name, tmp_path):
    reference = load_reference(name)
    training.make_reference(tmp_path, load_classifier(name), name=name)
    made = load_reference(tmp_path)
    torch.testing.assert_close(made.mean, reference.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made.covariance, reference.covariance, rtol=1e-2, atol=1e-4)
    assert made.model == reference.model
    assert made.made_of.split(" (")[0] == reference.made_of.split(" (")[0]


@needs_photographs
def test_hands_are_read_as_the_card_says():
    network = load_classifier("hands")
    test = hands.photographs("test")
    # One photograph is near a tie.
    stated = pytest.approx(config_of("hands")["held_out"]["accuracy"], abs=1.5 / 206)
    assert network.accuracy(hands.move(test.pixels), test.labels) == stated
    moved = hands.augment(test.pixels, torch.Generator().manual_seed(7))
    assert network.accuracy(moved, test.labels) >= 0.95


@needs_mnist
def test_turned_digits_are_read_as_the_card_says():
    stated = config_of("digits")["held_out"]["accuracy"]
    digits = data.digits("mnist")
    chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(5))[:500]
    images = turn(digits.images[chosen], torch.Generator().manual_seed(6))
    accuracy = load_classifier().accuracy(images, digits.labels[chosen])
    assert abs(accuracy - stated) < 4 * math.sqrt(stated * (1 - stated) / 500)


def test_turned_digits_of_another_source_are_read():
    """8×8 pixels enlarged, other writers, never seen in training."""
    digits = data.digits("sklearn")
    images = turn(digits.images, torch.Generator().manual_seed(0))
    assert load_classifier().accuracy(images, digits.labels) > 0.65


@needs_photographs
def test_photographs_are_nearer_to_photographs_than_blends_of_two():
    network = load_classifier("hands")
    reference = load_reference("hands")
    # They lie digit by digit in their file.
    pixels = hands.photographs("train").pixels
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = hands.move(pixels[order[:160]])
    real = network.features(images)
    blended = network.features((images + images.roll(37, 0)) / 2)
    assert evaluation.fid(real, reference) < evaluation.fid(blended, reference) / 3
    value, error = evaluation.kid(real, reference)
    assert abs(value) < 3 * error
    assert evaluation.kid(blended, reference)[0] > value + 3 * error


# what they compute


@each_kind
def test_perceptual_distance_by_its_definition(name, generator):
    network = load_classifier(name)
    a, b = torch.rand(2, 3, *network.event_shape, generator=generator)
    expected = torch.zeros(3)
    for p, q in zip(network.layers(a), network.layers(b), strict=True):
        # ‖u − v‖² of unit vectors.
        expected += (2 - 2 * F.cosine_similarity(p, q, dim=1)).mean((1, 2))
    distance = network.perceptual_distance(a, b)
    torch.testing.assert_close(distance, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network.perceptual_distance(b, a), distance)
    assert network.perceptual_distance(a, a).max() == 0
    assert not distance.requires_grad


def test_stages_halve_the_size():
    hand = HandClassifier().layers(torch.zeros(1, 3, 64, 64))
    digit = DigitClassifier().layers(torch.zeros(1, 1, 28, 28))
    assert [x.shape[-1] for x in hand] == [32, 16, 8, 4]
    assert [x.shape[-1] for x in digit] == [28, 14, 7]


def test_six_and_nine_are_one_class():
    network = load_classifier()
    nines = data.digits(labels=[9]).images
    assert network.target(torch.arange(10)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 6]
    as_nine = network.accuracy(nines, torch.full((len(nines),), 9))
    as_six = network.accuracy(nines, torch.full((len(nines),), 6))
    assert as_nine == as_six > 1 / 9


def test_the_share_of_right_samples_counts_the_digit_that_was_asked_for(generator):
    model = HandClassifier().eval()
    torch.nn.init.zeros_(model.head.weight)
    # Says "three" to everything.
    model.head.bias.data = torch.eye(10)[3]
    shares = right_shares(model, torch.rand(20, 3, 64, 64, generator=generator))
    assert shares.tolist() == torch.eye(10)[3].tolist()


@pytest.mark.parametrize(
    "images, error, message",
    [
        (torch.zeros(2, 3, 28, 28), ValueError, "28, 28"),
        (torch.zeros(2, 1, 32, 32), ValueError, "28, 28"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), TypeError, "float"),
    ],
)
def test_other_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        load_classifier().features(images)


# training


def test_training_is_plain_adamw(tmp_path):
    """The recipe of the bundled digits by hand: a cosine rate, without averaging or clipping."""
    settings = replace(SHORT, steps=3, batch=16, seed=7)
    digits = data.digits("sklearn", split="train")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        model = DigitClassifier()
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.AdamW(model.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for _ in range(3):
        chosen = torch.randint(len(digits), (16,), generator=generator)
        images = turn(digits.images[chosen], generator)
        labels = model.target(digits.labels[chosen])
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    trained = training.train_classifier(tmp_path, settings, source="sklearn", progress=False)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_classifier_is_kept_as_measured(drawn, tmp_path):
    folder = tmp_path / "made"
    before = torch.get_rng_state()
    model = training.train_classifier(folder, SHORT, name="hands", progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    again = load_classifier(folder)
    images = hands.move(hands.photographs("train").pixels[:20])
    assert isinstance(again, HandClassifier)
    assert again.sha256 == model.sha256
    assert torch.equal(again(images), model(images))
    test = hands.photographs("test")
    stated = json.loads((folder / "config.json").read_text())["held_out"]["accuracy"]
    assert stated == model.accuracy(hands.move(test.pixels), test.labels)
    moves = torch.Generator().manual_seed(2)
    copies = torch.cat([hands.augment(test.pixels, moves) for _ in range(10)])
    features = model.features(copies).double()
    reference = load_reference(folder)
    torch.testing.assert_close(reference.mean, features.mean(0), rtol=1e-5, atol=1e-6)
    assert reference.model == model.sha256
    assert reference.sample.shape == (40, 64)


def test_one_command_trains_one_and_goes_on(drawn, tmp_path):
    def command(out, work, *more):
        arguments = ["hand-classifier", "--steps", 6, "--machine", "a machine"]
        arguments += ["--out", tmp_path / out, "--work", tmp_path / work, *more]
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    out = tmp_path / "cut"
    command("cut", "work", "--until", 2)
    assert "steps made | 2 of 6 |" in (out / "README.md").read_text()
    printed = command("cut", "work")
    command("whole", "other")
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert "a machine" in (out / "README.md").read_text()
    # What is printed is what data/registry.toml must say of the folder.
    entries = tomllib.loads(printed.rsplit("model: ", 1)[0])
    model, config = entries["hand-classifier"]["files"]
    assert model["sha256"] == hashlib.sha256(weights).hexdigest()
    assert config["name"] == "config.json"
    (reference,) = entries["hand-classifier-reference"]["files"]
    assert reference["size"] == (out / "reference.safetensors").stat().st_size


def test_what_makes_no_sense_is_refused_before_anything_is_written(drawn, tmp_path):
    with pytest.raises(ValueError, match="feet"):
        training.train_classifier(tmp_path / "made", name="feet")
    with pytest.raises(ValueError, match="mnist"):
        training.train_classifier(tmp_path / "made", name="hands", source="mnist")
    assert list(tmp_path.iterdir()) == []


# damaged files


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the digits' classifier, which may be damaged."""
    monkeypatch.chdir(tmp_path)
    yield Path(shutil.copytree(MODELS / "digit-classifier", tmp_path / "model"))
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    "signed, message", [(False, "damaged or cut short"), (True, "holds no digit classifier")]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-100],
        lambda raw: b"",
        lambda raw: pickle.dumps(Bomb()),
        lambda raw: safetensors.torch.save({"head.weight": torch.zeros(2, 2)}),
    ],
    ids=["cut short", "empty", "pickle", "other tensors"],
)
def test_damaged_and_foreign_weights_are_refused(copied, damage, signed, message):
    """Signed: the checksum is made right, so that only the content is wrong."""
    content = damage((copied / "model.safetensors").read_bytes())
    (copied / "model.safetensors").write_bytes(content)
    if signed:
        config = json.loads((copied / "config.json").read_text())
        config["sha256"] = hashlib.sha256(content).hexdigest()
        (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_classifier(copied)


def test_another_architecture_and_missing_files_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"widths": [8, 8, 8]}))
    with pytest.raises(ValueError, match=r"widths \(8, 8, 8\)"):
        load_classifier(copied)
    (copied / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no config"):
        load_classifier(copied)
    (copied / "reference.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no reference statistics"):
        load_reference(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"experiments\.training"):
        load_classifier(copied)
