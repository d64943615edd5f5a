"""The memtable: the rows written since the last flush, in memory, searched exactly.

Rows are only ever appended. A new version of a row goes behind, and its old one is marked dead in
a new copy of the bitmap; so a searcher that holds a view sees what was there when it took it, while
the writer goes on behind the view's last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db import tombstones
from labs.lab2_vector_db.filters import Filter
from labs.lab2_vector_db.payload import Fields, PayloadColumns
from labs.lab2_vector_db.payload_index import PayloadIndex

FIRST_CAPACITY = 1024


@dataclass(frozen=True, eq=False)
class MemtableView:
    """The memtable at one moment. Immutable.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    ids : int64 array of shape [n]
    alive
        Bitmap of n rows.
    n_alive
        Rows that are alive.
    chunks
        The payload of the rows, in order.
    """

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    alive: tombstones.Bitmap
    n_alive: int
    chunks: tuple[PayloadIndex, ...]
    row_of: dict[int, int]  # of the writer: may hold rows behind this view

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each id's latest version in this view, dead or alive; -1 for none."""
        n_rows = len(self.ids)
        if not n_rows:
            return np.full(len(ids), -1, np.int64)
        found = [self.row_of.get(each, -1) for each in ids.tolist()]
        rows = np.array(found, np.int64).reshape(len(ids))
        for late in np.flatnonzero(rows >= n_rows):  # written again after this view was taken
            before = np.flatnonzero(self.ids == ids[late])
            rows[late] = before[-1] if before.size else -1
        return rows

    def matching(self, condition: Filter) -> tombstones.Bitmap:
        """Bitmap of the rows, dead or alive, whose payload matches."""
        masks = [chunk.matching(condition) for chunk in self.chunks]
        return tombstones.from_mask(np.concatenate(masks) if masks else np.empty(0, bool))

    def payload(self, rows: NDArray[np.int64]) -> PayloadColumns:
        """The payload of these rows, in their order; at least one."""
        starts = np.cumsum([0] + [len(chunk) for chunk in self.chunks])
        of_chunk = np.searchsorted(starts, rows, side="right") - 1
        places = [np.flatnonzero(of_chunk == number) for number in range(len(self.chunks))]
        parts = [
            chunk.columns.take(rows[at] - start)
            for chunk, start, at in zip(self.chunks, starts, places)
            if at.size
        ]
        if len(parts) == 1:
            return parts[0]
        return PayloadColumns.concat(parts).take(np.argsort(np.concatenate(places)))

    def living_rows(self) -> NDArray[np.int64]:
        """The rows alive, ascending."""
        return tombstones.rows_of(self.alive, len(self.ids))

    def nbytes(self) -> int:
        """Bytes of the rows in memory, payload included."""
        arrays = self.vectors.nbytes + self.ids.nbytes + self.alive.nbytes
        return arrays + sum(chunk.columns.nbytes for chunk in self.chunks)


class Memtable:
    """The writer's side: growing arrays behind the views. Used by one thread at a time."""

    def __init__(self, dimension: int, fields: Fields) -> None:
        self._vectors = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._ids = np.empty(FIRST_CAPACITY, np.int64)
        self._n_rows = 0
        self._dead: list[NDArray[np.int64]] = []  # since the last view
        self._chunks: list[PayloadIndex] = []
        self._row_of: dict[int, int] = {}
        self._view = self._first_view()

    def _first_view(self) -> MemtableView:
        return MemtableView(
            self._vectors[:0], self._ids[:0], np.empty(0, np.uint8), 0, (), self._row_of
        )

    @property
    def n_rows(self) -> int:
        """Rows, dead ones included."""
        return self._n_rows

    def append(
        self, ids: NDArray[np.int64], vectors: NDArray[np.float32], payload: PayloadColumns
    ) -> None:
        """Add rows; an id that was here is superseded."""
        first, end = self._n_rows, self._n_rows + len(ids)
        if end > len(self._ids):
            capacity = max(end, 2 * len(self._ids))
            # Views keep the old arrays.
            self._vectors = _grown(self._vectors, first, capacity)
            self._ids = _grown(self._ids, first, capacity)
        self._vectors[first:end], self._ids[first:end] = vectors, ids
        self.bury(ids)
        self._row_of.update(zip(ids.tolist(), range(first, end)))
        self._n_rows = end
        self._append_payload(payload)

    def _append_payload(self, payload: PayloadColumns) -> None:
        """Neighbouring chunks of like size become one, so that n rows make about log n chunks."""
        columns = payload
        while self._chunks and len(self._chunks[-1].columns) <= len(columns):
            columns = PayloadColumns.concat([self._chunks.pop().columns, columns])
        self._chunks.append(PayloadIndex(columns))

    def bury(self, ids: NDArray[np.int64]) -> None:
        """Mark the rows of these ids dead, where they are here."""
        if self._row_of:
            rows = np.array([self._row_of.get(each, -1) for each in ids.tolist()], np.int64)
            self._dead.append(rows[rows >= 0])

    def view(self) -> MemtableView:
        """What is here now."""
        old = self._view
        added = self._n_rows - len(old)
        bits = tombstones.extended(old.alive, len(old), added) if added else old.alive
        if self._dead:
            bits = tombstones.bury(bits, np.concatenate(self._dead))
            self._dead = []
        self._view = MemtableView(
            self._vectors[: self._n_rows],
            self._ids[: self._n_rows],
            bits,
            tombstones.count(bits),
            tuple(self._chunks),
            self._row_of,
        )
        return self._view


def _grown(array: NDArray[Any], n_rows: int, capacity: int) -> NDArray[Any]:
    larger = np.empty((capacity, *array.shape[1:]), array.dtype)
    larger[:n_rows] = array[:n_rows]
    return larger
