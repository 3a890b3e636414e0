"""The command that makes frames: pairs."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command("pairs", rich_help_panel="Models and pairs")
def pairs_command(
    folder: Annotated[
        Path,
        typer.Argument(help="pairs.csv, NAME_0.png and NAME_1.png, or subfolders of two images"),
    ],
    out: Annotated[
        Path, typer.Option(help="frames and tables go here; what stands there is not made again")
    ],
    model: Annotated[
        str, typer.Option(help="hands, a folder in the StableDiffusionPipeline layout, or a hub id")
    ] = "hands",
    methods: Annotated[str, typer.Option(help="names with commas between")] = "lerp,slerp,stein",
    frames: int = 17,
    batch: Annotated[int, typer.Option(help="pairs at once")] = 8,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            help="method.name=value for one method, name=value for all; NAME.method=stein makes another NAME",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="pixels a side, the model's own if left out")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="of a hub id")] = None,
    sigma: Annotated[float | None, typer.Option(help="noise level that methods work at")] = None,
    density_sigma: Annotated[
        float | None, typer.Option(help="noise level of the log-density columns")
    ] = None,
    guidance: float = 1.0,
    negative: str = "",
    device: str = "cpu",
    gif: bool = False,
    micro_batch: Annotated[int, typer.Option(help="images or latents a network call")] = 8,
) -> None:
    """Frames between the two images of every pair, by every method, as files and one table; a cut run goes on."""
    from experiments import pairs
    from experiments.pairs.plan import parsed

    wanted = [name.strip() for name in methods.split(",") if name.strip()]
    settings = parsed(assignments or [], wanted)
    found = pairs.read_pairs(folder)
    score = _latent_model(
        model, size, revision=revision, sigma=sigma, device=device, micro_batch=micro_batch
    )
    score = score.prompted("", guidance=guidance, negative=negative)
    table = pairs.run_pairs(
        score,
        found,
        wanted,
        out,
        frames=frames,
        batch=batch,
        settings=settings,
        density_sigma=density_sigma,
        gif=gif,
    )
    print((out / "summary.csv").read_text(encoding="utf-8"), end="")
    for label, lost in (
        table["converged"].eq(False).groupby(table["method"], sort=False).sum().items()
    ):
        if lost:
            print(
                f"{label}: {lost} of {len(found)} geodesics did not converge (column converged of the table)"
            )
    print(f"{len(found)} pairs, {len(wanted)} methods: {os.path.relpath(out / 'table.csv')}")


def _latent_model(name: str, size: int | None, **settings: Any) -> Any:
    """A bundled model by its name, else a folder or a hub id."""
    from ...scores import StableDiffusionScore, load
    from ...scores.loading import BUNDLED

    if name not in BUNDLED:
        return load(name, size=None if size is None else (size, size), **settings)
    if size is not None:
        raise ValueError(f"{name} has its own size; leave --size out")
    score = load(name, **settings)
    if not isinstance(score, StableDiffusionScore):
        raise ValueError(
            f"{name} is no latent text-to-image model; name hands, a folder or a hub id"
        )
    return score
