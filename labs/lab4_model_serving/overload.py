"""What a server does with more than it can: refuse quickly, serve the rest in time, and recover.

Past its capacity a server has three ways out. A long queue makes everybody late and stays long when
the overload is over (a "metastable" failure when clients retry); a short queue with a 503 keeps
those who are let in within the SLO; no queue at all refuses what a moment later had been possible.
The experiment is one schedule: normal load, some seconds of a multiple of the capacity, and normal
load again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab4_model_serving.arrivals import phased_schedule
from labs.lab4_model_serving.percentiles import quantile

if TYPE_CHECKING:
    from labs.lab4_model_serving.load_result import LoadResult

BIN_S = 0.1


@dataclass(frozen=True)
class Answers:
    """What came of each request of a run: arrays [n] in the order of the schedule.

    ``due`` (s) ascends; ``latency`` (s) is inf where there was no 200; ``status`` is 0 where there
    was no answer; ``answered`` (s) is when any answer was complete, inf without one;
    ``retry_after`` says whether the answer had a valid ``Retry-After``.
    """

    due: NDArray[np.float64]
    latency: NDArray[np.float64]
    status: NDArray[np.int64]
    answered: NDArray[np.float64]
    retry_after: NDArray[np.bool_]


@dataclass(frozen=True)
class Timeline:
    """Counts and p99 in bins of ``BIN_S`` seconds: arrays [bins].

    ``offered`` counts by the time when requests were due, ``answered`` (200) and ``refused`` (503)
    by when the answer came, ``p99_ms`` is over the accepted requests due in the bin (NaN: none).
    """

    start: NDArray[np.float64]
    offered: NDArray[np.int64]
    answered: NDArray[np.int64]
    refused: NDArray[np.int64]
    p99_ms: NDArray[np.float64]


@dataclass(frozen=True)
class Overload:
    """What one overload did.

    Shares are of the requests that were due during the overload. ``accepted_p99_ms`` is over those
    of them that got a 200. ``lost_share`` got no answer at all, or one that is neither 200 nor 503:
    a server that sheds load properly has none. ``retry_after_share`` is of the 503 (NaN: none).
    ``recovery_s`` is from the end of the overload until the p99 of normal traffic is within the
    SLO again; inf when that did not happen while it was watched, for ``watched_s`` (s, from the end
    of the overload to the last request) in windows of ``hold_s`` (s). It is therefore at most
    ``largest_recovery_s``; inf means more than that.
    """

    offered_rate: float
    goodput: float
    accepted_p99_ms: float
    refused_share: float
    lost_share: float
    retry_after_share: float
    before_p99_ms: float
    recovery_s: float
    slo_ms: float
    overload_begin: float
    overload_end: float
    timeline: Timeline
    generator: LoadResult
    watched_s: float = nan
    hold_s: float = 1.0

    @property
    def largest_recovery_s(self) -> float:
        """The largest ``recovery_s`` (s) that this run could have shown."""
        return max(self.watched_s - self.hold_s, 0.0)


def measure_overload(
    url: str,
    bodies: Sequence[bytes],
    *,
    capacity: float,
    multiple: float = 3.0,
    normal: float = 0.5,
    before_s: float = 2.0,
    overload_s: float = 4.0,
    after_s: float = 6.0,
    slo_ms: float = 50.0,
    hold_s: float = 1.0,
    headers: Mapping[str, str] | None = None,
    max_in_flight: int = 512,
    timeout: float = 5.0,
    warmup_s: float = 1.0,
    seed: int = 0,
) -> Overload:
    """Offer ``multiple`` times the capacity for some seconds between two stretches of normal load.

    Parameters
    ----------
    capacity
        Requests/s that the server can do (:func:`~labs.lab4_model_serving.rate_search.find_rate`).
    normal
        Normal load as a share of the capacity.
    hold_s
        The SLO must hold over so long a stretch to count as kept again.
    max_in_flight
        More than the server's queue holds, or the generator would wait where the server should
        refuse.
    warmup_s
        Of normal load before everything, not counted.

    Raises
    ------
    InputError
        A rate or time out of range.
    """
    from labs.lab4_model_serving.load_generator import load_http

    require(capacity > 0, "capacity", capacity, "must be > 0")
    require(multiple > 1, "multiple", multiple, "must be > 1 to be an overload")
    require(0 < normal < 1, "normal", normal, "must be between 0 and 1")
    require(hold_s <= after_s, "hold_s", hold_s, f"must be at most after_s = {after_s:g}")
    phases = [
        (normal * capacity, warmup_s + before_s),
        (multiple * capacity, overload_s),
        (normal * capacity, after_s),
    ]
    schedule = phased_schedule(phases, seed)
    n = len(schedule)
    status = np.zeros(n, np.int64)
    retry_after = np.zeros(n, np.bool_)
    answered = np.full(n, inf)

    def on_answer(i: int, code: int, answer_headers: dict[str, str], body: bytes) -> None:
        status[i] = code
        answered[i] = time.perf_counter()
        if code == 503:
            retry_after[i] = valid_retry_after(answer_headers.get("retry-after"))

    result = load_http(
        url,
        bodies,
        schedule,
        headers=headers,
        max_in_flight=max_in_flight,
        timeout=timeout,
        on_answer=on_answer,
    )
    # The answers' clock against the schedule's: from requests whose latency is known.
    ok = np.isfinite(result.latencies)
    since = answered - schedule
    known = (since - result.latencies)[ok] if ok.any() else since[np.isfinite(since)]
    answered = answered - (float(np.median(known)) if len(known) else 0.0)
    kept = slice(int(np.searchsorted(schedule, warmup_s)), None)
    answers = Answers(
        schedule[kept] - warmup_s,
        result.latencies[kept],
        status[kept],
        answered[kept] - warmup_s,
        retry_after[kept],
    )
    return analyse(
        answers,
        begin=before_s,
        end=before_s + overload_s,
        slo_ms=slo_ms,
        hold_s=hold_s,
        generator=result,
    )


def analyse(
    answers: Answers,
    *,
    begin: float,
    end: float,
    slo_ms: float,
    hold_s: float,
    generator: LoadResult,
) -> Overload:
    """The numbers of an overload between ``begin`` and ``end`` (s)."""
    slo = slo_ms / 1000
    due, latency, status = answers.due, answers.latency, answers.status
    during = (due >= begin) & (due < end)
    require(bool(during.any()), "requests during the overload", 0, "must be at least 1")
    accepted = during & np.isfinite(latency)
    refused = during & (status == 503)
    before = latency[due < begin]
    n = int(during.sum())
    return Overload(
        offered_rate=n / (end - begin),
        goodput=float(np.count_nonzero(latency[during] < slo) / (end - begin)),
        accepted_p99_ms=1000 * quantile(latency[accepted], 0.99) if accepted.any() else nan,
        refused_share=int(refused.sum()) / n,
        lost_share=int((during & ~accepted & ~refused).sum()) / n,
        retry_after_share=float(answers.retry_after[refused].mean()) if refused.any() else nan,
        before_p99_ms=1000 * quantile(before, 0.99) if len(before) else nan,
        recovery_s=recovery_seconds(due, latency >= slo, end=end, hold_s=hold_s),
        slo_ms=slo_ms,
        overload_begin=begin,
        overload_end=end,
        timeline=timeline(answers),
        generator=generator,
        watched_s=float(due[-1]) - end,
        hold_s=hold_s,
    )


def recovery_seconds(
    due: NDArray[np.float64], late: NDArray[np.bool_], *, end: float, hold_s: float
) -> float:
    """Seconds after ``end`` from which at most 1 % of the requests of ``hold_s`` s are late.

    Looked at every ``BIN_S``; inf when there is no such stretch before the last request, so that
    the largest value is ``due[-1] - end - hold_s``. The window is short on purpose: over the whole
    rest of the run the first bad moments would drown.
    """
    tries = int((float(due[-1]) - end - hold_s) / BIN_S + 1e-9) + 1
    for k in range(max(tries, 0)):
        window = slice(*np.searchsorted(due, [end + k * BIN_S, end + k * BIN_S + hold_s]))
        if len(late[window]) and late[window].mean() <= 0.01:
            return k * BIN_S
    return inf


def timeline(answers: Answers) -> Timeline:
    """Counts and p99 in bins of ``BIN_S``, until the last answer."""
    came = np.isfinite(answers.answered)
    last = max(float(answers.due[-1]), float(answers.answered[came].max(initial=0.0)))
    bins = int(last / BIN_S) + 1

    def count(times: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.bincount((np.maximum(times, 0) / BIN_S).astype(np.int64), minlength=bins)

    accepted = np.isfinite(answers.latency)
    which = (answers.due / BIN_S).astype(np.int64)
    p99 = np.full(bins, nan)
    for k in np.unique(which[accepted]):
        p99[k] = 1000 * quantile(answers.latency[accepted & (which == k)], 0.99)
    return Timeline(
        start=np.arange(bins, dtype=np.float64) * BIN_S,
        offered=count(answers.due),
        answered=count(answers.answered[came & accepted]),
        refused=count(answers.answered[came & (answers.status == 503)]),
        p99_ms=p99,
    )


def valid_retry_after(value: str | None) -> bool:
    """Whether ``Retry-After`` has seconds >= 0 or an HTTP date (RFC 9110, section 10.2.3)."""
    if value is None:
        return False
    if value.strip().isdigit():
        return True
    try:
        parsedate_to_datetime(value)
    except ValueError:
        return False
    return True
