"""The online state of users: what each has watched, newest last, changed by every reaction.

SQLite is the default: one file, no server, enough for one gateway process. Several gateways share
their state through Redis (``user_state_redis.py``). Both are a view of the event log, which is
what must not be lost: a reaction is applied by its id, at most once, so replaying the log repairs
a state that missed some.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Ints = NDArray[np.int64]
LONGEST = 1000
"""Items of a history that are kept: the newest."""
CACHED = 10_000
REMEMBERED = 200_000
"""Newest event ids that a state knows as applied."""


@dataclass(frozen=True)
class History:
    """What a user has watched. Treat it as read-only: requests share it.

    Attributes
    ----------
    items, ratings : int64 [n]
        Oldest first; no item twice. A negative rating is a hide: watched by nobody, and the ranker
        reads its size.
    version : int
        Grows with each change. Two gateways that cannot reach their store may count alike and
        hold different items: what is computed from a history is cached under :meth:`equals`.
    """

    items: Ints
    ratings: Ints
    version: int = 0

    @cached_property
    def wanted(self) -> Ints:
        """The items that were not hidden: where retrieval starts from."""
        return self.items[self.ratings > 0]

    def equals(self, other: History) -> bool:
        """Whether the same was watched and rated the same."""
        return self is other or (
            np.array_equal(self.items, other.items) and np.array_equal(self.ratings, other.ratings)
        )

    def appended(self, item: int, rating: int) -> History:
        """With a newest item; a repeated one moves to the end, with its new rating."""
        keep = self.items != item
        items = np.append(self.items[keep], item)[-LONGEST:]
        ratings = np.append(self.ratings[keep], rating)[-LONGEST:]
        return History(items, ratings, self.version + 1)


EMPTY = History(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
"""A user nobody knows: a cold start."""
Histories = Mapping[int, History]


class UserState(Protocol):
    """Where histories live."""

    @property
    def degraded(self) -> bool:
        """Whether histories may be out of date, because the store does not answer."""
        ...

    async def get(self, user: int) -> History:
        """The history of a user; :data:`EMPTY` for an unknown one."""
        ...

    async def append(self, user: int, item: int, rating: int, event_id: str) -> bool:
        """Add to a history, once for an event id; False when it was applied before.

        A store that fails raises, and the history of this process has the item all the same.
        """
        ...

    async def people(self, count: int) -> list[tuple[int, History]]:
        """Some users, the lowest ids first."""
        ...

    async def close(self) -> None: ...


def read_histories(path: Path) -> dict[int, History]:
    """The users that come with a bundle, from ``users.json``: id to [items, ratings].

    Raises
    ------
    InputError
        For a file that is absent or damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(user): History(
                np.array(items[-LONGEST:], np.int64), np.array(ratings[-LONGEST:], np.int64), 1
            )
            for user, (items, ratings) in rows.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no file of users ({error}); run --stages bundle") from error


class SqliteState:
    """Histories in one SQLite file, for one process; what was read is cached.

    The file is in WAL mode and not synced at every write: after a power cut the newest writes may
    be missing, and the event log, which was synced, brings them back.

    Parameters
    ----------
    initial
        Written for users whom the file does not have; those it has are left alone.

    Raises
    ------
    InputError
        The file is no database, or not one of these.
    """

    degraded = False

    def __init__(self, path: Path, initial: Histories) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._cache: OrderedDict[int, History] = OrderedDict()
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(
                "CREATE TABLE IF NOT EXISTS history (user INTEGER PRIMARY KEY, items BLOB NOT NULL,"
                " ratings BLOB NOT NULL, version INTEGER NOT NULL);"
                "CREATE TABLE IF NOT EXISTS applied (event TEXT UNIQUE NOT NULL);"
            )
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?)",
                ((user, *packed(history)) for user, history in initial.items()),
            )
            self._database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path} is no user state ({error}); move it away, the event log rebuilds it"
            ) from error

    async def get(self, user: int) -> History:
        found = self._cache.get(user)
        if found is None:
            found = self._read(user)
            self._keep(user, found)
        return found

    async def append(self, user: int, item: int, rating: int, event_id: str) -> bool:
        changed = (await self.get(user)).appended(item, rating)
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        try:
            added = execute("INSERT OR IGNORE INTO applied VALUES (?)", (event_id,))
            if added.rowcount == 0:
                execute("ROLLBACK")
                return False
            if added.lastrowid and added.lastrowid % 1000 == 0:
                execute("DELETE FROM applied WHERE rowid <= ?", (added.lastrowid - REMEMBERED,))
            execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)", (user, *packed(changed)))
            execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                execute("ROLLBACK")
            self._keep(user, changed)  # shown, and written with the next change or from the log
            raise
        self._keep(user, changed)
        return True

    async def people(self, count: int) -> list[tuple[int, History]]:
        rows = self._database.execute("SELECT user FROM history ORDER BY user LIMIT ?", (count,))
        return [(user, await self.get(user)) for (user,) in rows.fetchall()]

    async def close(self) -> None:
        self._database.close()

    def _read(self, user: int) -> History:
        row = self._database.execute(
            "SELECT items, ratings, version FROM history WHERE user = ?", (user,)
        ).fetchone()
        return unpacked(*row) if row else EMPTY

    def _keep(self, user: int, history: History) -> None:
        self._cache[user] = history
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)


def packed(history: History) -> tuple[bytes, bytes, int]:
    """A history as it is stored: items in 4 bytes each, ratings in 1."""
    return (
        history.items.astype("<i4").tobytes(),
        history.ratings.astype("i1").tobytes(),
        history.version,
    )


def unpacked(items: bytes, ratings: bytes, version: int) -> History:
    """The inverse of :func:`packed`."""
    return History(
        np.frombuffer(items, "<i4").astype(np.int64),
        np.frombuffer(ratings, "i1").astype(np.int64),
        version,
    )


async def replay(state: UserState, reactions: Iterable[Mapping[str, object]]) -> int:
    """Apply logged reactions, oldest first, that a state has not seen; returns how many."""
    from capstone.api import Reaction, signed_rating

    applied = 0
    for event in reactions:
        rating = signed_rating(Reaction(str(event["reaction"])))
        user, item = int(str(event["user_id"])), int(str(event["item_id"]))
        applied += await state.append(user, item, rating, str(event["event_id"]))
    return applied
