"""Videos against paths between their ends: what a run measures, keeps and shows."""

import json
import warnings

import pandas as pd
import pytest
import torch
from PIL import Image
from pipelines import pipeline, saved
from test_pairs import every_file
from typer.testing import CliRunner

from experiments import video as runner
from experiments.stored_frames import load_frames, store
from experiments.video import read_clips, run_videos
from lib import latents
from lib.scores import PipelineScore
from lib.video import deviation

PIPE = pipeline()
METHODS = ("lerp", "slerp", "stein")
QUICK = {"stein": {"points": 4, "max_iter": 1, "tol": 0.1}}


def score():
    return PipelineScore(PIPE, micro_batch=64, sigma=1.0)


def write_film(folder):
    """A moving picture of eleven frames, and the same as a folder."""
    rough = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    shares = torch.linspace(0, 1, 11)[:, None, None, None]
    mixed = torch.lerp(rough[:1], rough[1:], shares**1.5)
    fine = torch.nn.functional.interpolate(mixed, (60, 90), mode="bilinear")
    pages = [Image.fromarray((255 * x).byte().permute(1, 2, 0).numpy()) for x in fine]
    pages[0].save(folder / "clip.webp", save_all=True, append_images=pages[1:], lossless=True)
    (folder / "frames").mkdir(exist_ok=True)
    for k, page in enumerate(pages):
        page.save(folder / "frames" / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("Filme mit Umlauten äöü"))


def made(out, film, model=None, **more):
    clips = read_clips([film / "clip.webp"], (64, 64), frames=4, ahead=1)
    given = {"methods": METHODS, "settings": QUICK, "steps": 2, "progress": False} | more
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not converge|.*drift", UserWarning)
        return run_videos(model or score(), clips, out=out, **given)


@pytest.fixture(scope="module")
def whole(film, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    model = score()
    return out, made(out, film, model), model.counter.evaluations


def test_what_is_measured(film, whole):
    out, table, _ = whole
    assert table["method"].tolist() == ["video", *METHODS]
    clip, same = read_clips([film / "clip.webp", film / "frames"], (64, 64), frames=4, ahead=1)
    assert same.name == "frames" and torch.equal(clip.frames, same.frames)
    z = latents.encode(score(), clip.frames)[None]
    straight = deviation(z[:, [0, -1]], z)
    row = table[table["method"] == "lerp"].iloc[0]
    assert row["off_in_step"] == pytest.approx(straight.equal[0, 1:-1].square().mean().sqrt())
    # every second frame, and the ninth
    assert clip.following.shape == (1, 3, 64, 64)
    following = load_frames(out / "next" / "lerp" / "clip")
    beyond = z[:, -1] + (z[:, -1] - z[:, -3]) / 2
    shown = latents.decode(score(), beyond)[0]
    assert (following[1] - shown).abs().max() < 0.51 / 255 + 1e-4
    # the video itself has the frames that follow, and no great circle goes on
    assert table["next_psnr"].notna().tolist() == [False, True, False, True]
    assert (table[table["method"] == "video"]["off_matched"] < 1e-2).all()


def test_a_run_that_was_cut_goes_on(film, whole, tmp_path, monkeypatch):
    """Ctrl-C while the last method works; then only its frames are made."""
    _, table, evaluations = whole
    interpolate = runner.interpolate
    cut, rest = score(), score()

    def stopped(*arguments, method, **settings):
        if method == "stein":
            raise KeyboardInterrupt
        return interpolate(*arguments, method=method, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "interpolate", stopped)
        made(tmp_path / "out", film, cut)
    assert not (tmp_path / "out" / "table.csv").exists()
    again = made(tmp_path / "out", film, rest)
    assert 0 < rest.counter.evaluations == evaluations - cut.counter.evaluations
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), table.drop(columns="seconds"))
    (tmp_path / "out" / "next" / "lerp" / "clip" / "01.png").unlink()
    made(tmp_path / "out", film)
    assert (tmp_path / "out" / "next" / "lerp" / "clip" / "01.png").exists()


def test_many_frames_keep_their_order(tmp_path):
    levels = torch.linspace(0, 1, 256)[:, None, None, None].expand(-1, 3, 8, 8)
    store(tmp_path / "place", levels, "inputs", {})
    assert torch.allclose(load_frames(tmp_path / "place"), levels)


def test_a_video_that_is_too_short_or_a_loop(film, tmp_path):
    with pytest.raises(ValueError, match=r"clip\.webp has 5 frames.*--frames"):
        read_clips([film / "clip.webp"], (64, 64), frames=13, ahead=4, every=2, first=1)
    pages = [Image.new("RGB", (16, 16), name) for name in ("red", "blue", "red")]
    pages[0].save(tmp_path / "loop.webp", save_all=True, append_images=pages[1:], lossless=True)
    with pytest.raises(ValueError, match=r"loop\.webp equals its last.*--frames"):
        read_clips([tmp_path / "loop.webp"], (64, 64), frames=3, ahead=0)


def test_the_command(film, tmp_path, monkeypatch):
    monkeypatch.chdir(film)
    given = every_file(film)
    film.chmod(0o555)
    words = ["clip.webp", "--out", tmp_path / "out", "--model", saved(tmp_path / "model")]
    words += ["--methods", "lerp,stein", "--frames", 5, "--ahead", 2, "--sigma", 1.0]
    words += [
        "--steps",
        1,
        "-p",
        "stein.points=4",
        "-p",
        "stein.max_iter=1",
        "--fit",
        "pad",
        "--prompt",
        "film",
    ]
    words = list(map(str, words))
    planned = CliRunner().invoke(runner.app, [*words, "--dry-run"])
    assert planned.exit_code == 0 and "lerp: 0" in planned.stdout
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="did not converge"):
        done = CliRunner().invoke(runner.app, words)
    assert done.exit_code == 0, done.output
    assert "stein: 1 of 1 geodesics did not converge" in done.stdout
    page = (tmp_path / "out" / "run.html").read_text()
    assert page.count("base64,") == 2 and "http" not in page
    assert every_file(film) == given
    film.chmod(0o755)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["prompt"] == "film"
