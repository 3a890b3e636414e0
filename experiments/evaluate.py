"""Frames of any method on disk, evaluated as a paper does it: one tidy table.

    python -m experiments.evaluate FRAMES --protocol diffmorpher --out DIR

The protocols and their definitions are in `experiments.evaluation.protocols`. What cannot be
measured as the protocol says is left out, with its reason; what differs from the published protocol
(another network, another number of frames) stands beside each number.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm

from lib import checks
from lib.files import replacing

from .command import run
from .evaluation.bootstrap import Interval, bootstrap
from .evaluation.frame_folders import FrameFolder, find_frames, size_in_words
from .evaluation.frames import Distance
from .evaluation.imagenet import EfficientNetLite0, ImageNetNetwork, load_imagenet
from .evaluation.inception import load_inception
from .evaluation.protocols import (
    PROTOCOLS,
    FeatureMeasure,
    FrameMeasure,
    Measure,
    Protocol,
    StepMeasure,
)
from .evaluation.published import SMALLEST, load_lpips
from .evaluation.steps import adjacent_distances
from .images import pictures, read

__all__ = ["PROTOCOLS", "Evaluation", "evaluate_folder", "find_frames"]

FeatureNetwork = Callable[[Tensor], Tensor]


@dataclass
class Evaluation:
    """What `evaluate_folder` gives.

    Attributes:
        table: one row a number: protocol, method, pair (empty for a number of all pairs), measure,
            value, definition, source, departures (what differs from the published protocol).
        summary: one row a method and measure: protocol, method, measure, estimate, low, high (95 %
            interval over pairs, empty for one pair), pairs, definition, departures.
        left_out: measure → why it is not there.
        settings: protocol, networks and versions.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    left_out: dict[str, str]
    settings: dict[str, Any]

    def save(self, folder: str | Path) -> list[Path]:
        """Write PROTOCOL.csv, PROTOCOL_summary.csv and PROTOCOL.json, all of them or none."""
        name = self.settings["protocol"]
        settings = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        contents = {
            f"{name}.csv": self.table.to_csv(index=False, lineterminator="\n"),
            f"{name}_summary.csv": self.summary.to_csv(index=False, lineterminator="\n"),
            f"{name}.json": settings,
        }
        targets = [Path(folder) / name for name in contents]
        with replacing(*targets) as drafts:
            for draft, text in zip(drafts, contents.values(), strict=True):
                draft.write_text(text, encoding="utf-8", newline="\n")
        return targets


def evaluate_folder(
    folder: str | Path,
    protocol: str = "ours",
    *,
    references: str | Path | None = None,
    lpips: str | None = None,
    distance: Distance | None = None,
    features: FeatureNetwork | None = None,
    pairs_first: bool = False,
    device: str = "cpu",
    draws: int = 200,
    download: bool = False,
    progress: bool = False,
) -> Evaluation:
    """The numbers of one protocol for frames on disk.

    Args:
        folder: frames as `find_frames` reads them.
        protocol: a name of `PROTOCOLS`.
        references: a folder of real pictures, for measures that compare with them.
        lpips: "alex", "vgg" or "squeeze", the protocol's own if None. The rows of another one are
            called after it ("diffmorpher, with LPIPS (squeeze)").
        distance: any other distance of images (n, 3, h, w) in [0, 1], instead of LPIPS.
        features: pictures (n, 3, h, w) in [0, 1] to features (n, k), instead of loading the network
            of FID or KID; its attribute `name` says whose it is.
        pairs_first: the layout is FOLDER/PAIR/METHOD.
        device: where networks run.
        draws: bootstrap draws of pairs, for the interval of a number of all pairs.
        download: fetch published weights that are not on this machine.
        progress: a bar on stderr.

    Raises:
        FileNotFoundError: no such folder, or LPIPS's weights are not on this machine.
        ValueError: frames that the protocol cannot take.
    """
    chosen = PROTOCOLS[checks.choice("protocol", protocol, PROTOCOLS)]
    place = checks.device(device)
    checks.count("draws", draws, least=2)
    folders = find_frames(folder, pairs_first=pairs_first)
    files = _reference_files(references, chosen)
    if chosen.equal_frames:
        _check_equal_frames(folders)
    meter = _meter(chosen, lpips, distance, download)
    networks, left_out = _feature_networks(chosen, features, bool(files), download)
    measures = [measure for measure in chosen.measures if measure.name not in left_out]
    words = _Words(chosen, meter, networks, bool(files))
    rows = []
    # method → network → features of each pair
    paths: dict[str, dict[str, list[Tensor]]] = {}
    for item in tqdm(folders, desc=chosen.name, unit="pair", disable=not progress):
        frames = item.read().to(place)
        steps = _steps(item, frames, chosen, meter)
        path = {name: network(frames).double().cpu() for name, network in networks.items()}
        for name, found in path.items():
            paths.setdefault(item.method, {}).setdefault(name, []).append(found)
        for measure in measures:
            if isinstance(measure, StepMeasure):
                rows.append(words.row(item, measure, measure.of(steps), frames))
            elif isinstance(measure, FrameMeasure):
                rows.append(words.row(item, measure, measure.of(frames), frames))
            elif measure.each_pair:
                value = measure.of([path[measure.network]], None)
                rows.append(words.row(item, measure, value, frames))
    compared = _reference_features(files, networks, place)
    intervals = {}
    for measure in measures:
        if isinstance(measure, FeatureMeasure) and not measure.each_pair:
            for method, found in paths.items():
                name = measure.network
                interval = _of_all_pairs(measure, found[name], compared.get(name), draws)
                intervals[method, measure.name] = interval
                rows.append(words.row_of_all(method, measure, interval.estimate))
    table = pd.DataFrame(rows)
    settings = {
        "protocol": chosen.name,
        "source": chosen.source,
        "networks": {meter.name: meter.source, **words.names},
        "references": len(files),
        "draws": draws,
        "left_out": left_out,
        "versions": {name: version(name) for name in ("torch", "lpips", "pillow")},
    }
    return Evaluation(table, _summary(table, measures, intervals), left_out, settings)


# ---- networks


@dataclass(frozen=True)
class _Meter:
    """The distance of adjacent frames and what to call it."""

    distance: Distance
    name: str
    # Not the protocol's own
    foreign: bool
    is_lpips: bool
    source: str


def _meter(
    protocol: Protocol, lpips: str | None, distance: Distance | None, download: bool
) -> _Meter:
    if distance is not None:
        if lpips is not None:
            raise ValueError("give lpips= or distance=, not both")
        name = name_of(distance)
        return _Meter(distance, name, foreign=True, is_lpips=False, source=name)
    net = lpips or protocol.lpips[0]
    try:
        loaded = load_lpips(net, download=download)
    except FileNotFoundError as error:
        hint = "" if net == "squeeze" else "; or take lpips='squeeze' (--lpips squeeze)"
        raise FileNotFoundError(f"{error}{hint}") from error
    foreign = net not in protocol.lpips
    return _Meter(loaded, f"LPIPS ({net})", foreign, is_lpips=True, source=loaded.source)


def _feature_networks(
    protocol: Protocol, features: FeatureNetwork | None, references: bool, download: bool
) -> tuple[dict[str, FeatureNetwork], dict[str, str]]:
    """Networks of features that can be had, and measures that cannot, with the reason."""
    networks = {}
    left_out = {}
    for measure in protocol.measures:
        if not isinstance(measure, FeatureMeasure):
            continue
        if measure.references == "needed" and not references:
            left_out[measure.name] = (
                "it compares with real pictures: name a folder of them (references=, --references)"
            )
            continue
        try:
            networks[measure.network] = features or _feature_network(measure.network, download)
        except FileNotFoundError as error:
            left_out[measure.name] = str(error)
    return networks, left_out


def _feature_network(name: str, download: bool) -> FeatureNetwork:
    if name == EfficientNetLite0.name:
        return _Features(load_imagenet(name))
    return load_inception(name.removeprefix("inception, "), download=download)


class _Features:
    """An ImageNet network as a function of images."""

    def __init__(self, network: ImageNetNetwork) -> None:
        self.name = network.name
        self._network = network

    def __call__(self, images: Tensor) -> Tensor:
        return self._network.features(images)


def name_of(network: Any) -> str:
    """What a distance or a network of features is called in the tables."""
    for attribute in ("name", "__name__"):
        if isinstance(getattr(network, attribute, None), str):
            return getattr(network, attribute)
    return type(network).__name__


# ---- numbers


def _steps(item: FrameFolder, frames: Tensor, protocol: Protocol, meter: _Meter) -> Tensor:
    """Distances of adjacent frames, float64 on the CPU."""
    if protocol.resized:
        frames = torch.stack([_squeezed(frame, protocol.size) for frame in frames]).to(frames)
    steps = adjacent_distances(frames[None], meter.distance)[0].double().cpu()
    return checks.finite(f"{meter.name} of the frames of {item}", steps)


def _squeezed(frame: Tensor, size: int) -> Tensor:
    """A frame of size × size pixels by Pillow's bilinear resizing, whatever its sides were."""
    image = to_pil_image((255 * frame).round().to(torch.uint8).cpu())
    return pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR)) / 255


def _reference_features(
    files: Sequence[Path], networks: Mapping[str, FeatureNetwork], place: torch.device
) -> dict[str, Tensor]:
    """Network → features of the references, taken one by one, since their sizes may differ."""
    if not files:
        return {}
    found = {}
    for name, network in networks.items():
        parts = [network(read(file)[None].to(place)) for file in files]
        found[name] = torch.cat(parts).double().cpu()
    return found


def _of_all_pairs(
    measure: FeatureMeasure, paths: Sequence[Tensor], references: Tensor | None, draws: int
) -> Interval:
    """A number of all pairs, its interval from drawing pairs with all their frames.

    The draws' mean is moved onto the estimate: pairs drawn twice bias a Fréchet distance.
    """

    def one_by_one(indices: Tensor) -> Tensor:
        if indices.ndim > 1:
            return torch.stack([one_by_one(row) for row in indices])
        chosen = [paths[i] for i in indices.tolist()]
        return torch.tensor(measure.of(chosen, references), dtype=torch.float64)

    of_chosen = one_by_one
    if measure.of_pairs is not None:
        of_chosen = measure.of_pairs(paths, references)
    every = torch.arange(len(paths))
    if len(paths) < 2:
        return Interval(float(of_chosen(every)), np.nan, np.nan)
    return bootstrap(every, of_chosen, draws=draws, centre=True)


def _summary(
    table: pd.DataFrame,
    measures: Sequence[Measure],
    intervals: Mapping[tuple[str, str], Interval],
) -> pd.DataFrame:
    """A row a method and measure; numbers a pair are averaged or summed."""
    rows = []
    for method in table["method"].unique():
        of_method = table[table["method"] == method]
        pairs = of_method["pair"].nunique()
        for measure in measures:
            own = of_method[of_method["measure"] == measure.name]
            interval = intervals.get((method, measure.name))
            if interval is None:
                values = torch.from_numpy(own["value"].to_numpy(float, copy=True))
                interval = _over_pairs(values, measure)
            departures = dict.fromkeys(part for part in own["departures"] if part)
            rows.append(
                {
                    "protocol": own["protocol"].iloc[0],
                    "method": method,
                    "measure": measure.name,
                    **interval._asdict(),
                    "pairs": pairs,
                    "definition": own["definition"].iloc[0],
                    "departures": " / ".join(departures),
                }
            )
    return pd.DataFrame(rows)


def _over_pairs(values: Tensor, measure: Measure) -> Interval:
    """Mean or sum of a number a pair, with its interval."""
    summed = isinstance(measure, StepMeasure) and measure.over_pairs == "sum"
    times = len(values) if summed else 1
    if len(values) < 2:
        return Interval(times * float(values.mean()), np.nan, np.nan)
    estimate, low, high = bootstrap(values)
    return Interval(times * estimate, times * low, times * high)


# ---- words


class _Words:
    """Rows of the table: numbers with the protocol's name, definition, source and departures."""

    def __init__(
        self,
        protocol: Protocol,
        meter: _Meter,
        networks: Mapping[str, FeatureNetwork],
        references: bool,
    ) -> None:
        self.protocol = protocol
        self.meter = meter
        self.names = {wanted: name_of(network) for wanted, network in networks.items()}
        self.references = references
        # method → departures of the frames of all its pairs
        self.of_frames: dict[str, dict[str, None]] = {}

    def row(
        self, item: FrameFolder, measure: Measure, value: float, frames: Tensor
    ) -> dict[str, Any]:
        """A number of one pair."""
        departures = self._frame_departures(frames)
        self.of_frames.setdefault(item.method, {}).update(dict.fromkeys(departures))
        if isinstance(measure, StepMeasure):
            departures = [*departures, *self._distance_departures(frames)]
        return self._row(item.method, item.pair, measure, value, departures)

    def row_of_all(self, method: str, measure: Measure, value: float) -> dict[str, Any]:
        """A number of all pairs."""
        return self._row(method, None, measure, value, list(self.of_frames.get(method, {})))

    def _row(
        self,
        method: str,
        pair: str | None,
        measure: Measure,
        value: float,
        departures: Sequence[str],
    ) -> dict[str, Any]:
        return {
            "protocol": self._label(measure),
            "method": method,
            "pair": pair,
            "measure": measure.name,
            "value": value,
            "definition": self._definition(measure),
            "source": measure.source,
            "departures": "; ".join(departures),
        }

    def _label(self, measure: Measure) -> str:
        """The protocol's name, followed by a network that is not its own."""
        if isinstance(measure, FrameMeasure):
            other = ""
        elif isinstance(measure, StepMeasure):
            other = self.meter.name if self.meter.foreign else ""
        else:
            used = self.names[measure.network]
            other = used if used != measure.network else ""
        return f"{self.protocol.name}, with {other}" if other else self.protocol.name

    def _definition(self, measure: Measure) -> str:
        if isinstance(measure, StepMeasure):
            size = self.protocol.size
            where = f", at {size}×{size} pixels" if self.protocol.resized else ""
            summed = "; summed over pairs" if measure.over_pairs == "sum" else ""
            name = f"{self.meter.name} of adjacent frames{where}"
            return f"{measure.definition}, d the {name}{summed}"
        if isinstance(measure, FrameMeasure):
            return measure.definition
        given = self.references and measure.references != "unused"
        inputs = "the references" if given else "the first and last frames of all pairs"
        what = measure.definition.format(inputs=inputs)
        return f"{measure.distance} of features ({self.names[measure.network]}): {what}"

    def _frame_departures(self, frames: Tensor) -> list[str]:
        found = []
        counts = self.protocol.frames
        if counts is not None and len(frames) not in counts:
            found.append(f"{len(frames)} frames instead of {' or '.join(map(str, counts))}")
        size = self.protocol.size
        if size is not None and size_in_words(frames) != f"{size}×{size}":
            found.append(f"{size_in_words(frames)} pixels instead of {size}×{size}")
        return found

    def _distance_departures(self, frames: Tensor) -> list[str]:
        found = []
        if self.meter.foreign:
            found.append(f"{self.meter.name} instead of LPIPS ({self.protocol.lpips[0]})")
        small = min(frames.shape[-2:]) < SMALLEST and not self.protocol.resized
        if self.meter.is_lpips and small:
            found.append(f"enlarged to {SMALLEST} pixels for LPIPS")
        return found


# ---- input


def _check_equal_frames(folders: Sequence[FrameFolder]) -> None:
    counts = {len(item.files): item for item in folders}
    if len(counts) > 1:
        listed = ", ".join(f"{count} frames in {item}" for count, item in sorted(counts.items()))
        raise ValueError(
            "the paths must have one number of frames, since sums and spreads of steps depend on "
            f"it: {listed}; make them anew with one number, or evaluate them apart"
        )


def _reference_files(references: str | Path | None, protocol: Protocol) -> list[Path]:
    if references is None:
        return []
    if not protocol.uses_references():
        raise ValueError(
            f"protocol {protocol.name!r} compares with no other pictures; leave references out"
        )
    folder = Path(references)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one of real pictures")
    files = pictures(folder.rglob("*"))
    if len(files) < 2:
        raise ValueError(
            f"{folder} holds {len(files)} picture(s); a Fréchet distance needs two or more: name "
            "the folder of the real pictures"
        )
    return files


# ---- the command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def in_words(evaluation: Evaluation) -> str:
    """The summary as a person reads it: numbers, what they mean, what is missing."""
    lines = []
    shown = evaluation.summary.copy()
    shown["value [95 % interval]"] = [
        f"{row.estimate:.4g}" + ("" if np.isnan(row.low) else f" [{row.low:.4g}, {row.high:.4g}]")
        for row in shown.itertuples()
    ]
    columns = ["method", "measure", "value [95 % interval]", "pairs"]
    lines.append(shown[columns].to_string(index=False))
    for (label, measure), rows in shown.groupby(["protocol", "measure"], sort=False):
        lines.append(f"{measure} ({label}): {rows['definition'].iloc[0]}")
    for departures, rows in shown.groupby("departures", sort=False):
        if departures:
            lines.append(f"departs from the protocol ({_listed(rows)}): {departures}")
    for measure, reason in evaluation.left_out.items():
        lines.append(f"left out: {measure}: {reason}")
    return "\n".join(lines)


def _listed(rows: pd.DataFrame) -> str:
    return ", ".join(rows["measure"].unique())


@app.command()
def command(
    frames: Annotated[
        Path,
        typer.Argument(
            help="a folder of pictures for each pair, METHOD/PAIR, or the output of "
            "python -m experiments.pairs"
        ),
    ],
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "ours",
    references: Annotated[
        Path | None, typer.Option(help="a folder of real pictures, for measures that need them")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="a folder for the table, its summary and the settings")
    ] = None,
    lpips: Annotated[
        str | None, typer.Option(help="alex, vgg or squeeze, instead of the protocol's own")
    ] = None,
    pairs_first: Annotated[
        bool, typer.Option("--pairs-first", help="the layout is PAIR/METHOD")
    ] = False,
    device: str = "cpu",
    draws: Annotated[
        int, typer.Option(help="bootstrap draws for numbers of all pairs at once")
    ] = 200,
    download: Annotated[
        bool, typer.Option("--download", help="fetch published weights that are missing")
    ] = False,
) -> None:
    """Frames on disk, of any method, evaluated as a paper or its repository does it."""
    evaluation = evaluate_folder(
        frames,
        protocol,
        references=references,
        lpips=lpips,
        pairs_first=pairs_first,
        device=device,
        draws=draws,
        download=download,
        progress=True,
    )
    if out is not None:
        evaluation.save(out)
    print(in_words(evaluation))


if __name__ == "__main__":
    run(app)
