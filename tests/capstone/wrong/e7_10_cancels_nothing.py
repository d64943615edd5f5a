"""asyncio.wait with a timeout stops waiting and leaves the work running: nothing is cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def run_with_deadline(
    work: Callable[[], Awaitable[None]],
    *,
    due: float,
    breaker: CircuitBreaker,
    clock: Callable[[], float] = time.perf_counter,
) -> Missed | None:
    now = clock()
    if now >= due:
        return Missed.LATE
    if not breaker.allows(now):
        return Missed.OPEN
    task = asyncio.ensure_future(work())
    try:
        done, _ = await asyncio.wait([task], timeout=due - now)
        if not done:
            breaker.failed(clock())
            return Missed.DEADLINE
        task.result()
    except DependencyDown:
        breaker.failed(clock())
        return Missed.DOWN
    except BaseException:
        breaker.abandoned()
        raise
    breaker.succeeded()
    return None
