"""Images turned, enlarged, mirrored and shifted."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def warp(
    images: Float[Tensor, "n channels height width"],
    *,
    degrees: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    mirror: Tensor | bool = False,
    shift: Tensor | float = 0.0,
    shape: tuple[int, int] | None = None,
    mode: str = "bicubic",
    padding_mode: str = "zeros",
) -> Float[Tensor, "n channels new_height new_width"]:
    """Mirror, then turn and enlarge about the middle, then shift, each image by its own amount.

    Args:
        images: the map is computed in their dtype.
        degrees: counter-clockwise, a number or (n,).
        scale: above 1 enlarges, a number or (n,).
        mirror: left and right exchanged, one answer or (n,).
        shift: to the right and down as a share of the sides, a number or (n, 2).
        shape: (height, width) of the result, that of the images if None.
        mode: of interpolation, as in `torch.nn.functional.grid_sample`.
        padding_mode: what lies outside, as there.

    Returns:
        The images moved. Bicubic interpolation overshoots beside sharp edges.
    """
    n, channels, height, width = images.shape

    def each(value: Tensor | float | bool, *event: int) -> Tensor:
        return torch.as_tensor(value, dtype=images.dtype, device=images.device).expand(n, *event)

    angle = torch.deg2rad(each(degrees))
    flip = 1 - 2 * each(mirror)
    # grid_sample measures in half sides, and turning needs pixels.
    ratio = width / height
    # The inverse map, from a place of the result to a place of the image: A(p − t).
    first_row = torch.stack([flip * angle.cos(), -flip * angle.sin() / ratio], -1)
    second_row = torch.stack([angle.sin() * ratio, angle.cos()], -1)
    inverse = torch.stack([first_row, second_row], 1) / each(scale)[:, None, None]
    offset = -inverse @ (2 * each(shift, 2)[..., None])
    matrices = torch.cat([inverse, offset], -1)
    size = [n, channels, *(shape or (height, width))]
    grid = F.affine_grid(matrices, size, align_corners=False)
    return F.grid_sample(images, grid, mode, padding_mode, align_corners=False)
