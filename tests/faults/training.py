"""Trainings: interrupted, killed, out of memory or disk, and checkpoints of something else."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch import nn

from experiments.training.loop import Settings, fit

from . import ROOT, Status, contents, fault

SHORT = Settings(steps=6, batch=8, rate=1e-2, warmup=2, every=2, seed=3)
GOES_ON = "a whole checkpoint of the last {}; training goes on from it to the very weights of an undisturbed one"
SCRIPT = """
import sys, time
from faults.training import SHORT, at_call, train
def slowly(value):
    print("step", flush=True)
    time.sleep(float(sys.argv[2]))
    return value
train(sys.argv[1], at_call(None, slowly))
"""


def loss(model, generator):
    x = torch.randn(8, 2, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def at_call(number, act):
    """The loss, but its call of that number (each, if None) ends in act(value)."""
    calls = []

    def changed(model, generator):
        calls.append(loss(model, generator))
        return act(calls[-1]) if number in (len(calls), None) else calls[-1]

    return changed


def train(folder, loss=loss, settings=SHORT, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
    return fit(model, loss, folder, settings, progress=False, **more)


def steps(folder):
    return len(load_file(folder / "checkpoint.safetensors")["losses"])


def goes_on_as_if_nothing_had_been(world):
    whole, resumed = train(world.folder / "whole"), train(world.folder / "cut")
    assert resumed.losses == whole.losses and torch.equal(
        resumed.average.weight, whole.average.weight
    )


def raising(error):
    def act(_):
        raise error

    return act


def cut_training(what, error, says, act, kept, how="step"):
    @fault("experiments.training.loop", what, error, says, left=GOES_ON.format(how))
    def bad_training(world):
        yield lambda: train(world.folder / "cut", at_call(4, act))
        assert steps(world.folder / "cut") == kept
        goes_on_as_if_nothing_had_been(world)


cut_training("Ctrl-C inside a step", KeyboardInterrupt, "", raising(KeyboardInterrupt()), 3)
cut_training(
    "Ctrl-C that a step hears",
    KeyboardInterrupt,
    "",
    lambda value: signal.raise_signal(signal.SIGINT) or value,
    4,
)
cut_training(
    "a loss that is NaN",
    FloatingPointError,
    "the loss is nan at step 3: lower the learning rate",
    lambda value: value * float("nan"),
    2,
    "good checkpoint",
)
cut_training(
    "too little memory in a step",
    torch.OutOfMemoryError,
    "out of memory",
    raising(torch.OutOfMemoryError("out of memory")),
    2,
    "regular checkpoint",
)


@fault("experiments.training.loop", "SIGTERM", SystemExit, "", left=GOES_ON.format("step"))
def terminated(world):
    def stop(*_):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    yield lambda: train(
        world.folder / "cut", at_call(4, lambda value: signal.raise_signal(signal.SIGTERM) or value)
    )
    signal.signal(signal.SIGTERM, before)
    assert steps(world.folder / "cut") == 4
    goes_on_as_if_nothing_had_been(world)


def started(world, seconds):
    (world.folder / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, world.folder / "script.py", world.folder / "cut", str(seconds)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    )


@fault(
    "experiments.training.loop",
    "SIGKILL in the middle of a step",
    -signal.SIGKILL,
    "step",
    left=GOES_ON.format("regular checkpoint"),
)
def killed(world):
    def kill():
        with started(world, 0.2) as process:
            said = [process.stdout.readline() for _ in range(4)]  # the fourth step has begun
            process.kill()
        raise Status(process.returncode, "".join(said))

    yield kill
    assert steps(world.folder / "cut") == 2
    goes_on_as_if_nothing_had_been(world)


@fault(
    "experiments.training.loop",
    "two processes train into one folder",
    None,
    "",
    left="a whole checkpoint, with the weights of one alone",
)
def two_at_once(world):
    def both():
        processes = [started(world, 0.1) for _ in range(2)]
        for process in processes:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said

    yield both
    assert steps(world.folder / "cut") == 6
    goes_on_as_if_nothing_had_been(world)


def refused_training(what, error, says, prepare=lambda path: None, **asked):
    """A finished training lies there."""

    @fault(
        "experiments.training.loop",
        what,
        error,
        says,
        left="the checkpoint that was there, byte for byte",
    )
    def bad_request(world):
        train(folder := world.folder / "done", data="stripes")
        prepare(folder / "checkpoint.safetensors")
        world.tree()
        yield lambda: train(folder, **{"data": "stripes"} | asked)


refused_training(
    "a checkpoint of other settings",
    ValueError,
    r"other settings \(seed = 3\); delete it to start anew",
    settings=replace(SHORT, seed=4),
)
refused_training(
    "a checkpoint of other data", ValueError, r"other data \(stripes\); delete it", data="cats"
)
refused_training(
    "a checkpoint cut short",
    ValueError,
    "cannot continue from.*delete it to start anew",
    lambda path: path.write_bytes(path.read_bytes()[:-50]),
)
refused_training(
    "a checkpoint with one wrong bit",
    ValueError,
    "its checksum is wrong.*delete it",
    lambda path: path.write_bytes(path.read_bytes()[:-30] + b"!" + path.read_bytes()[-29:]),
)


@fault(
    "experiments.training.loop",
    "a batch of none",
    ValueError,
    "batch must be a whole number ≥ 1",
    left="nothing was written",
)
def empty_batch(world):
    world.tree()
    yield lambda: train(world.folder / "new", settings=Settings(batch=0))


@fault(
    "experiments.training.loop",
    "the disk is full at a checkpoint",
    OSError,
    "cannot write checkpoint.safetensors .*No space left.*free space",
    left="no checkpoint that could be taken for one, and no work was lost: this is tried before the first step",
)
def full_checkpoint(world):
    (world.folder / "cut").mkdir()
    world.full(world.folder / "cut/checkpoint.safetensors")
    yield lambda: train(world.folder / "cut")
    assert contents(world.folder) == {}
    goes_on_as_if_nothing_had_been(world)
