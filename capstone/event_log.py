"""What was shown and what people did, as a log: acknowledged means on disk, and once only.

A reaction is answered 200 when its record has survived an fsync, never before. One fsync takes
as long as hundreds of records, so requests that wait at the same time share one (group commit).
What was shown (exposures) goes to a log of the same kind without anybody waiting for it: a killed
gateway loses the newest ``FLUSH_S`` seconds of those.

The files are lab 2's write-ahead log: length and checksum before each record, a torn tail cut off
at start, a full disk leaving the log as it was. :mod:`capstone.event_tables` turns them to Parquet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables, read_reactions
from common.errors import InputError, RunError
from labs.lab2_vector_db.durable import lock_for_writing
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog

FLUSH_S = 0.1
REOPEN_S = 1.0
MOST_WAITING = 20_000
REMEMBERED = 200_000
"""Newest event ids that are known, for replays."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
Json = Mapping[str, Any]


class LogRefused(RunError):
    """The record is not in the log: do not acknowledge it. ``status`` is what a client gets."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EventConflict(InputError):
    """An event id that is taken by another content."""


class GroupCommitLog:
    """A write-ahead log on an event loop; all that wait at the same time share one fsync.

    Parameters
    ----------
    folder
        Of the log; a torn tail is cut off when it is opened.
    first
        Number of the first record where there is no log yet.
    on_error
        Called for records that could not be written, with their number: for a counter.

    Raises
    ------
    RunError
        For a log that is damaged before its tail.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int = 1,
        on_error: Callable[[int], None] | None = None,
    ) -> None:
        self.folder, self._first = folder, first
        self._on_error = on_error or (lambda count: None)
        self._log: WriteAheadLog | None = WriteAheadLog.open(folder, first_lsn=first)
        self._waiting: list[tuple[bytes, asyncio.Future[int] | None]] = []
        self._thread = ThreadPoolExecutor(1, f"log-{folder.name}")
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed_at = 0.0

    @property
    def pending(self) -> int:
        """Records that are not yet on disk."""
        return len(self._waiting)

    async def append(self, record: bytes) -> int:
        """Write one record; returns its number when it has survived an fsync.

        Raises
        ------
        LogRefused
            It is not in the log: no room (507), or the disk fails or does not keep up (503).
        """
        if len(self._waiting) >= MOST_WAITING:
            raise LogRefused("the event log does not keep up; come back in a second", 503)
        loop = asyncio.get_running_loop()
        written: asyncio.Future[int] = loop.create_future()
        self._waiting.append((record, written))
        self._start(loop)
        return await written

    def append_soon(self, record: bytes) -> bool:
        """Write one record within ``FLUSH_S`` seconds; False when it was dropped and counted."""
        if len(self._waiting) >= MOST_WAITING:
            self._on_error(1)
            return False
        self._waiting.append((record, None))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_S, self._flush, loop)
        return True

    async def settle(self) -> None:
        """Return when nothing waits any more."""
        while self._waiting or (self._writer is not None and not self._writer.done()):
            self._start(asyncio.get_running_loop())
            assert self._writer is not None
            await asyncio.wait([self._writer])

    async def in_thread(self, work: Callable[[WriteAheadLog], Any]) -> Any:
        """Call ``work`` between two writes."""

        def call() -> Any:
            return work(self._opened())

        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Write what waits and close the file."""
        if self._timer is not None:
            self._timer.cancel()
        await self.settle()
        self._thread.shutdown()
        if self._log is not None:
            self._log.close()

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and (self._writer is None or self._writer.done()):
            self._writer = loop.create_task(self._write_batches(loop))

    async def _write_batches(self, loop: asyncio.AbstractEventLoop) -> None:
        # What comes while one batch is written and synced makes up the next.
        while self._waiting:
            batch, self._waiting = self._waiting, []
            records = [record for record, _ in batch]
            try:
                last = await loop.run_in_executor(self._thread, self._commit, records)
            except RunError as error:
                self._on_error(len(batch))
                refused = error if isinstance(error, LogRefused) else LogRefused(str(error), 503)
                for _, written in batch:
                    if written is not None and not written.done():
                        written.set_exception(refused)
            else:
                for place, (_, written) in enumerate(batch):
                    if written is not None and not written.done():
                        written.set_result(last - len(batch) + 1 + place)

    def _commit(self, records: Sequence[bytes]) -> int:
        log = self._opened()
        try:
            last = log.append_many(records)
            log.commit(last)
        except RunError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                raise LogRefused("there is no room for the event log; try again later", 507) from (
                    error
                )
            # A failed fsync: the log takes no more until it is opened again.
            self._log, self._failed_at = None, time.monotonic()
            with contextlib.suppress(RunError, OSError):
                log.close()
            raise
        return last

    def _opened(self) -> WriteAheadLog:
        if self._log is None:
            if time.monotonic() - self._failed_at < REOPEN_S:
                raise LogRefused("the event log's disk failed; try again later", 503)
            self._failed_at = time.monotonic()
            self._log = WriteAheadLog.open(self.folder, first_lsn=self._first)
        return self._log


class EventIds:
    """The newest event ids, each with what it stood for; a replay changes nothing."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self.limit = limit
        self._known: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, event: Json) -> None:
        self._known[event["event_id"]] = _fingerprint(event)
        if len(self._known) > self.limit:
            self._known.popitem(last=False)

    def has(self, event: Json) -> bool:
        """Whether this very event is known.

        Raises
        ------
        EventConflict
            When its id is, with another content.
        """
        known = self._known.get(event["event_id"])
        if known is not None and known != _fingerprint(event):
            raise EventConflict(
                f"event_id = {event['event_id']!r} was used for another event; make a new id"
            )
        return known is not None


class EventLog:
    """Reactions and exposures of one gateway process. Make it with :meth:`open`.

    Parameters
    ----------
    on_error
        Called with ``"reactions"`` or ``"exposures"`` and a number of records not written.
    """

    def __init__(self, folder: Path, *, on_error: Callable[[str, int], None] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._release = lock_for_writing(folder)
        told = on_error or (lambda kind, count: None)
        self.tables = FeedTables(folder)
        self._reactions, self._exposures = (
            GroupCommitLog(
                self.tables.log(kind),
                first=self.tables.moved(kind) + 1,
                on_error=partial(told, kind),
            )
            for kind in (REACTIONS, EXPOSURES)
        )
        self.ids = EventIds()
        self.recovered: list[Json] = list(read_reactions(folder, newest=self.ids.limit))
        """Reactions of earlier lives, oldest first: what brings user state up to date."""
        for event in self.recovered:
            self.ids.add(event)
        self._under_way: dict[str, tuple[bytes, asyncio.Future[int]]] = {}

    @property
    def pending(self) -> int:
        return self._reactions.pending + self._exposures.pending

    async def react(self, event: Json) -> bool:
        """Write a reaction; returns when it is on disk. True when it was there already.

        Parameters
        ----------
        event
            At least ``event_id``, ``request_id``, ``user_id``, ``item_id``, ``reaction``.

        Raises
        ------
        LogRefused
            It is not in the log.
        EventConflict
            The id stands for another event.
        """
        if self.ids.has(event):
            return True
        name, fingerprint = event["event_id"], _fingerprint(event)
        if name in self._under_way:  # the same event twice at the same time
            other, written = self._under_way[name]
            if other != fingerprint:
                raise EventConflict(f"event_id = {name!r} is used for another event; make a new id")
            await asyncio.shield(written)
            return True
        task = asyncio.ensure_future(self._reactions.append(orjson.dumps(event)))
        self._under_way[name] = fingerprint, task
        task.add_done_callback(lambda done: self._settled(event, done))
        await asyncio.shield(task)  # a client that goes away does not stop the write
        return False

    def expose(self, exposure: Json) -> bool:
        """Log what was shown; on disk soon."""
        return self._exposures.append_soon(
            orjson.dumps(exposure, option=orjson.OPT_SERIALIZE_NUMPY)
        )

    async def roll(self) -> int:
        """Move what is on disk to Parquet; returns the number of records moved."""
        moved = 0
        for log, kind in ((self._reactions, REACTIONS), (self._exposures, EXPOSURES)):
            await log.settle()
            moved += await log.in_thread(partial(self.tables.roll, kind=kind))
        return moved

    async def close(self) -> None:
        """Write what waits, move it to Parquet, release the folder."""
        try:
            with contextlib.suppress(RunError, OSError):  # no room: the log itself has it all
                await self.roll()
            await self._reactions.close()
            await self._exposures.close()
        finally:
            self._release()

    def _settled(self, event: Json, done: asyncio.Future[int]) -> None:
        del self._under_way[event["event_id"]]
        if not done.cancelled() and done.exception() is None:
            self.ids.add(event)


def _fingerprint(event: Json) -> bytes:
    text = f"{event['request_id']} {event['user_id']} {event['item_id']} {event['reaction']}"
    return blake2b(text.encode(), digest_size=8).digest()
