"""Asks the breaker before it looks at the time, so a late request takes the probe with it."""

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
    if not breaker.allows(now):
        return Missed.OPEN
    if now >= due:
        return Missed.LATE
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
