"""The highest rate within an SLO, as in MLPerf's Server scenario: bisect, then confirm.

A trial is short and stops as soon as its outcome is decided, so that a rate far off the mark costs
a fraction of a second. The rate that the trials found is then measured anew, long and with other
arrivals, since the best of several noisy trials has luck in it; only that run is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.errors import require
from common.exercises import exercise
from labs.lab4_model_serving.arrivals import poisson_schedule
from labs.lab4_model_serving.early_stopping import EarlyStop, Slo
from labs.lab4_model_serving.percentiles import (
    minimum_samples,
    share_over_interval,
)

if TYPE_CHECKING:
    from labs.lab4_model_serving.load_result import LoadResult

Measure = Callable[[float, int], "LoadResult"]
"""``measure(rate, attempt)``: an open-loop run; another ``attempt`` has other arrivals."""


@dataclass(frozen=True)
class Trial:
    """One measured rate (requests/s, the *offered* one), and whether it kept the SLO."""

    rate: float
    result: LoadResult
    held: bool


@dataclass(frozen=True)
class FoundRate:
    """The highest offered rate that kept the SLO, measured anew.

    ``confirmed`` is None when no rate held twice. ``at_limit`` says that the highest rate asked
    for held too, so that the server may do more. ``trials`` and ``confirmations`` are all that was
    measured, in this order.
    """

    confirmed: Trial | None
    at_limit: bool
    trials: tuple[Trial, ...]
    confirmations: tuple[Trial, ...]

    @property
    def rate(self) -> float:
        """Offered requests/s; 0 when no rate was confirmed."""
        return self.confirmed.rate if self.confirmed else 0.0

    @property
    def lowest_missed(self) -> float | None:
        """The lowest rate that missed the SLO: the highest is between ``rate`` and this."""
        missed = [trial.rate for trial in (*self.trials, *self.confirmations) if not trial.held]
        return min(missed, default=None)


@exercise(
    "4.19",
    points=10,
    title="The highest rate within an SLO",
    hint="A rate holds when the tail and the failures do, at the rate that was offered. What was "
    "found by trying many rates has to be measured again before it is a result.",
)
def search_rate(
    measure: Measure,
    confirm: Measure,
    slo: Slo,
    *,
    low: float,
    high: float,
    precision: float = 0.05,
    confirmations: int = 4,
) -> FoundRate:
    """Bisect for the highest rate that keeps the SLO, then confirm it.

    A run holds when its p99 (``result.summary.p99_ms``, failures at the timeout) is below
    ``slo.p99_ms`` *and* its ``failed_share`` is at most ``slo.failed_share``.

    1. ``low`` is measured; if it does not hold, nothing is found. Then ``high``; if it holds,
       it is the candidate, and ``at_limit``.
    2. Otherwise bisect: measure the geometric mean of the highest rate that held and the lowest
       that did not, until their ratio is at most ``1 + precision``. The candidate is the former.
    3. ``confirm`` the candidate. If it does not hold, confirm ``candidate / (1 + precision)``, and
       so on: at most ``confirmations`` runs, and none below ``low``.

    Parameters
    ----------
    measure, confirm
        The short and the long run. The attempt that both are given is the number of runs so far
        (of either kind), so that no two runs have the same arrivals.
    low, high
        Bounds of the search (requests/s), 0 < low < high.

    Returns
    -------
    FoundRate
        The rate of a :class:`Trial` is the one that was *offered*: what an overloaded server
        answers per second says nothing about what it can promise.

    Notes
    -----
    MLPerf Inference rules, Server scenario: the metric is the Poisson parameter. It assumes that
    the p99 grows with the rate, which batching can break at low rates.
    """
    _check(low, high, precision, confirmations)
    trials: list[Trial] = []
    confirmed: list[Trial] = []

    # BEGIN SOLUTION
    def judged(run: Measure, rate: float) -> Trial:
        result = run(rate, len(trials) + len(confirmed))
        held = result.summary.p99_ms < slo.p99_ms and result.failed_share <= slo.failed_share
        return Trial(rate, result, held)

    trials.append(judged(measure, low))
    if not trials[-1].held:
        return FoundRate(None, False, tuple(trials), ())
    trials.append(judged(measure, high))
    holds, misses = (high, high) if trials[-1].held else (low, high)
    while misses / holds > 1 + precision:
        middle = float(np.sqrt(holds * misses))
        trials.append(judged(measure, middle))
        if trials[-1].held:
            holds = middle
        else:
            misses = middle
    rate = holds
    while len(confirmed) < confirmations and rate >= low:
        confirmed.append(judged(confirm, rate))
        if confirmed[-1].held:
            break
        rate /= 1 + precision
    # END SOLUTION
    best = confirmed[-1] if confirmed and confirmed[-1].held else None
    return FoundRate(best, best is not None and best.rate == high, tuple(trials), tuple(confirmed))


def pooled(first: LoadResult, second: LoadResult) -> LoadResult:
    """Two runs at one rate as one, without a schedule."""
    return replace(
        first,
        latencies=np.concatenate([first.latencies, second.latencies]),
        lag=np.concatenate([first.lag, second.lag]),
        duration=first.duration + second.duration,
        offered_rate=(first.offered_rate + second.offered_rate) / 2,
        how=f"{first.how}, two runs",
        errors=dict(Counter(first.errors) + Counter(second.errors)),
        schedule=None,
    )


def is_borderline(result: LoadResult, slo: Slo) -> bool:
    """Whether the 95 % interval of the share of late requests includes 1 %: chance decides."""
    over = int(np.count_nonzero(result.latencies >= slo.p99_ms / 1000))
    low, high = share_over_interval(over, result.n)
    return low <= 0.01 <= high


def find_rate(
    url: str,
    bodies: Sequence[bytes],
    slo: Slo,
    *,
    low: float,
    high: float,
    headers: Mapping[str, str] | None = None,
    trial_s: float = 5.0,
    confirm_s: float = 60.0,
    warmup_s: float = 1.0,
    precision: float = 0.05,
    confirmations: int = 4,
    seed: int = 0,
    max_in_flight: int = 512,
    timeout: float = 5.0,
    progress: Callable[[float, LoadResult], None] | None = None,
) -> FoundRate:
    """:func:`search_rate` against a server, with Poisson arrivals and trials that stop early.

    Parameters
    ----------
    trial_s, confirm_s
        Seconds of a trial and of a confirming run, more where the rate is so low that the p99 needs
        them. A borderline trial is done twice and judged on both; the second run is never cut, so
        that both weigh the same. A confirming run that holds is never cut either.
    warmup_s
        Sent before each and not counted.
    progress
        Called with rate and result of every run.
    """
    from labs.lab4_model_serving.closed_loop import load_http_closed
    from labs.lab4_model_serving.load_generator import load_http

    needed = minimum_samples(0.99)

    def run(
        rate: float, attempt: int, seconds: float, *, may_hold: bool = False, whole: bool = False
    ) -> LoadResult:
        length = warmup_s + max(seconds, 1.1 * needed / rate)
        run_seed = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
        schedule = poisson_schedule(rate, length, run_seed)
        planned = len(schedule) - int(np.searchsorted(schedule, warmup_s))
        stop = EarlyStop(slo, planned, length - warmup_s, may_hold=may_hold)
        result = load_http(
            url,
            bodies,
            schedule,
            headers=headers,
            max_in_flight=max_in_flight,
            timeout=timeout,
            warmup=warmup_s,
            stop=None if whole else stop,
        )
        if progress:
            progress(rate, result)
        # What the last run left in the server's queue must not be charged to the next one.
        for _ in range(20):
            rest = load_http_closed(url, bodies, 10, clients=1, headers=headers, timeout=timeout)
            if rest.latencies.max() < slo.p99_ms / 1000:
                break
        return result

    def trial(rate: float, attempt: int) -> LoadResult:
        result = run(rate, 2 * attempt, trial_s, may_hold=True)
        if not result.stopped and is_borderline(result, slo):
            result = pooled(result, run(rate, 2 * attempt + 1, trial_s, whole=True))
        return result

    def confirm(rate: float, attempt: int) -> LoadResult:
        return run(rate, 2 * attempt, confirm_s)

    return search_rate(
        trial, confirm, slo, low=low, high=high, precision=precision, confirmations=confirmations
    )


@dataclass(frozen=True)
class RateSearch:
    """The highest offered rate that met the limit, and everything that was tried.

    ``best`` is None when even the lowest rate missed it. ``at_limit`` says that the highest rate
    met it too, so that the server may do more.
    """

    best: LoadResult | None
    at_limit: bool
    tried: tuple[tuple[float, LoadResult], ...]

    @property
    def qps(self) -> float:
        """Answered requests per second at the best rate; 0 without one."""
        return self.best.achieved_rate if self.best else 0.0


def max_rate(
    measure: Callable[[float], LoadResult],
    low: float,
    high: float,
    *,
    p99_limit_ms: float,
    tries: int = 6,
) -> RateSearch:
    """Binary search for the highest rate whose p99 stays below a limit, without confirming it.

    :func:`search_rate` is the search to report; this one is for a caller that measures anew itself.

    Parameters
    ----------
    measure
        Rate (requests/s) to the result of an open-loop run at that rate. For a p99 at 99 %
        confidence a run needs at least 662 requests.
    low, high
        Bounds of the search (requests/s), both measured; the steps between are geometric.
    p99_limit_ms
        A rate passes when its p99, with failures counted at the timeout, is below this.
    tries
        Measurements between the bounds.

    Notes
    -----
    As in MLPerf's Server scenario. It assumes that p99 grows with the rate, which batching can
    break at low rates; a noisy machine can fail a rate that a second try would pass.
    """
    require(0 < low < high, "low, high", (low, high), "must satisfy 0 < low < high")
    require(tries >= 0, "tries", tries, "must be >= 0")
    tried: list[tuple[float, LoadResult]] = []

    def passes(rate: float) -> bool:
        tried.append((rate, measure(rate)))
        return tried[-1][1].summary.p99_ms < p99_limit_ms

    if not passes(low):
        return RateSearch(None, False, tuple(tried))
    best = tried[-1][1]
    if passes(high):
        return RateSearch(tried[-1][1], True, tuple(tried))
    for _ in range(tries):
        middle = float(np.sqrt(low * high))
        if passes(middle):
            low, best = middle, tried[-1][1]
        else:
            high = middle
    return RateSearch(best, False, tuple(tried))


def _check(low: float, high: float, precision: float, confirmations: int) -> None:
    require(0 < low < high, "low, high", (low, high), "must satisfy 0 < low < high")
    require(precision > 0, "precision", precision, "must be > 0", "try 0.05")
    require(confirmations >= 1, "confirmations", confirmations, "must be >= 1")
