"""Methods × pairs → one tidy table, its summary with intervals, comparisons on the same pairs."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lib import checks
from lib.density import along_path
from lib.scores import Score

from ..classifiers import KINDS, Classifier, Reference, load_classifier
from .bootstrap import Interval, bootstrap
from .frames import Distance, largest_step, mse, pdv, ppl, psnr, relative_to_ends, ssim
from .imagenet import IMAGENET, SIDE
from .motion import motion
from .sets import Network, OfPairs, set_measures
from .steps import adjacent_distances
from .typical import CONFIDENCE, RealDensity, confident_share, typicality

Frames = Float[Tensor, "pairs frames channels height width"]

INNER = (
    "mean over the frames between first and last (given or reconstructed: not counted), against "
    "the true frames"
)
DEFINITIONS = {
    "mse": f"mean squared error a pixel, {INNER}; lower is better",
    "psnr": f"−10 log10 of a frame's mean squared error, dB, {INNER}; higher is better",
    "ssim": "structural similarity, 11×11 Gaussian window (sigma 1.5), range 1, "
    f"{INNER}; higher is better",
    "perceptual": f"LPIPS's form on the bundled {{network}}, unweighted, {INNER}; lower is better",
    "lpips": "LPIPS v0.1 with published weights, small images enlarged to 64 pixels, "
    f"{INNER}; lower is better",
    "log_density_mean": "nats: mean of log p_sigma over all frames less its mean over the two "
    "ends, line integral of the score",
    "log_density_dip": "nats ≥ 0: how far log p_sigma of the lowest frame lies below the lower "
    "end; lower is better",
    "motion": "pixels a step: mean optical flow between adjacent frames, end points among them "
    "(Lucas–Kanade, pixels weighted by their structure); a cross-fade moves least",
    "confident_share": "share of the frames between first and last that the bundled {network} "
    f"reads as one class with probability ≥ {CONFIDENCE}; higher is better",
    "typicality": "mean log p_sigma of the frames between first and last less that of held-out "
    "real images, in standard deviations of the latter; 0 is typical, a mode lies above",
    "evaluations": "network (score) evaluations a pair: points at which the score was computed",
    "converged": "share of the geodesics whose solver converged",
    "seconds": "wall-clock seconds a pair, all pairs in one batch",
    "fid": "Fréchet distance of the bundled {network}'s features, frames between first and last of "
    "all pairs against {against}; lower is better, comparable at equal numbers of frames only",
    "kid": "unbiased squared MMD, kernel (x·y/k + 1)³, of the bundled {network}'s features, frames "
    "between first and last of all pairs against {against}; lower is better",
} | {
    network.measure: "unbiased squared MMD, kernel (x·y/m + 1)³, m the mean ‖y‖² of the reference, "
    f"of the mean-pooled last features of {name} (ImageNet; images enlarged to {SIDE} pixels), "
    "frames between first and last of all pairs against real images; lower is better, no FID"
    for name, network in IMAGENET.items()
}
PATH_DEFINITIONS = {
    "ppl": "sum of the {} distances of adjacent frames, end points among them; lower is better",
    "pdv": "standard deviation (divisor: their number) of the {} distances of adjacent frames, end "
    "points among them; lower is better",
    "largest_step": "largest of the {} distances of adjacent frames, end points among them; lower "
    "is better",
}
OF_PATH = "|".join(PATH_DEFINITIONS)


def definition(measure: str, classifier: str | Classifier = "digits") -> str:
    """What a column of the tables means, in one line.

    Args:
        measure: name of the column.
        classifier: "digits" or "hands", or one loaded: the network whose features fid, kid and
            perceptual were taken of.

    Raises:
        KeyError: the column is no measure.
        ValueError: unknown classifier.
    """
    if isinstance(classifier, str):
        kind = KINDS[checks.choice("classifier", classifier, KINDS)]
    else:
        kind = type(classifier)
    network = kind.kind.replace("-", " ")
    of_path = re.fullmatch(f"({OF_PATH})_(.+)", measure)
    if of_path is None:
        return DEFINITIONS[measure].format(network=network, against=kind.against)
    name, distance = of_path.groups()
    if distance == "perceptual":
        distance = f"perceptual ({network}'s)"
    return PATH_DEFINITIONS[name].format(distance)


def evaluate(
    frames: Mapping[str, Any],
    truth: Frames | None = None,
    *,
    distances: Mapping[str, Distance] | None = None,
    score: Score | None = None,
    real: RealDensity | None = None,
    classifier: Classifier | None = None,
    evaluations: Mapping[str, float | Tensor] | None = None,
    seconds: Mapping[str, float | Tensor] | None = None,
    about: Mapping[str, Sequence] | None = None,
) -> pd.DataFrame:
    """One row a (method, pair) with every measure that the arguments allow.

    `definition` says what each column is.

    Args:
        frames: method → frames (at least three) in [0, 1], or a result of `lib.interpolate`.
            Clamped to [0, 1], as they would be shown (not for the log density).
        truth: the true frames, of the same shape, for mse, psnr, ssim and distances. First and last
            frame do not count against it.
        distances: name → function of images twice -> (n,), for the columns name (with truth),
            ppl_name, pdv_name and largest_step_name. By default "perceptual", that of the bundled
            digit classifier; for photographs of hands load_classifier("hands").perceptual_distance.
        score: for the log density along the frames.
        real: log density of real images under this score, for typicality.
        classifier: for the share of frames that it reads with confidence.
        evaluations: method → total over the pairs, or (pairs,); the result's own by default.
        seconds: the same.
        about: further columns, one entry a pair (digit, angle).

    Raises:
        ValueError: no method, frames of different shapes, or a NaN.
    """
    if not frames:
        raise ValueError("evaluate needs the frames of at least one method")
    if real is not None and score is None:
        raise ValueError("typicality needs the score that real= was made with; pass score= too")
    if distances is None:
        distances = {"perceptual": load_classifier().perceptual_distance}
    counts = {
        method: result.evaluations
        for method, result in frames.items()
        if hasattr(result, "evaluations")
    }
    counts |= dict(evaluations or {})
    seconds = seconds or {}
    sets = {method: _tensor(result) for method, result in frames.items()}
    like = next(iter(sets.values())) if truth is None else truth
    tables = []
    for method, x in sets.items():
        _check(method, x, like)
        columns = {"method": method, "pair": range(len(x)), **(about or {})}
        columns |= _image_columns(x.clamp(0, 1), truth, distances)
        if score is not None:
            log_density = along_path(score, x)
            relative = relative_to_ends(log_density)
            columns["log_density_mean"] = relative.mean.cpu()
            columns["log_density_dip"] = relative.dip.cpu()
        if real is not None:
            columns["typicality"] = typicality(score, x, real, log_density).cpu()
        if classifier is not None:
            columns["confident_share"] = confident_share(x.clamp(0, 1), classifier).cpu()
        if method in counts:
            columns["evaluations"] = _each(counts[method], len(x))
        if method in seconds:
            columns["seconds"] = _each(seconds[method], len(x))
        table = pd.DataFrame(columns)
        _refuse_nan(method, table)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary(
    table: pd.DataFrame,
    by: str | Sequence[str] = "method",
    *,
    units: str | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Mean over pairs of every measure with its bootstrap interval.

    A group in which no row has a measure (seconds that were not taken) gets no row for it.

    Args:
        table: of `evaluate`.
        by: columns to group by.
        units: column that names the unit of each pair. Pairs of one unit (the turns of one digit)
            are drawn together; each unit has as many pairs as the others.
        settings: of `bootstrap` (level, draws, generator).

    Returns:
        Columns `by`, measure, estimate, low, high, pairs; low and high are NaN for one pair, or
        where a value is infinite (psnr).

    Raises:
        ValueError: unknown column, or only some rows of a group have a measure.
    """
    by = [by] if isinstance(by, str) else list(by)
    for name in [*by, *([units] if units else [])]:
        checks.choice("column", name, table.columns)
    measures = [column for column in table.columns if is_measure(column)]
    rows = []
    for key, group in table.groupby(by, sort=False, dropna=False):
        for measure in measures:
            values = group[measure].to_numpy(float, copy=True)
            missing = int(np.isnan(values).sum())
            if missing == len(values):
                continue
            if missing:
                raise ValueError(
                    f"{measure} is NaN in {missing} of {len(values)} rows of "
                    f"{', '.join(map(str, key))}; a mean over the others would mislead: mend these "
                    "rows, group more finely, or drop the rows or column"
                )
            if len(values) > 1 and np.isfinite(values).all():
                grouped = torch.from_numpy(values)[_grouped(units, group)]
                interval = bootstrap(grouped.mean(1), **settings)
            else:
                interval = Interval(values.mean(), np.nan, np.nan)
            rows.append((*key, measure, *interval, len(values)))
    return pd.DataFrame(rows, columns=[*by, "measure", "estimate", "low", "high", "pairs"])


def set_summary(
    frames: Mapping[str, Any],
    reference: Reference,
    *,
    classifier: Network | None = None,
    units: Sequence | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Set measures of each method's frames between first and last against a reference.

    FID and KID of a bundled classifier's features, or the kernel distance of an ImageNet network's.
    Intervals come from drawing pairs with all their frames, the draws' mean moved onto the estimate
    (`bootstrap`, centre): they show the spread over pairs.

    Args:
        frames: as in `evaluate`.
        reference: features of the other set.
        classifier: whose features the reference holds, that of digits if None (for hands
            load_classifier("hands"); or load_imagenet() with a `reference_of` it).
        units: of the pairs, one name each: pairs of one unit (the turns of one digit) are drawn
            together; each unit has as many pairs as the others.
        settings: of `bootstrap`.

    Returns:
        Rows as `summary`'s, to be put below them.
    """
    network = classifier or load_classifier()
    _check_network(network, reference)
    features = {method: set_features(x, network) for method, x in frames.items()}
    return summary_of_features(features, reference, network=network, units=units, **settings)


def set_differences(
    frames: Mapping[str, Any],
    methods: Sequence[str],
    baselines: Sequence[str],
    reference: Reference,
    *,
    classifier: Network,
    units: Sequence | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Set measures of each method less each baseline's, on the same pairs; below zero is better.

    Args:
        frames: as in `evaluate`.
        methods: names in `frames`.
        baselines: names in `frames`.
        reference: as in `set_summary`.
        classifier: as in `set_summary`.
        units: as in `set_summary`.
        settings: of `bootstrap`.

    Returns:
        Columns method, baseline, measure, estimate, low, high, pairs; intervals as `set_summary`'s.
    """
    names = [*methods, *baselines]
    for name in names:
        checks.choice("method", name, frames)
    _check_network(classifier, reference)
    features = {name: set_features(frames[name], classifier) for name in names}
    return differences_of_features(
        features, methods, baselines, reference, network=classifier, units=units, **settings
    )


def set_features(
    frames: Any, network: Network, *, every: int = 1
) -> Float[Tensor, "pairs frames k"]:
    """Features of the frames between first and last, of which set measures are taken.

    Args:
        frames: (pairs, N ≥ 3, c, h, w) or a result of `lib.interpolate`.
        network: whose features.
        every: take every so many of these frames only, which costs less.
    """
    x = _tensor(frames)
    _check("frames", x, x)
    inner = x[:, 1 : -1 : checks.count("every", every)]
    return network.features(inner.flatten(0, 1).clamp(0, 1)).unflatten(0, inner.shape[:2])


def summary_of_features(
    features: Mapping[str, Tensor],
    reference: Reference,
    *,
    network: Network,
    units: Sequence | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """`set_summary` of features that `set_features` has taken already."""
    rows = []
    for method, x in features.items():
        for measure, value in _of_units(x, reference, network, units).items():
            count = len(torch.unique(_unit_numbers(units, len(x))))
            interval = bootstrap(torch.arange(count), value, centre=True, **settings)
            rows.append((method, measure, *interval, len(x)))
    return pd.DataFrame(rows, columns=["method", "measure", "estimate", "low", "high", "pairs"])


def differences_of_features(
    features: Mapping[str, Tensor],
    methods: Sequence[str],
    baselines: Sequence[str],
    reference: Reference,
    *,
    network: Network,
    units: Sequence | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """`set_differences` of features that `set_features` has taken already."""
    names = [*methods, *baselines]
    if len({len(features[name]) for name in names}) > 1:
        raise ValueError("methods and baselines must have the same pairs")
    values = {
        name: {
            measure: _remembered(of_pairs)
            for measure, of_pairs in _of_units(features[name], reference, network, units).items()
        }
        for name in names
    }
    pairs = len(features[names[0]])
    count = len(torch.unique(_unit_numbers(units, pairs)))
    rows = []
    for measure in set_measures(network):
        for method, baseline in product(methods, baselines):

            def difference(
                indices: Tensor,
                first=values[method][measure],
                second=values[baseline][measure],
            ) -> Tensor:
                return first(indices) - second(indices)

            interval = bootstrap(torch.arange(count), difference, centre=True, **settings)
            rows.append((method, baseline, measure, *interval, pairs))
    columns = ["method", "baseline", "measure", "estimate", "low", "high", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def paired_ratio(
    table: pd.DataFrame,
    method: str,
    baseline: str,
    measure: str,
    *,
    units: str | None = None,
    **settings: Any,
) -> Interval:
    """Mean of a measure over pairs, method's over baseline's, with its interval.

    The same pairs of both are drawn.

    Args:
        table: of `evaluate`, one row a method and pair.
        method: name in the table.
        baseline: name in the table.
        measure: column of the table.
        units: as in `summary`.
        settings: of `bootstrap`.

    Raises:
        ValueError: unknown method, several rows for one method and pair, or a pair without value.
    """
    for name in (method, baseline):
        checks.choice("method", name, table["method"].unique())
    rows = table[table["method"].isin([method, baseline])]
    if rows.duplicated(["method", "pair"]).any():
        raise ValueError(
            "the table has several rows for one method and pair; pick the rows to compare first"
        )
    wide = rows.pivot(index="method", columns="pair", values=measure)
    values = torch.tensor(wide.loc[[method, baseline]].to_numpy(float))
    if values.isnan().any():
        raise ValueError(
            f"{method!r} and {baseline!r} do not both have a {measure} for every pair; compare on "
            "common pairs"
        )

    if units is not None:
        first = rows[rows["method"] == method].set_index("pair").loc[wide.columns]
        values = values[:, _grouped(units, first)].mean(2)

    def ratio_of_means(x: Tensor) -> Tensor:
        return x[0].mean(-1) / x[1].mean(-1)

    return bootstrap(values, ratio_of_means, **settings)


def _of_units(
    features: Tensor, reference: Reference, network: Network, units: Sequence | None
) -> dict[str, OfPairs]:
    """Each set measure of chosen units; without units each pair is one."""
    _check_network(network, reference)
    grouped = features[_rows_of_units(_unit_numbers(units, len(features)))].flatten(1, 2)
    return {name: measure(grouped, reference) for name, measure in set_measures(network).items()}


def _remembered(of_pairs: OfPairs) -> OfPairs:
    """The same, computed once for equal indices: each method is compared with several baselines."""
    known: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def of_chosen(indices: Tensor) -> Tensor:
        last = known.get(indices.shape)
        if last is None or not torch.equal(last[0], indices):
            last = (indices, of_pairs(indices))
            known[indices.shape] = last
        return last[1]

    return of_chosen


def _check_network(network: Network, reference: Reference) -> None:
    if network.sha256 != reference.model:
        raise ValueError(
            "the reference holds another classifier's features: load both by one name, "
            "load_classifier('hands') and load_reference('hands'), or make it anew with "
            "make_reference (of an ImageNet network with reference_of)"
        )


def _grouped(units: str | None, table: pd.DataFrame) -> Tensor:
    """Rows of the table by unit, (units, pairs of each)."""
    names = None if units is None else table[units].tolist()
    return _rows_of_units(_unit_numbers(names, len(table)))


def _unit_numbers(units: Sequence | None, pairs: int) -> Tensor:
    """A number for the unit of each pair, in the order of their first pairs."""
    if units is None:
        return torch.arange(pairs)
    if len(units) != pairs:
        raise ValueError(f"units names {len(units)} pairs, but there are {pairs}")
    return torch.from_numpy(pd.factorize(np.asarray(units))[0])


def _rows_of_units(numbers: Tensor) -> Tensor:
    """The pairs of each unit: (units, pairs of each)."""
    counts = torch.bincount(numbers)
    if (counts != counts[0]).any():
        raise ValueError(
            f"units have from {counts.min()} to {counts.max()} pairs; each must have as many as "
            "the others, or the mean would not be that of the pairs"
        )
    return torch.argsort(numbers, stable=True).reshape(len(counts), -1)


def _tensor(result: Any) -> Tensor:
    """The frames of a result of `lib.interpolate`, or the frames themselves."""
    return getattr(result, "frames", result)


def _image_columns(
    x: Tensor, truth: Tensor | None, distances: Mapping[str, Distance]
) -> dict[str, Tensor]:
    """Measures of frames in [0, 1], one number a pair."""
    columns = {}
    if truth is not None:
        inner = x[:, 1:-1].flatten(0, 1)
        true_inner = truth.to(x)[:, 1:-1].flatten(0, 1)
        measures = {"mse": mse, "psnr": psnr, "ssim": ssim, **distances}
        for name, measure in measures.items():
            values = measure(inner, true_inner).double()
            columns[name] = values.unflatten(0, (len(x), -1)).mean(1)
    for name, distance in distances.items():
        steps = adjacent_distances(x, distance).double()
        columns[f"ppl_{name}"] = ppl(steps)
        columns[f"pdv_{name}"] = pdv(steps)
        columns[f"largest_step_{name}"] = largest_step(steps)
    columns["motion"] = motion(x)
    return {name: values.cpu() for name, values in columns.items()}


def _each(total: float | int | Tensor, pairs: int) -> np.ndarray:
    """(pairs,) of a total over all pairs (shared evenly) or of one number a pair."""
    numbers = np.asarray(total, dtype=float)
    return np.full(pairs, numbers / pairs) if numbers.ndim == 0 else numbers


def _check(method: str, x: Tensor, like: Tensor) -> None:
    checks.finite(method, checks.floating(method, x))
    if x.ndim != 5 or x.shape[1] < 3 or x.shape != like.shape:
        raise ValueError(
            f"frames of {method!r} must have shape (pairs, N ≥ 3, c, h, w), all methods and the "
            f"truth the same; got {tuple(x.shape)} and {tuple(like.shape)}"
        )


def _refuse_nan(method: str, table: pd.DataFrame) -> None:
    measures = [column for column in table.columns if is_measure(column)]
    missing = table[measures].isna().sum()
    if missing.any():
        raise ValueError(
            f"{method!r} has NaN among its {', '.join(missing.index[missing > 0])} in up to "
            f"{missing.max()} of {len(table)} pairs; mend the distance, score or numbers given"
        )


def is_measure(column: str) -> bool:
    return column in DEFINITIONS or re.match(f"({OF_PATH})_", column) is not None
