"""One style for all figures, one way to keep them: picture, plotted numbers and where they came from, side by side."""

import hashlib
import importlib.metadata
import io
import json
import math
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from lib.files import replacing
from lib.files import writing as writing

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "diffusers", "matplotlib")

# Hues after Okabe and Ito (2008), with darker and lighter kin. Colour-blind readers tell them apart; where one hue
# serves two names, the names never share a figure or their lines differ in dashes (LINES).
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
    "shared_noise_lerp": "#4D4D4D",
    "shared_noise_slerp": "#0072B2",
    "ddim_slerp": "#2E7D5B",
    "noisediffusion": "#B5519A",
    "guided_walk": "#7A5200",
    # solvers; relaxation and functional_gradient wear the colour of the paper they come from
    "gauss_newton": "#D55E00",
    "relaxation": "#E69F00",
    "functional_gradient": "#009E73",
    "georce": "#56B4E9",
    "shooting": "#0072B2",
}
BASELINES = frozenset(
    [
        "euclidean",
        "lerp",
        "slerp",
        "shared_noise_lerp",
        "shared_noise_slerp",
        "ddim_slerp",
        "noisediffusion",
        "guided_walk",
    ]
)
LINES: dict[str, str] = {name: "--" if name in BASELINES else "-" for name in PALETTE} | {
    "exact": ":"
}

RC = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
    # 12 points on 6.4 inches is still 6 points when the figure fills one column of two
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.usetex": False,
    "image.cmap": "viridis",
    "pdf.fonttype": 42,
    "axes.prop_cycle": mpl.cycler(
        color=["#D55E00", "#0072B2", "#009E73", "#E69F00", "#B5519A", "#56B4E9", "#000000"]
    ),
}


def use_style() -> None:
    """Set the style of every figure drawn from here on: white, light grid, readable at half width, no TeX."""
    sns.set_theme(context="notebook", style="whitegrid", rc=RC)


def colour(method: str) -> str:
    """The fixed colour of a method, metric or solver, as "#RRGGBB". ValueError for a name without one."""
    if method not in PALETTE:
        near = get_close_matches(method, PALETTE, n=1, cutoff=0)[0]
        raise ValueError(f"no colour for {method!r}; did you mean {near!r}?")
    return PALETTE[method]


def line(method: str) -> dict[str, str]:
    """Keywords for `Axes.plot`: colour, dashes (baselines dashed, the exact answer dotted) and label of a method."""
    return {"color": colour(method), "linestyle": LINES[method], "label": method.replace("_", " ")}


def save(
    figure: Figure,
    name: str,
    *,
    folder: str | Path,
    arrays: Mapping[str, Any],
    parameters: Mapping[str, Any],
    data: Iterable[Any] = (),
    model: Any = None,
    seed: int | None = None,
) -> dict[str, Path]:
    """Write `name`.png, .pdf, .npz (the plotted arrays) and .json (provenance) into `folder`, all four or none.

    figure: a matplotlib figure, or anything with one (`Axes`, seaborn's grids). name: lower case, digits, "_", "-".
    arrays: name → tensor or array of any shape, what the figure plots. data: the source(s) used (`digits(...).source`).
    model: what names the model (id, revision, checksum). Equal content gives equal bytes: no file holds a date.
    Returns {"png", "pdf", "npz", "json"} → path. Raises ValueError for a bad name or array, OSError if the folder
    cannot be written, and then leaves what stood there untouched.
    """
    picture, numbers = _figure(figure), _arrays(arrays)
    digests = {key: _digest(array) for key, array in numbers.items()}
    record = _record(name, "figure", parameters, data, model, seed, arrays=digests)
    files = _targets(folder, name, "figure", ("png", "pdf", "npz", "json"))
    undated = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    contents = [
        _in_memory(picture.savefig, format="png", metadata={"Software": None}),
        _in_memory(picture.savefig, format="pdf", metadata=undated),
        _in_memory(np.savez_compressed, **numbers),
        record.encode(),
    ]
    with replacing(*files.values()) as drafts:
        for draft, content in zip(drafts, contents, strict=True):
            draft.write_bytes(content)
    return files


def save_results(
    name: str,
    results: Mapping[str, Any] | pd.DataFrame,
    *,
    folder: str | Path,
    parameters: Mapping[str, Any],
    data: Iterable[Any] = (),
    model: Any = None,
    seed: int | None = None,
) -> dict[str, Path]:
    """Write results with their provenance: a dict into `name`.json, a table into `name`.csv beside `name`.json.

    Arguments, errors and atomicity as for `save`. NaN and infinite numbers become the strings "nan", "inf", "-inf" in
    JSON, which float() reads back. Returns {"json"} or {"csv", "json"} → path.
    """
    table = isinstance(results, pd.DataFrame)
    extra = (
        {"rows": len(results), "columns": list(results.columns)} if table else {"results": results}
    )
    record = _record(name, "results", parameters, data, model, seed, **extra)
    files = _targets(folder, name, "results", ("csv", "json") if table else ("json",))
    with replacing(*files.values()) as drafts:
        if table:
            results.to_csv(drafts[0], index=False, lineterminator="\n")
        drafts[-1].write_text(record, encoding="utf-8")
    return files


def plain(value: Any) -> Any:
    """`value` as JSON knows it: tensors, arrays, paths, dataclasses and numpy's numbers turned into plain ones."""
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
        f"cannot keep a {type(value).__name__} in a result file; convert it to numbers or text first"
    )


def _in_memory(write: Callable[..., None], **settings: Any) -> bytes:
    """What `write` would put into a file; matplotlib's PDF writer answers a full disk with an unrelated error."""
    buffer = io.BytesIO()
    write(buffer, **settings)
    return buffer.getvalue()


def _figure(figure: Any) -> Figure:
    found = getattr(figure, "figure", None)
    if not isinstance(found, Figure):
        raise TypeError(f"save() wants a matplotlib figure, got {type(figure).__name__}")
    return found


def _arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not arrays:
        raise ValueError(
            "save() wants the plotted arrays, so that a reader can check or redraw the figure"
        )
    return {name: _array(name, value) for name, value in arrays.items()}


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has no bfloat16
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype == object:
        raise ValueError(f"array {name!r} is ragged or holds objects; give it numbers of one shape")
    return array


def _digest(array: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


def _targets(folder: str | Path, name: str, kind: str, endings: tuple[str, ...]) -> dict[str, Path]:
    files = {ending: Path(folder) / f"{name}.{ending}" for ending in endings}
    if files["json"].exists() and f'"kind": "{kind}"' not in files["json"].read_text(
        encoding="utf-8"
    ):
        raise ValueError(
            f"{files['json'].name} is there and holds no {kind} record; choose another name or delete it"
        )
    return files


def _record(
    name: str,
    kind: str,
    parameters: Mapping[str, Any],
    data: Iterable[Any],
    model: Any,
    seed: int | None,
    **more: Any,
) -> str:
    """The provenance of one figure or result file, as JSON text."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(
            f"{name!r} is no file name for a figure; use lower-case letters, digits, '_' and '-'"
        )
    sources = [data] if is_dataclass(data) else list(data)
    record = {
        "name": name,
        "kind": kind,
        "parameters": parameters,
        "seed": seed,
        "model": model,
        "data": sources,
        "code": _commit(),
        "python": platform.python_version(),
        "packages": _versions(),
        **more,
    }
    return json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _versions() -> dict[str, str | None]:
    installed = {dist: None for dist in PACKAGES}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def _commit() -> dict[str, Any]:
    """Commit of this checkout and whether sources differ from it; both None without git or outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    # what `make figures` itself rewrites is a result, not a source
    changes = _git("status", "--porcelain", "--", ".", ":!figures")
    return {"commit": commit, "modified": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # else git would find a surrounding checkout that is not ours
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
