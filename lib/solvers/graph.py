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
    batch = len(start)
    nodes = torch.cat([start, end, samples.to(start)])
    k = min(checks.count("neighbours", neighbours), len(nodes) - 1)
    graph = _neighbour_graph(nodes, k)
    cost, before = dijkstra(
        graph, directed=False, indices=np.arange(batch), return_predecessors=True
    )
    to_own_end = cost[np.arange(batch), batch + np.arange(batch)]
    unconnected = np.flatnonzero(~np.isfinite(to_own_end)).tolist()
    if unconnected:
        raise ValueError(
            f"pair(s) {unconnected[:8]} are not connected in the graph of {k} neighbours; "
            "give more samples, or the path of graph_path(..., neighbours=...) as init="
        )
    chains = []
    for i in range(batch):
        chain = nodes[_walk(before[i], first=i, last=batch + i)]
        chains.append(paths.resample(chain[None], points, degree=1))
    return torch.cat(chains)


def _neighbour_graph(nodes: Tensor, k: int) -> csr_matrix:
    """Sparse matrix of the squared distances between each node and its k nearest others."""
    # imported here, since it takes a second and few need it
    from sklearn.neighbors import NearestNeighbors

    flat = nodes.flatten(1).cpu().double().numpy()
    graph = NearestNeighbors(n_neighbors=k).fit(flat).kneighbors_graph(mode="distance")
    graph.data = np.maximum(graph.data**2, LEAST_COST)
    return graph


def _walk(before: np.ndarray, first: int, last: int) -> list[int]:
    """The nodes from the first to the last, by the predecessors of a shortest path."""
    chain = [last]
    while chain[-1] != first:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]
