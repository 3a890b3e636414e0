"""Training: it learns, a cut one goes on bit for bit, faults leave the last good checkpoint."""

import csv
import math
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import small_training
import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from small_training import SHORT, small_loss, small_network, train
from torch import nn
from typer.testing import CliRunner

from experiments import data
from experiments.training import rotated_mnist
from experiments.training.__main__ import app
from experiments.training.folders import registry_lines, write_folder
from experiments.training.loop import CHECKPOINT, Settings, fit
from experiments.training.networks import rotated_mnist_network
from lib.scores import load
from lib.scores.denoiser import DenoiserScore


@pytest.fixture(autouse=True)
def without_data(monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)


def at_call(number, act):
    """The loss, but its call of that number ends in act(value)."""
    calls = []

    def loss(model, generator):
        value = small_loss(model, generator)
        calls.append(value)
        return act(value) if len(calls) == number else value

    return loss


def steps_kept(folder):
    return len(load_file(folder / CHECKPOINT)["losses"])


def equal(a, b):
    first = a.state_dict()
    second = b.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def assert_goes_on(folder):
    """Training goes on from the checkpoint as if nothing had been."""
    whole = train(folder.parent / "whole")
    resumed = train(folder)
    assert resumed.step == 6
    assert resumed.losses == whole.losses
    assert equal(resumed.model, whole.model)
    assert equal(resumed.average, whole.average)


# the loop


def test_the_rate_rises_and_falls():
    settings = Settings(steps=100, rate=1.0, warmup=10)
    rates = [settings.rate_at(step) for step in range(100)]
    assert [rates[0], rates[9], rates[55]] == pytest.approx([0.1, 1.0, 0.5])
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] < 1e-3


def test_the_average_is_that_of_the_weights(tmp_path):
    """By hand: decay min(ema, (1 + k)/(10 + k)) after step k."""
    settings = replace(SHORT, steps=3, ema=0.15)
    average = small_network().state_dict()
    for step in range(3):
        state = train(tmp_path, settings=settings, until=step + 1)
        decay = min(0.15, (1 + step) / (10 + step))
        for name, value in state.model.state_dict().items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
    for name, value in state.average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name])
    assert not state.average.training


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"rate": math.nan}, {"ema": 1.0}, {"every": 0}, {"clip": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path, number):
    received = []
    former = signal.signal(number, lambda *_: received.append(number))
    try:
        train(tmp_path / "cut", at_call(3, lambda value: signal.raise_signal(number) or value))
        assert received == [number]
        assert steps_kept(tmp_path / "cut") == 3
    finally:
        signal.signal(number, former)
    assert_goes_on(tmp_path / "cut")


def fails(error):
    def act(value):
        raise error

    return act


@pytest.mark.parametrize(
    "act, error",
    [
        (fails(KeyboardInterrupt()), KeyboardInterrupt),
        (fails(torch.OutOfMemoryError("out of memory")), torch.OutOfMemoryError),
        (lambda value: value * math.nan, FloatingPointError),
        # Its gradient is 0 · ∞.
        (lambda value: value + (value - value).sqrt(), FloatingPointError),
    ],
    ids=["interrupt", "out of memory", "loss", "gradient"],
)
def test_a_failed_step_leaves_the_last_checkpoint(tmp_path, act, error):
    with pytest.raises(error):
        train(tmp_path / "cut", at_call(4, act))
    assert steps_kept(tmp_path / "cut") == 2
    assert_goes_on(tmp_path / "cut")


def start_process(folder):
    return subprocess.Popen(
        [sys.executable, small_training.__file__, folder],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def test_one_of_two_processes_in_a_folder_is_killed(tmp_path):
    """The other finishes; what a killed one leaves is tried first."""
    with start_process(tmp_path / "cut") as process:
        for _ in range(4):
            assert process.stdout.readline() == "step\n", process.stderr.read()
        process.kill()
    assert steps_kept(tmp_path / "cut") == 2
    killed = start_process(tmp_path / "cut")
    other = start_process(tmp_path / "cut")
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    _, message = other.communicate(timeout=120)
    assert other.returncode == 0, message
    assert steps_kept(tmp_path / "cut") == 6
    assert_goes_on(tmp_path / "cut")


def test_a_finished_training_is_not_repeated_and_no_global_seed_moves(tmp_path):
    first = train(tmp_path)
    state = torch.get_rng_state()
    again = train(tmp_path)
    assert again.step == 6
    assert equal(first.average, again.average)
    assert again.seconds == first.seconds > 0
    assert torch.equal(state, torch.get_rng_state())


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": replace(SHORT, rate=2e-3, seed=4)}, r"rate = 0.01, seed = 3"),
        ({"width": 16}, "size mismatch"),
        ({"data": "cats"}, "stripes"),
        ({"damage": lambda raw: raw[:-50]}, "delete it"),
        ({"damage": lambda raw: b""}, "delete it"),
        ({"damage": lambda raw: b"PK" + raw[2:]}, "delete it"),
        ({"damage": lambda raw: raw[:-30] + bytes([raw[-30] ^ 1]) + raw[-29:]}, "checksum"),
    ],
    ids=["settings", "network", "data", "cut short", "empty", "another kind of file", "one bit"],
)
def test_a_checkpoint_of_something_else_or_damaged_is_refused_and_kept(tmp_path, change, message):
    train(tmp_path, data="stripes")
    path = tmp_path / CHECKPOINT
    arguments = {"data": "stripes"} | change
    if "damage" in arguments:
        damage(path, arguments.pop("damage"))
    content = path.read_bytes()
    with pytest.raises(ValueError, match=rf"(?s)cannot continue.*{message}"):
        train(tmp_path, **arguments)
    assert path.read_bytes() == content


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="delete it"):
        train(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_known_before_the_first_step(tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / f".draft-{os.getpid()}-{CHECKPOINT}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="free space"):
        train(folder, at_call(1, fails(AssertionError("a step was made"))))
    assert list(folder.iterdir()) == []
    assert_goes_on(folder)


# the denoiser


def stripes(n, generator):
    """Upright (class 0) and lying (class 1) stripes, (n, 1, 8, 8)."""
    labels = torch.randint(2, (n,), generator=generator)
    upright = (torch.arange(8) % 4 < 2).float().expand(n, 1, 8, 8)
    return torch.where(labels[:, None, None, None] == 0, upright, upright.mT), labels


@pytest.fixture
def score():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            num_class_embeds=3,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
    model.register_to_config(_no_class=2)
    return DenoiserScore(model, EDMEulerScheduler(sigma_data=0.5))


def test_a_short_training_lowers_loss_and_error(tmp_path, score):
    settings = Settings(steps=150, batch=16, rate=5e-3, warmup=10, ema=0.9, every=1000)
    held_out = stripes(64, torch.Generator().manual_seed(9))[0]
    before = rotated_mnist.denoising_error(score, held_out, [0.3, 1.0])
    loss = rotated_mnist.denoising_loss(score, stripes, batch=16)
    state = fit(score.model, loss, tmp_path, settings, progress=False)
    score.model = state.average
    after = rotated_mnist.denoising_error(score, held_out, [0.3, 1.0])
    assert np.mean(state.losses[-20:]) < 0.6 * np.mean(state.losses[:20])
    assert all(after[sigma] < 0.5 * before[sigma] for sigma in before)


def test_the_loss_is_the_weighted_error_of_its_definition(score):
    loss = rotated_mnist.denoising_loss(score, stripes, batch=8, unconditional=1.0)
    value = loss(score.model, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    clean = stripes(8, generator)[0]
    normal = torch.randn(8, generator=generator, dtype=torch.float64)
    sigma = (0.5 * (1.2 * normal).exp()).clamp(*score.noise_range)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = clean + sigma.float()[:, None, None, None] * noise
    error = (2 * (score.at(sigma).denoise(noisy) - clean)).square().mean((1, 2, 3))
    # EDM's weight in its own units, Karras et al. 2022.
    edm = 2 * sigma
    expected = ((edm**2 + 0.25) / (0.5 * edm) ** 2 * error).mean()
    assert value.requires_grad
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_error_of_a_network_whose_answer_is_known(score):
    """D(x) = x: an untouched point keeps its noise, E = sigma²."""
    score.denoise = lambda x: x
    score.at = lambda sigma: score
    errors = rotated_mnist.denoising_error(score, torch.zeros(400, 1, 8, 8), [0.5, 2.0])
    # Of 25,600 draws one standard deviation is 1 %.
    assert errors == pytest.approx({0.5: 0.25, 2.0: 4.0}, rel=0.02)


def test_the_network_is_that_of_the_seed_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    first, again, other = (rotated_mnist_network(seed)[0] for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert equal(first, again)
    assert not equal(first, other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first_layer = nn.Conv2d(1, 24, 3, padding=1)
    assert torch.equal(next(first.parameters()), first_layer.weight)


def test_turned_digits_are_drawn_from_the_generator_alone():
    training = rotated_mnist.turned_digits("sklearn")
    images, labels = training.draw(5, torch.Generator().manual_seed(2))
    again, same_labels = training.draw(5, torch.Generator().manual_seed(2))
    assert images.shape == (5, 1, 28, 28)
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)
    assert training.held_out.shape == (500, 1, 28, 28)
    assert not training.fallback
    assert rotated_mnist.turned_digits("auto").fallback
    with pytest.raises(FileNotFoundError, match="GEODESICS_DATA"):
        rotated_mnist.turned_digits("mnist")


def test_a_few_digits_are_trained_on_and_others_held_out():
    """The ten digits of a small training are among those of a large one, and none is held out."""
    small = rotated_mnist.turned_digits("sklearn", split="test", count=10)
    large = rotated_mnist.turned_digits("sklearn", split="test", count=40)
    assert len(small.own) == len(large.own) == 500
    assert len(small.held_out) == 490
    assert len(large.held_out) == 460
    chosen = data.balanced(data.digits("sklearn"), 40)
    assert chosen.labels.tolist() == 4 * list(range(10))
    assert torch.equal(data.balanced(chosen, 10).images, chosen.images[:10])
    images, labels = small.draw(200, torch.Generator().manual_seed(0))
    # A turn about the centre keeps the ink, but for what bicubic interpolation rounds off.
    ink = chosen.images[:10].sum((1, 2, 3))
    torch.testing.assert_close(images.sum((1, 2, 3)), ink[labels], rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="held out"):
        rotated_mnist.turned_digits("sklearn", split="test")
    with pytest.raises(ValueError, match="at most 500"):
        data.balanced(data.digits("sklearn"), 501)


def test_a_training_goes_on_from_a_trained_network(tmp_path, monkeypatch):
    """With a tiny rate the weights stay those of the first network."""
    monkeypatch.setattr(rotated_mnist, "HELD_OUT", 4)
    score = rotated_mnist.train_rotated_mnist(
        tmp_path / "out",
        tmp_path / "work",
        Settings(steps=1, batch=1, rate=1e-12),
        source="sklearn",
        split="test",
        count=3,
        first="rotated-mnist",
        samples=0,
        progress=False,
    )
    bundled = load("rotated-mnist")
    for name, weight in bundled.model.state_dict().items():
        torch.testing.assert_close(score.model.state_dict()[name], weight)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "3 digits" in card
    assert "--digits sklearn --split test --count 3 --from rotated-mnist" in card


# the command


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (28, 28), 60 * i).save(folder / f"{i}.png")
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_command_trains_measures_and_writes_a_model_that_loads(tmp_path, pictures):
    out = tmp_path / "out"
    arguments = ["rotated-mnist", "--images", pictures, "--out", out, "--work", tmp_path / "work"]
    arguments += ["--steps", 2, "--samples", 3, "--seed", 5, "--machine", "a machine"]
    done = command(*arguments, "--until", 1)
    assert done.exit_code == 0, done.output
    assert "| steps made | 1 of 2 |" in (out / "README.md").read_text(encoding="utf-8")
    assert command(*arguments).exit_code == 0
    assert contents(out).keys() == rotated_mnist.WRITTEN
    card = (out / "README.md").read_text(encoding="utf-8")
    for words in ("3 images of the folder pictures", "a machine", "| 0.1 | ", "seed 5", "2 of 2"):
        assert words in card
    table = list(csv.reader((out / "losses.csv").read_text().splitlines()))
    assert table[0] == ["step", "mean_loss"]
    assert table[1][0] == "2"
    with Image.open(out / "samples.png") as picture:
        assert picture.size == (168, 56)
    score = load(out, sigma=0.5)
    checkpoint = load_file(tmp_path / "work" / CHECKPOINT)
    for name, value in score.model.state_dict().items():
        assert torch.equal(value, checkpoint[f"average.{name}"])
    assert list(tmp_path.glob(".draft*")) == []
    # A finished training is measured and written again, equal.
    before = contents(out)
    assert command(*arguments).exit_code == 0
    assert contents(out) == before
    lines = tomllib.loads(registry_lines("rotated-mnist", out))["rotated-mnist"]["files"]
    assert {file["name"]: file["size"] for file in lines} == {
        name: len(content)
        for name, content in before.items()
        if name.count(".")
        and "." in name
        and name not in ("README.md", "losses.csv", "samples.png")
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["rotated-mnits"], "rotated-mnist"),
        (["rotated-mnist", "--steps", 0], "steps"),
        (["rotated-mnist", "--device", "abacus"], "abacus"),
        (["rotated-mnist", "--images", "typo"], "typo"),
        (["rotated-mnist", "--out", "own"], "thesis.tex"),
        (["rotated-mnist"], "GEODESICS_DATA"),
        (["hands"], "GEODESICS_DATA"),
        (["hands-flow"], "GEODESICS_DATA"),
        (["hands", "--samples", 0], "samples"),
        (["hands", "--digits", "mnist"], "--digits"),
        (["hand-classifier"], "GEODESICS_DATA"),
        (["digit-classifier", "--digits", "mnits"], "mnist"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("mine")
    done = command(
        *arguments, *([] if "--out" in arguments else ["--out", "out"]), "--work", "work"
    )
    assert done.exit_code != 0
    assert message in f"{done.exception} {done.output}"
    assert contents(tmp_path) == {"own/thesis.tex": b"mine"}


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"

    def write(text, error=None):
        def make(draft):
            draft.mkdir()
            (draft / "card").write_text(text)
            if error:
                raise error

        write_folder(folder, make, {"card"})

    write("first")
    with pytest.raises(OSError, match="free space"):
        write("second", OSError(28, "No space left on device"))
    assert contents(tmp_path) == {"model/card": b"first"}
    write("third")
    assert contents(tmp_path) == {"model/card": b"third"}
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        write("fourth")
