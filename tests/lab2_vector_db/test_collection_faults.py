"""Damage, a full disk, remains of a crash, and many threads: the collection stays whole."""

import resource
import threading

import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db.collection import Collection, Schema

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


def contents(collection):
    return {
        int(each): (tuple(record.vector.tolist()), record.payload)
        for each, record in zip(collection.matching(), collection.get(collection.matching()))
    }


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[:-1])
    elif how == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flip", "missing"])
@pytest.mark.parametrize("read_only", [True, False])
def test_any_damaged_file_is_named(stored, how, read_only):
    stored.delete([1])
    stored.upsert([3000, 2000], rows(2))
    stored.compact()
    stored.delete([2])
    stored.flush()
    stored.close()
    checked = [
        path
        for path in sorted(stored.path.rglob("*"))
        if path.is_file() and path.name != "lock" and path.suffix != ".wal"
    ]
    assert {"vectors.f32", "ids.i64", "manifest.json"} <= {path.name for path in checked}
    for path in checked:
        content = path.read_bytes()
        damage(path, how)
        error = InputError if (how, path.name) == ("missing", "manifest.json") else RunError
        with pytest.raises(error, match=path.name.replace(".", r"\.")):
            Collection.open(stored.path, read_only=read_only)
        path.write_bytes(content)
    with Collection.open(stored.path) as again:
        assert len(again) == 150


def test_a_collection_without_its_log_is_refused(stored):
    stored.close()
    for path in (stored.path / "wal").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="wal"):
        Collection.open(stored.path)


def test_what_a_crash_left_behind_is_swept(stored):
    stored.close()
    segments = stored.path / "segments"
    (name,) = [each.name for each in segments.iterdir()]
    (segments / "000099").mkdir()
    (segments / "000099" / "vectors.f32").write_bytes(b"half")
    (segments / name / "tombstones-00000099.bits").write_bytes(b"?")
    with Collection.open(stored.path) as again:
        assert len(again) == 150
        assert [each.name for each in segments.iterdir()] == [name]
        assert not list((segments / name).glob("tombstones*"))


@pytest.fixture
def room(monkeypatch):
    """``room(n)``: no file may grow beyond n bytes, as on a full disk; the kernel refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n_bytes", [0, 10, 60, 100, 500, 2000, 5000, 9000])
def test_a_full_disk_is_one_error_and_the_collection_stays_whole(tmp_path, room, n_bytes):
    """At every size at which a step can fail: log, segment, tombstones, manifest."""
    path = tmp_path / "c"
    with Collection.create(
        path, SCHEMA, flush_rows=100, auto_compact=False, sync=False
    ) as collection:
        collection.upsert(np.arange(90), rows(90))
        collection.flush()
        collection.upsert(np.arange(80, 120), rows(40, seed=2))
        collection.delete([1, 2])
        before = contents(collection)
        room(n_bytes)
        failed = []
        for step in (
            lambda: collection.upsert(np.arange(200, 290), rows(90)),
            collection.flush,
            collection.compact,
        ):
            try:
                step()
            except RunError as error:
                failed.append(str(error))
        room(resource.RLIM_INFINITY)
        written = {id_: value for id_, value in contents(collection).items() if id_ < 200}
        assert written == before
        assert failed or n_bytes >= 5000
        assert all("space" in message for message in failed), failed
        collection.upsert([500], rows(1))
        after = contents(collection)
        assert 500 in after
        collection.compact()
        assert contents(collection) == after
    with Collection.open(path) as again:
        assert contents(again) == after


def test_searching_threads_never_see_a_row_twice_or_not_at_all(tmp_path):
    """Every id is rewritten over and over, flushed and compacted; a search must find each once.

    A tombstone that becomes visible before the new version loses the row for a moment; the other
    way round it comes twice.
    """
    ids = np.arange(60)
    wrong, done = [], threading.Event()
    with Collection.create(tmp_path / "c", SCHEMA, flush_rows=200, sync=False) as collection:
        collection.upsert(ids, rows(60))

        def look():
            while not done.is_set():
                found = np.sort(collection.search(rows(2), 70).ids, axis=1)[:, 10:]
                if not (found == ids).all():
                    wrong.append(found)
                if any(each is None for each in collection.get(ids)):
                    wrong.append("get")
                if len(collection) != 60:
                    wrong.append(len(collection))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for step in range(40):
                some = np.random.default_rng(step).choice(60, 30, replace=False)
                collection.upsert(some, rows(30, seed=step))
                if step % 10 == 9:
                    collection.compact()
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not wrong, wrong[:3]


def test_writing_threads_share_the_log_and_lose_nothing(tmp_path):
    path = tmp_path / "c"
    with Collection.create(path, SCHEMA, flush_rows=300) as collection:

        def write(number):
            for step in range(20):
                start = number * 1000 + step * 10
                collection.upsert(np.arange(start, start + 10), rows(10, seed=start))
                assert collection.delete([start]) == 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        before = contents(collection)
        assert len(before) == 4 * 20 * 9
    with Collection.open(path) as again:
        assert contents(again) == before


def test_a_reader_beside_a_writer_that_replaces_files_always_sees_a_whole_state(tmp_path):
    """Files vanish between a reader's look at the manifest and its opening of them."""
    path, ids, done, wrong = tmp_path / "c", np.arange(40), threading.Event(), []
    with Collection.create(path, SCHEMA, auto_compact=False, sync=False) as collection:
        collection.upsert(ids, rows(40), {"year": [0] * 40})

        def read():
            while not done.is_set():
                try:
                    with Collection.open(path, read_only=True) as reader:
                        for _ in range(3):
                            years = [row.payload["year"] for row in reader.get(ids) if row]
                            if len(years) != 40 or len(set(years)) != 1 or len(reader) != 40:
                                wrong.append(years)
                            reader.refresh()
                except RunError as error:
                    wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for step in range(30):
                collection.upsert(ids, rows(40, seed=step), {"year": [step] * 40})
                collection.flush()
                if step % 3 == 0:
                    collection.compact()
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not wrong, wrong[0]
