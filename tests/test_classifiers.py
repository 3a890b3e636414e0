"""The classifier of photographs of hands: bundled as measured, its features behind the same measures as those of digits."""

import hashlib
import json
import tomllib

import pytest
import torch
from typer.testing import CliRunner

from experiments import data, evaluation, hands
from experiments.classifiers import KINDS, HandClassifier, load_classifier, load_reference
from experiments.training.__main__ import app
from experiments.training.classifiers import make_reference, train_classifier
from experiments.training.hands import right_shares
from experiments.training.loop import Settings

FOLDER = data.REGISTRY.parent / "models" / "hand-classifier"
SHORT = Settings(steps=4, batch=8, rate=1e-2, warmup=0, ema=0.0, every=10)
needs_photographs = pytest.mark.skipif(
    data.locate("sign-digits") is None, reason="the photographs are not on this machine"
)
pytestmark = pytest.mark.usefixtures("no_unpickling")


@pytest.fixture(scope="module")
def network():
    return load_classifier("hands")


@pytest.fixture(scope="module")
def reference():
    return load_reference("hands")


def test_names_and_folders_open_their_kind(network):
    assert {name: type(load_classifier(name)) for name in KINDS} == KINDS
    assert load_classifier().sha256 == load_classifier("digits").sha256 == load_reference().model
    assert load_classifier(FOLDER).sha256 == network.sha256 and network.name == "hand classifier"
    with pytest.raises(
        FileNotFoundError, match=r"missing in feet.*bundled are 'digits' and 'hands'"
    ):
        load_classifier("feet")


def test_the_bundled_files_are_small_and_belong_together(network, reference):
    config = json.loads((FOLDER / "config.json").read_text())
    assert (
        reference.model == network.sha256 == config["sha256"]
        and sum(p.stat().st_size for p in FOLDER.iterdir()) < 1e6
    )
    assert (
        config["held_out"]["accuracy"] >= 0.95
        and config["model"] == network.kind
        and config["classes"] == list(hands.WORDS)
    )
    card = (FOLDER / "README.md").read_text()
    assert (
        network.sha256 in card
        and f"{config['held_out']['accuracy']:.4f} on 206 photographs" in card
    )
    assert reference.made_of.startswith(
        "2,060 pictures: each of 206 held-out"
    ) and reference.sample.shape == (1000, 64)


def test_the_reference_is_of_one_distribution(reference):
    """The 1,000 rows are drawn from the 2,060 of mean and covariance: their own FID is small against their spread."""
    assert torch.linalg.eigvalsh(reference.covariance).min() > -1e-6
    assert evaluation.fid(reference.sample, reference) < 0.01 * reference.covariance.trace()
    value, error = evaluation.kid(reference.sample, reference)
    assert abs(value) < 5 * error


@needs_photographs
def test_it_reads_held_out_photographs_as_its_card_says(network):
    test, stated = (
        hands.photographs("test"),
        json.loads((FOLDER / "config.json").read_text())["held_out"]["accuracy"],
    )
    assert network.accuracy(hands.move(test.pixels), test.labels) == pytest.approx(
        stated, abs=1.5 / 206
    )  # one near a tie
    moved = hands.augment(test.pixels, torch.Generator().manual_seed(7))
    assert network.accuracy(moved, test.labels) >= 0.95


@needs_photographs
def test_the_reference_is_what_its_function_makes(network, reference, tmp_path):
    make_reference(tmp_path, network, name="hands")
    made = load_reference(tmp_path)
    torch.testing.assert_close(made.mean, reference.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made.covariance, reference.covariance, rtol=1e-2, atol=1e-4)
    assert made.model == reference.model
    assert made.made_of.split(" (")[0] == reference.made_of.split(" (")[0]


@needs_photographs
def test_photographs_are_nearer_to_photographs_than_blends_of_two(network, reference):
    pixels = hands.photographs("train").pixels  # which lie digit by digit
    pixels = hands.move(
        pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:160]]
    )
    blends = (pixels + pixels.roll(37, 0)) / 2
    real, blended = (network.features(x) for x in (pixels, blends))
    assert evaluation.fid(real, reference) < evaluation.fid(blended, reference) / 3
    value, error = evaluation.kid(real, reference)
    assert abs(value) < 3 * error and evaluation.kid(blended, reference)[0] > value + 3 * error


def test_the_table_takes_it(network, reference, generator):
    images = torch.nn.functional.interpolate(
        torch.rand(3, 3, 8, 8, generator=generator), (64, 64), mode="bilinear"
    )
    truth = hands.movement(images, torch.linspace(-0.5, 0.5, 5), degrees=20.0)
    straight = torch.lerp(
        truth[:, :1], truth[:, -1:], torch.linspace(0, 1, 5).reshape(1, 5, 1, 1, 1)
    )
    table = evaluation.evaluate(
        {"lerp": straight, "true": truth},
        truth,
        distances={"perceptual": network.perceptual_distance},
    )
    rows = evaluation.summary(table).set_index(["method", "measure"])["estimate"]
    assert rows["true", "perceptual"] == 0 < rows["lerp", "perceptual"]
    by_hand = (
        evaluation.adjacent_distances(straight, network.perceptual_distance).sum(1).double().mean()
    )
    assert rows["lerp", "ppl_perceptual"] == pytest.approx(float(by_hand), rel=1e-5)
    sets = evaluation.set_summary(
        {"lerp": straight}, reference, classifier=network, draws=20
    ).set_index("measure")["estimate"]
    features = network.features(straight[:, 1:-1].flatten(0, 1))
    assert sets["fid"] == pytest.approx(
        evaluation.fid(features, reference), rel=1e-5
    ) and features.shape == (9, 64)
    with pytest.raises(ValueError, match=r"another classifier.*load_reference\('hands'\)"):
        evaluation.set_summary({"lerp": straight}, reference)
    with pytest.raises(
        ValueError,
        match=r"digit classifier takes images \(n, 1, 28, 28\).*load_classifier\('hands'\)",
    ):
        evaluation.evaluate({"lerp": straight})


def test_perceptual_distance_by_its_definition(network, generator):
    a, b = torch.rand(2, 3, 3, 64, 64, generator=generator)
    expected = sum(
        (2 - 2 * torch.nn.functional.cosine_similarity(p, q, dim=1)).mean((1, 2))
        for p, q in zip(network.layers(a), network.layers(b), strict=True)
    )
    torch.testing.assert_close(network.perceptual_distance(a, b), expected, rtol=1e-3, atol=1e-4)
    assert network.perceptual_distance(a, a).max() == 0 and [
        x.shape[-1] for x in network.layers(a)
    ] == [32, 16, 8, 4]


def test_training_is_kept_as_measured_and_counts_the_right_ones(drawn, tmp_path):
    model = train_classifier(tmp_path / "made", SHORT, name="hands", progress=False)
    again, config = (
        load_classifier(tmp_path / "made"),
        json.loads((tmp_path / "made" / "config.json").read_text()),
    )
    images, test = hands.move(hands.photographs("train").pixels[:20]), hands.photographs("test")
    assert (
        isinstance(again, HandClassifier)
        and again.sha256 == model.sha256
        and torch.equal(again(images), model(images))
    )
    assert config["held_out"]["accuracy"] == model.accuracy(hands.move(test.pixels), test.labels)
    found, rate = model(images).argmax(1), right_shares(model, images)
    assert rate.tolist() == [
        (found[2 * i : 2 * i + 2] == i).double().mean().item() for i in range(10)
    ]
    made = load_reference(tmp_path / "made")
    moves = torch.Generator().manual_seed(2)
    features = model.features(
        torch.cat([hands.augment(test.pixels, moves) for _ in range(10)])
    ).double()
    torch.testing.assert_close(made.mean, features.mean(0), rtol=1e-5, atol=1e-6)
    assert (
        made.model == model.sha256
        and "40 pictures: each of 4" in made.made_of
        and made.sample.shape == (40, 64)
    )


def test_what_makes_no_sense_is_refused_before_anything_is_written(drawn, tmp_path):
    with pytest.raises(ValueError, match="unknown classifier 'feet'"):
        train_classifier(tmp_path / "made", name="feet")
    with pytest.raises(ValueError, match="unknown source of photographs 'mnist'"):
        train_classifier(tmp_path / "made", name="hands", source="mnist")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        train_classifier(tmp_path / "own", SHORT, name="hands")
    with pytest.raises(ValueError, match="hand classifier takes images"):
        HandClassifier()(torch.zeros(1, 3, 32, 32))
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_one_command_trains_it_and_goes_on(drawn, tmp_path):
    out = tmp_path / "hand-classifier"
    arguments = ["hand-classifier", "--steps", 6, "--machine", "a machine"]
    cut = ["--out", out, "--work", tmp_path / "work"]
    assert command(*arguments, *cut, "--until", 2).exit_code == 0
    assert "steps made | 2 of 6 |" in (out / "README.md").read_text()
    done = command(*arguments, *cut)
    assert done.exit_code == 0, done.output
    whole = tmp_path / "whole"
    assert command(*arguments, "--out", whole, "--work", tmp_path / "other").exit_code == 0
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (whole / "model.safetensors").read_bytes()
    assert "a machine" in (out / "README.md").read_text()
    # What is printed is what data/registry.toml must say of the folder.
    entries = tomllib.loads(done.stdout.rsplit("model: ", 1)[0])
    model, config = entries["hand-classifier"]["files"]
    assert model["sha256"] == hashlib.sha256(weights).hexdigest()
    assert config["name"] == "config.json"
    (reference,) = entries["hand-classifier-reference"]["files"]
    assert reference["size"] == (out / "reference.safetensors").stat().st_size
    assert load_reference(out).model == load_classifier(out).sha256


def test_the_rate_counts_the_asked_digit(generator):
    model = HandClassifier().eval()
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.eye(10)[3]  # says "three" to everything
    assert (
        right_shares(model, torch.rand(20, 3, 64, 64, generator=generator)).tolist()
        == torch.eye(10)[3].tolist()
    )
    assert (
        torch.equal(model.target(torch.arange(10)), torch.arange(10)) and len(model.classes) == 10
    )
