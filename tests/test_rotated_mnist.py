"""The bundled learned score: its draws are digits, fresh digits agree with the committed table."""

import os
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import data
from experiments.classifiers import load_classifier
from experiments.evaluation import evaluate, paired_ratio
from lib import flow, interpolate, scores
from lib.solvers import ConvergenceWarning

COMMITTED = data.REGISTRY.parent / "results" / "04_digits.csv"
PAIRS = 6
needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("GEODESICS_DATA", "none")) / "mnist").is_dir(),
    reason="MNIST is not on this machine (GEODESICS_DATA)",
)


def test_draws_of_a_class_are_digits_of_that_class(generator):
    score = scores.load("rotated-mnist")
    drawn = [flow.sample(score.conditioned(label), 4, generator, steps=14) for label in range(10)]
    labels = torch.arange(10).repeat_interleave(4)
    share = load_classifier().accuracy(torch.cat(drawn).clamp(0, 1), labels)
    # By chance 0.11; about half are right.
    assert share >= 0.4


@needs_mnist
def test_fresh_digits_agree_with_the_committed_table():
    digits = data.digits("mnist", split="test")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(99))
    images = digits.images[order[:PAIRS]]
    truth = torch.stack([data.rotate(images, 45 * i / 16) for i in range(17)], 1)
    score = scores.load("rotated-mnist", sigma=0.5)
    start = truth[:, 0]
    end = truth[:, -1]
    lerp = interpolate(score, start, end, method="lerp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stein = interpolate(score, start, end, method="stein")
    table = evaluate({"lerp": lerp, "stein": stein}, truth, distances={})
    fresh = paired_ratio(table, "stein", "lerp", "mse", level=0.99)
    committed = pd.read_csv(COMMITTED)
    committed = committed[committed.angle == 45]
    stated = paired_ratio(committed, "stein, sigma 0.5", "lerp", "mse", level=0.99)
    assert fresh.low <= stated.high, (fresh, stated)
    assert stated.low <= fresh.high, (fresh, stated)
    assert stein.evaluations / PAIRS <= 800
