"""The pairs runner: folders of every layout, the same numbers in batches and one by one, a run cut short, bad input."""

import csv
import errno
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pipelines import pipeline, saved
from typer.testing import CliRunner

from experiments.evaluation import adjacent_distances, mse, path_log_density, ppl
from experiments.pairs import Pairs, files, read_pairs, run, run_pairs
from experiments.pairs.plan import parsed
from lib import latents
from lib.methods.interpolate import interpolate
from lib.runs import __main__ as command
from lib.scores import FunctionScore, StableDiffusionScore

PIPE = pipeline()
METHODS = ("lerp", "shared_noise_lerp", "stein")
QUICK = {"shared_noise_lerp": {"flow_steps": 2}, "stein": {"points": 4, "max_iter": 1, "tol": 0.1}}
FILES = [*(f"{k:02d}.png" for k in range(5)), "record.json"]
MEASURES = ["ppl_mse", "pdv_mse", "log_density_mean", "log_density_dip"]


def score():
    return StableDiffusionScore(PIPE, micro_batch=64, sigma=1.0)


def images(n=4, seed=0):
    """Smooth random pictures, (n, 3, 64, 64)."""
    rough = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, (64, 64), mode="bilinear")


def pairs(n=4, **more):
    told = {
        "prompt": ["a cat", "dog", "", "hat"][:n],
        "end_prompt": ["a cat", "cow", "", "box"][:n],
        "about": {"category": list("abab")[:n]},
    }
    return Pairs(images(n), images(n, 1), **told | more)


def made(out, *, of=None, methods=METHODS, settings=QUICK, **more):
    settings = {name: settings[name] for name in methods if name in settings}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not converge", UserWarning)
        return run_pairs(
            more.pop("score", None) or score(),
            of or pairs(),
            methods,
            out,
            settings=settings,
            **{"frames": 5, "batch": 2, "distances": {"mse": mse}, "progress": False} | more,
        )


def picture(path, seed=0, size=(80, 72)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def every_file(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in batches of two, with the evaluations it took."""
    out, model = tmp_path_factory.mktemp("whole") / "out", score()
    table = made(out, score=model)
    return out, table, model.counter.evaluations


def test_rows_frames_and_summary(whole):
    out, table, _ = whole
    assert table[["method", "pair"]].values.tolist() == [
        [m, f"{i:03d}"] for m in METHODS for i in range(4)
    ]
    assert table["category"].tolist() == list("abab") * 3 and table["end_prompt"].tolist()[:4] == [
        "a cat",
        "cow",
        "",
        "box",
    ]
    assert sorted(p.name for p in (out / "frames" / "stein" / "002").iterdir()) == FILES
    assert np.isfinite(table[MEASURES].to_numpy()).all() and table["converged"].isna().sum() == 8
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv")[MEASURES], table[MEASURES])
    about = json.loads((out / "table.json").read_text())
    assert about["density_sigma"] == 1.0
    assert set(about["model"]["weights"]) == {"unet", "vae", "text_encoder"}
    means = pd.read_csv(out / "summary.csv").set_index(["method", "measure"])
    mean = table[table["method"] == "stein"]["ppl_mse"].mean()
    assert (
        means.loc[("stein", "ppl_mse"), "estimate"] == pytest.approx(mean)
        and means.loc[("stein", "ppl_mse"), "pairs"] == 4
    )


def test_frames_and_measures_are_those_of_the_library(whole):
    """One pair by hand: encode, interpolate under its own two prompts, decode; squared steps of the 8-bit frames."""
    out, table, _ = whole
    level = score().prompted(["dog"], end_prompt=["cow"])
    a, b = (latents.encode(level, x[1:2]) for x in (images(), images(4, 1)))
    by_hand = interpolate(level, a, b, method="shared_noise_lerp", frames=5, flow_steps=2)
    shown = latents.decode(level, by_hand.frames)[0]
    stored = files.stored(out / "frames" / "shared_noise_lerp" / "001", 5)
    assert (stored - shown).abs().max() < 0.51 / 255 + 1e-4
    row = table[(table["method"] == "shared_noise_lerp") & (table["pair"] == "001")].iloc[0]
    assert row["ppl_mse"] == pytest.approx(
        ppl(adjacent_distances(stored[None], mse)).item(), rel=1e-6
    )
    density = path_log_density(level.at(1.0), by_hand.frames)
    assert row["log_density_mean"] == pytest.approx(density.mean.item(), rel=1e-3, abs=1e-3)
    assert (
        row["evaluations"] == by_hand.evaluations and json.loads(row["settings"])["flow_steps"] == 2
    )


def test_one_by_one_is_as_in_batches(whole, tmp_path):
    """Frames to one step of 8 bits, log-densities to 1e-3; as many evaluations in all."""
    out, table, _ = whole
    alone = made(tmp_path / "out", batch=1)
    np.testing.assert_allclose(alone[MEASURES], table[MEASURES], rtol=2e-3, atol=1e-3)
    assert alone["evaluations"].sum() == table["evaluations"].sum()
    for label in METHODS:
        for name in ("000", "001", "002", "003"):
            one, two = (
                files.stored(place / "frames" / label / name, 5)
                for place in (tmp_path / "out", out)
            )
            assert (one - two).abs().max() < 1.5 / 255


def test_a_run_that_was_cut_goes_on_and_gives_the_same(whole, tmp_path, monkeypatch):
    """Ctrl-C in the second batch of the second method: the second run makes what is missing, bit for bit the same."""
    out, table, evaluations = whole
    calls, cut = [], score()

    def stopped(model, *arguments, **settings):
        calls.append(settings["method"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return interpolate(model, *arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "interpolate", stopped)
        made(tmp_path / "out", score=cut)
    done = every_file(tmp_path / "out")
    assert (
        len(done) == 6 * 6 and not (tmp_path / "out" / "table.csv").exists()
    )  # three batches of two pairs, 5 frames each
    rest = score()
    again = made(tmp_path / "out", score=rest)
    assert 0 < rest.counter.evaluations == evaluations - cut.counter.evaluations
    assert {
        name: content for name, content in every_file(tmp_path / "out").items() if name in done
    } == done
    ours, theirs = every_file(tmp_path / "out"), every_file(out)
    assert {name for name in ours if ours[name] != theirs[name]} <= {
        name for name in ours if name.endswith((".json", ".csv"))
    }
    assert set(ours) == set(theirs)
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds"), table.drop(columns="seconds"), check_exact=True
    )


def test_a_run_that_is_done_is_only_read(whole):
    out, table, _ = whole
    before, model = every_file(out), score()
    pd.testing.assert_frame_equal(made(out, score=model), table)
    assert model.counter.evaluations == 0 and every_file(out) == before


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "03.png").write_bytes((place / "03.png").read_bytes()[:100]),
        lambda place: (place / "03.png").unlink(),
        lambda place: (place / "record.json").write_text("{"),
        lambda place: (place / "record.json").write_text("[]"),
        lambda place: (place / "record.json").unlink(),
    ],
)
def test_damaged_frames_are_made_again(copied, whole, damage):
    place, before = copied / "frames" / "stein" / "002", every_file(copied)
    damage(place)
    (place / ".draft-1-00.png").write_bytes(b"left by a kill")
    model = score()
    table = made(copied, score=model)
    assert model.counter.evaluations > 0 and set(every_file(copied)) == set(before)
    np.testing.assert_allclose(table[MEASURES], whole[1][MEASURES], rtol=2e-3, atol=1e-3)


def remade(out, **changed):
    """Which (method, pair) a run with changed inputs makes anew."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("frames/*/*/00.png")}
    made(out, **changed)
    newer = [path.parent for path, when in before.items() if path.stat().st_mtime_ns != when]
    return {path.relative_to(out / "frames").as_posix() for path in newer}


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"of": pairs(end_prompt=["a cat", "cow", "", "bed"])}, {f"{m}/003" for m in METHODS}),
        (
            {
                "of": Pairs(
                    torch.cat([images()[:3], images()[3:] / 2]),
                    images(4, 1),
                    pairs().prompt,
                    pairs().end_prompt,
                )
            },
            {f"{m}/003" for m in METHODS},
        ),
        (
            {"settings": QUICK | {"stein": {"points": 5, "max_iter": 1, "tol": 0.1}}},
            {f"stein/{i:03d}" for i in range(4)},
        ),
        ({"of": pairs(about={"kind": [1, 2, 3, 4]})}, set()),
        ({"batch": 3}, set()),
    ],
)
def test_only_what_changed_is_made_again(copied, changed, expected):
    assert remade(copied, **changed) == expected


def test_frames_beyond_fewer_ones_go(copied):
    made(copied, methods=("lerp",), frames=3)
    assert sorted(p.name for p in (copied / "frames" / "lerp" / "000").iterdir()) == [
        "00.png",
        "01.png",
        "02.png",
        "record.json",
    ]


def test_new_measures_need_no_new_frames(copied, whole):
    model = score()
    truth = torch.stack(
        [files.stored(copied / "frames" / "lerp" / f"{i:03d}", 5) for i in range(4)]
    )
    table = made(
        copied,
        score=model,
        distances={"l1": lambda a, b: (a - b).abs().flatten(1).mean(1)},
        truth=truth,
    )
    assert model.counter.evaluations == 0 and "ppl_mse" not in table and (table["ppl_l1"] > 0).all()
    assert (table[table["method"] == "lerp"]["mse"] == 0).all() and np.isinf(
        table[table["method"] == "lerp"]["psnr"]
    ).all()
    # one step of the Stein geodesic may stay within the rounding to 8 bits; noise and flow may not
    assert (table[table["method"] == "shared_noise_lerp"]["mse"] > 0).all()


class Colours:
    """Mean colour and spread of each picture: features for FID and KID."""

    sha256 = "colours"

    def features(self, x):
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


def test_set_measures_against_the_given_images(copied):
    made(copied, methods=("lerp", "stein"), classifier=Colours())
    means = pd.read_csv(copied / "summary.csv").set_index(["method", "measure"])
    assert means.loc[("stein", "fid"), "estimate"] > 0 and means.loc[("lerp", "kid"), "pairs"] == 4
    about = json.loads((copied / "table.json").read_text())
    assert about["fid_and_kid_against"] == "the 8 images given"
    with pytest.raises(ValueError, match="two pairs or more"):
        made(copied, of=pairs(1), classifier=Colours())
    with pytest.raises(ValueError, match="reference without a classifier"):
        made(copied, reference=object())


def test_one_method_under_two_names_and_animations(tmp_path):
    settings = {"weak": {"method": "stein", "lam": 1.0, "points": 5, "max_iter": 1, "tol": 0.5}}
    table = made(
        tmp_path / "out", of=pairs(1), methods=("lerp", "weak"), settings=settings, gif=True
    )
    assert "lam=1" in json.loads(table["settings"][1])["metric"]
    with Image.open(tmp_path / "out" / "animations" / "weak" / "000.gif") as gif:
        assert gif.n_frames == 8 and gif.size == (64, 64)  # 0 1 2 3 4 3 2 1
    before = every_file(tmp_path / "out")
    made(tmp_path / "out", of=pairs(1), methods=("lerp", "weak"), settings=settings, gif=True)
    assert every_file(tmp_path / "out") == before
    made(tmp_path / "out", of=pairs(1, prompt="other"), methods=("lerp",))
    assert not (
        tmp_path / "out" / "animations" / "lerp" / "000.gif"
    ).exists()  # no animation of frames that are gone


def test_methods_that_know_one_prompt_a_call_get_one_pair_a_batch(tmp_path):
    model = score()
    settings = {"georce": {"points": 3, "max_iter": 1}}
    table = made(
        tmp_path / "out",
        score=model,
        of=pairs(2, end_prompt=None),
        methods=("georce",),
        settings=settings,
    )
    assert len(table) == 2 and (table["evaluations"] > 0).all()


def test_embeddings_in_place_of_prompts(whole, tmp_path):
    _, table, _ = whole
    text, end = (score().embed(side) for side in (pairs().prompt, pairs().end_prompt))
    embedded = made(
        tmp_path / "out", of=pairs(prompt=text, end_prompt=end), methods=("shared_noise_lerp",)
    )
    assert set(embedded["prompt"]) == {"an embedding"}
    np.testing.assert_allclose(
        embedded[MEASURES],
        table[table["method"] == "shared_noise_lerp"][MEASURES],
        rtol=2e-3,
        atol=1e-3,
    )


def crowded(most, error):
    """`interpolate` on a machine that holds `most` pairs."""

    def call(model, start, *arguments, **settings):
        if len(start) > most:
            raise error
        return interpolate(model, start, *arguments, **settings)

    return call


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("full"),
        torch.OutOfMemoryError("full"),
        RuntimeError("can't allocate memory: full"),
    ],
)
def test_too_little_memory_halves_the_batch(tmp_path, monkeypatch, error):
    monkeypatch.setattr(run, "interpolate", crowded(1, error))
    of = pairs(prompt="cat", end_prompt=None)
    with pytest.warns(
        UserWarning, match="not enough memory for 3 pairs at once; it goes on with 1"
    ):
        table = made(tmp_path / "out", of=of, methods=("lerp",), batch=3)
    assert len(table) == 4
    monkeypatch.setattr(run, "interpolate", crowded(0, error))
    with pytest.raises(MemoryError, match=r"slerp, pair '000' alone: .*full"):
        made(tmp_path / "out", of=of, methods=("slerp",), batch=1)


def test_another_error_is_not_taken_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "interpolate", crowded(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        made(tmp_path / "out", methods=("lerp",))


def test_nan_names_the_pair_and_loses_nothing(tmp_path, monkeypatch):
    def broken(model, start, *arguments, **settings):
        result = interpolate(model, start, *arguments, **settings)
        result.frames[1, 2] = torch.nan
        return result

    monkeypatch.setattr(run, "interpolate", broken)
    with pytest.raises(ValueError, match="lerp ran into NaN or infinity between the images of 002"):
        made(tmp_path / "out", methods=("lerp",))


def test_a_full_disk_leaves_whole_frames_only(tmp_path, monkeypatch):
    save, count = Image.Image.save, []

    def full(image, path, *arguments, **settings):
        count.append(path)
        if len(count) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match=r"cannot write 00.png.*No space left.*free space"):
            made(tmp_path / "out", methods=("lerp",))
    assert sorted(every_file(tmp_path / "out")) == [f"frames/lerp/000/{name}" for name in FILES]
    assert len(made(tmp_path / "out", methods=("lerp",))) == 4


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"methods": ("lerp", "slrp")}, ValueError, "unknown method 'slrp'; did you mean 'slerp'"),
        ({"methods": ("lerp", "lerp")}, ValueError, "each once"),
        ({"methods": ()}, ValueError, "one method or more"),
        (
            {"methods": ("stein",), "settings": {"stein": {"pionts": 3}}},
            ValueError,
            "stein 'pionts'; did you mean 'points'",
        ),
        (
            {"methods": ("lerp",), "settings": {"lerp": {"lam": 3}}},
            ValueError,
            "unknown setting of lerp 'lam'",
        ),
        (
            {"of": pairs(prompt="a prompt of far too many letters")},
            ValueError,
            "pair '000': the prompt 'a prompt.*shorten",
        ),
        (
            {"of": pairs(end_prompt=["a", "a", "a", "far too many letters"])},
            ValueError,
            "pair '003': the prompt",
        ),
        ({"of": pairs(about={"seconds": [1] * 4})}, ValueError, "columns seconds of the pairs"),
        ({"of": Pairs(images(), images())}, ValueError, "pair '000': both images are the same"),
        (
            {"of": Pairs(images()[..., :56], images(4, 1))},
            ValueError,
            r"pair '000': an image has shape \(3, 64, 56\)",
        ),
        (
            {"of": Pairs(images() * 255, images(4, 1))},
            ValueError,
            r"pair '000': .*divide those in 0..255 by 255",
        ),
        ({"frames": 2}, ValueError, "frames must be a whole number ≥ 3"),
        ({"batch": 0}, ValueError, "batch must be"),
        ({"density_sigma": 1e9}, ValueError, "sigma must lie in"),
        (
            {"truth": torch.zeros(4, 4, 3, 64, 64)},
            ValueError,
            r"truth must have shape \(4, 5, 3, 64, 64\)",
        ),
        ({"score": FunctionScore(lambda x: -x)}, TypeError, "StableDiffusionScore"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path / "out", **changed)
    assert not every_file(tmp_path)


@pytest.mark.parametrize("other", ["thesis.tex", "frames/00.png"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, other):
    (tmp_path / "frames").mkdir()
    (tmp_path / other).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {other}, which no pairs run wrote"):
        made(tmp_path)
    assert every_file(tmp_path) == {other: b"mine"}


@pytest.mark.parametrize("name", ["..", "a/b", "", "end.", ".hidden"])
def test_names_that_no_folder_can_have(name):
    with pytest.raises(ValueError, match="cannot be the name"):
        pairs(name=["a", "b", "c", name])


def test_rounding_beyond_white_is_no_fault():
    white = Pairs(torch.full((1, 3, 8, 8), 1.0000002), torch.zeros(1, 3, 8, 8))
    assert white.images(0, (8, 8))[0].max() > 1


def test_names_and_lengths_must_fit():
    with pytest.raises(ValueError, match="more than once: A, a"):
        pairs(name=["a", "b", "A", "c"])
    with pytest.raises(ValueError, match="4 start images and 2 of prompt"):
        pairs(prompt=["a", "b"])
    with pytest.raises(ValueError, match="there are no pairs"):
        Pairs([], [])


ROWS = [
    {
        "name": "one",
        "start": "x.png",
        "end": "y.png",
        "prompt": "a cat",
        "end_prompt": "a dog",
        "category": "animals",
        "level": 2,
    },
    {
        "name": "two",
        "start": "y.png",
        "end": "x.png",
        "prompt": "NA",
        "end_prompt": "",
        "category": "words",
        "level": 3,
    },
]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_tables(tmp_path, ending):
    picture(tmp_path / "x.png"), picture(tmp_path / "y.png", 1)
    with (tmp_path / f"pairs.{ending}").open("w", newline="") as file:
        if ending == "csv":
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
        else:
            file.write(json.dumps(ROWS) if ending == "json" else "\n".join(map(json.dumps, ROWS)))
    found = read_pairs(tmp_path)
    assert (
        found.name == ["one", "two"]
        and found.prompt == ["a cat", "NA"]
        and found.end_prompt == ["a dog", "NA"]
    )
    assert found.about == {"category": ["animals", "words"], "level": [2, 3]}
    assert found.start == [tmp_path / "x.png", tmp_path / "y.png"] and found.images(0, (32, 32))[
        0
    ].shape == (3, 32, 32)


def test_numbered_images_as_in_morphbench_and_subfolders(tmp_path):
    for i, name in enumerate(
        (
            "Animation/cat_0.png",
            "Animation/cat_1.jpg",
            "Metamorphosis/old house_0.png",
            "Metamorphosis/old house_1.png",
            "couple/a.png",
            "couple/b.png",
        )
    ):
        picture(tmp_path / name, i)
    (tmp_path / "Animation" / "cat.txt").write_text("a cat\n\na lion\n")
    (tmp_path / "couple" / "prompt.txt").write_text("two\n")
    with pytest.warns(UserWarning, match="1 of 3 pairs have no prompt"):
        found = read_pairs(tmp_path)
    assert found.name == ["Animation-cat", "Metamorphosis-old house", "couple"]
    assert (found.prompt, found.end_prompt) == (["a cat", "", "two"], ["a lion", "", "two"])
    assert found.about == {"category": ["Animation", "Metamorphosis", ""]}
    assert found.end[0].name == "cat_1.jpg"


@pytest.mark.parametrize(
    "files_there, table, error, message",
    [
        ([], None, ValueError, "no pairs in .*pairs.csv.*NAME_0.png"),
        (["cat_0.png"], None, FileNotFoundError, r"cat_0.png has no partner cat_1\.\*"),
        (["cat_0.png", "cat_0.jpg", "cat_1.png"], None, ValueError, "both image 0 of a pair"),
        (
            ["x.png"],
            "start,end\nx.png,gone.png\n",
            FileNotFoundError,
            r"images are missing: .*gone.png \(pair 000\)",
        ),
        (
            ["x.png"],
            "start,stop\nx.png,x.png\n",
            ValueError,
            "row 1 of pairs.csv names no end image; its columns: start, stop",
        ),
        ([], "", ValueError, "pairs.csv cannot be read as a table"),
        ([], "start,end\n", ValueError, "no pairs in"),
    ],
)
def test_folders_that_hold_no_pairs(tmp_path, files_there, table, error, message):
    for i, name in enumerate(files_there):
        picture(tmp_path / name, i)
    if table is not None:
        (tmp_path / "pairs.csv").write_text(table)
    with pytest.raises(error, match=message):
        read_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_pairs(tmp_path / "nowhere")


def test_a_damaged_image_is_named_before_any_work(tmp_path):
    picture(tmp_path / "in" / "cat_0.png")
    (tmp_path / "in" / "cat_1.png").write_bytes((tmp_path / "in" / "cat_0.png").read_bytes()[:300])
    (tmp_path / "in" / "cat.txt").write_text("cat")
    with pytest.raises(ValueError, match=r"pair 'cat': cannot read cat_1.png"):
        made(tmp_path / "out", of=read_pairs(tmp_path / "in"))
    assert not (tmp_path / "out").exists()


def test_settings_from_text():
    found = parsed(
        ["flow_steps=4", "stein.noise_levels=[2.0, 1.0]", "stein.init=slerp"], ["lerp", "stein"]
    )
    assert found == {
        "lerp": {"flow_steps": 4},
        "stein": {"flow_steps": 4, "noise_levels": [2.0, 1.0], "init": "slerp"},
    }
    for wrong, message in (("lam", "name=value"), ("stien.lam=1", "did you mean 'stein'")):
        with pytest.raises(ValueError, match=message):
            parsed([wrong], ["lerp", "stein"])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_default_distances", lambda: {"mse": mse})
    for i in range(4):
        picture(tmp_path / "in" / f"pair{i // 2}_{i % 2}.png", i)
    for i in range(2):
        (tmp_path / "in" / f"pair{i}.txt").write_text("a cat\ndog")
    words = [
        "pairs",
        tmp_path / "in",
        "--model",
        saved(tmp_path / "model"),
        "--out",
        tmp_path / "out",
        "--frames",
        4,
        "--methods",
        "lerp,shared_noise_lerp",
        "-p",
        "shared_noise_lerp.flow_steps=2",
        "--sigma",
        1.0,
        "--guidance",
        2.0,
    ]
    for _ in range(2):
        said = CliRunner().invoke(command.app, list(map(str, words)))
        assert said.exit_code == 0, said.output
        assert "shared_noise_lerp,ppl_mse," in said.stdout and "2 pairs, 2 methods" in said.stdout
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert (
        table["pair"].tolist() == ["pair0", "pair1"] * 2
        and '"guidance": 2.0' in table["settings"][0]
    )
    assert "sha256" in json.loads((tmp_path / "out" / "table.json").read_text())["model"]["origin"]
    failed = CliRunner().invoke(
        command.app, [*map(str, words), "--methods", "lrp,shared_noise_lerp"]
    )
    assert failed.exit_code == 1 and "did you mean 'lerp'" in str(failed.exception)
