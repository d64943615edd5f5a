"""A collection and a dict are given the same calls by Hypothesis; they must never differ."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.filters import And, Eq, Filter, In, Not, Or, Range, matches
from labs.lab2_vector_db.index_types import IVF, Recipe
from labs.lab2_vector_db.payload import Fields

DIMENSION = 4
N_IDS = 120
FIELDS: Fields = {"price": "int", "score": "float", "label": "keyword", "new": "bool"}
WORDS = ["", "a", "b", "ß"]
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing has to survive here
EXACT = Recipe(IVF(2, nprobe=2))  # visits every list: an index, and exact

Row = tuple[np.ndarray, dict[str, Any]]

id_lists = st.one_of(
    st.lists(st.integers(0, N_IDS - 1), unique=True, min_size=1, max_size=8),
    st.builds(  # enough to train an index on
        lambda start, n: list(range(start, min(start + n, N_IDS))),
        st.integers(0, N_IDS - 1),
        st.integers(1, N_IDS),
    ),
)
payloads = st.fixed_dictionaries(  # any field may be missing
    {},
    optional={
        "price": st.integers(-2, 2),
        "score": st.sampled_from([-1.5, 0.0, 0.25, 3.0]),
        "label": st.sampled_from(WORDS),
        "new": st.booleans(),
    },
)
comparisons = st.one_of(
    st.builds(Eq, st.just("price"), st.integers(-2, 2)),
    st.builds(Eq, st.just("label"), st.sampled_from(WORDS)),
    st.builds(Eq, st.just("new"), st.booleans()),
    st.builds(
        lambda values: In("label", tuple(values)), st.lists(st.sampled_from(WORDS), min_size=1)
    ),
    st.builds(lambda low: Range("score", gte=low), st.sampled_from([-2.0, 0.0, 1.0])),
    st.builds(
        lambda low, high: Range("price", gt=low, lte=high), st.integers(-3, 0), st.integers(0, 2)
    ),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(And, inner, inner), st.builds(Or, inner, inner)
    ),
    max_leaves=4,
)


class CollectionMachine(RuleBasedStateMachine):
    """``rows`` is what the collection must be; ``seen`` what its reader saw when it refreshed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="collection-model-", dir=IN_MEMORY))
        self.rows: dict[int, Row] = {}
        self.seen: dict[int, Row] = {}
        self.collection: Collection
        self.reader: Collection | None = None

    @initialize(
        metric=st.sampled_from(["l2", "inner_product", "cosine"]), auto_compact=st.booleans()
    )
    def create(self, metric: Any, auto_compact: bool) -> None:
        self.metric = metric
        schema = Schema(DIMENSION, metric, FIELDS, recipe=EXACT)
        self.path = self.folder / "collection"
        self.collection = Collection.create(
            self.path,
            schema,
            flush_rows=60,
            index_rows=10,
            max_segments=2,
            auto_compact=auto_compact,
            sync=False,
        )

    def teardown(self) -> None:
        if self.reader is not None:
            self.reader.close()
        if hasattr(self, "collection"):
            self.collection.close()
        shutil.rmtree(self.folder)

    @rule(ids=id_lists, seed=st.integers(0, 2**16), some=st.lists(payloads, min_size=1, max_size=3))
    def upsert(self, ids: list[int], seed: int, some: list[dict[str, Any]]) -> None:
        vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
        vectors = vectors.astype(np.float32)
        rows = [some[row % len(some)] for row in range(len(ids))]
        columns = {name: [row.get(name) for row in rows] for name in FIELDS}
        self.collection.upsert(np.array(ids), vectors, columns)
        if self.metric == "cosine":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows |= {id_: (vector, row) for id_, vector, row in zip(ids, vectors, rows)}

    @rule(ids=id_lists)
    def delete(self, ids: list[int]) -> None:
        deleted = self.collection.delete(np.array(ids, dtype=np.int64))
        assert deleted == len(self.rows.keys() & set(ids))
        for id_ in ids:
            self.rows.pop(id_, None)

    @rule()
    def flush(self) -> None:
        self.collection.flush()

    @rule(retrain=st.sampled_from(["auto", True, False]))
    def compact(self, retrain: Any) -> None:
        self.collection.compact(retrain=retrain)

    @rule()
    def reopen(self) -> None:
        self.collection.close()
        self.collection = Collection.open(self.path)

    @rule()
    def open_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
        self.reader = Collection.open(self.path, read_only=True)
        self.seen = dict(self.rows)

    @precondition(lambda self: self.reader is not None)
    @rule()
    def refresh_reader(self) -> None:
        assert self.reader is not None
        self.reader.refresh()
        self.seen = dict(self.rows)

    @rule(k=st.sampled_from([1, 3, 10, N_IDS + 3]), seed=st.integers(0, 2**16), condition=filters)
    def search(self, k: int, seed: int, condition: Filter) -> None:
        self.check_search(k, seed, condition)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), k=st.integers(1, 5))
    def search_by_id(self, data: st.DataObject, k: int) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.rows)))
        hits = self.collection.search_by_id(id_, k)
        others = {other: row[0] for other, row in self.rows.items() if other != id_}
        self.check(hits, self.rows[id_][0][None], k, others)

    @invariant()
    def equals_the_dict(self) -> None:
        for collection, rows in self.handles():
            assert len(collection) == len(rows)
            for id_, record in enumerate(collection.get(np.arange(N_IDS))):
                assert (record is None) == (id_ not in rows), f"id {id_}: {record}"
                if record is not None:
                    vector, payload = rows[id_]
                    np.testing.assert_allclose(record.vector, vector, rtol=1e-6)
                    assert record.payload == payload, f"id {id_}"

    @invariant()
    def searches_like_brute_force(self) -> None:
        for condition in (None, Eq("new", True), Not(Range("score", gte=0.0))):
            self.check_search(5, len(self.rows), condition)

    def check_search(self, k: int, seed: int, condition: Filter | None) -> None:
        queries = np.random.default_rng(seed).standard_normal((2, DIMENSION)).astype(np.float32)
        for collection, rows in self.handles():
            allowed = [
                id_
                for id_, (_, row) in rows.items()
                if condition is None or matches(condition, row)
            ]
            assert collection.matching(condition).tolist() == sorted(allowed)
            hits = collection.search(queries, k, filter=condition)
            self.check(hits, queries, k, {id_: rows[id_][0] for id_ in allowed})

    def handles(self) -> list[tuple[Collection, dict[int, Row]]]:
        if not hasattr(self, "collection"):
            return []
        reader = [] if self.reader is None else [(self.reader, self.seen)]
        return [(self.collection, self.rows), *reader]

    def check(self, hits: Any, queries: np.ndarray, k: int, rows: dict[int, np.ndarray]) -> None:
        """Scores are those of brute force, and belong to the ids beside them."""
        ids = np.array(list(rows), dtype=np.int64)
        stored = np.array(list(rows.values()), dtype=np.float64).reshape(-1, DIMENSION)
        if self.metric == "l2":
            costs = ((queries[:, None] - stored[None]) ** 2).sum(axis=2)
        else:
            lengths = np.linalg.norm(queries, axis=1, keepdims=True)
            costs = -(queries / (lengths if self.metric == "cosine" else 1.0)) @ stored.T
        sign = 1.0 if self.metric == "l2" else -1.0
        n_found = min(k, len(ids))
        assert hits.ids.shape == hits.scores.shape == (len(queries), k)
        assert (hits.ids[:, n_found:] == -1).all()
        assert np.isnan(hits.scores[:, n_found:]).all()
        for row in range(len(queries)):
            found = hits.ids[row, :n_found]
            assert np.unique(found).size == n_found, f"an id twice, or none: {found}"
            cost_of = dict(zip(ids.tolist(), costs[row].tolist()))
            assert set(found.tolist()) <= set(cost_of), f"phantom among {found}"
            got = sign * hits.scores[row, :n_found]
            exact = [cost_of[id_] for id_ in found.tolist()]
            np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(got, np.sort(costs[row])[:n_found], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_collection_is_a_dict_that_can_be_searched() -> None:
    """Any order of writes, flushes, compactions, reopens and refreshes leaves what a dict holds.

    Bugs of a store hide in orders that nobody thinks of: a delete of a row that a compaction moves,
    an upsert of an id whose old version is in an older segment, a reader that refreshes in between.
    """
    run_state_machine_as_test(
        CollectionMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
