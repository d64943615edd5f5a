"""Silent failures of vector search: no error, a wrong answer.

Run them with ``python -m labs.lab2_vector_db.traps [name]``. Those of a database around the index
are in :mod:`labs.lab2_vector_db.database_traps`.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.traps import Trap, show
from labs.lab2_vector_db.database_traps import DATABASE_TRAPS
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_building import build_index, new_index
from labs.lab2_vector_db.index_types import IVF, PQ, Exact, Recipe
from labs.lab2_vector_db.search import search

DIMENSION, STORED, QUERIES, K = 64, 20_000, 500, 10


def _clustered(noise: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stored vectors and queries around 200 centres (synthetic); more noise, more overlap."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, DIMENSION))
    rows = centres[rng.integers(200, size=STORED + QUERIES)]
    points = (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)
    return points[:STORED], points[STORED:]


def a_filter_resets_nprobe() -> Trap:
    """A selector in SearchParametersIVF brings nprobe 1 along."""
    stored, queries = _clustered(noise=2.0)
    allowed = np.arange(0, STORED, 2)
    _, rows = exact_search(stored[allowed], queries, K, "l2")
    index: faiss.Index = faiss.index_factory(DIMENSION, "IVF64,Flat")
    index.train(stored)
    index.add(stored)
    faiss.extract_index_ivf(index).nprobe = 64
    selector = faiss.IDSelectorBatch(allowed)
    recalls = []
    for fields in ({"sel": selector}, {"sel": selector, "nprobe": 64}):
        _, found = index.search(queries, K, params=faiss.SearchParametersIVF(**fields))
        recalls.append(float(recall_at_k(found, allowed[rows]).mean()))
    return Trap(
        "A filter for one search resets nprobe",
        wrong=("recall@10, index.nprobe = 64, SearchParametersIVF(sel=...)", recalls[0]),
        right=("recall@10, SearchParametersIVF(sel=..., nprobe=64)", recalls[1]),
        why="The parameter object replaces all of the index's own settings, and its default "
        "nprobe is 1. search_parameters() reads what you leave out from the index.",
    )


def more_nprobe_does_not_help_a_bare_code() -> Trap:
    """Without refinement recall stops far below 1, whatever nprobe is."""
    stored, queries = _clustered(noise=0.7)
    _, true_ids = exact_search(stored, queries, K, "l2")
    recalls = {}
    for refine in (None, Exact()):
        recipe = Recipe(IVF(64), PQ(16, bits=4), refine=refine, metric="l2")
        index = build_index(stored, recipe)
        for nprobe in (8, 64):
            _, found = search(index, queries, K, nprobe=nprobe)
            recalls[refine, nprobe] = float(recall_at_k(found, true_ids).mean())
    shown = f"nprobe 8: {recalls[None, 8]:.3f}, nprobe 64, every list: {recalls[None, 64]:.3f}"
    refined = f"nprobe 8: {recalls[Exact(), 8]:.3f}, nprobe 64: {recalls[Exact(), 64]:.3f}"
    return Trap(
        "More nprobe cannot repair a coarse code",
        wrong=("recall@10, IVF64,PQ16x4fsr", shown),
        right=("recall@10, the same with RFlat, k_factor 8", refined),
        why="nprobe decides which vectors are looked at; the code decides how well they are "
        "ordered. Visiting every list leaves the code's own error, and only a second look at "
        "the best candidates removes it.",
    )


def duplicate_ids_are_accepted() -> Trap:
    """Adding a vector again under its id keeps both, the outdated one included."""
    stored, _ = _clustered(noise=0.7)
    old, new = stored[:1], stored[1:2]
    index: Any = new_index(DIMENSION, Recipe(IVF(1), PQ(16, bits=4), metric="l2"))
    index.train(stored)
    index.add_with_ids(old, np.array([7]))
    index.add_with_ids(new, np.array([7]))
    _, found = search(index, new, 2)
    count = int((found == 7).sum())
    index.remove_ids(np.array([7]))
    index.add_with_ids(new, np.array([7]))
    return Trap(
        "An update that is an insert",
        wrong=("results with id 7 after add_with_ids twice", count),
        right=("vectors with id 7 after remove_ids, then add_with_ids", index.ntotal),
        why="faiss does not check ids: the old vector stays and is found. build_index refuses "
        "duplicate ids; an update has to remove first.",
    )


def a_filter_is_ignored() -> Trap:
    """A selector at the level of the rotation never reaches the lists below it."""
    stored, queries = _clustered(noise=0.7)
    allowed = np.arange(0, STORED, 10)
    index: Any = faiss.index_factory(DIMENSION, "RR64,IVF64,Flat")
    index.train(stored)
    index.add(stored)
    selector: Any = faiss.IDSelectorBatch(allowed)  # type: ignore[call-arg]
    forbidden = []
    for fields in (
        {"sel": selector},
        {"index_params": faiss.SearchParametersIVF(sel=selector, nprobe=16)},  # type: ignore[call-arg]
    ):
        _, found = index.search(queries, K, params=faiss.SearchParametersPreTransform(**fields))
        forbidden.append(float((found % 10 != 0).mean()))
    return Trap(
        "A filter that nobody reads",
        wrong=("rows outside the filter, SearchParametersPreTransform(sel=...)", forbidden[0]),
        right=("rows outside the filter, index_params=SearchParametersIVF(sel=...)", forbidden[1]),
        why="Each layer hands on index_params and nothing else. Other tenants' rows come back, and "
        "no error with them. search(selector=...) puts the filter where the lists are.",
    )


def ids_are_used_again() -> Trap:
    """add() numbers from ntotal, which remove_ids() makes smaller."""
    stored, _ = _clustered(noise=0.7)
    index: Any = faiss.index_factory(DIMENSION, "IVF16,Flat")
    index.train(stored)
    index.add(stored[:100])
    index.remove_ids(np.arange(50))
    index.add(stored[100:150])
    index.nprobe = 16
    _, found = index.search(stored[:150], 100)
    ids = np.unique(found[found >= 0])
    return Trap(
        "A new vector under an old id",
        wrong=("different ids of 100 vectors, remove_ids and then add()", len(ids)),
        right=("vectors in the index", int(index.ntotal)),
        why="Fifty new vectors got the ids of fifty that are still there: get, delete and payload "
        "mean either. Give every vector an id of your own, and never use one again.",
    )


def minus_one_is_an_answer() -> Trap:
    """A graph under a selective filter returns less than k, and fills up with -1."""
    stored, queries = _clustered(noise=2.0)
    allowed = np.random.default_rng(0).choice(STORED, 20, replace=False)
    index: Any = faiss.index_factory(DIMENSION, "HNSW16,Flat")
    index.hnsw.efConstruction = 40
    index.add(stored[:5000])
    allowed = np.sort(allowed % 5000)
    selector: Any = faiss.IDSelectorBatch(allowed)  # type: ignore[call-arg]
    parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=64)  # type: ignore[attr-defined]
    _, found = index.search(queries[:50], K, params=parameters)
    return Trap(
        "-1 is an answer",
        wrong=(
            "slots of 500 filled with -1, though 20 rows pass the filter",
            int((found < 0).sum()),
        ),
        right=("the same by an exact scan of the 20 rows", 0),
        why="The walk ends when its candidates do, and few of them pass. payload[-1] is the last "
        "row: -1 as a row number shows somebody else's data. Plan: few rows are scanned exactly.",
    )


TRAPS = (
    a_filter_resets_nprobe,
    a_filter_is_ignored,
    more_nprobe_does_not_help_a_bare_code,
    duplicate_ids_are_accepted,
    ids_are_used_again,
    minus_one_is_an_answer,
    *DATABASE_TRAPS,
)

if __name__ == "__main__":
    show(TRAPS)
