"""Two models compared: what a Gaussian knows, bends and their agreement, and the tables small."""

import os

import pytest
import torch

from experiments.tables import base, two_models
from lib import GaussianScore
from lib.scores import load


def test_the_gaussian_of_points_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 2, 1, 3, generator=generator, dtype=torch.float64)
    gaussian = two_models.Gaussian.of(points)
    rows = points.flatten(1)
    exact = GaussianScore(rows.mean(0), rows.T.cov(), sigma=0.7)
    x = torch.randn(5, 2, 1, 3, generator=generator, dtype=torch.float64)
    expected = exact(x.flatten(1)).reshape(x.shape)
    torch.testing.assert_close(gaussian(x, 0.7), expected, rtol=1e-4, atol=1e-5)
    column = torch.full((5, 1, 1, 1), 0.7, dtype=torch.float64)
    torch.testing.assert_close(gaussian(x, column), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="6 dimensions"):
        two_models.Gaussian.of(points[:6])


def test_bends_are_across_the_chord_whatever_the_timing():
    """A corner of height ½ over a chord of 2; the same curve run at another speed; its mirror."""
    corner = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [2.0, 0.0, 0.0]]]).double()
    times = torch.linspace(0, 1, 65).double() ** 2
    line = torch.stack([2 * times, 0.5 - (times - 0.5).abs(), 0 * times], 1)[None]
    bend = two_models.bend_of(line)
    assert bend[:, 0].abs().max() < 1e-12
    assert bend[:, 1].max().item() == pytest.approx(0.25, rel=0.05)
    assert two_models.cosine_of(bend, two_models.bend_of(corner)) > 0.98
    assert two_models.cosine_of(bend, -bend) == pytest.approx(-1)
    sideways = bend[:, [0, 2, 1]]
    assert two_models.cosine_of(bend, sideways) == pytest.approx(0)
    straight = two_models.bend_of(corner * torch.tensor([1.0, 0.0, 0.0]))
    assert two_models.cosine_of(bend, straight) is None


def test_agreement_beyond_a_gaussian_is_not_that_of_the_gaussian():
    """Two errors at right angles on a large common part: alike, and not beyond what is common."""
    common = torch.tensor([[10.0, 0.0, 0.0]])
    one = common + torch.tensor([[0.0, 1.0, 0.0]])
    other = common + torch.tensor([[0.0, 0.0, 1.0]])
    found = two_models.agreement({"one": one, "other": other, "gaussian": common})
    assert found["cosine"] > 0.98
    assert found["cosine beyond gaussian"] == pytest.approx(0)
    assert found["norm ratio"] == pytest.approx(1)


@pytest.fixture
def stand_in(monkeypatch):
    """In place of a second model: "hands" with slightly other weights; "foreign" of other latents.

    "hands-flow" is four times as far from it as this.
    """

    def other(name, **settings):
        score = load("hands", **settings)
        network = {"hands": None, "foreign": score.pipe.vae}.get(name, score.pipe.unet)
        if network is not None:
            score.origin = score.origin | {"name": name}
            with torch.no_grad():
                for weights in network.parameters():
                    weights.mul_(1.02)
        return score

    monkeypatch.setattr(two_models, "load", other)


def test_models_that_cannot_be_compared_are_refused(stand_in):
    with pytest.raises(ValueError, match="different autoencoders"):
        two_models.Comparison(("hands", "foreign"))
    with pytest.raises(ValueError, match="both models"):
        two_models.Comparison(("hands", "hands"))
    with pytest.raises(ValueError, match="pairs must be"):
        two_models.tables(61)


@pytest.mark.skipif("GEODESICS_DATA" not in os.environ, reason="the photographs are not bundled")
def test_the_tables_run_small(stand_in, tmp_path):
    """Identities hold; a path agrees with itself; nothing is cheaper than one's own geodesic."""
    made = {}
    for table in two_models.tables(models=("hands", "near"), small=True):
        made[table.name] = base.make(table, tmp_path, tmp_path, allow_dirty=True, progress=False)
    scores = made["10_two_models_scores"].set_index("place")
    assert list(scores.index.unique()) == list(two_models.PLACES)
    noised = scores.loc["noised photographs"]
    assert noised["x.s/d hands"].mean() == pytest.approx(-1, abs=0.1)
    assert scores["x.s/d hands"].drop("noised photographs").isna().all()
    assert (scores.cosine > 0.6).all()
    assert (scores.cosine > scores["cosine hands, gaussian"]).mean() > 0.5
    geodesics = made["10_two_models"].set_index(["metric", "pair", "path"]).sort_index()
    assert len(geodesics) == 2 * 2 * 6
    for name in ("hands", "near", "gaussian"):
        own = geodesics.xs(name, level="path")
        assert own[f"cosine {name}"].tolist() == pytest.approx([1] * 4)
        assert (own[f"energy {name}"] < 1).all()
    line = geodesics.xs("line", level="path")
    assert line.bend.max() < 1e-6 and line.converged.isna().all()
    assert (line[["energy hands", "energy near", "energy gaussian"]] == 1).all(axis=None)
