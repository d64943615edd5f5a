"""What a feed is when a stage fails: a deadline, a circuit breaker, and items without a ranker.

A feed that is a little worse is better than an error, and an error is better than a page that
hangs. So every stage has until a point in time, what is not ready by then is given up, and a
dependency that failed several times in a row is not asked again until a probe finds it well: else
each request would wait out the whole deadline for a server that is dead.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises.marker import exercise

Ints = NDArray[np.int64]
REMEMBERED = 10_000
KEPT = 100


class DependencyDown(Exception):
    """A server that a stage needs did not answer, or answered with an error."""


class Missed(StrEnum):
    """Why a stage gave nothing."""

    LATE = "late"
    """The stages before it had used its time up."""
    OPEN = "open"
    """The breaker is open: the dependency failed a moment ago and was not asked."""
    DEADLINE = "deadline"
    """It was asked, and its time was over before the answer came."""
    DOWN = "down"
    """It was asked, and failed."""
    ERROR = "error"
    """A bug: what it raised is in the log."""


class CircuitBreaker:
    """Stops asking a dependency that fails; asks again with one request at a time.

    Closed, it lets everything through. After ``failures`` in a row it opens for ``cooldown_s``;
    then one request may pass as a probe. If that succeeds it closes, else it stays open as long
    again.

    References
    ----------
    Nygard, *Release It!* (2nd ed., 2018), chapter 5.
    """

    def __init__(self, *, failures: int = 3, cooldown_s: float = 1.0) -> None:
        require(failures >= 1, "failures", failures, "must be >= 1")
        require(cooldown_s > 0, "cooldown_s", cooldown_s, "must be > 0")
        self.failures, self.cooldown_s = failures, cooldown_s
        self._in_a_row = 0
        self._closed_at = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        return self._in_a_row >= self.failures

    def allows(self, now: float) -> bool:
        """Whether a request may pass at ``now`` (s); a probe that passes must report back."""
        if not self.open:
            return True
        if self._probing or now < self._closed_at:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The request was answered."""
        self._in_a_row, self._probing = 0, False

    def failed(self, now: float) -> None:
        """The request failed, or was given up, at ``now`` (s)."""
        self._in_a_row += 1
        self._probing = False
        if self.open:
            self._closed_at = now + self.cooldown_s

    def abandoned(self) -> None:
        """The request ended without a verdict: its client went away."""
        self._probing = False


@exercise(
    "7.10",
    points=10,
    title="A deadline and a circuit breaker",
    hint="Ask the breaker last, when you are about to call: who is allowed must report back, "
    "whatever ends the call. asyncio.timeout cancels what it guards; asyncio.wait does not. Which "
    "exception means that the *client* has gone, and may it become a fallback feed?",
)
async def run_with_deadline(
    work: Callable[[], Awaitable[None]],
    *,
    due: float,
    breaker: CircuitBreaker,
    clock: Callable[[], float] = time.perf_counter,
) -> Missed | None:
    """Do a stage's work until ``due``, or say why it was not done.

    Parameters
    ----------
    work
        Starts the work when it is called.
    due
        When the result is of no use any more, in seconds of ``clock``.
    breaker
        Of the dependency that the work asks.

    Returns
    -------
    Missed or None
        ``LATE`` when ``due`` has passed: nothing is started, the breaker not asked.
        ``OPEN`` when the breaker does not allow it: nothing is started, at no cost.
        ``DEADLINE`` when ``due`` came before the end: the work is cancelled, not left running, and
        the breaker is told of a failure.
        ``DOWN`` when the work raised :class:`DependencyDown`: the breaker is told of a failure.
        None when it is done: the breaker is told of a success.

    Raises
    ------
    asyncio.CancelledError
        When the caller itself is cancelled, which says nothing about the dependency: the breaker is
        told that the request was abandoned. The same for any other exception of the work.

    References
    ----------
    Dean and Barroso, The Tail at Scale, CACM 2013 (good enough answers by a deadline).
    """
    # BEGIN SOLUTION
    now = clock()
    if now >= due:
        return Missed.LATE
    if not breaker.allows(now):
        return Missed.OPEN
    try:
        async with asyncio.timeout(due - now):
            await work()
    except TimeoutError:
        breaker.failed(clock())
        return Missed.DEADLINE
    except DependencyDown:
        breaker.failed(clock())
        return Missed.DOWN
    except BaseException:
        breaker.abandoned()
        raise
    breaker.succeeded()
    return None
    # END SOLUTION


class LastGood:
    """The newest full ranking of each user, for the time when there is none."""

    def __init__(self, users: int = REMEMBERED) -> None:
        self.users = users
        self._rankings: OrderedDict[int, Ints] = OrderedDict()

    def keep(self, user: int, ranking: Ints) -> None:
        """Remember item ids [n], best first; the first ``KEPT`` of them."""
        self._rankings[user] = ranking[:KEPT]
        self._rankings.move_to_end(user)
        if len(self._rankings) > self.users:
            self._rankings.popitem(last=False)

    def of(self, user: int) -> Ints:
        """Item ids [n]; empty for a user without one."""
        return self._rankings.get(user, np.zeros(0, dtype=np.int64))


def fallback_items(
    last_good: Ints,
    popular: NDArray[np.integer],
    fresh: NDArray[np.integer],
    allowed: NDArray[np.bool_],
    k: int,
) -> Ints:
    """A feed without models: the user's last ranking, then popular and fresh items in turn.

    Parameters
    ----------
    last_good, popular, fresh : integers [n]
        Item ids, best first.
    allowed : bool [n_items + 1]
        What the user has not seen and may see; ids beyond it are left out.

    Returns
    -------
    int64 [<= k]
        Different allowed items; any visible ones, in order of their id, when the lists have too
        few.
    """
    n = min(len(popular), len(fresh))
    in_turn = np.stack([popular[:n], fresh[:n]], axis=1).ravel()
    ids = np.concatenate([last_good, in_turn, popular[n:], fresh[n:]]).astype(np.int64)
    ids = ids[(ids > 0) & (ids < len(allowed))]
    ids = ids[allowed[ids]]
    _, first = np.unique(ids, return_index=True)
    found = ids[np.sort(first)][:k]
    if len(found) < k:
        rest = np.flatnonzero(allowed)
        found = np.concatenate([found, rest[(rest > 0) & ~np.isin(rest, found)]])[:k]
    return found
