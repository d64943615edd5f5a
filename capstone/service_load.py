"""Load on the live service, and where the time went: lab 4's generator, stages, CPU by process.

Latency depends on who else has the machine. CPU seconds a feed do not, so they say what a change
to the code was worth, and how many feeds a core can give at most.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time

import numpy as np

from capstone.serving import Service
from common.errors import RunError
from labs.lab4_model_serving.load_generator import load_http, poisson_schedule
from labs.lab4_model_serving.load_result import LoadResult
from labs.lab4_model_serving.rate_search import RateSearch, max_rate

SUM = re.compile(r'^feed_(stage_)?seconds_sum(?:\{stage="(\w+)"\})? ([0-9.e+-]+)$', re.MULTILINE)
COUNT = re.compile(r"^feed_seconds_count ([0-9.e+]+)$", re.MULTILINE)
WARMUP_S = 2.0


@dataclass(frozen=True)
class ServiceLoad:
    """One run of feeds in an open loop.

    Attributes
    ----------
    result
        Latencies from the scheduled time (lab 4).
    ranked
        The same with every fallback feed counted as a failure, so at the timeout: a service that
        falls back is fast, and its p99 must not gain by it.
    statuses
        Number of answers of each status; 0 stands for no answer in time.
    fallbacks
        Answers 200 that were fallback feeds.
    stage_ms
        Mean milliseconds of each stage, from the service's own metrics.
    stage_sum_ratio
        Sum of the stages over the whole of the requests, both as the service measured them.
    cpu_ms
        Milliseconds of CPU a feed by process: ``gateway``, ``torchserve`` (the Java frontend),
        ``worker`` (the models), ``generator``.
    """

    result: LoadResult
    ranked: LoadResult
    statuses: Mapping[int, int]
    fallbacks: int
    stage_ms: Mapping[str, float]
    stage_sum_ratio: float
    cpu_ms: Mapping[str, float]

    @property
    def offered(self) -> str:
        """The rate in words: means and CPU times say nothing without it."""
        return f"{self.result.offered_rate:.0f} feeds/s offered"

    @property
    def p99_ms(self) -> float:
        """With fallback feeds counted at the timeout."""
        return self.ranked.summary.p99_ms

    @property
    def server_errors(self) -> int:
        """Answers 5xx, and requests without an answer."""
        return sum(n for status, n in self.statuses.items() if status >= 500 or status == 0)

    @property
    def fallback_share(self) -> float:
        return self.fallbacks / max(self.result.n, 1)

    def holds(self, p99_limit_ms: float) -> bool:
        """Whether all were answered, and in time."""
        return self.p99_ms < p99_limit_ms and self.server_errors == 0


@dataclass(frozen=True)
class ServiceStudy:
    """What a service gave: at the rate that was asked for, and at most.

    ``tries`` is how many measurements below the best rate of the search the confirmation took.
    """

    asked: ServiceLoad
    asked_rate: float
    search: RateSearch
    confirmed: ServiceLoad
    """At the first of 0.9, 0.75 and 0.5 of the best rate of the search that held, with other
    arrivals; the last of them if none did."""
    tries: int


class _Tally:
    """Statuses and fallbacks of the answers, by request."""

    def __init__(self, n: int) -> None:
        self.status = np.zeros(n, dtype=np.int64)
        self.fallback = np.zeros(n, dtype=bool)

    def take(self, i: int, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status[i] = status
        self.fallback[i] = status == 200 and b'"fallback":null' not in body


def feed_bodies(users: Sequence[int], k: int, *, seed: int, n: int = 4096) -> list[bytes]:
    """Bodies for ``POST /feed`` of users drawn at random, with repetition."""
    drawn = np.random.default_rng(seed).choice(np.asarray(users), n)
    return [json.dumps({"user_id": int(user), "k": k}).encode() for user in drawn]


def measure(
    service: Service,
    users: Sequence[int],
    *,
    rate: float,
    seconds: float,
    k: int = 20,
    seed: int = 0,
    warmup: float = WARMUP_S,
    timeout: float = 2.0,
) -> ServiceLoad:
    """Send feeds in an open loop (Poisson arrivals) for ``seconds`` after a warm-up.

    Parameters
    ----------
    rate
        Feeds a second.
    timeout
        Seconds from the scheduled time after which a feed has failed.

    Raises
    ------
    RunError
        The metrics of the service do not answer.
    """
    schedule = poisson_schedule(rate, warmup + seconds, seed)
    tally = _Tally(len(schedule))
    before, cpu = _sums(service), _cpu(service)
    result = load_http(
        f"{service.url}/feed", feed_bodies(users, k, seed=seed), schedule,
        headers=service.headers, warmup=warmup, timeout=timeout, on_answer=tally.take,
    )  # fmt: skip
    after, spent = _sums(service), _cpu(service)
    counted = schedule >= warmup
    fell = tally.fallback[counted]
    errors = dict(result.errors) | ({"fallback feed": int(fell.sum())} if fell.any() else {})
    ranked = replace(result, latencies=np.where(fell, np.inf, result.latencies), errors=errors)
    status, n = np.unique(tally.status[counted], return_counts=True)
    feeds = max(after["n"] - before["n"], 1)
    change = {name: after[name] - before.get(name, 0.0) for name in after if name != "n"}
    total = change.pop("total")
    return ServiceLoad(
        result=result,
        ranked=ranked,
        statuses=dict(zip(status.tolist(), n.tolist(), strict=True)),
        fallbacks=int(tally.fallback[counted].sum()),
        stage_ms={name: 1000 * value / feeds for name, value in change.items()},
        stage_sum_ratio=sum(change.values()) / total if total else float("nan"),
        cpu_ms={name: 1000 * (spent[name] - cpu[name]) / len(schedule) for name in cpu},
    )


def study_service(
    service: Service,
    users: Sequence[int],
    *,
    asked_rate: float,
    asked_seconds: float,
    start_rate: float,
    search_seconds: float,
    p99_limit_ms: float,
    k: int = 20,
    tries: int = 5,
    warmup: float = WARMUP_S,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> ServiceStudy:
    """The asked rate for its whole time, then a search for the highest, measured anew below it.

    The search stops where the p99 happened to pass; what is reported is another measurement.
    """

    def at(rate: float, seconds: float, number: int) -> ServiceLoad:
        load = measure(
            service, users, rate=rate, seconds=seconds, k=k, seed=seed + number, warmup=warmup
        )
        tell(
            f"  {rate:.0f} feeds/s: p99 {load.p99_ms:.1f} ms, {load.server_errors} errors and "
            f"{load.fallbacks} fallbacks of {load.result.n}"
        )
        return load

    at(asked_rate, min(3.0, asked_seconds), 1)  # warms the server's Java up, not counted
    asked = at(asked_rate, asked_seconds, 2)
    search = max_rate(
        lambda rate: at(rate, search_seconds, 3).ranked,
        start_rate, 8 * start_rate, p99_limit_ms=p99_limit_ms, tries=tries,
    )  # fmt: skip
    best = search.best.offered_rate if search.best else start_rate
    for tried, share in enumerate((0.9, 0.75, 0.5), 1):
        confirmed = at(max(start_rate, share * best), search_seconds, 3 + tried)
        if confirmed.holds(p99_limit_ms):
            break
    return ServiceStudy(asked, asked_rate, search, confirmed, tried)


def _sums(service: Service) -> dict[str, float]:
    """Seconds of each stage so far, of all requests (``total``), and their number (``n``)."""
    text = service.metrics()
    found = {stage or "total": float(value) for _, stage, value in SUM.findall(text)}
    count = COUNT.search(text)
    if count is None:
        raise RunError(f"{service.url}/metrics has no feed_seconds_count")
    return found | {"n": float(count[1])}


def _cpu(service: Service) -> dict[str, float]:
    """CPU seconds of each process of the service so far, and of this one."""
    import psutil

    used = dict.fromkeys(("gateway", "torchserve", "worker"), 0.0)
    for root, name in ((service.gateway.pid, "gateway"), (service.torchserve.child.pid, "")):
        try:
            for process in psutil.Process(root).children(recursive=True):
                times = process.cpu_times()
                java = process.name() == "java"
                used[name or ("torchserve" if java else "worker")] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return used | {"generator": process_time()}
