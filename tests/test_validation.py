"""Pictures whose order is known, and the verdict on measures."""

import math

import pandas as pd
import pytest
import torch

from experiments.evaluation.validation import BLENDS, BLURS, GRAINS, graded, validate, verdict


class Means:
    """A network whose only features are the mean and the mean square of the pixels."""

    sha256 = "none"

    def features(self, images):
        flat = images.flatten(1).double()
        return torch.stack([flat.mean(1), flat.square().mean(1)], 1)


def test_graded_pictures_are_what_they_are_called(generator):
    images = torch.rand(6, 1, 12, 12, generator=generator) / 2 + 0.25
    sets = graded(images, generator)
    assert len(sets) == 1 + len(BLENDS) + len(BLURS) + len(GRAINS)
    assert sets["none", 0.0] is images
    second = 2 * sets["blend", 0.5] - images
    matches = torch.cdist(second.flatten(1), images.flatten(1)) < 1e-4
    # each picture serves once, and never for itself
    assert matches.sum(0).tolist() == matches.sum(1).tolist() == [1] * 6
    assert not matches.diagonal().any()
    torch.testing.assert_close(sets["blend", 0.1], 0.9 * images + 0.1 * second)
    noise = sets["grain", 0.02] - images
    assert noise.std().item() == pytest.approx(0.02, rel=0.1)
    widths = [sets["blur", width].var().item() for width in BLURS]
    assert sorted(widths, reverse=True) == widths
    with pytest.raises(ValueError, match="two pictures"):
        graded(images[:1], generator)


def test_a_network_of_means_sees_blur_and_not_a_mirror(generator):
    images = torch.rand(40, 1, 12, 12, generator=generator).round()
    sets = {("none", 0.0): images[:20], ("blur", 1.0): graded(images[:20], generator)["blur", 1.0]}
    sets["blend", 0.5] = images[:20].flip(3)
    table = validate({"means": Means()}, sets, images[20:], draws=50)
    kid = table[table.measure == "kid"].set_index("defect")
    assert kid.estimate["blend"] == pytest.approx(kid.estimate["none"], abs=1e-12)
    assert kid.low["blur"] > kid.high["none"]
    told = verdict(table).set_index(["measure", "defect"])
    assert told.seen_from["kid", "blur"] == 1.0
    assert math.isnan(told.seen_from["kid", "blend"])


def test_the_verdict_by_hand():
    rows = [("none", 0.0, 1.0, 0.5, 1.5), ("blend", 0.1, 1.2, 0.7, 1.7)]
    rows += [("blend", 0.3, 3.0, 2.0, 4.0), ("blend", 0.2, 2.0, 1.6, 2.4)]
    rows += [("blur", 0.5, 5.0, 4.0, 6.0), ("blur", 1.0, 4.0, 1.0, 7.0)]
    table = pd.DataFrame(rows, columns=["defect", "level", "estimate", "low", "high"])
    table = table.assign(network="n", measure="m")
    told = verdict(table).set_index("defect")
    assert told.ordered.to_dict() == {"blend": True, "blur": False}
    assert told.seen_from["blend"] == 0.2
    assert math.isnan(told.seen_from["blur"])
    with pytest.raises(ValueError, match="untouched"):
        verdict(table[table.defect != "none"])
