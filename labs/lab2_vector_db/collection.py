"""A collection: rows of (id, vector, payload) that can be written, searched and relied on.

A write goes to the write-ahead log, and when its record is on disk into the memtable, where it is
found. From time to time the memtable is flushed into an immutable segment, and segments are
compacted into larger ones. The manifest names what counts; the log holds what came after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from labs.lab2_vector_db import bulk_loading, storage
from labs.lab2_vector_db.collection_stats import CollectionStats, stats_of
from labs.lab2_vector_db.compaction import Retrain, donor_for
from labs.lab2_vector_db.filters import Filter, check
from labs.lab2_vector_db.manifest import Options, Schema, options_from
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.reader import Reader
from labs.lab2_vector_db.request_checks import check_id_array, check_rows, check_search
from labs.lab2_vector_db.snapshot import Hits, Record
from labs.lab2_vector_db.writer import Writer
from labs.lab2_vector_db.writes import Delete, Upsert

__all__ = ["Collection", "CollectionStats", "Hits", "Options", "Record", "Schema"]


class Collection:
    """Make one with :meth:`create` or :meth:`open`; close it, or use it as a context manager.

    Any number of threads may search and write. Writes are applied in the order of the log; threads
    that write at the same time share an fsync. One process writes (a second one is refused), and
    any number read (``read_only=True``).

    Raises
    ------
    InputError
        By every method, for input that it names; nothing is changed then.
    RunError
        When the disk has no room or a file is damaged; what was acknowledged stays.
    """

    def __init__(self, path: Path, source: Reader | Writer) -> None:
        self.path = path
        self._source = source
        self._closed = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], schema: Schema, **options: Any) -> Collection:
        """Make an empty collection and open it for writing.

        Parameters
        ----------
        path
            A folder that is missing or empty.
        schema
            Cannot be changed later.
        **options
            See :class:`labs.lab2_vector_db.manifest.Options`.

        Raises
        ------
        InputError
            For a folder that holds something, or an option that does not exist.
        """
        chosen = options_from(options)
        root = Path(path)
        storage.create(root, schema, chosen)
        return cls.open(root)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, verify: bool = False
    ) -> Collection:
        """Open a collection and replay what its log holds.

        Parameters
        ----------
        path
            Of the collection.
        read_only
            Read beside a writer, without a lock; :meth:`refresh` shows what it wrote since.
        verify
            Hash every byte. Otherwise files above 256 MiB are compared by size only.

        Raises
        ------
        InputError
            When there is no collection, or another process is writing to it.
        RunError
            When a file is missing, cut short or changed; names it.
        """
        root = Path(path)
        kind = Reader if read_only else Writer
        return cls(root, kind(root, verify=verify))

    @property
    def schema(self) -> Schema:
        """Dimension, metric, payload fields and recipe."""
        return self._source.manifest.schema

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading."""
        return isinstance(self._source, Reader)

    def __len__(self) -> int:
        return len(self._source.snapshot)

    def upsert(
        self,
        ids: ArrayLike,
        vectors: ArrayLike,
        payload: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Insert rows, or replace those whose ids are there; returns when they are durable.

        All rows of a call become visible at once, or, after a crash, are there or not together.

        Parameters
        ----------
        ids : int64 array of shape [n]
            From 0; each once.
        vectors : float32 array of shape [n, d]
        payload
            n values for each field; a field left out or None is a missing value. A replaced row
            keeps nothing of its earlier payload.

        Raises
        ------
        InputError
            For duplicate or negative ids, another dimension, NaN or infinity, a zero vector under
            cosine, or a payload that does not fit the schema.
        RunError
            When there is no room; the rows are not written.
        """
        writer = self._writer()
        checked = check_id_array(ids, unique=True)
        rows = check_rows(vectors, self.schema)
        if len(rows) != len(checked):
            raise InputError(f"ids has {len(checked)} rows, vectors has {len(rows)}; give one each")
        columns = PayloadColumns.from_dict(self.schema.fields, payload, len(checked))
        writer.write(Upsert(checked, rows, columns))

    def delete(self, ids: ArrayLike) -> int:
        """Delete rows; returns, when that is durable, how many there were.

        Raises
        ------
        InputError
            For duplicate or negative ids.
        RunError
            When there is no room; nothing is deleted.
        """
        writer = self._writer()
        checked = check_id_array(ids, unique=True)
        return writer.write(Delete(checked)) if checked.size else 0

    def get(self, ids: ArrayLike) -> list[Record | None]:
        """The rows of these ids, in their order; None where there is none."""
        self._require_open()
        return self._source.snapshot.get(check_id_array(ids, unique=False))

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        filter: Filter | None = None,
        nprobe: int | None = None,
        k_factor: float | None = None,
        rerank: int = 0,
    ) -> Hits:
        """The k nearest rows of each query, among those that match the filter.

        Parameters
        ----------
        queries : float32 array of shape [q, d] or [d]
        k
            From 1 to 65,536; more than there are rows leaves the end of each row empty.
        filter
            A condition on the payload.
        nprobe, k_factor
            As in :func:`labs.lab2_vector_db.search.search`; None keeps the recipe's.
        rerank
            Candidates of each indexed segment to score again with the raw vectors, from disk
            where they are not in the page cache. 0: none; the scores are the index's own.

        Returns
        -------
        Hits
            Scores and ids [q, k]; NaN and -1 where fewer than k rows match.

        Raises
        ------
        InputError
            For another dimension, NaN, a zero query under cosine, k out of range, and for a
            filter that does not fit the schema.
        """
        self._require_open()
        how = check_search(
            self.schema, k, condition=filter, nprobe=nprobe, k_factor=k_factor, rerank=rerank
        )
        array = np.asarray(queries)
        rows = check_rows(array[None] if array.ndim == 1 else array, self.schema, name="queries")
        return self._source.snapshot.search(rows, k, how)

    def search_by_id(self, id: int, k: int, **how: Any) -> Hits:
        """The k rows nearest to a stored one, itself left out; options as of :meth:`search`.

        Raises
        ------
        InputError
            When there is no such id; and as :meth:`search`.
        """
        self._require_open()
        (record,) = self.get([id])
        if record is None:
            raise InputError(f"id {id} is not in the collection; search by a vector instead")
        hits = self.search(record.vector, k + 1, **how)
        others = np.flatnonzero(hits.ids[0] != id)[:k]
        return Hits(hits.scores[:, others], hits.ids[:, others])

    def matching(self, filter: Filter | None = None) -> NDArray[np.int64]:
        """The ids of all rows that match, ascending; None: of all rows.

        Raises
        ------
        InputError
            For a filter that does not fit the schema.
        """
        self._require_open()
        if filter is not None:
            check(filter, self.schema.fields)
        return self._source.snapshot.matching(filter)

    def flush(self) -> None:
        """Write the memtable into a segment, and shorten the log.

        Raises
        ------
        RunError
            When there is no room; everything stays as it was, in memory and in the log.
        """
        self._writer().flush()

    def compact(self, retrain: Retrain = "auto") -> None:
        """Flush, and merge all segments into one without tombstones.

        Parameters
        ----------
        retrain
            Whether to train centroids and codebooks again: ``"auto"``, when new vectors drifted
            (:mod:`labs.lab2_vector_db.drift`); a first index is trained in any case.

        Raises
        ------
        RunError
            When there is no room; everything stays as it was.
        """
        writer = self._writer()
        if retrain not in ("auto", True, False):
            raise InputError(f"retrain = {retrain!r} must be 'auto', True or False")
        writer.compact(retrain)

    def bulk_load(
        self,
        vectors: NDArray[Any],
        ids: ArrayLike | None = None,
        payload: Mapping[str, Sequence[Any]] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Load many rows at once, past the log, into a segment of their own.

        All or nothing; visible and durable on return. A row whose id is there already is replaced,
        also where it was written while this ran. When the process is killed, the same call goes on
        where it stopped, and does nothing if it was complete. Writers wait only at the end.

        Parameters
        ----------
        vectors : array of shape [n, d]
            May be an ``np.memmap`` larger than memory.
        ids : int64 array of shape [n]
            None: 0 to n - 1. Ascending ids save 8 bytes a row.
        payload
            As of :meth:`upsert`.
        progress
            Called with the number of rows done.

        Raises
        ------
        InputError
            As :meth:`upsert`; nothing is loaded.
        RunError
            When there is no room; nothing is loaded, and the same call goes on when there is.
        """
        bulk_loading.bulk_load(self._writer(), vectors, ids, payload, progress=progress)

    @property
    def index(self) -> Any:
        """The faiss index of the largest segment, over its *rows*; None when no segment has one.

        For measuring and tuning; a search of the collection asks all of its parts.
        """
        donor = donor_for(self._source.snapshot.segments)
        return None if donor is None else donor.index

    def stats(self) -> CollectionStats:
        """Rows, tombstones, bytes in memory and on disk, drift."""
        self._require_open()
        source = self._source
        return stats_of(
            source.snapshot,
            log_bytes=storage.log_bytes(self.path),
            maintenance_error=source.maintenance_error if isinstance(source, Writer) else None,
        )

    def refresh(self) -> bool:
        """See what the writer wrote since; True when there was anything.

        A collection that is open for writing is always up to date.
        """
        self._require_open()
        return self._source.refresh() if isinstance(self._source, Reader) else False

    def close(self) -> None:
        """Let go of files and lock; closing twice is allowed. The log keeps what is not flushed."""
        self._closed = True
        self._source.close()

    def _require_open(self) -> None:
        if self._closed:
            raise InputError(f"the collection {self.path} is closed; open it again")

    def _writer(self) -> Writer:
        self._require_open()
        if isinstance(self._source, Reader):
            raise InputError(
                f"the collection {self.path} is open for reading; open it without read_only"
            )
        return self._source

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
