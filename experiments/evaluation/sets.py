"""Distances between two sets of images through their features; the features are the caller's, and belong into every report."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lib import checks

from ..classifiers.base import Reference

ALL = torch.tensor([0])  # the one "pair" of a set that is not divided


def fid(features: Tensor, reference: Tensor | Reference) -> float:
    """Fréchet distance ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of Gaussians fitted to features (n, k) and to the reference.

    Heusel et al. 2017, eq. 6, in float64. Biased upwards for small n: compare only at equal n. reference: (m, k) or a Reference.
    """
    features, reference = _checked(features, reference)
    return float(fid_of_pairs(features[None], reference)(ALL))


def kid(
    features: Tensor,
    reference: Tensor | Reference,
    *,
    subsets: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al. 2018) of features (n, k) and reference (m, k): (value, standard error).

    value: the unbiased squared MMD of all rows under k(x, y) = (x·y/k + 1)³; it may be negative. standard error: of the mean of
    the values of `subsets` disjoint random parts (generator; seed 0 if None). From a Reference its sample is taken.
    """
    features, reference = _checked(features, reference)
    other = reference.sample
    checks.count("subsets", subsets, least=2)
    if min(len(features), len(other)) < 2 * subsets:
        raise ValueError(
            f"{subsets} subsets need {2 * subsets} rows on both sides, got {len(features)} and {len(other)}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    parts = [
        x[torch.randperm(len(x), generator=generator)].tensor_split(subsets)
        for x in (features, other)
    ]
    values = torch.stack(list(map(_mmd, *parts)))
    return float(_mmd(features, other)), float(values.std() / subsets**0.5)


def frechet_distance(
    mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor
) -> Tensor:
    """Squared 2-Wasserstein distance of Gaussians: means (…, k), covariances (…, k, k) -> (…). Fréchet 1957; batched over a."""
    values, vectors = torch.linalg.eigh(covariance_b)
    root = (
        vectors * values.clamp_min(0).sqrt()
    )  # Σ_b = root rootᵀ, so Σ_a Σ_b has the eigenvalues of rootᵀ Σ_a root
    spectrum = torch.linalg.eigvalsh(root.mT @ covariance_a @ root).clamp_min(0)
    traces = (covariance_a + covariance_b).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (mean_a - mean_b).square().sum(-1) + traces - 2 * spectrum.sqrt().sum(-1)


def fid_of_pairs(features: Tensor, reference: Reference) -> Callable[[Tensor], Tensor]:
    """The FID of the frames of chosen pairs: features (pairs, m, k) -> (function of indices (…, pairs) -> (…))."""
    pairs, m, k = features.shape
    x = features.double() - reference.mean
    sums, squares = x.sum(1), torch.einsum("pmi,pmj->pij", x, x).flatten(1)

    def chosen(indices: Tensor) -> Tensor:
        times, n = _times(indices, pairs), m * indices.shape[-1]
        mean = times @ sums / n
        covariance = (
            (times @ squares).unflatten(-1, (k, k)) - n * mean[..., :, None] * mean[..., None, :]
        ) / (n - 1)
        return frechet_distance(
            mean, covariance, torch.zeros_like(reference.mean), reference.covariance
        )

    return chosen


def kid_of_pairs(features: Tensor, reference: Reference) -> Callable[[Tensor], Tensor]:
    """The KID of the frames of chosen pairs, as `fid_of_pairs`."""
    return _mmd_of_pairs(features, reference.sample)


def _mmd_of_pairs(features: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    pairs, m, _ = features.shape
    x = features.double().flatten(0, 1)
    within, across = _kernel(x, x), _kernel(x, y).mean(1).reshape(pairs, m).sum(1)
    blocks, diagonal = (
        within.reshape(pairs, m, pairs, m).sum((1, 3)),
        within.diagonal().reshape(pairs, m).sum(1),
    )
    own = _kernel(y, y)
    rest = (own.sum() - own.trace()) / (len(y) * (len(y) - 1))

    def chosen(indices: Tensor) -> Tensor:
        times, n = _times(indices, pairs), m * indices.shape[-1]
        inside = (times @ blocks * times).sum(-1) - times @ diagonal
        return inside / (n * (n - 1)) + rest - 2 * times @ across / n

    return chosen


def _times(indices: Tensor, pairs: int) -> Tensor:
    """How often each pair was chosen: (…, chosen) -> (…, pairs), float64."""
    ones = torch.ones(indices.shape, dtype=torch.float64)
    return torch.zeros(*indices.shape[:-1], pairs, dtype=torch.float64).scatter_add(
        -1, indices, ones
    )


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    return _mmd_of_pairs(x[None], y)(ALL)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _checked(features: Tensor, reference: Tensor | Reference) -> tuple[Tensor, Reference]:
    known = isinstance(reference, Reference)
    other = reference.sample if known else reference
    for name, x in (("features", features), ("reference", other)):
        checks.finite(name, checks.floating(name, x))
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"{name} must have shape (rows ≥ 2, k), got {tuple(x.shape)}")
    if features.shape[1] != other.shape[1]:
        raise ValueError(
            f"features have {features.shape[1]} columns, the reference {other.shape[1]}: take both from one network"
        )
    other = other.double()
    return features.double(), reference if known else Reference(
        other.mean(0), other.T.cov(), other, "the caller's", "unknown"
    )
