"""What monitoring gets right and wrong: buckets, replicas, alerts, and what it costs.

Latencies are drawn, so that the truth is known and nothing depends on the machine; only
:func:`observe_cost` measures it. :func:`scraped_p99` takes the way through a real Prometheus.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab4_model_serving.burn_rate import WORKBOOK, Incident, firing, incidents
from labs.lab4_model_serving.histogram import (
    CLIENT_DEFAULT_BOUNDS,
    FleetP99,
    bucket_errors,
    exponential_bounds,
    fleet_p99,
    from_exposition,
    quantile,
)
from labs.lab4_model_serving.metrics_endpoint import metrics_endpoint
from labs.lab4_model_serving.prometheus import prometheus
from labs.lab4_model_serving.serving_metrics import REQUEST_BOUNDS, SLO_S, ServingMetrics

BUDGET = 0.01
SPREAD = 0.6
"""Standard deviation of the logarithm of the drawn latencies: p99 is four times the median."""


def request_latencies(p99_s: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """n lognormal latencies (s) whose true p99 is ``p99_s``."""
    return rng.lognormal(math.log(p99_s) - 2.3263 * SPREAD, SPREAD, n)


@dataclass(frozen=True)
class BucketStudy:
    """Errors of the p99 by layout of bounds; every array is [p99s]."""

    p99s: NDArray[np.float64]
    """The exact p99 of each sample, seconds, ascending."""
    errors: Mapping[str, NDArray[np.float64]]
    """Layout to (estimate - exact) / exact."""
    bounds: Mapping[str, int]

    def worst(self, layout: str) -> float:
        """The largest relative error, in size."""
        return float(np.abs(self.errors[layout]).max())

    def worst_near(self, layout: str, p99_s: float) -> float:
        """The largest relative error of servers whose p99 is within a fifth of ``p99_s``."""
        near = np.abs(self.p99s / p99_s - 1) <= 0.2
        require(bool(near.any()), "p99_s", p99_s, "must be near one of the samples' p99s")
        return float(np.abs(self.errors[layout][near]).max())


def bucket_study(*, n: int = 20_000, points: int = 120, seed: int = 0) -> BucketStudy:
    """How far the p99 of a histogram is off, for servers with a p99 from 2 to 500 ms.

    Parameters
    ----------
    n
        Requests a server.
    points
        Servers.
    """
    require(points >= 2, "points", points, "must be >= 2")
    rng = np.random.default_rng(seed)
    layouts: dict[str, Sequence[float]] = {
        "prometheus-client's default": CLIENT_DEFAULT_BOUNDS,
        "this lab's": REQUEST_BOUNDS,
        **{f"{k} a decade": exponential_bounds(0.0005, 10, k) for k in (3, 5, 10, 20, 40)},
    }
    rows = [
        bucket_errors(request_latencies(float(p99), n, rng), layouts)
        for p99 in np.geomspace(0.002, 0.5, points)
    ]
    rows.sort(key=lambda row: row[0].exact)
    return BucketStudy(
        p99s=np.array([row[0].exact for row in rows]),
        errors={
            name: np.array([row[place].relative for row in rows])
            for place, name in enumerate(layouts)
        },
        bounds={name: len(bounds) for name, bounds in layouts.items()},
    )


@dataclass(frozen=True)
class FleetStudy:
    """One replica of ``replicas`` becomes slow and gets less and less of the traffic."""

    shares: tuple[float, ...]
    """Of the requests that go to the slow replica."""
    p99s: tuple[FleetP99, ...]


def fleet_study(
    *, replicas: int = 4, n: int = 40_000, shares: Sequence[float] = (), seed: int = 0
) -> FleetStudy:
    """The p99 of a fleet with one slow replica, exact, as a mean of p99s, and from added buckets.

    Parameters
    ----------
    n
        Requests of the fleet.
    shares
        Of the traffic that the slow replica gets; by default from 0.2 % to 70 %.
    """
    require(replicas >= 2, "replicas", replicas, "must be >= 2")
    chosen = tuple(shares) or (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.7)
    rng = np.random.default_rng(seed)
    found = []
    for share in chosen:
        slow = max(1, round(n * share))
        fast = (n - slow) // (replicas - 1)
        latencies = [request_latencies(0.02, fast, rng) for _ in range(replicas - 1)]
        latencies.append(request_latencies(0.4, slow, rng))
        found.append(fleet_p99(latencies, REQUEST_BOUNDS))
    return FleetStudy(chosen, tuple(found))


@dataclass(frozen=True)
class Reaction:
    """What an alert did about an incident; minutes, None when it did not fire."""

    incident: str
    alert: str
    fired_after: int | None
    """From the start of the incident to the first minute in which it fires."""
    ended_after: int | None
    """From the end of the incident to the last minute in which it fires."""


def reactions(found: Sequence[Incident], budget: float = BUDGET) -> list[Reaction]:
    """Every alert of the workbook's table against every incident."""
    rows = []
    for each in found:
        for alert in WORKBOOK:
            minutes = np.flatnonzero(firing(each.bad, each.total, alert, budget))
            first, last = (int(minutes[0]), int(minutes[-1])) if len(minutes) else (None, None)
            rows.append(
                Reaction(
                    each.name,
                    alert.name,
                    None if first is None else first - each.start + 1,
                    None if last is None else last - each.end + 1,
                )
            )
    return rows


def observe_cost(requests: int = 20_000, seed: int = 0) -> float:
    """Microseconds of CPU that :meth:`ServingMetrics.observe` takes a request, on this machine."""
    require(requests >= 1, "requests", requests, "must be >= 1")
    totals = request_latencies(0.02, requests, np.random.default_rng(seed)).tolist()
    metrics = ServingMetrics("cost")
    start = time.thread_time()
    for total in totals:
        metrics.observe(
            "1", 200, queue_s=total / 2, input_s=1e-4, compute_s=0.003, output_s=1e-5, total_s=total
        )
    return (time.thread_time() - start) / requests * 1e6


@dataclass(frozen=True)
class ScrapedP99:
    """The p99 of the same requests, three ways; seconds."""

    exact: float
    ours: float
    """:func:`histogram.quantile` of the text of ``/metrics``."""
    prometheus: float
    """``histogram_quantile`` of a Prometheus that scraped it."""


def scraped_p99(folder: Path, *, requests: int = 20_000, seed: int = 0) -> ScrapedP99 | None:
    """The p99 of drawn latencies, by us and by a real Prometheus that scraped them.

    Returns
    -------
    ScrapedP99 or None
        None where Prometheus is not installed.

    Raises
    ------
    RunError
        Prometheus did not start or did not scrape.
    """
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        return None
    latencies = request_latencies(0.045, requests, np.random.default_rng(seed))
    metrics = ServingMetrics("study")
    for seconds in latencies.tolist():
        metrics.observe(
            "1", 200, queue_s=0.0, input_s=0.0, compute_s=seconds, output_s=0.0, total_s=seconds
        )
    text = metrics.exposition()[0].decode()
    with (
        metrics_endpoint(metrics) as target,
        prometheus([target], folder=folder, interval_s=0.2) as server,
    ):
        server.wait_for("sum(serving_requests_total)", lambda n: n == requests)
        asked = server.value(
            "histogram_quantile(0.99, sum by (le) (serving_request_seconds_bucket))"
        )
    return ScrapedP99(
        exact=float(np.sort(latencies)[int(requests * 0.99)]),
        ours=quantile(from_exposition(text, "serving_request_seconds"), 0.99),
        prometheus=asked,
    )


@dataclass(frozen=True)
class MonitoringStudy:
    """Everything that the lab's stage on monitoring shows."""

    buckets: BucketStudy
    fleet: FleetStudy
    incidents: tuple[Incident, ...]
    reactions: tuple[Reaction, ...]
    observe_us: float
    scraped: ScrapedP99 | None

    @property
    def metrics(self) -> dict[str, float]:
        """What to record, by name."""
        ratios = [each.mean_of_p99s / each.exact for each in self.fleet.p99s]
        recorded = {
            "monitoring.observe_us": self.observe_us,
            "monitoring.bucket_worst_error": self.buckets.worst("this lab's"),
            "monitoring.default_bucket_worst_error": self.buckets.worst(
                "prometheus-client's default"
            ),
            "monitoring.bucket_error_near_slo": self.buckets.worst_near("this lab's", SLO_S),
            "monitoring.mean_of_p99s_least_ratio": min(ratios),
            "monitoring.mean_of_p99s_most_ratio": max(ratios),
            "monitoring.merged_p99_worst_error": max(
                abs(each.from_merged_buckets / each.exact - 1) for each in self.fleet.p99s
            ),
        }
        if self.scraped:
            recorded["monitoring.prometheus_difference"] = abs(
                self.scraped.ours / self.scraped.prometheus - 1
            )
        return recorded


def monitoring_study(
    folder: Path | None, *, n: int = 20_000, points: int = 120, seed: int = 0
) -> MonitoringStudy:
    """The whole study.

    Parameters
    ----------
    folder
        Of Prometheus' data and log. None leaves Prometheus out: it looks for its targets only 5 s
        after its start.
    n, points
        Requests a server, and servers, of :func:`bucket_study`.
    """
    found = tuple(incidents(seed=seed))
    return MonitoringStudy(
        buckets=bucket_study(n=n, points=points, seed=seed),
        fleet=fleet_study(n=2 * n, seed=seed),
        incidents=found,
        reactions=tuple(reactions(found)),
        observe_us=observe_cost(n, seed),
        scraped=scraped_p99(folder, requests=n, seed=seed) if folder else None,
    )
