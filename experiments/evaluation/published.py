"""LPIPS with its published weights, where the backbone's weights are on the machine or may be downloaded."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import lpips
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from lib import checks

from .. import data

BACKBONES = {"squeeze": "SqueezeNet1_1_Weights", "alex": "AlexNet_Weights", "vgg": "VGG16_Weights"}
SMALLEST = 64  # pixels; the backbones were made for 224
CHUNK = 64  # images at a time: a plain bound on memory


class Lpips:
    """LPIPS v0.1 (Zhang et al. 2018) by the `lpips` package. net: "squeeze", "alex" or "vgg"; source: file of its backbone.

    Definition: grey images repeated to three channels; [0, 1] moved to [−1, 1]; images whose shorter side is below 64 pixels
    enlarged bilinearly to 64; distance averaged over space.
    """

    def __init__(self, net: str, state: dict[str, Tensor], source: str) -> None:
        self.net, self.source = net, source
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):  # first weights are drawn, then replaced
            warnings.simplefilter(
                "ignore"
            )  # lpips calls torchvision by an argument that is no longer wanted
            self._network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).requires_grad_(
                False
            )
        backbone = self._network.net
        try:  # lpips keeps torchvision's layer numbers: slice2.3.weight is features.3.weight
            backbone.load_state_dict(
                {key: state["features." + key.split(".", 1)[1]] for key in backbone.state_dict()}
            )
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{source} does not hold torchvision's {net} backbone ({error}); replace it"
            ) from error

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of images (n, 1 or 3, h, w) in [0, 1] -> (n,) float32."""
        checks.same_layout("a", a, "b", b)
        if a.ndim != 4 or a.shape[1] not in (1, 3):
            raise ValueError(
                f"LPIPS takes images (n, 1 or 3, h, w) in [0, 1], got {tuple(a.shape)}"
            )
        self._network.to(a.device)
        parts = zip(*(_prepared(x).split(CHUNK) for x in (a, b)), strict=True)
        return torch.cat([self._network(p, q, normalize=True).flatten() for p, q in parts])


def load_lpips(net: str = "squeeze", *, download: bool = False) -> Lpips:
    """LPIPS with the ImageNet backbone from GEODESICS_DATA (squeeze) or torchvision's own file in torch's cache; else an error.

    download=True lets torchvision fetch it. FileNotFoundError: not on this machine. ValueError: damaged. Only tensors are read.
    """
    checks.choice("net", net, BACKBONES)
    url = getattr(torchvision.models, BACKBONES[net]).IMAGENET1K_V1.url
    local = data.locate("lpips-squeeze") if net == "squeeze" else None
    path = (
        next(iter(local.values()))
        if local
        else Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    )
    if not path.is_file():
        if not download:
            raise FileNotFoundError(
                f"the {net} backbone of LPIPS is not on this machine; pass download=True, put torchvision's "
                f"{path.name} into {path.parent}, or for squeeze set GEODESICS_DATA (lpips-squeeze in "
                "data/registry.toml)"
            )
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_prefix(path))
    if not local and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(_prefix(path)):
        raise ValueError(
            f"{path} does not have the checksum that its name holds: damaged; delete it"
        )
    return Lpips(net, torch.load(path, map_location="cpu", weights_only=True), path.name)


def _prefix(path: Path) -> str:
    """torchvision's files carry the start of their sha256: name-<start>.pth."""
    return path.stem.rsplit("-", 1)[-1]


def _prepared(images: Tensor) -> Tensor:
    wide = images.float().expand(-1, 3, -1, -1)
    scale = SMALLEST / min(wide.shape[-2:])
    size = [round(side * scale) for side in wide.shape[-2:]]
    return F.interpolate(wide, size, mode="bilinear", align_corners=False) if scale > 1 else wide
