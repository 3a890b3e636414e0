"""The network of the Fréchet Inception distance, and the distance of sets of few pictures."""

import io
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from lib import checks

from .frames import Images
from .published import published_file

Resizing = Literal["pytorch-fid", "clean-fid"]
SIDE = 299  # pixels that the network takes
CHUNK = 32  # pictures at a time: a plain bound on memory


class Inception:
    """2048 features a picture by the network of FID (Heusel et al. 2017).

    The implementations in use share the weights and differ in how a picture is brought to 299×299
    pixels, which moves FID by more than methods differ (Parmar et al., CVPR 2022):

    * "pytorch-fid": bilinear, not anti-aliased (github.com/mseitzer/pytorch-fid);
    * "clean-fid": bicubic, anti-aliased, in floating point (github.com/GaParmar/clean-fid).

    Args:
        state: the published weights.
        resizing: whose resizing to follow.
    """

    def __init__(self, state: dict[str, Tensor], resizing: Resizing) -> None:
        self.name = f"inception, {checks.choice('resizing', resizing, get_args(Resizing))}"
        self.resizing = resizing
        # torch-fidelity unpickles the file it is given: here one of tensors, written just now.
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        with torch.random.fork_rng(devices=[]):
            network = FeatureExtractorInceptionV3(
                self.name, ["2048"], feature_extractor_weights_path=file
            )
        # Its own forward pass takes bytes and resizes them. The layers stand in their order; the
        # last of them classifies.
        self._layers = nn.Sequential(*list(network.children())[:-1])

    @torch.no_grad()
    def __call__(self, images: Images) -> Float[Tensor, "n 2048"]:
        """Features of images of three channels in [0, 1]."""
        self._layers.to(images.device)
        parts = [self._layers(self.prepared(part)).flatten(1) for part in images.split(CHUNK)]
        return torch.cat(parts)

    def prepared(self, images: Images) -> Float[Tensor, "n channels 299 299"]:
        """Pictures as the network takes them, about [−1, 1]."""
        if self.resizing == "pytorch-fid":
            resized = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
            return 2 * resized - 1
        resized = torch.stack([_bicubic(image) for image in 255 * images])
        return (resized - 128) / 128


def load_inception(resizing: Resizing = "pytorch-fid", *, download: bool = False) -> Inception:
    """FID's network with its published weights, from torch's cache.

    Only tensors are read, no pickled objects.

    Args:
        resizing: as `Inception` takes it.
        download: fetch the weights where they are missing.

    Raises:
        FileNotFoundError: the weights are not on this machine.
        ValueError: a damaged file.
    """
    path = published_file(URL_INCEPTION_V3, "FID's Inception network", download)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        return Inception(weights, resizing)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold FID's Inception network: {error}; replace it"
        ) from error


def frechet_of_samples(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"]) -> float:
    """Fréchet distance of Gaussians fitted to two sets of few features (Heusel et al. 2017, eq. 6).

    With centred rows A = (x − μ)/√(n − 1) and B likewise, Σ₁ = AᵀA and Σ₂ = BᵀB, and the trace of
    (Σ₁Σ₂)^½ is the sum of the singular values of ABᵀ, an n×m matrix: exact where n and m are far
    below k, and without a root of a singular k×k matrix.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs two pictures, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = (x - mean_x) / (len(x) - 1) ** 0.5
    b = (y - mean_y) / (len(y) - 1) ** 0.5
    cross = torch.linalg.svdvals(a @ b.T).sum()
    distance = (mean_x - mean_y).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    # rounding can leave equal sets below zero
    return max(0.0, float(distance))


def _bicubic(image: Float[Tensor, "channels height width"]) -> Float[Tensor, "channels 299 299"]:
    """Pillow's bicubic resizing, channel by channel in floating point."""
    size = (SIDE, SIDE)
    channels = [Image.fromarray(channel.float().cpu().numpy()) for channel in image]
    resized = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized).clip(0, 255)).to(image)
