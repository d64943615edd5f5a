"""The batches of the next step, made while this one trains.

A shard takes most of a second to draw, and each turn of the reading plan begins with all of a
rank's lanes: without a second thread, every GPU would wait for them. NumPy lets go of the
interpreter's lock in the calls that cost, so threads are enough.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from capstone import impression_batches
from capstone.impression_batches import Batch, ReadingPlan
from capstone.impressions import Impressions


class Prefetch:
    """A rank's batches, step by step, on the CPU; what will be asked next is begun ahead.

    While a step trains, one thread packs the next, and others draw the shards of the next turn.

    Parameters
    ----------
    last
        Steps of the run; nothing is made for those after it.
    threads
        That draw shards.

    Attributes
    ----------
    waited : list of float
        Seconds for which each call had to wait.

    Examples
    --------
    >>> with Prefetch(plan, rank=0, world=2, last=plan.steps) as ahead:
    ...     batches = ahead.batches(0)
    """

    def __init__(
        self, plan: ReadingPlan, *, rank: int, world: int, last: int, threads: int = 4
    ) -> None:
        self.plan, self.rank, self.world, self.last = plan, rank, world, last
        self.waited: list[float] = []
        self._drawing = ThreadPoolExecutor(threads, "draw")
        self._packing = ThreadPoolExecutor(1, "pack")
        self._turns: dict[int, list[Future[Impressions]]] = {}
        self._steps: dict[int, Future[list[Batch]]] = {}

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step: the same as ``plan.batches``."""
        began = time.perf_counter()
        found = self._pack(step).result()
        self.waited.append(time.perf_counter() - began)
        turn = step // self.plan.steps_per_shard
        self._steps.pop(step)
        self._turns = {key: drawn for key, drawn in self._turns.items() if key >= turn}
        if step + 1 < self.last:
            self._pack(step + 1)
        if (turn + 1) * self.plan.steps_per_shard < self.last:
            self._draw(turn + 1)
        return found

    def _draw(self, turn: int) -> list[Future[Impressions]]:
        if turn not in self._turns:
            first = turn * self.plan.steps_per_shard
            pieces = self.plan.pieces(first, self.rank, self.world)
            self._turns[turn] = [
                self._drawing.submit(impression_batches.cached_shard, self.plan.config, number)
                for number, _ in pieces
            ]
        return self._turns[turn]

    def _pack(self, step: int) -> Future[list[Batch]]:
        if step not in self._steps:
            drawn = self._draw(step // self.plan.steps_per_shard)

            def make() -> list[Batch]:
                wait(drawn)
                return self.plan.batches(step, self.rank, self.world)

            self._steps[step] = self._packing.submit(make)
        return self._steps[step]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in (self._packing, self._drawing):
            pool.shutdown(wait=True, cancel_futures=True)
