import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db import partitioning
from labs.lab2_vector_db.evaluation import exact_search


@pytest.fixture(scope="module")
def vectors():
    """40 clusters of very different sizes, with overlap."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16))
    weights = rng.pareto(1.5, 40) + 0.1
    rows = centres[rng.choice(40, 6000, p=weights / weights.sum())]
    return (rows + 0.5 * rng.standard_normal(rows.shape)).astype(np.float32)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**62), min_size=8, max_size=40, unique=True), st.integers(1, 4))
def test_a_hash_puts_each_row_on_one_shard_and_an_id_always_on_the_same(ids, n_shards):
    array = np.array(ids)
    home = partitioning.splitmix64(array) % np.uint64(n_shards)
    if len(set(home.tolist())) < n_shards:
        with pytest.raises(InputError, match="shard"):
            partitioning.by_hash(array, n_shards)
        return
    partition = partitioning.by_hash(array, n_shards)
    assert sorted(np.concatenate(partition.rows)) == list(range(len(ids)))
    for shard, rows in enumerate(partition.rows):
        assert (home[rows] == shard).all()


def test_a_hash_is_even_for_ids_that_are_not():
    """Ids that all end in 000: id mod shards would put every row on one shard."""
    partition = partitioning.by_hash(np.arange(40_000) * 1000, 8)
    assert partition.imbalance < 1.05, partition.imbalance


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_regions_hold_the_neighbours_of_the_queries_that_they_are_asked_by(vectors, metric):
    """A quarter of the shards holds most of the neighbours; by hash it holds a quarter."""
    stored, queries = vectors[:5800], vectors[5800:]
    _, true = exact_search(stored, queries, 10, metric)
    regions = partitioning.by_cluster(stored, 4, metric)
    assert sorted(np.concatenate(regions.rows)) == list(range(5800))
    assert regions.imbalance <= 1.5
    found = [partitioning.reachable(regions, queries, true, ask).mean() for ask in (1, 2, 3, 4)]
    assert found == sorted(found)
    assert found[0] > 0.6, found
    assert found[-1] == 1.0


def test_losing_a_region_takes_everything_from_some_queries(vectors):
    """The mean loss is the same; who bears it is not."""
    stored, queries = vectors[:5800], vectors[5800:]
    _, true = exact_search(stored, queries, 10, "l2")
    worst = {}
    for name, partition in (
        ("hash", partitioning.by_hash(np.arange(5800), 4)),
        ("cluster", partitioning.by_cluster(stored, 4, "l2")),
    ):
        share = partitioning.reachable(partition, queries, true, lost=1)
        worst[name] = np.sort(share)[:10].mean()
    assert worst["hash"] > 0.3
    assert worst["cluster"] < 0.1


def test_each_query_asks_as_many_shards_as_it_may(vectors):
    partition = partitioning.by_cluster(vectors, 5, "l2")
    for ask in (1, 3, 5, None):
        assert (partition.route(vectors[:50], ask).sum(axis=1) == (ask or 5)).all()


def test_bad_partitions_are_refused(vectors):
    hashed = partitioning.by_hash(np.arange(100), 4)
    with pytest.raises(InputError, match="by hash hold neighbours"):
        hashed.route(vectors[:1], 2)
    with pytest.raises(InputError, match="ask = 9"):
        hashed.route(vectors[:1], 9)
    with pytest.raises(InputError, match="n_shards = 101"):
        partitioning.by_hash(np.arange(100), 101)
    with pytest.raises(InputError, match="n_shards = 0"):
        partitioning.by_cluster(vectors, 0, "l2")
    with pytest.raises(InputError, match="must be >= 64"):
        partitioning.by_cluster(vectors[:63], 4, "l2")
