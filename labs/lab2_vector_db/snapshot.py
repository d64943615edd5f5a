"""A collection at one moment: what a reading thread holds while writers go on.

A snapshot never changes. The writer makes the next one, with new bitmaps where rows died, and puts
it in the place of the last; a search that began before goes on with the files and bits it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db import tombstones
from labs.lab2_vector_db.filter_planning import Costs, Plan, plan
from labs.lab2_vector_db.filters import Filter
from labs.lab2_vector_db.live_search import Part, filled, scan, search_alive
from labs.lab2_vector_db.manifest import Schema
from labs.lab2_vector_db.memtable import MemtableView
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.search import search, unwrap
from labs.lab2_vector_db.segments import Segment

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Store = tuple[Vectors, Callable[[Ids], PayloadColumns]]


@dataclass(frozen=True)
class Record:
    """A stored row: its vector (of length 1 under cosine) and payload, missing fields left out."""

    id: int
    vector: NDArray[np.float32]
    payload: dict[str, Any]


@dataclass(frozen=True)
class Hits:
    """Neighbours of each query, best first.

    Parameters
    ----------
    scores : float32 array of shape [q, k]
        Squared distances, inner products or cosines; NaN where fewer than k rows match. Exact for
        rows in memory and in segments without index, else as exact as the recipe's last stage.
    ids : int64 array of shape [q, k]
        -1 where fewer than k rows match.
    """

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class SearchOptions:
    """How to look: see ``Collection.search``."""

    condition: Filter | None = None
    nprobe: int | None = None
    k_factor: float | None = None
    rerank: int = 0


@dataclass(frozen=True, eq=False)
class LiveSegment:
    """A segment and which of its rows are alive; ``dirty``: unlike the manifest says."""

    segment: Segment
    alive: tombstones.Bitmap
    n_alive: int
    dirty: bool = False

    @classmethod
    def whole(cls, segment: Segment) -> LiveSegment:
        """A segment without tombstones."""
        return cls(segment, tombstones.all_alive(len(segment)), len(segment))

    @property
    def dead_share(self) -> float:
        """Tombstones as a share of the rows."""
        return 1 - self.n_alive / len(self.segment)

    def rows_of(self, ids: Ids) -> Ids:
        """The row of each id where it is alive here, else -1."""
        rows = self.segment.rows_of(ids)
        return np.where(tombstones.alive(self.alive, rows), rows, -1)

    def bury(self, rows: Ids) -> LiveSegment:
        """With tombstones on these rows, which are alive and given once."""
        if not rows.size:
            return self
        alive = tombstones.bury(self.alive, rows)
        return replace(self, alive=alive, n_alive=self.n_alive - rows.size, dirty=True)

    def living_rows(self) -> Ids:
        """The rows alive, ascending."""
        return tombstones.rows_of(self.alive, len(self.segment))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Segments, oldest first, and the rows in memory, up to the write numbered ``lsn``."""

    schema: Schema
    segments: tuple[LiveSegment, ...]
    memtable: MemtableView
    lsn: int
    generation: int

    def __len__(self) -> int:
        return self.memtable.n_alive + sum(live.n_alive for live in self.segments)

    def search(self, queries: Vectors, k: int, how: SearchOptions) -> Hits:
        """The k nearest rows of each query [q, d]; everything is valid already."""
        # No part has more than all rows: asking for more would only make the arrays larger.
        within = max(1, min(k, len(self)))
        larger = self.schema.larger_is_better
        scores, ids = search_alive(
            self._parts(within, how), queries, within, larger_is_better=larger
        )
        return Hits(*filled(scores, ids, k))

    def _parts(self, k: int, how: SearchOptions) -> list[Part]:
        larger = self.schema.larger_is_better
        parts: list[Part] = []
        memory = self.memtable
        if memory.n_alive:
            allowed = _within(memory.alive, memory.n_alive, memory, how.condition)
            parts.append(ScannedPart(memory.ids, memory.vectors, *allowed, larger))
        for live in reversed(self.segments):
            segment = live.segment
            bits, n_allowed = _within(live.alive, live.n_alive, segment, how.condition)
            scanned = ScannedPart(segment.ids, segment.vectors, bits, n_allowed, larger)
            parts.append(_planned(scanned, segment, k, how))
        return parts

    def locate(self, ids: Ids) -> tuple[Ids, list[Ids]]:
        """Rows of the ids in the memtable and in each segment; -1 where they are not, or dead."""
        rows = self.memtable.rows_of(ids)
        if len(self.memtable):
            rows = np.where(tombstones.alive(self.memtable.alive, rows), rows, -1)
        return rows, [live.rows_of(ids) for live in self.segments]

    def get(self, ids: Ids) -> list[Record | None]:
        """The row of each id, None where there is none."""
        found: list[Record | None] = [None] * len(ids)
        in_memory, in_segments = self.locate(ids)
        memory = self.memtable
        stores: list[Store] = [(memory.vectors, memory.payload)]
        stores += [(live.segment.vectors, live.segment.columns.take) for live in self.segments]
        for (vectors, payload_of), rows in zip(stores, [in_memory, *in_segments]):
            places = np.flatnonzero(rows >= 0)
            if not places.size:
                continue
            payload = payload_of(rows[places])
            for number, place in enumerate(places.tolist()):
                vector = vectors[rows[place]].copy()
                found[place] = Record(int(ids[place]), vector, payload.row(number))
        return found

    def matching(self, condition: Filter | None) -> Ids:
        """The ids of all rows that match, ascending."""
        found = []
        parts: Sequence[tuple[Any, Any]] = [
            *((live, live.segment) for live in self.segments),
            *([(self.memtable, self.memtable)] if len(self.memtable) else []),
        ]
        for live, rows in parts:
            bits, _ = _within(live.alive, live.n_alive, rows, condition)
            alive = live.alive if bits is None else bits
            found.append(rows.ids[tombstones.rows_of(alive, len(rows))])
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _within(
    alive: tombstones.Bitmap,
    n_alive: int,
    rows: MemtableView | Segment,
    condition: Filter | None,
) -> tuple[tombstones.Bitmap | None, int]:
    """Bitmap and number of the rows that a search may return; None: all of them."""
    if condition is None:
        return (None if n_alive == len(rows) else alive), n_alive
    bits = alive & rows.matching(condition)
    return bits, tombstones.count(bits)


@dataclass(frozen=True, eq=False)
class ScannedPart:
    """Rows that are compared one by one: see ``live_search.Part``."""

    ids: Ids
    vectors: Vectors
    allowed: tombstones.Bitmap | None
    n_alive: int
    larger_is_better: bool

    def nearest(self, queries: Vectors, k: int) -> tuple[NDArray[np.float32], Ids]:
        return self.exact(queries, k)

    def alive(self, rows: Ids) -> NDArray[np.bool_]:
        return rows >= 0 if self.allowed is None else tombstones.alive(self.allowed, rows)

    def exact(self, queries: Vectors, k: int) -> tuple[NDArray[np.float32], Ids]:
        larger = self.larger_is_better
        return scan(queries, self.vectors, k, larger_is_better=larger, allowed=self.allowed)


@dataclass(frozen=True, eq=False)
class IndexedPart(ScannedPart):
    """Rows that are found by an index, under a selector of those that are allowed."""

    index: Any
    chosen: Plan
    how: SearchOptions

    def nearest(self, queries: Vectors, k: int) -> tuple[NDArray[np.float32], Ids]:
        fetch = min(max(k, self.how.rerank), len(self.ids))
        selector: Any = None
        if self.allowed is not None:
            selector = faiss.IDSelectorBitmap(self.allowed)  # type: ignore[call-arg, arg-type]
        scores, rows = search(
            self.index,
            queries,
            fetch,
            nprobe=self.chosen.nprobe or None,
            ef_search=self.chosen.ef_search if unwrap(self.index).hnsw is not None else None,
            k_factor=self.how.k_factor,
            selector=selector,
        )
        if self.how.rerank:
            scores, rows = self._rescored(queries, rows)
        return filled(scores[:, :k], rows[:, :k], k)

    def _rescored(self, queries: Vectors, rows: Ids) -> tuple[NDArray[np.float32], Ids]:
        """The candidates in the order of their raw vectors' scores."""
        vectors = self.vectors[rows]  # those of -1 are the last row's, and go to the end below
        if self.larger_is_better:
            scores = np.einsum("qd,qrd->qr", queries, vectors)
            order = np.argsort(np.where(rows < 0, np.inf, -scores), axis=1, kind="stable")
        else:
            scores = ((vectors - queries[:, None]) ** 2).sum(axis=2)
            order = np.argsort(np.where(rows < 0, np.inf, scores), axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _planned(part: ScannedPart, segment: Segment, k: int, how: SearchOptions) -> Part:
    """The part by its index, or by comparing where the filter leaves little."""
    if segment.index is None or not part.n_alive:
        return part
    ivf = unwrap(segment.index).ivf
    chosen = plan(
        len(segment),
        part.n_alive,
        k=k,
        n_lists=None if ivf is None else ivf.nlist,
        nprobe=None if ivf is None else how.nprobe or ivf.nprobe,
        costs=Costs.of(part.vectors.shape[1]),
    )
    if chosen.kind != "index":
        return part
    return IndexedPart(
        part.ids,
        part.vectors,
        part.allowed,
        part.n_alive,
        part.larger_is_better,
        segment.index,
        chosen,
        how,
    )
