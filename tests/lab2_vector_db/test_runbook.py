"""Runbooks are followed with exact truth; readiness is measured on a clock that cannot run back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.evaluation import exact_search
from labs.lab2_vector_db.index_types import IVF, Recipe
from labs.lab2_vector_db.readiness import measure_readiness, probe_vector
from labs.lab2_vector_db.runbook import (
    Delete,
    Insert,
    Live,
    Replace,
    Search,
    compare_retraining,
    drifting_runbook,
    run_runbook,
)

CLUSTERS, DIMENSION = 6, 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters along a line: those that come first say nothing about where the last ones are."""
    rng = np.random.default_rng(0)
    centres = np.zeros((CLUSTERS, DIMENSION))
    centres[:, 0] = 6.0 * np.arange(CLUSTERS)
    rows = centres[rng.integers(CLUSTERS, size=6_000)]
    return (rows + rng.standard_normal(rows.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal((200, DIMENSION)).astype(np.float32)
    return vectors[::30] + 0.3 * noise


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_truth_follows_every_kind_of_step() -> None:
    """Recall against the truth of an earlier moment blames the index for what the data did."""
    vectors = np.eye(4, dtype=np.float32)
    live = Live(vectors)
    live.apply(Insert(rows(0, 1)))
    assert live.truth(vectors[:1], 2, "l2").tolist() == [[0, 1]]
    live.apply(Replace(rows(0), rows(2)))  # id 0 now has vector 2
    assert live.truth(vectors[2:3], 1, "l2").tolist() == [[0]]
    live.apply(Delete(rows(0)))
    assert live.truth(vectors[2:3], 1, "l2").tolist() == [[1]]
    live.apply(Search())
    assert live.ids.tolist() == [1]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Insert(rows(0)), "insert of id 0, which is alive already"),
        (Delete(rows(2)), "delete of id 2, which is not alive"),
        (Replace(rows(2), rows(1)), "replace of id 2, which is not alive"),
        (Replace(rows(0), rows(1, 2)), "new_rows"),
        (Insert(rows(2, 2)), "must differ"),
        (Insert(rows(4)), "row 4: there are 4 vectors"),
        (Replace(rows(0), rows(-1)), "row -1"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(step: Insert | Delete | Replace, message: str) -> None:
    """A runbook with a mistake would measure another workload than it says."""
    live = Live(np.eye(4, dtype=np.float32))
    live.apply(Insert(rows(0)))
    with pytest.raises(InputError, match=message):
        live.apply(step)
    assert live.ids.tolist() == [0]


def test_a_runbook_drifts_and_repeats(vectors: np.ndarray) -> None:
    """Each round's vectors lie further along; the same seed gives the same steps."""
    steps = drifting_runbook(vectors, rounds=CLUSTERS, batches=2, seed=3)
    again = drifting_runbook(vectors, rounds=CLUSTERS, batches=2, seed=3)
    assert len(steps) == len(again)
    for one, two in zip(steps, again):
        assert type(one) is type(two)
        if not isinstance(one, Search) and not isinstance(two, Search):
            np.testing.assert_array_equal(one.rows, two.rows)
    assert sum(isinstance(step, Search) for step in steps) == CLUSTERS
    assert {type(step) for step in steps} == {Insert, Delete, Replace, Search}
    inserts = [vectors[step.rows].mean(axis=0) for step in steps if isinstance(step, Insert)]
    along = np.array(inserts)[:, 0]
    forward = np.sign(along[-1] - along[0])
    assert (np.diff(along[::2]) * forward > 1).all(), along
    live = Live(vectors)
    for step in steps:
        live.apply(step)  # refuses what does not fit
    used = np.concatenate([step.rows for step in steps if isinstance(step, Insert)])
    assert np.unique(used).size == used.size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 1}, "rounds"),
        ({"rounds": 1000}, "rounds"),
        ({"batches": 0}, "batches"),
        ({"delete_share": 1.5}, "delete_share"),
        ({"replace_share": 1.0}, "replace_share"),
    ],
)
def test_an_impossible_runbook_is_refused(
    vectors: np.ndarray, options: dict[str, float], message: str
) -> None:
    """Before an hour of measuring, not after."""
    with pytest.raises(InputError, match=message):
        drifting_runbook(vectors, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["l2", "inner_product", "cosine"])
def test_an_exact_collection_has_recall_1_at_every_checkpoint(
    tmp_path: Path, vectors: np.ndarray, queries: np.ndarray, metric: str
) -> None:
    """Deletes that come back or replaces that keep the old vector would show here."""
    steps = drifting_runbook(vectors, rounds=CLUSTERS)
    schema = Schema(DIMENSION, metric)  # type: ignore[arg-type]
    with Collection.create(tmp_path / "c", schema, sync=False) as collection:
        report = run_runbook(collection, steps, vectors, queries)
    assert [checkpoint.recall for checkpoint in report.checkpoints] == [1.0] * CLUSTERS
    assert report.n_inserted + report.n_replaced <= len(vectors)
    last = report.checkpoints[-1]
    assert last.n_live == report.n_inserted - report.n_deleted


def test_a_collection_that_holds_something_is_refused(
    tmp_path: Path, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """Its vectors are not in the truth."""
    with Collection.create(tmp_path / "c", Schema(DIMENSION), sync=False) as collection:
        collection.upsert(np.array([1]), vectors[:1])
        with pytest.raises(InputError, match="must be 0"):
            run_runbook(collection, [Search()], vectors, queries)


@pytest.mark.slow
def test_centroids_of_the_first_clusters_serve_the_last_ones_badly(tmp_path: Path) -> None:
    """The failure is silent: as the data move, each query reads more and finds less.

    Each cluster has its own centre and its own eight directions, as topics do; centroids that were
    trained on the first one cut the others across.
    """
    rng = np.random.default_rng(0)
    clusters = []
    for number in range(CLUSTERS):
        directions = 3 * rng.standard_normal((8, 32)) / np.sqrt(32)
        rows = rng.standard_normal((1_500, 8)) @ directions + 0.3 * rng.standard_normal((1_500, 32))
        rows[:, 0] += 6 * number
        clusters.append(rows)
    vectors = np.concatenate(clusters).astype(np.float32)
    queries = vectors[::20] + 0.05 * rng.standard_normal(vectors[::20].shape).astype(np.float32)
    reports = compare_retraining(
        tmp_path, vectors, queries, Recipe(IVF(16, nprobe=2)), metric="l2", rounds=CLUSTERS
    )
    assert [report.retrain for report in reports] == [False, "auto", True]
    never, on_drift, always = (report.checkpoints[-1] for report in reports)
    assert never.n_live == on_drift.n_live == always.n_live
    assert any(checkpoint.drifted for checkpoint in reports[0].checkpoints), reports[0]
    assert never.error_ratio > 2 * always.error_ratio
    for trained in (on_drift, always):
        assert trained.recall > never.recall + 0.03, (trained, never)
        assert trained.codes_read < never.codes_read / 2, (trained, never)


def test_a_probe_is_nearest_to_itself_under_every_metric() -> None:
    """Readiness polls for it: a probe that another row outranks is never found."""
    stored = np.random.default_rng(5).standard_normal((500, DIMENSION)).astype(np.float32)
    stored[7], stored[8] = probe_vector(0, 1, DIMENSION), probe_vector(0, 2, DIMENSION)
    for metric in ("l2", "inner_product"):
        assert exact_search(stored, stored[7:8], 1, metric)[1].tolist() == [[7]]  # type: ignore[arg-type]


@pytest.mark.slow
def test_readiness_comes_in_its_order(tmp_path: Path) -> None:
    """A write is searchable in its own process when it is durable, and in another soon after."""
    with Collection.create(tmp_path / "c", Schema(DIMENSION)) as collection:
        collection.upsert(np.arange(50), np.random.default_rng(0).random((50, DIMENSION)))
    ready = measure_readiness(tmp_path / "c", writes=5, rows=20)
    assert ready.acknowledged.n == ready.indexed.n == 5
    assert 0 < ready.acknowledged.p50_ms < ready.searchable.p50_ms
    assert ready.acknowledged.p50_ms < ready.indexed.p50_ms
    assert ready.searchable_by_reader.max_ms < 10_000
    with Collection.open(tmp_path / "c") as collection:
        assert len(collection) == 50, "the probes were not deleted again"


@pytest.mark.slow
def test_a_reader_that_dies_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    """The wait ends, and says what the reader's last words were."""
    with pytest.raises((InputError, RunError)):
        measure_readiness(tmp_path / "nothing", writes=1)
