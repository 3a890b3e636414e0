"""The score of a loaded diffusers pipeline, of any family in `families.py`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import checks
from .denoiser import DenoiserScore
from .families import Text, check_family, check_name, family_of
from .guarded import GuardedNetwork, exact_time
from .schedule import NoiseSchedule, double_levels

# A text, one a pair, or what a network is told of them: a tensor (1 or pairs, tokens, width) where
# it is told nothing else, or its arguments by name. A DiT takes numbers or names of classes.
Prompt = str | int | Sequence[str | int] | Tensor | Mapping[str, Tensor]

PARTS = ("vae", "scheduler")


class PipelineScore(DenoiserScore):
    """s(x) = (D(x) − x)/sigma² on latents x (n, channels, h, w), scaled as the network wants them.

        D = D_negative + guidance·(D_prompt − D_negative)                    (Ho & Salimans 2021)

    sigma is in the units of the latents, whatever the model was trained with: a flow at time t has
    sigma = t/(1−t). `counter.evaluations` counts network inputs: one a point if guidance = 1, else
    two.

    Args:
        pipe: a loaded text-to-image (or class-to-image) pipeline of a family in `FAMILIES`.
        prompt: a text, one a pair, or what the network is told of them, from `embed` or
            `lib.latents.text_inversion`. A DiT takes numbers or names of classes; "" is no class.
        end_prompt: the same for the ends of the paths. What the network is told then goes linearly
            from one to the other along each path (arXiv 2504.06675), so that the score needs to
            know where on its path a point lies (`along`), as the solvers make it.
        negative: a text, or what the network is told of one.
        guidance: see above, ≥ 0.
        sigma: noise level; by default the geometric middle of the schedule.
        size: (height, width) of the images in pixels, by default the model's own.
        micro_batch: network inputs in one call.
        truncate: cut prompts that are too long, instead of a ValueError.

    Attributes:
        family: how the network is asked, bound to the pipeline.

    Raises:
        ValueError: a pipeline of no known family, a model without a score (distilled, inpainting),
            parts of different models, or sizes that do not fit.
        TypeError: a scheduler of another kind than the network was trained with.
    """

    def __init__(
        self,
        pipe: Any,
        prompt: Prompt = "",
        *,
        end_prompt: Prompt | None = None,
        negative: Prompt = "",
        guidance: float = 1.0,
        sigma: float | Tensor | None = None,
        size: tuple[int, int] | None = None,
        micro_batch: int = 8,
        truncate: bool = False,
    ) -> None:
        family_class = family_of(type(pipe).__name__)
        for part in (family_class.network, *PARTS):
            if getattr(pipe, part, None) is None:
                raise ValueError(
                    f"this {type(pipe).__name__} has no {part}; load the whole model, or give the "
                    f"part: pipe.{part} = …"
                )
        self.family = family_class(pipe)
        network = getattr(pipe, self.family.network)
        check_family(self.family, NoiseSchedule(pipe.scheduler))
        super().__init__(
            network,
            pipe.scheduler,
            sigma=sigma,
            scale=1.0,
            shift=0.0,
            event_shape=self._event_shape(size),
            micro_batch=micro_batch,
        )
        self.name = self.family.name
        self.pipe = pipe
        self.guarded_network = GuardedNetwork(network)
        self.guarded_vae = GuardedNetwork(pipe.vae)
        if self.family.overflows_in_half and pipe.vae.dtype == torch.float16:
            self.guarded_vae.go_on_in_float32()
        self.truncate = truncate
        # Places on the paths, set by `along`.
        self.times = None
        self._set_prompts(prompt, end_prompt, negative, guidance)

    def _event_shape(self, size: tuple[int, int] | None) -> tuple[int, ...] | None:
        family = self.family
        if size is None:
            return None if family.sides is None else (family.channels, *family.sides)
        unit = family.factor * family.patch
        if len(size) != 2 or any(side < unit or side % unit for side in size):
            raise ValueError(
                f"size is (height, width) in multiples of {unit} pixels, got {tuple(size)}"
            )
        cells = tuple(side // family.factor for side in size)
        most = family.config.get("pos_embed_max_size")
        if most is not None and max(cells) > most * family.patch:
            raise ValueError(
                f"size must be at most {most * unit} pixels a side for this model, got "
                f"{tuple(size)}"
            )
        return family.channels, *cells

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels."""
        if self.event_shape is None:
            return None
        height, width = (self.family.factor * side for side in self.event_shape[1:])
        return height, width

    def prompted(
        self,
        prompt: Prompt,
        *,
        end_prompt: Prompt | None = None,
        negative: Prompt | None = None,
        guidance: float | None = None,
    ) -> "PipelineScore":
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

    def conditioned(self, label: int | None) -> "PipelineScore":
        """The score of one class of a DiT, "no class" for None: `prompted` by its number."""
        return self.prompted("" if label is None else label)

    def embed(self, prompt: Prompt) -> Tensor | Text:
        """What the network is told of texts: a tensor (k, tokens, width), or several by name."""
        text = self.read(prompt)
        return text if len(text) > 1 else next(iter(text.values()))

    def read(self, prompt: Prompt, *, negative: bool = False) -> Text:
        """What the network is told of texts, by its arguments, (k, …) each.

        Args:
            prompt: texts, or what `embed` or `read` made of them, which is checked and passes.
            negative: whether it is a negative prompt, which some families read in another way.
        """
        if isinstance(prompt, Mapping):
            return self._checked(prompt)
        if isinstance(prompt, Tensor):
            return self._checked({next(iter(self.family.text)): prompt})
        texts = [prompt] if isinstance(prompt, str | int) else list(prompt)
        for text in texts:
            if self.family.has_words and not isinstance(text, str):
                raise ValueError(f"a prompt of {self.name} is a text, got {text!r}")
            if self.family.has_words and not self.truncate:
                self._check_length(text)
        if self.family.has_words:
            # With model offloading the network goes, so that the text encoders find room.
            self.pipe.maybe_free_model_hooks()
        with torch.no_grad():
            return self._checked(self.family.read(texts, negative=negative))

    def _check_length(self, text: str) -> None:
        length, limit = self.family.count_tokens(text)
        if length > limit:
            raise ValueError(
                f"the prompt {text[:40]!r}… has {length} tokens with its marks, and this model "
                f"reads {limit}: shorten it by {length - limit}, or set truncate=True to have its "
                "end cut off"
            )

    def _checked(self, text: Mapping[str, Tensor]) -> Text:
        """Tensors that fit the network, in single precision; ValueError for others."""
        wanted = self.family.text
        if set(text) != set(wanted):
            raise ValueError(
                f"{self.name} is told {' and '.join(wanted)} of a prompt, got "
                f"{' and '.join(text) or 'nothing'}; use {{name: tensor}}, as score.embed(text) "
                "makes it"
            )
        checked = {}
        for name in wanted:
            values = text[name]
            if not values.is_floating_point():
                checked[name] = values
                continue
            width = self.family.width(name)
            if width is not None and values.shape[-1] != width:
                raise ValueError(
                    f"{name} of a prompt must have shape (k, tokens, {width}) or (k, {width}) for "
                    f"this network, got {tuple(values.shape)}: network and text are of two models"
                )
            checked[name] = checks.finite("prompt", values).to(self.family.device, torch.float32)
        counts = {len(values) for values in checked.values()}
        tokens = checked.get("encoder_hidden_states")
        if len(counts) != 1 or (tokens is not None and tokens.ndim != 3):
            shapes = {name: tuple(values.shape) for name, values in checked.items()}
            raise ValueError(f"a prompt's tensors must have shape (k, …), all the same k: {shapes}")
        return checked

    def pick(self, rows: Tensor) -> "PipelineScore":
        def picked(text: Text | None) -> Text | None:
            if text is None or _count(text) == 1:
                return text
            return {name: values[rows.to(values.device)] for name, values in text.items()}

        other = copy.copy(self)
        other.start_text = picked(self.start_text)
        other.end_text = picked(self.end_text)
        return other

    def along(self, times: Tensor) -> "PipelineScore":
        other = copy.copy(self)
        other.times = times
        return other

    @property
    def moves(self) -> bool:
        return self.end_text is not None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "prompt": in_words(self.prompt),
            "end_prompt": in_words(self.end_prompt),
            "negative": in_words(self.negative),
            "guidance": self.guidance,
            **self.family.settings,
        }

    def texts(self, n: int) -> Text:
        """What the network is told at each of n points.

        It is start + t·(end − start) at the times t of `along`.
        """
        pairs = _count(self.start_text)
        if self.end_text is not None:
            pairs = max(pairs, _count(self.end_text))
        if self.times is None:
            if self.end_text is not None or pairs not in (1, n):
                raise ValueError(
                    "the prompt differs from pair to pair or along the path, and these points come "
                    "without their place: use solver='gauss_newton', 'relaxation' or "
                    "'functional_gradient', or score.along(times)"
                )
            return _expanded(self.start_text, n)
        places = self.times.shape[-1]
        batch = n // places
        rows = len(self.times) if self.times.ndim == 2 else batch
        if n != batch * places or rows != batch or pairs not in (1, batch):
            raise ValueError(
                f"{n} points do not fit {places} times a path and prompts for {pairs} pairs"
            )
        return {
            name: self._along_paths(name, start, batch, places)
            for name, start in self.start_text.items()
        }

    def _along_paths(self, name: str, start: Tensor, batch: int, places: int) -> Tensor:
        """One argument of the network at `places` places of each of `batch` paths."""
        values = start[:, None]
        if self.end_text is not None:
            end = self.end_text[name][:, None]
            t = self.times.to(start).expand(batch, -1)
            values = torch.lerp(values, end, t.reshape(*t.shape, *[1] * (start.ndim - 1)))
        return values.expand(batch, places, *start.shape[1:]).flatten(0, 1)

    def posterior_mean(self, x: Tensor) -> Tensor:
        sigma = double_levels(self.sigma).expand(len(x))
        texts = self.texts(len(x))
        if self.guidance == 1:
            return self.posterior_means(x, sigma, [texts])[0]
        without, conditional = self.posterior_means(x, sigma, [self.negative_text, texts])
        return torch.lerp(without, conditional, self.guidance)

    def posterior_means(
        self, x: Float[Tensor, "n *event"], sigma: Float[Tensor, "n"], texts: Sequence[Text]
    ) -> list[Float[Tensor, "n *event"]]:
        """E[x_0 | x] under each of several texts, in common micro-batches, not counted.

        Args:
            x: points.
            sigma: a noise level a point, float64.
            texts: of 1 or n prompts each.
        """
        k = len(texts)
        every = [_expanded(text, len(x)) for text in texts]
        conditions = [torch.cat([text[name] for text in every]) for name in self.family.text]
        points = torch.cat([x] * k)
        means = self.in_micro_batches(self.denoise_part, points, sigma.repeat(k), *conditions)
        return list(means.split(len(x)))

    def call_network(self, z: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        def call(network: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
            # Half precision has no 999.3.
            fine_time = time.to(device, torch.promote_types(dtype, torch.float32))
            text = {}
            for name, values in zip(self.family.text, conditions, strict=True):
                text[name] = values.to(device, dtype if values.is_floating_point() else None)
            with exact_time(network, self.family.time_embedding, fine_time):
                return self.family.ask(network, z.to(device, dtype), fine_time, text)

        # A learned variance comes in the channels behind.
        return self.guarded_network(call)[:, : z.shape[1]]

    def count(self, x: Tensor) -> None:
        super().count(x)
        if self.guidance != 1:
            self.counter.evaluations += len(x)

    def _set_prompts(
        self,
        prompt: Prompt,
        end_prompt: Prompt | None,
        negative: Prompt,
        guidance: float,
    ) -> None:
        self.prompt = prompt
        self.end_prompt = end_prompt
        self.negative = negative
        self.guidance = checks.positive("guidance", guidance, zero=True)
        self.start_text = self.read(prompt)
        self.end_text = None if end_prompt is None else self.read(end_prompt)
        self.negative_text = None
        if self.guidance != 1 or not isinstance(negative, str):
            self.negative_text = self.read(negative, negative=True)
            if _count(self.negative_text) != 1:
                raise ValueError(
                    f"negative is one text for all pairs, got {_count(self.negative_text)}"
                )
        if self.end_text is None:
            return
        if not all(values.is_floating_point() for values in self.end_text.values()):
            raise ValueError("classes do not go over into each other: leave end_prompt=None")
        starts = _count(self.start_text)
        ends = _count(self.end_text)
        if starts != ends and 1 not in (starts, ends):
            raise ValueError(f"{starts} prompts and {ends} end prompts: give one, or one a pair")


def from_pipeline(pipe: Any, *, prompt: Prompt = "", **settings: Any) -> PipelineScore:
    """A loaded diffusers pipeline as a score on its latents.

    Its parts stay as and where they are: precision, device, offloading, slicing and tiling are set
    on the pipeline. Weights are never trained here; a gradient is kept only where points ask for
    it.

    Args:
        pipe: a pipeline of a family in `lib.scores.FAMILIES`.
        prompt: see `PipelineScore`.
        settings: end_prompt, negative, guidance, sigma, size, micro_batch, truncate of
            `PipelineScore`.

    Returns:
        The score. `lib.latents` encodes images to its points and decodes them.

    Raises:
        ValueError: a model without a score, with the reason and what to take instead.
        TypeError: a scheduler of another kind than the network was trained with.

    Example:
        >>> from diffusers import DiffusionPipeline
        >>> from lib.scores.loading import DATA
        >>> pipe = DiffusionPipeline.from_pretrained(DATA / "models" / "hands")
        >>> score = from_pipeline(pipe, prompt="a hand", sigma=1.0)
        >>> score.event_shape, score.image_size
        ((4, 16, 16), (64, 64))
    """
    check_name(str(pipe.config.get("_name_or_path") or ""))
    return PipelineScore(pipe, prompt, **settings)


def in_words(prompt: Prompt | None) -> str | int | list[str | int] | None:
    """A prompt as result files name it."""
    if prompt is None or isinstance(prompt, str | int):
        return prompt
    if isinstance(prompt, Tensor | Mapping):
        return "an embedding"
    return list(prompt)


def _count(text: Text) -> int:
    """How many prompts these are."""
    return len(next(iter(text.values())))


def _expanded(text: Text, n: int) -> Text:
    """One prompt for each of n points."""
    return {name: values.expand(n, *values.shape[1:]) for name, values in text.items()}
