"""The clock starts when a slot is free: the wait for it is hidden (coordinated omission)."""

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

    async def one(i):
        async with slots:
            sent = loop.time()
            try:
                async with asyncio.timeout(timeout):
                    await send(i)
            except Exception as error:
                errors[type(error).__name__] += 1
            else:
                latencies[i] = loop.time() - sent

    tasks = []
    for i, offset in enumerate(schedule):
        wait = start + float(offset) - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(i)))
    await asyncio.gather(*tasks)
    return LoadResult(
        latencies=latencies,
        lag=lag,
        duration=loop.time() - start,
        offered_rate=n / max(float(schedule[-1]), 1e-9),
        timeout=timeout,
        how="open loop, from the scheduled time",
        errors=dict(errors),
    )
