"""One style for all figures, and one way to store them: a picture, and the numbers it plots."""

import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from lib import checks
from lib.files import replacing

STYLE = Path(__file__).with_name("paper.mplstyle")
RESULTS = Path(__file__).parent.parent / "data" / "results"
SOURCES = "sources.json"  # which data and which model the figures beside it were made from

# Hues after Okabe and Ito (2008), with darker and lighter kin. Colour-blind readers tell them
# apart; where one hue serves two names, the names never share a figure or their lines differ in
# dashes (LINES).
PALETTE: dict[str, str] = {
    "exact": "#000000",
    "euclidean": "#8C8C8C",
    # metrics and the methods named after them
    "stein": "#D55E00",
    "density": "#0072B2",
    "both": "#B5519A",
    "jacobian": "#56B4E9",
    "spacetime": "#7A5200",
    "azeglio2025": "#E69F00",
    "yu2025": "#009E73",
    # baselines
    "lerp": "#8C8C8C",
    "slerp": "#56B4E9",
    "lerp_denoised": "#7A5200",
    "ot": "#E69F00",
    "shared_noise_lerp": "#4D4D4D",
    "shared_noise_slerp": "#0072B2",
    "ddim_slerp": "#2E7D5B",
    "noisediffusion": "#5D3A9B",
    "guided_walk": "#7A5200",
    # solvers; relaxation and functional_gradient wear the colour of the paper they come from
    "gauss_newton": "#D55E00",
    "relaxation": "#E69F00",
    "adam, 1e-2": "#7A5200",
    "adam, 1e-3": "#B5519A",
    "functional_gradient": "#009E73",
    "georce": "#56B4E9",
    "shooting": "#0072B2",
}
BASELINES = (
    "euclidean",
    "lerp",
    "slerp",
    "lerp_denoised",
    "ot",
    "shared_noise_lerp",
    "shared_noise_slerp",
    "ddim_slerp",
    "noisediffusion",
    "guided_walk",
)
LINES: dict[str, str] = dict.fromkeys(PALETTE, "-") | dict.fromkeys(BASELINES, "--")
LINES["exact"] = ":"

# parameters that say where a notebook runs
ELSEWHERE = {"compute", "device", "dtype", "figures_dir", "work"}


def use_style() -> None:
    """Draw every figure from here on in the style of paper.mplstyle."""
    matplotlib.style.use(STYLE)


def colour(method: str) -> str:
    """The fixed colour of a method, metric or solver.

    Args:
        method: a name of `PALETTE`.

    Returns:
        The colour as "#RRGGBB".

    Raises:
        ValueError: a name without a colour; the message has the nearest one.
    """
    return PALETTE[checks.choice("method with a colour", method, PALETTE)]


def line(method: str) -> dict[str, str]:
    """Keywords for `Axes.plot`: colour, dashes and label of a method.

    Baselines are dashed, the exact answer is dotted.
    """
    return {"color": colour(method), "linestyle": LINES[method], "label": method.replace("_", " ")}


def save(
    figure: Figure, name: str, *, folder: str | Path, arrays: Mapping[str, Any]
) -> dict[str, Path]:
    """Write a figure as `name`.png and .pdf, and what it plots as `name`.npz: all three or none.

    Equal content gives equal bytes, for no file holds a date.

    Args:
        figure: a matplotlib figure, or anything that has one (`Axes`, seaborn's grids).
        name: lower-case letters, digits, "_" and "-".
        folder: where to; it is made if it is not there.
        arrays: name → tensor or array of any shape, the numbers that the figure plots.

    Returns:
        {"png", "pdf", "npz"} → path.

    Raises:
        ValueError: a bad name or array.
        TypeError: no figure.
        OSError: the folder cannot be written; what stood there is untouched.
    """
    picture = _figure(figure)
    if not arrays:
        raise ValueError("save() wants the plotted arrays, so that a reader can redraw the figure")
    numbers = {key: _array(key, value) for key, value in arrays.items()}
    files = _targets(folder, name, ("png", "pdf", "npz"))
    undated = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    contents = [
        _in_memory(picture.savefig, format="png", metadata={"Software": None}),
        _in_memory(picture.savefig, format="pdf", metadata=undated),
        _in_memory(np.savez_compressed, **numbers),
    ]
    with replacing(*files.values()) as drafts:
        for draft, content in zip(drafts, contents, strict=True):
            draft.write_bytes(content)
    return files


def save_results(
    name: str, results: Mapping[str, Any] | pd.DataFrame, *, folder: str | Path
) -> dict[str, Path]:
    """Write results: a dict into `name`.json, a table into `name`.csv.

    In JSON, NaN and infinite numbers become the texts "nan", "inf", "-inf"; float() reads them.

    Args:
        name: lower-case letters, digits, "_" and "-".
        results: name → numbers or text, nested at will, or a table.
        folder: where to; it is made if it is not there.

    Returns:
        {"json"} or {"csv"} → path.

    Raises:
        ValueError: a bad name.
        TypeError: something that is neither numbers nor text.
        OSError: the folder cannot be written; what stood there is untouched.
    """
    if isinstance(results, pd.DataFrame):
        files = _targets(folder, name, ("csv",))
        text = results.to_csv(index=False, lineterminator="\n")
    else:
        files = _targets(folder, name, ("json",))
        text = _json(results)
    with replacing(*files.values()) as (draft,):
        draft.write_text(text, encoding="utf-8", newline="\n")
    return files


def record_sources(
    folder: str | Path, *sources: Any, model: Any = None, seed: int | None = None
) -> Path:
    """Note in folder/sources.json which data and which model a notebook used.

    A later call adds to what an earlier one noted; nothing is listed twice. The file holds
    {"data": [...], "models": [...], "seed": ...}.

    Args:
        folder: that of the figures.
        sources: where data came from (`digits(...).source`).
        model: what names the model (`score.origin`): id, revision, checksums.
        seed: of the notebook's random generators.

    Returns:
        The file.

    Raises:
        ValueError: a damaged sources.json.
        OSError: the folder cannot be written.
    """
    path = Path(folder) / SOURCES
    known = {"data": [], "models": [], "seed": None}
    if path.exists():
        try:
            known |= json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error
    models = [] if model is None else [model]
    for key, items in (("data", sources), ("models", models)):
        for item in plain(items):
            if item not in known[key]:
                known[key].append(item)
    if seed is not None:
        known["seed"] = seed
    with replacing(path) as (draft,):
        draft.write_text(_json(known), encoding="utf-8", newline="\n")
    return path


def check_committed(number: str, variables: Mapping[str, Any]) -> None:
    """Refuse to read committed tables that were made with other parameters than the notebook's.

    Args:
        number: Of the notebook, "04" for instance.
        variables: The notebook's, `globals()`, before it has changed a parameter.

    Raises:
        ValueError: A parameter differs from the one that the tables in data/results were made with.
    """
    recorded = json.loads((RESULTS / f"{number}_parameters.json").read_text(encoding="utf-8"))
    for name, value in recorded.items():
        if name not in ELSEWHERE and plain(variables[name]) != value:
            raise ValueError(
                f"the committed tables were made with {name} = {value!r}, not with "
                f"{variables[name]!r}: set compute = True to make them anew"
            )


def plain(value: Any) -> Any:
    """A value as JSON knows it.

    Tensors, arrays, paths, dataclasses and numpy's numbers become plain ones; NaN and infinite
    numbers become text.

    Raises:
        TypeError: something that is neither numbers nor text.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (Path, torch.dtype, torch.device)):
        return str(value)
    raise TypeError(
        f"cannot keep a {type(value).__name__} in a result file; turn it into numbers or text first"
    )


def _in_memory(write: Callable[..., None], **settings: Any) -> bytes:
    """What `write` would put into a file.

    matplotlib's PDF writer answers a full disk with an unrelated error; bytes in memory do not.
    """
    buffer = io.BytesIO()
    write(buffer, **settings)
    return buffer.getvalue()


def _figure(figure: Any) -> Figure:
    found = getattr(figure, "figure", None)
    if not isinstance(found, Figure):
        raise TypeError(f"save() wants a matplotlib figure, got {type(figure).__name__}")
    return found


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # numpy has no bfloat16
        value = value.float() if value.dtype == torch.bfloat16 else value
    try:
        array = np.asarray(value)
    except ValueError:
        # lists of different lengths
        array = np.empty(0, object)
    if array.dtype == object:
        raise ValueError(f"array {name!r} is ragged or holds objects; give it numbers of one shape")
    return array


def _targets(folder: str | Path, name: str, endings: tuple[str, ...]) -> dict[str, Path]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(
            f"{name!r} is no file name for a figure; use lower-case letters, digits, '_' and '-'"
        )
    return {ending: Path(folder) / f"{name}.{ending}" for ending in endings}


def _json(content: Any) -> str:
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
