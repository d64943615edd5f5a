"""One answer is awaited before the next request is sent: a closed loop with one client."""

import asyncio
from collections import Counter

import numpy as np


async def run_open_loop(send, schedule, *, max_in_flight=512, timeout=5.0):
    _check_schedule(schedule)
    n = len(schedule)
    latencies = np.full(n, np.inf)
    lag = np.zeros(n)
    errors = Counter()
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(max_in_flight)
    start = loop.time() + 0.01

    for i, offset in enumerate(schedule):
        wait = start + float(offset) - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        sent = loop.time()
        try:
            async with asyncio.timeout(timeout), slots:
                await send(i)
        except Exception as error:
            errors[type(error).__name__] += 1
        else:
            latencies[i] = loop.time() - sent
    return LoadResult(
        latencies=latencies,
        lag=lag,
        duration=loop.time() - start,
        offered_rate=n / max(float(schedule[-1]), 1e-9),
        timeout=timeout,
        how="open loop, from the scheduled time",
        errors=dict(errors),
    )
