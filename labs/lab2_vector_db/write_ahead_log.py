"""The write-ahead log: a write is acknowledged when its record has reached the disk, in order.

There is one writer, :class:`WriteAheadLog`, and any number of readers, which call
:func:`labs.lab2_vector_db.log_replay.replay` and see the records complete at that moment.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from common.errors import RunError, require
from labs.lab2_vector_db.log_replay import (
    FRAME,
    FRAME_MAGIC,
    HEADER,
    LogTruncated,
    finish_crc,
    replay,
    scan_file,
    segment_header,
    segments_of,
)

__all__ = ["LogTruncated", "WriteAheadLog", "replay"]

SEGMENT_BYTES = 64 * 2**20
MAX_RECORD_BYTES = 2**30
BUFFERS_PER_CALL = 1024  # IOV_MAX on Linux: the most buffers that one pwritev takes


class WriteAheadLog:
    """The writer's side of a log. Make it with :meth:`open`; all methods are thread-safe.

    ``append`` hands a record to the operating system, which keeps it if the process dies;
    ``commit`` returns when it would survive the machine's death too. Threads that commit at the
    same time share one fsync (group commit): the first becomes leader and syncs all that was
    appended by then, the others wait, and one of those that came too late leads the next.

    After a failed fsync the log refuses everything (the kernel may have dropped the pages and
    marked them clean, so that a second fsync would report success for data that is gone; Rebello
    et al., Can Applications Recover from fsync Failures?, ATC 2020).
    """

    def __init__(self, folder: Path, *, segment_bytes: int, sync: bool) -> None:
        self._folder, self._segment_bytes, self._sync = folder, segment_bytes, sync
        self._changed = threading.Condition()
        self._file = -1
        self._first_lsn = 1  # of the segment being written
        self._end = 0  # its length in bytes
        self._last_lsn = 0
        self._committed_end = 0
        self._committed_lsn = 0
        self._syncing = False
        self._refusal: str | None = None
        self.torn_bytes = 0  # cut off when the log was opened
        self.fsyncs = 0  # of segments, for the share of a group

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        sync: bool = True,
        first_lsn: int = 1,
    ) -> WriteAheadLog:
        """Open a log for writing, or begin one in an empty or missing folder.

        All segments are checked and a torn tail is cut off. The caller makes sure that there is
        one writer (the collection holds a lock).

        Parameters
        ----------
        folder
            Of the log; made when missing.
        segment_bytes
            Size from which a new segment is begun. Old ones are removed whole.
        sync
            False: ``commit`` does not wait for the disk, and a machine that dies loses the last
            writes. A process that dies loses none.
        first_lsn
            Where a new log begins. To begin again above a snapshot, its lsn plus 1.

        Raises
        ------
        InputError
            For limits that are not positive.
        RunError
            For corruption before the tail, or a folder that cannot be written.
        """
        require(segment_bytes >= 1, "segment_bytes", segment_bytes, "must be >= 1", "try 64 MiB")
        require(first_lsn >= 1, "first_lsn", first_lsn, "must be >= 1", "lsn 0 is before the first")
        log = cls(Path(folder), segment_bytes=segment_bytes, sync=sync)
        log._folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(log._folder.parent)
        for partial in log._folder.glob("*.partial"):
            partial.unlink()
        segments = segments_of(log._folder)
        if not segments:
            log._begin_segment(first_lsn)
            return log
        for position, (first, path) in enumerate(segments):
            following = segments[position + 1][0] if position + 1 < len(segments) else None
            scan = scan_file(path, first, following, after_lsn=2**64)
        log._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        log.torn_bytes = os.fstat(log._file).st_size - scan.end
        os.ftruncate(log._file, scan.end)
        os.fsync(log._file)
        log._first_lsn, log._end, log._committed_end = first, scan.end, scan.end
        log._last_lsn = log._committed_lsn = scan.last_lsn
        return log

    @property
    def last_lsn(self) -> int:
        """The lsn of the last record appended; 0 when there never was one."""
        return self._last_lsn

    @property
    def committed_lsn(self) -> int:
        """The lsn up to which everything is committed (durable, unless ``sync=False``)."""
        return self._committed_lsn

    def size_bytes(self) -> int:
        """Bytes of all segments on disk."""
        return sum(path.stat().st_size for _, path in segments_of(self._folder))

    def append(self, record: bytes) -> int:
        """Write one record and return its lsn; it is durable after ``commit(lsn)``.

        Raises
        ------
        InputError
            For a record above ``MAX_RECORD_BYTES``.
        RunError
            When it cannot be written (no space left): the log is as it was, and a later append
            works when there is room.
        """
        return self.append_many([record])

    def append_many(self, records: Sequence[bytes]) -> int:
        """Write records one after another, all or none, and return the lsn of the last.

        Raises
        ------
        InputError, RunError
            As ``append``; and for no records at all.
        """
        require(len(records) > 0, "records", len(records), "must be at least one")
        for record in records:
            size = len(record)
            limit = f"must be <= {MAX_RECORD_BYTES}"
            require(size <= MAX_RECORD_BYTES, "bytes of a record", size, limit, "split the batch")
        # The lsn comes last into the crc, so that the long part is done outside the lock.
        crcs = [zlib.crc32(record) for record in records]
        with self._changed:
            self._roll_if_full()
            buffers: list[bytes] = []
            for lsn, (record, crc) in enumerate(zip(records, crcs), start=self._last_lsn + 1):
                whole = finish_crc(crc, len(record), lsn)
                buffers += [FRAME.pack(FRAME_MAGIC, len(record), lsn, whole), record]
            self._write(buffers)
            self._last_lsn += len(records)
            return self._last_lsn

    def commit(self, lsn: int) -> None:
        """Return when the records up to this lsn are durable.

        Raises
        ------
        InputError
            For an lsn that was never appended.
        RunError
            When the fsync failed, or an earlier one did: the write is not acknowledged.
        """
        with self._changed:
            require(0 <= lsn <= self._last_lsn, "lsn", lsn, f"must be <= {self._last_lsn}")
            while self._syncing and self._committed_lsn < lsn:
                self._changed.wait()  # for the leader, who may have begun too early for us
            if self._committed_lsn >= lsn:
                return
            self._check_usable()
            target = self._last_lsn, self._end
            if not self._sync:
                self._committed_lsn, self._committed_end = target
                return
            self._syncing = True
        failure = "fsync was interrupted"
        try:
            os.fsync(self._file)
            failure = ""
        except OSError as error:
            failure = f"fsync failed ({error})"
        finally:
            with self._changed:
                self._syncing = False
                self.fsyncs += 1
                if failure:
                    self._refuse_from_now_on(failure)
                else:
                    self._committed_lsn, self._committed_end = target
                self._changed.notify_all()
        if failure:
            self._check_usable()

    def replay(self, after_lsn: int = 0) -> Iterator[tuple[int, memoryview]]:
        """As :func:`replay`, of this log."""
        return replay(self._folder, after_lsn)

    def truncate_before(self, lsn: int) -> None:
        """Remove the segments that hold only records below ``lsn``: a snapshot has them.

        Call it when the snapshot is durable. The log begins at ``lsn`` or earlier afterwards.

        Raises
        ------
        InputError
            For an lsn beyond the next one to be written.
        """
        with self._changed:
            limit = f"must be <= {self._last_lsn + 1}, the next to be written"
            require(lsn <= self._last_lsn + 1, "lsn", lsn, limit)
            if self._first_lsn <= self._last_lsn < lsn:
                self._roll()
            segments = segments_of(self._folder)
            for (_, path), (following, _) in pairwise(segments):
                if following <= lsn:
                    path.unlink()
            _sync_folder(self._folder)

    def close(self) -> None:
        """Make everything durable and close the file; closing twice is allowed."""
        with self._changed:
            if self._file < 0:
                return
        try:
            if self._refusal is None:
                self.commit(self._last_lsn)
        finally:
            with self._changed:
                while self._syncing:
                    self._changed.wait()
                os.close(self._file)
                self._file = -1
                self._refusal = self._refusal or "it is closed"

    def __enter__(self) -> WriteAheadLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._refusal is not None:
            raise RunError(
                f"the log in {self._folder} takes no more writes: {self._refusal}; open the "
                "collection again, which keeps all that was acknowledged"
            )

    def _write(self, buffers: list[bytes]) -> None:
        """Write the buffers at the end; on failure cut back to where the end was."""
        self._check_usable()
        try:
            end = _write_all(self._file, buffers, self._end)
        except OSError as error:
            size = sum(len(buffer) for buffer in buffers)
            try:
                os.ftruncate(self._file, self._end)
            except OSError as second:
                self._refuse_from_now_on(f"a failed write could not be undone ({second})")
            raise RunError(
                f"{size} bytes could not be written to {self._path()} ({error}); the write is "
                "refused and the log is as it was: free some space and write again"
            ) from error
        self._end = end

    def _refuse_from_now_on(self, why: str) -> None:
        """Poison the log, and try to cut off what was not acknowledged."""
        self._refusal = why
        try:
            os.ftruncate(self._file, self._committed_end)
        except OSError as error:
            self._refusal += f", and the unsynced end could not be cut off ({error})"

    def _roll_if_full(self) -> None:
        if self._end >= self._segment_bytes and self._first_lsn <= self._last_lsn:
            self._roll()

    def _roll(self) -> None:
        """Seal the segment and begin the next; called with the lock."""
        while self._syncing:
            self._changed.wait()
        self._check_usable()
        if self._first_lsn > self._last_lsn:
            return  # another thread rolled while this one waited
        try:
            os.fsync(self._file)
        except OSError as error:
            self._refuse_from_now_on(f"fsync failed ({error})")
            self._check_usable()
        self.fsyncs += 1
        self._committed_lsn, self._committed_end = self._last_lsn, self._end
        self._begin_segment(self._last_lsn + 1)

    def _begin_segment(self, first_lsn: int) -> None:
        """Create a segment beside, and give it its name when its header is on disk."""
        path = self._path(first_lsn)
        partial = path.with_suffix(".partial")
        file = -1
        try:
            file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            _write_all(file, [segment_header(first_lsn)], 0)
            os.fsync(file)
            partial.rename(path)
            _sync_folder(self._folder)
        except OSError as error:
            self._refusal = f"{path} could not be begun ({error})"
            if file >= 0:
                os.close(file)
            partial.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            self._refusal = None
            raise RunError(
                f"{path} could not be begun ({error}); the write is refused and the log is as it "
                "was: free some space and write again"
            ) from error
        if self._file >= 0:
            os.close(self._file)
        self._file, self._first_lsn = file, first_lsn
        self._last_lsn = self._committed_lsn = first_lsn - 1
        self._end = self._committed_end = HEADER.size

    def _path(self, first_lsn: int | None = None) -> Path:
        return self._folder / f"{first_lsn or self._first_lsn:020d}.wal"


def _write_all(file: int, buffers: list[bytes], at: int) -> int:
    """Write the buffers from offset ``at``, and return where they end.

    One call may write less than it was given, without an error: the next one says why.
    """
    left, first = [memoryview(buffer) for buffer in buffers], 0
    while first < len(left):
        written = os.pwritev(file, left[first : first + BUFFERS_PER_CALL], at)
        at += written
        while first < len(left) and written >= len(left[first]):
            written -= len(left[first])
            first += 1
        if written:
            left[first] = left[first][written:]
    return at


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
