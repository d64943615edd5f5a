"""Dynamic batching: requests that come one by one are run together.

A batch leaves when it is full, or when its oldest request has waited ``max_delay_s`` since it was
*enqueued*, and a runner is free. The queue is bounded: a request that finds it full is refused at
once, because a queue that grows helps nobody (every answer comes too late).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.errors import require

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """No place in the queue; it should be worth asking again after ``retry_after_s``."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; retry after {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Exception):
    """The request waited so long that nobody wants the answer; it was not run."""


@dataclass(frozen=True)
class Served(Generic[Result]):
    """An answer, how long its request waited (s), and how many were in its batch."""

    result: Result
    queue_s: float
    batch: int


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    enqueued: float
    answer: asyncio.Future[Served[Result]]


class Batcher(Generic[Item, Result]):
    """Collects items into batches and runs them on threads.

    Parameters
    ----------
    run
        Items to results, in order; called on a thread.
    max_batch
        Items of a batch at most.
    max_delay_s
        The oldest item waits this long for others (s); 0 runs what is there.
    max_queue
        Items that may wait.
    deadline_s
        An item that has waited longer is not run (:class:`DeadlinePassed`); infinite by default.
    runners
        Batches that may run at once.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int = 32,
        max_delay_s: float = 0.002,
        max_queue: int = 512,
        deadline_s: float = float("inf"),
        runners: int = 1,
        executor: Executor | None = None,
    ) -> None:
        require(max_batch >= 1, "max_batch", max_batch, "must be >= 1")
        require(max_delay_s >= 0, "max_delay_s", max_delay_s, "must be >= 0")
        require(max_queue >= 1, "max_queue", max_queue, "must be >= 1")
        require(deadline_s > 0, "deadline_s", deadline_s, "must be > 0")
        require(runners >= 1, "runners", runners, "must be >= 1")
        self._run = run
        self.max_batch, self.max_delay_s = max_batch, max_delay_s
        self.max_queue, self.deadline_s = max_queue, deadline_s
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._free = runners
        self._executor = executor or ThreadPoolExecutor(runners, "batch")
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._seconds_a_item = 0.001

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Served[Result]:
        """The answer to an item.

        Raises
        ------
        QueueFull
            ``max_queue`` items wait already.
        DeadlinePassed
            It waited longer than ``deadline_s``.
        """
        if len(self._waiting) >= self.max_queue:
            raise QueueFull(self._seconds_a_item * len(self._waiting))
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Result](item, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._dispatch()
        return await waiting.answer

    def _dispatch(self) -> None:
        """Start every batch that may leave now, and wake up when the next one may."""
        loop = asyncio.get_running_loop()
        while self._free and self._waiting:
            due = self._waiting[0].enqueued + self.max_delay_s
            if len(self._waiting) < self.max_batch and loop.time() < due:
                if self._timer is None or self._timer.when() > due or self._timer.cancelled():
                    if self._timer:
                        self._timer.cancel()
                    self._timer = loop.call_at(due, self._wake)
                return
            batch = self._next_batch(loop.time())
            if batch:
                self._free -= 1
                task = loop.create_task(self._run_batch(batch))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def _wake(self) -> None:
        self._timer = None
        self._dispatch()

    def _next_batch(self, now: float) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self.max_batch:
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue  # the client went away
            if now - waiting.enqueued > self.deadline_s:
                waiting.answer.set_exception(DeadlinePassed())
                continue
            batch.append(waiting)
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            results = await loop.run_in_executor(
                self._executor, self._run, [waiting.item for waiting in batch]
            )
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.answer.done():
                    served = Served(result, started - waiting.enqueued, len(batch))
                    waiting.answer.set_result(served)
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        finally:
            self._free += 1
            spent = (loop.time() - started) / len(batch)
            self._seconds_a_item += 0.1 * (spent - self._seconds_a_item)
            self._dispatch()

    async def drain(self) -> None:
        """Return when nothing waits and nothing runs."""
        while self._waiting or self._running:
            await asyncio.sleep(0.002)
