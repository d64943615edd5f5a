"""Catches everything, so a request whose client has gone is taken for a failed dependency."""

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
    try:
        async with asyncio.timeout(due - now):
            await work()
    except TimeoutError:
        breaker.failed(clock())
        return Missed.DEADLINE
    except BaseException:
        breaker.failed(clock())
        return Missed.DOWN
    breaker.succeeded()
    return None
