"""The event log as Parquet, for DuckDB and for the analysis of experiments (lab 6).

::

    reactions-log/  exposures-log/        write-ahead logs: what is not yet moved
    reactions/*.parquet                   one row a reaction
    exposures/*.parquet                   one row a feed: items, slots, propensities, scores
    experiment/exposures|events/*.parquet the same in lab 6's schemas

A file is named by the numbers of its records, written beside, synced and renamed; then the log is
cut. A crash between the two leaves both, and the numbers say what is there already: each record is
in the tables once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capstone.value import HEADS
from labs.lab2_vector_db.durable import sync, write_beside
from labs.lab2_vector_db.log_replay import LogTruncated, replay, segments_of
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog
from labs.lab6_online_eval.event_log import EVENTS, event_schema, exposure_schema
from labs.lab6_online_eval.event_log import EXPOSURES as UNITS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REACTIONS, EXPOSURES = "reactions", "exposures"
EXPERIMENT = "experiment"
SESSION, LATENCY, ERROR = "session", "latency_ms", "error"
"""Events that each feed gives besides people's reactions; ``error`` is a fallback feed."""
ROWS = 20_000
"""Records of a Parquet file at most."""


def reaction_schema() -> pa.Schema:
    """One row a reaction; ``at`` in UTC, ``position`` in the feed from 0, -1 when not known."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return pa.schema(
        [
            ("event_id", text), ("request_id", text), ("user_id", number), ("item_id", number),
            ("reaction", text), ("unit_id", text), ("variant", number), ("arm", text),
            ("version", text), ("position", number), ("at", number),
        ]
    )  # fmt: skip


def feed_schema() -> pa.Schema:
    """One row a feed; lists are in order of position, ``p_<head>`` empty in a fallback feed.

    ``in_experiment`` is False for a unit outside the coverage and for a variant that was asked
    for; ``source`` has the bit masks of :data:`capstone.sources.SOURCE_NAMES`. ``pool``,
    ``pool_values`` and ``sharpness`` are what the exploration slots were drawn from, best first,
    and how; ``teams`` the variant whose pick each item of an interleaved feed is.
    """
    import pyarrow as pa

    text, number, yes = pa.string(), pa.int64(), pa.bool_()
    items, numbers = pa.list_(number), pa.list_(pa.float64())
    return pa.schema(
        [
            ("request_id", text), ("unit_id", text), ("user_id", number), ("experiment", text),
            ("in_experiment", yes), ("variant", number), ("arm", text), ("version", text),
            ("cold_start", yes), ("fallback", text), ("n_candidates", number),
            ("latency_ms", pa.float64()), ("items", items), ("slots", pa.list_(text)),
            ("source", items), ("propensities", numbers), ("values", numbers),
            *((f"p_{head}", numbers) for head in HEADS), ("pool", items),
            ("pool_values", pa.list_(pa.float32())), ("sharpness", pa.float64()),
            ("teams", items), ("at", number),
        ]
    )  # fmt: skip


class FeedTables:
    """The folder of one event log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, kind: str) -> Path:
        """The write-ahead log of ``reactions`` or ``exposures``."""
        return self.folder / f"{kind}-log"

    def files(self, kind: str) -> list[tuple[int, int, Path]]:
        """The Parquet files as (first record, last record, path), oldest first."""
        found = (self.folder / kind).glob("*-*.parquet")
        return sorted((*map(int, path.stem.split("-")), path) for path in found)  # type: ignore[misc]

    def moved(self, kind: str) -> int:
        """Number of the last record that is in Parquet; 0 when there is none."""
        files = self.files(kind)
        return files[-1][1] if files else 0

    def roll(self, log: WriteAheadLog, kind: str) -> int:
        """Move the records of a log to Parquet and cut the log; returns how many.

        Raises
        ------
        OSError
            When there is no room; the log has everything still.
        """
        done, total = self.moved(kind), 0
        self._forget_unfinished(kind, done)
        while records := _first(log.replay(done), ROWS):
            first, last = done + 1, done + len(records)
            name = f"{first:020d}-{last:020d}.parquet"
            rows = parse(records, kind)
            for table, part in experiment_rows(rows, kind).items():
                self._write(self.folder / EXPERIMENT / table / f"{kind}-{name}", part)
            self._write(self.folder / kind / name, rows)  # last: it says that the others are whole
            done, total = last, total + len(records)
        if done:
            log.truncate_before(done + 1)
        return total

    def _forget_unfinished(self, kind: str, done: int) -> None:
        for path in (self.folder / EXPERIMENT).glob(f"*/{kind}-*.parquet"):
            if int(path.stem.split("-")[-1]) > done:
                path.unlink()

    @staticmethod
    def _write(path: Path, rows: pa.Table) -> None:
        import pyarrow.parquet as pq

        if rows.num_rows == 0 and path.parent.parent.name == EXPERIMENT:
            return
        stream = io.BytesIO()
        pq.write_table(rows, stream, compression="zstd", compression_level=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, stream.getvalue())
        sync(path.parent)

    def read(self, kind: str) -> pa.Table:
        """All rows, those in the log included; safe while a gateway writes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for _ in range(10):
            parts, done = [], 0
            for first, last, path in self.files(kind):
                if first > done:
                    parts.append(pq.read_table(path))
                    done = last
            try:
                parts.append(parse(self._unmoved(kind, done), kind))
            except LogTruncated:
                continue  # the log was moved meanwhile: read the newer files
            # A file of an earlier version of this code lacks the newest columns.
            return pa.concat_tables(parts, promote_options="default").select(parts[-1].schema.names)
        raise LogTruncated(f"{self.log(kind)} is cut faster than it can be read")

    def _unmoved(self, kind: str, done: int) -> list[bytes]:
        if not segments_of(self.log(kind)):
            return []
        return [bytes(record) for _, record in replay(self.log(kind), done)]


def parse(records: list[bytes], kind: str) -> pa.Table:
    """Records of JSON as a table of the kind's schema; Arrow's own parser, without the GIL."""
    import pyarrow as pa
    import pyarrow.json as pj

    schema = reaction_schema() if kind == REACTIONS else feed_schema()
    rows = schema.empty_table()
    if records:
        options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        rows = pj.read_json(io.BytesIO(b"\n".join(records)), parse_options=options).select(
            schema.names
        )
    at = rows["at"].cast(pa.timestamp("us", tz="UTC"))
    return rows.set_column(rows.schema.get_field_index("at"), "at", at)


def experiment_rows(rows: pa.Table, kind: str) -> dict[str, pa.Table]:
    """Lab 6's tables of these rows: a reaction is an event; a feed is an exposure and events."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def events(ids: Any, units: Any, name: Any, value: Any, at: Any) -> pa.Table:
        columns = [ids, units, name, value, at]
        return pa.table(columns, names=event_schema().names).cast(event_schema())

    if kind == REACTIONS:
        ones = pa.repeat(1.0, rows.num_rows)
        return {
            EVENTS: events(
                rows["event_id"], rows["unit_id"], rows["reaction"], ones, rows["at"]
            )
        }  # fmt: skip
    inside = rows.filter(rows["in_experiment"])
    exposures = inside.select(exposure_schema().names).cast(exposure_schema())
    parts = []
    for name, value in (
        (SESSION, pa.repeat(1.0, rows.num_rows)),
        (LATENCY, rows["latency_ms"]),
        (ERROR, rows["fallback"].is_valid().cast(pa.float64())),
    ):
        ids = pc.binary_join_element_wise(rows["request_id"], pa.scalar(name), ":")
        names = pa.repeat(name, rows.num_rows)
        made = events(ids, rows["unit_id"], names, value, rows["at"])
        parts.append(made.filter(pc.not_equal(made["value"], 0)))
    return {UNITS: exposures, EVENTS: pa.concat_tables(parts)}


def open_tables(folder: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB, in memory, with the views ``exposures`` (one row a feed) and ``reactions``."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for kind in (EXPOSURES, REACTIONS):
        connection.from_arrow(FeedTables(folder).read(kind)).create_view(kind)
    return connection


def open_experiment(folder: Path) -> duckdb.DuckDBPyConnection:
    """Lab 6's connection over what has been moved: its ``exposures`` and ``events``.

    The newest rows are there after the gateway has closed or moved its log.
    """
    from labs.lab6_online_eval.exposure_log import open_log

    (folder / EXPERIMENT).mkdir(parents=True, exist_ok=True)
    return open_log(folder / EXPERIMENT)


def read_reactions(folder: Path, *, newest: int) -> list[dict[str, Any]]:
    """The newest reactions, oldest first, as they were logged."""
    tables = FeedTables(folder)
    if not tables.files(REACTIONS) and not segments_of(tables.log(REACTIONS)):
        return []
    rows = tables.read(REACTIONS)
    found: list[dict[str, Any]] = rows.slice(max(0, rows.num_rows - newest)).to_pylist()
    return found


def _first(records: Iterator[tuple[int, memoryview]], count: int) -> list[bytes]:
    found = []
    for _, record in records:
        found.append(bytes(record))
        if len(found) == count:
            break
    return found
