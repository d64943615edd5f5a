"""The index over the item vectors: built when a checkpoint is saved, and bound to it.

Lab 2 builds, saves, checks and searches; what belongs to the feed is that the version of the index
is the hash of the checkpoint its vectors come from. The service opens it with the hash of the
encoder that it runs, so yesterday's index under today's encoder is an error and not a strange feed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import Flat, Recipe
from labs.lab2_vector_db.persistence import Manifest, load_index, save_index

if TYPE_CHECKING:
    from labs.lab2_vector_db.frontier import Point

Vectors = NDArray[np.float32]
EXACT = Recipe(Flat(), metric="inner_product")
"""Every vector is compared: right for thousands of items, see :func:`largest_exact`."""
KINDS = ("Flat", "IVF", "HNSW")


def build(
    vectors: Vectors,
    folder: Path,
    checkpoint_sha: str,
    *,
    recipe: Recipe = EXACT,
    seed: int = 0,
) -> Manifest:
    """Build the index of a checkpoint's item vectors and save it under the checkpoint's name.

    Parameters
    ----------
    vectors : float32 [n_items + 1, D]
        Row 0 is padding and is left out: as an item it would be found.
    folder
        Gets lab 2's ``manifest.json`` and index file; an earlier index is replaced.
    checkpoint_sha
        sha256 of the encoder's weights.
    recipe
        Inner product: the score is the dot product of query and item.

    Raises
    ------
    InputError
        For another metric, vectors that are not finite, or an empty hash.
    """
    require(
        recipe.metric == "inner_product", "recipe.metric", recipe.metric,
        "must be 'inner_product', the score the encoder was trained with",
    )  # fmt: skip
    ids = np.arange(1, len(vectors), dtype=np.int64)
    index = build_index(np.ascontiguousarray(vectors[1:], np.float32), recipe, ids=ids, seed=seed)
    return save_index(index, folder, recipe=recipe, version=checkpoint_sha)


def open_index(folder: Path, checkpoint_sha: str) -> faiss.Index:
    """The index of this checkpoint.

    Raises
    ------
    InputError
        When the folder holds the index of another checkpoint.
    RunError
        When the file is missing, cut short or changed.
    """
    return load_index(folder, expected_version=checkpoint_sha)[0]


def compare(
    vectors: Vectors, queries: Vectors, *, k: int, n_lists: int = 40, seed: int = 0
) -> list[Point]:
    """Recall against the exact neighbours and serial latency of :data:`KINDS` (lab 2's sweep).

    Parameters
    ----------
    vectors : [n_items + 1, D]
    queries : [q, D]
        Of users; at least one.
    k
        Candidates asked for.
    n_lists
        Of the inverted file; about the square root of the number of items.

    Returns
    -------
    list of lab 2's ``frontier.Point``
        One for each setting of each kind: recall, latency, bytes a vector.
    """
    from labs.lab2_vector_db.comparison import kinds, settings_of
    from labs.lab2_vector_db.evaluation import one_thread
    from labs.lab2_vector_db.frontier import sweep
    from labs.lab2_vector_db.ground_truth import exact_neighbours

    items = np.ascontiguousarray(vectors[1:], np.float32)
    truth = exact_neighbours(items, queries, k, "inner_product").ids
    recipes = kinds(items.shape[1], n_lists=n_lists, metric="inner_product")
    points = []
    with one_thread():
        for name in KINDS:
            index = build_index(items, recipes[name], seed=seed)
            points += sweep(name, index, queries, truth, settings_of(recipes[name]))
    return points


def largest_exact(width: int, *, budget_ms: float, bytes_per_s: float) -> int:
    """Items up to which an exact scan keeps a latency budget on one thread: when to switch.

    A scan reads every vector once, so it takes ``4 width n / bandwidth`` seconds (lab 2's roofline
    of memory); a catalogue larger than this needs an inverted file or a graph.

    Parameters
    ----------
    width
        Components of a vector.
    budget_ms
        Milliseconds that retrieval may take.
    bytes_per_s
        Measured: ``labs.lab2_vector_db.measuring.read_bandwidth()``.
    """
    from labs.lab2_vector_db.cost_model import query_cost

    for name, value in (("budget_ms", budget_ms), ("bytes_per_s", bytes_per_s)):
        require(value > 0, name, value, "must be > 0")
    return int(budget_ms / 1e3 * bytes_per_s / query_cost(EXACT, width, 1).bytes_read)
