"""One save function: complete, reproducible to the byte, all or nothing."""

import errno
import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from experiments import data, figures
from lib.files import replacing

GIVEN = {"arrays": {"y": torch.arange(3.0)}}


def drawn():
    figure, axes = plt.subplots()
    axes.plot([0, 1, 2], label="σ")
    axes.legend()
    return figure


def test_save_writes_picture_and_arrays(tmp_path):
    arrays = {"y": torch.arange(3, dtype=torch.bfloat16, requires_grad=False), "grid": np.eye(2)}
    files = figures.save(drawn(), "a_figure", folder=tmp_path / "new", arrays=arrays)
    names = ["a_figure.png", "a_figure.pdf", "a_figure.npz"]
    assert [path.name for path in files.values()] == names
    assert sorted(os.listdir(tmp_path / "new")) == sorted(names)
    with np.load(files["npz"]) as stored:
        assert stored["y"].tolist() == [0, 1, 2] and stored["grid"].shape == (2, 2)


def test_sources_are_merged_and_listed_once(tmp_path):
    source = data.digits("sklearn", limit=1).source
    figures.record_sources(tmp_path / "new", source, seed=3)
    model = {"name": "rotated-mnist", "sha256": {"unet/config.json": "cacf"}}
    path = figures.record_sources(tmp_path / "new", source, model=model)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "new" / "sources.json"
    assert record["models"] == [model] and record["seed"] == 3
    assert len(record["data"]) == 1 and record["data"][0]["sha256"] == source.sha256
    assert record["data"][0]["fallback"] is False


SCRIPT = """
import sys
import matplotlib.pyplot as plt
from experiments import figures
figures.use_style()
figure, axes = plt.subplots()
axes.plot([0, 1, 2], label="σ")
axes.legend()
figures.save(figure, "f", folder=sys.argv[1], arrays={"y": [0, 1]})
"""


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path):
    with mpl.rc_context():
        figures.use_style()
        files = figures.save(drawn(), "f", folder=tmp_path / "here", arrays={"y": [0, 1]})
    environment = os.environ | {"PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "100000000"}
    command = [sys.executable, "-c", SCRIPT, tmp_path / "there"]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parent.parent)
    for path in files.values():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_a_damaged_list_of_sources_is_named(tmp_path):
    (tmp_path / "sources.json").write_text("{")
    with pytest.raises(ValueError, match=r"sources\.json"):
        figures.record_sources(tmp_path, seed=1)


@pytest.mark.parametrize(
    "number, stage",
    [(errno.ENOSPC, "write_bytes"), (errno.EACCES, "mkdir"), (errno.EROFS, "replace")],
)
def test_a_folder_that_cannot_be_written_is_named_and_left_alone(
    tmp_path, monkeypatch, number, stage
):
    figures.save(drawn(), "f", folder=tmp_path, **GIVEN)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    owner = os if stage == "replace" else figures.Path
    words = "cannot write f.png to .*choose another"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=words) as caught:
        patch.setattr(owner, stage, refuse)
        figures.save(drawn(), "f", folder=tmp_path, arrays={"y": [9.0]})
    assert caught.value.errno == number
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize("ending", ["png", "pdf", "npz", "csv", "json"])
def test_a_full_disk_leaves_the_older_files(tmp_path, ending):
    def write(value):
        figures.save(drawn(), "f", folder=tmp_path, arrays={"y": [value]})
        figures.save_results("f", {"y": value}, folder=tmp_path)
        figures.save_results("f", pd.DataFrame({"y": [value]}), folder=tmp_path)

    write(1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / f".draft-{os.getpid()}-f.{ending}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="free space"):
        write(1.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_in_the_way_of_a_file_stays(tmp_path):
    (tmp_path / "f.pdf").mkdir()
    with pytest.raises(OSError, match=r"f\.pdf"):
        figures.save(drawn(), "f", folder=tmp_path, **GIVEN)
    assert os.listdir(tmp_path) == ["f.pdf"]


def test_an_interrupt_between_two_renames_never_leaves_a_mixture(tmp_path, monkeypatch):
    targets = [tmp_path / name for name in "abc"]
    rename = os.replace
    calls = []

    def write(text):
        with replacing(*targets) as drafts:
            for draft in drafts:
                draft.write_text(text)

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(*paths)

    write("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert [path.read_text() for path in targets] == ["new"] * 3
    assert len(os.listdir(tmp_path)) == 3


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(path, content):
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(figures.Path, "write_bytes", interrupted)
        figures.save(drawn(), "f", folder=tmp_path, **GIVEN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"name": "../f"}, ValueError, "no file name"),
        ({"name": "F 1"}, ValueError, "no file name"),
        ({"arrays": {}}, ValueError, "plotted arrays"),
        ({"arrays": {"y": [object()]}}, ValueError, "'y'"),
        ({"figure": "no"}, TypeError, "matplotlib"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, error, words):
    given = {"figure": drawn(), "name": "f", **GIVEN, **change}
    with pytest.raises(error, match=words):
        figures.save(folder=tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_results_as_dict_and_as_table(tmp_path):
    table = pd.DataFrame({"method": ["lerp", "stein"], "error": [0.1, 1 / 3]})
    files = figures.save_results("table", table, folder=tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(files["csv"]), table)
    numbers = {"energy": torch.tensor(2.0), "lost": float("nan"), "levels": (1.0, np.float32(2))}
    files = figures.save_results("numbers", numbers, folder=tmp_path)
    assert json.loads(files["json"].read_text()) == {
        "energy": 2.0,
        "lost": "nan",
        "levels": [1.0, 2.0],
    }
    with pytest.raises(TypeError, match="builtin"):
        figures.save_results("numbers", {"f": print}, folder=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["numbers.json", "table.csv"]


def test_an_unknown_method_has_no_colour_but_a_neighbour():
    assert figures.colour("stein") == figures.PALETTE["stein"]
    with pytest.raises(ValueError, match="did you mean 'gauss_newton'"):
        figures.colour("gaus_newton")


def test_style_is_readable_and_needs_no_tex():
    with mpl.rc_context():
        figures.use_style()
        assert mpl.rcParams["text.usetex"] is False and mpl.rcParams["figure.facecolor"] == "white"
        assert mpl.rcParams["font.size"] >= 12 and mpl.rcParams["savefig.dpi"] >= 150


def seen_by_a_deuteranope(method):
    """sRGB of a method's colour as seen without green cones (Viénot, Brettel and Mollon 1999)."""
    linear = np.array(mpl.colors.to_rgb(figures.colour(method))) ** 2.2
    seen = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]) @ linear
    return seen.clip(0, 1) ** (1 / 2.2)


COMPANIONS = {
    "metrics": ["exact", "lerp", "stein", "density", "both", "jacobian", "azeglio2025", "yu2025"],
    "baselines": [
        "exact",
        "lerp",
        "slerp",
        "shared_noise_lerp",
        "shared_noise_slerp",
        "ddim_slerp",
        "noisediffusion",
        "guided_walk",
    ],
    "solvers": [
        "exact",
        "lerp",
        "gauss_newton",
        "relaxation",
        "functional_gradient",
        "georce",
        "shooting",
    ],
}


@pytest.mark.parametrize("family", COMPANIONS)
def test_companions_in_one_figure_can_be_told_apart_by_a_deuteranope(family):
    for one, other in combinations(COMPANIONS[family], 2):
        apart = np.linalg.norm(seen_by_a_deuteranope(one) - seen_by_a_deuteranope(other))
        assert apart > 0.1 or figures.LINES[one] != figures.LINES[other], (one, other, apart)


def test_committed_tables_are_read_at_their_own_parameters_only(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    (tmp_path / "04_parameters.json").write_text(
        '{"lam": 250.0, "angles": [45.0], "device": "cpu"}'
    )
    variables = {"lam": 250.0, "angles": (45.0,), "device": "cuda", "torch": torch}
    figures.check_committed("04", variables)
    with pytest.raises(ValueError, match="lam = 250"):
        figures.check_committed("04", variables | {"lam": 10.0})
