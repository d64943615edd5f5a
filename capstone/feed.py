"""One feed request as typed stages; :func:`execute_stages` reads as the system diagram.

::

    hydrate -> source -> filter -> score -> select -> log
        \\         \\         \\        \\        /
         `---------`---------`------`-> fallback
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from capstone.api import Slot
from capstone.fallback import CircuitBreaker, Missed, run_with_deadline
from capstone.sources import Candidates
from capstone.user_state import EMPTY, History

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
DEADLINES_MS = {"hydrate": 5.0, "source": 8.0, "filter": 1.0, "score": 26.0, "select": 8.0}
"""Milliseconds of each stage; together 48, below the 50 that a feed may take."""
NO_CANDIDATES = Candidates(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))


@dataclass
class Shown:
    """The items of a feed, first to last, as arrays [k]; filled by select or by the fallback."""

    items: Ints
    slots: tuple[Slot, ...]
    source: NDArray[np.uint8]
    propensity: Floats
    value: Floats
    diversity_penalty: Floats
    creator_penalty: Floats
    heads: Mapping[str, Floats] = field(default_factory=dict)
    pool: Ints = field(default_factory=lambda: NO_CANDIDATES.ids)
    """[P]: what the exploration slots were drawn from, best first; empty where nothing was."""
    pool_value: Floats = field(default_factory=lambda: np.zeros(0))
    """[P]: the values that the draw's chances follow from."""
    teams: Ints | None = None
    """[k]: of an interleaved feed, the variant whose pick each item is."""

    def rows(self, rows: Ints) -> Shown:
        """These places of the feed alone, without its pool."""
        return Shown(
            self.items[rows],
            tuple(self.slots[row] for row in rows),
            self.source[rows],
            self.propensity[rows],
            self.value[rows],
            self.diversity_penalty[rows],
            self.creator_penalty[rows],
            {head: p[rows] for head, p in self.heads.items()},
        )

    @staticmethod
    def concatenated(parts: Sequence[Shown]) -> Shown:
        """At least one part, one after the other."""

        def joined(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        return Shown(
            joined("items"),
            tuple(slot for part in parts for slot in part.slots),
            joined("source"),
            joined("propensity"),
            joined("value"),
            joined("diversity_penalty"),
            joined("creator_penalty"),
            {head: np.concatenate([part.heads[head] for part in parts]) for head in parts[0].heads},
        )


@dataclass
class Request:
    """What one request knows so far; each stage fills in its part."""

    request_id: str
    user_id: int
    unit_id: str
    k: int
    variant: int
    in_experiment: bool = False
    history: History = EMPTY
    seen: NDArray[np.bool_] | None = None
    """[n_items + 1], of the arm's catalogue."""
    candidates: Candidates = NO_CANDIDATES
    scores: Mapping[str, Floats] = field(default_factory=dict)
    """Calibrated probabilities of each head, [C]."""
    shown: Shown | None = None
    drafts: tuple[Request, Request] | None = None
    """Of an interleaved feed: what either arm knows."""
    missed: tuple[str, Missed] | None = None
    """The stage that gave nothing, and why; then the feed is a fallback."""
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def cold_start(self) -> bool:
        return len(self.history.items) == 0


class Stage(Protocol):
    """A named step that reads and fills a request.

    What it waits for, it waits for with ``await``, so that it can be cancelled at its deadline; a
    server that it asks has a circuit breaker. A stage that only computes is short and never cut.
    """

    name: str
    breaker: CircuitBreaker

    async def __call__(self, request: Request) -> None: ...


@dataclass(frozen=True)
class Pipeline:
    """The stages of one arm."""

    hydrate: Stage
    source: Stage
    filter: Stage
    score: Stage
    select: Stage
    fallback: Stage
    log: Stage

    @property
    def ranking(self) -> tuple[Stage, ...]:
        """The stages that make a feed, in their order."""
        return self.hydrate, self.source, self.filter, self.score, self.select

    async def rank(self, request: Request) -> None:
        """Those stages without deadlines: for a request that nobody waits for."""
        for stage in self.ranking:
            await stage(request)


Observe = Callable[[str, float], None]
"""Takes a stage's name and its seconds."""
OnError = Callable[[Request, str, Exception], None]


async def execute_stages(
    pipeline: Pipeline,
    request: Request,
    *,
    deadlines_s: Mapping[str, float],
    observe: Observe,
    on_error: OnError,
    clock: Callable[[], float] = time.perf_counter,
) -> Request:
    """Run the stages in order, each timed, each with a deadline.

    A stage must end by the start plus the deadlines up to its own, so time that an earlier one
    left over is its own to use. The first that misses ends the ranking; the fallback takes over.

    Parameters
    ----------
    deadlines_s
        Seconds of each stage before ``log``, by name.
    observe
        Called after each stage, the fallback and the log included.
    on_error
        Called with an exception that a stage had no name for: a bug, which costs this feed its
        ranking and not its answer.

    Returns
    -------
    Request
        The same one, with ``timings_ms`` of each stage; they add up to the whole without a gap.
    """
    due = mark = clock()

    def took(stage: Stage) -> None:
        nonlocal mark
        now = clock()
        request.timings_ms[stage.name] = 1000 * (now - mark)
        observe(stage.name, now - mark)
        mark = now

    for stage in pipeline.ranking:
        due += deadlines_s[stage.name]
        try:
            missed = await run_with_deadline(
                partial(stage, request), due=due, breaker=stage.breaker, clock=clock
            )
        except Exception as error:
            on_error(request, stage.name, error)
            missed = Missed.ERROR
        took(stage)
        if missed is not None:
            request.missed = stage.name, missed
            await pipeline.fallback(request)
            took(pipeline.fallback)
            break
    await pipeline.log(request)
    took(pipeline.log)
    return request
