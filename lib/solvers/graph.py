"""Global start: the shortest path in the neighbour graph of samples, at constant speed.

Gauss–Newton and annealing are local. Where the straight line lies on the wrong side of the
manifold, samples of the distribution (data, or draws from the model) tell the way round: edges
between near neighbours cost their *squared* length, so that many short steps through data beat one
long jump.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist
from torch import Tensor

from .. import checks, paths

# scipy takes an edge of cost 0 for none: between copies of a point the cost is nearly 0 instead
LEAST_COST = 1e-30


def graph_path(
    start: Float[Tensor, "batch *event"],
    end: Float[Tensor, "batch *event"],
    samples: Float[Tensor, "samples *event"],
    points: int = 33,
    *,
    neighbours: int = 8,
) -> Float[Tensor, "batch points *event"]:
    """Shortest paths from start to end through samples, for `geodesic(..., init=)`.

    Args:
        start: First ends.
        end: Last ends.
        samples: Data, or draws from the model.
        points: Points of a path, both ends among them.
        neighbours: Neighbours of each node in the graph; init="graph" takes 8.

    Returns:
        The chains of straight segments, at constant Euclidean speed.

    Raises:
        ValueError: A pair is not connected, or the samples are of another shape.
    """
    samples = checks.batched("samples", samples, start.shape[1:])
    k = min(checks.count("neighbours", neighbours), len(samples) + 1)
    flat = _flat(samples)
    shared = _nearest(flat, min(k, len(samples) - 1))
    chains = []
    unconnected = []
    for i, (first, last) in enumerate(zip(start, end, strict=True)):
        nodes = torch.stack([first, last])
        graph = _pair_graph(_flat(nodes), flat, shared, k)
        cost, before = dijkstra(graph, directed=False, indices=0, return_predecessors=True)
        if not np.isfinite(cost[1]):
            unconnected.append(i)
            continue
        nodes = torch.cat([nodes, samples.to(start)])
        chain = nodes[_walk(before, first=0, last=1)]
        chains.append(paths.resample(chain[None], points, degree=1))
    if unconnected:
        raise ValueError(
            f"pair(s) {unconnected[:8]} are not connected in the graph of {k} neighbours; "
            "give more samples, or the path of graph_path(..., neighbours=...) as init="
        )
    return torch.cat(chains)


def _flat(points: Tensor) -> np.ndarray:
    return points.flatten(1).cpu().double().numpy()


def _nearest(samples: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the k nearest other samples of each, and which these are: (m, k) each."""
    # imported here, since it takes a second and few need it
    from sklearn.neighbors import NearestNeighbors

    if k == 0:
        return np.empty((len(samples), 0)), np.empty((len(samples), 0), int)
    return NearestNeighbors(n_neighbors=k).fit(samples).kneighbors()


def _pair_graph(
    ends: np.ndarray, samples: np.ndarray, shared: tuple[np.ndarray, np.ndarray], k: int
) -> csr_matrix:
    """Squared distances between each node and its k nearest others, for the nodes of one pair.

    Nodes 0 and 1 are the ends, the samples follow. The ends of other pairs are no nodes: a pair
    has the same path in a batch as alone.
    """
    distances, neighbours = shared
    to_ends = cdist(samples, ends)
    between = cdist(ends[:1], ends[1:])[0]
    both = np.broadcast_to([0, 1], to_ends.shape)
    rows = [
        (np.append(between, to_ends[:, 0])[None], np.arange(1, len(samples) + 2)[None]),
        (
            np.append(between, to_ends[:, 1])[None],
            np.append(0, np.arange(2, len(samples) + 2))[None],
        ),
        (np.hstack([to_ends, distances]), np.hstack([both, neighbours + 2])),
    ]
    costs = []
    columns = []
    for length, column in rows:
        nearest = np.argsort(length, axis=1, kind="stable")[:, :k]
        costs.append(np.take_along_axis(length, nearest, 1))
        columns.append(np.take_along_axis(column, nearest, 1))
    cost = np.maximum(np.vstack(costs) ** 2, LEAST_COST)
    count = len(cost)
    starts = np.arange(0, cost.size + 1, cost.shape[1])
    return csr_matrix((cost.ravel(), np.vstack(columns).ravel(), starts), shape=(count, count))


def _walk(before: np.ndarray, first: int, last: int) -> list[int]:
    """The nodes from the first to the last, by the predecessors of a shortest path."""
    chain = [last]
    while chain[-1] != first:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]
