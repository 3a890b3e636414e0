"""Committed tables: made unit by unit, resumed, with provenance; each table runs small."""

import importlib.util
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from experiments import data, gallery
from experiments.tables import base, crowd, hands
from experiments.tables.__main__ import app


class Fake:
    """A table of three units that counts its work and can be cut short."""

    def __init__(self, fail_at=None):
        self.made = []
        self.fail_at = fail_at

    def table(self, **parameters):
        units = [base.Unit(f"unit-{k}", self.unit(k)) for k in range(3)]
        return base.Table("99_fake", "make fake", units, parameters=parameters)

    def unit(self, k):
        def rows():
            if k == self.fail_at:
                raise KeyboardInterrupt
            self.made.append(k)
            return [{"k": k, "value": np.float32(0.1), "converged": None}, {"k": k, "value": 1 / 3}]

        return rows


@pytest.fixture(autouse=True)
def clean_code(monkeypatch):
    version = {"commit": "abc", "clean": True, "digest": "of the code"}
    monkeypatch.setattr(base, "code_version", lambda: dict(version))
    return version


def test_a_table_that_was_cut_short_goes_on_and_is_the_same(tmp_path):
    cut = Fake(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        base.make(cut.table(), tmp_path / "out", tmp_path / "work", progress=False)
    assert cut.made == [0, 1]
    assert not (tmp_path / "out").exists()
    # A damaged file of a unit is as good as none.
    (tmp_path / "work" / "99_fake" / "unit-1.json").write_text("{")
    resumed = Fake()
    made = base.make(resumed.table(), tmp_path / "out", tmp_path / "work", progress=False)
    assert resumed.made == [1, 2]
    whole = base.make(Fake().table(), tmp_path / "out2", tmp_path / "work2", progress=False)
    pd.testing.assert_frame_equal(made, whole)
    csv = [(tmp_path / out / "99_fake.csv").read_bytes() for out in ("out", "out2")]
    assert csv[0] == csv[1]
    provenance = json.loads((tmp_path / "out" / "99_fake.json").read_text())
    assert provenance["commit"] == "abc"
    assert provenance["clean"] is True
    assert provenance["rows"] == 6
    assert provenance["columns"] == ["k", "value", "converged"]


@pytest.mark.parametrize("change", ["parameters", "code"])
def test_rows_of_other_code_or_parameters_are_made_again(tmp_path, monkeypatch, clean_code, change):
    base.make(Fake().table(size=1), tmp_path, tmp_path / "work", progress=False)
    if change == "code":
        clean_code["digest"] = "of other code"
    again = Fake()
    base.make(again.table(size=2 if change == "parameters" else 1), tmp_path, tmp_path / "work")
    assert again.made == [0, 1, 2]


def test_rows_of_a_unit_are_made_again_if_its_own_model_is_another(tmp_path):
    fake = Fake()
    for models in (["a", "b"], ["a", "c"]):
        units = [base.Unit(f"unit-{k}", fake.unit(k), [model]) for k, model in enumerate(models)]
        base.make(base.Table("99_fake", "", units), tmp_path, tmp_path / "work", progress=False)
    assert fake.made == [0, 1, 1]
    assert json.loads((tmp_path / "99_fake.json").read_text())["models"] == ["a", "c"]


def test_code_that_differs_from_its_commit_is_refused(tmp_path, clean_code):
    clean_code["clean"] = False
    fake = Fake()
    with pytest.raises(ValueError, match="allow-dirty"):
        base.make(fake.table(), tmp_path / "out", tmp_path / "work", progress=False)
    assert fake.made == []
    base.make(fake.table(), tmp_path, tmp_path / "work", allow_dirty=True, progress=False)
    assert json.loads((tmp_path / "99_fake.json").read_text())["clean"] is False


def test_a_row_that_no_table_can_hold_is_refused(tmp_path):
    table = base.Table("99_fake", "make fake", [base.Unit("one", lambda: [{"value": object()}])])
    with pytest.raises(TypeError, match="object"):
        base.make(table, tmp_path, tmp_path / "work", progress=False)
    assert not (tmp_path / "99_fake.csv").exists()


def test_the_small_crowd_turns_each_digit_of_a_ring(tmp_path):
    """On its own ring the straight line finds the turn; in a crowd it is held at least."""
    made = base.make(crowd.exact_table(crowd.SMALL), tmp_path, tmp_path / "work", progress=False)
    shares = crowd.shares(made).set_index(["digits", "start"])
    assert shares.turned[1, "line"] >= 9
    assert (shares.turned[:, "turn"] == 10).all()
    assert (shares.of == 10).all()
    assert made.groupby("digits").line_error.nunique().tolist() == [10, 10]


def test_shares_and_their_figure_by_hand():
    """Two digits: both turns held, one found but not converged, the other path costs more."""
    same = {"score": "exact", "digits": 3, "seen": True, "sigma": 1.0, "angle": 45.0}
    rows = [
        {"digit": 0, "start": "turn", "error": 0.1, "turned": True, "energy": 2.0},
        {"digit": 1, "start": "turn", "error": 0.1, "turned": True, "energy": 2.0},
        {"digit": 0, "start": "line", "error": 0.1, "turned": True, "energy": 2.0},
        {"digit": 1, "start": "line", "error": 0.9, "turned": False, "energy": 5.0},
    ]
    made = pd.DataFrame([same | row | {"line_error": 1.0} for row in rows])
    made["converged"] = [True, True, False, True]
    shares = crowd.shares(made).set_index("start")
    assert shares.turned.to_dict() == {"turn": 2, "line": 1}
    assert shares.both.to_dict() == {"turn": 2, "line": 0}
    assert shares.cheaper.to_dict() == {"turn": 0, "line": 1}
    assert shares.ratio["line"] == pytest.approx(0.5)
    (panel,) = gallery.turned_shares({"MNIST": shares.reset_index()}).axes
    drawn = {
        line.get_color(): line.get_ydata().tolist() for line in panel.lines if len(line.get_xdata())
    }
    assert drawn == {"#000000": [2], "#D55E00": [1]}
    bars = [bar.get_segments() for bar in panel.collections]
    assert [segment[:, 1].tolist() for segments in bars for segment in segments] == [[0, 1]]


def test_the_exact_score_of_turned_digits_against_brute_force():
    digits = data.digits("sklearn", limit=3).images.double()
    score = crowd.TurnedDigits(digits, sigma=1.0, step=10.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 28, 28, generator=generator, dtype=torch.float64)
    for sigma, step in ((1.0, 10.0), (2.0, 20.0), (3.0, 30.0)):
        images = [data.rotate(digits, degrees) for degrees in torch.arange(0, 360, step).tolist()]
        points = torch.cat(images).flatten(1)
        squared = (x.flatten(1)[:, None] - points).square().sum(2)
        weights = torch.softmax(-squared / (2 * sigma**2), dim=1)
        expected = (weights @ points - x.flatten(1)) / sigma**2
        torch.testing.assert_close(score.at(sigma)(x).flatten(1), expected)


@pytest.mark.parametrize("command", ["crowd --digits mnits", "networks --models nowhere"])
def test_bad_options_are_refused(command, tmp_path):
    done = CliRunner().invoke(app, [*command.split(), "--out", str(tmp_path)])
    assert done.exit_code != 0
    assert list(tmp_path.iterdir()) == []


PHOTOGRAPHS = pytest.mark.skipif(
    "GEODESICS_DATA" not in os.environ
    or importlib.util.find_spec("efficientnet_lite_pytorch") is None,
    reason="the photographs and ImageNet's weights are not bundled",
)


@PHOTOGRAPHS
def test_the_small_tables_of_hands(tmp_path):
    """Two pairs by four methods: ends are the given images, renoised ones nearly; sets; truth."""
    made = {
        table.name: base.make(table, tmp_path, tmp_path / "work", allow_dirty=True, progress=False)
        for table in hands.tables(work=tmp_path / "work", small=True)
    }
    frames = made["06_hands"].set_index(["method", "pair"])
    assert len(frames) == 2 * 5
    assert (frames.ends_psnr.drop("stein, renoised 0.35", level="method") > 100).all()
    assert (frames.ends_psnr["stein, renoised 0.35"] > 30).all()
    assert frames.converged["lerp"].isna().all() and frames.converged["stein"].notna().all()
    assert (frames.digit != frames.end_digit).all()
    sets = made["06_hands_sets"]
    assert set(sets.measure) == {"fid", "kid", "kid_efficientnet", "kid_squeezenet"}
    wide = sets[sets.baseline == ""].pivot(index="method", columns="measure", values="estimate")
    row = sets[(sets.baseline == "lerp") & (sets.measure == "kid_efficientnet")].iloc[0]
    difference = wide.kid_efficientnet[row.method] - wide.kid_efficientnet["lerp"]
    assert row.estimate == pytest.approx(difference)
    assert set(made["06_hands_movements"].movement) == set(hands.MOVEMENTS)


@PHOTOGRAPHS
def test_no_photograph_is_an_end_twice_or_compared_with(tmp_path):
    experiment = hands.Experiment(tmp_path)
    ends = hands.ends_of(experiment.photographs.labels, range(60))
    used = torch.cat([*ends, experiment.unseen]).tolist()
    assert len(set(used)) == len(used) == 206
