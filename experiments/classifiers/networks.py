"""The networks, what they are asked, and the two kinds."""

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib import checks

from ..hands import SIZE, WORDS

# Images at a time: what stays in a core's cache is twice as fast as 500.
CHUNK = 32


class Classifier(nn.Module):
    """Stages of two 3×3 convolutions, mean over space, one linear layer.

    Each stage but the first halves the size.

    Attributes:
        kind: its name in config.json and data/registry.toml.
        event_shape: of one image.
        classes: in words.
        widths: channels of each stage.
        first_stride: of the first stage.
        about: what it tells apart, and its limits, for the model card.
        against: what its reference is made of, for definitions.
        sha256: of its file, once it has one.
    """

    kind: ClassVar[str]
    event_shape: ClassVar[tuple[int, ...]]
    classes: ClassVar[tuple[str, ...]]
    widths: tuple[int, ...]
    first_stride: ClassVar[int] = 1
    about: ClassVar[str]
    against: ClassVar[str]
    sha256: str | None = None

    def __init__(self, widths: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.widths = tuple(widths or self.widths)
        channels = (self.event_shape[0], *self.widths)
        strides = [self.first_stride] + [2] * (len(self.widths) - 1)
        self.stages = nn.ModuleList(
            _stage(before, after, stride)
            for (before, after), stride in zip(pairwise(channels), strides, strict=True)
        )
        self.head = nn.Linear(self.widths[-1], len(self.classes))

    @property
    def name(self) -> str:
        """In words."""
        return self.kind.replace("-", " ")

    def target(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Index into `classes` of digits in 0..9."""
        return labels

    def layers(self, images: Float[Tensor, "n *event"]) -> list[Tensor]:
        """Activations (n, width, h, w) after each stage.

        Args:
            images: (n, *event_shape) in [0, 1].

        Raises:
            ValueError, TypeError: images of another shape or dtype.
        """
        checks.floating("images", images)
        if tuple(images.shape[1:]) != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"the {self.name} takes images (n, {shape}) in [0, 1], got {tuple(images.shape)}; "
                "load_classifier('digits') and load_classifier('hands') differ in that"
            )
        x = images.to(self.head.weight)
        activations = []
        for stage in self.stages:
            x = stage(x)
            activations.append(x)
        return activations

    def forward(self, images: Float[Tensor, "n *event"]) -> Float[Tensor, "n classes"]:
        """Logits of images (n, *event_shape) in [0, 1]."""
        return self.head(self._pooled(images))

    def features(self, images: Float[Tensor, "n *event"]) -> Float[Tensor, "n width"]:
        """Last activations averaged over space: what FID and KID are taken of."""
        return _in_chunks(self._pooled, images)

    def confidence(self, images: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Probability of the likeliest class of each image (n, *event_shape) in [0, 1]."""
        return _in_chunks(self, images).softmax(1).amax(1)

    def perceptual_distance(
        self, a: Float[Tensor, "n *event"], b: Float[Tensor, "n *event"]
    ) -> Float[Tensor, " n"]:
        """Σ_layers mean_space ‖φ(a)/‖φ(a)‖ − φ(b)/‖φ(b)‖‖², φ the channels at one place.

        The form of LPIPS (Zhang et al. 2018, eq. 1) on this classifier's stages, without learned
        weights (w = 1).

        Args:
            a: images (n, *event_shape) in [0, 1].
            b: images of the same shape.

        Returns:
            ≥ 0, one a pair of images.
        """
        checks.same_layout("a", a, "b", b)

        def distance(x: Tensor, y: Tensor) -> Tensor:
            return sum(map(_unit_difference, self.layers(x), self.layers(y)))

        return _in_chunks(distance, a, b)

    def right(
        self, images: Float[Tensor, "n *event"], labels: Int[Tensor, " n"]
    ) -> Bool[Tensor, " n"]:
        """Whether each image's most likely class is that of its digit.

        Args:
            images: (n, *event_shape) in [0, 1].
            labels: digits in 0..9.
        """
        return _in_chunks(self, images).argmax(1) == self.target(labels)

    def accuracy(self, images: Float[Tensor, "n *event"], labels: Int[Tensor, " n"]) -> float:
        """Share of images whose most likely class is that of their digit; arguments as `right`."""
        return float(self.right(images, labels).double().mean())

    def _pooled(self, images: Tensor) -> Tensor:
        return self.layers(images)[-1].mean((2, 3))


class DigitClassifier(Classifier):
    """Three stages at 28², 14² and 7² pixels; ink is 1; nine classes, 64 features."""

    kind = "digit-classifier"
    event_shape = (1, 28, 28)
    classes = ("0", "1", "2", "3", "4", "5", "6 or 9", "7", "8")
    widths = (24, 48, 64)
    about = (
        "Tells digits turned by any angle apart; a 6 and a 9 are one class, because turning makes\n"
        "one of the other."
    )
    against = "turned held-out digits"

    def target(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """A 9 is a turned 6."""
        return torch.where(labels == 9, 6, labels)


class HandClassifier(Classifier):
    """Four stages at 32², 16², 8² and 4² pixels; ten classes, 64 features."""

    kind = "hand-classifier"
    event_shape = (3, SIZE, SIZE)
    classes = WORDS
    widths = (24, 48, 64, 64)
    first_stride = 2
    about = (
        "Tells which digit, zero to nine, a hand signs in a photograph (Turkish sign language,\n"
        "plain background). Whose hand a photograph shows is not noted, so the held-out ones may\n"
        "show people it learned from."
    )
    against = "held-out photographs of hands, moved"


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    difference = F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)
    return difference.square().sum(1).mean((1, 2))


@torch.no_grad()
def _in_chunks(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """The same of a few images at a time."""
    chunks = zip(*(x.split(CHUNK) for x in images), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])
