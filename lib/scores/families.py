"""The families of pipelines that a score is read from: what each is told, and in which layout.

A family is a class of some ten lines: the names of its pipelines and of its network, how the text
is read and how the network is asked. `PipelineScore` does the rest. How to add one stands in
CONTRIBUTING.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .schedule import NoiseSchedule

# What a network is told of k prompts: its arguments by name, (k, …) each.
Text = dict[str, Tensor]

# Added to an attention's logits where a token is left out, as the networks themselves do it.
LEFT_OUT = -10000.0


class Family:
    """One family of pipelines, bound to a loaded one. The defaults are those of most families.

    A point is what the autoencoder makes of one image, scaled as the network wants it, (channels,
    height, width); a network that takes it in another layout gets it so in `ask`.

    Args:
        pipe: the loaded pipeline.

    Attributes:
        name: for messages.
        pipelines: class names in diffusers.
        network: the pipeline's part that is asked.
        schedules: kinds of `NoiseSchedule` that it was trained with.
        text: the network's arguments that come from the text, and for each the setting of its
            config.json that is their width; None where there is no such.
        tokenizer: the part that counts tokens, and the limit, None for the tokenizer's own.
        time_embedding: the network's module that embeds the time, where the network would round the
            time to half precision before; else None.
        overflows_in_half: whether its autoencoder is known to overflow in float16.
        has_words: whether a prompt is a text; else it is a class.
    """

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    network: ClassVar[str] = "transformer"
    schedules: ClassVar[tuple[str, ...]] = ("flow",)
    text: ClassVar[dict[str, str | None]]
    tokenizer: ClassVar[tuple[str, int | None]] = ("tokenizer", None)
    time_embedding: ClassVar[str | None] = None
    overflows_in_half: ClassVar[bool] = False
    has_words: ClassVar[bool] = True

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.config = getattr(pipe, self.network).config

    # What a family has to say itself

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        """What the network is told of these prompts, by the pipeline's own `encode_prompt`."""
        raise NotImplementedError

    def ask(
        self,
        network: nn.Module,
        z: Float[Tensor, "n c h w"],
        time: Float[Tensor, "n"],
        text: Text,
    ) -> Float[Tensor, "n c_out h w"]:
        """The network's answer at its inputs z, in their layout.

        Args:
            network: the part `network`, or a copy of it in another precision.
            z: points, noised and scaled.
            time: of `NoiseSchedule.timestep`.
            text: of `read`, a row a point.
        """
        return network(z, timestep=time, **text).sample

    def refusal(self) -> str | None:
        """Why this pipeline has no score and what to take instead, or None."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """What else a result file should say of how the network is asked."""
        return {}

    # Layout

    @property
    def channels(self) -> int:
        """Channels of a point."""
        return self.pipe.vae.config.latent_channels

    @property
    def network_channels(self) -> int:
        """Channels that the network must read."""
        return self.channels

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of a point."""
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    @property
    def patch(self) -> int:
        """Cells a side that the network takes together."""
        return self.config.get("patch_size") or 1

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of a point at the model's own size."""
        size = self.config.get("sample_size")
        if size is None:
            return None
        return tuple(size) if isinstance(size, Sequence) else (size, size)

    def width(self, argument: str) -> int | None:
        """The last axis of what the network is told in this argument."""
        setting = self.text[argument]
        return None if setting is None else self.config[setting]

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt, and how many the model reads."""
        part, limit = self.tokenizer
        tokenizer = getattr(self.pipe, part)
        count = len(tokenizer(prompt, verbose=False).input_ids)
        return count, limit or tokenizer.model_max_length

    # Pixels ↔ points

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """What the autoencoder makes of pixels in [−1, 1]: the mean of its posterior."""
        return vae.encode(pixels).latent_dist.mean

    def normalise(self, z: Tensor) -> Tensor:
        """The autoencoder's latents as the network wants them."""
        shift, scale = self._affine(z)
        return (z - shift) * scale

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        shift, scale = self._affine(z)
        return z / scale + shift

    def _affine(self, z: Tensor) -> tuple[float | Tensor, float | Tensor]:
        config = self.pipe.vae.config
        mean = config.get("latents_mean")
        std = config.get("latents_std")
        if mean is None or std is None:
            return config.get("shift_factor") or 0.0, config.scaling_factor
        mean, std = (torch.tensor(values).to(z).reshape(-1, 1, 1) for values in (mean, std))
        return mean, config.scaling_factor / std

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes; with offloading its weights are elsewhere."""
        return self.pipe._execution_device


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x (Rombach et al., CVPR 2022)."""

    name = "Stable Diffusion"
    pipelines = ("StableDiffusionPipeline",)
    network = "unet"
    schedules = ("discrete",)
    text: ClassVar = {"encoder_hidden_states": "cross_attention_dim"}

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        return {"encoder_hidden_states": self.pipe.encode_prompt(prompts, self.device, 1, False)[0]}

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        return network(z, time, **text).sample

    def refusal(self) -> str | None:
        kind = self.config.get("addition_embed_type")
        return None if kind is None else f"this U-Net wants more than text ({kind})"


class StableDiffusionXL(Family):
    """SDXL (arXiv 2307.01952). It is told the size of the image, uncropped."""

    name = "Stable Diffusion XL"
    pipelines = ("StableDiffusionXLPipeline",)
    network = "unet"
    # Playground v2.5 is one with EDM's schedule.
    schedules = ("discrete", "edm")
    text: ClassVar = {"encoder_hidden_states": "cross_attention_dim", "text_embeds": None}
    tokenizer = ("tokenizer_2", None)
    overflows_in_half = True

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        if negative and prompts == [""] and self.pipe.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    def width(self, argument: str) -> int | None:
        if argument == "text_embeds":
            # The six sizes are embedded beside it.
            config = self.config
            total = config.projection_class_embeddings_input_dim
            return total - 6 * config.addition_time_embed_dim
        return super().width(argument)

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        height, width = (self.factor * side for side in z.shape[-2:])
        # Original size, the upper left corner of the cut, target size.
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(z).expand(len(z), -1)
        added = {"text_embeds": text["text_embeds"], "time_ids": sizes}
        states = text["encoder_hidden_states"]
        return network(z, time, encoder_hidden_states=states, added_cond_kwargs=added).sample

    def refusal(self) -> str | None:
        kind = self.config.get("addition_embed_type")
        if kind == "text_time":
            return None
        return f"this U-Net is told something else beside its text (addition_embed_type {kind!r})"


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5 (Esser et al., arXiv 2403.03206): a rectified flow."""

    name = "Stable Diffusion 3"
    pipelines = ("StableDiffusion3Pipeline",)
    text: ClassVar = {
        "encoder_hidden_states": "joint_attention_dim",
        "pooled_projections": "pooled_projection_dim",
    }

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            # Zeros stand for T5's tokens where it is left out; a small model may do without them.
            max_sequence_length=self.config.get("_max_sequence_length", 256),
        )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        # T5 reads on where the two CLIPs stop; it may be left out.
        if self.pipe.text_encoder_3 is None:
            return super().count_tokens(prompt)
        return len(self.pipe.tokenizer_3(prompt, verbose=False).input_ids), 256


class Flux(Family):
    """FLUX.1-dev (Black Forest Labs 2024): tokens of 2×2 cells, its guidance distilled."""

    name = "FLUX.1"
    pipelines = ("FluxPipeline",)
    text: ClassVar = {
        "encoder_hidden_states": "joint_attention_dim",
        "pooled_projections": "pooled_projection_dim",
    }
    tokenizer = ("tokenizer_2", 512)
    patch = 2
    sides = (128, 128)
    time_embedding = "time_text_embed.time_proj"

    @property
    def network_channels(self) -> int:
        return 4 * self.channels

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        states, pooled, _ = self.pipe.encode_prompt(prompts, device=self.device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        n, channels, height, width = z.shape
        rows, columns = height // 2, width // 2
        cells = z.reshape(n, channels, rows, 2, columns, 2)
        tokens = cells.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, 4 * channels)
        guided = self.config.guidance_embeds
        answer = network(
            hidden_states=tokens,
            timestep=time / 1000,
            guidance=torch.ones_like(time) if guided else None,
            txt_ids=z.new_zeros(text["encoder_hidden_states"].shape[1], 3),
            img_ids=places(1, rows, columns).to(z),
            **text,
        ).sample
        cells = answer.reshape(n, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return cells.reshape(n, channels, height, width)

    def refusal(self) -> str | None:
        # The one that was distilled into four steps is told no guidance, and its steps are not
        # shifted with the size of the image.
        dynamic = self.pipe.scheduler.config.get("use_dynamic_shifting")
        if self.config.guidance_embeds or dynamic:
            return None
        return "FLUX.1-schnell is distilled into four steps and has no score; take FLUX.1-dev"

    @property
    def settings(self) -> dict[str, Any]:
        if not self.config.guidance_embeds:
            return {}
        return {
            "embedded_guidance": "1.0: this network was distilled from guided ones, and what it "
            "answers at guidance 1 is the nearest it has to the score without guidance"
        }


class Flux2Klein(Family):
    """FLUX.2-klein, undistilled (Black Forest Labs 2026).

    2×2 cells of the autoencoder's 32 channels make one cell of a point's 128, each channel scaled
    by the autoencoder's own statistics.
    """

    name = "FLUX.2-klein"
    pipelines = ("Flux2KleinPipeline",)
    text: ClassVar = {"encoder_hidden_states": "joint_attention_dim"}
    patch = 1
    sides = (64, 64)
    time_embedding = "time_guidance_embed.time_proj"

    @property
    def channels(self) -> int:
        return 4 * super().channels

    @property
    def factor(self) -> int:
        return 2 * super().factor

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        states, _ = self.pipe.encode_prompt(prompts, device=self.device)
        return {"encoder_hidden_states": states}

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        states = text["encoder_hidden_states"]
        n, _, height, width = z.shape
        # Frame, row, column, number of the text's token.
        image = nn.functional.pad(places(1, height, width), (0, 1)).to(z).expand(n, -1, -1)
        words = nn.functional.pad(torch.arange(states.shape[1])[:, None], (3, 0))
        answer = network(
            hidden_states=z.flatten(2).mT,
            timestep=time / 1000,
            encoder_hidden_states=states,
            txt_ids=words.to(z).expand(n, -1, -1),
            img_ids=image,
        ).sample
        return answer.mT.reshape(n, -1, height, width)

    def refusal(self) -> str | None:
        if self.pipe.config.get("is_distilled"):
            return (
                "this FLUX.2-klein is distilled into four steps (is_distilled) and has no score; "
                "take its undistilled base"
            )
        if self.config.get("guidance_embeds"):
            return "this transformer is told a guidance, which FLUX.2-klein is not"
        return None

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        tokenizer = self.pipe.tokenizer
        message = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return len(tokenizer(asked, verbose=False).input_ids), 512

    def normalise(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (nn.functional.pixel_unshuffle(z, 2) - mean) / std

    def denormalise(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return nn.functional.pixel_shuffle(z * std + mean, 2)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.pipe.vae.bn
        variance = norm.running_var.to(z) + self.pipe.vae.config.batch_norm_eps
        return norm.running_mean.to(z).reshape(-1, 1, 1), variance.sqrt().reshape(-1, 1, 1)


class Sana(Family):
    """Sana (arXiv 2410.10629): a rectified flow on cells of 32×32 pixels."""

    name = "Sana"
    pipelines = ("SanaPipeline",)
    text: ClassVar = {"encoder_hidden_states": "caption_channels", "encoder_attention_mask": None}
    tokenizer = ("tokenizer", 300)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.pipe.vae.config.encoder_block_out_channels) - 1)

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        # The instruction that the pipeline puts before each prompt, and before no negative one.
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        instruction = None if negative else parameters["complex_human_instruction"].default
        states, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            complex_human_instruction=instruction,
        )
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask.to(states)}

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        scale = self.config.get("timestep_scale", 1.0)
        return network(
            z,
            timestep=scale * time,
            encoder_hidden_states=text["encoder_hidden_states"],
            encoder_attention_mask=as_bias(text["encoder_attention_mask"]),
        ).sample

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        return vae.encode(pixels).latent

    def refusal(self) -> str | None:
        if not self.config.get("guidance_embeds"):
            return None
        return "Sana-Sprint is distilled into one to four steps and has no score; take Sana"


class PixArt(Family):
    """PixArt-α and PixArt-Σ (arXiv 2310.00426, 2403.04692)."""

    name = "PixArt"
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    schedules = ("discrete",)
    text: ClassVar = {"encoder_hidden_states": "caption_channels", "encoder_attention_mask": None}

    def read(self, prompts: list[str], *, negative: bool = False) -> Text:
        states, mask, _, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device
        )
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask.to(states)}

    def ask(self, network: nn.Module, z: Tensor, time: Tensor, text: Text) -> Tensor:
        sizes = {"resolution": None, "aspect_ratio": None}
        if getattr(network, "use_additional_conditions", False):
            height, width = (float(self.factor * side) for side in z.shape[-2:])
            sizes = {
                "resolution": z.new_tensor([height, width]).expand(len(z), -1),
                "aspect_ratio": z.new_tensor([height / width]).expand(len(z), -1),
            }
        return network(
            z,
            timestep=time,
            encoder_hidden_states=text["encoder_hidden_states"],
            encoder_attention_mask=as_bias(text["encoder_attention_mask"]),
            added_cond_kwargs=sizes,
        ).sample

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        limit = inspect.signature(self.pipe.encode_prompt).parameters["max_sequence_length"].default
        return len(self.pipe.tokenizer(prompt, verbose=False).input_ids), limit


class DiT(Family):
    """DiT (Peebles & Xie, arXiv 2212.09748): the prompt is a class, by its number or name."""

    name = "DiT"
    pipelines = ("DiTPipeline",)
    schedules = ("discrete",)
    text: ClassVar = {"class_labels": None}
    has_words = False

    def read(self, prompts: list[str | int], *, negative: bool = False) -> Text:
        return {"class_labels": torch.tensor([self._label(prompt) for prompt in prompts])}

    def _label(self, prompt: str | int) -> int:
        no_class = self.config.num_embeds_ada_norm
        if prompt == "":
            return no_class
        label = self.pipe.labels.get(prompt, prompt) if isinstance(prompt, str) else prompt
        if isinstance(label, int) and 0 <= label <= no_class:
            return label
        raise ValueError(
            f"a DiT is told a class: a number in 0..{no_class - 1} or a name in pipe.labels, ''"
            f" for no class, got {prompt!r}"
        )


# In the order in which they are looked for.
FAMILIES: list[type[Family]] = [
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    Flux2Klein,
    Sana,
    PixArt,
    DiT,
]

# Words in the name of a pipeline that has no score here, why, and what to take instead.
REFUSED = {
    "LatentConsistency": "a consistency model jumps to the data; take the model it comes from",
    "Sprint": "it is distilled into one to four steps; take SanaPipeline",
    "Inpaint": "it is told an image with a hole beside the text; take its text-to-image pipeline",
    "Fill": "it is told an image with a hole beside the text; take its text-to-image pipeline",
    "Control": "it is told another image beside the text; take its text-to-image pipeline",
    "Pix2Pix": "it is told another image beside the text; take its text-to-image pipeline",
    "Depth": "it is told another image beside the text; take its text-to-image pipeline",
    "Upscale": "it is told another image beside the text; take a text-to-image pipeline",
    "Img2Img": "the same parts, as diffusers.AutoPipelineForText2Image.from_pipe(pipe), have one",
    "QwenImage": "missing here: the frame axis of its autoencoder and the mask of its text",
    "Wan": "missing here: the time axis of a video and the choice between its two networks",
    "Lumina": "missing here: time that runs from noise to data, and the sign of its answer",
    "ZImage": "missing here: time that runs from noise to data, and inputs that are lists",
    "Kolors": "missing here: the text of its ChatGLM",
}

# Words of the names that distilled models go by; nothing else tells SDXL-Turbo from SDXL.
DISTILLED = ("turbo", "schnell", "lightning", "lcm", "tcd", "sprint", "hyper", "distilled")


def family_of(pipeline: str) -> type[Family]:
    """The family of a pipeline by the name of its class.

    Raises:
        ValueError: a pipeline that has no score here, with the reason and what to take instead.
    """
    for family in FAMILIES:
        if pipeline in family.pipelines:
            return family
    for word, reason in REFUSED.items():
        if word in pipeline:
            raise ValueError(f"{pipeline} has no score here: {reason}")
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(
        f"{pipeline} is of no family that is known here ({known}); a family is a class of some ten "
        "lines (CONTRIBUTING.md), and a network that is called with points and times alone is "
        "DenoiserScore(network, scheduler)"
    )


def check_name(name: str) -> None:
    """Raise ValueError for a name that distilled models go by.

    Args:
        name: of a folder or of a model on the hub, of which the last part counts.
    """
    words = re.split("[^a-z]+", name.lower().rpartition("/")[2])
    distilled = [word for word in DISTILLED if word in words]
    if distilled:
        raise ValueError(
            f"{name}: a model of that name ({distilled[0]}) is distilled into a few steps. It "
            "jumps to the data instead of answering with a posterior mean, and so has no score; "
            "take the model it was distilled from, or rename the folder if this is none"
        )


def check_family(family: Family, schedule: NoiseSchedule) -> None:
    """Raise for a pipeline whose parts do not make a score.

    Raises:
        TypeError: a scheduler of another kind than the network was trained with.
        ValueError: a distilled model, or parts that belong to different models.
    """
    reason = family.refusal()
    if reason is not None:
        raise ValueError(reason)
    check_schedule(type(family), family.pipe.scheduler, schedule)
    channels = family.config.in_channels
    if channels != family.network_channels:
        raise ValueError(
            f"this {family.network} reads {channels} channels, and its autoencoder makes "
            f"{family.network_channels}: a text-to-image model is wanted here, none for inpainting "
            "or depth, and both parts from one model"
        )


def check_schedule(family: type[Family], scheduler: Any, schedule: NoiseSchedule) -> None:
    """Raise TypeError for a scheduler of another kind than the family was trained with."""
    if schedule.kind not in family.schedules:
        raise TypeError(
            f"{family.name} was trained with a schedule of kind {' or '.join(family.schedules)}, "
            f"and this {type(scheduler).__name__} is of kind {schedule.kind}: the scores would be "
            "wrong; give the scheduler that the model came with"
        )


def places(*sizes: int) -> Int[Tensor, "cells axes"]:
    """The place of each cell of a grid, row by row."""
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))


def as_bias(mask: Float[Tensor, "n tokens"]) -> Float[Tensor, "n 1 tokens"]:
    """What a mask adds to the logits of an attention.

    Its logarithm, so that a token that fades along a path, from 1 to 0, has its weight times that.
    """
    return mask.log().clamp(min=LEFT_OUT)[:, None]
