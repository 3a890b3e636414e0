"""A training of milliseconds; `python tests/small_training.py FOLDER` is another process at it."""

import sys
import time

import torch
from torch import nn

from experiments.training.loop import Settings, fit

SHORT = Settings(steps=6, batch=8, rate=1e-2, warmup=2, every=2, seed=3)


def small_network(width=4):
    """With batch norm, whose statistics belong to the average too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def small_loss(model, generator):
    x = torch.randn(8, 2, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def train(folder, loss=small_loss, settings=SHORT, width=4, **more):
    return fit(small_network(width), loss, folder, settings, progress=False, **more)


def slow_loss(model, generator):
    """The same, and a line when a step begins."""
    print("step", flush=True)
    time.sleep(0.1)
    return small_loss(model, generator)


if __name__ == "__main__":
    train(sys.argv[1], slow_loss)
