"""The score of a latent text-to-image model in the StableDiffusionPipeline layout."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import checks
from .denoiser import DenoiserScore
from .schedule import double_levels

# A text, one a pair, or embeddings (1 or pairs, tokens, width).
Prompt = str | Sequence[str] | Tensor


class GuardedNetwork:
    """A network that goes on in float32 once half precision answers with NaN or infinity.

    Memory that runs out becomes a MemoryError that names the mend. The network that was given is
    never changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, call: Callable[[nn.Module, torch.dtype, torch.device], Tensor]) -> Tensor:
        """What the network answers.

        Args:
            call: call(module, dtype, device) -> the answer to inputs that are brought there.
        """
        try:
            weight = next(self.module.parameters())
            answer = call(self.module, weight.dtype, weight.device)
            if weight.dtype.itemsize < 4 and not bool(torch.isfinite(answer).all()):
                warnings.warn(
                    f"{type(self.module).__name__} answered with NaN or infinity in "
                    f"{weight.dtype}; it goes on in float32 (load with dtype=torch.float32 to "
                    "begin there)",
                    stacklevel=2,
                )
                self.module = copy.deepcopy(self.module).float()
                answer = call(self.module, torch.float32, weight.device)
            return answer
        except (RuntimeError, MemoryError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if memory or "allocate memory" in str(error):
                raise MemoryError(
                    f"not enough memory for {type(self.module).__name__} ({error}); use a smaller "
                    "micro_batch=, dtype=torch.float16 or bfloat16, attention_slicing=True, "
                    "vae_tiling=True, or smaller images (size=)"
                ) from error
            raise


class StableDiffusionScore(DenoiserScore):
    """s(x) = (D(x) − x)/sigma² on latents x (n, 4, h, w), scaled by the VAE, sigma in their units.

        D = D_negative + guidance·(D_prompt − D_negative)                    (Ho & Salimans 2021)

    `counter.evaluations` counts network inputs: one a point if guidance = 1, else two.

    Args:
        pipe: a loaded StableDiffusionPipeline (1.x or 2.x; epsilon or v prediction).
        prompt: a text, one a pair, or embeddings (1 or pairs, tokens, width) from `embed` or
            `lib.latents.text_inversion`.
        end_prompt: the same for the ends of the paths. The embedding then goes linearly from one to
            the other along each path (arXiv 2504.06675), so that the score needs to know where on
            its path a point lies (`along`), as the solvers make it.
        negative: a text, or an embedding (1, tokens, width).
        guidance: see above, ≥ 0.
        sigma: noise level; by default the geometric middle of the schedule.
        size: (height, width) of the images in pixels, by default the model's own.
        micro_batch: network inputs in one call.
        truncate: cut prompts that are too long, instead of a ValueError.

    Raises:
        ValueError: a network of other latents, sizes that do not fit, or what `DenoiserScore`
            refuses.
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
        channels = pipe.vae.config.latent_channels
        if pipe.unet.config.in_channels != channels:
            raise ValueError(
                f"this U-Net reads {pipe.unet.config.in_channels} channels and the VAE makes "
                f"{channels}: a text-to-image model is wanted here, none for inpainting or depth"
            )
        event_shape = None
        if size is not None:
            factor = vae_factor(pipe.vae)
            if any(side < factor or side % factor for side in size):
                raise ValueError(f"size must be multiples of {factor} pixels, got {tuple(size)}")
            event_shape = (channels, *(side // factor for side in size))
        super().__init__(
            pipe.unet,
            pipe.scheduler,
            sigma=sigma,
            scale=1.0,
            shift=0.0,
            event_shape=event_shape,
            micro_batch=micro_batch,
        )
        self.pipe = pipe
        self.guarded_unet = GuardedNetwork(pipe.unet)
        self.guarded_vae = GuardedNetwork(pipe.vae)
        self.truncate = truncate
        # Places on the paths, set by `along`.
        self.times = None
        self._set_prompts(prompt, end_prompt, negative, guidance)

    def prompted(
        self,
        prompt: Prompt,
        *,
        end_prompt: Prompt | None = None,
        negative: str | Tensor | None = None,
        guidance: float | None = None,
    ) -> "StableDiffusionScore":
        """The score under another prompt, of the same model and on the same counter.

        Args:
            prompt: see the class.
            end_prompt: see the class.
            negative: as it is by default.
            guidance: as it is by default.
        """
        other = copy.copy(self)
        negative = self.negative if negative is None else negative
        guidance = self.guidance if guidance is None else guidance
        other._set_prompts(prompt, end_prompt, negative, guidance)
        return other

    def embed(self, prompt: Prompt) -> Float[Tensor, "prompts tokens width"]:
        """Embeddings of texts, as the pipeline makes them; an embedding is checked and passes."""
        encoder = self.pipe.text_encoder
        width = self.model.config.cross_attention_dim
        if isinstance(prompt, Tensor):
            if prompt.ndim != 3 or prompt.shape[2] != width:
                raise ValueError(
                    f"a prompt's embedding must have shape (k, tokens, {width}), got "
                    f"{tuple(prompt.shape)}"
                )
            return checks.finite("prompt", prompt).to(encoder.device, torch.float32)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        tokenizer = self.pipe.tokenizer
        limit = tokenizer.model_max_length
        for text in texts:
            length = len(tokenizer(text, verbose=False).input_ids)
            if length > limit and not self.truncate:
                raise ValueError(
                    f"the prompt {text[:40]!r}… has {length} tokens with its two marks, and this "
                    f"model reads {limit}: shorten it by {length - limit}, or set truncate=True to "
                    "have its end cut off"
                )
        with torch.no_grad():
            return self.pipe.encode_prompt(texts, encoder.device, 1, False)[0].float()

    def pick(self, rows: Tensor) -> "StableDiffusionScore":
        def picked(embedding: Tensor | None) -> Tensor | None:
            if embedding is None or len(embedding) == 1:
                return embedding
            return embedding[rows.to(embedding.device)]

        other = copy.copy(self)
        other.start_embedding = picked(self.start_embedding)
        other.end_embedding = picked(self.end_embedding)
        return other

    def along(self, times: Tensor) -> "StableDiffusionScore":
        other = copy.copy(self)
        other.times = times
        return other

    @property
    def moves(self) -> bool:
        return self.end_embedding is not None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "prompt": in_words(self.prompt),
            "end_prompt": in_words(self.end_prompt),
            "negative": in_words(self.negative),
            "guidance": self.guidance,
        }

    def embeddings(self, n: int) -> Float[Tensor, "n tokens width"]:
        """The embedding at each of n points: start + t·(end − start) at the times of `along`."""
        start = self.start_embedding
        end = self.end_embedding
        pairs = len(start) if end is None else max(len(start), len(end))
        if self.times is None:
            if end is not None or pairs not in (1, n):
                raise ValueError(
                    "the prompt differs from pair to pair or along the path, and these points come "
                    "without their place: use solver='gauss_newton', 'relaxation' or "
                    "'functional_gradient', or score.along(times)"
                )
            return start.expand(n, -1, -1)
        places = self.times.shape[-1]
        batch = n // places
        rows = len(self.times) if self.times.ndim == 2 else batch
        if n != batch * places or rows != batch or pairs not in (1, batch):
            raise ValueError(
                f"{n} points do not fit {places} times a path and prompts for {pairs} pairs"
            )
        t = self.times.to(start).expand(batch, -1)[..., None, None]
        embedding = start[:, None]
        if end is not None:
            embedding = torch.lerp(embedding, end[:, None], t)
        return embedding.expand(batch, places, -1, -1).flatten(0, 1)

    def posterior_mean(self, x: Tensor) -> Tensor:
        sigma = double_levels(self.sigma).expand(len(x))
        embeddings = self.embeddings(len(x))
        if self.guidance == 1:
            return self.posterior_means(x, sigma, [embeddings])[0]
        without, conditional = self.posterior_means(x, sigma, [self.negative_embedding, embeddings])
        return torch.lerp(without, conditional, self.guidance)

    def posterior_means(
        self, x: Float[Tensor, "n *event"], sigma: Float[Tensor, "n"], embeddings: Sequence[Tensor]
    ) -> list[Float[Tensor, "n *event"]]:
        """E[x_0 | x] under each of several embeddings, in common micro-batches, not counted.

        Args:
            x: points.
            sigma: a noise level a point, float64.
            embeddings: (1 or n, tokens, width) each.
        """
        k = len(embeddings)
        conditions = torch.cat([e.expand(len(x), -1, -1) for e in embeddings])
        points = torch.cat([x] * k)
        means = self.in_micro_batches(self.denoise_part, points, sigma.repeat(k), conditions)
        return list(means.split(len(x)))

    def call_network(self, z: Tensor, time: Tensor, embedding: Tensor) -> Tensor:
        def call(network: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
            # Half precision has no 999.3.
            fine_time = time.to(device, torch.promote_types(dtype, torch.float32))
            condition = embedding.to(device, dtype)
            return network(z.to(device, dtype), fine_time, encoder_hidden_states=condition).sample

        return self.guarded_unet(call)

    def count(self, x: Tensor) -> None:
        super().count(x)
        if self.guidance != 1:
            self.counter.evaluations += len(x)

    def _set_prompts(
        self,
        prompt: Prompt,
        end_prompt: Prompt | None,
        negative: str | Tensor,
        guidance: float,
    ) -> None:
        self.prompt = prompt
        self.end_prompt = end_prompt
        self.negative = negative
        self.guidance = checks.positive("guidance", guidance, zero=True)
        self.start_embedding = self.embed(prompt)
        self.end_embedding = None if end_prompt is None else self.embed(end_prompt)
        self.negative_embedding = self.embed(negative)
        if self.end_embedding is not None:
            starts = len(self.start_embedding)
            ends = len(self.end_embedding)
            if starts != ends and 1 not in (starts, ends):
                raise ValueError(
                    f"{starts} prompts and {ends} end prompts: give one, or one a pair"
                )
        if len(self.negative_embedding) != 1:
            raise ValueError(
                f"negative is one text for all pairs, got {len(self.negative_embedding)}"
            )


def in_words(prompt: Prompt | None) -> str | list[str] | None:
    """A prompt as result files name it."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Tensor):
        return "an embedding"
    return list(prompt)


def vae_factor(vae: nn.Module) -> int:
    """Pixels a side of one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
