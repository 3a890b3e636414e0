"""How far the things in a picture move from frame to frame: optical flow."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib import checks

from .frames import Images

# pixels: standard deviation of the window that moves as one
WINDOW = 1.5
# Warps after the first estimate: a step of more than a pixel is not linear.
ROUNDS = 4
# of the structure tensor: share of its mean trace that is added to its diagonal
RIDGE = 0.01


def motion(frames: Float[Tensor, "pairs frames channels height width"]) -> Float[Tensor, " pairs"]:
    """Mean magnitude of the optical flow between adjacent frames, in pixels a step.

    The mean is over pixels weighted by their structure (squared image gradient in the window), so
    that empty background does not count. A cross-fade moves far less than what it fades between.

    Args:
        frames: in [0, 1].
    """
    first = frames[:, :-1].flatten(0, 1)
    second = frames[:, 1:].flatten(0, 1)
    flow, structure = optical_flow(first, second)
    size = flow.norm(dim=1)
    total = structure.sum((1, 2)).clamp_min(torch.finfo(structure.dtype).tiny)
    magnitude = (structure * size).sum((1, 2)) / total
    return magnitude.unflatten(0, (len(frames), -1)).mean(1)


def optical_flow(
    first: Images, second: Images
) -> tuple[Float[Tensor, "n 2 height width"], Float[Tensor, "n height width"]]:
    """Flow u from one image to the next, after Lucas and Kanade (1981), in float64.

    Each pixel's u minimises Σ_window (∇I·u + ∂I)², I the mean of `first` and of `second` moved back
    by the flow so far, ∂I their difference; the window is Gaussian. Motions within a few pixels.

    Args:
        first: images in [0, 1]; colours are averaged.
        second: of the same shape.

    Returns:
        (right, down) in pixels, and the trace of the structure tensor Σ_window ∇I ∇Iᵀ.
    """
    checks.same_layout("first", first, "second", second)
    a = first.double().mean(1, keepdim=True)
    b = second.double().mean(1, keepdim=True)
    n, _, height, width = a.shape
    flow = a.new_zeros(n, 2, height, width)
    for _ in range(ROUNDS):
        moved = _moved_back(b, flow)
        gradient = _gradient((a + moved) / 2)
        change = moved - a
        across, down = gradient[:, :1], gradient[:, 1:]
        xx = _window(across * across)
        xy = _window(across * down)
        yy = _window(down * down)
        structure = xx + yy
        # Its square is above zero too, so that images without structure do not move.
        ridge = RIDGE * structure.mean((2, 3), keepdim=True) + 1e-100
        xt = _window(across * change)
        yt = _window(down * change)
        determinant = (xx + ridge) * (yy + ridge) - xy * xy
        step_right = (xy * yt - (yy + ridge) * xt) / determinant
        step_down = (xy * xt - (xx + ridge) * yt) / determinant
        flow = flow + torch.cat([step_right, step_down], 1)
    return flow, structure[:, 0]


def _moved_back(images: Tensor, flow: Tensor) -> Tensor:
    """images(x + flow(x)), bilinear."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=images.dtype, device=images.device)
    columns = torch.arange(width, dtype=images.dtype, device=images.device)
    down = rows[:, None] + flow[:, 1]
    right = columns + flow[:, 0]
    # grid_sample counts from −1 to 1 between the outer edges of the image.
    grid = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], -1)
    return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)


def _gradient(images: Tensor) -> Tensor:
    """Central differences to the right and down: (n, 2, height, width)."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    return torch.cat([right, down], 1)


def _window(values: Tensor) -> Tensor:
    """Gaussian mean about each pixel."""
    radius = round(3 * WINDOW)
    places = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    weights = torch.exp(-0.5 * (places / WINDOW) ** 2)
    weights = weights / weights.sum()
    across = F.conv2d(values, weights.reshape(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(across, weights.reshape(1, 1, -1, 1), padding=(radius, 0))
