"""Pairs of images: folders of every layout, batches, runs that were cut, bad input."""

import functools
import json
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pipelines import pipeline, saved
from typer.testing import CliRunner

from experiments import pairs as runner
from experiments.command import Options
from experiments.evaluation import adjacent_distances, mse, path_log_density, ppl
from experiments.pairs import Pairs, load_frames, read_pairs, run_pairs
from experiments.plans import settings_from_text
from lib import latents
from lib.methods.interpolate import interpolate
from lib.scores import FunctionScore, PipelineScore, ProductScore

PIPE = pipeline()
METHODS = ("lerp", "shared_noise_lerp", "stein")
QUICK = {"shared_noise_lerp": {"flow_steps": 2}, "stein": {"points": 4, "max_iter": 1, "tol": 0.1}}
FILES = ["00.png", "01.png", "02.png", "03.png", "04.png", "record.json"]
MEASURES = ["ppl_mse", "pdv_mse", "log_density_mean", "log_density_dip"]


def score():
    return PipelineScore(PIPE, micro_batch=64, sigma=1.0)


def images(n=4, seed=0):
    """Smooth random pictures, (n, 3, 64, 64)."""
    rough = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, (64, 64), mode="bilinear")


def pairs(n=4, **more):
    given = {
        "prompt": ["a cat", "dog", "", "hat"][:n],
        "end_prompt": ["a cat", "cow", "", "box"][:n],
        "about": {"category": list("abab")[:n]},
    }
    return Pairs(images(n), images(n, 1), **given | more)


def made(out, *, of=None, methods=METHODS, settings=QUICK, **more):
    """A quick run on the small random model."""
    settings = {name: settings[name] for name in methods if name in settings}
    given = {"frames": 5, "batch": 2, "distances": {"mse": mse}, "progress": False} | more
    model = given.pop("score", None) or score()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not converge", UserWarning)
        warnings.filterwarnings("ignore", ".*moves along the path", UserWarning)
        return run_pairs(model, of or pairs(), methods, out, settings=settings, **given)


def made_three(out, **more):
    """A run of three pairs, each a batch of its own, by the cheapest method."""
    of = pairs(3, prompt="cat", end_prompt=None, about={})
    return made(out, **{"methods": ("lerp",), "of": of, "batch": 1} | more)


def picture(path, seed=0, size=(80, 72)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def every_file(folder):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def frames_of(out):
    return every_file(out / "frames")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in batches of two, with the evaluations it took."""
    out = tmp_path_factory.mktemp("whole") / "out"
    model = score()
    table = made(out, score=model)
    return out, table, model.counter.evaluations


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"


# ---- what a run writes


def test_rows_frames_and_summary(whole):
    out, table, _ = whole
    rows = [[method, f"{i:03d}"] for method in METHODS for i in range(4)]
    assert table[["method", "pair"]].values.tolist() == rows
    assert table["category"].tolist() == list("abab") * 3
    assert table["end_prompt"].tolist()[:4] == ["a cat", "cow", "", "box"]
    assert sorted(path.name for path in (out / "frames" / "stein" / "002").iterdir()) == FILES
    assert np.isfinite(table[MEASURES].to_numpy()).all()
    # only a geodesic can converge
    assert table["converged"].isna().sum() == 8
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv")[MEASURES], table[MEASURES])
    settings = json.loads((out / "settings.json").read_text())
    assert settings["density_sigma"] == 1.0 and settings["methods"]["stein"][1]["points"] == 4
    means = pd.read_csv(out / "summary.csv").set_index(["method", "measure"])
    mean = table[table["method"] == "stein"]["ppl_mse"].mean()
    assert means.loc[("stein", "ppl_mse"), "estimate"] == pytest.approx(mean)
    assert means.loc[("stein", "ppl_mse"), "pairs"] == 4
    share = table.loc[table["method"] == "stein", "converged"].mean()
    assert means.loc[("stein", "converged"), "estimate"] == share
    assert ("lerp", "converged") not in means.index


def under(prompts):
    """The score of the second pair, between two prompts, by hand."""
    model = score()
    if prompts == "none":
        return model.prompted("")
    if prompts == "product":
        return ProductScore([model.prompted("dog"), model.prompted("cow")])
    return model.prompted(["dog"], end_prompt=["cow"])


@pytest.mark.parametrize("prompts", ["none", "product", "moving"])
def test_frames_and_measures_are_those_of_the_library(whole, tmp_path, prompts):
    """One pair by hand: encode, interpolate, decode; steps of 8-bit frames; one density for all."""
    out, table, _ = whole
    name = "shared_noise_lerp"
    if prompts == "product":
        out = tmp_path / "out"
        table = made(out, methods=(name,), prompts=prompts)
    if prompts == "moving":
        out = tmp_path / "out"
        table = made(out, methods=(name,), settings={name: {"flow_steps": 2, "prompts": "moving"}})
    model = under(prompts)
    start = latents.encode(score(), images()[1:2])
    end = latents.encode(score(), images(4, 1)[1:2])
    by_hand = interpolate(model, start, end, method=name, frames=5, flow_steps=2)
    shown = latents.decode(score(), by_hand.frames)[0]
    stored = load_frames(out / "frames" / name / "001")
    assert (stored - shown).abs().max() < 0.51 / 255 + 1e-4
    row = table[(table["method"] == name) & (table["pair"] == "001")].iloc[0]
    steps = ppl(adjacent_distances(stored[None], mse)).item()
    assert row["ppl_mse"] == pytest.approx(steps, rel=1e-6)
    fixed = under("product" if prompts == "product" else "none")
    density = path_log_density(fixed.at(1.0), by_hand.frames)
    assert row["log_density_mean"] == pytest.approx(density.mean.item(), rel=1e-3, abs=1e-3)
    assert row["evaluations"] == by_hand.evaluations
    used = json.loads(row["settings"])
    assert used["flow_steps"] == 2 and used["prompts"] == prompts


def test_one_by_one_is_as_in_batches(whole, tmp_path):
    """Frames to one step of 8 bits, log-densities to 1e-3; as many evaluations in all."""
    out, table, _ = whole
    alone = made(tmp_path / "out", batch=1)
    np.testing.assert_allclose(alone[MEASURES], table[MEASURES], rtol=2e-3, atol=1e-3)
    assert alone["evaluations"].sum() == table["evaluations"].sum()
    for place in (out / "frames").glob("*/*"):
        other = tmp_path / "out" / place.relative_to(out)
        assert (load_frames(place) - load_frames(other)).abs().max() < 1.5 / 255


def test_one_method_under_two_names_and_animations(tmp_path):
    settings = {"weak": {"method": "stein", "lam": 1.0, "points": 5, "max_iter": 1, "tol": 0.5}}
    given = {"of": pairs(1), "methods": ("lerp", "weak"), "settings": settings, "gif": True}
    table = made(tmp_path / "out", **given)
    assert "lam=1" in json.loads(table["settings"][1])["metric"]
    with Image.open(tmp_path / "out" / "animations" / "weak" / "000.gif") as gif:
        # 0 1 2 3 4 3 2 1
        assert gif.n_frames == 8 and gif.size == (64, 64)
    before = every_file(tmp_path / "out")
    made(tmp_path / "out", **given)
    assert every_file(tmp_path / "out") == before
    # no animation of frames that are gone
    made(tmp_path / "out", of=pairs(1, prompt="other"), methods=("lerp",))
    assert not (tmp_path / "out" / "animations" / "lerp" / "000.gif").exists()


def test_methods_that_know_one_prompt_a_call_get_one_pair_a_batch(tmp_path):
    settings = {"georce": {"points": 3, "max_iter": 1}}
    of = pairs(2, end_prompt=None)
    table = made(tmp_path / "out", of=of, methods=("georce",), settings=settings)
    assert len(table) == 2 and (table["evaluations"] > 0).all()


def test_embeddings_in_place_of_prompts(tmp_path):
    start, end = (score().embed(prompts) for prompts in (pairs().prompt, pairs().end_prompt))
    quick = {"methods": ("shared_noise_lerp",), "prompts": "product"}
    table = made(tmp_path / "words", **quick)
    embedded = made(tmp_path / "out", of=pairs(prompt=start, end_prompt=end), **quick)
    assert set(embedded["prompt"]) == {"an embedding"}
    np.testing.assert_allclose(embedded[MEASURES], table[MEASURES], rtol=2e-3, atol=1e-3)


# ---- what is there is not made again


def test_a_run_that_is_done_is_only_read(whole):
    out, table, _ = whole
    before, model = every_file(out), score()
    pd.testing.assert_frame_equal(made(out, score=model), table)
    assert model.counter.evaluations == 0 and every_file(out) == before


def test_a_run_that_was_cut_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    """Ctrl-C in the second batch of the second method."""
    out, table, evaluations = whole
    calls, cut, rest = [], score(), score()

    @functools.wraps(interpolate)
    def stopped(model, *arguments, **settings):
        calls.append(settings["method"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return interpolate(model, *arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "interpolate", stopped)
        made(tmp_path / "out", score=cut)
    finished = every_file(tmp_path / "out")
    # three batches of two pairs, five frames and a record each
    assert len(finished) == 3 * 2 * 6 and not (tmp_path / "out" / "table.csv").exists()
    again = made(tmp_path / "out", score=rest)
    assert 0 < rest.counter.evaluations == evaluations - cut.counter.evaluations
    assert every_file(tmp_path / "out").items() >= finished.items()
    ours, theirs = frames_of(tmp_path / "out"), frames_of(out)
    assert ours.keys() == theirs.keys()
    # the records hold seconds
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".png"))
    columns = table.columns.drop("seconds")
    pd.testing.assert_frame_equal(again[columns], table[columns], check_exact=True)


def cut_frame(place):
    path = place / "03.png"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage",
    [
        cut_frame,
        lambda place: (place / "03.png").unlink(),
        lambda place: (place / "record.json").write_text("{"),
        lambda place: (place / "record.json").write_text("[]"),
        lambda place: (place / "record.json").unlink(),
    ],
    ids=["frame cut short", "frame gone", "record damaged", "other record", "record gone"],
)
def test_damaged_frames_are_made_again(copied, whole, damage):
    place, before = copied / "frames" / "lerp" / "002", frames_of(copied)
    damage(place)
    (place / ".draft-1-00.png").write_bytes(b"left by a kill")
    made(copied)
    now = frames_of(copied)
    assert now.keys() == before.keys()
    assert all("lerp/002" in name for name in now if now[name] != before[name])
    # made alone, not in a batch of two
    other = load_frames(whole[0] / "frames" / "lerp" / "002")
    assert (load_frames(place) - other).abs().max() < 1.5 / 255


def remade(out, **changed):
    """Which METHOD/PAIR a run with changed inputs makes anew."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("frames/*/*/00.png")}
    made(out, **changed)
    newer = [path.parent for path, when in before.items() if path.stat().st_mtime_ns != when]
    return {path.relative_to(out / "frames").as_posix() for path in newer}


DARKER = Pairs(
    torch.cat([images()[:3], images()[3:] / 2]), images(4, 1), pairs().prompt, pairs().end_prompt
)


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"of": pairs(end_prompt=["a cat", "cow", "", "bed"])}, {f"{m}/003" for m in METHODS}),
        ({"of": DARKER}, {f"{m}/003" for m in METHODS}),
        (
            {"settings": QUICK | {"stein": {"points": 5, "max_iter": 1, "tol": 0.1}}},
            {f"stein/{i:03d}" for i in range(4)},
        ),
        ({"of": pairs(about={"kind": [1, 2, 3, 4]})}, set()),
        ({"batch": 3}, set()),
        ({"distances": {"l1": lambda a, b: (a - b).abs().flatten(1).mean(1)}}, set()),
    ],
    ids=["a prompt", "an image", "a setting", "a column", "the batch", "a distance"],
)
def test_only_what_changed_is_made_again(copied, changed, expected):
    assert remade(copied, **changed) == expected


def test_frames_beyond_fewer_ones_go(copied):
    made(copied, methods=("lerp",), frames=3)
    place = copied / "frames" / "lerp" / "000"
    assert sorted(path.name for path in place.iterdir()) == [*FILES[:3], "record.json"]


# ---- what goes wrong while frames are made


def failing(error, at=3):
    """`interpolate` that raises at a call."""
    calls = []

    @functools.wraps(interpolate)
    def call(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == at:
            raise error
        return interpolate(*arguments, **settings)

    return call


@pytest.mark.parametrize(
    "disturbed, error, message",
    [
        (failing(MemoryError("full")), MemoryError, "pair '002' alone"),
        (failing(RuntimeError("shapes differ")), RuntimeError, "shapes differ"),
    ],
)
def test_an_error_loses_no_finished_pair(tmp_path, monkeypatch, disturbed, error, message):
    with monkeypatch.context() as patch, pytest.raises(error, match=message):
        patch.setattr(runner, "interpolate", disturbed)
        made_three(tmp_path / "out")
    finished = frames_of(tmp_path / "out")
    assert sorted(finished) == [f"lerp/00{i}/{name}" for i in range(2) for name in FILES]
    assert len(made_three(tmp_path / "out")) == 3
    assert frames_of(tmp_path / "out").items() >= finished.items()


def test_nan_names_the_pair(tmp_path, monkeypatch):
    def broken(*arguments, **settings):
        result = interpolate(*arguments, **settings)
        result.frames[1, 2] = torch.nan
        return result

    monkeypatch.setattr(runner, "interpolate", broken)
    with pytest.raises(ValueError, match="between the images of 002"):
        made(tmp_path / "out", methods=("lerp",))


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("full")])
def test_too_little_memory_halves_the_batch(tmp_path, monkeypatch, error):
    def crowded(model, start, *arguments, **settings):
        if len(start) > 1:
            raise error
        return interpolate(model, start, *arguments, **settings)

    monkeypatch.setattr(runner, "interpolate", crowded)
    with pytest.warns(UserWarning, match="3 pairs at once; it goes on with 1"):
        table = made_three(tmp_path / "out", batch=3)
    assert len(table) == 3


# ---- bad input


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"methods": ("lerp", "slrp")}, ValueError, "did you mean 'slerp'"),
        ({"methods": ("lerp", "lerp")}, ValueError, "each once"),
        ({"methods": ()}, ValueError, "one method or more"),
        (
            {"methods": ("stein",), "settings": {"stein": {"pionts": 3}}},
            ValueError,
            "did you mean 'points'",
        ),
        ({"methods": ("lerp",), "settings": {"lerp": {"lam": 3}}}, ValueError, "lerp 'lam'"),
        ({"of": pairs(prompt="a prompt of far too many letters")}, ValueError, "pair '000'"),
        (
            {"of": pairs(end_prompt=["a", "a", "a", "far too many letters"])},
            ValueError,
            "pair '003'",
        ),
        ({"of": pairs(about={"seconds": [1] * 4})}, ValueError, "seconds"),
        ({"of": Pairs(images(), images())}, ValueError, "pair '000'.*the same"),
        ({"of": Pairs(images()[..., :56], images(4, 1))}, ValueError, r"pair '000'.*64, 56\)"),
        ({"of": Pairs(images() * 255, images(4, 1))}, ValueError, r"pair '000'.*by 255"),
        ({"frames": 2}, ValueError, "frames"),
        ({"batch": 0}, ValueError, "batch"),
        ({"density_sigma": 1e9}, ValueError, "sigma"),
        ({"score": FunctionScore(lambda x: -x)}, TypeError, "FunctionScore"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path / "out", **changed)
    assert not every_file(tmp_path)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        made(tmp_path)
    assert every_file(tmp_path) == {"thesis.tex": b"mine"}


@pytest.mark.parametrize("name", ["..", "a/b", "", "end.", ".hidden"])
def test_names_that_no_folder_can_have(name):
    with pytest.raises(ValueError, match="cannot be the name"):
        pairs(name=["a", "b", "c", name])


def test_rounding_beyond_white_is_no_fault():
    white = Pairs(torch.full((1, 3, 8, 8), 1.0000002), torch.zeros(1, 3, 8, 8))
    assert white.images(0, (8, 8))[0].max() > 1


def test_names_and_lengths_must_fit():
    with pytest.raises(ValueError, match="A, a"):
        pairs(name=["a", "b", "A", "c"])
    with pytest.raises(ValueError, match="2 of prompt"):
        pairs(prompt=["a", "b"])
    with pytest.raises(ValueError, match="no pairs"):
        Pairs([], [])


def test_a_damaged_image_is_named_before_any_work(tmp_path):
    whole = picture(tmp_path / "in" / "cat_0.png").read_bytes()
    (tmp_path / "in" / "cat_1.png").write_bytes(whole[:300])
    (tmp_path / "in" / "cat.txt").write_text("cat")
    with pytest.raises(ValueError, match=r"pair 'cat': cannot read cat_1.png"):
        made(tmp_path / "out", of=read_pairs(tmp_path / "in"))
    assert not (tmp_path / "out").exists()


# ---- the command


def test_settings_from_text():
    assignments = ["flow_steps=4", "stein.noise_levels=[2.0, 1.0]", "stein.init=slerp"]
    assert settings_from_text(assignments, ["lerp", "stein"]) == {
        "lerp": {"flow_steps": 4},
        "stein": {"flow_steps": 4, "noise_levels": [2.0, 1.0], "init": "slerp"},
    }
    for wrong, message in (("lam", "name=value"), ("stien.lam=1", "did you mean 'stein'")):
        with pytest.raises(ValueError, match=message):
            settings_from_text([wrong], ["lerp", "stein"])


def test_options_of_a_model(tmp_path):
    given = {"out": tmp_path, "model": str(saved(tmp_path / "model"))}
    less = {"attention_slicing": True, "vae_tiling": True, "dtype": "float16"}
    options = Options(**given, **less, size="64x96", guidance=2.0)
    score = options.score("a cat")
    assert score.image_size == (64, 96) and score.guidance == 2.0
    for wrong, message in (
        ({"size": "64 x 96"}, "HEIGHTxWIDTH"),
        ({"dtype": "half"}, "float16"),
        ({"device": "nowhere"}, "device='cpu'"),
        ({"revision": "main"}, "revision"),
        ({"variant": "fp16"}, "fp16"),
        ({"cpu_offload": True}, "cuda"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            Options(**given, **wrong).score()


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_default_distances", lambda: {"mse": mse})
    folder = tmp_path / "Füße und Hände"
    for i in range(4):
        picture(folder / f"pair{i // 2}_{i % 2}.png", i)
    for i in range(2):
        (folder / f"pair{i}.txt").write_text("a cat\ndog")
    given = every_file(folder)
    folder.chmod(0o555)
    words = [folder, "--out", tmp_path / "out", "--model", saved(tmp_path / "model")]
    words += ["--frames", 4, "--sigma", 1.0, "--guidance", 2.0, "--prompts", "moving", "--methods"]
    words = [*map(str, words), "lerp,shared_noise_lerp", "-p", "shared_noise_lerp.flow_steps=2"]
    planned = CliRunner().invoke(runner.app, [*words, "--dry-run"])
    assert planned.exit_code == 0 and re.search(r"shared_noise_lerp +2 +\d+", planned.stdout)
    assert "pair0_0.png 72×80" in planned.stdout and not (tmp_path / "out").exists()
    for _ in range(2):
        done = CliRunner().invoke(runner.app, words)
        assert done.exit_code == 0, done.output
        assert "ppl_mse" in done.stdout and "2 pairs, 2 methods" in done.stdout
    assert every_file(folder) == given
    folder.chmod(0o755)
    page = (tmp_path / "out" / "run.html").read_text()
    assert page.count("data:image/webp;base64,") == page.count("data:image/gif;base64,") == 2
    assert "http" not in page and "pair1" in page
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["pair"].tolist() == ["pair0", "pair1"] * 2
    planned = re.search(r"shared_noise_lerp +2 +(\d+)", planned.stdout).group(1)
    assert table.groupby("method")["evaluations"].sum()["shared_noise_lerp"] == int(planned)
    assert '"guidance": 2.0' in table["settings"][0]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert "sha256" in settings["model"]["origin"]
    failed = CliRunner().invoke(runner.app, [*words, "--methods", "lrp,shared_noise_lerp"])
    assert failed.exit_code == 1 and "did you mean 'lerp'" in str(failed.exception)
