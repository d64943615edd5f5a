"""What a run measured, and when its numbers speak of the load generator and not of the server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.latency import LatencySummary
from labs.lab4_model_serving.http_client import HttpFailure
from labs.lab4_model_serving.percentiles import (
    PercentileInterval,
    percentile_interval,
    quantile,
    too_few,
)

Send = Callable[[int], Awaitable[object]]
"""Sends request ``i`` and returns when it is answered; raises when it failed."""

LAG_FLOOR_S = 0.003
"""Timers of an event loop tick in milliseconds: less than this is no sign of trouble."""
LAG_SHARE = 0.2
"""Of the latency's p99: above it the generator is a part of what was measured."""
BUSY_SHARE = 0.9
"""Of the run: a loop that is busier than this has a queue of its own."""


@dataclass(frozen=True)
class LoadResult:
    """What one run measured.

    ``latencies`` [n] are seconds, ``inf`` for a request that failed: a failure stays in the count,
    and ``errors`` has how many failed of each kind. ``lag`` [n] is how late (s) the generator
    itself came to each request. ``schedule`` [n] are the times (s) at which they were due, where
    there was a schedule. ``most_in_flight`` is how many requests were under way at once, of
    ``max_in_flight`` at most (0 where that was not watched). ``stopped`` says why a run ended
    before its schedule did. ``busy`` is the share of the run in which the generator had something
    to do: it ran, or waited for a core.
    """

    latencies: NDArray[np.float64]
    lag: NDArray[np.float64]
    duration: float
    offered_rate: float
    timeout: float
    how: str
    errors: dict[str, int] = field(default_factory=dict)
    schedule: NDArray[np.float64] | None = None
    max_in_flight: int | None = None
    most_in_flight: int = 0
    stopped: str = ""
    busy: float = 0.0

    @property
    def n(self) -> int:
        return len(self.latencies)

    @property
    def failed(self) -> int:
        return int(np.isinf(self.latencies).sum())

    @property
    def failed_share(self) -> float:
        return self.failed / self.n

    @property
    def achieved_rate(self) -> float:
        """Answered requests per second of the run."""
        return (self.n - self.failed) / self.duration

    @property
    def counted(self) -> NDArray[np.float64]:
        """Latencies [n] (s) with a failed request at ``timeout``."""
        return np.where(np.isinf(self.latencies), self.timeout, self.latencies)

    @property
    def summary(self) -> LatencySummary:
        """Percentiles over all requests; a failed one counts as ``timeout`` seconds."""
        how = self.how
        if self.failed:
            how += f"; {self.failed} of {self.n} failed, counted at the {self.timeout:g} s timeout"
        return LatencySummary.of(self.counted, how=how)

    def p99_interval(self, confidence: float = 0.95) -> PercentileInterval:
        """The p99 (s) with its distribution-free interval; a failed request is infinite."""
        return percentile_interval(self.latencies, 0.99, confidence)

    @property
    def lag_p99(self) -> float:
        """Seconds."""
        return quantile(self.lag, 0.99)

    @property
    def limited_by_generator(self) -> bool:
        """Whether its lag is a notable part of the p99, or it had hardly a moment's rest."""
        lags = self.lag_p99 > max(LAG_FLOOR_S, LAG_SHARE * quantile(self.counted, 0.99))
        return lags or self.busy > BUSY_SHARE

    def caveats(self) -> tuple[str, ...]:
        """What a reader of the p99 must know; empty when nothing stands against it."""
        found = []
        if not self.stopped and (few := too_few(self.n)):
            found.append(few)
        if self.limited_by_generator:
            found.append(
                f"the generator is a part of this p99: it came {1000 * self.lag_p99:.1f} ms late "
                f"(p99) to its own requests and was busy for {100 * self.busy:.0f} % of the run; "
                "lower the rate, or give it a core of its own"
            )
        if self.max_in_flight is not None and self.most_in_flight >= self.max_in_flight:
            found.append(
                f"max_in_flight = {self.max_in_flight} requests were under way at once: more "
                "waited in the generator, where the server could not refuse them; raise it"
            )
        if self.stopped:
            found.append(f"stopped early: {self.stopped}")
        return tuple(found)


def busy_seconds() -> float:
    """Seconds in which this thread ran or waited for a core (where Linux tells; else: ran)."""
    try:
        ran, waited = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9


def kind(error: BaseException) -> str:
    """Under which name a failure is counted: ``HTTP 503``, ``TimeoutError``, ..."""
    return str(error) if isinstance(error, HttpFailure) else type(error).__name__
