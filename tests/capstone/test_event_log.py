"""The event log: acknowledged means on disk, once, whatever happens to the process or the disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capstone.event_log import EventConflict, EventLog, LogRefused
from capstone.event_tables import (
    EXPOSURES,
    REACTIONS,
    FeedTables,
    open_experiment,
    open_tables,
    read_reactions,
)
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def event(name: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": name, "request_id": "r1", "user_id": 7, "item_id": 3, "reaction": "like",
        "unit_id": "7", "variant": 0, "arm": "control", "version": "v", "position": 2, "at": 10**15,
    }  # fmt: skip
    return fields | changes


def exposure(name: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "request_id": name, "unit_id": "7", "user_id": 7, "experiment": "feed",
        "in_experiment": True, "variant": 0, "arm": "control", "version": "v", "cold_start": False,
        "fallback": None, "n_candidates": 3, "latency_ms": 2.5, "items": [3, 1],
        "slots": ["ranked", "exploration"], "source": [1, 4], "propensities": [1.0, 0.25],
        "values": [0.5, 0.25], "p_engage": [0.5, 0.25], "at": 10**15,
    }  # fmt: skip
    return fields | changes


async def fill(folder: Path, names: list[str]) -> list[bool]:
    log = EventLog(folder)
    try:
        return await asyncio.gather(*(log.react(event(name)) for name in names))
    finally:
        await log.close()


def logged(folder: Path) -> list[str]:
    return [row["event_id"] for row in read_reactions(folder, newest=10**6)]


def test_a_reaction_is_there_after_a_restart_and_is_not_taken_twice(tmp_path: Path) -> None:
    """A client that got no answer sends again; it must not like a film twice."""
    assert asyncio.run(fill(tmp_path, ["a", "b"])) == [False, False]
    assert asyncio.run(fill(tmp_path, ["b", "c"])) == [True, False]
    assert logged(tmp_path) == ["a", "b", "c"]


def test_the_same_event_twice_at_the_same_time_is_written_once(tmp_path: Path) -> None:
    """A retry may overtake the first try; both wait for the same write."""
    assert asyncio.run(fill(tmp_path, ["a", "a", "a"])) == [False, True, True]
    assert logged(tmp_path) == ["a"]


def test_an_id_that_stands_for_another_event_is_refused(tmp_path: Path) -> None:
    """Taken for a replay, the second event would be acknowledged and lost."""

    async def main() -> None:
        log = EventLog(tmp_path)
        first = asyncio.ensure_future(log.react(event("a")))
        await asyncio.sleep(0)
        with pytest.raises(EventConflict, match="make a new id"):
            await log.react(event("a", item_id=4))
        await first
        with pytest.raises(EventConflict, match="'a'"):
            await log.react(event("a", reaction="hide"))
        await log.close()

    asyncio.run(main())


def test_reactions_that_wait_at_the_same_time_share_an_fsync(tmp_path: Path) -> None:
    """One fsync costs as much as hundreds of records: a hundred of them would take a second."""

    async def main() -> int:
        log = EventLog(tmp_path)
        await asyncio.gather(*(log.react(event(f"e{i}")) for i in range(100)))
        wal = log._reactions._log
        assert wal is not None
        fsyncs = wal.fsyncs
        await log.close()
        return fsyncs

    assert asyncio.run(main()) <= 5


WRITER = """
import asyncio, sys
from pathlib import Path
from capstone.event_log import EventLog
from tests.capstone.test_event_log import event, exposure

async def main():
    log = EventLog(Path(sys.argv[1]))
    async def client(name):
        for i in range(10**6):
            await log.react(event(f"{name}-{i}"))
            print(f"{name}-{i}", flush=True)
            log.expose(exposure(f"{name}-{i}"))
            if i % 40 == 39:
                await log.roll()
    await asyncio.gather(*(client(name) for name in "abc"))

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [30, 170])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, answers: int) -> None:
    """The promise of the service. The second kill falls into or after a move to Parquet."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(answers)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().split("\n")[:-1]  # the last line may be half a line
    writer.wait()
    assert len(acknowledged) >= answers
    assert asyncio.run(fill(tmp_path, ["after"])) == [False], "the log must open again"
    found = logged(tmp_path)
    assert set(acknowledged) - set(found) == set()
    assert len(found) == len(set(found)), "a record is in the tables once"


def test_a_torn_tail_is_cut_and_the_rest_is_kept(tmp_path: Path) -> None:
    """The machine dies in the middle of a write: half a record was never acknowledged."""

    async def main() -> None:
        log = EventLog(tmp_path)
        await log.react(event("a"))
        await log.react(event("b"))
        log._release()  # as if the process had died: nothing is closed

    asyncio.run(main())
    (segment,) = FeedTables(tmp_path).log(REACTIONS).glob("*.wal")
    segment.write_bytes(segment.read_bytes()[:-5])
    assert asyncio.run(fill(tmp_path, ["a", "c"])) == [True, False]
    assert logged(tmp_path) == ["a", "c"]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_without_room_a_reaction_is_refused_and_later_taken(tmp_path: Path) -> None:
    """Acknowledged and lost would be worse than refused: the client still has it."""
    told: list[tuple[str, int]] = []

    async def main() -> None:
        log = EventLog(tmp_path, on_error=lambda kind, count: told.append((kind, count)))
        await log.react(event("a"))
        with full_disk(300):
            with pytest.raises(LogRefused, match="no room") as refused:
                await log.react(event("b"))
            assert refused.value.status == 507
            log.expose(exposure("r1"))  # nobody waits for it
            await log._exposures.settle()
        assert await log.react(event("b")) is False, "the refused one was not remembered"
        await log.close()

    asyncio.run(main())
    assert logged(tmp_path) == ["a", "b"]
    assert told == [(REACTIONS, 1), (EXPOSURES, 1)]


def test_a_second_gateway_on_the_same_log_is_refused(tmp_path: Path) -> None:
    """Two writers would cut off each other's records."""

    async def main() -> None:
        log = EventLog(tmp_path)
        with pytest.raises(InputError, match="open for writing"):
            EventLog(tmp_path)
        await log.close()

    asyncio.run(main())


def test_the_tables_hold_what_was_logged_and_what_is_not_yet_moved(tmp_path: Path) -> None:
    """A reader must not have to know how far the move to Parquet has come."""

    async def main() -> list[tuple[Any, ...]]:
        log = EventLog(tmp_path)
        await log.react(event("a"))
        log.expose(exposure("r1"))
        assert await log.roll() == 2
        await log.react(event("b", reaction="hide", at=10**15 + 1))
        log.expose(exposure("r2", fallback="score", in_experiment=False, p_engage=[]))
        await log._exposures.settle()
        rows = (
            open_tables(tmp_path)
            .sql("SELECT request_id, fallback, items, propensities, p_engage FROM exposures")
            .fetchall()
        )
        assert len(FeedTables(tmp_path).files(REACTIONS)) == 1
        await log.close()
        return rows

    rows = asyncio.run(main())
    assert rows == [
        ("r1", None, [3, 1], [1.0, 0.25], [0.5, 0.25]),
        ("r2", "score", [3, 1], [1.0, 0.25], []),
    ]
    assert logged(tmp_path) == ["a", "b"]


def test_lab_6_reads_the_log_as_an_experiment(tmp_path: Path) -> None:
    """Exposures of the experiment's units only; each feed and each reaction is an event."""

    async def main() -> None:
        log = EventLog(tmp_path)
        log.expose(exposure("r1"))
        log.expose(exposure("r2", fallback="score"))
        log.expose(exposure("r3", unit_id="8", in_experiment=False))
        await log.react(event("a"))
        await log.close()

    asyncio.run(main())
    connection = open_experiment(tmp_path)
    units = connection.sql("SELECT unit_id, experiment, arm FROM exposures").fetchall()
    assert units == [("7", "feed", "control")] * 2
    counts = connection.sql("SELECT name, sum(value) FROM events GROUP BY name ORDER BY name")
    assert counts.fetchall() == [
        ("error", 1.0), ("latency_ms", 7.5), ("like", 1.0), ("session", 3.0)
    ]  # fmt: skip


def test_a_crash_between_parquet_and_the_cut_leaves_each_record_once(tmp_path: Path) -> None:
    """The file is there and the log still has its records: their numbers tell."""

    async def main() -> None:
        log = EventLog(tmp_path)
        await log.react(event("a"))
        await log.react(event("b"))
        segment = FeedTables(tmp_path).log(REACTIONS) / f"{1:020d}.wal"
        before = segment.read_bytes()
        await log.close()
        for path in segment.parent.glob("*.wal"):
            path.unlink()
        segment.write_bytes(before)

    asyncio.run(main())
    assert asyncio.run(fill(tmp_path, ["b", "c"])) == [True, False]
    assert logged(tmp_path) == ["a", "b", "c"]
    names = open_experiment(tmp_path).sql("SELECT event_id FROM events ORDER BY 1").fetchall()
    assert names == [("a",), ("b",), ("c",)]
