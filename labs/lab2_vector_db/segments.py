"""Segments: immutable rows on disk, memory-mapped, with an index when there are many.

A segment's folder holds

    vectors.f32     float32 [n, d], row by row (of length 1 under cosine)
    ids.i64         int64 [n]
    order.i64       the rows in ascending order of id; left out where ids ascend already
    payload/        the columns (payload.py)
    trained.faiss   the index trained and empty, to add other rows to without training again
    index.faiss     the index over rows 0 .. n - 1

and is named by the manifest with the size and sha256 of each file. Which of its rows are dead is
not in it: tombstones are in a bitmap beside, and in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import RunError
from labs.lab2_vector_db import tombstones
from labs.lab2_vector_db.durable import (
    check_file,
    describe,
    disk_errors,
    removed_on_failure,
    sync,
    sync_tree,
)
from labs.lab2_vector_db.filters import Filter
from labs.lab2_vector_db.manifest import Schema, SegmentEntry, Tombstones
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.payload_index import PayloadIndex

SEGMENTS = "segments"
VECTORS, IDS, ORDER = "vectors.f32", "ids.i64", "order.i64"
TRAINED, INDEX, PAYLOAD = "trained.faiss", "index.faiss", "payload"
FILTERS_KEPT = 16
SLICE_ROWS = 100_000


@dataclass(frozen=True)
class Built:
    """What the manifest keeps of an index: trained on this segment's rows, and how they fitted."""

    trained: bool
    profile: dict[str, float] | None


Build = Callable[[Path, NDArray[np.float32]], Built | None]


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment. Immutable; safe to share between threads."""

    entry: SegmentEntry
    folder: Path
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    order: NDArray[np.int64] | None
    columns: PayloadColumns
    index: Any
    _kept: OrderedDict[Any, tombstones.Bitmap] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        return self.entry.name

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each id, dead or alive; -1 for none."""
        place = np.searchsorted(self.ids, ids, sorter=self.order)
        place[place == len(self.ids)] = 0
        rows = place if self.order is None else self.order[place]
        return np.where(self.ids[rows] == ids, rows, -1)

    @cached_property
    def _payload_index(self) -> PayloadIndex:
        return PayloadIndex(self.columns)

    def matching(self, condition: Filter) -> tombstones.Bitmap:
        """Bitmap of the rows, dead or alive, whose payload matches; the last few are kept."""
        with self._lock:
            if condition in self._kept:
                self._kept.move_to_end(condition)
                return self._kept[condition]
            bits = tombstones.from_mask(self._payload_index.matching(condition))
            self._kept[condition] = bits
            if len(self._kept) > FILTERS_KEPT:
                self._kept.popitem(last=False)
            return bits

    def held_bytes(self) -> int:
        """Bytes in memory for filters: orders of payload fields and the bitmaps kept."""
        with self._lock:
            return self._payload_index.nbytes + sum(bits.nbytes for bits in self._kept.values())

    def file_bytes(self, *names: str) -> int:
        """Bytes on disk: of all files, or of those whose names begin so."""
        files = self.entry.files.items()
        return sum(entry.size for name, entry in files if name.startswith(names or ""))


def write_segment(
    root: Path,
    name: str,
    vectors: Iterable[NDArray[np.float32]],
    ids: NDArray[np.int64],
    payload: PayloadColumns,
    *,
    build: Build | None = None,
) -> SegmentEntry:
    """Write and sync the files of a new segment; it counts when a manifest names it.

    Parameters
    ----------
    root
        The collection's folder.
    vectors
        Float32 arrays [m, d], one after another.
    ids : int64 array of shape [n]
    payload
        Of the n rows.
    build
        Given the folder and the vectors, memory-mapped: writes ``trained.faiss`` and
        ``index.faiss`` into it, or returns None for exact search.

    Raises
    ------
    RunError
        When there is no room; what was written is removed.
    """
    folder = root / SEGMENTS / name
    with disk_errors("writing the segment", folder), removed_on_failure(folder):
        dimension = 0
        with (folder / VECTORS).open("wb") as stream:
            for rows in vectors:
                dimension = rows.shape[1]
                stream.write(np.ascontiguousarray(rows, np.float32).data)
        written = mapped(folder / VECTORS, np.float32, dimension)
        built = build(folder, written) if build else None
        return finish_segment(folder, ids, payload, built)


def finish_segment(
    folder: Path, ids: NDArray[np.int64], payload: PayloadColumns, built: Built | None
) -> SegmentEntry:
    """Write what belongs beside the vectors, sync everything, and describe it."""
    (folder / IDS).write_bytes(np.ascontiguousarray(ids, np.int64).data)
    if (np.diff(ids) < 0).any():
        (folder / ORDER).write_bytes(np.argsort(ids).astype(np.int64).data)
    payload.save(folder / PAYLOAD)
    return SegmentEntry(
        name=folder.name,
        rows=len(ids),
        files=sync_tree(folder),
        trained=built is not None and built.trained,
        profile=built.profile if built else None,
    )


def open_segment(
    root: Path, schema: Schema, entry: SegmentEntry, *, every_byte: bool = False
) -> Segment:
    """Open a segment: everything is mapped, but for the inverted lists of the index.

    Raises
    ------
    FileNotFoundError
        When a file is gone, which a newer manifest may explain.
    RunError
        When a file is cut short or changed; names it.
    """
    folder = root / SEGMENTS / entry.name
    for name, file in entry.files.items():
        check_file(folder / name, file, every_byte=every_byte)
    vectors = mapped(folder / VECTORS, np.float32, schema.dimension)
    ids = mapped(folder / IDS, np.int64)
    order = mapped(folder / ORDER, np.int64) if ORDER in entry.files else None
    columns = PayloadColumns.load(folder / PAYLOAD, verify=False)
    index = None
    if INDEX in entry.files:
        # Codes stay in the file, mapped, where faiss can use them there: shared by all processes.
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
    counts = [len(vectors), len(ids), len(columns)] + ([] if index is None else [index.ntotal])
    if set(counts) != {entry.rows}:
        raise RunError(f"{folder} holds {counts} rows, expected {entry.rows}; restore a copy of it")
    return Segment(entry, folder, vectors, ids, order, columns, index)


def write_tombstones(
    root: Path, segment: Segment, alive: tombstones.Bitmap, n_alive: int, generation: int
) -> Tombstones:
    """Write which rows are alive into a new file of the segment's folder.

    Raises
    ------
    RunError
        When there is no room.
    """
    name = f"tombstones-{generation:08d}.bits"
    path = root / SEGMENTS / segment.name / name
    try:
        with disk_errors("writing", path):
            path.write_bytes(alive.data)
            sync(path)
            sync(path.parent)
            entry = describe(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Tombstones(name, entry, len(segment) - n_alive)


def read_tombstones(root: Path, entry: SegmentEntry) -> tuple[tombstones.Bitmap, int]:
    """The bitmap of a segment's alive rows, and how many there are.

    Raises
    ------
    FileNotFoundError, RunError
        As :func:`open_segment`.
    """
    if entry.tombstones is None:
        return tombstones.all_alive(entry.rows), entry.rows
    path = root / SEGMENTS / entry.name / entry.tombstones.file
    check_file(path, entry.tombstones.entry)
    alive = np.frombuffer(path.read_bytes(), np.uint8)
    n_alive = tombstones.count(alive)
    if n_alive != entry.rows - entry.tombstones.dead or len(alive) != -(-entry.rows // 8):
        raise RunError(f"{path} does not fit its segment of {entry.rows} rows")
    return alive, n_alive


def mapped(path: Path, dtype: type[Any], dimension: int | None = None) -> NDArray[Any]:
    """A file as a read-only array [n] or [n, dimension]; an unlinked file stays mapped."""
    if path.stat().st_size == 0:
        return np.empty((0, dimension or 1), dtype)
    rows = np.memmap(path, dtype, mode="r")
    return np.asarray(rows if dimension is None else rows.reshape(-1, dimension))
