"""Readiness: how long a write takes to be durable, to be found, and to be in an index.

"Real time" is four different times, and a system that is good at one of them may be bad at
another. All are taken from the moment the write is called, on one clock of the host, with a reader
in a process of its own that refreshes and searches in a loop.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError, require
from common.latency import LatencySummary
from common.process import supervised
from labs.lab2_vector_db.collection import Collection

ROOT = Path(__file__).resolve().parents[2]
PROBE_SCALE = 100.0
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Readiness:
    """From the call of an upsert, over ``writes`` upserts of ``rows`` rows.

    Attributes
    ----------
    acknowledged
        Until the call returned: the write is durable.
    searchable
        Until a search of the same collection found it.
    searchable_by_reader
        Until a search of another process found it; its loop's pause is 1 ms.
    indexed
        Until a flush, called when all that was seen, had put it into a segment.
    """

    writes: int
    rows: int
    acknowledged: LatencySummary
    searchable: LatencySummary
    searchable_by_reader: LatencySummary
    indexed: LatencySummary


def probe_vector(seed: int, number: int, dimension: int) -> NDArray[np.float32]:
    """A vector [1, d] far from all others, which a search finds first when it is there.

    As a query it has the largest inner product, the cosine 1 and the distance 0 with itself.
    """
    direction = np.random.default_rng([seed, number]).standard_normal((1, dimension))
    return (PROBE_SCALE * direction / np.linalg.norm(direction)).astype(np.float32)


def measure_readiness(
    folder: Path, *, writes: int = 20, rows: int = 100, first_id: int = 1 << 40, seed: int = 0
) -> Readiness:
    """Upsert into a collection, and wait until it and a reader's process find each write.

    Parameters
    ----------
    folder
        A collection that nobody writes to. The rows are deleted again at the end.
    writes
        Upserts, one after another; each is flushed before the next.
    rows
        Rows of an upsert: a probe that is searched for, and ordinary random ones.
    first_id
        The probes' ids begin here, ``writes * rows`` of them, none of them in use.

    Raises
    ------
    RunError
        When a write is not found within 30 s, or the reader ends.
    """
    require(writes >= 1, "writes", writes, "must be >= 1", "try 20")
    require(rows >= 1, "rows", rows, "must be >= 1", "try 100")
    seen: dict[int, float] = {}
    changed = threading.Condition()
    times: list[tuple[float, float, float, float]] = []
    arguments = [str(folder.absolute()), str(writes), str(rows), str(first_id), str(seed)]
    command = [sys.executable, "-m", "labs.lab2_vector_db.readiness", *arguments]
    rng = np.random.default_rng(seed)
    with (
        Collection.open(folder) as collection,
        supervised(command, cwd=ROOT, name="reader") as reader,
    ):
        dimension = collection.schema.dimension
        output: list[str] = []

        def listen() -> None:
            for line in reader.output:
                output.append(line)
                if line.startswith("seen "):
                    with changed:
                        seen[int(line.split()[1])] = float(line.split()[2])
                        changed.notify_all()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()

        def wait_for(number: int) -> float:
            with changed:
                if not changed.wait_for(lambda: number in seen, timeout=PATIENCE_S):
                    tail = "".join(output[-5:]).strip()
                    raise RunError(f"the reader did not find write {number}: {tail or 'no word'}")
                return seen[number]

        wait_for(-1)  # it is open
        for number in range(writes):
            ids = first_id + number * rows + np.arange(rows)
            vectors = rng.standard_normal((rows, dimension), dtype=np.float32)
            vectors[:1] = probe_vector(seed, number, dimension)
            called = time.monotonic()
            collection.upsert(ids, vectors)
            acknowledged = time.monotonic()
            _poll(collection, vectors[:1], int(ids[0]))
            searchable = time.monotonic()
            by_reader = wait_for(number)
            flushed_from = time.monotonic()
            collection.flush()
            indexed = acknowledged + (time.monotonic() - flushed_from)
            ends = acknowledged, searchable, max(by_reader, called), indexed
            times.append(tuple(end - called for end in ends))  # type: ignore[arg-type]
        collection.delete(first_id + np.arange(writes * rows))
    reader_how = "one write at a time, by another process that refreshes in a loop"
    summaries = [
        LatencySummary.of([row[column] for row in times], how=how)
        for column, how in enumerate(
            ("call to return", "one write at a time, same handle", reader_how, "call plus flush")
        )
    ]
    return Readiness(writes, rows, *summaries)


def _poll(collection: Collection, query: NDArray[np.float32], wanted: int) -> None:
    """Search until the id is the nearest."""
    deadline = time.monotonic() + PATIENCE_S
    while int(collection.search(query, 1).ids[0, 0]) != wanted:
        if time.monotonic() > deadline:
            raise RunError(f"id {wanted} was not found by its own vector for {PATIENCE_S:.0f} s")


def main(arguments: list[str]) -> None:
    """The reader's process: say when each probe is found first."""
    folder, (writes, rows, first_id, seed) = arguments[0], map(int, arguments[1:])
    with Collection.open(folder, read_only=True) as collection:
        print(f"seen -1 {time.monotonic()}", flush=True)
        for number in range(writes):
            query = probe_vector(seed, number, collection.schema.dimension)
            while int(collection.search(query, 1).ids[0, 0]) != first_id + number * rows:
                time.sleep(0.001)
                collection.refresh()
            print(f"seen {number} {time.monotonic()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
