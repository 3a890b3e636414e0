"""SDXL and Stable Diffusion 3 medium at their true size: a geodesic against plain sampling.

    python -m benchmarks.run --only large

Random weights in bfloat16 cost what trained ones cost. The text is given as tensors of random
numbers, so that no text encoder of billions of parameters is needed. Each model has a process of
its own, in which the same `PipelineScore` samples and then finds a geodesic. The geodesic runs for
a set number of steps: what a solver needs to converge on random weights says nothing of a trained
model.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from diffusers import DiffusionPipeline

from lib.scores import PipelineScore, from_pipeline
from lib.scores.families import Text, family_of

from . import Claim, Result, latent, percent, table
from .latent import STEPS, Setting
from .stable_diffusion import LARGE, large_pipeline

NAMES = {"xl": "SDXL, U-Net", "3-medium": "SD 3 medium, transformer"}
# CLIP's tokens. SD 3 reads 256 more of T5.
TOKENS = 77
# Points of a geodesic, images of a sampling; one call of the network each.
FRAMES = 9
SMALL = Setting(
    size=128,
    dtype="bfloat16",
    micro_batch=FRAMES,
    iterations=2,
    measured=2,
    frames=FRAMES,
    sigma=2.0,
)


def load(setting: Setting) -> PipelineScore:
    """The score of the pipeline with random weights and a random text, warmed up by one call."""
    torch.set_num_threads(setting.threads)
    pipe = large_pipeline(setting.version, setting.narrow, getattr(torch, setting.dtype))
    score = from_pipeline(
        pipe,
        prompt=random_text(pipe),
        size=(setting.size, setting.size),
        micro_batch=setting.micro_batch,
        sigma=setting.sigma,
    )
    score(latent.noise(score, 1))
    return score


def random_text(pipe: DiffusionPipeline) -> Text:
    """Standard normal numbers in the place of one prompt's embeddings."""
    family = family_of(type(pipe).__name__)(pipe)
    generator = torch.Generator().manual_seed(1)
    shapes = {name: (1, family.width(name)) for name in family.text}
    shapes["encoder_hidden_states"] = (1, TOKENS, family.width("encoder_hidden_states"))
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def side(version: str, setting: Setting) -> list[dict]:
    """Sampling and the geodesic of one model, measured in this process."""
    setting = replace(setting, version=version)
    score = load(setting)
    parameters = sum(p.numel() for p in score.model.parameters())
    gigabytes = latent.weights(score)
    rows = latent.sampling_side(score, setting) + latent.geodesic_side(score, setting)
    return [row | {"parameters": parameters, "weights, GB": gigabytes} for row in rows]


def compared(version: str, sampling: dict, geodesic: dict) -> list[dict]:
    """The two rows of one model; times are relative to the sampling's."""

    def an_evaluation(row: dict) -> float:
        return row["CPU seconds"] / row["evaluations"]

    return [
        {
            "model": NAMES[version],
            "side": row["side"],
            "evaluations": row["evaluations"],
            "time, relative": row["CPU seconds"] / sampling["CPU seconds"],
            "time an evaluation, relative": an_evaluation(row) / an_evaluation(sampling),
            "peak, GB": row["peak, GB"],
            "weights, GB": row["weights, GB"],
            "parameters, 1e9": row["parameters"] / 1e9,
            "converged": row.get("converged", ""),
        }
        for row in (sampling, geodesic)
    ]


def true_size(quick: bool = False) -> Result:
    """What a CPU does in minutes; quick: narrow networks, in this process."""
    setting = replace(SMALL, threads=torch.get_num_threads())
    run = partial(latent.in_fresh_process, module="large")
    if quick:
        setting = replace(setting, narrow=8, iterations=1, measured=1)
        run = side
    rows = []
    notes = explanations(setting)
    worst = -math.inf
    for version in LARGE:
        try:
            sampling, geodesic = run(version, setting)
        except (RuntimeError, MemoryError) as error:
            notes.append(f"left out: {NAMES[version]}: {error}")
            continue
        rows += compared(version, sampling, geodesic)
        worst = max(worst, geodesic["peak, GB"] / sampling["peak, GB"] - 1)
    claim = Claim(
        "a geodesic takes no more memory than sampling (within 5 %)",
        f"{percent(worst)} more at most" if rows else "not measured",
        len(rows) == 2 * len(LARGE) and worst <= 0.05,
    )
    size = "true size" if setting.narrow == 1 else f"widths divided by {setting.narrow}"
    title = f"Larger models, {size}, random weights, {setting.size}×{setting.size} pixels, bf16"
    return Result("large", title, table(rows), [claim], notes)


def explanations(setting: Setting) -> list[str]:
    """What was left out, and what the numbers are not."""
    return [
        f"left out: {setting.size} pixels, not 1024 (an evaluation there costs far more); text "
        f"encoders (the text is {TOKENS} random tokens, without the 256 of T5 in SD 3); decoding",
        f"sampling: {setting.frames} images without guidance, extrapolated from the first "
        f"{setting.measured} of {STEPS} DDIM steps, which all cost the same; guidance doubles it",
        f"geodesic: {setting.frames} points, at most {setting.iterations} Gauss–Newton steps at "
        "each noise level; how many a trained model needs is not measured here",
        f"CPU time, one run each, {setting.frames} images or the path's points in one call of the "
        "network; peak: resident memory of the process, libraries included",
    ]
