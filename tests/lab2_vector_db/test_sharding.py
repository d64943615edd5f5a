import signal
import time

import faiss
import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db import sharding
from labs.lab2_vector_db.index_types import IVF, PQ, SQ, Flat, Recipe
from labs.lab2_vector_db.partitioning import by_cluster, by_hash
from labs.lab2_vector_db.ray_cluster import ray_cluster
from labs.lab2_vector_db.search import search
from labs.lab2_vector_db.shard_actor import MappedFile, Shard
from labs.lab2_vector_db.sharding_evaluation import evaluate

N, D, SHARDS = 4000, 16, 3
RECIPE = Recipe(IVF(16, nprobe=4), SQ(8), metric="l2")
IDS = np.arange(N) * 3 + 7


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small work for many threads is slow work on a machine that does something else as well."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, D))
    rows = centres[rng.integers(30, size=N)]
    return (rows + 0.4 * rng.standard_normal(rows.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((60, D)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(vectors):
    return sharding.train(vectors, RECIPE)


@pytest.fixture(scope="module")
def whole(trained, vectors):
    index = faiss.clone_index(trained)
    index.add_with_ids(vectors, IDS)
    return index


@pytest.fixture(scope="module")
def cluster():
    """One local cluster for the tests that do not need their own; it takes seconds to start."""
    with ray_cluster(cpus=4) as ray:
        yield ray


@pytest.fixture
def shards(cluster, vectors, trained):
    partition = by_hash(IDS, SHARDS)
    with sharding.ShardedIndex.build(vectors, RECIPE, partition, ids=IDS, trained=trained) as built:
        yield built


def warm(shards, queries):
    """Ask until the processes answer at once, so that a deadline measures what it says."""
    assert shards.search(queries, 10, deadline_s=30).complete


def test_a_memory_map_is_known_by_its_file_and_a_slice_of_one_is_not(tmp_path):
    """A slice keeps the offset of the whole: mapped again, it would be other rows."""
    array = np.memmap(tmp_path / "v.f32", np.float32, "w+", shape=(10, 4))
    array[:] = np.arange(40).reshape(10, 4)
    file = MappedFile.of(array)
    np.testing.assert_array_equal(file.rows(np.array([3, 5])), array[[3, 5]])
    assert MappedFile.of(array[5:]) is None
    assert MappedFile.of(np.asarray(array)) is None
    np.save(tmp_path / "v.npy", np.asarray(array))
    saved = MappedFile.of(np.load(tmp_path / "v.npy", mmap_mode="r"))
    np.testing.assert_array_equal(saved.rows(np.array([9])), array[[9]])


def test_a_shard_returns_what_it_has_when_it_has_fewer_than_k(vectors):
    shard = Shard(threads=1)
    info = shard.build(vectors[:5], None, Recipe(Flat(), metric="l2"), None, 0)
    assert info.n_vectors == 5
    scores, rows = shard.search(vectors[:2], 10, {})
    assert scores.shape == rows.shape == (2, 5)
    assert rows[0, 0] == 0


@pytest.mark.slow
def test_shards_trained_once_answer_as_one_index(shards, whole, queries):
    """Same lists, same codes: where the vectors lie does not show, in scores or in ids."""
    expected_scores, expected = search(whole, queries, 10)
    result = shards.search(queries, 10, deadline_s=30)
    assert result.complete
    assert result.answered == (0, 1, 2)
    np.testing.assert_array_equal(result.ids, expected)
    np.testing.assert_allclose(result.scores, expected_scores, rtol=1e-4)
    more = shards.search(queries, 10, nprobe=16, deadline_s=30)
    np.testing.assert_array_equal(more.ids, search(whole, queries, 10, nprobe=16)[1])


@pytest.mark.slow
def test_shards_merge_into_the_index_built_at_once(shards, whole, queries):
    merged = shards.merged()
    assert merged.ntotal == N
    np.testing.assert_array_equal(search(merged, queries, 10)[1], search(whole, queries, 10)[1])
    assert shards.search(queries, 10, deadline_s=30).complete, "the shards keep their vectors"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["lost", "late"])
def test_a_shard_that_does_not_answer_makes_a_partial_result_that_says_so(
    shards, whole, vectors, queries, number
):
    """In time, with everything that the other shards know, and whole again after a repair."""
    warm(shards, queries)
    shards.signal(1, number)
    start = time.monotonic()
    result = shards.search(queries, 10, nprobe=16, deadline_s=1.0)
    assert time.monotonic() - start < 3
    assert (result.answered, result.missing, result.complete) == ((0, 2), (1,), False)
    left = np.concatenate([shards.partition.rows[0], shards.partition.rows[2]])
    rest = faiss.clone_index(shards_empty(whole))
    rest.add_with_ids(vectors[left], IDS[left])
    np.testing.assert_array_equal(result.ids, search(rest, queries, 10, nprobe=16)[1])

    assert shards.repair(deadline_s=1.0) == (1,)
    again = shards.search(queries, 10, deadline_s=30)
    assert again.complete
    np.testing.assert_array_equal(again.ids, search(whole, queries, 10)[1])
    assert shards.repair(deadline_s=30) == ()


def shards_empty(index):
    empty = faiss.clone_index(index)
    empty.reset()
    return empty


@pytest.mark.slow
def test_no_shard_left_is_an_empty_answer_that_says_so(shards, queries):
    warm(shards, queries)
    for shard in range(SHARDS):
        shards.signal(shard, signal.SIGKILL)
    result = shards.search(queries, 10, deadline_s=1.0)
    assert (result.answered, result.missing) == ((), (0, 1, 2))
    assert (result.ids == -1).all()
    assert np.isnan(result.scores).all()
    with pytest.raises(RunError, match="shard 0 is lost"):
        shards.merged()


@pytest.mark.slow
def test_shards_map_a_file_by_themselves_and_queries_ask_the_nearest(
    cluster, vectors, queries, tmp_path
):
    np.save(tmp_path / "vectors.npy", vectors)
    source = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    regions = by_cluster(vectors, SHARDS, "l2")
    recipe = Recipe(Flat(), metric="l2")
    _, true = faiss.knn(queries, vectors, 10)
    with sharding.ShardedIndex.build(source, recipe, regions) as shards:
        assert [info.n_vectors for info in shards.infos] == [len(rows) for rows in regions.rows]
        every = shards.search(queries, 10, deadline_s=30)
        np.testing.assert_array_equal(every.ids, true)
        one = shards.search(queries, 10, ask=1, deadline_s=30)
        home = regions.route(queries, 1)
        for shard, rows in enumerate(regions.rows):
            assert np.isin(one.ids[home[:, shard]], rows).all()
        assert one.answered == tuple(np.flatnonzero(home.any(axis=0)))
        with pytest.raises(InputError, match="trained by themselves"):
            shards.merged()


@pytest.mark.slow
def test_bad_requests_are_refused_here_and_in_the_shards(shards, vectors, queries):
    for change, says in (
        ({"queries": queries[:, :5]}, "dimension of the index"),
        ({"queries": np.full((1, D), np.nan, np.float32)}, "NaN"),
        ({"k": 0}, "k = 0"),
        ({"k": N + 1}, "k = 4001"),
        ({"deadline_s": 0}, "deadline_s = 0"),
        ({"nprobe": 0}, "nprobe = 0"),
        ({"k_factor": 2}, "does not refine"),
        ({"ask": 2}, "by hash"),
    ):
        with pytest.raises(InputError, match=says):
            shards.search(**{"queries": queries, "k": 5, "deadline_s": 30, **change})
    partition = by_hash(IDS, 2)
    for arguments, says in (
        ((vectors[:10], RECIPE, partition), "4000 rows"),
        ((vectors[:, :9], Recipe(IVF(8), PQ(4, 4)), partition), "must divide the dimension 9"),
    ):
        with pytest.raises(InputError, match=says):
            sharding.ShardedIndex.build(*arguments)
    with pytest.raises(InputError, match="ids must be unique"):
        sharding.ShardedIndex.build(vectors, RECIPE, partition, ids=np.zeros(N, int))
    with pytest.raises(InputError, match="2 CPUs are needed, 1 of the cluster's 4 are free"):
        sharding.ShardedIndex.build(vectors, RECIPE, partition)
    shards.close()
    with pytest.raises(InputError, match="closed"):
        shards.search(queries, 5)


@pytest.mark.slow
def test_the_report_compares_one_index_with_shards_by_hash_and_by_cluster(
    cluster, vectors, queries
):
    """Sharding alone costs no recall; a lost shard costs some, and a repair gives it back."""
    _, true = faiss.knn(queries, vectors, 10)
    report = evaluate(vectors, queries, true, RECIPE, n_shards=3)
    assert report.recall_shards == report.recall_one_index == report.recall_after_repair
    assert report.merged_same_ids == 1.0
    assert (report.answered_after_kill, report.missing_after_kill) == ((0, 1), (2,))
    assert report.repaired == (2,)
    assert report.recall_after_kill < report.recall_shards
    assert [each.shards for each in report.asked] == [1, 2, 3]
    for each in report.asked:
        assert each.recall <= each.reachable + 1e-9
    assert report.asked[-1].recall == report.recall_one_index
    assert report.cluster_lost_worst_tenth < report.hash_lost_worst_tenth
