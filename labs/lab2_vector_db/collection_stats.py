"""What a collection takes, in memory and on disk, and what shape it is in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labs.lab2_vector_db.compaction import donor_for
from labs.lab2_vector_db.drift import SAMPLE_ROWS, Drift
from labs.lab2_vector_db.segment_index import drift_of
from labs.lab2_vector_db.segments import INDEX
from labs.lab2_vector_db.snapshot import Snapshot


@dataclass(frozen=True)
class SegmentStats:
    """One segment. ``index_bytes``: in memory; 0 for one that is searched exactly."""

    name: str
    n_rows: int
    n_tombstones: int
    indexed: bool
    index_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class CollectionStats:
    """A collection at one moment.

    Parameters
    ----------
    n_rows
        Rows alive.
    n_in_memory
        Of these, rows in the memtable, which are only in the log on disk.
    tombstones
        Rows that are dead and still stored.
    tombstone_share
        Of all rows stored.
    segments
        Oldest first.
    memory_bytes
        Memtable, indexes, tombstones and the orders of payload fields: what cannot be given back.
    mapped_bytes
        Raw vectors, ids and payload: in the page cache as far as there is room.
    disk_bytes
        Segments and log.
    log_bytes
        Of these, the log.
    drift
        Rows without an index against those the quantizers were trained on; None: nothing to
        compare.
    generation, lsn
        Of the manifest; of the last write.
    maintenance_error
        Why the last compaction in the background failed.
    """

    n_rows: int
    n_in_memory: int
    tombstones: int
    tombstone_share: float
    segments: tuple[SegmentStats, ...]
    memory_bytes: int
    mapped_bytes: int
    disk_bytes: int
    log_bytes: int
    drift: Drift | None
    generation: int
    lsn: int
    maintenance_error: str | None


def stats_of(
    snapshot: Snapshot, *, log_bytes: int, maintenance_error: str | None
) -> CollectionStats:
    """The statistics of a snapshot."""
    memory = snapshot.memtable
    segments = tuple(
        SegmentStats(
            live.segment.name,
            len(live.segment),
            len(live.segment) - live.n_alive,
            live.segment.index is not None,
            live.segment.file_bytes(INDEX),
            live.segment.file_bytes(),
        )
        for live in snapshot.segments
    )
    stored = len(memory) + sum(each.n_rows for each in segments)
    disk = sum(each.disk_bytes for each in segments)
    index = sum(each.index_bytes for each in segments)
    held = sum(live.alive.nbytes + live.segment.held_bytes() for live in snapshot.segments)
    return CollectionStats(
        n_rows=len(snapshot),
        n_in_memory=memory.n_alive,
        tombstones=stored - len(snapshot),
        tombstone_share=1 - len(snapshot) / stored if stored else 0.0,
        segments=segments,
        memory_bytes=memory.nbytes() + index + held,
        mapped_bytes=disk - index,
        disk_bytes=disk + log_bytes,
        log_bytes=log_bytes,
        drift=drift_in(snapshot),
        generation=snapshot.generation,
        lsn=snapshot.lsn,
        maintenance_error=maintenance_error,
    )


def drift_in(snapshot: Snapshot) -> Drift | None:
    """The drift of the rows that have no index yet."""
    donor = donor_for(snapshot.segments)
    if donor is None:
        return None
    memory = snapshot.memtable
    new = [memory.vectors[memory.living_rows()]] if memory.n_alive else []
    for live in snapshot.segments:
        if live.segment.index is None:
            step = -(-len(live.segment) // SAMPLE_ROWS)
            new.append(live.segment.vectors[live.living_rows()[::step]])
    return drift_of(donor, np.concatenate(new)) if new else None
