"""HNSW by hand: a navigable graph in layers, small enough to read and for some thousand vectors.

Each vector is a node of the bottom layer and, with a probability that falls by 1/m a layer, of the
layers above. A search walks greedily from the top: long steps first, where few nodes are, then
shorter ones; in the bottom layer it keeps the ``ef`` best nodes it has seen and stops when the
nearest unexplored one is farther than all of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_vectors

Near = list[tuple[float, int]]  # (distance, node), nearest first


@dataclass
class Graph:
    """The layers over the vectors.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    metric
        Under ``"inner_product"`` the negative inner product serves as the distance.
    m
        Links a new node makes in each layer; a node may hold m of them, in layer 0 twice as many.
    links
        ``links[layer][node]`` are the node's neighbours; layer 0 is the bottom and holds all.
    entry
        The node in the top layer at which every search starts; -1 in an empty graph.
    computed
        Distances computed so far: what a search costs, whatever the machine.
    """

    vectors: NDArray[np.float32]
    metric: Metric
    m: int
    links: list[dict[int, list[int]]] = field(default_factory=list)
    entry: int = -1
    computed: int = 0

    def distances(self, query: NDArray[np.float32], nodes: list[int]) -> NDArray[np.float32]:
        """Distances of one query [d] to these nodes."""
        self.computed += len(nodes)
        vectors = self.vectors[nodes]
        if self.metric == "l2":
            return ((vectors - query) ** 2).sum(axis=1)
        return -(vectors @ query)

    def between(self, nodes: list[int]) -> NDArray[np.float32]:
        """Distances between all pairs of these nodes."""
        vectors = self.vectors[nodes]
        products: NDArray[np.float32] = vectors @ vectors.T
        if self.metric == "inner_product":
            return -products
        squares = np.diag(products)
        return squares[:, None] + squares - 2 * products


Select = Callable[[Graph, Near, int], list[int]]


def search_layer(
    graph: Graph, query: NDArray[np.float32], entries: Near, ef: int, layer: int
) -> Near:
    """The ``ef`` nearest nodes that a best-first walk through one layer meets.

    Parameters
    ----------
    graph
    query : float32 array of shape [d]
    entries
        Where the walk starts, with distances.
    ef
        Nodes kept. 1 is a greedy descent, which ends at the first node nearer than all its
        neighbours; more is a way round such dead ends.
    layer
        0 for the bottom.

    Returns
    -------
    list of (distance, node)
        Nearest first, at most ``ef``.

    References
    ----------
    Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using HNSW graphs,
    2018, algorithm 2.
    """
    seen = {node for _, node in entries}
    candidates = list(entries)
    heapq.heapify(candidates)
    kept = [(-distance, node) for distance, node in entries]  # the farthest on top
    heapq.heapify(kept)
    while candidates:
        distance, node = heapq.heappop(candidates)
        if len(kept) >= ef and distance > -kept[0][0]:
            break
        fresh = [other for other in graph.links[layer][node] if other not in seen]
        if not fresh:
            continue
        seen.update(fresh)
        for reached, other in zip(graph.distances(query, fresh).tolist(), fresh):
            if len(kept) < ef or reached < -kept[0][0]:
                heapq.heappush(candidates, (reached, other))
                heapq.heappush(kept, (-reached, other))
                if len(kept) > ef:
                    heapq.heappop(kept)
    return sorted((-negative, node) for negative, node in kept)


def select_nearest(graph: Graph, candidates: Near, m: int) -> list[int]:
    """The m nearest candidates (algorithm 3). In clusters all links then stay inside."""
    return [node for _, node in candidates[:m]]


def select_diverse(graph: Graph, candidates: Near, m: int) -> list[int]:
    """Up to m candidates, nearest first, each nearer to the new node than to one already chosen.

    A candidate that a chosen neighbour is nearer to is reached through that neighbour, so the link
    is kept for another direction: the rule behind relative neighbourhood graphs.

    References
    ----------
    Malkov, Yashunin 2018, algorithm 4, without its two options.
    """
    between = graph.between([node for _, node in candidates])
    chosen: list[int] = []
    for place, (distance, _) in enumerate(candidates):
        if len(chosen) == m:
            break
        if not chosen or distance < between[place, chosen].min():
            chosen.append(place)
    return [candidates[place][1] for place in chosen]


def insert(graph: Graph, node: int, level: int, ef_construction: int, select: Select) -> None:
    """Link a node into layers 0 to ``level``.

    From the top down to ``level + 1`` the walk only looks for an entry. From there on it collects
    ``ef_construction`` candidates a layer, links to the m that ``select`` takes, both ways, and
    lets every neighbour that now has too many links choose again.

    References
    ----------
    Malkov, Yashunin 2018, algorithm 1.
    """
    top = len(graph.links) - 1
    for _ in range(top, level):
        graph.links.append({})
    if graph.entry < 0:
        for layer in range(level + 1):
            graph.links[layer][node] = []
        graph.entry = node
        return
    query = graph.vectors[node]
    near = [(float(graph.distances(query, [graph.entry])[0]), graph.entry)]
    for layer in range(top, level, -1):
        near = search_layer(graph, query, near, 1, layer)
    for layer in range(min(top, level), -1, -1):
        near = search_layer(graph, query, near, ef_construction, layer)
        links = graph.links[layer]
        links[node] = select(graph, near, graph.m)
        limit = graph.m if layer else 2 * graph.m
        for other in links[node]:
            links[other].append(node)
            if len(links[other]) > limit:
                around = graph.distances(graph.vectors[other], links[other]).tolist()
                links[other] = select(graph, sorted(zip(around, links[other])), limit)
    if level > top:
        for layer in range(top + 1, level + 1):
            graph.links[layer][node] = []
        graph.entry = node


def build(
    vectors: NDArray[np.float32],
    *,
    m: int = 16,
    ef_construction: int = 64,
    metric: Metric = "l2",
    select: Select = select_diverse,
    seed: int = 0,
) -> Graph:
    """Insert the vectors one by one, each with a random level.

    ``level = floor(-ln(u) / ln(m))`` for u uniform in (0, 1]: a share ``m**-l`` reaches layer l.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        Some thousand: each insertion is a search in Python.
    m, ef_construction
        More of either is a better graph and a slower build; m is also memory, 8m bytes a vector.
    select
        Which candidates become neighbours.
    seed
        Of the levels.

    Raises
    ------
    InputError
        For NaN, m < 2, ef_construction < m.
    """
    vectors = check_vectors(vectors)
    require(metric in FAISS_METRICS, "metric", metric, f"must be one of {list(FAISS_METRICS)}")
    require(m >= 2, "m", m, "must be >= 2", "try 16")
    require(
        ef_construction >= m, "ef_construction", ef_construction, f"must be >= m = {m}", "try 64"
    )
    graph = Graph(vectors, metric, m)
    uniform = 1 - np.random.default_rng(seed).random(len(vectors))
    levels = np.floor(-np.log(uniform) / math.log(m)).astype(int)
    for node, level in enumerate(levels.tolist()):
        insert(graph, node, level, ef_construction, select)
    return graph


def search(
    graph: Graph, queries: NDArray[np.float32], k: int, ef: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best nodes of each query that the walk met, best first.

    Parameters
    ----------
    graph
    queries : float32 array of shape [q, d]
    k
        From 1 to n.
    ef
        Nodes kept in the bottom layer, at least k: recall against distances computed.

    Returns
    -------
    scores : float32 array of shape [q, k]
        Squared distances, or inner products.
    ids : int64 array of shape [q, k]
        -1 (with a score of inf or -inf) where the walk reached fewer than k nodes.

    Raises
    ------
    InputError
        For queries of another dimension, NaN, k outside 1..n, ef < k.

    References
    ----------
    Malkov, Yashunin 2018, algorithm 5.
    """
    n, dimension = graph.vectors.shape
    queries = check_vectors(queries, dimension=dimension, name="queries")
    require(1 <= k <= n, "k", k, f"must be from 1 to {n}, the vectors in the graph")
    require(ef >= k, "ef", ef, f"must be >= k = {k}", "the walk keeps no more than ef nodes")
    scores = np.full((len(queries), k), np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        near = [(float(graph.distances(query, [graph.entry])[0]), graph.entry)]
        for layer in range(len(graph.links) - 1, 0, -1):
            near = search_layer(graph, query, near, 1, layer)
        near = search_layer(graph, query, near, ef, 0)[:k]
        scores[row, : len(near)] = [distance for distance, _ in near]
        ids[row, : len(near)] = [node for _, node in near]
    return (scores if graph.metric == "l2" else -scores), ids


def reachable(graph: Graph) -> int:
    """How many nodes a walk through the bottom layer can reach from the entry."""
    seen, stack = {graph.entry}, [graph.entry]
    while stack:
        fresh = [node for node in graph.links[0][stack.pop()] if node not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return len(seen)


def from_faiss(index: faiss.IndexHNSW) -> Graph:
    """The graph of a faiss index, to be searched by our code."""
    hnsw: Any = index.hnsw
    neighbours = faiss.vector_to_array(hnsw.neighbors)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    starts = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    metric: Metric = "l2" if index.metric_type == faiss.METRIC_L2 else "inner_product"
    graph = Graph(index.reconstruct_n(0, index.ntotal), metric, int(starts[1]) // 2)
    graph.links = [{} for _ in range(hnsw.max_level + 1)]
    graph.entry = hnsw.entry_point
    for node, layers in enumerate(faiss.vector_to_array(hnsw.levels).tolist()):
        for layer in range(layers):
            block = neighbours[offsets[node] + starts[layer] : offsets[node] + starts[layer + 1]]
            graph.links[layer][node] = block[block >= 0].tolist()
    return graph


@dataclass(frozen=True)
class EfScore:
    """What keeping ``ef`` nodes finds and costs: recall@10 and distances computed a query."""

    ef: int
    recall_at_10: float
    faiss_recall_at_10: float
    distances: float


def sweep(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    m: int = 16,
    ef_construction: int = 64,
    efs: tuple[int, ...] = (10, 20, 40, 80, 160),
    metric: Metric = "l2",
    seed: int = 0,
) -> list[EfScore]:
    """Recall@10 at each ef of our graph and of ``IndexHNSWFlat`` with the same parameters.

    The vectors [n, d] are stored; the queries [q, d] are none of them.
    """
    graph = build(vectors, m=m, ef_construction=ef_construction, metric=metric, seed=seed)
    theirs: Any = faiss.IndexHNSWFlat(graph.vectors.shape[1], m, FAISS_METRICS[metric])
    theirs.hnsw.efConstruction = ef_construction
    theirs.add(graph.vectors)
    _, true_ids = exact_search(graph.vectors, queries, 10, metric)
    scores = []
    for ef in efs:
        before = graph.computed
        _, found = search(graph, queries, 10, ef)
        theirs.hnsw.efSearch = ef
        _, expected = theirs.search(np.ascontiguousarray(queries, dtype=np.float32), 10)
        scores.append(
            EfScore(
                ef,
                float(recall_at_k(found, true_ids).mean()),
                float(recall_at_k(expected, true_ids).mean()),
                (graph.computed - before) / len(queries),
            )
        )
    return scores
