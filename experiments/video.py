"""Is a video a geodesic? Frames between its first and last, and beyond, by several methods.

    python -m experiments.video CLIP --out DIR --model hands --methods lerp,stein,density

CLIP is a video (mp4, mov …), a moving picture (gif, webp) or a folder of frames; several are
videos of one table. A run that was cut short goes on where it was.
"""

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor
from tqdm import tqdm

from lib import checks, latents
from lib.methods.baselines import EXTRAPOLATIONS
from lib.methods.interpolate import Frames, extrapolate, interpolate, keyword_names
from lib.methods.presets import METHODS
from lib.scores import PipelineScore
from lib.solvers import shoot
from lib.video import deviation, velocity

from .command import Methods, Options, listed, run, with_options
from .evaluation import path_log_density, psnr
from .figures import plain, save_results
from .images import read_frames
from .names import fitting_names
from .plans import method_plan, most_evaluations
from .run_page import Item, not_converged, row_name, write_page
from .stored_frames import (
    checksum,
    load_frames,
    model_name,
    require_own_folder,
    store,
    stored,
    to_json,
)

__all__ = ["Clip", "read_clips", "run_videos"]

WRITTEN = ("frames", "next", "table.csv", "settings.json", "run.html")
# The row of the video itself, as the autoencoder shows it
VIDEO = "video"
# What shoots where another method interpolates
BEYOND = {"lerp": "straight"}


@dataclass(frozen=True)
class Clip:
    """A video of a run.

    Attributes:
        name: after which its folders are called.
        frames: of the video that is asked about, in [0, 1].
        following: the frames after it, which an extrapolation is compared with.
    """

    name: str
    frames: Tensor
    following: Tensor


def read_clips(
    sources: Sequence[str | Path],
    size: tuple[int, int],
    *,
    frames: int = 13,
    ahead: int = 4,
    every: int | None = None,
    first: int = 0,
    fit: str = "crop",
) -> list[Clip]:
    """Videos, each of `frames` frames and `ahead` further ones at equal steps.

    Args:
        sources: as `experiments.images.read_frames` reads them.
        size: (height, width) in pixels.
        frames: of a video, at least 3.
        ahead: frames after the last one.
        every: steps from one frame to the next; the largest that fits if None.
        first: place of the first frame.
        fit: of frames of another shape: "crop", "pad" or "stretch".

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a video that cannot be read, is too short, or ends where it began.
    """
    checks.count("frames", frames, least=3)
    checks.count("ahead", ahead, least=0)
    wanted = frames + ahead
    paths = [Path(source).expanduser().resolve() for source in sources]
    names = fitting_names([path.name if path.is_dir() else path.stem for path in paths])
    clips = []
    for name, source in zip(names, sources, strict=True):
        found = read_frames(source, size=size, fit=fit, first=first, every=every, count=wanted)
        if len(found) < wanted:
            raise ValueError(
                f"{source} has {len(found)} frames from frame {first} on, and {frames} and {ahead} "
                "following ones are wanted; lower --frames, --ahead, --every or --first"
            )
        if torch.equal(found[0], found[frames - 1]):
            raise ValueError(
                f"the first frame of {source} equals its last, there is no path between them: cut "
                "the loop with --frames, --every or --first"
            )
        clips.append(Clip(name, found[:frames], found[frames:]))
    return clips


def run_videos(
    score: PipelineScore,
    clips: Sequence[Clip],
    methods: Sequence[str],
    out: str | Path,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    density_sigma: float | None = None,
    last: int = 3,
    steps: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Paths between the ends of videos and beyond them, and a table, a row a (method, video).

    Writes to `out`: frames/METHOD/VIDEO/00.png …, next/METHOD/VIDEO/00.png … (the last frame and
    the extrapolated ones), table.csv and settings.json. What stands there and was made from the
    same frames, model and settings is not made again.

    The row "video" is the video itself: its psnr is what the autoencoder alone loses.

    Args:
        score: the latent model, under the prompt of the videos.
        clips: the videos.
        methods: names of `interpolate`, or labels; see `run_pairs`.
        out: a folder that is new, empty, or of an earlier run.
        settings: method → what `interpolate` takes; what `extrapolate` takes too goes to it.
        density_sigma: noise level of the log-density along the latents; the score's own if None.
        last: frames that the velocity of the extrapolation is fitted to.
        steps: Runge–Kutta steps a frame that is extrapolated along a geodesic.
        progress: a bar on stderr.

    Returns:
        The table. off_in_step and off_matched are root mean square distances of the frames between
        the ends from the path, in distances of the ends, at their own times and at the best ones
        (`lib.video.deviation`). log_density_mean and log_density_dip are along the frames of the
        path. psnr is that of its frames between the ends, next_psnr that of the extrapolated ones,
        and still_psnr that of the last frame held, all against the video in dB.

    Raises:
        ValueError, TypeError: bad input.
        OSError: the folder cannot be written.
    """
    out = Path(out)
    plan = {VIDEO: (VIDEO, {})}
    plan |= method_plan([name for name in methods if name != VIDEO], settings or {}, "none")
    level = score.at(score.sigma if density_sigma is None else density_sigma)
    run = _Run(score, level, last, steps)
    require_own_folder(out, WRITTEN)
    model = model_name(score)
    rows = []
    with tqdm(total=len(plan) * len(clips), unit="video", disable=not progress) as bar:
        for label, (method, own) in plan.items():
            bar.set_postfix_str(label)
            own = {name: value for name, value in own.items() if name != "prompts"}
            for clip in clips:
                asked = [clip.frames, clip.following, method, own, level.sigma, last, steps, model]
                inputs = checksum([*asked, score.settings])
                result = _stored(out, label, clip.name, inputs)
                if result is None:
                    shown, following, result = run.made(clip, method, own)
                    if len(following):
                        store(out / "next" / label / clip.name, following, inputs, {})
                    store(out / "frames" / label / clip.name, shown, inputs, result)
                rows.append({"method": label, "video": clip.name, **result})
                bar.update()
    table = pd.DataFrame(rows)
    save_results("table", table, folder=out)
    used = {
        "methods": plan,
        "density_sigma": level.sigma,
        "last": last,
        "steps": steps,
        "model": model,
        "prompt": score.settings["prompt"],
    }
    save_results("settings", json.loads(to_json(used)), folder=out)
    return table


def _stored(out: Path, label: str, name: str, inputs: str) -> dict[str, Any] | None:
    """What is known of the frames of one video, if they and the extrapolated ones are whole."""
    result = stored(out / "frames" / label / name, inputs)
    if result is None or not result["next_frames"]:
        return result
    return None if stored(out / "next" / label / name, inputs) is None else result


@dataclass(frozen=True)
class _Run:
    score: PipelineScore
    # the score at the noise level of the log-density
    level: PipelineScore
    last: int
    steps: int

    def made(
        self, clip: Clip, method: str, settings: dict[str, Any]
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Frames between the ends, frames beyond (the last one among them), what is measured."""
        z = latents.encode(self.score, clip.frames)[None]
        begun = time.perf_counter()
        if method == VIDEO:
            made = None
            path = z
        else:
            given = {"method": method, "frames": z.shape[1], **settings}
            made = interpolate(self.score, z[:, 0], z[:, -1], **given)
            path = made.frames
        beyond = self.beyond(z, method, settings, len(clip.following))
        seconds = time.perf_counter() - begun
        off = deviation(path, z)
        density = path_log_density(self.level, path)
        shown = latents.decode(self.score, path[0])
        following = clip.frames[:0]
        if beyond is not None:
            following = latents.decode(self.score, beyond.frames[0])
        elif method == VIDEO and len(clip.following):
            following = torch.cat([clip.frames[-1:], clip.following])
        still = clip.frames[-1:].expand_as(clip.following)
        result = {
            "off_in_step": _inner_rms(off.equal),
            "off_matched": _inner_rms(off.matched),
            "log_density_mean": float(density.mean),
            "log_density_dip": float(density.dip),
            "psnr": _mean_psnr(shown[1:-1], clip.frames[1:-1]),
            "next_psnr": None if beyond is None else _mean_psnr(following[1:], clip.following),
            "still_psnr": _mean_psnr(still, clip.following),
            "converged": _converged(made),
            "next_converged": _converged(beyond),
            "evaluations": 0 if made is None else made.evaluations,
            "next_evaluations": None if beyond is None else beyond.evaluations,
            "next_frames": len(following),
            "seconds": seconds,
            "settings": json.dumps({} if made is None else plain(made.settings)),
        }
        return shown, following, result

    def beyond(
        self, z: Tensor, method: str, settings: Mapping[str, Any], ahead: int
    ) -> Frames | None:
        """Frames that go on from the end of a video; None where the method has no such thing."""
        method = BEYOND.get(method, method)
        shoots = method in METHODS and METHODS[method].form is not None
        if ahead == 0 or not (shoots or method in EXTRAPOLATIONS):
            return None
        given = {"method": method, "frames": ahead + 1}
        names = {*keyword_names(extrapolate), *keyword_names(shoot)} - {"method", "tol"}
        if shoots:
            given["steps"] = self.steps * ahead
            names |= METHODS[method].metric_settings.keys()
        given |= {name: value for name, value in settings.items() if name in names}
        speed = velocity(z, last=min(self.last, z.shape[1]))
        try:
            return extrapolate(self.score, z[:, -1], ahead * speed, **given)
        except ArithmeticError as error:
            warnings.warn(f"{method} does not go on beyond the video: {error}", stacklevel=2)
            return None


def _converged(made: Frames | None) -> bool | None:
    """Whether the geodesic of one video converged; None where there is none."""
    return None if made is None or made.path is None else bool(made.path.converged[0])


def _mean_psnr(frames: Tensor, truth: Tensor) -> float | None:
    return float(psnr(frames, truth).mean()) if len(truth) else None


def _inner_rms(distances: Tensor) -> float:
    """Root mean square over the frames between the first and the last."""
    return float(distances[0, 1:-1].square().mean().sqrt())


# ---- the command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_options
def command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="CLIP", help="videos, moving pictures or folders of frames"),
    ],
    options: Options,
    methods: Methods = "lerp,stein,density",
    prompt: Annotated[str, typer.Option(help="what the videos show")] = "",
    frames: Annotated[int, typer.Option(help="of a video, both ends included")] = 13,
    ahead: Annotated[int, typer.Option(help="frames after it that are extrapolated")] = 4,
    first: Annotated[int, typer.Option(help="place of the first frame, from 0")] = 0,
    every: Annotated[
        int | None, typer.Option(help="steps from one frame to the next; the largest that fits")
    ] = None,
    last: Annotated[int, typer.Option(help="frames that the velocity is fitted to")] = 3,
    steps: Annotated[int, typer.Option(help="Runge–Kutta steps an extrapolated frame")] = 8,
) -> None:
    """Is a video a geodesic? Deviation, density, frames between its ends and beyond."""
    names = listed(methods)
    settings = options.settings(names)
    score = options.score(prompt)
    height, width = score.image_size
    wanted = {"frames": frames, "ahead": ahead, "every": every, "first": first}
    clips = read_clips(sources, (height, width), fit=options.fit, **wanted)
    if options.dry_run:
        print(
            f"{len(clips)} videos, made {width}×{height} ({options.fit}): {frames} frames and "
            f"{ahead}"
        )
        print("\n".join(f"  {clip.name}" for clip in clips))
        print(
            "evaluations of the score a video, without the frames beyond (geodesics: at max_iter)"
        )
        for label, (method, own) in method_plan(names, settings, "none").items():
            print(f"  {label}: {most_evaluations(score, method, own, frames)}")
        return
    table = run_videos(
        score,
        clips,
        names,
        options.out,
        settings=settings,
        density_sigma=options.density_sigma,
        last=last,
        steps=steps,
    )
    page = _write_page(options.out, table, prompt)
    shown = ["method", "video", "off_matched", "log_density_dip", "psnr", "next_psnr", "converged"]
    print(table[shown].to_string(index=False))
    print("".join(f"{line}\n" for line in not_converged(table)), end="")
    print(f"{os.path.relpath(options.out / 'table.csv')}, {os.path.relpath(page)}")


def _write_page(out: Path, table: pd.DataFrame, prompt: str) -> Path:
    def items() -> Iterator[Item]:
        for video, rows in table.groupby("video", sort=False):
            paths = {}
            following = {}
            for row in rows.itertuples():
                name = row_name(row.method, row.converged)
                paths[name] = load_frames(out / "frames" / row.method / video)
                if row.next_frames:
                    frames = load_frames(out / "next" / row.method / video)
                    following[row_name(f"{row.method},\nnext", row.next_converged)] = frames
            yield Item(video, prompt, paths | following, tuple(paths))

    return write_page(
        out,
        title="Videos against paths between their ends",
        table=table,
        means=None,
        items=items(),
        count=table["video"].nunique(),
    )


if __name__ == "__main__":
    run(app)
