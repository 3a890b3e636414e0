"""Loading a Stable Diffusion: a folder in the StableDiffusionPipeline layout, or a model hub's id; safetensors only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from .. import checks
from .loading import (
    _fit_network,
    _folder,
    _json,
    _kind,
    _known,
    _model,
    _part,
    _scheduler,
    _short,
    _snapshot,
    _stem,
    _weights,
)
from .stable_diffusion import StableDiffusionScore

PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
SETTINGS = (
    "prompt",
    "end_prompt",
    "negative",
    "guidance",
    "sigma",
    "size",
    "micro_batch",
    "truncate",
    "attention_slicing",
    "vae_tiling",
)


def load_stable_diffusion(
    name: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention_slicing: bool = False,
    vae_tiling: bool = False,
    **settings: Any,
) -> StableDiffusionScore:
    """The score of a Stable Diffusion 1.x or 2.x: "hands", a folder as `StableDiffusionPipeline` writes it, or a hub id.

    revision, variant, dtype, device, `origin` of the result: as for `lib.scores.load`; safetensors only, weights in float32
    unless dtype says otherwise. attention_slicing, vae_tiling: less memory for more time. settings: of `StableDiffusionScore`.
    Raises as `lib.scores.load`; ValueError for another layout (SDXL, SD 3, inpainting).
    """
    device, dtype = checks.device("cpu" if device is None else device), dtype or torch.float32
    _known("a Stable Diffusion", settings, SETTINGS)
    folder, origin = _folder(str(name), revision)
    scheduler = _fit_pipeline(folder)
    if origin["revision"]:
        _snapshot(origin["name"], origin["revision"], weight_patterns(variant))
    files = [
        path
        for part, stem in PARTS.items()
        for path in (folder / part / "config.json", *_weights(folder / part, variant, stem))
    ]
    parts = _parts(folder, variant, dtype)
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        **parts,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(device)
    pipe.set_progress_bar_config(disable=True)
    if attention_slicing:
        pipe.enable_attention_slicing("max")
    if vae_tiling:
        pipe.vae.enable_tiling()
    score = StableDiffusionScore(pipe, **settings)
    files += [
        folder / "scheduler" / "scheduler_config.json",
        *sorted(path for path in (folder / "tokenizer").iterdir()),
    ]
    score.origin = origin | {
        "sha256": {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    }
    return score


def weight_patterns(variant: str | None) -> list[str]:
    """What the hub is asked for: weights in one file or in shards, whose index names the variant at its end."""
    return [
        f"{part}/{name}"
        for part, stem in PARTS.items()
        for name in (
            f"{_stem(variant, stem)}.safetensors",
            f"{_stem(variant, stem)}-*.safetensors",
            f"{stem}*.index*.json",
        )
    ]


def _fit_pipeline(folder: Path) -> Any:
    """The scheduler, once the configuration says that this is a Stable Diffusion 1.x or 2.x."""
    kind = _kind(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder.name} holds no model_index.json: name a folder that StableDiffusionPipeline."
            "save_pretrained wrote, with unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
        )
    foreign = ("XL", "3", "Inpaint", "Upscale", "Depth", "Control")
    if not kind.startswith("StableDiffusion") or any(word in kind for word in foreign):
        raise ValueError(
            f"{folder.name} is a {kind}; a StableDiffusionPipeline (Stable Diffusion 1.x or 2.x) is wanted here"
        )
    place = _part(folder, "scheduler", "scheduler_config.json")
    for part, want in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        found = _json(_part(folder, part, "config.json") / "config.json").get("_class_name")
        if found != want:
            raise ValueError(f"{part} of {folder.name} is a {found}, not a {want}")
    _part(folder, "text_encoder", "config.json")
    if not (folder / "tokenizer").is_dir():
        raise FileNotFoundError(
            f"{folder.name} holds no tokenizer/; copy it from the model's source"
        )
    return _fit_network(_json(folder / "unet" / "config.json"), _scheduler(place))


def _parts(folder: Path, variant: str | None, dtype: torch.dtype) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        words = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (
        Exception
    ) as error:  # tokenizers, transformers and json each say by another class what is wrong
        raise ValueError(
            f"the tokenizer of {folder.name} is damaged: {_short(error)}; copy it again"
        ) from error
    return {
        "unet": _model(folder / "unet", variant, UNet2DConditionModel, torch_dtype=dtype),
        "tokenizer": words,
        "vae": _model(folder / "vae", variant, AutoencoderKL, torch_dtype=dtype),
        "text_encoder": _model(folder / "text_encoder", variant, CLIPTextModel, dtype=dtype),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
