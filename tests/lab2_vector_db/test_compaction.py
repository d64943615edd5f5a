"""Compaction and retraining: the same rows in fewer files, at any interruption."""

import resource
import threading
import time

import faiss
import numpy as np
import pytest

from common.errors import RunError
from labs.lab2_vector_db import compaction, segment_index, writer
from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.filters import Range
from labs.lab2_vector_db.index_types import IVF, PQ, SQ, Recipe

D = 16
RECIPE = Recipe(IVF(16, nprobe=16), PQ(8, 4), refine=SQ(8))
SCHEMA = Schema(D, "l2", {"number": "int"}, RECIPE)
OPTIONS = {"index_rows": 500, "auto_compact": False, "sync": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for one another in small k-means runs take long on a busy machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def cloud(n, *, centre=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (centre + rng.standard_normal((n, D))).astype(np.float32)


def contents(collection):
    return {
        record.id: (record.vector.tobytes(), record.payload)
        for record in collection.get(collection.matching())
    }


def segments(collection):
    return [(each.n_rows, each.n_tombstones, each.indexed) for each in collection.stats().segments]


def fill(collection, n_segments, rows=100):
    for number in range(n_segments):
        ids = np.arange(number * rows, (number + 1) * rows)
        collection.upsert(ids, cloud(rows, seed=number), {"number": ids})
        collection.flush()


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "c", SCHEMA, **OPTIONS) as opened:
        yield opened


def reopened(collection):
    collection.close()
    return Collection.open(collection.path)


def test_compact_leaves_one_segment_without_tombstones_and_the_same_rows(collection):
    fill(collection, 3)
    collection.upsert([5, 105, 999], cloud(3, seed=9))
    collection.delete([6, 106])
    before = contents(collection)
    assert segments(collection) == [(100, 2, False), (100, 2, False), (100, 0, False)]
    collection.compact()
    assert segments(collection) == [(299, 0, False)]
    assert contents(collection) == before
    with reopened(collection) as again:
        assert contents(again) == before
        assert len(list((again.path / "segments").iterdir())) == 1


def test_compacting_twice_writes_nothing_the_second_time(collection):
    fill(collection, 2)
    collection.compact()
    name = collection.stats().segments[0].name
    collection.compact()
    assert collection.stats().segments[0].name == name


def test_when_all_rows_are_dead_no_segment_is_left(collection):
    fill(collection, 2)
    collection.delete(np.arange(200))
    collection.compact()
    assert (segments(collection), len(collection)) == ([], 0)
    assert (collection.search(cloud(1), 3).ids == -1).all()


def test_what_is_written_while_segments_merge_is_not_lost(collection, monkeypatch):
    """Deletes, replacements and a flush between the reading of the rows and the swap."""
    fill(collection, 3)
    merge = compaction.merge

    def slow_merge(*args, **kwargs):
        entry = merge(*args, **kwargs)
        collection.delete([1, 150])
        collection.upsert([2, 250, 777], cloud(3, seed=7), {"number": [7, 7, 7]})
        collection.flush()
        collection.upsert([3, 778], cloud(2, seed=8), {"number": [8, 8]})
        return entry

    monkeypatch.setattr(compaction, "merge", slow_merge)
    collection.compact()
    assert len(collection) == 300
    assert collection.get([1, 150]) == [None, None]
    assert collection.matching(Range("number", gte=7, lte=8)).tolist() == [
        2,
        3,
        7,
        8,
        250,
        777,
        778,
    ]
    assert segments(collection) == [(300, 5, False), (3, 0, False)]
    before = contents(collection)
    with reopened(collection) as again:
        assert contents(again) == before


FIRST = ("write_segment", "write_tombstones", "sync", "write_manifest")
PLACES = [(step, name, 0) for step in ("flush", "compact") for name in FIRST] + [
    ("flush", "sync", 1),  # the manifest is replaced already
    ("compact", "write_manifest", 1),  # after the flush
    ("compact", "sync", 3),
]


@pytest.mark.parametrize(("step", "broken", "after"), PLACES)
def test_an_interruption_anywhere_leaves_the_old_state_or_the_new(
    collection, monkeypatch, step, broken, after
):
    fill(collection, 2)
    collection.upsert([5, 500], cloud(2, seed=3), {"number": [5, 500]})
    before = contents(collection)

    class Interrupted(BaseException):
        pass

    works, calls = getattr(writer, broken), []

    def interrupt(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise Interrupted
        return works(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(writer, broken, interrupt)
        with pytest.raises(Interrupted):
            getattr(collection, step)()
        assert contents(collection) == before
    collection.compact()
    assert contents(collection) == before
    with reopened(collection) as again:
        assert contents(again) == before


def test_a_merge_reuses_the_trained_quantizers_and_drift_replaces_them(collection):
    collection.bulk_load(cloud(3000), payload={"number": np.zeros(3000, int)})

    def quantizer():
        ivf = faiss.extract_index_ivf(collection.index)
        return ivf.quantizer.reconstruct_n(0, 16)

    centroids = quantizer()

    def centroids_after(ids, vectors, retrain="auto"):
        collection.upsert(ids, vectors)
        collection.compact(retrain)
        assert segments(collection) == [(len(collection), 0, True)]
        return quantizer()

    same = centroids_after(np.arange(3000, 4500), cloud(1500, seed=1))
    np.testing.assert_array_equal(same, centroids)
    assert collection.index.ntotal == 4500
    kept = centroids_after(np.arange(5000, 6500), cloud(1500, centre=4.0), retrain=False)
    np.testing.assert_array_equal(kept, centroids)
    collection.delete(np.arange(5000, 6500))
    new = centroids_after(np.arange(7000, 8500), cloud(1500, centre=4.0))
    assert not np.allclose(new, centroids)
    again = centroids_after([9000], cloud(1), retrain=True)
    assert not np.allclose(again, new)


def test_drift_of_rows_without_an_index_is_in_the_statistics(collection):
    assert collection.stats().drift is None
    collection.bulk_load(cloud(3000))
    assert collection.stats().drift is None
    collection.upsert(np.arange(5000, 7000), cloud(2000, seed=1))
    assert not collection.stats().drift.retrain
    collection.upsert(np.arange(8000, 12_000), cloud(4000, centre=4.0))
    assert collection.stats().drift.retrain


def plan_of(collection, **options):
    snapshot = collection._source.snapshot
    changed = writer.replace(collection._source.manifest.options, **options)
    plan = compaction.choose(snapshot.segments, SCHEMA, changed)
    return None if plan is None else [live.segment.name for live in plan.sources]


def test_what_is_compacted_is_chosen_by_tombstones_index_and_number(collection):
    fill(collection, 4)
    assert plan_of(collection) is None
    names = [each.name for each in collection.stats().segments]
    assert plan_of(collection, max_segments=3) == names[:3]  # down to half the limit
    assert plan_of(collection, index_rows=300) is None  # 16 lists need 624 rows to train on
    fill(collection, 7)
    names = [each.name for each in collection.stats().segments if each.n_tombstones < 100]
    assert plan_of(collection, max_tombstone_share=1.0, index_rows=500) is not None
    collection.compact()
    collection.delete(np.arange(150))
    assert len(plan_of(collection)) == 1
    assert plan_of(collection, max_tombstone_share=0.3) is None


def test_the_background_keeps_segments_few_and_rows_indexed(tmp_path):
    options = {"index_rows": 700, "flush_rows": 100, "max_segments": 4, "sync": False}
    with Collection.create(tmp_path / "c", SCHEMA, **options) as collection:
        for start in range(0, 3000, 50):
            collection.upsert(np.arange(start, start + 50), cloud(50, seed=start))
        for _ in range(200):
            thread = collection._source._background
            if thread is None or not thread.is_alive():
                break
            thread.join(0.1)
        stats = collection.stats()
        assert any(each.indexed for each in stats.segments), stats
        assert len(stats.segments) <= 6, stats
        assert stats.maintenance_error is None
        assert len(collection) == 3000
        found = collection.search(cloud(50, seed=100), 1).ids[:, 0]
        assert (found == np.arange(100, 150)).mean() > 0.9


def test_a_compaction_that_fails_in_the_background_is_reported(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RunError("no room for it")

    with Collection.create(tmp_path / "c", SCHEMA, max_segments=1, sync=False) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(compaction, "merge", fail)
            fill(collection, 3)
            collection._source._background.join()
            assert collection.stats().maintenance_error == "no room for it"
            assert len(collection) == 300
        collection.upsert([1], cloud(1))
        collection.flush()
        collection._source._background.join()
        assert collection.stats().maintenance_error is None
        assert len(collection.stats().segments) == 1


def test_closing_gives_up_a_compaction_that_is_under_way(tmp_path, monkeypatch):
    begun = threading.Event()
    builder = segment_index.index_builder

    def slow(*args, stop, **kwargs):
        begun.set()
        while not stop():
            time.sleep(0.01)
        return builder(*args, stop=stop, **kwargs)

    monkeypatch.setattr(compaction, "index_builder", slow)
    collection = Collection.create(tmp_path / "c", SCHEMA, max_segments=1, sync=False)
    fill(collection, 10)
    assert begun.wait(10)
    collection.close()
    with Collection.open(tmp_path / "c") as again:
        assert len(again) == 1000


def test_a_full_disk_while_the_index_is_written_changes_nothing(tmp_path):
    """The vectors take 64,000 bytes, the index, which holds them and ids, 73,000."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    schema = Schema(D, "l2", {"number": "int"}, Recipe(IVF(16)))
    with Collection.create(tmp_path / "c", schema, **OPTIONS) as collection:
        fill(collection, 10)
        before = contents(collection)
        for limit in (40_000, 66_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            try:
                with pytest.raises(RunError, match="free some space"):
                    collection.compact()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert contents(collection) == before
            assert len(list((collection.path / "segments").iterdir())) == 10
        collection.compact()
        assert segments(collection) == [(1000, 0, True)]
        assert contents(collection) == before
