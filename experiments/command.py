"""What the commands of this package share: options, the model that these name, and how they end."""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lib import checks
from lib.scores import PipelineScore, load

from .plans import settings_from_text

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Methods on a command line; their default is each command's own
Methods = Annotated[str, typer.Option(help="names with commas between")]


@dataclass(kw_only=True)
class Options:
    """Options of every command that makes frames, each with its help on the command line."""

    out: Annotated[
        Path, typer.Option(help="frames, tables, a page go here; what is there is not made again")
    ]
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            help="method.name=value for one method, name=value for all; "
            "NAME.method=stein makes another NAME",
        ),
    ] = None
    sigma: Annotated[float | None, typer.Option(help="noise level that methods work at")] = None
    density_sigma: Annotated[
        float | None, typer.Option(help="noise level of the log-density columns")
    ] = None
    guidance: float = 1.0
    negative: str = ""
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list what would be made and its cost, make nothing")
    ] = False
    fit: Annotated[
        str,
        typer.Option(help="images of another shape: crop to the middle, pad with white, stretch"),
    ] = "crop"
    size: Annotated[
        str | None, typer.Option(help="of the images: 512, or HEIGHTxWIDTH; the model's own")
    ] = None
    model: Annotated[
        str, typer.Option(help="hands, a folder as save_pretrained writes it, or a hub id")
    ] = "hands"
    revision: Annotated[str | None, typer.Option(help="of a hub id: branch, tag or commit")] = None
    variant: Annotated[str | None, typer.Option(help="of the weight files, fp16 for instance")] = (
        None
    )
    dtype: Annotated[str, typer.Option(help=f"of the networks: {', '.join(DTYPES)}")] = "float32"
    device: Annotated[str, typer.Option(help="of the networks: cpu, cuda, mps")] = "cpu"
    micro_batch: Annotated[int, typer.Option(help="images or latents a network call")] = 8
    cpu_offload: Annotated[
        bool, typer.Option("--offload", help="parts off the device while not in use")
    ] = False
    attention_slicing: Annotated[
        bool, typer.Option("--attention-slicing", help="less memory, more time")
    ] = False
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="less memory, more time")] = False

    def settings(self, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The settings of each method."""
        return settings_from_text(self.assignments or [], methods)

    def score(self, prompt: str = "") -> PipelineScore:
        """The score of the model under a prompt."""
        checks.choice("dtype", self.dtype, DTYPES)
        settings: dict[str, Any] = {"sigma": self.sigma, "micro_batch": self.micro_batch}
        if self.size is not None:
            match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", self.size)
            if match is None:
                raise ValueError(f"size is 512, or HEIGHTxWIDTH as 512x768, got {self.size!r}")
            height, width = match.groups()
            settings["size"] = (int(height), int(width or height))
        for name in ("cpu_offload", "attention_slicing", "vae_tiling"):
            if getattr(self, name):
                settings[name] = True
        score = load(
            self.model,
            revision=self.revision,
            variant=self.variant,
            device=self.device,
            dtype=DTYPES[self.dtype],
            **settings,
        )
        if not isinstance(score, PipelineScore):
            raise TypeError(
                f"{self.model} is a model of pixels; this command wants a latent text-to-image "
                "model, as hands or Stable Diffusion"
            )
        return score.prompted(prompt, guidance=self.guidance, negative=self.negative)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with all options of `Options` in place of its parameter `options`."""
    names = [field.name for field in fields(Options)]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in names})
        command(options=options, **given)

    own = inspect.signature(command).parameters
    shared = inspect.signature(Options).parameters
    parameters = [own[name] for name in own if name != "options"] + list(shared.values())
    # typer reads this
    called.__signature__ = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    )
    return called


def listed(names: str) -> list[str]:
    """The names in a text with commas between."""
    return [name.strip() for name in names.split(",") if name.strip()]


def run(app: typer.Typer) -> None:
    """Run a command line; a mistake of its user is one line on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
