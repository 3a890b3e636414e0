"""The bundled learned score: its draws are digits, and a fresh sample of MNIST gives what the committed table says."""

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

COMMITTED = Path(__file__).parent.parent / "data" / "results" / "04_turns_mnist.csv"
LEVELS = [3.0, 2.0, 1.5, 1.0, 0.7, 0.5]
needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("GEODESICS_DATA", "none")) / "mnist").is_dir(),
    reason="MNIST is not on this machine (GEODESICS_DATA)",
)


def test_draws_of_a_class_are_digits_of_that_class(generator):
    score, classifier, right = scores.load("rotated-mnist"), load_classifier(), 0
    for label in range(10):
        drawn = flow.sample(score.conditioned(label), 6, generator, steps=14)
        right += int(classifier.accuracy(drawn.clamp(0, 1), torch.full((6,), label)) * 6 + 0.5)
    assert right / 60 >= 0.4, f"{right} of 60"  # chance: 0.11; about half are right


@needs_mnist
def test_a_fresh_sample_agrees_with_the_committed_table():
    found, chosen = data.digits("mnist", split="test"), torch.Generator().manual_seed(99)
    images = found.images[torch.randperm(len(found), generator=chosen)[:10]]
    truth = torch.stack([data.rotate(images, 45 * i / 16) for i in range(17)], 1)
    score = scores.load("rotated-mnist", sigma=0.5)
    ends = truth[:, 0], truth[:, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stein = interpolate(
            score,
            *ends,
            method="stein",
            lam=250.0,
            points=17,
            noise_levels=LEVELS,
            tol=1e-3,
            max_iter=20,
        )
    table = evaluate(
        {"lerp": interpolate(score, *ends, method="lerp").frames, "stein": stein.frames},
        truth,
        distances={},
    )
    fresh = paired_ratio(table, "stein", "lerp", "mse", level=0.99)
    committed = pd.read_csv(COMMITTED)
    stated = paired_ratio(committed[committed.angle == 45], "stein", "lerp", "mse", level=0.99)
    assert fresh.low <= stated.high and stated.low <= fresh.high, (fresh, stated)
    assert stein.evaluations / 10 <= 800
