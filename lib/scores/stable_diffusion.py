"""The score of a latent text-to-image model in the StableDiffusionPipeline layout: prompt and guidance."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from .denoiser import DenoiserScore
from .loading import _short
from .schedule import double_levels

Prompt = str | Sequence[str] | Tensor


class Careful:
    """A network that is asked again in float32, and stays there, once half precision answers with NaN or infinity.

    Memory that runs out becomes a MemoryError that says what to do. The network given is never changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, ask: Callable[[nn.Module, torch.dtype, torch.device], Tensor]) -> Tensor:
        """ask(module, dtype, device): what the module answers to inputs brought there."""
        try:
            weight = next(self.module.parameters())
            out = ask(self.module, weight.dtype, weight.device)
            if weight.dtype.itemsize < 4 and not bool(torch.isfinite(out).all()):
                warnings.warn(
                    f"{type(self.module).__name__} answered with NaN or infinity in {weight.dtype}; it goes on in "
                    "float32 (load with dtype=torch.float32 to begin there)",
                    stacklevel=2,
                )
                self.module = copy.deepcopy(self.module).float()
                out = ask(self.module, torch.float32, weight.device)
            return out
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(
                error
            ):
                raise MemoryError(
                    f"not enough memory for {type(self.module).__name__} ({_short(error)}); use a smaller "
                    "micro_batch=, dtype=torch.float16 or bfloat16, attention_slicing=True, vae_tiling=True, or "
                    "smaller images (size=)"
                ) from error
            raise


class StableDiffusionScore(DenoiserScore):
    """s(x) = (D(x) − x)/sigma² on latents x (n, 4, h, w), scaled by the VAE's scaling_factor, sigma in the same units.

        D = D_negative + guidance·(D_prompt − D_negative)        (Ho & Salimans 2021; one network call a point if guidance = 1)

    prompt: a text, or one a pair, or embeddings (1 or pairs, tokens, width) from `embed` or `latents.text_inversion`.
    end_prompt: the same for the paths' end points; the embedding then goes linearly from one to the other along each path
    (arXiv 2504.06675), so that the score must be told where on its path a point lies (`along`), as the solvers do.
    negative: a text or embedding (1, tokens, width). size: (height, width) of the images in pixels, the model's own if None.
    micro_batch: network inputs a call. truncate: cut prompts that are too long, instead of ValueError.
    pipe: a loaded StableDiffusionPipeline (1.x or 2.x; epsilon or v prediction). `counter.evaluations` counts network inputs.
    ValueError: a network of other latents, sizes that do not fit, or what `DenoiserScore` refuses.
    """

    name = "Stable Diffusion"

    def __init__(
        self,
        pipe: Any,
        prompt: Prompt = "",
        *,
        end_prompt: Prompt | None = None,
        negative: str | Tensor = "",
        guidance: float = 1.0,
        sigma: float | Tensor | None = None,
        size: tuple[int, int] | None = None,
        micro_batch: int = 8,
        truncate: bool = False,
    ) -> None:
        channels, factor = pipe.vae.config.latent_channels, vae_factor(pipe.vae)
        if pipe.unet.config.in_channels != channels:
            raise ValueError(
                f"this U-Net reads {pipe.unet.config.in_channels} channels and the VAE makes {channels}: a "
                "text-to-image model is wanted here, none for inpainting or depth"
            )
        if size is not None and any(side < factor or side % factor for side in size):
            raise ValueError(f"size must be multiples of {factor} pixels, got {tuple(size)}")
        event = None if size is None else (channels, *(side // factor for side in size))
        super().__init__(
            pipe.unet,
            pipe.scheduler,
            sigma=sigma,
            scale=1.0,
            shift=0.0,
            event_shape=event,
            micro_batch=micro_batch,
        )
        self.pipe, self.truncate, self.times = pipe, truncate, None
        self.careful, self.coder = Careful(pipe.unet), Careful(pipe.vae)
        self._prompt(prompt, end_prompt, negative, guidance)

    def prompted(
        self,
        prompt: Prompt,
        *,
        end_prompt: Prompt | None = None,
        negative: str | Tensor | None = None,
        guidance: float | None = None,
    ) -> StableDiffusionScore:
        """The score under another prompt; negative and guidance stay unless given; same model and counter."""
        other = copy.copy(self)
        other._prompt(
            prompt,
            end_prompt,
            self.said[2] if negative is None else negative,
            self.guidance if guidance is None else guidance,
        )
        return other

    def embed(self, prompt: Prompt) -> Tensor:
        """Prompts -> embeddings (k, tokens, width), as the pipeline makes them; embeddings are checked and pass through."""
        encoder, words = self.pipe.text_encoder, self.pipe.tokenizer
        room, width = encoder.config.max_position_embeddings, self.model.config.cross_attention_dim
        if isinstance(prompt, Tensor):
            if prompt.ndim != 3 or prompt.shape[2] != width:
                raise ValueError(
                    f"a prompt's embedding must have shape (k, tokens, {width}), got {tuple(prompt.shape)}"
                )
            return checks.finite("prompt", prompt).to(encoder.device, torch.float32)
        texts, room = (
            [prompt] if isinstance(prompt, str) else list(prompt),
            min(room, words.model_max_length),
        )
        for text in texts:
            count = len(words(text, verbose=False).input_ids)
            if count > room and not self.truncate:
                raise ValueError(
                    f"the prompt {text[:40]!r}… has {count} tokens with its two marks, and this model reads {room}: "
                    f"shorten it by {count - room}, or set truncate=True to have its end cut off"
                )
        told = words(
            texts, padding="max_length", max_length=room, truncation=True, return_tensors="pt"
        )
        masked = getattr(encoder.config, "use_attention_mask", False)
        with torch.no_grad():
            return encoder(
                told.input_ids.to(encoder.device),
                attention_mask=told.attention_mask.to(encoder.device) if masked else None,
            )[0].float()

    def pick(self, rows: Tensor) -> StableDiffusionScore:
        other = copy.copy(self)
        one = lambda text: text if text is None or len(text) == 1 else text[rows.to(text.device)]
        other.start, other.end = one(self.start), one(self.end)
        return other

    def along(self, times: Tensor) -> StableDiffusionScore:
        other = copy.copy(self)
        other.times = times
        return other

    @property
    def moves(self) -> bool:
        return self.end is not None

    @property
    def settings(self) -> dict[str, Any]:
        """Prompts and guidance, for result files."""
        return {
            name: in_words(text)
            for name, text in zip(("prompt", "end_prompt", "negative"), self.said, strict=True)
        } | {"guidance": self.guidance}

    def text(self, n: int) -> Tensor:
        """The embedding at each of n points, (n, tokens, width): start + t·(end − start) at the times of `along`."""
        start, end, k = (
            self.start,
            self.end,
            max(len(self.start), 1 if self.end is None else len(self.end)),
        )
        if self.times is None:
            if end is not None or k not in (1, n):
                raise ValueError(
                    "the prompt differs from pair to pair or along the path, and these points come without their "
                    "place: use solver='gauss_newton', 'relaxation' or 'functional_gradient', or score.along(times)"
                )
            return start.expand(n, -1, -1)
        batch, over = divmod(n, self.times.shape[-1])
        if over or k not in (1, batch) or (self.times.ndim == 2 and len(self.times) != batch):
            raise ValueError(
                f"{n} points do not fit {self.times.shape[-1]} times a path and prompts for {k} pairs"
            )
        t = self.times.to(start).expand(batch, -1)[..., None, None]
        text = start[:, None] if end is None else torch.lerp(start[:, None], end[:, None], t)
        return text.expand(batch, t.shape[1], -1, -1).flatten(0, 1)

    def denoised(self, x: Tensor, sigma: Tensor, texts: Sequence[Tensor]) -> list[Tensor]:
        """D at x (n, *event), levels sigma (n,) under each of the texts, (n or 1, tokens, width) each: one (n, *event) a text."""
        texts = [text.expand(len(x), -1, -1) for text in texts]
        wanted = self.training or x.requires_grad or any(text.requires_grad for text in texts)
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            every = (torch.cat([x] * len(texts)), sigma.repeat(len(texts)), torch.cat(texts))
            parts = [
                self._asked(*part)
                for part in zip(*(y.split(self.micro_batch) for y in every), strict=True)
            ]
        return list(torch.cat(parts).split(len(x)))

    def _asked(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        c_in, c_skip, c_out = (
            c.to(x).reshape(-1, 1, 1, 1) for c in self.schedule.coefficients(sigma)
        )
        time = self.schedule.timestep(sigma)

        def ask(network: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
            told = time.to(device, torch.promote_types(dtype, torch.float32))
            return network(
                (c_in * x).to(device, dtype), told, encoder_hidden_states=text.to(device, dtype)
            ).sample

        return c_skip * x + c_out * self.careful(ask).to(x)

    def posterior_mean(self, x: Tensor) -> Tensor:
        levels, text = double_levels(self.sigma).expand(len(x)), self.text(len(x))
        if self.guidance == 1:
            return self.denoised(x, levels, [text])[0]
        without, given = self.denoised(x, levels, [self.negative, text])
        return torch.lerp(without, given, self.guidance)

    def count(self, x: Tensor) -> None:
        super().count(x)
        self.counter.evaluations += len(x) * (self.guidance != 1)

    def _prompt(self, prompt: Any, end_prompt: Any, negative: Any, guidance: float) -> None:
        self.start, self.negative = self.embed(prompt), self.embed(negative)
        self.end = None if end_prompt is None else self.embed(end_prompt)
        if self.end is not None and len({1, len(self.start), len(self.end)}) > 2:
            raise ValueError(
                f"{len(self.start)} prompts and {len(self.end)} end prompts: give one, or one a pair"
            )
        if len(self.negative) != 1:
            raise ValueError(f"negative is one text for all pairs, got {len(self.negative)}")
        self.guidance = checks.positive("guidance", guidance, zero=True)
        self.said = prompt, end_prompt, negative


def in_words(prompt: Prompt | None) -> str | list[str] | None:
    return (
        "an embedding"
        if isinstance(prompt, Tensor)
        else prompt
        if prompt is None or isinstance(prompt, str)
        else list(prompt)
    )


def vae_factor(vae: nn.Module) -> int:
    """Pixels a side of one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
