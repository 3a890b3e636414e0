"""Methods × pairs → one tidy table; its summary with intervals; comparisons of methods on the same pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import checks
from lib.scores import Score

from ..classifiers.base import Classifier, Reference, kinds, load_classifier
from .bootstrap import Interval, bootstrap
from .frames import Distance, adjacent_distances, mse, path_log_density, pdv, ppl, psnr, ssim
from .sets import fid_of_pairs, kid_of_pairs

_OF_PAIRS = {"fid": fid_of_pairs, "kid": kid_of_pairs}
_INNER = "mean over the frames between first and last (given or reconstructed: not counted), against the true frames"
_DEFINITIONS = {
    "mse": f"mean squared error a pixel, {_INNER}; lower is better",
    "psnr": f"−10 log10 of a frame's mean squared error, dB, {_INNER}; higher is better",
    "ssim": f"structural similarity, 11×11 Gaussian window (sigma 1.5), range 1, {_INNER}; higher is better",
    "perceptual": f"LPIPS's form on the bundled {{network}}, unweighted, {_INNER}; lower is better",
    "lpips": f"LPIPS v0.1 with published weights, small images enlarged to 64 pixels, {_INNER}; lower is better",
    "log_density_mean": "nats: mean of log p_sigma over all frames less its mean over the two ends, line integral of the score",
    "log_density_dip": "nats ≥ 0: how far log p_sigma of the lowest frame lies below the lower end; lower is better",
    "evaluations": "network (score) evaluations a pair: points at which the score was computed",
    "seconds": "wall-clock seconds a pair, all pairs in one batch",
    "fid": "Fréchet distance of the bundled {network}'s features, frames between first and last of all pairs against "
    "{against}; lower is better, comparable at equal numbers of frames only",
    "kid": "unbiased squared MMD, kernel (x·y/k + 1)³, of the bundled {network}'s features, frames between first and last of all "
    "pairs against {against}; lower is better",
}
_PATH = {
    "ppl": "sum of the {} distances of adjacent frames, end points among them",
    "pdv": "standard deviation (divisor: their number) of the {} distances of adjacent frames, end points among them",
}


def definition(measure: str, classifier: str | Classifier = "digits") -> str:
    """What a column of the tables means, in one line; KeyError for a column that is no measure.

    classifier: "digits" or "hands", or one loaded: the network whose features fid, kid and perceptual were taken of.
    """
    of = (
        kinds()[checks.choice("classifier", classifier, kinds())]
        if isinstance(classifier, str)
        else type(classifier)
    )
    names = {"network": of.kind.replace("-", " "), "against": of.against}
    if found := re.fullmatch("(ppl|pdv)_(.+)", measure):
        distance = f"perceptual ({names['network']}'s)" if found[2] == "perceptual" else found[2]
        return _PATH[found[1]].format(distance) + "; lower is better"
    return _DEFINITIONS[measure].format(**names)


def evaluate(
    frames: Mapping[str, Any],
    truth: Tensor | None = None,
    *,
    distances: Mapping[str, Distance] | None = None,
    score: Score | None = None,
    evaluations: Mapping[str, float | Tensor] | None = None,
    seconds: Mapping[str, float | Tensor] | None = None,
    about: Mapping[str, Sequence] | None = None,
) -> pd.DataFrame:
    """One row a (method, pair): mse, psnr, ssim (with `truth`), ppl and pdv, log density (with `score`), evaluations, seconds.

    frames: method → (pairs, N ≥ 3, c, h, w) in [0, 1], or a result of `lib.interpolate`; clamped to [0, 1], as they would be
    shown (not for the log density). truth: the true frames, same shape; first and last frame do not count against it.
    distances: name → images twice -> (n,), for the columns name (with truth), ppl_name and pdv_name; by default "perceptual",
    that of the bundled digit classifier; for photographs of hands load_classifier("hands").perceptual_distance.
    evaluations, seconds: method → total over the pairs, or (pairs,); evaluations default
    to the result's own. about: further columns, one entry a pair (digit, angle). Definitions: `definition(column)`.
    """
    if not frames:
        raise ValueError("evaluate needs the frames of at least one method")
    sets = {method: getattr(value, "frames", value) for method, value in frames.items()}
    known = {
        m: value.evaluations for m, value in frames.items() if hasattr(value, "evaluations")
    } | dict(evaluations or {})
    like = next(iter(sets.values())) if truth is None else truth
    distances = (
        {"perceptual": load_classifier().perceptual_distance} if distances is None else distances
    )
    parts = []
    for method, x in sets.items():
        _check(method, x, like)
        columns = {"method": method, "pair": range(len(x)), **(about or {})}
        columns |= _image_columns(x.clamp(0, 1), truth, distances)
        if score is not None:
            columns |= {
                f"log_density_{name}": v.cpu()
                for name, v in path_log_density(score, x)._asdict().items()
            }
        columns |= {
            name: _each(given[method], len(x))
            for name, given in (("evaluations", known), ("seconds", seconds or {}))
            if method in given
        }
        parts.append(_without_nan(method, pd.DataFrame(columns)))
    return pd.concat(parts, ignore_index=True)


def summary(
    table: pd.DataFrame, by: str | Sequence[str] = "method", **settings: Any
) -> pd.DataFrame:
    """Mean over pairs of every measure with its bootstrap interval: columns `by`, measure, estimate, low, high, pairs.

    settings: of `bootstrap` (level, draws, generator). low and high are NaN for one pair, or where a value is infinite (psnr).
    A group in which no row has a measure (seconds that were not taken) gets no row for it; ValueError if only some have it.
    """
    by, rows = [by] if isinstance(by, str) else list(by), []
    for name in by:
        checks.choice("column", name, table.columns)
    for key, group in table.groupby(by, sort=False, dropna=False):
        for measure in filter(_is_measure, table.columns):
            values = group[measure].to_numpy(float, copy=True)
            if (missing := np.isnan(values).sum()) == len(values):
                continue
            if missing:
                raise ValueError(
                    f"{measure} is NaN in {missing} of {len(values)} rows of {', '.join(map(str, key))}; a mean "
                    "over the others would mislead: mend these rows, group more finely, or drop the rows or column"
                )
            usable = len(values) > 1 and np.isfinite(values).all()
            found = (
                bootstrap(torch.from_numpy(values), **settings)
                if usable
                else (values.mean(), np.nan, np.nan)
            )
            rows.append((*key, measure, *found, len(values)))
    return pd.DataFrame(rows, columns=[*by, "measure", "estimate", "low", "high", "pairs"])


def set_summary(
    frames: Mapping[str, Any],
    reference: Reference,
    *,
    classifier: Classifier | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """FID and KID of each method's frames between first and last against `reference`; rows as `summary`'s, to be put below them.

    classifier: whose features the reference holds, that of digits if None (for hands load_classifier("hands")).
    Intervals by drawing pairs with all their frames, the draws' mean moved onto the estimate (`bootstrap`, centre): they show the
    spread over pairs. Frames, clamping and settings as in `evaluate` and `summary`.
    """
    rows = []
    for method, features in _features(frames, reference, classifier or load_classifier()).items():
        for measure, of_pairs in _OF_PAIRS.items():
            found = bootstrap(
                torch.arange(len(features)), of_pairs(features, reference), centre=True, **settings
            )
            rows.append((method, measure, *found, len(features)))
    return pd.DataFrame(rows, columns=["method", "measure", "estimate", "low", "high", "pairs"])


def set_differences(
    frames: Mapping[str, Any],
    methods: Sequence[str],
    baselines: Sequence[str],
    reference: Reference,
    *,
    classifier: Classifier,
    **settings: Any,
) -> pd.DataFrame:
    """FID and KID of each method less each baseline's, on the same pairs, with intervals as `set_summary`'s; below zero is better.

    Columns method, baseline, measure, estimate, low, high, pairs.
    """
    for name in (*methods, *baselines):
        checks.choice("method", name, frames)
    features = _features(
        {name: frames[name] for name in (*methods, *baselines)}, reference, classifier
    )
    if len({len(x) for x in features.values()}) > 1:
        raise ValueError("methods and baselines must have the same pairs")
    rows = []
    for measure, of_pairs in _OF_PAIRS.items():
        value = {name: of_pairs(x, reference) for name, x in features.items()}
        for a, b in product(methods, baselines):
            n = len(features[a])
            found = bootstrap(
                torch.arange(n),
                lambda i, a=a, b=b: value[a](i) - value[b](i),
                centre=True,
                **settings,
            )
            rows.append((a, b, measure, *found, n))
    return pd.DataFrame(
        rows, columns=["method", "baseline", "measure", "estimate", "low", "high", "pairs"]
    )


def paired_ratio(
    table: pd.DataFrame, method: str, baseline: str, measure: str, **settings: Any
) -> Interval:
    """Mean of a measure over pairs, method's over baseline's, with its bootstrap interval over the same pairs of both."""
    for name in (method, baseline):
        checks.choice("method", name, table["method"].unique())
    rows = table[table["method"].isin([method, baseline])]
    if rows.duplicated(["method", "pair"]).any():
        raise ValueError(
            "the table has several rows for one method and pair; pick the rows to compare first"
        )
    both = (
        rows.pivot(index="method", columns="pair", values=measure)
        .loc[[method, baseline]]
        .to_numpy(float)
    )
    if np.isnan(both).any():
        raise ValueError(
            f"{method!r} and {baseline!r} do not both have a {measure} for every pair; compare on common pairs"
        )
    return bootstrap(torch.tensor(both), lambda v: v[0].mean(-1) / v[1].mean(-1), **settings)


def _features(
    frames: Mapping[str, Any], reference: Reference, classifier: Classifier
) -> dict[str, Tensor]:
    """Of each method's frames between first and last: (pairs, frames − 2, k)."""
    if classifier.sha256 != reference.model:
        raise ValueError(
            "the reference holds another classifier's features: load both by one name, load_classifier('hands') "
            "and load_reference('hands'), or make it anew with make_reference"
        )
    found = {}
    for method, value in frames.items():
        x = getattr(value, "frames", value)
        _check(method, x, x)
        found[method] = classifier.features(x[:, 1:-1].flatten(0, 1).clamp(0, 1)).unflatten(
            0, (len(x), -1)
        )
    return found


def _image_columns(
    x: Tensor, truth: Tensor | None, distances: Mapping[str, Distance]
) -> dict[str, Tensor]:
    found = {}
    if truth is not None:
        a, b = (y[:, 1:-1].flatten(0, 1) for y in (x, truth.to(x)))
        against = {"mse": mse, "psnr": psnr, "ssim": ssim, **distances}
        found = {
            name: measure(a, b).double().unflatten(0, (len(x), -1)).mean(1)
            for name, measure in against.items()
        }
    for name, distance in distances.items():
        steps = adjacent_distances(x, distance).double()
        found |= {f"ppl_{name}": ppl(steps), f"pdv_{name}": pdv(steps)}
    return {name: values.cpu() for name, values in found.items()}


def _each(total: float | Tensor, pairs: int) -> np.ndarray:
    """(pairs,) of a total over all pairs (shared evenly) or of one number a pair."""
    numbers = np.asarray(total, dtype=float)
    return np.full(pairs, numbers / pairs) if numbers.ndim == 0 else numbers


def _check(method: str, x: Tensor, like: Tensor) -> None:
    checks.finite(method, checks.floating(method, x))
    if x.ndim != 5 or x.shape[1] < 3 or x.shape != like.shape:
        raise ValueError(
            f"frames of {method!r} must have shape (pairs, N ≥ 3, c, h, w), all methods and the truth the same; got "
            f"{tuple(x.shape)} and {tuple(like.shape)}"
        )


def _without_nan(method: str, rows: pd.DataFrame) -> pd.DataFrame:
    bad = rows[list(filter(_is_measure, rows.columns))].isna().sum()
    if bad.any():
        raise ValueError(
            f"{method!r} has NaN among its {', '.join(bad.index[bad > 0])} in up to {bad.max()} of {len(rows)} "
            "pairs; mend the distance, score or numbers given"
        )
    return rows


def _is_measure(column: str) -> bool:
    return column in _DEFINITIONS or re.match("(ppl|pdv)_", column) is not None
