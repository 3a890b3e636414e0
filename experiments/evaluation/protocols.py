"""The evaluation protocols in use for paths between images, each definition by name and source.

Papers on image morphing report "PPL", "PDV" and "FID", and mean different things by them. Here each
protocol is a row of `PROTOCOLS`: how it takes the frames, its networks, and its measures as plain
functions. `experiments.evaluate` applies them to frames on disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..classifiers import Reference
from .inception import frechet_of_samples
from .motion import motion
from .sets import OfPairs, imagenet_kid_of_pairs

Steps = Float[Tensor, " steps"]
PathFeatures = Float[Tensor, "frames k"]
References = Float[Tensor, "pictures k"]

# ---- measures of the distances d of adjacent frames, one number a pair


def sum_of_steps(steps: Steps) -> float:
    """Length: the sum of all distances."""
    return float(steps.sum())


def scaled_sum_of_steps(steps: Steps) -> float:
    """25 times the length."""
    return 25 * float(steps.sum())


def scaled_sum_of_squares(steps: Steps) -> float:
    """Energy: the sum of squares times the number of steps."""
    return len(steps) * float(steps.square().sum())


def variance(steps: Steps) -> float:
    """Variance of the distances (divisor: their number)."""
    return float(steps.var(correction=0))


def standard_deviation(steps: Steps) -> float:
    """Standard deviation of the distances (divisor: their number)."""
    return float(steps.std(correction=0))


def largest_step(steps: Steps) -> float:
    """The largest distance."""
    return float(steps.max())


# ---- measures of the frames of one pair


def mean_motion(frames: Float[Tensor, "frames channels height width"]) -> float:
    """Mean magnitude of the optical flow, pixels a step."""
    return float(motion(frames[None]))


# ---- measures of features, of one pair or of all


def inner_against_ends(paths: Sequence[PathFeatures], references: References | None) -> float:
    """All frames between first and last against all first and last ones."""
    return frechet_of_samples(_inner(paths), _ends(paths))


def all_against_references(paths: Sequence[PathFeatures], references: References | None) -> float:
    """All frames, ends included, against the references."""
    return frechet_of_samples(torch.cat(list(paths)), references)


def two_frames_against_inputs(
    paths: Sequence[PathFeatures], references: References | None
) -> float:
    """Two frames of each path, drawn at random, against the inputs; mean over ten draws.

    The inputs are the references, or where there are none the ends of the paths.
    """
    inputs = _ends(paths) if references is None else references
    generator = torch.Generator().manual_seed(0)
    distances = []
    for _ in range(10):
        drawn = [path[torch.randperm(len(path), generator=generator)[:2]] for path in paths]
        distances.append(frechet_of_samples(torch.cat(drawn), inputs))
    return sum(distances) / len(distances)


def inner_against_references(paths: Sequence[PathFeatures], references: References | None) -> float:
    """All frames between first and last against the references, by a kernel."""
    every = torch.arange(len(paths))
    return float(inner_against_references_of_pairs(paths, references)(every))


def inner_against_references_of_pairs(
    paths: Sequence[PathFeatures], references: References
) -> OfPairs:
    """The same for chosen pairs, whose indices the result takes."""
    inner = torch.stack([path[1:-1] for path in paths])
    covariance = torch.atleast_2d(references.T.cov())
    compared = Reference(references.mean(0), covariance, references, "the references", "unknown")
    return imagenet_kid_of_pairs(inner, compared)


def _inner(paths: Sequence[PathFeatures]) -> Tensor:
    return torch.cat([path[1:-1] for path in paths])


def _ends(paths: Sequence[PathFeatures]) -> Tensor:
    return torch.cat([path[[0, -1]] for path in paths])


# ---- protocols


@dataclass(frozen=True)
class StepMeasure:
    """A number a pair, of the distances of adjacent frames.

    Attributes:
        name: column of the published table.
        definition: in words, d being the distances of adjacent frames.
        of: the distances (steps,) to the number.
        source: where it is defined.
        over_pairs: how a method's number comes of its pairs'.
    """

    name: str
    definition: str
    of: Callable[[Steps], float]
    source: str
    over_pairs: Literal["mean", "sum"] = "mean"


@dataclass(frozen=True)
class FrameMeasure:
    """A number a pair, of its frames as they are stored.

    Attributes:
        name: column of the table.
        definition: in words.
        of: the frames in [0, 1] to the number.
        source: where it is defined.
    """

    name: str
    definition: str
    of: Callable[[Tensor], float]
    source: str


@dataclass(frozen=True)
class FeatureMeasure:
    """A number of the features of frames.

    Attributes:
        name: column of the published table.
        definition: in words; {inputs} stands for what the frames are compared with.
        of: the features of paths, and of the references, to the number.
        source: where it is defined.
        network: "inception, pytorch-fid", "inception, clean-fid" or "efficientnet-lite0".
        distance: of the two sets of features, in words.
        of_pairs: the same as `of` for many choices of pairs at once, where that is faster.
        each_pair: one number a pair, averaged; else one number of all pairs.
        references: whether pictures beside the frames are needed, may stand in for the ends, or
            are not used.
    """

    name: str
    definition: str
    of: Callable[[Sequence[PathFeatures], References | None], float]
    source: str
    network: str
    distance: str = "Fréchet distance"
    of_pairs: Callable[[Sequence[PathFeatures], References], OfPairs] | None = None
    each_pair: bool = False
    references: Literal["needed", "possible", "unused"] = "unused"


Measure = StepMeasure | FrameMeasure | FeatureMeasure


@dataclass(frozen=True)
class Protocol:
    """How a paper or its repository evaluates frames.

    Attributes:
        name: as `evaluate_folder` takes it.
        source: paper and repository.
        lpips: backbones of LPIPS that it uses, the usual one first.
        frames: of a path, both ends included; None for any number.
        size: pixels a side of the pictures it is published for; None for any.
        resized: frames are squeezed to that size before their distance is taken.
        equal_frames: all paths must have one number of frames.
        measures: what it reports.
    """

    name: str
    source: str
    lpips: tuple[str, ...]
    measures: tuple[Measure, ...]
    frames: tuple[int, ...] | None = None
    size: int | None = None
    resized: bool = False
    equal_frames: bool = False

    def uses_references(self) -> bool:
        """Whether any measure can use pictures beside the frames."""
        return any(
            isinstance(measure, FeatureMeasure) and measure.references != "unused"
            for measure in self.measures
        )


OURS = "this repository"
DIFFMORPHER = "DiffMorpher: Zhang et al., CVPR 2024, arXiv 2312.07409, section 4.4"
DIFFMORPHER_CODE = f"{DIFFMORPHER}; github.com/Kevin-thu/DiffMorpher, issue 33"
FREEMORPH = "FreeMorph: Cao et al., ICCV 2025, arXiv 2507.01953; github.com/yukangcao/FreeMorph"
FREEMORPH_TABLE = f"{FREEMORPH}: no code is published (issue 7), read off the tables"
FLOWMORPH = (
    "FlowMorph: Zheng et al., WACV 2026; github.com/VITA-Group/FlowMorph, tools/eval_metrics.py"
)
GFM = (
    "GFM, a port of both papers to Stable Diffusion 3; after Saito and Matsubara, arXiv 2510.05509"
)

LENGTH = "Σ d"
DEVIATION = "standard deviation of d (divisor: their number)"
VARIANCE = "variance of d (divisor: their number)"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="ours",
            source=OURS,
            lpips=("squeeze",),
            equal_frames=True,
            measures=(
                StepMeasure("ppl", LENGTH, sum_of_steps, OURS),
                StepMeasure("pdv", DEVIATION, standard_deviation, OURS),
                StepMeasure("largest_step", "max d", largest_step, OURS),
                FrameMeasure(
                    "motion",
                    "mean magnitude of the optical flow of adjacent frames, pixels a step",
                    mean_motion,
                    OURS,
                ),
                FeatureMeasure(
                    "kid_efficientnet",
                    "inner frames of all pairs against {inputs}",
                    inner_against_references,
                    OURS,
                    network="efficientnet-lite0",
                    distance="Squared MMD, kernel (x·y/m + 1)³, m the references' mean of ‖y‖²,",
                    of_pairs=inner_against_references_of_pairs,
                    references="needed",
                ),
            ),
        ),
        Protocol(
            name="diffmorpher",
            source=DIFFMORPHER_CODE,
            lpips=("alex",),
            frames=(16, 17),
            size=512,
            resized=True,
            measures=(
                StepMeasure("ppl", LENGTH, sum_of_steps, DIFFMORPHER_CODE),
                StepMeasure("pdv", VARIANCE, variance, DIFFMORPHER_CODE),
                FeatureMeasure(
                    "fid",
                    "two frames of each path, drawn at random, against {inputs}; mean of ten draws",
                    two_frames_against_inputs,
                    DIFFMORPHER,
                    network="inception, pytorch-fid",
                    references="possible",
                ),
            ),
        ),
        Protocol(
            name="freemorph",
            source=FREEMORPH_TABLE,
            lpips=("alex",),
            frames=(7,),
            size=768,
            measures=(
                StepMeasure("lpips", LENGTH, sum_of_steps, FREEMORPH_TABLE, over_pairs="sum"),
                StepMeasure(
                    "ppl",
                    "25 Σ d (Σ d/ε² at ε = 1/5)",
                    scaled_sum_of_steps,
                    FREEMORPH_TABLE,
                    over_pairs="sum",
                ),
                FeatureMeasure(
                    "fid",
                    "inner frames of one pair against its two ends",
                    inner_against_ends,
                    FREEMORPH_TABLE,
                    network="inception, pytorch-fid",
                    each_pair=True,
                ),
            ),
        ),
        Protocol(
            name="flowmorph",
            source=FLOWMORPH,
            lpips=("alex",),
            measures=(
                StepMeasure("lpips_sum", LENGTH, sum_of_steps, FLOWMORPH),
                StepMeasure(
                    "ppl_sum", "(N − 1) Σ d² for N frames", scaled_sum_of_squares, FLOWMORPH
                ),
                FeatureMeasure(
                    "fid_mean",
                    "all frames of all pairs, ends included, against {inputs}",
                    all_against_references,
                    FLOWMORPH,
                    network="inception, clean-fid",
                    references="needed",
                ),
            ),
        ),
        Protocol(
            name="gfm",
            source=GFM,
            lpips=("alex", "vgg"),
            frames=(10,),
            size=512,
            measures=(
                StepMeasure("ppl", LENGTH, sum_of_steps, GFM),
                StepMeasure("pdv", DEVIATION, standard_deviation, GFM),
                FeatureMeasure(
                    "fid",
                    "inner frames of all pairs against {inputs}",
                    inner_against_ends,
                    GFM,
                    network="inception, pytorch-fid",
                ),
            ),
        ),
    )
}
