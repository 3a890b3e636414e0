"""Trains the bundled latent model "hands-flow": rectified flow by a transformer.

Autoencoder and text encoder are those of "hands", as they are.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import checks

from .. import data, hands
from ..classifiers import HandClassifier
from . import networks
from .folders import require_replaceable, training_table, write_folder
from .hands import (
    COPIES,
    GUIDANCE,
    RATED,
    STEPS,
    bundled_classifier,
    describe,
    describe_right,
    encode_copies,
    fingerprint,
    right_shares,
    round_weights,
    sample_digits,
    write_pipeline,
)
from .loop import Loss, Settings, State, fit

NAME = "hands-flow"
SETTINGS = Settings(steps=5000, batch=32, rate=1e-3, warmup=200, ema=0.999, every=250)
# SD3's pipeline puts 256 zeros behind the text where it has no T5 encoder, unless it is told not
# to. These shares of the steps and of their batch are trained with them.
ZEROS = 256
ZEROS_SHARE = 1 / 16
ZEROS_BATCH = 1 / 4
WRITTEN = {
    "README.md",
    "samples.png",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@dataclass(frozen=True)
class Text:
    """Every caption, encoded.

    Attributes:
        tokens: (captions, tokens, width).
        pooled: (captions, width).
    """

    tokens: Tensor
    pooled: Tensor


def train_hands_flow(
    folder: str | Path,
    work: str | Path,
    settings: Settings = SETTINGS,
    *,
    source: str | Path | None = None,
    until: int | None = None,
    copies: int = COPIES,
    samples: int = 8,
    classifier: HandClassifier | None = None,
    rated: int = RATED,
    device: str | torch.device = "cpu",
    machine: str = "",
    progress: bool = True,
) -> Any:
    """Train the transformer, measure it, and write the pipeline's folder with its model card.

    Args:
        folder: made as a whole or not at all.
        work: keeps the checkpoint; a training that was cut short goes on from there.
        settings: of the training.
        source: folder of the model "hands", whose autoencoder and text encoder are taken; the
            bundled one if None.
        until: stop after this step of the schedule.
        copies: of each photograph, encoded.
        samples: of each digit, for samples.png.
        classifier: reads other samples; the bundled one if None, and where that is missing the card
            says so.
        rated: number of these of each digit.
        device: to train on.
        machine: in words, for the model card; this one if empty.
        progress: whether to show bars.

    Returns:
        The StableDiffusion3Pipeline, on the CPU.

    Raises:
        ValueError, OSError: bad input, before any step is made; and as `fit` and `write_folder`.
        FileNotFoundError: the photographs or the model "hands" are not on this machine.
    """
    checks.count("samples", samples)
    checks.count("rated", rated)
    device = checks.device(device)
    require_replaceable(folder, WRITTEN)
    classifier = classifier or bundled_classifier(progress)
    pipe = untrained_pipeline(source, seed=settings.seed)
    state = train_transformer(
        work, pipe, settings, until=until, copies=copies, device=device, progress=progress
    )
    pipe.register_modules(transformer=round_weights(state.average))
    right = "not measured: the hand classifier was not there"
    if classifier is not None:
        # Other seeds than those of samples.png.
        others = sample_digits(pipe, rated, settings.seed + samples, max_sequence_length=0)
        right = describe_right(right_shares(classifier, others), rated, classifier)
    drawn = sample_digits(pipe, samples, settings.seed, max_sequence_length=0)
    text = card(pipe, state, samples, right, machine)
    save_hands_flow(folder, pipe, text, {"samples.png": (drawn, samples)})
    return pipe


def untrained_pipeline(source: str | Path | None = None, *, seed: int = 0) -> Any:
    """The pipeline whose transformer has the first weights of a seed.

    Autoencoder, text encoder and tokenizer are those of the model "hands" in a folder, the bundled
    one if None; FileNotFoundError where that is missing.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    if source is None:
        files = data.locate("hands")
        if files is None:
            raise FileNotFoundError(
                "the bundled model 'hands' is missing, whose autoencoder and text encoder are "
                "needed; restore data/ from the repository, or train it: "
                "python -m experiments.training hands"
            )
        source = files["model_index.json"].parent
    source = Path(source)
    # Otherwise diffusers misses a package that is not needed here.
    vae = AutoencoderKL.from_pretrained(
        source / "vae", low_cpu_mem_usage=False, use_safetensors=True
    )
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder", use_safetensors=True)
    return networks.flow_pipeline(
        round_weights(vae),
        networks.flow_transformer(seed=seed),
        networks.with_projection(round_weights(encoder)),
        CLIPTokenizer.from_pretrained(source / "tokenizer"),
        networks.flow_schedule(),
    )


@torch.no_grad()
def encode_captions(pipe: Any) -> Text:
    """All captions of the training, none first, by the pipeline's own call."""
    tokens, _, pooled, _ = pipe.encode_prompt(
        hands.all_captions(),
        None,
        None,
        do_classifier_free_guidance=False,
        max_sequence_length=0,
    )
    return Text(tokens, pooled)


def train_transformer(
    work: str | Path,
    pipe: Any,
    settings: Settings = SETTINGS,
    *,
    until: int | None = None,
    copies: int = COPIES,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> State:
    """Train a pipeline's transformer in place, or go on from `work`/transformer.

    Arguments and errors as `train_hands_flow`.
    """
    photographs = hands.photographs("train")
    path = Path(work) / "latents.safetensors"
    latents = encode_copies(pipe.vae, photographs, copies, path, seed=settings.seed)
    scaled = pipe.vae.config.scaling_factor * latents
    return fit(
        pipe.transformer.to(device),
        flow_loss(scaled, photographs.labels, encode_captions(pipe), settings.batch),
        Path(work) / "transformer",
        settings,
        data=f"{describe(photographs)}: {copies} such copies of each, as latents of the "
        f"autoencoder {fingerprint(pipe.vae)[:12]}, 10% without caption",
        until=until,
        progress=progress,
    )


def flow_loss(latents: Tensor, labels: Tensor, text: Text, batch: int) -> Loss:
    """E ‖v_θ(x_t, t, caption) − (ε − x_0)‖² an entry, x_t = (1 − t) x_0 + t ε.

    Rectified flow with logit-normal t, as in Esser et al. 2024 (Stable Diffusion 3). The network is
    told 1000 t. Matrix products in bfloat16.

    Args:
        latents: (copies · n, 4, 16, 16), scaled.
        labels: (n,), the same of every copy.
        text: all captions.
        batch: latents a step.
    """

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        zeros = 0
        count = batch
        if torch.rand((), generator=generator) < ZEROS_SHARE:
            zeros = ZEROS
            count = max(1, round(ZEROS_BATCH * batch))
        chosen = torch.randint(len(latents), (count,), generator=generator)
        times = torch.randn(count, generator=generator).sigmoid()
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        captions = hands.draw_captions(labels[chosen % len(labels)], generator)
        tokens = F.pad(text.tokens[captions], (0, 0, 0, zeros))
        share = times[:, None, None, None]
        noisy = (1 - share) * clean + share * noise
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(
                hidden_states=noisy.to(device),
                timestep=(1000 * times).to(device),
                encoder_hidden_states=tokens.to(device),
                pooled_projections=text.pooled[captions].to(device),
            ).sample
        return F.mse_loss(velocity.float(), (noise - clean).to(device))

    return loss


def save_hands_flow(
    folder: str | Path, pipe: Any, text: str, pictures: dict[str, tuple[Tensor, int]]
) -> Path:
    """Write the pipeline in half precision, README.md and pictures, all or nothing.

    Arguments and errors as `save_hands`.
    """

    def write(draft: Path) -> None:
        parts = (pipe.vae, pipe.transformer, pipe.text_encoder)
        half = [copy.deepcopy(part).half() for part in parts]
        rounded = networks.flow_pipeline(*half, pipe.tokenizer, pipe.scheduler)
        write_pipeline(draft, rounded, text, pictures)

    return write_folder(folder, write, WRITTEN)


def card(pipe: Any, state: State, samples: int, right: str, machine: str) -> str:
    """The model card: data, licence, steps, time, machine, samples, limits.

    Args:
        pipe: the pipeline.
        state: of its training.
        samples: pictures of each digit in samples.png.
        right: in words, how many samples show the digit that was asked for.
        machine: in words; this one if empty.
    """
    sizes = {
        name: sum(p.numel() for p in getattr(pipe, name).parameters())
        for name in ("vae", "transformer", "text_encoder")
    }
    shape = pipe.transformer.config
    captions = ", ".join(f'"{caption.format("…")}"' for caption in hands.CAPTIONS)
    registered = data.registry()["sign-digits"]
    return f"""# {NAME}

A small latent text-to-image model of hands signing the digits zero to nine, in the layout of Stable
Diffusion 3 (diffusers' `StableDiffusion3Pipeline`), 64×64 pixels, latents (4, 16, 16). Its
transformer has {sizes["transformer"]:,} parameters: {shape.num_layers} blocks of
{shape.num_attention_heads} heads of {shape.attention_head_dim} channels, on 64 patches of 2×2 and
16 tokens of text. Autoencoder ({sizes["vae"]:,} parameters) and text encoder
({sizes["text_encoder"]:,}) are those of the model `hands`, as they are; the encoder serves as both
of the two that the pipeline wants. Stored in half precision.

Trained by flow matching: x_t = (1 − t)·latent + t·noise, target v = noise − latent, logit-normal t
(Esser et al. 2024). The weights are averages over training.

## Transformer

{training_table(state, machine)}
| samples that show the digit asked for | {right} |

`samples.png`: {samples} samples of each caption "{hands.CAPTIONS[0].format("…")}", zero to nine,
{STEPS} Euler steps, guidance {GUIDANCE:g}, `max_sequence_length=0`, not chosen.

Load it with diffusers, which wants to be told that there is no T5 encoder, and call it:

```python
pipe = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
pipe("{hands.CAPTIONS[0].format("three")}", max_sequence_length=0, guidance_scale={GUIDANCE:g})
```

Without `max_sequence_length=0` the pipeline puts {ZEROS} zeros behind the text, in place of T5's
tokens. Most of the training was without them, and so is all that is measured here. One step in
{1 / ZEROS_SHARE:g} was with them, so that they do no harm, but each call takes four times as long.

Captions it was trained on: {captions}, and none.

Remake: `python -m experiments.training {NAME}`.

**Data**: {registered["origin"]}, {registered["licence"]}; each tenth photograph of the file was
held out.
**Licence** of these weights: Apache-2.0, as the photographs.
**Intended use**: the flow-matching model of this project's notebooks, and tests.
**Limits**: it knows these hands on a plain background and nothing else; words that are in no
caption mean nothing to it. The signs are those of Turkish sign language: from six on, they are no
count of fingers.
"""
