"""Does a set measure see what an eye sees? Pictures whose order is known, measured."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from .bootstrap import bootstrap
from .frames import Images
from .sets import Network, reference_of, set_measures

# share of a second picture
BLENDS = (0.1, 0.2, 0.3, 0.4, 0.5)
# pixels, standard deviation of a Gaussian
BLURS = (0.5, 1.0, 2.0)
# standard deviation of white noise on pixels in [0, 1]
GRAINS = (0.02, 0.05, 0.1)


def graded(images: Images, generator: torch.Generator) -> dict[tuple[str, float], Tensor]:
    """Pictures as they are and made worse step by step, by kind of defect and its level.

    "blend" is a double exposure with another picture of the set (level: its share), "blur" Gaussian
    (pixels), "grain" white noise (standard deviation). "none" are the pictures themselves.

    Args:
        images: real pictures in [0, 1], two or more.
        generator: draws the second pictures and the noise.
    """
    if len(images) < 2:
        raise ValueError(f"a double exposure needs two pictures or more, got {len(images)}")
    # No picture is its own second one.
    order = torch.randperm(len(images), generator=generator)
    second = torch.empty_like(images)
    second[order] = images[order.roll(1)]
    noise = torch.randn(images.shape, generator=generator).to(images)
    sets = {("none", 0.0): images}
    for share in BLENDS:
        sets["blend", share] = torch.lerp(images, second, share)
    for width in BLURS:
        size = 2 * round(4 * width) + 1
        sets["blur", width] = gaussian_blur(images, [size, size], [width, width])
    for deviation in GRAINS:
        sets["grain", deviation] = (images + deviation * noise).clamp(0, 1)
    return sets


def validate(
    networks: Mapping[str, Network],
    sets: Mapping[tuple[str, float], Images],
    real: Images,
    **settings: Any,
) -> pd.DataFrame:
    """Every set measure of every network on pictures whose order is known.

    Args:
        networks: name → network.
        sets: (defect, level) → pictures, as `graded` gives them.
        real: other real pictures, the reference.
        settings: of `bootstrap` over pictures.

    Returns:
        Columns network, measure, defect, level, estimate, low, high, pictures.
    """
    rows = []
    for name, network in networks.items():
        reference = reference_of(network, real, "real pictures")
        for (defect, level), images in sets.items():
            # each picture a pair of one frame
            features = network.features(images)[:, None]
            for measure, of_pairs in set_measures(network).items():
                value = of_pairs(features, reference)
                interval = bootstrap(torch.arange(len(images)), value, centre=True, **settings)
                rows.append((name, measure, defect, level, *interval, len(images)))
    columns = ["network", "measure", "defect", "level", "estimate", "low", "high", "pictures"]
    return pd.DataFrame(rows, columns=columns)


def verdict(table: pd.DataFrame) -> pd.DataFrame:
    """Which measure puts worse pictures behind better ones.

    Args:
        table: of `validate`, one data set.

    Returns:
        For each network, measure and defect: whether the estimates rise with the level from that
        of untouched pictures ("ordered"), and the least level from which on the interval lies above
        that of untouched pictures ("seen_from"; NaN if it never does).
    """
    rows = []
    for (network, measure), part in table.groupby(["network", "measure"], sort=False):
        untouched = part[part.defect == "none"]
        if len(untouched) != 1:
            raise ValueError(f"{network}'s {measure} needs one row of untouched pictures")
        for defect in part.defect[part.defect != "none"].unique():
            levels = part[part.defect == defect].sort_values("level")
            estimates = [untouched.estimate.item(), *levels.estimate]
            above = levels.low > untouched.high.item()
            # above at this level and at all stronger ones
            seen = levels[above[::-1].cummin()[::-1]]
            rows.append(
                {
                    "network": network,
                    "measure": measure,
                    "defect": defect,
                    "ordered": bool((pd.Series(estimates).diff()[1:] > 0).all()),
                    "seen_from": seen.level.min(),
                }
            )
    return pd.DataFrame(rows)
