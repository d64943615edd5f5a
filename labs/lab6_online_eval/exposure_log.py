"""Write and read an experiment's log: Parquet files that are either whole or not there.

A server buffers rows and writes them as a new file: first under a name that no reader looks for,
then synced to the disk, then renamed. A rename is atomic, so a process that is killed loses at most
its buffer, and never leaves half a file for the analysis to stumble over.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES, event_schema, exposure_schema
from labs.lab6_online_eval.experiment import Experiment

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from labs.lab6_online_eval.world import Sessions

FILE_ROWS = 1_000_000
MICROSECONDS_PER_DAY = 86_400_000_000
CLICK, SESSION, LATENCY, ERROR, HIDE = "click", "session", "latency_ms", "error", "hide"


def schema_of(table: str) -> pa.Schema:
    """The schema of ``"exposures"`` or ``"events"``."""
    schemas = {EXPOSURES: exposure_schema, EVENTS: event_schema}
    require(table in schemas, "table", table, f"must be {' or '.join(schemas)}")
    return schemas[table]()


class LogWriter:
    """Append rows to one table of a log, from one process.

    Parameters
    ----------
    folder
        The log's folder; the table has a folder of its own in it.
    table
        ``"exposures"`` or ``"events"``.
    buffer_rows
        Rows that are kept in memory, and that a crash may lose, before a file is written.

    Notes
    -----
    Any number of processes may write to one folder. Use it as a context manager: leaving writes the
    rest, also after an error, since what has been observed stays true.
    """

    def __init__(self, folder: Path, table: str, *, buffer_rows: int = 50_000) -> None:
        require(buffer_rows >= 1, "buffer_rows", buffer_rows, "must be at least 1")
        self.schema = schema_of(table)
        self.folder = folder / table
        self.folder.mkdir(parents=True, exist_ok=True)
        self.buffer_rows = buffer_rows
        self._buffer: list[pa.Table] = []
        self._buffered = 0

    def add(self, rows: pa.Table) -> None:
        """Buffer rows, and write a file when the buffer is full.

        Raises
        ------
        InputError
            The rows do not have the table's schema.
        """
        if not rows.schema.equals(self.schema):
            raise InputError(f"rows with the schema {rows.schema} must have {self.schema}")
        self._buffer.append(rows)
        self._buffered += rows.num_rows
        if self._buffered >= self.buffer_rows:
            self.flush()

    def flush(self) -> Path | None:
        """Write what is buffered as a new file; its path, or None when there is nothing."""
        import pyarrow as pa

        if self._buffered == 0:
            return None
        path = write_atomically(pa.concat_tables(self._buffer), self.folder)
        self._buffer, self._buffered = [], 0
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def write_atomically(rows: pa.Table, folder: Path) -> Path:
    """Write rows as one new Parquet file of a name that no other writer has."""
    import pyarrow.parquet as pq

    name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"  # so that files sort by their age
    beside, final = folder / f".{name}.partial", folder / f"{name}.parquet"
    try:
        with beside.open("wb") as file:
            pq.write_table(rows, file, compression="zstd", compression_level=1)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(final)
    finally:
        beside.unlink(missing_ok=True)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # without it a power cut may forget the rename
    finally:
        os.close(directory)
    return final


def open_log(folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection, in memory, with the log's tables as the views exposures and events.

    Only whole files are read: what a killed writer left behind has another name.

    Raises
    ------
    InputError
        No such folder; a file that is no Parquet or has another schema. The message names it.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    require(folder.is_dir(), "folder of the log", str(folder), "must exist", "see write_sessions")
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    # Parquet's min and max leave NaN out, and DuckDB would conclude from them that there is none:
    # it turns isnan(value) into false. See the test of NaN in the log.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    for table in (EXPOSURES, EVENTS):
        schema = schema_of(table)
        files = sorted((folder / table).glob("*.parquet"))
        for file in files:
            try:
                found = pq.read_schema(file)
            except (OSError, pa.ArrowInvalid) as error:
                raise InputError(f"{file} is no whole Parquet file: {error}") from error
            if not found.equals(schema):
                raise InputError(f"{file} has the schema {found}, which must be {schema}")
        if files:
            connection.read_parquet([str(file) for file in files]).create_view(table)
        else:
            connection.from_arrow(schema.empty_table()).create_view(table)
    return connection


def write_sessions(
    sessions: Sessions,
    experiment: Experiment,
    folder: Path,
    *,
    unit_ids: NDArray[np.str_] | None = None,
    batch: str = "s",
) -> None:
    """Write simulated sessions as the log that servers would have written of them.

    Each session from the start on is an exposure of its unit to its arm, and gives the events
    ``session`` (value 1), ``latency_ms``, and, where there were any, ``click`` and ``hide`` (their
    number) and ``error`` (1). Sessions on negative days are before the experiment: events without
    an exposure.

    Parameters
    ----------
    sessions
        ``arm`` is an index into ``experiment.arms``, ``day`` counts from ``experiment.start``.
    folder
        Created if need be; an earlier log in it is added to.
    unit_ids
        Text [n_units]: the id of each unit. Their numbers, when left out.
    batch
        Start of every event's id; two calls for one folder need different ones.

    Raises
    ------
    InputError
        No sessions, an arm that the experiment does not have, a unit without an id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    require(sessions.n >= 1, "sessions", sessions.n, "must be at least 1")
    n_units = int(sessions.unit.max()) + 1
    ids = np.arange(n_units).astype(np.str_) if unit_ids is None else unit_ids
    require(len(ids) >= n_units, "unit_ids", len(ids), f"must be {n_units}, one a unit")
    arms = [arm.name for arm in experiment.arms]
    highest = int(sessions.arm.max())
    require(highest < len(arms), "arm", highest, f"must be below {len(arms)}, an index of {arms}")

    unit = pa.array(ids).take(pa.array(sessions.unit))
    start = int(experiment.start.timestamp() * 1_000_000)
    at = start + (sessions.day * MICROSECONDS_PER_DAY).astype(np.int64)
    times = pa.array(at).cast(pa.timestamp("us", tz="UTC"))
    exposed = pa.array(sessions.day >= 0)
    exposures = pa.table(
        {
            "unit_id": unit,
            "experiment": pa.repeat(experiment.name, sessions.n),
            "arm": pa.array(arms).take(pa.array(sessions.arm)),
            "at": times,
        }
    )
    with LogWriter(folder, EXPOSURES, buffer_rows=FILE_ROWS) as log:
        log.add(exposures.filter(exposed).cast(exposure_schema()))

    number = pa.array(np.arange(sessions.n)).cast(pa.string())
    values = {
        SESSION: np.ones(sessions.n),
        CLICK: sessions.clicks.astype(float),
        LATENCY: sessions.latency_ms,
        ERROR: sessions.error.astype(float),
        HIDE: sessions.hides.astype(float),
    }
    with LogWriter(folder, EVENTS, buffer_rows=FILE_ROWS) as log:
        for name, value in values.items():
            prefix = pa.scalar(f"{batch}-{name}-")
            rows = pa.table(
                {
                    "event_id": pc.binary_join_element_wise(prefix, number, ""),
                    "unit_id": unit,
                    "name": pa.repeat(name, sessions.n),
                    "value": pa.array(value),
                    "at": times,
                }
            )
            log.add(rows.filter(pa.array(value != 0)).cast(event_schema()))
