"""The untrained networks of the bundled models, each with the first weights of a seed."""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..hands import SIZE, all_captions

TOKENS = 16  # of a prompt, its two marks among them
NO_CLASS = 10  # beside the digits 0 … 9


def seeded(seed: int, network: Callable[..., nn.Module], *arguments: Any, **settings: Any) -> Any:
    """A network whose first weights are those of a seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return network(*arguments, **settings)


def rotated_mnist_network(seed: int = 0) -> tuple[nn.Module, Any]:
    """A class-conditional UNet2DModel, (1, 28, 28), and its EDM scheduler (Karras et al. 2022)."""
    from diffusers import EDMEulerScheduler, UNet2DModel

    model = seeded(
        seed,
        UNet2DModel,
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(24, 48, 96),
        norm_num_groups=8,
        num_class_embeds=NO_CLASS + 1,
        attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    # Written to config.json, where DenoiserScore looks for it.
    model.register_to_config(_no_class=NO_CLASS)
    return model, EDMEulerScheduler(sigma_min=0.02, sigma_max=40.0, sigma_data=0.6)


def autoencoder(widths: tuple[int, ...] = (32, 64, 96), seed: int = 0) -> nn.Module:
    """An untrained AutoencoderKL, images (n, 3, 64, 64) in [−1, 1] to latents (n, 4, 16, 16)."""
    from diffusers import AutoencoderKL

    return seeded(
        seed,
        AutoencoderKL,
        sample_size=SIZE,
        latent_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        force_upcast=False,
    )


def tokenizer() -> Any:
    """A CLIPTokenizer that makes one token of every word of the captions; other words are spelt."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_letters = [f"{letter}</w>" for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        # Else last letters get random numbers, which break ties between merges.
        special_tokens=last_letters,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # CLIP's own normalisation and cutting into words.
    learner = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(all_captions(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # CLIP's order: letters, letters that end a word, merges, the two marks.
    tokens = letters + last_letters
    tokens += dict.fromkeys(first + second for first, second in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def text_encoder(tokens: Any, *, width: int = 128, layers: int = 2, seed: int = 0) -> nn.Module:
    """An untrained CLIPTextModel, ids (n, 16) to last_hidden_state (n, 16, width)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return seeded(seed, CLIPTextModel, config)


def unet(
    widths: tuple[int, int, int] = (64, 128, 192), *, text: int = 128, seed: int = 0
) -> nn.Module:
    """An untrained UNet2DConditionModel for latents (n, 4, 16, 16) and text (n, 16, text).

    Attention at 8×8 and 4×4.
    """
    from diffusers import UNet2DConditionModel

    return seeded(
        seed,
        UNet2DConditionModel,
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text,
        # Four heads: diffusers keeps this name for their number.
        attention_head_dim=4,
    )


def noise_schedule() -> Any:
    """A DDIMScheduler with the noise levels of Stable Diffusion 1.5 and the target of 2.1.

    That is v = √ᾱ·noise − √(1−ᾱ)·latent (Salimans & Ho 2022).
    """
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
    vae: nn.Module, network: nn.Module, encoder: nn.Module, tokens: Any, scheduler: Any
) -> Any:
    """The parts as a StableDiffusionPipeline without safety checker: it knows hands alone."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokens,
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def flow_transformer(
    heads: int = 3, layers: int = 5, *, text: int = 256, seed: int = 0
) -> nn.Module:
    """An untrained SD3Transformer2DModel for latents (n, 4, 16, 16), text (n, tokens, text).

    64 patches of 2×2; 64 · heads channels. At first each block is the identity and the output zero
    (adaLN-Zero, Peebles & Xie 2023), from which it learns much faster than from random gates.
    """
    from diffusers import SD3Transformer2DModel

    model = seeded(
        seed,
        SD3Transformer2DModel,
        sample_size=SIZE // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=64,
        caption_projection_dim=64 * heads,
        joint_attention_dim=text,
        pooled_projection_dim=text,
        pos_embed_max_size=SIZE // 8,
        qk_norm="rms_norm",
    )
    zero = [model.proj_out, model.norm_out.linear]
    for block in model.transformer_blocks:
        zero += [block.norm1.linear, block.norm1_context.linear]
    for linear in zero:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    # Written to config.json. The pipeline's own default would put 256 zeros behind each prompt, in
    # place of the T5 encoder that this model has not: three quarters of all its tokens.
    model.register_to_config(_max_sequence_length=0)
    return model


def flow_schedule() -> Any:
    """A FlowMatchEulerDiscreteScheduler: x_t = (1 − t)·latent + t·noise, v = noise − latent."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def with_projection(encoder: nn.Module) -> nn.Module:
    """A CLIPTextModel as CLIPTextModelWithProjection, whose projection is the identity."""
    from transformers import CLIPTextModelWithProjection

    projected = seeded(0, CLIPTextModelWithProjection, encoder.config)
    projected.text_model.load_state_dict(encoder.state_dict())
    nn.init.eye_(projected.text_projection.weight)
    return projected.eval().requires_grad_(False)


def flow_pipeline(
    vae: nn.Module, transformer: nn.Module, encoder: nn.Module, tokens: Any, scheduler: Any
) -> Any:
    """The parts as a StableDiffusion3Pipeline without T5.

    That pipeline wants two CLIP encoders: the one that there is serves as both.
    """
    from diffusers import StableDiffusion3Pipeline

    # Added to decoded latents; none is no number to it.
    vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
        text_encoder=encoder,
        tokenizer=tokens,
        text_encoder_2=encoder,
        tokenizer_2=tokens,
        text_encoder_3=None,
        tokenizer_3=None,
    )
