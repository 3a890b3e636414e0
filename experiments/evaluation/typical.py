"""Do frames look like something, and are they as likely as real images are?"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lib import checks, paths
from lib.density import along_path
from lib.scores import Score

from ..classifiers import Classifier
from .frames import Images

# least probability of the likeliest class
CONFIDENCE = 0.9
# scores on the straight line from one image to another
POINTS = 17


def confident_share(
    frames: Float[Tensor, "pairs frames channels height width"], classifier: Classifier
) -> Float[Tensor, " pairs"]:
    """Share of the frames between first and last whose likeliest class has probability ≥ 0.9.

    Args:
        frames: in [0, 1], at least three a pair.
        classifier: of such images.
    """
    inner = frames[:, 1:-1].flatten(0, 1)
    certain = classifier.confidence(inner) >= CONFIDENCE
    return certain.double().unflatten(0, (len(frames), -1)).mean(1)


@dataclass(frozen=True)
class RealDensity:
    """log p_sigma of real images, in nats relative to one of them.

    Attributes:
        origin: the image that they are relative to.
        values: of the others.
    """

    origin: Float[Tensor, "*event"]
    values: Float[Tensor, " n"]


def real_density(score: Score, images: Float[Tensor, "n *event"]) -> RealDensity:
    """log p_sigma of real images less that of the first, by line integrals of the score.

    Args:
        score: at the noise level where frames are to be judged.
        images: three or more, held out from training.
    """
    if len(images) < 3:
        raise ValueError(f"a spread needs three real images or more, got {len(images)}")
    return RealDensity(images[0], _relative(score, images[0], images[1:]))


def typicality(
    score: Score,
    frames: Float[Tensor, "pairs frames *event"],
    real: RealDensity,
    log_density: Float[Tensor, "pairs frames"] | None = None,
) -> Float[Tensor, " pairs"]:
    """How much likelier the frames between first and last are than real images, in their spread.

        z = (mean log p_sigma(frames) − mean log p_sigma(real)) / deviation of log p_sigma(real)

    Zero is typical, below it frames are unlikelier than real images, above it likelier: a mode of
    the density has the largest z and is not typical. From the real image of `real` to the first
    frame the line integral goes straight, then along the frames.

    Args:
        score: at the noise level of `real`.
        frames: at least three a pair, close together against sigma.
        real: of the same score.
        log_density: along the frames, less that of the first, where it is known already.
    """
    if log_density is None:
        log_density = along_path(score, frames)
    starts = _relative(score, real.origin, frames[:, 0])
    inner = log_density[:, 1:-1].mean(1).to(starts)
    return (starts + inner - real.values.mean()) / real.values.std()


def _relative(score: Score, origin: Tensor, images: Images) -> Float[Tensor, " n"]:
    """log p(images) − log p(origin)."""
    checks.floating("images", images)
    lines = paths.lerp(origin.expand_as(images), images, POINTS)
    return along_path(score, lines)[:, -1].double()
