"""What the commands of this package share: options of a model, and how they end."""

import re
import sys
from typing import Annotated

import torch
import typer

from lib import checks
from lib.scores import PipelineScore, Score, load

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Model = Annotated[
    str, typer.Option(help="hands, a folder as save_pretrained writes it, or a hub id")
]
Revision = Annotated[str | None, typer.Option(help="of a hub id: branch, tag or commit")]
Variant = Annotated[str | None, typer.Option(help="of the weight files, fp16 for instance")]
Dtype = Annotated[str, typer.Option(help=f"of the networks: {', '.join(DTYPES)}")]
Device = Annotated[str, typer.Option(help="of the networks: cpu, cuda, mps")]
Size = Annotated[
    str | None, typer.Option(help="of the images in pixels, 512 or HEIGHTxWIDTH; the model's own")
]
Fit = Annotated[
    str, typer.Option(help="images of another shape: crop to the middle, pad with white, stretch")
]
MicroBatch = Annotated[int, typer.Option(help="images or latents a network call")]
Offload = Annotated[bool, typer.Option("--offload", help="parts off the device while not in use")]
Slicing = Annotated[bool, typer.Option("--attention-slicing", help="less memory, more time")]
Tiling = Annotated[bool, typer.Option("--vae-tiling", help="less memory, more time")]
Sigma = Annotated[float | None, typer.Option(help="noise level that methods work at")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        help="method.name=value for one method, name=value for all; "
        "NAME.method=stein makes another NAME",
    ),
]


def load_model(
    model: str,
    *,
    revision: str | None,
    variant: str | None,
    dtype: str,
    device: str,
    size: str | None,
    sigma: float | None,
    micro_batch: int,
    offload: bool,
    attention_slicing: bool,
    vae_tiling: bool,
) -> Score:
    """The score of a model as the options of a command name it."""
    checks.choice("dtype", dtype, DTYPES)
    settings = {"sigma": sigma, "micro_batch": micro_batch}
    if size is not None:
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", size)
        if match is None:
            raise ValueError(f"size is 512, or HEIGHTxWIDTH as 512x768, got {size!r}")
        height, width = match.groups()
        settings["size"] = (int(height), int(width or height))
    less_memory = {
        "cpu_offload": offload,
        "attention_slicing": attention_slicing,
        "vae_tiling": vae_tiling,
    }
    settings |= {name: True for name, wanted in less_memory.items() if wanted}
    place = {"device": device, "dtype": DTYPES[dtype]}
    score = load(model, revision=revision, variant=variant, **place, **settings)
    if not isinstance(score, PipelineScore):
        raise TypeError(
            f"{model} is a model of pixels; this command wants a latent text-to-image model, as "
            "hands or Stable Diffusion"
        )
    return score


def run(app: typer.Typer) -> None:
    """Run a command line; a mistake of its user is one line on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
