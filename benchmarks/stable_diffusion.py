"""Stable Diffusion as its makers configured it, with random weights: true size, or narrower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

# The models' own unet/, vae/, text_encoder/ and scheduler/ configurations, as the mirrors named in
# the README keep them.
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
TEXT = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
FIRST = {
    "unet": UNET
    | {"attention_head_dim": 8, "cross_attention_dim": 768, "use_linear_projection": False},
    "vae": VAE,
    "text_encoder": TEXT
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "hidden_act": "quick_gelu",
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "scheduler": (PNDMScheduler, NOISE | {"skip_prk_steps": True}),
    "pad_token": "<|endoftext|>",
}
SECOND = {
    "unet": UNET
    | {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "vae": VAE | {"sample_size": 768},
    "text_encoder": TEXT
    | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "hidden_act": "gelu",
        "num_attention_heads": 16,
        "projection_dim": 512,
    },
    "scheduler": FIRST["scheduler"],
    "pad_token": "!",
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "1.5": FIRST,
    "2.1-base": SECOND,
    "2.1": SECOND
    | {
        "unet": SECOND["unet"] | {"sample_size": 96, "upcast_attention": True},
        "scheduler": (
            DDIMScheduler,
            NOISE | {"prediction_type": "v_prediction", "clip_sample": False},
        ),
    },
}
# The network and the autoencoder of two larger models; their text encoders are left out.
LARGE: dict[str, dict[str, Any]] = {
    "xl": {
        "unet": {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "center_input_sample": False,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "downsample_padding": 1,
            "mid_block_scale_factor": 1,
            "act_fn": "silu",
            "norm_num_groups": 32,
            "norm_eps": 1e-5,
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "scheduler": (
            EulerDiscreteScheduler,
            {
                "num_train_timesteps": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "steps_offset": 1,
                "timestep_spacing": "leading",
            },
        ),
    },
    "3-medium": {
        "transformer": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        "vae": VAE
        | {
            "sample_size": 1024,
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "force_upcast": True,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "scheduler": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    },
}
WIDTHS = (
    "block_out_channels",
    "norm_num_groups",
    "cross_attention_dim",
    "sample_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "vocab_size",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "caption_projection_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
)


def configuration(version: str, part: str, narrow: int = 1) -> dict[str, Any]:
    """The configuration of one network.

    Args:
        version: a name of CONFIGURATIONS or LARGE.
        part: "unet", "vae" or "text_encoder"; "unet" or "transformer" and "vae" of LARGE.
        narrow: divides widths and sizes (WIDTHS). Layers, blocks and numbers of heads stay, so it
            must divide every width: 1, 2, 4 or 8.
    """
    # A U-Net calls its number of heads so.
    widths = (*WIDTHS, "attention_head_dim") if part == "transformer" else WIDTHS

    def divided(value: int | list[int]) -> int | list[int]:
        return [v // narrow for v in value] if isinstance(value, list) else value // narrow

    return {
        key: divided(value) if key in widths else value
        for key, value in (CONFIGURATIONS | LARGE)[version][part].items()
    }


def tokenizer(length: int = 77, **settings: str) -> CLIPTokenizer:
    """CLIP's tokenizer with no merges, so that every letter is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        model_max_length=length,
        **settings,
    )


def parts(version: str, narrow: int = 1) -> dict[str, torch.nn.Module]:
    """U-Net, VAE and text encoder with fresh weights, on torch's default device."""
    made = {
        "unet": UNet2DConditionModel(**configuration(version, "unet", narrow)),
        "vae": AutoencoderKL(**configuration(version, "vae", narrow)),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(**configuration(version, "text_encoder", narrow))
        ),
    }
    return {name: part.eval().requires_grad_(False) for name, part in made.items()}


def pipeline(version: str, narrow: int = 1) -> StableDiffusionPipeline:
    """An untrained pipeline in float32 on the CPU, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = parts(version, narrow)
    kind, noise = CONFIGURATIONS[version]["scheduler"]
    pipe = StableDiffusionPipeline(
        **made,
        tokenizer=tokenizer(pad_token=CONFIGURATIONS[version]["pad_token"]),
        scheduler=kind(**noise),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def large_parts(version: str, narrow: int = 1) -> dict[str, torch.nn.Module]:
    """The network of a version of LARGE and its VAE, fresh weights in torch's default dtype."""
    name = "unet" if version == "xl" else "transformer"
    network = UNet2DConditionModel if version == "xl" else SD3Transformer2DModel
    made = {
        name: network(**configuration(version, name, narrow)),
        "vae": AutoencoderKL(**configuration(version, "vae", narrow)),
    }
    return {name: part.eval().requires_grad_(False) for name, part in made.items()}


def large_pipeline(
    version: str, narrow: int = 1, dtype: torch.dtype = torch.bfloat16
) -> DiffusionPipeline:
    """A version of LARGE without text encoders, on the CPU, the same at each call.

    Its weights are made in their precision: a copy in another would take twice their memory.
    """
    with torch.random.fork_rng(devices=[]), default_dtype(dtype):
        torch.manual_seed(0)
        made = large_parts(version, narrow)
    kind, noise = LARGE[version]["scheduler"]
    absent = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"]
    pipeline_class = StableDiffusionXLPipeline
    if version == "3-medium":
        absent += ["text_encoder_3", "tokenizer_3"]
        pipeline_class = StableDiffusion3Pipeline
    return pipeline_class(**made, scheduler=kind(**noise), **dict.fromkeys(absent))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Weights that are made inside have this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
