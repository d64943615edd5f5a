"""How many upserts a second the write-ahead log makes durable, alone and in a group."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from labs.lab2_vector_db.payload import Fields, PayloadColumns
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog
from labs.lab2_vector_db.writes import Upsert, encode

FIELDS: Fields = {"year": "int", "tag": "keyword"}


@dataclass(frozen=True)
class LogRate:
    """What one run of writers measured.

    ``upserts_per_s`` counts rows that were durable when their ``commit`` returned, checked and
    encoded in that time too; ``rows_per_fsync`` is the share of a group; ``bytes_per_row`` what a
    row takes in the log.
    """

    threads: int
    batch_rows: int
    upserts_per_s: float
    rows_per_fsync: float
    bytes_per_row: float


def measure(
    folder: Path,
    *,
    threads: int = 1,
    batch_rows: int = 1000,
    batches: int = 100,
    dimension: int = 96,
    seed: int = 0,
) -> LogRate:
    """Let threads append and commit batches of upserts with two payload fields.

    Parameters
    ----------
    folder
        On the disk to be measured; a log is made in it and removed.
    threads
        Writers that commit at the same time.
    batch_rows
        Vectors of one write.
    batches
        Writes, shared out between the threads.
    dimension
        Of the vectors.
    seed
        Of the vectors.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((batch_rows, dimension)).astype(np.float32)
    years, tags = list(range(batch_rows)), [f"t{number % 50}" for number in range(batch_rows)]
    payload: dict[str, Sequence[Any]] = {"year": years, "tag": tags}
    with TemporaryDirectory(dir=folder) as place, WriteAheadLog.open(place) as log:

        def write(thread: int) -> None:
            for number in range(thread, batches, threads):
                ids = np.arange(number * batch_rows, (number + 1) * batch_rows)
                columns = PayloadColumns.from_dict(FIELDS, payload, batch_rows)
                log.commit(log.append(encode(Upsert(ids, vectors, columns))))

        writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
        start = time.perf_counter()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        seconds = time.perf_counter() - start
        rows = batches * batch_rows
        size = log.size_bytes()
        return LogRate(threads, batch_rows, rows / seconds, rows / log.fsyncs, size / rows)
