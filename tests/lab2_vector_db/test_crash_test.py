"""Kill -9 loses nothing, and the test that says so fails on stores that do lose something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import crash_test
from labs.lab2_vector_db.collection import Collection
from labs.lab2_vector_db.crash_test import CrashReport
from labs.lab2_vector_db.reference_model import (
    N_IDS,
    SCHEMA,
    Model,
    compare,
    operation,
    perform,
)

ROOT = Path(__file__).resolve().parents[2]


class AcknowledgesBeforeTheAppend(Collection):
    """Returns at once, and appends a few writes later: a queue in the process's memory."""

    def upsert(self, ids: Any, vectors: Any, payload: Any = None) -> None:
        queue = self.__dict__.setdefault("queue", [])
        queue.append((ids, vectors, payload))
        if len(queue) == 3:
            self.drain()

    def drain(self) -> None:
        for write in self.__dict__.pop("queue", []):
            super().upsert(*write)

    def delete(self, ids: Any) -> int:
        self.drain()
        return super().delete(ids)

    def flush(self) -> None:
        self.drain()
        super().flush()

    def compact(self, retrain: Any = "auto") -> None:
        self.drain()
        super().compact(retrain)


class LosesADelete(Collection):
    """Forgets the first id of every delete."""

    def delete(self, ids: Any) -> int:
        return super().delete(np.asarray(ids)[1:]) + 1


class ResurrectsATombstone(Collection):
    """After a compaction a deleted row is back."""

    def delete(self, ids: Any) -> int:
        live = [record for record in self.get(ids) if record is not None]
        self.__dict__["dead"] = live or self.__dict__.get("dead", [])
        return super().delete(ids)

    def upsert(self, ids: Any, vectors: Any, payload: Any = None) -> None:
        self.__dict__["dead"] = []
        super().upsert(ids, vectors, payload)

    def compact(self, retrain: Any = "auto") -> None:
        super().compact(retrain)
        for record in self.__dict__.get("dead", []):
            payload = {name: [value] for name, value in record.payload.items()}
            super().upsert(np.array([record.id]), record.vector[None], payload)


class TearsBatches(Collection):
    """A batch is two records of the log: a kill between them leaves half of it."""

    def upsert(self, ids: Any, vectors: Any, payload: Any = None) -> None:
        for half in np.array_split(np.arange(len(ids)), 2):
            if half.size:
                columns = {name: values[: half.size] for name, values in payload.items()}
                super().upsert(ids[half], vectors[half], columns)


class SyncsNothing(Collection):
    """Acknowledges what only the kernel has."""

    @classmethod
    def create(cls, path: Any, schema: Any, **options: Any) -> Any:
        return super().create(path, schema, **options | {"sync": False})


def crash(store: type[Collection], *options: str) -> CrashReport:
    """The report on a store, from a process that has no threads."""
    done = subprocess.run(
        [sys.executable, __file__, store.__name__, "--json", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return CrashReport(**json.loads(done.stdout.splitlines()[-1]))


def test_an_operation_is_the_same_every_time_and_writers_share_no_id() -> None:
    """The process that checks makes the vectors again; it never saw those that were written."""
    for number in range(40):
        first, second = (operation(7, number, writers=2) for _ in range(2))
        assert first.kind == second.kind
        np.testing.assert_array_equal(first.ids, second.ids)
        np.testing.assert_array_equal(first.vectors, second.vectors)
        assert (first.ids % 2 == number % 2).all()
        assert np.unique(first.ids).size == first.ids.size
        assert (first.ids < N_IDS).all()


def test_every_difference_between_a_collection_and_the_model_is_named(tmp_path: Path) -> None:
    """A check that cannot fail proves nothing: each kind of damage has to be seen as what it is."""
    with Collection.create(tmp_path / "c", SCHEMA) as collection:
        model = Model()
        for step in (operation(0, number) for number in range(60)):
            perform(collection, step)
            model.apply(step)
        assert not compare(collection, model).any

        some = model.ids[:3]
        kept = model.written_by.copy()
        model.written_by[some] += 1000
        assert compare(collection, model).lost == 3
        model.written_by[:] = kept
        model.written_by[some] = -1
        assert compare(collection, model).phantom == 3
        model.written_by[:] = kept
        model.vectors[some] += 1
        found = compare(collection, model)
        assert found.mismatches >= 3, found
        assert f"vectors of ids {some.tolist()}" in found.first


@pytest.mark.parametrize(("done", "torn"), [(0, False), (1, False), (0.5, True)])
def test_an_unacknowledged_batch_may_be_there_or_not_but_not_in_part(
    tmp_path: Path, done: float, torn: bool
) -> None:
    """A client without an answer tries again; it cannot repair half a batch it knows nothing of."""
    steps = (operation(3, number) for number in range(99))
    batch = next(step for step in steps if step.kind == "upsert" and step.ids.size > 9)
    with Collection.create(tmp_path / "c", SCHEMA) as collection:
        n = int(done * batch.ids.size)
        if n:
            payload = {"operation": [batch.number] * n}
            collection.upsert(batch.ids[:n], batch.vectors[:n], payload)
        found = compare(collection, Model(), [batch])
        assert (found.mismatches > 0) == torn, found
        assert found.done == ([batch.number] if done == 1 else [])


def test_a_number_of_kills_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    """0 kills would be reported as 0 lost."""
    with pytest.raises(InputError, match="kills"):
        crash_test.kill_loop(tmp_path / "c", kills=0)


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_by_kill_9(tmp_path: Path) -> None:
    """The promise of `upsert`: what returned is there, wherever the process was when it died."""
    counted: list[int] = []
    report = crash_test.run(tmp_path / "c", kills=12, power_cuts=6, progress=counted.append)
    assert counted[:18] == list(range(1, 19))
    assert report.clean, report
    assert report.kills == 18
    assert report.power_cuts == 6
    assert report.acknowledged > 50, report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "fields"),
    [
        (AcknowledgesBeforeTheAppend, {"lost"}),
        (LosesADelete, {"phantom", "mismatches"}),  # mismatches: killed in it, it is half done
        (ResurrectsATombstone, {"phantom"}),
        (TearsBatches, {"mismatches"}),
    ],
)
def test_a_broken_store_is_caught(store: type[Collection], fields: set[str]) -> None:
    """The same loop over stores with one classic mistake each: it must fail, and say how."""
    report = crash(store, "--kills", "90")
    assert not report.clean, f"{store.__name__} passed {report.kills} kills"
    found = {name for name in ("lost", "phantom", "mismatches") if getattr(report, name)}
    assert found & fields, f"{store.__name__} shows as {found}, expected {fields}: {report}"
    assert report.first_finding


@pytest.mark.slow
def test_only_a_power_cut_shows_that_nothing_was_synced() -> None:
    """After kill -9 the kernel still has what was written; 200 kills say nothing about fsync."""
    killed = crash(SyncsNothing, "--kills", "10")
    assert killed.clean, killed
    cut = crash(SyncsNothing, "--kills", "1", "--power-cuts", "10")
    assert not cut.clean, f"a store without fsync passed {cut.power_cuts} power cuts"


if __name__ == "__main__":
    sys.exit(crash_test.main(sys.argv[2:], store=globals()[sys.argv[1]]))
