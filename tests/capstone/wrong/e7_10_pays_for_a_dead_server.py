"""The breaker is told of failures and never asked: each request waits out a dead server."""

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
