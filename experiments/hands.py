"""Hands signing the digits zero to nine: photographs, known movements, captions, samples."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real, UInt8
from PIL import Image
from torch import Tensor

from lib import checks

from . import data
from .warp import warp

SIZE = 64  # pixels a side
SIDE = 100  # of the photographs as they are stored
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "a photo of a hand showing {}",
    "a photo of a hand showing the number {}",
    "a photograph of a hand signing {}",
    "a hand showing {}",
    "a hand signing the digit {}",
    "the sign for {}",
    "the number {} in sign language",
    "{}",
)

# The range of the random movements: degrees, shares of a side, sizes.
TURN = 12.0
SHIFT = 0.06
SCALE = (0.92, 1.15)

Pixels = Real[Tensor, "n channels height width"]
Pictures = Float[Tensor, "n channels size size"]


@dataclass(frozen=True)
class Photographs:
    """Photographs of hands signing digits.

    Attributes:
        pixels: uint8.
        labels: 0 … 9.
        source: where they came from.
    """

    pixels: UInt8[Tensor, "n 3 100 100"]
    labels: Int[Tensor, " n"]
    source: data.Source

    def __len__(self) -> int:
        return len(self.labels)


def photographs(split: str = "train") -> Photographs:
    """The photographs in the order of their file.

    Args:
        split: "test" (every tenth), "train" (the others) or "all".

    Raises:
        FileNotFoundError: they are not on this machine.
        ValueError: unknown split, or the file is damaged.
    """
    checks.choice("split", split, ("train", "test", "all"))
    files = data.locate("sign-digits")
    if not files:
        raise FileNotFoundError(
            "the photographs of signed digits are not on this machine; set GEODESICS_DATA to a "
            "folder with sign_digits100/ in it (their origin: data/registry.toml, sign-digits)"
        )
    with np.load(files["sign_digits100_jpegs.npz"], allow_pickle=False) as file:
        jpegs = file["data"]
        offsets = file["offsets"]
        labels = file["label"]
    held_out = np.arange(len(labels)) % 10 == 0
    if split == "all":
        chosen = np.arange(len(labels))
    else:
        chosen = np.flatnonzero(held_out == (split == "test"))
    pixels = np.stack([_decode(jpegs[offsets[i] : offsets[i + 1]]) for i in chosen])
    message = f"photographs of signed digits, split {split!r}, {len(chosen):,} of them"
    return Photographs(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels[chosen]).long(),
        data.registered_source(["sign-digits"], fallback=False, message=message),
    )


def _decode(jpeg: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg.tobytes())) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return np.array(resized)


def move(pixels: Pixels, *, size: int = SIZE, **amounts: Any) -> Pictures:
    """Images turned, enlarged, mirrored and shifted; beyond the edge the picture is reflected.

    Args:
        pixels: uint8 or in [0, 1].
        size: side of the result in pixels.
        amounts: degrees, scale, mirror and shift as in `experiments.warp.warp`.
    """
    images = pixels.float()
    if pixels.dtype == torch.uint8:
        images = images / 255
    # Drawn at twice the size and averaged, so that nothing aliases.
    shape = (2 * size, 2 * size)
    large = warp(images, **amounts, shape=shape, mode="bilinear", padding_mode="reflection")
    return F.avg_pool2d(large, 2)


def augment(pixels: Pixels, generator: torch.Generator, size: int = SIZE) -> Pictures:
    """Each image by its own small turn, shift and scale, half of them mirrored.

    Args:
        pixels: uint8 or in [0, 1].
        generator: draws the movements.
        size: side of the result in pixels.
    """
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    # The order of the draws is part of the recipe of the bundled models.
    scale = uniform(math.log(SCALE[0]), math.log(SCALE[1])).exp()
    degrees = uniform(-TURN, TURN)
    shift = uniform(-SHIFT, SHIFT, 2)
    mirror = torch.rand(n, generator=generator) < 0.5
    return move(pixels, degrees=degrees, shift=shift, scale=scale, mirror=mirror, size=size)


def movement(
    images: Pixels,
    amounts: Float[Tensor, " frames"],
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    size: int = SIZE,
) -> Float[Tensor, "n frames channels size size"]:
    """Frames of a known movement: the truth for paths between its first and its last frame.

    Args:
        images: uint8 or in [0, 1].
        amounts: share of the whole movement at each frame. Negative ones go the other
            way, so that amounts from −½ to ½ put the image itself in the middle.
        degrees: of the whole movement; grows linearly.
        shift: of the whole movement, as a share of the side; grows linearly.
        scale: of the whole movement; grows as scale**amount.
        size: side of the result in pixels.
    """
    n = len(images)
    frames = len(amounts)
    share = torch.as_tensor(amounts, dtype=torch.float32).repeat(n)
    moved = move(
        images.repeat_interleave(frames, 0),
        degrees=degrees * share,
        shift=share[:, None] * torch.tensor(shift),
        scale=scale**share,
        size=size,
    )
    return moved.unflatten(0, (n, frames))


def sample(
    pipe: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 3.0,
    size: int | None = None,
    **settings: Any,
) -> Pictures:
    """One picture of each caption by the pipeline's own scheduler, the same alone and in a batch.

    Args:
        pipe: a text-to-image pipeline.
        captions: n prompts.
        seeds: n seeds; each picture has its own noise.
        steps: of the scheduler.
        guidance: of classifier-free guidance, 1 for none.
        size: side in pixels, the model's own if None.
        settings: further ones of the pipeline's call.

    Returns:
        In [0, 1], on the CPU.
    """
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    pictures = pipe(
        list(captions),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="pt",
        height=size,
        width=size,
        generator=generators,
        **settings,
    ).images
    return pictures.float().cpu()


def all_captions() -> list[str]:
    """Every caption of the training: "" (none) first, then the wordings of zero, of one, …"""
    return [""] + [wording.format(word) for word in WORDS for wording in CAPTIONS]


def draw_captions(
    labels: Int[Tensor, " n"], generator: torch.Generator, *, unconditional: float = 0.1
) -> Int[Tensor, " n"]:
    """Draw a wording for each digit.

    Args:
        labels: the digits.
        generator: draws the wordings.
        unconditional: share of the digits that get no caption.

    Returns:
        Indices into `all_captions`.
    """
    wording = torch.randint(len(CAPTIONS), (len(labels),), generator=generator)
    dropped = torch.rand(len(labels), generator=generator) < unconditional
    return torch.where(dropped, 0, 1 + labels * len(CAPTIONS) + wording)
