"""What the bundled latent model "hands" is made of: photographs with captions, and untrained parts as in Stable Diffusion."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from . import data

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
TOKENS = 16  # of a prompt, its two marks among them
TURN, SHIFT, SCALE = (
    12.0,
    0.06,
    (0.92, 1.15),
)  # degrees, share of a side, size: the range of the augmentation


@dataclass(frozen=True)
class Photographs:
    """Photographs of hands signing digits. pixels: (n, 3, 100, 100) uint8; labels: (n,) int64 in 0 … 9."""

    pixels: Tensor
    labels: Tensor
    source: data.Source

    def __len__(self) -> int:
        return len(self.labels)


def photographs(split: str = "train") -> Photographs:
    """The photographs in the order of their file: "train", or "test" (every tenth), or "all".

    FileNotFoundError: they are not on this machine. ValueError: unknown split, or the file is damaged.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    found = data.locate("sign-digits")
    if not found:
        raise FileNotFoundError(
            "the photographs of signed digits are not on this machine; set GEODESICS_DATA to a folder with "
            "sign_digits100/ in it (their origin: data/registry.toml, sign-digits)"
        )
    with np.load(found["sign_digits100_jpegs.npz"], allow_pickle=False) as file:
        raw, offsets, labels = (file[name] for name in ("data", "offsets", "label"))
    tenth = np.arange(len(labels)) % 10 == 0
    keep = np.flatnonzero({"train": ~tenth, "test": tenth, "all": tenth | ~tenth}[split])
    pixels = np.stack([_decoded(raw[offsets[i] : offsets[i + 1]]) for i in keep])
    source = data._source(
        ["sign-digits"],
        False,
        f"photographs of signed digits, split {split!r}, {len(keep):,} of them",
    )
    return Photographs(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels[keep]).long(),
        source,
    )


def _decoded(raw: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(raw.tobytes())) as image:
        return np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def moved(
    pixels: Tensor,
    *,
    degrees: Tensor | float = 0.0,
    shift: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    mirror: Tensor | bool = False,
    size: int = SIZE,
) -> Tensor:
    """Pixels (n, c, h, w), uint8 or in [0, 1], turned counter-clockwise, enlarged, mirrored, shifted: (n, c, size, size).

    degrees, scale, mirror: a number or (n,); shift: a number or (n, 2), to the right and down, as a share of the side.
    float32 in [0, 1]; beyond the edge the picture is reflected. Drawn at twice the size and averaged, so nothing aliases.
    """
    n = len(pixels)
    turn = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float32).expand(n))
    flip = 1 - 2 * torch.as_tensor(mirror).float().expand(n)
    by = torch.as_tensor(shift, dtype=torch.float32).expand(n, 2)
    # output place p → input place A(p − t): the inverse of mirroring, then enlarging and turning, then shifting
    rows = [
        torch.stack([flip * turn.cos(), -flip * turn.sin()], -1),
        torch.stack([turn.sin(), turn.cos()], -1),
    ]
    inverse = (
        torch.stack(rows, 1) / torch.as_tensor(scale, dtype=torch.float32).expand(n)[:, None, None]
    )
    matrices = torch.cat([inverse, -inverse @ (2 * by[..., None])], -1)
    source = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    grid = F.affine_grid(matrices, [n, pixels.shape[1], 2 * size, 2 * size], align_corners=False)
    return F.avg_pool2d(
        F.grid_sample(source, grid, "bilinear", "reflection", align_corners=False), 2
    )


def augmented(pixels: Tensor, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Pixels (n, 3, h, w), each by its own small turn, shift and scale, half of them mirrored: (n, 3, size, size) in [0, 1]."""
    n = len(pixels)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    scale = between(*map(math.log, SCALE)).exp()
    return moved(
        pixels,
        degrees=between(-TURN, TURN),
        shift=between(-SHIFT, SHIFT, 2),
        scale=scale,
        mirror=torch.rand(n, generator=generator) < 0.5,
        size=size,
    )


def moving(
    images: Tensor,
    amount: Tensor,
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    size: int = SIZE,
) -> Tensor:
    """Each image (n, c, h, w), moved by the share `amount` (frames,) of the whole movement: (n, frames, c, size, size).

    The known truth for paths between the first and the last: degrees and shift grow linearly, scale as scale**amount. Negative
    amounts move the other way, so that amounts from −½ to ½ put the image itself in the middle. As `moved`, in [0, 1].
    """
    n, t = len(images), torch.as_tensor(amount, dtype=torch.float32).repeat(len(images))
    frames = moved(
        images.repeat_interleave(len(amount), 0),
        degrees=degrees * t,
        shift=t[:, None] * torch.tensor(shift),
        scale=scale**t,
        size=size,
    )
    return frames.unflatten(0, (n, len(amount)))


def drawn(
    pipe: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 3.0,
    size: int | None = None,
) -> Tensor:
    """One sample (n, 3, size, size) in [0, 1] of each caption by the pipeline's own scheduler, the same alone and in a batch.

    seeds: (n,), each image its own noise. guidance: of classifier-free guidance, 1 for none. size: the model's own if None.
    """
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return (
        pipe(
            list(captions),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            height=size,
            width=size,
            generator=generators,
        )
        .images.float()
        .cpu()
    )


def all_captions() -> list[str]:
    """ "" (no caption) at 0, and at 1 + label·len(CAPTIONS) + wording every wording of every digit."""
    return ["", *(wording.format(word) for word in WORDS for wording in CAPTIONS)]


def captioned(labels: Tensor, generator: torch.Generator, *, without: float = 0.1) -> Tensor:
    """Of digits (n,) the places (n,) of their captions in `all_captions`, wordings drawn; the share `without` gets none (0)."""
    wording = torch.randint(len(CAPTIONS), (len(labels),), generator=generator)
    silent = torch.rand(len(labels), generator=generator) < without
    return torch.where(silent, 0, 1 + labels * len(CAPTIONS) + wording)


def autoencoder(widths: tuple[int, ...] = (32, 64, 96), seed: int = 0) -> nn.Module:
    """An untrained AutoencoderKL, (n, 3, 64, 64) in [−1, 1] ↔ latents (n, 4, 16, 16); the global generator stays."""
    from diffusers import AutoencoderKL

    n = len(widths)
    return _seeded(
        seed,
        lambda: AutoencoderKL(
            sample_size=SIZE,
            latent_channels=4,
            block_out_channels=widths,
            layers_per_block=1,
            norm_num_groups=16,
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n,
            force_upcast=False,
        ),
    )


def tokenizer() -> Any:
    """A CLIPTokenizer whose merges make one token of every word of the captions; other words are spelt. 16 tokens at most."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = CLIPTokenizer().backend_tokenizer  # CLIP's own normalisation and cutting into words
    learner.train_from_iterator(
        all_captions(),
        trainers.BpeTrainer(
            vocab_size=10_000,
            min_frequency=1,
            special_tokens=[],
            initial_alphabet=letters,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *dict.fromkeys(a + b for a, b in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]  # CLIP's order
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=TOKENS
    )


def text_encoder(words: Any, *, width: int = 128, layers: int = 2, seed: int = 0) -> nn.Module:
    """An untrained CLIPTextModel for the tokenizer `words`: ids (n, 16) → last_hidden_state (n, 16, width)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return _seeded(seed, lambda: CLIPTextModel(config))


def unet(
    widths: tuple[int, int, int] = (64, 128, 192), *, text: int = 128, seed: int = 0
) -> nn.Module:
    """An untrained UNet2DConditionModel for latents (n, 4, 16, 16) and text (n, 16, text), with attention at 8×8 and 4×4."""
    from diffusers import UNet2DConditionModel

    return _seeded(
        seed,
        lambda: UNet2DConditionModel(
            sample_size=SIZE // 4,
            in_channels=4,
            out_channels=4,
            block_out_channels=widths,
            layers_per_block=1,
            norm_num_groups=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=text,
            attention_head_dim=4,
        ),
    )  # four heads: diffusers keeps this name for their number


def noise_schedule() -> Any:
    """Stable Diffusion 1.5's noise levels, 2.1's target v = √ᾱ·noise − √(1−ᾱ)·latent (Salimans & Ho 2022): a DDIMScheduler."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def pipeline(
    vae: nn.Module, network: nn.Module, encoder: nn.Module, words: Any, scheduler: Any
) -> Any:
    """The parts as a StableDiffusionPipeline, without safety checker: it knows nothing but hands."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _seeded(seed: int, make: Any) -> Any:
    with torch.random.fork_rng(
        devices=[]
    ):  # layers draw their first weights from the global generator
        torch.default_generator.manual_seed(seed)
        return make()
