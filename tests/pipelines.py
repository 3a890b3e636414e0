"""Stable Diffusion 1.5 and 2.1, small and with random weights: 64×64 pixels, latents (4, 8, 8)."""

import json

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS, WIDTH = 16, 32
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
VERSIONS = ("1.5", "2.1")


def tokenizer():
    """CLIP's tokenizer with no merges: every letter is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=TOKENS
    )


def unet(version):
    """Four levels, cross-attention on three, as in both versions."""
    own = {
        "1.5": {"attention_head_dim": 2},
        "2.1": {"attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True},
    }[version]
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 32, 32),
        layers_per_block=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        **own,
    )


def pipeline(version="1.5"):
    """An untrained StableDiffusionPipeline, the same at each call; the global generator stays."""
    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            sample_size=64,
            latent_channels=4,
            block_out_channels=(4, 8, 8, 8),
            layers_per_block=2,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
                hidden_act={"1.5": "quick_gelu", "2.1": "gelu"}[version],
            )
        )
        network = unet(version)
        with torch.no_grad():  # an untrained network hardly listens to its prompt
            for name, weight in network.named_parameters():
                if "attn2.to_out" in name or "attn2.to_v" in name:
                    weight.mul_(8)
    scheduler = (
        PNDMScheduler(skip_prk_steps=True, **NOISE)
        if version == "1.5"
        else DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **NOISE)
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=words,
        unet=network.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, encoder, network):
        part.requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved(folder, version="1.5", **settings):
    """The pipeline as `save_pretrained` writes it."""
    pipeline(version).save_pretrained(folder, safe_serialization=True, **settings)
    return folder


def configure(path, **changes):
    """Change a JSON file of a saved pipeline."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
