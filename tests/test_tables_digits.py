"""The tables of notebook 04, small."""

import os
from pathlib import Path

import pandas as pd
import pytest

from experiments.evaluation import load_imagenet, load_lpips
from experiments.tables import base, digits, validation

needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("GEODESICS_DATA", "none")) / "mnist").is_dir(),
    reason="MNIST is not on this machine (GEODESICS_DATA)",
)


@pytest.fixture(autouse=True)
def networks():
    try:
        load_lpips()
        load_imagenet()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def make(table, folder):
    return base.make(table, folder, folder / "work", allow_dirty=True, progress=False)


@needs_mnist
def test_every_method_has_its_pairs_and_its_sets(tmp_path):
    pairs = make(digits.pairs_table(digits.SMALL, tmp_path / "work"), tmp_path)
    assert pairs.groupby("method", sort=False).size().to_dict() == {
        "true turn": 10,
        "lerp": 20,
        "ot": 20,
        "lerp_denoised 0.5": 20,
        "density 0.001, sigma 10": 20,
        "density 0.001, sigma 10, denoised": 20,
    }
    geodesics = pairs[pairs.family == "density"]
    assert geodesics.converged.isin([True, False]).all()
    assert pairs[pairs.family != "density"].converged.isna().all()
    truth = pairs[pairs.method == "true turn"].set_index("pair")
    assert (truth.mse == 0).all()
    lerp = pairs[(pairs.method == "lerp") & (pairs.kind == "turn")].set_index("pair")
    assert (lerp.mse > 0).all()
    # A fade moves less than a turn; of a single pair that need not hold.
    assert lerp.motion.mean() < truth.motion.mean()
    assert pairs[pairs.kind == "between"].mse.isna().all()
    assert pairs.unit.nunique() == 10

    sets = make(digits.sets_table(digits.SMALL, tmp_path / "work"), tmp_path)
    values = sets[sets.baseline.isna()].set_index(["kind", "method", "measure"])
    differences = sets[sets.baseline.notna()].set_index(["kind", "method", "baseline", "measure"])
    for measure in ("fid", "kid", "kid_efficientnet", "kid_squeezenet"):
        first = values.estimate["turn", "ot", measure]
        second = values.estimate["turn", "lerp", measure]
        difference = differences.estimate["turn", "ot", "lerp", measure]
        assert difference == pytest.approx(first - second, abs=1e-6)
        assert differences.estimate["between", "lerp", "lerp", measure] == 0


@needs_mnist
def test_the_validation_of_digits_small(tmp_path):
    made = make(validation.digits_table(count=4), tmp_path)
    assert set(made.measure) == {"fid", "kid", "kid_efficientnet", "kid_squeezenet"}
    assert set(made.defect) == {"none", "blend", "blur", "grain"}
    assert (pd.read_csv(tmp_path / "04_validation.csv").pictures == 4).all()


def test_digits_come_in_blocks_of_ten(tmp_path):
    with pytest.raises(ValueError, match="multiple of 10"):
        digits.Experiment(digits.Settings(count=15), tmp_path)
