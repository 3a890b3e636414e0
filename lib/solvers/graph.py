"""Global start: the shortest path in the neighbour graph of samples, re-sampled to constant speed.

Gauss–Newton and annealing are local. Where the straight line lies on the wrong side of the manifold, samples of the
distribution (data, or draws from the model) tell the way round: edges between k nearest neighbours cost their *squared*
length, so that many short steps through data beat one long jump.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from .. import checks, paths


def nearest(points: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The k nearest other points of each of (m, d): squared distances and indices, (m, k) each."""
    points = points - points.mean(0)
    squares, found = (points**2).sum(1), []
    for rows in torch.arange(len(points)).split(chunk):
        gap = squares[rows, None] + squares - 2 * points[rows] @ points.T
        gap[torch.arange(len(rows)), rows] = torch.inf
        found.append(gap.topk(k, largest=False))
    return torch.cat([f.values for f in found]).clamp_min(0), torch.cat([f.indices for f in found])


def graph_path(
    start: Tensor, end: Tensor, samples: Tensor, points: int = 33, *, neighbours: int = 8
) -> Tensor:
    """Shortest paths through `samples` (m, *event) for pairs (batch, *event) -> (batch, points, *event).

    Raises ValueError if a pair is not connected: more neighbours or more samples are needed. Its result serves `geodesic`
    as `init=`; init="graph" calls it with the default.
    """
    checks.finite("samples", checks.floating("samples", samples))
    if samples.shape[1:] != start.shape[1:]:
        raise ValueError(
            f"samples must have shape (m, {', '.join(map(str, start.shape[1:]))}), got {tuple(samples.shape)}"
        )
    batch, nodes = len(start), torch.cat([start, end, samples.to(start)]).flatten(1)
    k = min(checks.count("neighbours", neighbours), len(nodes) - 1)
    squared, index = nearest(nodes, k)
    rows = np.repeat(np.arange(len(nodes)), k)
    # a zero would read as "no edge": duplicates of a point get a cost that rounds to nothing instead
    weights = np.maximum(squared.flatten().double().cpu().numpy(), 1e-30)
    graph = coo_matrix(
        (weights, (rows, index.flatten().cpu().numpy())), shape=(len(nodes),) * 2
    ).tocsr()
    cost, before = dijkstra(
        graph, directed=False, indices=np.arange(batch), return_predecessors=True
    )
    lost = [i for i in range(batch) if not np.isfinite(cost[i, batch + i])]
    if lost:
        raise ValueError(
            f"pair(s) {lost[:8]} are not connected in the graph of {k} neighbours; "
            "give more samples, or the path of graph_path(..., neighbours=...) as init="
        )
    return torch.cat([_walk(nodes, before[i], i, batch + i, points, start) for i in range(batch)])


def _walk(
    nodes: Tensor, before: np.ndarray, first: int, last: int, points: int, like: Tensor
) -> Tensor:
    """Follow the predecessors from the last node to the first, then re-sample the chain of straight segments."""
    chain = [last]
    while chain[-1] != first:
        chain.append(int(before[chain[-1]]))
    path = nodes[torch.tensor(chain[::-1])].reshape(1, len(chain), *like.shape[1:])
    return paths.resample(path, points, degree=1)
