"""Bulk load: many rows in one commit, past the log, and on from where it was killed."""

import functools

import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import bulk_loading, index_building
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


def test_bulk_load_replaces_rows_that_are_there_and_keeps_the_others(collection):
    fill(collection, 2)
    collection.upsert([7, 5000], cloud(2, seed=3), {"number": [7, 5000]})
    ids = np.random.default_rng(0).permutation(1000)  # not in order
    collection.bulk_load(cloud(1000, seed=5), ids, {"number": np.full(1000, -1)})
    assert len(collection) == 1001
    assert collection.matching(Range("number", gte=0)).tolist() == [5000]
    (record,) = collection.get([7])
    np.testing.assert_array_equal(record.vector, cloud(1000, seed=5)[ids == 7][0])
    found = collection.search(cloud(1000, seed=5)[:50], 1).ids[:, 0]
    assert (found == ids[:50]).mean() > 0.9
    before = contents(collection)
    with reopened(collection) as again:
        assert contents(again) == before
        assert not (again.path / "loading").exists()


def test_a_bulk_load_from_a_mapped_file_may_be_repeated(tmp_path, collection):
    np.save(tmp_path / "vectors.npy", cloud(1000).astype(np.float64))
    mapped, done = np.load(tmp_path / "vectors.npy", mmap_mode="r"), []
    for _ in range(2):
        collection.bulk_load(mapped, progress=done.append)
    assert segments(collection) == [(1000, 0, True)]
    assert done[-1] == 1000


def test_a_bulk_load_that_died_goes_on_and_another_input_starts_anew(collection, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    check_rows, checked = bulk_loading.check_rows, []

    def counting(rows, *rest, **named):
        checked.append(len(rows))
        return check_rows(rows, *rest, **named)

    monkeypatch.setattr(bulk_loading, "check_rows", counting)
    with monkeypatch.context() as patch:
        patch.setattr(bulk_loading, "finish_segment", kill)
        with pytest.raises(Killed):
            collection.bulk_load(cloud(1000))
    assert len(collection) == 0
    collection = reopened(collection)
    del checked[:]
    collection.bulk_load(cloud(1000))
    assert sum(checked) == 1, "the vectors were copied again"  # one row tells the dimension
    with monkeypatch.context() as patch:
        patch.setattr(bulk_loading, "finish_segment", kill)
        with pytest.raises(Killed):
            collection.bulk_load(cloud(900, seed=1), np.arange(2000, 2900))
    collection.bulk_load(cloud(900, seed=2), np.arange(2000, 2900))
    np.testing.assert_array_equal(collection.get([2000])[0].vector, cloud(900, seed=2)[0])
    collection.close()


def test_a_bulk_load_that_died_does_not_index_its_slices_again(collection, monkeypatch):
    class Killed(BaseException):
        pass

    def die_in_the_third(done):
        if done >= 2000:
            raise Killed

    real = index_building.build_large
    small = functools.partial(real, slice_rows=1000)
    monkeypatch.setattr(bulk_loading, "build_large", small)
    with pytest.raises(Killed):
        collection.bulk_load(cloud(4000), progress=die_in_the_third)
    parts = sorted(each.name for each in (collection.path / "loading" / "index").glob("part-*"))
    assert len(parts) == 2, parts
    with reopened(collection) as again:
        assert len(again) == 0
        steps = []
        again.bulk_load(cloud(4000), progress=steps.append)
        assert steps[0] == 2000, f"began again at row {steps[0]}"
        assert segments(again) == [(4000, 0, True)]
        assert (again.search(cloud(4000)[::40], 1).ids[:, 0] == np.arange(0, 4000, 40)).mean() > 0.9
        assert not (again.path / "loading").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bulk_load_with_one_bad_value_loads_nothing(collection, monkeypatch, bad):
    monkeypatch.setattr("labs.lab2_vector_db.bulk_loading.SLICE_ROWS", 100)
    vectors = cloud(1000)
    vectors[777, 3] = bad
    with pytest.raises(InputError, match=r"vectors\[700:\] row 77"):
        collection.bulk_load(vectors)
    assert len(collection) == 0
    assert not (collection.path / "loading").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((cloud(3)[0],), r"\[n, d\]"),
        ((cloud(3)[:, :5],), "dimension"),
        ((cloud(3), [1, 1, 2]), "given 2 times"),
        ((cloud(3), [1, 2]), "one a vector"),
        ((cloud(3), None, {"number": [1]}), "must be 3"),
        ((cloud(3), None, {"colour": [1] * 3}), "not in the schema"),
    ],
)
def test_a_bad_bulk_load_is_refused(collection, arguments, says):
    with pytest.raises(InputError, match=says):
        collection.bulk_load(*arguments)
    assert len(collection) == 0
