"""Training: it learns, an interrupted run goes on bit for bit, faults leave the last good checkpoint."""

import copy
import csv
import hashlib
import math
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from experiments.training import digits as models
from experiments.training.loop import Settings, denoising_error, denoising_loss, fit
from lib.runs.__main__ import app
from lib.scores import load
from lib.scores.denoiser import DenoiserScore

SHORT = Settings(steps=6, batch=8, rate=1e-3, warmup=2, every=2, seed=3)


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)


def network(width=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, width),
            norm_num_groups=4,
            num_class_embeds=3,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
    model.register_to_config(_no_class=2)
    return model


def stripes(n, generator):
    """Upright (class 0) and lying (class 1) stripes, (n, 1, 8, 8)."""
    labels = torch.randint(2, (n,), generator=generator)
    upright = (torch.arange(8) % 4 < 2).float().expand(n, 1, 8, 8)
    return torch.where(labels[:, None, None, None] == 0, upright, upright.mT), labels


def loss_of(model, batch=8):
    return denoising_loss(
        DenoiserScore(model, EDMEulerScheduler(sigma_data=0.5)), stripes, batch=batch
    )


def run(folder, settings=SHORT, loss=None, width=8, **more):
    model = network(width)
    return fit(model, loss or loss_of(model), folder, settings, progress=False, **more)


def at_call(number, loss, act):
    """The same loss, but its call of that number ends in act(value) -> value."""
    calls = []

    def changed(model, generator):
        value = loss(model, generator)
        calls.append(1)
        return act(value) if len(calls) == number else value

    return changed


def interrupt(value):
    raise KeyboardInterrupt


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def test_a_short_training_lowers_the_loss(tmp_path):
    settings = Settings(steps=150, batch=16, rate=5e-3, warmup=10, ema=0.9, every=1000)
    model = network()
    score = DenoiserScore(model, EDMEulerScheduler(sigma_data=0.5))
    held_out = stripes(64, torch.Generator().manual_seed(9))[0]
    before = denoising_error(score, held_out, [0.3, 1.0])
    state = fit(model, denoising_loss(score, stripes, batch=16), tmp_path, settings, progress=False)
    score.model = state.average
    after = denoising_error(score, held_out, [0.3, 1.0])
    assert np.mean(state.losses[-20:]) < 0.6 * np.mean(state.losses[:20])
    assert all(after[sigma] < 0.5 * before[sigma] for sigma in before)
    assert (
        state.seconds > 0 and len(state.losses) == state.step == 150 and not state.average.training
    )


def test_the_loss_is_the_weighted_error_of_its_definition():
    model = network()
    score = DenoiserScore(model, EDMEulerScheduler(sigma_data=0.5))
    found = denoising_loss(score, stripes, batch=8, unlabelled=1.0)(
        model, torch.Generator().manual_seed(1)
    )
    generator = torch.Generator().manual_seed(1)
    x = stripes(8, generator)[0]
    level = (0.5 * (1.2 * torch.randn(8, generator=generator, dtype=torch.float64)).exp()).clamp(
        *score.noise_range
    )
    noisy = x + level.float()[:, None, None, None] * torch.randn(x.shape, generator=generator)
    error = (2 * (score.at(level).denoise(noisy) - x)).square().mean((1, 2, 3))
    sigma = 2 * level  # EDM's weight in its own units, Karras et al. 2022
    expected = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error).mean()
    assert found.requires_grad and found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_error_is_that_of_a_network_whose_answer_is_known():
    """D(x) = x with c_skip = 1: an untouched point keeps its noise, E = sigma²."""
    score = DenoiserScore(network(), EDMEulerScheduler(sigma_data=0.5))
    score.posterior_mean = lambda x: x
    score.at = lambda _: score
    found = denoising_error(score, torch.zeros(400, 1, 8, 8), [0.5, 2.0])
    assert found == pytest.approx(
        {0.5: 0.25, 2.0: 4.0}, rel=0.02
    )  # 25,600 draws: 1 % is one standard deviation


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    model = network()
    control_c = at_call(
        4, loss_of(model), lambda value: signal.raise_signal(signal.SIGINT) or value
    )
    with pytest.raises(KeyboardInterrupt):
        fit(model, control_c, tmp_path / "cut", SHORT, progress=False)
    assert (
        len(load_file(tmp_path / "cut" / "checkpoint.safetensors")["losses"]) == 4
    )  # the step was finished and kept
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = run(tmp_path / "cut")
    assert resumed.step == 6 and resumed.losses == whole.losses and math.isfinite(resumed.seconds)
    assert same(resumed.model, whole.model) and same(resumed.average, whole.average)


def test_an_interrupt_raised_inside_a_step_loses_nothing(tmp_path):
    whole, model = run(tmp_path / "whole"), network()
    with pytest.raises(KeyboardInterrupt):  # the generator has moved on when it comes
        fit(model, at_call(4, loss_of(model), interrupt), tmp_path / "cut", SHORT, progress=False)
    assert len(load_file(tmp_path / "cut" / "checkpoint.safetensors")["losses"]) == 3
    resumed = run(tmp_path / "cut")
    assert resumed.losses == whole.losses and same(resumed.average, whole.average)


def test_termination_is_passed_on_after_the_checkpoint(tmp_path):
    model, heard = network(), []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        terminated = at_call(
            1, loss_of(model), lambda value: signal.raise_signal(signal.SIGTERM) or value
        )
        fit(model, terminated, tmp_path, SHORT, progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1] and len(load_file(tmp_path / "checkpoint.safetensors")["losses"]) == 1


def test_a_finished_training_is_not_repeated_and_no_global_seed_moves(tmp_path):
    first, state = run(tmp_path), torch.get_rng_state()
    again = run(tmp_path)
    assert again.step == 6 and same(first.average, again.average) and again.seconds == first.seconds
    assert torch.equal(state, torch.get_rng_state())


def test_a_checkpoint_without_time_data_and_checksum_goes_on(tmp_path):
    """What the first trainings wrote: only settings and step were said."""
    whole = run(tmp_path / "whole")
    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, at_call(4, loss_of(model), interrupt), tmp_path / "old", SHORT, progress=False)
    path = tmp_path / "old" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    save_file(load_file(path), path, {key: said[key] for key in ("settings", "step")})
    again = run(tmp_path / "old", data="anything")
    assert math.isnan(again.seconds) and same(again.average, whole.average)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"settings": replace(SHORT, rate=2e-3, seed=4)},
            r"other settings \(rate = 0.001, seed = 3\)",
        ),
        ({"width": 16}, "size mismatch"),
        ({"data": "cats"}, r"other data \(stripes\)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_kept(tmp_path, change, words):
    run(tmp_path, data="stripes")
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=rf"(?s)cannot continue.*{words}.*delete it to start anew"):
        run(tmp_path, **({"data": "stripes"} | change))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-100],
        lambda raw: b"",
        lambda raw: b"PK" + raw[2:],
        lambda raw: raw[:-5000] + bytes([raw[-5000] ^ 1]) + raw[-4999:],
    ],
    ids=["cut short", "empty", "another kind of file", "one bit"],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"(?s)cannot continue from.*delete it"):
        run(tmp_path)


def test_a_checkpoint_with_a_missing_part_is_refused(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    tensors = load_file(path)
    del tensors["generator"], said["sha256"]
    save_file(tensors, path, said)
    with pytest.raises(ValueError, match="generator"):
        run(tmp_path)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, fault):
    model = network()
    spoil = {
        "loss": lambda value: value * math.nan,
        "gradient": lambda value: value + (value - value).sqrt(),
    }  # 0 · ∞
    with pytest.raises(
        FloatingPointError, match=rf"the {fault} is .*at step 3: lower the learning rate"
    ):
        fit(model, at_call(4, loss_of(model), spoil[fault]), tmp_path, SHORT, progress=False)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert len(kept["losses"]) == 2 and all(
        value.isfinite().all() for value in kept.values() if value.is_floating_point()
    )
    assert run(tmp_path).step == 6


def test_no_space_is_said_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    run(tmp_path, replace(SHORT, steps=2))
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(
        OSError, match=r"cannot write checkpoint.safetensors .*No space left.*free space"
    ):
        run(tmp_path / "new")
    monkeypatch.undo()
    assert list((tmp_path / "new").iterdir()) == []
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch": 0},
        {"rate": 0.0},
        {"rate": math.nan},
        {"ema": 1.0},
        {"every": 0},
        {"clip": -1.0},
        {"warmup": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


def test_the_rate_rises_and_falls():
    settings = Settings(steps=100, rate=1.0, warmup=10)
    rates = [settings.rate_at(step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and rates[9] == pytest.approx(1.0)
        and rates[55] == pytest.approx(0.5)
    )
    assert all(b < a for a, b in pairwise(rates[10:])) and rates[-1] < 1e-3


def test_the_network_is_that_of_the_seed_and_leaves_the_global_generator(generator):
    state = torch.get_rng_state()
    first, again, other = (models.rotated_mnist_network(seed)[0] for seed in (0, 0, 1))
    assert (
        torch.equal(state, torch.get_rng_state()) and same(first, again) and not same(first, other)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(
            next(first.parameters()), torch.nn.Conv2d(1, 24, 3, padding=1).weight
        )  # its first layer
    assert 4 * sum(p.numel() for p in first.parameters()) < 12e6


def test_turned_digits_are_drawn_from_the_generator_alone():
    draw, held_out, about = models.turned_digits("sklearn")
    x, labels = draw(5, torch.Generator().manual_seed(2))
    again = draw(5, torch.Generator().manual_seed(2))
    assert x.shape == (5, 1, 28, 28) and torch.equal(x, again[0]) and torch.equal(labels, again[1])
    assert held_out.shape == (500, 1, 28, 28) and "1,297 digits" in about["data"]
    auto = models.turned_digits("auto")[2]
    assert auto["fallback"] and not about["fallback"] and auto["options"] == " --digits auto"
    with pytest.raises(FileNotFoundError, match="GEODESICS_DATA"):
        models.turned_digits("mnist")


def command(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("L", (28, 28), 60 * i).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


def test_one_command_trains_measures_and_writes_a_model_that_loads(tmp_path, pictures):
    arguments = [
        "rotated-mnist",
        "--images",
        pictures,
        "--out",
        tmp_path / "out",
        "--work",
        tmp_path / "work",
        "--steps",
        2,
        "--samples",
        3,
        "--seed",
        5,
        "--machine",
        "a machine",
    ]
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    names = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert names == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "README.md",
        "losses.csv",
        "scheduler/scheduler_config.json",
        "samples.png",
    }
    assert all(
        f'name = "{name}", size = {(tmp_path / "out" / name).stat().st_size}, ' in done.output
        for name in names
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (
        "3 images of the folder pictures" in card
        and "a machine" in card
        and "| 0.1 | " in card
        and "seed 5" in card
    )
    table = list(csv.reader((tmp_path / "out" / "losses.csv").read_text().splitlines()))
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert (
            picture.size == (168, 56) and table[0] == ["step", "mean_loss"] and table[1][0] == "2"
        )
    score = load(tmp_path / "out", sigma=0.5)
    kept = load_file(tmp_path / "work" / "checkpoint.safetensors")
    assert all(
        torch.equal(value, kept[f"average.{name}"])
        for name, value in score.model.state_dict().items()
    )
    assert list(tmp_path.glob(".draft*")) == []
    before = {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert command(*arguments).exit_code == 0  # finished: measured and written again, equal
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in before}


def test_the_command_refuses_what_makes_no_sense(tmp_path, pictures):
    for arguments, words in (
        (["rotated-mnits"], "did you mean 'rotated-mnist'"),
        (["rotated-mnist", "--steps", 0], "steps must be"),
        (["rotated-mnist", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["rotated-mnist", "--images", tmp_path / "typo"], "is no folder"),
        (["rotated-mnist", "--out", pictures], "would be lost"),
        (["rotated-mnist"], "GEODESICS_DATA"),
    ):
        done = command(*arguments, "--work", tmp_path / "work")
        assert done.exit_code != 0 and words in str(done.exception)
    assert not (tmp_path / "work").exists()


def test_a_model_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    score = DenoiserScore(network(), EDMEulerScheduler())
    models.save_model(tmp_path / "model", score, "first")

    def broken(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="free space"):
        models.save_model(tmp_path / "model", score, "second", {"extra.txt": broken})
    assert (tmp_path / "model" / "README.md").read_text() == "first" and len(
        list(tmp_path.iterdir())
    ) == 1
    replaced = copy.copy(score)
    models.save_model(tmp_path / "model", replaced, "third")
    assert (tmp_path / "model" / "README.md").read_text() == "third" and len(
        list(tmp_path.iterdir())
    ) == 1
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="would be lost"):
        models.save_model(tmp_path / "own", score, "card")
