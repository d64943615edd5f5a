"""The writing side of a collection: log first, memtable second, files from time to time."""

from __future__ import annotations

import logging
import shutil
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import InputError, RunError
from labs.lab2_vector_db import compaction
from labs.lab2_vector_db.durable import disk_errors, lock_for_writing, sync
from labs.lab2_vector_db.manifest import SegmentEntry, read_manifest, write_manifest
from labs.lab2_vector_db.memtable import Memtable
from labs.lab2_vector_db.segment_index import Stopped
from labs.lab2_vector_db.segments import (
    SEGMENTS,
    Segment,
    open_segment,
    write_segment,
    write_tombstones,
)
from labs.lab2_vector_db.snapshot import LiveSegment
from labs.lab2_vector_db.storage import apply, open_files, open_log, replayed, sweep
from labs.lab2_vector_db.writes import Write, decode, encode

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Pending:
    """A write that is in the log and not applied yet; ``removed`` is known when it is."""

    lsn: int
    write: Write
    removed: int = 0


class Writer:
    """The one writer of a collection; its methods may be called by many threads.

    Locks, in the order in which they are taken: ``compacting`` (one compaction or bulk load at a
    time, for its whole duration), ``appending`` (the order of the log; also held while a manifest
    is replaced), ``applying`` (memtable and snapshot). Searches take none: they read ``snapshot``.
    """

    def __init__(self, root: Path, *, verify: bool = False) -> None:
        self.root = root
        self.manifest = read_manifest(root)
        self._release = lock_for_writing(root)
        try:
            # Again, now that nobody else can replace it.
            opened = open_files(root, verify=verify)
            self.manifest = opened.manifest
            sweep(root, self.manifest)
            self.log = open_log(root, self.manifest)
            try:
                records = self.log.replay(self.manifest.lsn)
                writes = ((lsn, decode(record)) for lsn, record in records)
                self._memtable, self.snapshot = replayed(opened, writes)
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            self._release()
            raise
        self.compacting, self.appending = threading.Lock(), threading.Lock()
        self.applying = threading.Lock()
        self._pending: deque[_Pending] = deque()
        self._next_segment = self.manifest.next_segment
        self._stop, self._closed = threading.Event(), False
        self._background: threading.Thread | None = None
        self.maintenance_error: str | None = None

    def write(self, write: Write) -> int:
        """Make a write durable, then visible; returns the rows that a delete removed.

        A full memtable is flushed before: should that fail, the write has not begun.

        Raises
        ------
        RunError
            When there is no room; the write is not done.
        """
        if self._is_full():
            self.flush(only_full=True)
        record = encode(write)
        with self.appending:
            self._require_open()
            pending = _Pending(self.log.append(record), write)
            self._pending.append(pending)
        self.log.commit(pending.lsn)
        with self.applying:
            self._apply_up_to(pending.lsn)
        return pending.removed

    def _apply_up_to(self, lsn: int) -> None:
        """Apply what is durable in the order of the log, other threads' writes included."""
        while self._pending and self._pending[0].lsn <= lsn:
            next_ = self._pending.popleft()
            self.snapshot, next_.removed = apply(
                self.snapshot, self._memtable, next_.write, next_.lsn
            )

    def _is_full(self) -> bool:
        """Rows in memory, or writes in the log (deletes take no rows), reach the limit."""
        waiting = max(self._memtable.n_rows, self.snapshot.lsn - self.manifest.lsn)
        return waiting >= self.manifest.options.flush_rows

    def flush(self, *, only_full: bool = False) -> None:
        """Write the memtable and all new tombstones to files, and shorten the log.

        Raises
        ------
        RunError
            When there is no room; everything stays as it was.
        """
        with self.appending:
            self._require_open()
            if only_full and not self._is_full():
                return  # another thread did it
            self._flush()
        if self.manifest.options.auto_compact:
            self._compact_in_background()

    def _flush(self) -> None:
        """With the lock ``appending``."""
        self._settle()
        snapshot, memory = self.snapshot, self.snapshot.memtable
        if snapshot.lsn > self.manifest.lsn:
            segments = list(snapshot.segments)
            rows = memory.living_rows()
            if rows.size:
                rows = rows[memory.ids[rows].argsort()]  # ascending ids need no order beside them
                ids, payload = memory.ids[rows], memory.payload(rows)
                name = self._new_name()
                entry = write_segment(self.root, name, [memory.vectors[rows]], ids, payload)
                segments.append(LiveSegment.whole(self._opened(entry)))
            self._commit(segments, lsn=snapshot.lsn)
        self.log.truncate_before(self.manifest.lsn + 1)

    def compact(self, retrain: compaction.Retrain) -> None:
        """Flush, and merge all segments into one without tombstones, where that changes anything.

        Raises
        ------
        RunError
            When there is no room, or the collection is closed meanwhile; what there was stays.
        """
        with self.compacting:
            with self.appending:
                self._require_open()
                self._flush()
            manifest = self.manifest
            plan = compaction.choose_all(
                self.snapshot.segments, manifest.schema, manifest.options, retrain
            )
            if plan is not None:
                self._merge(plan, retrain)

    def _merge(self, plan: compaction.Plan, retrain: compaction.Retrain) -> None:
        """With the lock ``compacting``; writers wait only while the manifest is replaced."""
        schema, options = self.manifest.schema, self.manifest.options
        before = plan.sources
        donor: Segment | None = compaction.donor_for(self.snapshot.segments)
        train, _ = compaction.needs_training(before, donor, schema, retrain)
        with self.appending:
            name = self._new_name()
        entry = compaction.merge(
            self.root,
            name,
            before,
            schema,
            options,
            donor=None if train else donor,
            stop=self.stopping,
        )
        merged = None if entry is None else self._opened(entry)
        with self.appending:
            self._settle()
            places = {live.segment.name: n for n, live in enumerate(self.snapshot.segments)}
            sources = [places[live.segment.name] for live in before]
            now = [self.snapshot.segments[place] for place in sources]
            segments = [
                live for n, live in enumerate(self.snapshot.segments) if n not in set(sources)
            ]
            if merged is not None:
                carried = compaction.carry_tombstones(before, now, merged)
                segments.insert(min(sources), carried)
            self._commit(segments)

    def adopt(self, folder: Path, entry: SegmentEntry) -> None:
        """Make a segment that was written elsewhere part of the collection; its rows win.

        With the lock ``compacting``. The folder is renamed into its place.
        """
        with self.appending:
            self._flush()
            entry = replace(entry, name=self._new_name())
            place = self.root / SEGMENTS / entry.name
            with disk_errors("moving", folder):
                folder.rename(place)
            segment = self._opened(entry)
            segments = []
            for live in self.snapshot.segments:
                rows = live.rows_of(np.asarray(segment.ids))
                segments.append(live.bury(rows[rows >= 0]))
            self._commit([*segments, LiveSegment.whole(segment)])

    def stopping(self) -> bool:
        """Whether the collection is being closed: long work gives up."""
        return self._stop.is_set()

    def _compact_in_background(self) -> None:
        """Begin to compact if there is something to do and nobody is at it."""
        manifest = self.manifest
        if compaction.choose(self.snapshot.segments, manifest.schema, manifest.options) is None:
            return
        with self.appending:
            running = self._background is not None and self._background.is_alive()
            if running or self._stop.is_set():
                return
            self._background = threading.Thread(target=self._compact_all, name="compaction")
            self._background.start()

    def _compact_all(self) -> None:
        """The background: until nothing is left to do. A failure is kept and logged."""
        schema, options = self.manifest.schema, self.manifest.options
        try:
            with self.compacting:
                while plan := compaction.choose(self.snapshot.segments, schema, options):
                    log.info("compacting %s: %s", self.root, plan.reason)
                    self._merge(plan, "auto")
            self.maintenance_error = None
        except Stopped:
            log.info("%s is closed: its compaction is given up", self.root)
        except RunError as error:
            self.maintenance_error = str(error)
            log.error("compaction failed, and is tried again after the next flush: %s", error)

    def _settle(self) -> None:
        """Apply everything in the log; with the lock ``appending``, so nothing comes behind."""
        self._require_open()
        self.log.commit(self.log.last_lsn)
        with self.applying:
            self._apply_up_to(self.log.last_lsn)

    def _new_name(self) -> str:
        """A name that no segment had; with the lock ``appending``."""
        self._next_segment += 1
        return f"{self._next_segment:06d}"

    def _opened(self, entry: SegmentEntry) -> Segment:
        """A segment that was just written; removed again should it not be readable."""
        try:
            return open_segment(self.root, self.manifest.schema, entry)
        except BaseException:
            shutil.rmtree(self.root / SEGMENTS / entry.name, ignore_errors=True)
            raise

    def _commit(self, segments: Sequence[LiveSegment], *, lsn: int | None = None) -> None:
        """Make these segments the collection. With the lock ``appending``, settled.

        ``lsn``: the segments hold all writes up to it, and the memtable begins anew. A failure
        before the manifest is replaced removes the files of new segments.
        """
        earlier = {entry.name: entry for entry in self.manifest.segments}
        generation = self.manifest.generation + 1
        written: list[Path] = []
        entries = []
        try:
            for live in segments:
                segment = live.segment
                kept = earlier.get(segment.name, segment.entry)
                if live.dirty:
                    fresh = write_tombstones(
                        self.root, segment, live.alive, live.n_alive, generation
                    )
                    written.append(segment.folder / fresh.file)
                    kept = replace(kept, tombstones=fresh)
                entries.append(kept)
            manifest = replace(
                self.manifest,
                generation=generation,
                lsn=self.manifest.lsn if lsn is None else lsn,
                next_segment=self._next_segment,
                segments=tuple(entries),
            )
            with disk_errors("writing", self.root / SEGMENTS):
                sync(self.root / SEGMENTS)
            write_manifest(self.root, manifest)
        except BaseException:
            if read_manifest(self.root).generation < generation:
                for path in written:
                    path.unlink(missing_ok=True)
                for live in segments:
                    if live.segment.name not in earlier:
                        shutil.rmtree(live.segment.folder, ignore_errors=True)
            raise
        with self.applying:
            if lsn is not None:
                schema = manifest.schema
                self._memtable = Memtable(schema.dimension, schema.fields)
            self.manifest = manifest
            self.snapshot = replace(
                self.snapshot,
                segments=tuple(replace(live, dirty=False) for live in segments),
                memtable=self._memtable.view(),
                generation=generation,
            )
        with disk_errors("writing", self.root):
            sync(self.root)
        self._remove(earlier, {entry.name: entry for entry in entries})

    def _remove(self, earlier: dict[str, SegmentEntry], now: dict[str, SegmentEntry]) -> None:
        """Remove the files that only the earlier manifest named; what stays, sweep finds."""
        for name, entry in earlier.items():
            folder = self.root / SEGMENTS / name
            if name not in now:
                shutil.rmtree(folder, ignore_errors=True)
            elif entry.tombstones and entry.tombstones != now[name].tombstones:
                (folder / entry.tombstones.file).unlink(missing_ok=True)

    def _require_open(self) -> None:
        if self._closed:
            raise InputError(f"the collection {self.root} is closed; open it again")

    def close(self) -> None:
        """Stop the background and let go of the lock. The log holds what was not flushed."""
        self._stop.set()
        if self._background is not None:
            self._background.join()
        with self.compacting, self.appending:
            if self._closed:
                return
            self._closed = True
            try:
                self.log.close()
            finally:
                self._release()
