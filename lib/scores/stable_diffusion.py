"""Names that have moved: `PipelineScore` serves every family now."""

from torch import nn

from .pipeline import PipelineScore, Prompt, in_words

StableDiffusionScore = PipelineScore

__all__ = ["Prompt", "StableDiffusionScore", "in_words", "vae_factor"]


def vae_factor(vae: nn.Module) -> int:
    """Pixels a side of one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
