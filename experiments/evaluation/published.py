"""LPIPS with its published weights."""

import hashlib
import warnings
from pathlib import Path

import lpips
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from torch import Tensor

from lib import checks

from .. import data
from .frames import Images

BACKBONES = {"squeeze": "SqueezeNet1_1_Weights", "alex": "AlexNet_Weights", "vgg": "VGG16_Weights"}
SMALLEST = 64  # pixels; the backbones were made for 224
PIXELS = 2**20  # at a time: a plain bound on memory


class Lpips:
    """LPIPS v0.1 (Zhang et al. 2018) by the `lpips` package.

    Grey images are repeated to three channels; [0, 1] is moved to [−1, 1]; images whose shorter
    side is below 64 pixels are enlarged bilinearly to 64; the distance is averaged over space.

    Args:
        net: "squeeze", "alex" or "vgg".
        state: torchvision's weights of this backbone.
        source: the file they are from.
    """

    def __init__(self, net: str, state: dict[str, Tensor], source: str) -> None:
        self.net = net
        self.source = source
        # First weights are drawn from the global generator, then replaced.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # lpips calls torchvision by an argument that is no longer wanted.
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        self._network = network.requires_grad_(False)
        try:
            # lpips keeps torchvision's layer numbers: slice2.3.weight is features.3.weight.
            weights = {
                key: state["features." + key.split(".", 1)[1]] for key in network.net.state_dict()
            }
            network.net.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{source} does not hold torchvision's {net} backbone ({error}); replace it"
            ) from error

    @torch.no_grad()
    def __call__(self, a: Images, b: Images) -> Float[Tensor, " n"]:
        """Distance of images of 1 or 3 channels in [0, 1]; float32."""
        checks.same_layout("a", a, "b", b)
        if a.ndim != 4 or a.shape[1] not in (1, 3):
            raise ValueError(
                f"LPIPS takes images (n, 1 or 3, h, w) in [0, 1], got {tuple(a.shape)}"
            )
        self._network.to(a.device)
        a, b = _prepared(a), _prepared(b)
        count = max(1, PIXELS // (a.shape[-2] * a.shape[-1]))
        chunks = zip(a.split(count), b.split(count), strict=True)
        return torch.cat([self._network(x, y, normalize=True).flatten() for x, y in chunks])


def load_lpips(net: str = "squeeze", *, download: bool = False) -> Lpips:
    """LPIPS with the ImageNet backbone of GEODESICS_DATA (squeeze) or of torch's cache.

    Only tensors are read, no pickled objects.

    Args:
        net: "squeeze", "alex" or "vgg".
        download: let torchvision fetch its own file where there is none.

    Raises:
        FileNotFoundError: the backbone is not on this machine.
        ValueError: unknown net, or a damaged file.
    """
    path = backbone(net, download=download)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return Lpips(net, weights, path.name)


def backbone(net: str, *, download: bool = False) -> Path:
    """The checked file of a backbone; arguments and errors as `load_lpips`."""
    checks.choice("net", net, BACKBONES)
    local = data.locate("lpips-squeeze") if net == "squeeze" else None
    return next(iter(local.values())) if local else _torchvision_file(net, download)


def _torchvision_file(net: str, download: bool) -> Path:
    """torchvision's file of a backbone in torch's cache."""
    url = getattr(torchvision.models, BACKBONES[net]).IMAGENET1K_V1.url
    other = ", or set GEODESICS_DATA (lpips-squeeze in data/registry.toml)"
    mend = other if net == "squeeze" else ""
    return published_file(url, f"the {net} backbone of LPIPS", download, mend)


def published_file(url: str, what: str, download: bool, other: str = "") -> Path:
    """Published weights in torch's cache; the file's name ends in the start of its sha256.

    Args:
        url: where they are published.
        what: what to call them in an error.
        download: fetch them where they are missing.
        other: a further mend of missing ones.

    Raises:
        FileNotFoundError: they are not on this machine.
        ValueError: a damaged file.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    checksum = path.stem.rsplit("-", 1)[-1]
    if not path.is_file():
        if not download:
            raise FileNotFoundError(
                f"{what} is not on this machine; pass download=True (--download), or put {url} "
                f"into {path.parent}{other}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum)
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(checksum):
        raise ValueError(
            f"{path} does not have the checksum that its name holds: damaged; delete it"
        )
    return path


def _prepared(images: Tensor) -> Tensor:
    """Three channels, the shorter side at least 64 pixels."""
    wide = images.float().expand(-1, 3, -1, -1)
    scale = SMALLEST / min(wide.shape[-2:])
    if scale <= 1:
        return wide
    size = [round(side * scale) for side in wide.shape[-2:]]
    return F.interpolate(wide, size, mode="bilinear", align_corners=False)
