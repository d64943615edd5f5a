"""Ending a run as soon as its outcome is decided, so that a rate far too high costs a moment."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labs.lab4_model_serving.http_client import HttpClient
from labs.lab4_model_serving.load_result import LoadResult, kind

StopTest = Callable[[NDArray[np.float64], NDArray[np.float64], float], str | None]
"""``stop(due, latencies, now)``: why the run is decided, or None to go on.

``due`` [k] are the times (s) of the requests that were due so far, ``latencies`` [k] (s) theirs:
one still without an answer has the time it has waited. ``now`` is on the same clock as ``due``.
"""

STOP_TEST_S = 0.05
SETTLE_S = 0.25


@dataclass(frozen=True)
class Slo:
    """What is promised: p99 below ``p99_ms``, and at most a share of requests fails."""

    p99_ms: float = 50.0
    failed_share: float = 0.0


@dataclass(frozen=True)
class EarlyStop:
    """Whether a trial is decided before its schedule is over (``stop`` of ``load_http``).

    It *misses* the SLO for certain as soon as more requests are late or failed than its schedule
    allows: a p99 of n requests is ``sorted[int(0.99 n)]``, so that n - 1 - int(0.99 n) of them may
    be over the limit. Nothing is assumed, and the verdict is the one that the full run would give.

    It *holds* once ``minimum_s`` are over and the exact binomial test says at ``confidence`` that
    fewer than 1 % are late (:func:`~labs.lab4_model_serving.percentiles.minimum_samples`). It is
    asked every ``STOP_TEST_S``, and the error is shared out among all these tests (Bonferroni).
    That one assumes independent requests, and late ones come in runs: hence the minimum, and a
    full run to confirm.

    Attributes
    ----------
    planned
        Requests of the schedule, without the warm-up.
    seconds
        Length of the schedule.
    may_hold
        False for a run to confirm: it ends early only when it fails.
    """

    slo: Slo
    planned: int
    seconds: float
    minimum_s: float = 2.0
    confidence: float = 0.99
    may_hold: bool = True

    def __post_init__(self) -> None:
        # Its first import takes long enough to stall the load generator: now, not during the run.
        _binomial_cdf(0, 1, 0.5)

    @property
    def allowed(self) -> int:
        """Requests over the limit with which the p99 is still below it."""
        return self.planned - 1 - int(0.99 * self.planned)

    @property
    def tests(self) -> int:
        """How often the binomial test may be asked in a run."""
        return 1 + max(0, math.ceil((self.seconds - self.minimum_s) / STOP_TEST_S))

    def __call__(
        self, due: NDArray[np.float64], latencies: NDArray[np.float64], now: float
    ) -> str | None:
        limit = self.slo.p99_ms / 1000
        over = int(np.count_nonzero(latencies >= limit))
        failed = int(np.count_nonzero(np.isinf(latencies)))
        if over > self.allowed:
            return f"missed: {over} of at most {self.allowed} late requests after {now:.1f} s"
        if failed > self.slo.failed_share * self.planned:
            return f"missed: {failed} requests failed within {now:.1f} s"
        if not self.may_hold or now < due[0] + self.minimum_s:
            return None
        decided = int(np.searchsorted(due, now - limit))
        alpha = (1 - self.confidence) / self.tests
        if (
            failed <= self.slo.failed_share * decided
            and _binomial_cdf(over, decided, 0.01) <= alpha
        ):
            return f"held: {over} of {decided} requests late after {now:.1f} s"
        return None


class WatchedRun:
    """A run that may end before its schedule does: what is known of it while it goes on."""

    def __init__(self, client: HttpClient, schedule: NDArray[np.float64], first: int) -> None:
        self.client = client
        self.schedule = schedule
        self.first = first
        self.sent_at = np.full(len(schedule), np.nan)
        self.zero: float | None = None

    def send(self, i: int) -> asyncio.Future[int]:
        self.sent_at[i] = now = time.perf_counter()
        # The least late request tells when the schedule began.
        zero = now - float(self.schedule[i])
        self.zero = zero if self.zero is None else min(self.zero, zero)
        return self.client.send(i)

    async def until(
        self, running: asyncio.Future[LoadResult], stop: StopTest
    ) -> tuple[str, int] | None:
        """The reason to stop, and how many requests were due then; None at the run's own end."""
        while not (await asyncio.wait({running}, timeout=STOP_TEST_S))[0]:
            if self.zero is None:
                continue
            now = time.perf_counter() - self.zero
            came = int(np.searchsorted(self.schedule, now))
            if came > self.first and (reason := stop(*self._so_far(came, now), now)):
                # The load goes on while those that were due get their answers.
                while not running.done() and time.perf_counter() - self.zero < now + SETTLE_S:
                    if not np.isnan(self.client.answered_at[:came]).any():
                        break
                    await asyncio.sleep(0.01)
                # Before the cancelling, which fails whatever is still under way.
                self.answered_at = self.client.answered_at[:came].copy()
                self.failures = dict(self.client.failures)
                running.cancel()
                await asyncio.wait({running})
                return reason, came
        return None

    def cut(self, decided: tuple[str, int], max_in_flight: int, timeout: float) -> LoadResult:
        """The result of the requests that were due when it was decided."""
        reason, came = decided
        assert self.zero is not None
        kept = slice(self.first, came)
        due = self.zero + self.schedule[kept]
        latencies = np.maximum(self.answered_at[kept] - due, 0)
        unanswered = np.isnan(latencies)
        latencies[unanswered | (latencies > timeout)] = np.inf
        failures = self.failures
        errors = Counter(kind(failures[i]) for i in failures if self.first <= i < came)
        errors["Unanswered"] = int(np.isinf(latencies).sum()) - errors.total()
        begin = float(self.schedule[self.first])
        seconds = max(float(self.schedule[came - 1]) - begin, 1e-9)
        result = LoadResult(
            latencies=latencies,
            lag=np.zeros(came - self.first),
            duration=seconds,
            offered_rate=(came - self.first) / seconds,
            timeout=timeout,
            how="open loop, from the scheduled time, until it was decided",
            errors=dict(+errors),
            schedule=self.schedule[kept] - begin,
            max_in_flight=max_in_flight,
            stopped=reason,
        )
        if self.client.most_under_way >= max_in_flight:
            return result  # the wait for a slot cannot be told from a lag
        return replace(result, lag=np.nan_to_num(np.maximum(self.sent_at[kept] - due, 0)))

    def _so_far(self, came: int, now: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        assert self.zero is not None
        due = self.schedule[self.first : came]
        latencies = self.client.answered_at[self.first : came] - self.zero - due
        return due, np.where(np.isnan(latencies), now - due, latencies)


def _binomial_cdf(k: int, n: int, p: float) -> float:
    from scipy.special import bdtr

    return float(bdtr(k, n, p))
