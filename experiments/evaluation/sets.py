"""Distances between two sets of images through their features; reports name the network."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib import checks

from ..classifiers import Classifier, Reference
from .imagenet import ImageNetNetwork

# The one "pair" of a set that is not divided.
ALL = torch.tensor([0])

Features = Float[Tensor, "rows k"]
OtherFeatures = Float[Tensor, "other_rows k"]
PairFeatures = Float[Tensor, "pairs frames k"]
Network = Classifier | ImageNetNetwork
# Indices of chosen pairs (…, pairs) -> (…,)
OfPairs = Callable[[Tensor], Tensor]


def fid(features: Features, reference: OtherFeatures | Reference) -> float:
    """Fréchet distance ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of Gaussians fitted to features.

    Heusel et al. 2017, eq. 6, in float64. Biased upwards for small n: compare only at equal n.

    Args:
        features: of one set.
        reference: features of the other, or a `Reference`.
    """
    features, reference = _checked(features, reference)
    return float(fid_of_pairs(features[None], reference)(ALL))


def kid(
    features: Features,
    reference: OtherFeatures | Reference,
    *,
    subsets: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al. 2018) and its standard error.

    The unbiased squared MMD of all rows under k(x, y) = (x·y/k + 1)³; it may be negative.

    Args:
        features: of one set.
        reference: features of the other, or a `Reference`, of which the sample is taken.
        subsets: disjoint random parts, of whose values the standard error of the mean is taken.
        generator: of the parts; seed 0 if None.
    """
    features, reference = _checked(features, reference)
    other = reference.sample
    checks.count("subsets", subsets, least=2)
    if min(len(features), len(other)) < 2 * subsets:
        raise ValueError(
            f"{subsets} subsets need {2 * subsets} rows on both sides, got {len(features)} and "
            f"{len(other)}"
        )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    parts = features[torch.randperm(len(features), generator=generator)].tensor_split(subsets)
    other_parts = other[torch.randperm(len(other), generator=generator)].tensor_split(subsets)
    values = torch.stack([_mmd(x, y) for x, y in zip(parts, other_parts, strict=True)])
    return float(_mmd(features, other)), float(values.std() / subsets**0.5)


def frechet_distance(
    mean_a: Float[Tensor, "*sets k"],
    covariance_a: Float[Tensor, "*sets k k"],
    mean_b: Float[Tensor, " k"],
    covariance_b: Float[Tensor, "k k"],
) -> Float[Tensor, "*sets"]:
    """Squared 2-Wasserstein distance of Gaussians (Fréchet 1957), batched over a."""
    values, vectors = torch.linalg.eigh(covariance_b)
    # Σ_b = root rootᵀ, so that Σ_a Σ_b has the eigenvalues of rootᵀ Σ_a root.
    root = vectors * values.clamp_min(0).sqrt()
    spectrum = torch.linalg.eigvalsh(root.mT @ covariance_a @ root).clamp_min(0)
    traces = (covariance_a + covariance_b).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (mean_a - mean_b).square().sum(-1) + traces - 2 * spectrum.sqrt().sum(-1)


def fid_of_pairs(features: PairFeatures, reference: Reference) -> OfPairs:
    """The FID of the frames of chosen pairs, fast enough for thousands of choices.

    Args:
        features: of the frames of each pair.
        reference: the other set.

    Returns:
        Function of indices (…, pairs) -> (…).
    """
    pairs, frames, k = features.shape
    x = features.double() - reference.mean
    sums = x.sum(1)
    squares = torch.einsum("pmi,pmj->pij", x, x).flatten(1)

    def of_chosen(indices: Tensor) -> Tensor:
        times = _occurrences(indices, pairs)
        n = frames * indices.shape[-1]
        mean = times @ sums / n
        second_moment = (times @ squares).unflatten(-1, (k, k))
        covariance = (second_moment - n * mean[..., :, None] * mean[..., None, :]) / (n - 1)
        # The reference's mean was taken away from the features.
        origin = torch.zeros_like(reference.mean)
        return frechet_distance(mean, covariance, origin, reference.covariance)

    return of_chosen


def kid_of_pairs(features: PairFeatures, reference: Reference) -> OfPairs:
    """The KID of the frames of chosen pairs, as `fid_of_pairs`."""
    return _mmd_of_pairs(features, reference.sample, features.shape[2])


def imagenet_kid_of_pairs(features: PairFeatures, reference: Reference) -> OfPairs:
    """The same under k(x, y) = (x·y/m + 1)³, m the mean of ‖y‖² over the reference.

    KID's own kernel has the number of features for m, which suits Inception: features of other
    networks are larger or smaller by far.
    """
    scale = float(reference.sample.square().sum(1).mean())
    return _mmd_of_pairs(features, reference.sample, scale)


def set_measures(network: Network) -> dict[str, Callable[[PairFeatures, Reference], OfPairs]]:
    """The set measures of a network's features, by name.

    A classifier that was made here has "fid" and "kid". An ImageNet network has its kernel distance
    alone, under its own name.
    """
    if isinstance(network, ImageNetNetwork):
        return {network.measure: imagenet_kid_of_pairs}
    return {"fid": fid_of_pairs, "kid": kid_of_pairs}


def reference_of(network: Network, images: Tensor, made_of: str) -> Reference:
    """Features of real images, as the other set of `set_summary`.

    Args:
        network: whose features are taken.
        images: in [0, 1], two or more.
        made_of: the images in words.
    """
    features = network.features(images).double()
    return Reference(features.mean(0), features.T.cov(), features, made_of, str(network.sha256))


def _mmd_of_pairs(features: Tensor, y: Tensor, scale: float) -> OfPairs:
    """Squared MMD of the frames of chosen pairs against rows y, from sums over pairs of pairs."""
    pairs, frames, _ = features.shape
    x = features.double().flatten(0, 1)
    within = _kernel(x, x, scale)
    blocks = within.reshape(pairs, frames, pairs, frames).sum((1, 3))
    diagonal = within.diagonal().reshape(pairs, frames).sum(1)
    across = _kernel(x, y, scale).mean(1).reshape(pairs, frames).sum(1)
    own = _kernel(y, y, scale)
    other = (own.sum() - own.trace()) / (len(y) * (len(y) - 1))

    def of_chosen(indices: Tensor) -> Tensor:
        times = _occurrences(indices, pairs)
        n = frames * indices.shape[-1]
        inside = (times @ blocks * times).sum(-1) - times @ diagonal
        return inside / (n * (n - 1)) + other - 2 * times @ across / n

    return of_chosen


def _occurrences(indices: Tensor, pairs: int) -> Tensor:
    """How often each pair was chosen: (…, chosen) -> (…, pairs), float64."""
    counts = torch.zeros(*indices.shape[:-1], pairs, dtype=torch.float64)
    return counts.scatter_add(-1, indices, torch.ones(indices.shape, dtype=torch.float64))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    return _mmd_of_pairs(x[None], y, x.shape[1])(ALL)


def _kernel(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return (x @ y.T / scale + 1) ** 3


def _checked(features: Tensor, reference: Tensor | Reference) -> tuple[Tensor, Reference]:
    """Both sets in float64, the second as a `Reference`; ValueError if they cannot be compared."""
    other = reference.sample if isinstance(reference, Reference) else reference
    for name, x in (("features", features), ("reference", other)):
        checks.finite(name, checks.floating(name, x))
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"{name} must have shape (rows ≥ 2, k), got {tuple(x.shape)}")
    if features.shape[1] != other.shape[1]:
        raise ValueError(
            f"features have {features.shape[1]} columns, the reference {other.shape[1]}: take both "
            "from one network"
        )
    if not isinstance(reference, Reference):
        other = other.double()
        # torch gives a number for the covariance of a single column.
        covariance = torch.atleast_2d(other.T.cov())
        reference = Reference(other.mean(0), covariance, other, "the caller's", "unknown")
    return features.double(), reference
