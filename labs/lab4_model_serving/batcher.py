"""Dynamic batching: requests that come one by one are run together.

A batch leaves when it is full, or when its oldest request has waited ``max_delay_s`` since it was
*enqueued*, and a runner is free (``batch_choice.decide``). It holds the request whose turn it is
and others of like length (``batch_choice.choose``). Turns are fair between clients, and the queue
is bounded by the time until the answer (``admission.Admission``): a queue that grows helps nobody,
every answer comes too late.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from common.errors import require
from labs.lab4_model_serving.admission import Admission
from labs.lab4_model_serving.batch_choice import check_settings, choose, decide

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW = 4
"""A batch is chosen among the next ``WINDOW * max_batch`` requests in their turns."""


class QueueFull(Exception):
    """No place in the queue; it should be worth asking again after ``retry_after_s``."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; retry after {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Exception):
    """The request waited so long that nobody wants the answer; it was not run."""


class Served(NamedTuple, Generic[Result]):
    """An answer, how long its request waited (s), and how many were in its batch."""

    result: Result
    queue_s: float
    batch: int


class _Waiting(Generic[Item, Result]):
    __slots__ = ("answer", "client", "enqueued", "item", "length", "predicted", "turn")

    def __init__(
        self,
        item: Item,
        length: int,
        client: str,
        enqueued: float,
        turn: float,
        predicted: float,
        answer: asyncio.Future[Served[Result]],
    ) -> None:
        self.item, self.length, self.client = item, length, client
        self.enqueued, self.turn, self.predicted, self.answer = enqueued, turn, predicted, answer


class Batcher(Generic[Item, Result]):
    """Collects items into batches and runs them on threads. Use it from one event loop.

    Parameters
    ----------
    run
        Items to results, in order; called on a thread.
    max_batch
        Items of a batch at most; fewer where so many would take too long for ``slo_s``.
    max_delay_s
        The oldest item waits this long for others (s); 0 runs what is there. Event loops keep time
        in whole milliseconds.
    max_queue
        Items that may wait, whatever is predicted: a bound of memory.
    slo_s
        From enqueued to answered (s): items that would be answered later are refused; infinite
        admits everybody until ``max_queue``.
    deadline_s
        An item that has waited longer is not run (:class:`DeadlinePassed`); infinite by default.
    max_waste
        Share of padding in a batch at most (see :func:`batch_choice.choose`), or more where what
        a batch costs by itself is more than the padding; 1 runs items in their turns, whatever
        their length.
    runners
        Batches that may run at once.
    executor
        Where they run; by default ``runners`` threads of its own.
    clock
        Seconds, monotonic. (uvloop's own clock stands still within an iteration.)
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int = 32,
        max_delay_s: float = 0.002,
        max_queue: int = 512,
        slo_s: float = math.inf,
        deadline_s: float = math.inf,
        max_waste: float = 1.0,
        runners: int = 1,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_settings(max_batch, max_delay_s, max_queue)
        require(deadline_s > 0, "deadline_s", deadline_s, "must be > 0")
        require(0 <= max_waste <= 1, "max_waste", max_waste, "must be in [0, 1]")
        require(runners >= 1, "runners", runners, "must be >= 1")
        self._run = run
        self.max_batch, self.max_delay_s = max_batch, max_delay_s
        self.max_queue, self.deadline_s = max_queue, deadline_s
        self.max_waste, self.runners = max_waste, runners
        self.admission = Admission(slo_s, max_batch=max_batch, runners=runners)
        self.on_batch: Callable[[int], None] | None = None
        """Told of every batch's size when it leaves."""
        self._waiting: list[_Waiting[Item, Result]] = []  # ascending by turn
        self._turns: list[float] = []  # theirs, for bisect
        self._last_turn: dict[str, float] = {}  # by client, of those that wait
        self._turn = 0.0  # the one that was served last
        self._free = runners
        self._free_since: float = clock()
        self._executor = executor or ThreadPoolExecutor(runners, "batch")
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._idle: list[asyncio.Future[None]] = []

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Batches that run now."""
        return self.runners - self._free

    async def submit(self, item: Item, *, length: int = 1, client: str = "") -> Served[Result]:
        """The answer to an item; see :meth:`enqueue`.

        Raises
        ------
        QueueFull
            It would be answered too late, or ``max_queue`` items wait already.
        DeadlinePassed
            It waited longer than ``deadline_s``.
        """
        return await self.enqueue(item, length=length, client=client)

    def enqueue(
        self, item: Item, *, length: int = 1, client: str = "", enqueued: float | None = None
    ) -> asyncio.Future[Served[Result]]:
        """A future of the answer to an item. Cancel it when the client is gone.

        Parameters
        ----------
        length
            What the cost of an item grows with, >= 1; only used to put like ones together.
        client
            Whose turn it takes. Turns are by start-time fair queueing: a client's next turn is
            one after its last, or now if it has none left. One that floods queues behind itself.
        enqueued
            When it came, by the batcher's clock (default: now).

        Raises
        ------
        QueueFull
            At once.
        """
        now = self._clock()
        turn = max(self._turn, self._last_turn.get(client, -1.0) + 1)
        ahead = bisect_right(self._turns, turn)
        busy = self._free == 0
        admission = self.admission
        if not admission.admits(ahead, busy=busy):
            raise QueueFull(admission.retry_after_s(ahead))
        # Only those that had to wait for other batches say how good the prediction is.
        predicted = admission.predicted_s(ahead, busy=busy) if ahead >= admission.batch else 0.0
        future: asyncio.Future[Served[Result]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting[Item, Result](
            item, length, client, now if enqueued is None else enqueued, turn, predicted, future
        )
        self._waiting.insert(ahead, waiting)
        self._turns.insert(ahead, turn)
        self._last_turn[client] = turn
        if self._expiry is None and self.deadline_s < math.inf:
            self._expiry = asyncio.get_running_loop().call_later(self.deadline_s, self._expire)
        self._dispatch()
        if future.done() and (error := future.exception()):
            raise error
        return future

    async def drain(self) -> None:
        """Return when nothing waits and nothing runs."""
        if self._waiting or self.running:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def close(self) -> None:
        """End the threads; what runs is finished. Drain before: those that wait never end."""
        if isinstance(self._executor, ThreadPoolExecutor):
            self._executor.shutdown(wait=False)

    def _dispatch(self) -> None:
        """Start every batch that may leave now, and wake up when the next one may."""
        now = self._clock()
        while self._waiting:
            free = self._free > 0
            n = len(self._waiting)
            most = self.admission.batch
            soon = free and n < most  # only then the oldest matters
            decision = decide(
                n,
                min(w.enqueued for w in self._waiting) if soon else now,
                now,
                free_since=self._free_since if free else None,
                max_batch=most,
                max_delay_s=self.max_delay_s,
                max_queue=self.max_queue,
            )
            if decision.leave:
                batch = self._take(now, decision.leave)
                if batch:
                    self._start(batch, now)
                continue
            if decision.refuse:
                self._push_out(decision.refuse)
            if decision.wake_at < math.inf and self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(decision.wake_at - now, self._wake)
            return
        # Nobody waits: whoever comes next comes first, and old turns are forgotten.
        self._last_turn.clear()
        self._turn = 0.0
        if not self.running:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()

    def _wake(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self, now: float, leave: int) -> list[_Waiting[Item, Result]]:
        """Remove the next batch from those that wait; empty if nobody wants its answers."""
        if self._drop(now):
            return []  # fewer wait than was decided on
        window = self._waiting[: WINDOW * self.max_batch]
        chosen: Sequence[int] = range(leave)
        if (max_waste := self._waste(leave)) < 1:
            lengths = [waiting.length for waiting in window]
            chosen = choose(lengths, max_batch=leave, max_waste=max_waste)
        batch = [window[i] for i in chosen]
        self._turn = self._waiting[0].turn
        for i in reversed(chosen):
            del self._waiting[i], self._turns[i]
        if len(self._last_turn) > 4 * self.max_queue:
            self._last_turn = {c: t for c, t in self._last_turn.items() if t >= self._turn}
        return batch

    def _waste(self, n: int) -> float:
        """Padding that n requests may have: more, where two batches would cost more than it."""
        service = self.admission.service
        if service is None or service.fixed_s >= n * service.item_s:
            return 1.0
        return max(self.max_waste, service.fixed_s / (n * service.item_s))

    def _drop(self, now: float) -> bool:
        """Remove those whose client is gone or whose deadline has passed; True if any."""
        kept = []
        for waiting in self._waiting:
            if waiting.answer.done():
                continue
            if now - waiting.enqueued > self.deadline_s:
                waiting.answer.set_exception(DeadlinePassed("not run: nobody waits any more"))
                continue
            kept.append(waiting)
        dropped = len(kept) < len(self._waiting)
        if dropped:
            self._waiting, self._turns = kept, [waiting.turn for waiting in kept]
        return dropped

    def _expire(self) -> None:
        """Tell those whose deadline has passed, although no runner is free."""
        self._expiry = None
        now = self._clock()
        self._drop(now)
        if self._waiting:
            oldest = min(waiting.enqueued for waiting in self._waiting)
            wait = max(oldest + self.deadline_s - now, 0.001)
            self._expiry = asyncio.get_running_loop().call_later(wait, self._expire)
        self._dispatch()

    def _push_out(self, n: int) -> None:
        """Refuse those whose turn is last: of the client that asked for the most."""
        for waiting in self._waiting[-n:]:
            self._last_turn[waiting.client] = waiting.turn - 1
            if not waiting.answer.done():
                wait = self.admission.retry_after_s(len(self._waiting))
                waiting.answer.set_exception(QueueFull(wait))
        del self._waiting[-n:], self._turns[-n:]

    def _start(self, batch: list[_Waiting[Item, Result]], now: float) -> None:
        self._free -= 1
        if self.on_batch:
            self.on_batch(len(batch))
        loop = asyncio.get_running_loop()
        running = self._executor.submit(self._run, [waiting.item for waiting in batch])
        running.add_done_callback(partial(self._ran, loop, batch, now))

    def _ran(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting[Item, Result]],
        started: float,
        running: Future[Sequence[Result]],
    ) -> None:
        if not loop.is_closed():  # this is the runner's thread
            loop.call_soon_threadsafe(self._finished, batch, started, running)

    def _finished(
        self,
        batch: list[_Waiting[Item, Result]],
        started: float,
        running: Future[Sequence[Result]],
    ) -> None:
        now = self._clock()
        self._free += 1
        self._free_since = now
        self.admission.ran(len(batch), now - started)
        self._dispatch()  # the runner is free: first the next batch, then the answers
        error = running.exception()
        results = () if error else running.result()
        if error is None and len(results) != len(batch):
            error = ValueError(f"run gave {len(results)} results for {len(batch)} items")
        if isinstance(error, StopIteration):
            error = RuntimeError(f"run raised {error!r}")  # a future cannot hold it
        if error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(Served(result, started - waiting.enqueued, len(batch)))
            if waiting.predicted:
                self.admission.answered(waiting.predicted, now - waiting.enqueued)
