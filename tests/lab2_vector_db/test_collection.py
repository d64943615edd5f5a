import os

import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.filters import Eq, In, Range
from labs.lab2_vector_db.index_types import IVF, PQ, Flat, RaBitQ, Recipe

D = 8
FIELDS = {"year": "int", "kind": "keyword"}
SCHEMA = Schema(D, "l2", FIELDS)


def rows(n, seed=0, dimension=D):
    return np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)


@pytest.fixture
def stored(tmp_path):
    """Ids 0 to 99 in a segment, 100 to 149 in memory; year = id % 10, kind = a or b or missing."""
    with Collection.create(tmp_path / "c", SCHEMA, auto_compact=False, sync=False) as collection:
        for start, end in ((0, 100), (100, 150)):
            ids = np.arange(start, end)
            kinds = [("a", "b", None)[each % 3] for each in ids.tolist()]
            collection.upsert(ids, rows(150)[ids], {"year": ids % 10, "kind": kinds})
            if end == 100:
                collection.flush()
        yield collection


def nearest(vectors, query, k, allowed=None):
    distances = ((vectors - query) ** 2).sum(axis=1)
    if allowed is not None:
        distances[~allowed] = np.inf
    return np.argsort(distances)[:k].tolist()


def contents(collection):
    return {
        int(each): (tuple(record.vector.tolist()), record.payload)
        for each, record in zip(collection.matching(), collection.get(collection.matching()))
    }


def test_search_finds_rows_of_memory_and_segments(stored):
    vectors = rows(150)
    hits = stored.search(vectors[[3, 120]] + 0.01, 5)
    assert hits.ids.tolist() == [nearest(vectors, vectors[i] + 0.01, 5) for i in (3, 120)]
    assert (np.diff(hits.scores, axis=1) >= 0).all()


def test_one_query_may_be_a_plain_vector(stored):
    assert stored.search(rows(150)[3], 1).ids.tolist() == [[3]]


def test_get_returns_vector_and_payload_in_the_order_asked_for(stored):
    first, second, third = stored.get([120, 999, 4])
    assert (first.id, first.payload) == (120, {"year": 0, "kind": "a"})
    np.testing.assert_array_equal(first.vector, rows(150)[120])
    assert second is None
    assert (third.id, third.payload) == (4, {"year": 4, "kind": "b"})
    assert stored.get([5])[0].payload == {"year": 5}  # the missing kind is left out
    assert stored.get([]) == []


@pytest.mark.parametrize("id_", [7, 107])
def test_an_upsert_replaces_vector_and_payload_wherever_the_row_is(stored, id_):
    old, new = rows(150)[id_], np.full(D, 9, np.float32)
    stored.upsert([id_], new[None], {"kind": ["new"]})
    assert len(stored) == 150
    assert stored.get([id_])[0].payload == {"kind": "new"}
    assert stored.search(new, 1).ids.tolist() == [[id_]]
    assert id_ not in stored.search(old, 150).ids[0, :100]
    assert (stored.search(old, 150).ids == id_).sum() == 1
    assert stored.matching(Eq("kind", "new")).tolist() == [id_]


def test_delete_counts_what_was_there_and_search_still_returns_k(stored):
    gone = np.r_[0:60, 100:130]
    assert stored.delete(gone) == 90
    assert stored.delete(np.r_[gone, 999]) == 0
    assert len(stored) == 60
    left = ~np.isin(np.arange(150), gone)
    hits = stored.search(rows(150)[5], 60)
    assert hits.ids[0].tolist() == nearest(rows(150), rows(150)[5], 60, left)
    assert stored.get([5]) == [None]


def test_a_deleted_id_can_come_back(stored):
    stored.delete([5, 105])
    stored.upsert([5, 105], rows(2, seed=9))
    assert stored.search(rows(2, seed=9), 1).ids.tolist() == [[5], [105]]
    assert len(stored) == 150


@pytest.mark.parametrize(
    "condition", [Eq("year", 3), In("year", (1, 7)), Range("year", gte=8), ~Eq("kind", "a")]
)
def test_a_filter_holds_in_memory_and_segments_and_counts_as_brute_force(stored, condition):
    ids = np.arange(150)
    kinds = np.array(["a", "b", ""])[ids % 3]
    expected = {
        "Eq": ids % 10 == 3,
        "In": np.isin(ids % 10, (1, 7)),
        "Range": ids % 10 >= 8,
        "Not": kinds != "a",
    }[type(condition).__name__]
    assert stored.matching(condition).tolist() == np.flatnonzero(expected).tolist()
    query = rows(1, seed=4)[0]
    hits = stored.search(query, 10, filter=condition)
    assert hits.ids[0].tolist() == nearest(rows(150), query, 10, expected)


def test_more_neighbours_than_rows_leaves_minus_one_and_nan(stored):
    hits = stored.search(rows(2), 200)
    assert hits.ids.shape == (2, 200)
    assert (hits.ids[:, 150:] == -1).all()
    assert np.isnan(hits.scores[:, 150:]).all()
    assert not np.isnan(hits.scores[:, :150]).any()


def test_an_empty_collection_answers_with_nothing(tmp_path):
    with Collection.create(tmp_path / "c", SCHEMA) as collection:
        hits = collection.search(rows(2), 3)
        assert (hits.ids == -1).all()
        assert np.isnan(hits.scores).all()
        assert (len(collection), collection.matching().size) == (0, 0)
        assert (collection.delete([1]), collection.get([1])) == (0, [None])
        collection.flush()
        collection.compact()


def test_search_by_id_leaves_the_row_itself_out(stored):
    expected = nearest(rows(150), rows(150)[9], 6)[1:]
    assert stored.search_by_id(9, 5).ids[0].tolist() == expected
    with pytest.raises(InputError, match="999"):
        stored.search_by_id(999, 5)


def test_cosine_scales_vectors_and_queries(tmp_path):
    vectors = rows(50) * np.logspace(-20, 15, 50, dtype=np.float32)[:, None]
    with Collection.create(tmp_path / "c", Schema(D, "cosine")) as collection:
        collection.upsert(np.arange(50), vectors)
        query = rows(1, seed=3)[0] * 1000
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosines = unit @ (query / np.linalg.norm(query))
        hits = collection.search(query, 5)
        assert hits.ids[0].tolist() == np.argsort(-cosines)[:5].tolist()
        np.testing.assert_allclose(hits.scores[0], np.sort(cosines)[::-1][:5], atol=1e-5)
        assert np.linalg.norm(collection.get([0])[0].vector) == pytest.approx(1, abs=1e-6)


def test_inner_products_come_largest_first(tmp_path):
    with Collection.create(tmp_path / "c", Schema(D, "inner_product")) as collection:
        collection.upsert(np.arange(50), rows(50))
        products = rows(50) @ rows(1, seed=3)[0]
        assert collection.search(rows(1, seed=3), 50).ids[0].tolist() == (
            np.argsort(-products).tolist()
        )


ZERO = np.zeros((1, D))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1, 1], rows(2)), "id 1 is given 2 times"),
        (([-1], rows(1)), r"ids = -1 must be >= 0"),
        (([1.5], rows(1)), "integer"),
        (([2**63], rows(1)), "must be <= 9223372036854775807"),
        (([[1]], rows(1)), r"\[n\]"),
        (([1], rows(2)), "ids has 1 rows, vectors has 2"),
        (([1], rows(1, dimension=7)), "dimension"),
        (([1], rows(1)[0]), r"\[n, d\]"),
        (([1], [[np.nan] * D]), "NaN"),
        (([1], [[np.inf] * D]), "infinity"),
        (([1], [["x"] * D]), "numbers"),
        (([1], ZERO), "row 0 is zero"),
        (([1], rows(1), {"colour": ["red"]}), "'colour' is not in the schema"),
        (([1], rows(1), {"year": ["2020"]}), "'year'"),
        (([1], rows(1), {"year": [1, 2]}), "must be 1, one value a row"),
    ],
)
def test_a_bad_write_is_refused_and_changes_nothing(tmp_path, arguments, says):
    with Collection.create(tmp_path / "c", Schema(D, "cosine", FIELDS)) as collection:
        collection.upsert([1, 2], rows(2), {"year": [1, 2]})
        before, lsn = contents(collection), collection.stats().lsn
        with pytest.raises(InputError, match=says):
            collection.upsert(*arguments)
        assert (contents(collection), collection.stats().lsn) == (before, lsn)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k = 0"),
        ({"k": 2.0}, "k = 2.0"),
        ({"k": 10**6}, "65536"),
        ({"queries": rows(1, dimension=9)}, "dimension"),
        ({"queries": np.full(D, np.nan)}, "NaN"),
        ({"queries": np.zeros(D)}, "queries row 0 is zero"),
        ({"queries": np.zeros((0, D))}, "at least one row"),
        ({"filter": Eq("colour", "red")}, "'colour' is not in the schema"),
        ({"filter": Eq("year", "x")}, "expected int"),
        ({"nprobe": 3}, "no inverted lists"),
        ({"k_factor": 3}, "does not refine"),
        ({"rerank": -1}, "rerank = -1"),
    ],
)
def test_a_bad_search_says_what_is_wrong(tmp_path, change, says):
    with Collection.create(tmp_path / "c", Schema(D, "cosine", FIELDS)) as collection:
        collection.upsert([1, 2], rows(2))
        arguments = {"queries": rows(1), "k": 1, **change}
        with pytest.raises(InputError, match=says):
            collection.search(**arguments)


@pytest.mark.parametrize("ids", [[3, 3], [-1], ["a"]])
def test_a_bad_delete_deletes_nothing(stored, ids):
    with pytest.raises(InputError):
        stored.delete(ids)
    assert len(stored) == 150


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dimension": 0}, "dimension = 0"),
        ({"metric": "hamming"}, "hamming"),
        ({"fields": {"a": "date"}}, "date"),
        ({"recipe": Recipe(IVF(4), PQ(3))}, "divide"),
        ({"recipe": Recipe(Flat(), RaBitQ())}, "selector"),
    ],
)
def test_a_schema_that_cannot_work_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        Schema(**{"dimension": D, **arguments})


def test_an_unknown_option_is_refused(tmp_path):
    with pytest.raises(InputError, match="flush_rows"):
        Collection.create(tmp_path / "c", SCHEMA, flush=3)


def test_create_needs_an_empty_folder_and_open_a_collection(tmp_path):
    with pytest.raises(InputError, match="no collection"):
        Collection.open(tmp_path)
    with pytest.raises(InputError, match="no collection"):
        Collection.open(tmp_path / "missing", read_only=True)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="empty folder"):
        Collection.create(tmp_path, SCHEMA)
    assert (tmp_path / "x").read_text() == "mine"


def test_a_reopened_collection_is_the_same(stored):
    stored.delete([3, 103])
    stored.upsert([4, 104], rows(2, seed=5), {"year": [77, None]})
    before = contents(stored)
    stored.close()
    for _ in range(2):
        with Collection.open(stored.path) as again:
            assert contents(again) == before
            assert again.schema == SCHEMA
            again.flush()


def test_a_closed_collection_refuses_everything(stored):
    stored.close()
    stored.close()
    for call in (
        lambda: stored.upsert([1], rows(1)),
        lambda: stored.search(rows(1), 1),
        lambda: stored.get([1]),
        stored.flush,
        stored.stats,
    ):
        with pytest.raises(InputError, match="closed"):
            call()


def test_a_full_memtable_is_flushed_and_the_log_stays_short(tmp_path):
    with Collection.create(
        tmp_path / "c", SCHEMA, flush_rows=50, auto_compact=False, sync=False
    ) as collection:
        for start in range(0, 400, 25):
            collection.upsert(np.arange(start, start + 25), rows(25, seed=start))
        stats = collection.stats()
        assert (len(stats.segments), stats.n_in_memory, stats.n_rows) == (7, 50, 400)
        assert stats.log_bytes < 50 * (D * 4 + 100)


def test_a_second_writer_is_refused_by_the_first_ones_pid(stored):
    with pytest.raises(InputError, match=rf"by process {os.getpid()}"):
        Collection.open(stored.path)
    with Collection.open(stored.path, read_only=True) as reader:
        assert len(reader) == 150
        with pytest.raises(InputError, match="open for reading"):
            reader.upsert([1], rows(1))


def test_a_reader_sees_what_was_written_when_it_refreshes(stored):
    with Collection.open(stored.path, read_only=True) as reader:
        stored.delete([1])
        assert len(reader) == 150
        assert reader.refresh()
        assert not reader.refresh()
        assert contents(reader) == contents(stored)
        stored.upsert([1, 200], rows(2))
        stored.flush()
        stored.compact()
        stored.delete([2])
        assert len(reader.search(rows(1), 5).ids[0]) == 5  # its files are gone, and still mapped
        assert reader.refresh()
        assert contents(reader) == contents(stored)
