"""Measures against closed forms and published values; the table, its intervals; the bundled classifier and what it refuses."""

import hashlib
import json
import math
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import safetensors.torch
import scipy.stats
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd
from torchvision.transforms.functional import to_tensor

from experiments import classifiers as classifier
from experiments import data, evaluation
from experiments.classifiers import DigitClassifier
from experiments.evaluation.sets import fid_of_pairs, kid_of_pairs
from experiments.training import classifiers as classifier_training
from experiments.training.rotated_mnist import turn
from lib import FunctionScore, GaussianScore, interpolate, paths

LPIPS_FILE = Path(
    os.environ.get("GEODESICS_DATA", "nowhere"), "lpips_squeezenet", "squeezenet1_1_fp16rounded.pth"
)
needs_lpips = pytest.mark.skipif(
    not LPIPS_FILE.is_file(), reason="no LPIPS backbone in GEODESICS_DATA"
)
needs_mnist = pytest.mark.skipif(
    data.locate("mnist-test") is None, reason="MNIST is not on this machine"
)


@pytest.fixture(scope="module")
def network():
    return classifier.load_classifier()


@pytest.fixture(scope="module")
def reference():
    return classifier.load_reference()


@pytest.fixture(scope="module")
def turns():
    """True turns of six digits by 45° in nine frames, (6, 9, 1, 28, 28), and the straight paths between their ends."""
    images = data.digits(limit=6).images
    frames = torch.stack(
        [data.rotate(images, float(angle)) for angle in torch.linspace(0, 45, 9)], 1
    )
    return frames, paths.lerp(frames[:, 0], frames[:, -1], 9)


# images against the truth


def test_mse_and_psnr_of_a_constant_offset():
    truth = torch.full((2, 3, 16, 16), 0.4, dtype=torch.float64)
    images = truth + torch.tensor([0.1, 0.01], dtype=torch.float64).reshape(2, 1, 1, 1)
    expected = torch.tensor([1e-2, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(evaluation.mse(images, truth), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        evaluation.psnr(images, truth), torch.tensor([20.0, 40.0]).double(), rtol=1e-6, atol=0
    )
    assert evaluation.psnr(truth, truth).isinf().all()


def test_ssim_of_constant_images_has_a_closed_form(generator):
    a, b, c1 = 0.3, 0.6, 0.01**2
    flat = torch.tensor([a, b], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 20, 20)
    expected = torch.full((2,), (2 * a * b + c1) / (a**2 + b**2 + c1), dtype=torch.float64)
    torch.testing.assert_close(evaluation.ssim(flat, flat.flip(0)), expected, rtol=1e-6, atol=0)
    noise = torch.rand(3, 1, 28, 28, generator=generator)
    torch.testing.assert_close(evaluation.ssim(noise, noise), torch.ones(3), rtol=0, atol=1e-5)
    assert evaluation.ssim(noise[:1], noise[:1]).shape == (1,)
    with pytest.raises(ValueError, match="11×11"):
        evaluation.ssim(noise[..., :8], noise[..., :8])


def test_images_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        evaluation.mse(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))


@needs_lpips
def test_lpips_gives_the_published_example_values():
    distance = evaluation.load_lpips("squeeze")
    draw = torch.Generator().manual_seed(42)
    a, b = (torch.rand(2, 3, 100, 100, generator=draw) for _ in range(2))
    torch.testing.assert_close(
        distance(a, b), torch.tensor([0.1024, 0.0938]), rtol=0, atol=5e-5
    )  # torchmetrics 1.9's docs
    ref, p0, p1 = (
        to_tensor(PIL.Image.open(LPIPS_FILE.with_name(f"ex_{name}.png")).convert("RGB"))[None]
        for name in ("ref", "p0", "p1")
    )
    expected = torch.tensor(
        [0.7112, 0.1479]
    )  # lpips' own example images, as measured with these weights
    torch.testing.assert_close(
        torch.cat([distance(ref, p0), distance(ref, p1)]), expected, rtol=0, atol=5e-5
    )


@needs_lpips
def test_lpips_enlarges_small_grey_images_and_leaves_the_global_seed(turns):
    before = torch.get_rng_state()
    distance, (truth, straight) = evaluation.load_lpips(), turns
    assert torch.equal(torch.get_rng_state(), before)
    a, b = truth[:, 4], straight[:, 4]
    large = [
        torch.nn.functional.interpolate(x.repeat(1, 3, 1, 1), (64, 64), mode="bilinear")
        for x in (a, b)
    ]
    torch.testing.assert_close(distance(a, b), distance(*large), rtol=1e-5, atol=1e-7)
    assert distance(a, a).abs().max() == 0 and distance(a, b).min() > 0
    with pytest.raises(ValueError, match="1 or 3"):
        distance(a.expand(-1, 2, -1, -1), b.expand(-1, 2, -1, -1))


def test_lpips_without_its_backbone_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"download=True.*squeezenet1_1-b8a52dc0\.pth.*GEODESICS_DATA"
    ):
        evaluation.load_lpips()
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps({"features.0.weight": 1}))
    with pytest.raises(ValueError, match="damaged"):
        evaluation.load_lpips()
    with pytest.raises(ValueError, match="did you mean 'alex'"):
        evaluation.load_lpips("alexx")


def test_lpips_refuses_another_backbone():
    with pytest.raises(ValueError, match="does not hold torchvision's squeeze"):
        evaluation.Lpips("squeeze", {"features.0.weight": torch.zeros(1)}, "some file")


# sequences


def test_ppl_and_pdv_by_hand():
    frames = (
        torch.tensor([[0, 1, 3, 3.5], [0, 2, 4, 6]]).reshape(2, 4, 1, 1, 1).expand(2, 4, 1, 5, 5)
    )
    distance = lambda a, b: (a - b).mean((1, 2, 3)).abs()
    steps = np.array([1, 2, 0.5])
    found = evaluation.adjacent_distances(frames, distance)
    torch.testing.assert_close(evaluation.ppl(found), torch.tensor([3.5, 6.0]))
    torch.testing.assert_close(evaluation.pdv(found), torch.tensor([float(steps.std()), 0.0]))
    with pytest.raises(ValueError, match="N ≥ 2"):
        evaluation.adjacent_distances(frames[:, :1], distance)


def test_log_density_along_a_path_is_that_of_a_gaussian():
    score = GaussianScore(torch.zeros(2, dtype=torch.float64), 1.0)
    heights = torch.tensor(
        [1.0, 2.0, 3.0, 1.5, 0.0], dtype=torch.float64
    )  # straight in each element
    frames = torch.stack(
        [torch.stack([heights, torch.ones(5).double()], 1), torch.stack([heights - 1, heights], 1)]
    )
    f = -frames.square().sum(2) / 2
    found = evaluation.path_log_density(score, frames)
    torch.testing.assert_close(
        found.mean, f.mean(1) - (f[:, 0] + f[:, -1]) / 2, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        found.dip, torch.minimum(f[:, 0], f[:, -1]) - f.min(1).values, rtol=1e-9, atol=1e-9
    )
    assert (
        evaluation.path_log_density(score, paths.lerp(frames[:, 0], -frames[:, 0], 9))
        .dip.abs()
        .max()
        < 1e-12
    )


# sets


def test_frechet_distance_has_closed_forms(generator):
    mean, other = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.0, 3.5]).double()
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.0]).double()
    expected = (mean - other).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    torch.testing.assert_close(
        evaluation.frechet_distance(mean, a.diag(), other, b.diag()), expected, rtol=1e-12, atol=0
    )
    p, q = (x @ x.T for x in torch.randn(2, 2, 2, generator=generator, dtype=torch.float64))
    root = torch.sqrt(
        (p @ q).trace() + 2 * torch.sqrt(p.det() * q.det())
    )  # tr √M of a 2×2 matrix M = pq
    found = evaluation.frechet_distance(mean[:2], p, mean[:2], q)
    torch.testing.assert_close(found, p.trace() + q.trace() - 2 * root, rtol=1e-9, atol=1e-12)


def test_fid_of_gaussian_samples(generator):
    x = torch.randn(40_000, 4, generator=generator, dtype=torch.float64)
    y = 1 + 2 * torch.randn(40_000, 4, generator=generator, dtype=torch.float64)
    assert evaluation.fid(x, y) == pytest.approx(
        4 * 1 + 4 * (2 - 1) ** 2, rel=0.02
    )  # ‖Δμ‖² + Σ (Δ standard deviation)²
    assert abs(evaluation.fid(x, x)) < 1e-10


def test_fid_agrees_with_torchmetrics(generator):
    x, y = torch.randn(300, 8, generator=generator), torch.rand(200, 8, generator=generator)
    identity = torch.nn.Identity()
    identity.num_features = 8
    metric = FrechetInceptionDistance(identity)
    metric.update(x.double(), real=True)
    metric.update(y.double(), real=False)
    assert evaluation.fid(y, x) == pytest.approx(float(metric.compute()), rel=1e-8)


def test_kid_by_hand_and_as_torchmetrics(generator):
    x, y = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[1.0], [1.0], [2.0], [2.0]])
    inside_x, inside_y = (
        2 * 1 + 2 * 8 + 8 * 1,
        2 * 8 + 2 * 125 + 8 * 27,
    )  # (x·x' + 1)³ over the 12 ordered pairs
    expected = inside_x / 12 + inside_y / 12 - 2 * (1 + 1 + 8 + 27) / 4
    assert evaluation.kid(x, y, subsets=2)[0] == pytest.approx(expected, rel=1e-12)
    a, b = (
        torch.randn(60, 5, generator=generator).double(),
        torch.rand(60, 5, generator=generator).double(),
    )
    assert evaluation.kid(a, b)[0] == pytest.approx(float(poly_mmd(a, b)), rel=1e-10)


def test_kid_is_unbiased_and_its_error_honest(generator):
    def draw(shift):
        x, y = torch.randn(2, 200, 6, generator=generator, dtype=torch.float64)
        return evaluation.kid(x + shift, y)

    null, shifted = (torch.tensor([draw(shift) for _ in range(60)]) for shift in (0.0, 0.5))
    assert null[:, 0].mean().abs() < 3 * null[:, 0].std() / math.sqrt(60)
    assert 0.7 < shifted[:, 1].mean() / shifted[:, 0].std() < 1.6
    assert (null[:, 0].abs() < 4 * null[:, 1]).double().mean() > 0.9


@pytest.mark.parametrize(
    "x, y, words",
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), "rows ≥ 2"),
        (torch.zeros(9, 3), torch.zeros(9, 4), "one network"),
        (torch.full((9, 3), math.nan), torch.zeros(9, 3), "NaN"),
        (torch.zeros(9, 3), torch.zeros(9, 3), "20 rows"),
    ],
)
def test_bad_features_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        evaluation.kid(x, y)


def test_distances_of_chosen_pairs_are_those_of_their_frames(generator):
    features, other = (
        torch.randn(7, 9, 4, generator=generator).double(),
        torch.rand(50, 4, generator=generator).double(),
    )
    reference = classifier.Reference(other.mean(0), other.T.cov(), other, "random", "none")
    chosen = torch.randint(7, (3, 7), generator=generator)
    for of_pairs, measure in (
        (fid_of_pairs, evaluation.fid),
        (kid_of_pairs, lambda *a: evaluation.kid(*a)[0]),
    ):
        literal = [measure(features[row].flatten(0, 1), reference) for row in chosen]
        assert of_pairs(features, reference)(chosen).tolist() == pytest.approx(literal, rel=1e-9)


# intervals


def test_bootstrap_covers_a_known_mean(generator):
    hits = 0
    for _ in range(200):
        interval = evaluation.bootstrap(
            1 + torch.randn(40, generator=generator), draws=400, generator=generator
        )
        hits += interval.low <= 1 <= interval.high
    assert (
        0.88 <= hits / 200 <= 0.985
    )  # 0.95 by intent, about 0.94 for 40 values; ± 3 standard errors


def test_bootstrap_agrees_with_scipy(generator):
    values = torch.rand(50, generator=generator).square().double()
    found = evaluation.bootstrap(values, draws=20_000, level=0.9)
    expected = scipy.stats.bootstrap(
        (values.numpy(),),
        np.mean,
        confidence_level=0.9,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.estimate == pytest.approx(float(values.mean()), rel=1e-12)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.003)
    assert found == evaluation.bootstrap(values, draws=20_000, level=0.9)


def test_a_biased_statistic_can_be_centred():
    largest = lambda v: v.amax(-1)  # no draw exceeds it, so the plain interval lies to one side
    plain, centred = (
        evaluation.bootstrap(torch.arange(9.0), largest, level=0.9, centre=c) for c in (False, True)
    )
    assert plain.high == plain.estimate == 8 and centred.low < 8 < centred.high
    assert centred.high - centred.low == pytest.approx(plain.high - plain.low)


@pytest.mark.parametrize(
    "values, settings, words",
    [
        (torch.ones(1), {}, "two pairs"),
        (torch.tensor([1.0, math.inf]), {}, "infinite"),
        (torch.ones(3), {"level": 95}, "level"),
        (torch.ones(3), {"draws": 0}, "draws"),
    ],
)
def test_bad_arguments_of_bootstrap(values, settings, words):
    with pytest.raises(ValueError, match=words):
        evaluation.bootstrap(values, **settings)


# the table


def test_table_has_a_row_for_each_method_and_pair(turns):
    truth, straight = turns
    score = FunctionScore(lambda x: -x, event_shape=(1, 28, 28))
    table = evaluation.evaluate(
        {"exact": truth, "lerp": straight},
        truth,
        score=score,
        seconds={"lerp": 3.0},
        evaluations={"lerp": torch.arange(6.0)},
        about={"digit": list(range(6))},
    )
    assert table[["method", "pair", "digit"]].values.tolist() == [
        [m, i, i] for m in ("exact", "lerp") for i in range(6)
    ]
    exact, lerp = (table[table["method"] == m] for m in ("exact", "lerp"))
    assert (exact[["mse", "perceptual"]] == 0).all(axis=None) and (
        lerp[["mse", "perceptual"]] > 0
    ).all(axis=None)
    assert lerp["mse"].iloc[2] == pytest.approx(
        float((straight - truth)[2, 1:-1].double().square().mean()), rel=1e-5
    )
    assert (
        lerp["evaluations"].tolist() == [0, 1, 2, 3, 4, 5]
        and (lerp["seconds"] == 0.5).all()
        and exact["seconds"].isna().all()
    )
    measures = [c for c in table if c not in ("method", "pair", "digit")]
    assert {
        "ppl_perceptual",
        "pdv_perceptual",
        "log_density_mean",
        "log_density_dip",
        "psnr",
        "ssim",
    } <= set(measures)
    assert all(len(evaluation.definition(c)) > 20 for c in measures)


def test_definitions_name_the_network_that_was_used(network):
    for measure in ("perceptual", "fid", "kid", "ppl_perceptual"):
        plain, hand = evaluation.definition(measure), evaluation.definition(measure, "hands")
        assert (
            "digit classifier" in plain
            and "hand" not in plain
            and "hand classifier" in hand
            and "digit" not in hand
        )
        assert evaluation.definition(measure, network) == plain
    assert "turned held-out digits" in evaluation.definition(
        "fid"
    ) and "photographs" in evaluation.definition("fid", "hands")
    assert evaluation.definition("mse", "hands") == evaluation.definition("mse")
    assert "sum of the lpips distances" in evaluation.definition("ppl_lpips")
    with pytest.raises(ValueError, match="unknown classifier 'feet'"):
        evaluation.definition("fid", "feet")


def test_given_end_points_do_not_count(turns):
    truth, straight = turns
    spoiled = straight.clone()
    spoiled[:, [0, -1]] = 1
    one, other = (evaluation.evaluate({"m": x}, truth) for x in (straight, spoiled))
    same = ["mse", "psnr", "ssim", "perceptual"]
    assert one[same].equals(other[same]) and not one["ppl_perceptual"].equals(
        other["ppl_perceptual"]
    )


def test_pairs_one_by_one_give_the_same_table(turns):
    truth, straight = turns
    together = evaluation.evaluate({"lerp": straight}, truth).drop(columns=["method", "pair"])
    alone = [
        evaluation.evaluate({"lerp": straight[i : i + 1]}, truth[i : i + 1]).drop(
            columns=["method", "pair"]
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(
        together, np.concatenate([row.to_numpy() for row in alone]), rtol=2e-4, atol=1e-6
    )


def test_results_of_interpolate_bring_their_evaluations(turns):
    start, end = turns[0][:, 0], turns[0][:, -1]
    result = interpolate(
        FunctionScore(lambda x: -x, event_shape=(1, 28, 28)),
        start,
        end,
        frames=5,
        points=9,
        lam=1e-3,
    )
    table = evaluation.evaluate({"stein": result}, distances={})
    assert (
        table["evaluations"].sum() == pytest.approx(result.evaluations) and result.evaluations > 0
    )
    assert "mse" not in table


def test_frames_of_other_shapes_are_refused(turns):
    truth, straight = turns
    with pytest.raises(ValueError, match="'lerp' must have shape"):
        evaluation.evaluate({"lerp": straight[:, :5]}, truth)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.evaluate({"lerp": straight * math.nan}, truth)
    with pytest.raises(ValueError, match="at least one method"):
        evaluation.evaluate({})
    with pytest.raises(ValueError, match="28, 28"):
        evaluation.evaluate({"lerp": straight[..., 4:24, 4:24]})


def test_summary_and_ratio(turns):
    truth, straight = turns
    halfway = (straight + truth) / 2
    table = evaluation.evaluate(
        {"lerp": straight, "half": halfway, "exact": truth}, truth, distances={}
    )
    rows = evaluation.summary(table).set_index(["method", "measure"])
    mean = table[table["method"] == "lerp"]["mse"].mean()
    assert rows.loc[("lerp", "mse"), "estimate"] == pytest.approx(mean, rel=1e-12)
    assert (
        rows.loc[("lerp", "mse"), "low"] < mean < rows.loc[("lerp", "mse"), "high"]
        and (rows["pairs"] == 6).all()
    )
    assert math.isinf(rows.loc[("exact", "psnr"), "estimate"]) and math.isnan(
        rows.loc[("exact", "psnr"), "low"]
    )
    ratio = evaluation.paired_ratio(table, "half", "lerp", "mse")
    assert list(ratio) == pytest.approx([0.25] * 3, rel=1e-4)  # a quarter in every pair: no spread
    uneven = pd.DataFrame(
        {"method": ["a"] * 3 + ["b"] * 3, "pair": [0, 1, 2, 2, 1, 0], "mse": [1.0, 3, 2, 1, 1, 4]}
    )
    assert evaluation.paired_ratio(uneven, "a", "b", "mse").estimate == pytest.approx(
        1
    )  # of means, not a mean of ratios
    with pytest.raises(ValueError, match="common pairs"):
        evaluation.paired_ratio(
            table[(table["method"] == "lerp") | (table["pair"] > 0)], "half", "lerp", "mse"
        )
    with pytest.raises(ValueError, match="unknown method 'harf'; did you mean 'half'"):
        evaluation.paired_ratio(table, "harf", "lerp", "mse")


def test_summary_groups_by_one_name_or_several():
    table = pd.DataFrame(
        {
            "method": list("aabb"),
            "angle": [45, 90, 45, 90],
            "pair": [0, 1, 0, 1],
            "mse": [1.0, 3.0, 2.0, 6.0],
        }
    )
    one, several = evaluation.summary(table, by="method"), evaluation.summary(table, by=["method"])
    pd.testing.assert_frame_equal(one, several)
    assert one[["method", "measure", "estimate", "pairs"]].values.tolist() == [
        ["a", "mse", 2.0, 2],
        ["b", "mse", 4.0, 2],
    ]
    assert evaluation.summary(table, by="angle")["estimate"].tolist() == [1.5, 4.5]
    assert evaluation.summary(table, by=("method", "angle"))["estimate"].tolist() == [
        1.0,
        3.0,
        2.0,
        6.0,
    ]
    with pytest.raises(ValueError, match="unknown column 'angel'; did you mean 'angle'"):
        evaluation.summary(table, by="angel")
    lost = evaluation.summary(
        table.assign(angle=[45, None, 45, None]), by="angle"
    )  # a row without a group stays in
    assert lost["estimate"].tolist() == [1.5, 4.5] and math.isnan(lost["angle"].iloc[1])


def test_nan_is_never_averaged_away(turns):
    table = pd.DataFrame(
        {
            "method": list("aabb"),
            "pair": [0, 1, 0, 1],
            "mse": [1.0, 3, 2, 6],
            "seconds": [1.0, 2, None, None],
        }
    )
    assert evaluation.summary(table).groupby("method")["measure"].apply(list).tolist() == [
        ["mse", "seconds"],
        ["mse"],
    ]
    with pytest.raises(ValueError, match="mse is NaN in 1 of 2 rows of b; .*drop the rows"):
        evaluation.summary(table.assign(mse=[1.0, 3.0, math.nan, 6.0]))
    with pytest.raises(
        ValueError, match="'m' has NaN among its ppl_odd, pdv_odd in up to 6 of 6 pairs; mend"
    ):
        evaluation.evaluate(
            {"m": turns[0]}, distances={"odd": lambda a, b: a.mean((1, 2, 3)) * math.nan}
        )
    with pytest.raises(ValueError, match="NaN among its seconds in up to 1 of 6"):
        evaluation.evaluate(
            {"m": turns[0]}, distances={}, seconds={"m": torch.tensor([1.0, 2, 3, 4, 5, math.nan])}
        )


def test_true_turns_are_nearer_to_turned_digits_than_straight_lines(turns, network, reference):
    truth, straight = turns
    rows = evaluation.set_summary(
        {"exact": truth, "lerp": straight}, reference, draws=100
    ).set_index(["measure", "method"])
    for measure in ("fid", "kid"):
        assert rows.loc[(measure, "exact"), "estimate"] < rows.loc[(measure, "lerp"), "estimate"]
        assert (rows.loc[measure, "low"] < rows.loc[measure, "estimate"]).all()
    features = network.features(straight[:, 1:-1].flatten(0, 1))
    assert rows.loc[("fid", "lerp"), "estimate"] == pytest.approx(
        evaluation.fid(features, reference), rel=1e-6
    )
    assert rows.loc[("kid", "lerp"), "estimate"] == pytest.approx(
        evaluation.kid(features, reference)[0], rel=1e-6
    )


def test_differences_of_sets_are_those_of_their_summaries(turns, network, reference):
    truth, straight = turns
    sets = {"exact": truth, "lerp": straight}
    alone = (
        evaluation.set_summary(sets, reference, draws=100).set_index(["measure", "method"]).estimate
    )
    rows = evaluation.set_differences(
        sets, ["exact"], ["lerp", "exact"], reference, classifier=network, draws=100
    )
    rows = rows.set_index(["measure", "baseline"])
    for measure in ("fid", "kid"):
        assert rows.estimate[measure, "lerp"] == pytest.approx(
            alone[measure, "exact"] - alone[measure, "lerp"], abs=1e-9
        )
        assert (
            rows.low[measure, "lerp"] < rows.estimate[measure, "lerp"] < rows.high[measure, "lerp"]
        )
        assert tuple(rows.loc[measure, "exact"])[1:4] == (0.0, 0.0, 0.0)  # a method against itself
    with pytest.raises(ValueError, match="same pairs"):
        evaluation.set_differences(
            {**sets, "few": truth[:2]}, ["few"], ["lerp"], reference, classifier=network
        )
    with pytest.raises(ValueError, match="unknown method 'stein'"):
        evaluation.set_differences(sets, ["stein"], ["lerp"], reference, classifier=network)


# the classifier


@needs_mnist
def test_classifier_is_as_accurate_on_turned_mnist_as_its_card_says(network):
    stated = json.loads((data.REGISTRY.parent / "models/digit-classifier/config.json").read_text())[
        "held_out"
    ]["accuracy"]
    digits = data.digits("mnist")
    pick = torch.randperm(len(digits), generator=torch.Generator().manual_seed(5))[:500]
    images = turn(digits.images[pick], torch.Generator().manual_seed(6))
    error = math.sqrt(stated * (1 - stated) / 500)
    assert abs(network.accuracy(images, digits.labels[pick]) - stated) < 4 * error and stated > 0.96


def test_classifier_reads_turned_digits_of_another_source(network):
    digits = data.digits("sklearn")
    images = turn(digits.images, torch.Generator().manual_seed(0))
    assert (
        network.accuracy(images, digits.labels) > 0.65
    )  # 8×8 pixels enlarged, other writers, never seen in training


def test_six_and_nine_are_one_class(network):
    nines = data.digits(labels=[9])
    assert DigitClassifier().target(torch.arange(10)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 6]
    assert (
        network(nines.images).shape == (len(nines), 9) == (len(nines), len(DigitClassifier.classes))
    )
    read = (network(nines.images).argmax(1) == 6).double().mean()
    for digit in (6, 9):
        assert (
            network.accuracy(nines.images, torch.full((len(nines),), digit)) == float(read) > 1 / 9
        )


def test_perceptual_distance_by_its_definition(network, turns):
    a, b = turns[0][:, 0], turns[0][:, 4]
    expected = torch.zeros(6)
    for p, q in zip(network.layers(a), network.layers(b), strict=True):
        cosine = torch.nn.functional.cosine_similarity(p, q, dim=1)
        expected += (2 - 2 * cosine).mean((1, 2))  # ‖u − v‖² of unit vectors
    found = network.perceptual_distance(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (
        network.perceptual_distance(a, a).max() == 0 and found.min() > 0 and not found.requires_grad
    )
    torch.testing.assert_close(network.perceptual_distance(b, a), found)


@pytest.mark.parametrize(
    "images, error, words",
    [
        (torch.zeros(2, 3, 28, 28), ValueError, "28, 28"),
        (torch.zeros(2, 1, 32, 32), ValueError, "28, 28"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), TypeError, "float"),
    ],
)
def test_classifier_refuses_other_images(network, images, error, words):
    with pytest.raises(error, match=words):
        network.features(images)


def test_training_repeats_itself_and_leaves_the_global_seed(tmp_path):
    before = torch.get_rng_state()
    short = replace(classifier_training.RECIPES["digits"].settings, steps=4, batch=32)
    trained = [
        classifier_training.train_classifier(tmp_path / name, short, source="sklearn")
        for name in "ab"
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        trained[0].sha256 == trained[1].sha256 == classifier.load_classifier(tmp_path / "a").sha256
    )
    card = (tmp_path / "a" / "README.md").read_text()
    assert trained[0].sha256 in card and "steps 4, batch 32" in card and "held-out accuracy" in card
    images = data.digits(limit=3).images
    assert torch.equal(
        classifier.load_classifier(tmp_path / "a").features(images), trained[0].features(images)
    )
    path = classifier_training.make_reference(tmp_path / "a", trained[0], source="sklearn", rows=50)
    made = classifier.load_reference(tmp_path / "a")
    assert (
        path.is_file()
        and made.sample.shape == (50, 64)
        and made.model == trained[0].sha256
        and "500 test" in made.made_of
    )
    assert not list(tmp_path.rglob(".draft*"))
    frames = data.digits(limit=6).images.reshape(2, 3, 1, 28, 28)
    with pytest.raises(ValueError, match="another classifier"):
        evaluation.set_summary({"m": frames}, made)


def test_training_is_plain_adamw(tmp_path):
    """The recipe of the bundled weights by hand: AdamW and a cosine rate, without averaging or clipping."""
    short, digits = (
        replace(classifier_training.RECIPES["digits"].settings, steps=3, batch=16, seed=7),
        data.digits("sklearn", split="train"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        model = DigitClassifier()
    optimizer, draw = (
        torch.optim.AdamW(model.parameters(), short.rate),
        torch.Generator().manual_seed(7),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for _ in range(3):
        pick = torch.randint(len(digits), (16,), generator=draw)
        images, labels = (
            turn(digits.images[pick], draw),
            model.target(digits.labels[pick]),
        )
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    trained = classifier_training.train_classifier(tmp_path, short, source="sklearn").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-6)


@needs_mnist
def test_bundled_reference_is_what_its_function_makes(network, reference, tmp_path):
    classifier_training.make_reference(tmp_path, network)
    made = classifier.load_reference(tmp_path)
    torch.testing.assert_close(made.mean, reference.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made.covariance, reference.covariance, rtol=1e-2, atol=1e-4)
    assert evaluation.fid(made.sample, reference) == pytest.approx(
        evaluation.fid(reference.sample, reference), rel=0.02
    )
    assert made.model == reference.model and made.made_of == reference.made_of


# what is refused


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(
        shutil.copytree(data.REGISTRY.parent / "models" / "digit-classifier", tmp_path / "model")
    )


def put(folder, content, signed):
    """Replace the model file; `signed` also makes its checksum right, so that only the content is wrong."""
    (folder / "model.safetensors").write_bytes(content)
    if signed:
        config = json.loads((folder / "config.json").read_text())
        config["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "signed, words", [(False, "damaged or cut short"), (True, "holds no digit classifier")]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-100],
        lambda raw: b"",
        lambda raw: pickle.dumps(Bomb()),
        lambda raw: safetensors.torch.save({"head.weight": torch.zeros(2, 2)}),
    ],
)
def test_damaged_and_foreign_checkpoints_are_refused_and_nothing_is_unpickled(
    copied, damage, signed, words
):
    put(copied, damage((copied / "model.safetensors").read_bytes()), signed)
    with pytest.raises(ValueError, match=words):
        classifier.load_classifier(copied)
    assert not Path("unpickled").exists()


def test_another_architecture_and_missing_files_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"widths": [8, 8, 8]}))
    with pytest.raises(ValueError, match=r"widths \(8, 8, 8\)"):
        classifier.load_classifier(copied)
    (copied / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no config of a digit-classifier or hand-classifier"):
        classifier.load_classifier(copied)
    (copied / "reference.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no reference statistics"):
        classifier.load_reference(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"experiments\.training"):
        classifier.load_classifier(copied)
    assert not Path("unpickled").exists()
