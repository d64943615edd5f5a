"""What a model server tells Prometheus: histograms by stage, counters, gauges.

A latency is a *histogram*: counts of requests at or below fixed bounds. Counts of several replicas
can be added and then asked for a percentile; percentiles of several replicas cannot be averaged.
One bound is the SLO itself (0.05 s), so that "the share within 50 ms" is read off and not
interpolated.

One request costs :meth:`ServingMetrics.observe` five binary searches and ten additions under one
lock. The same five histograms of prometheus-client take several times as long: one lock a value,
and a loop in Python over the bounds. The text for Prometheus is made when it asks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.utils import floatToGoString

from common.errors import require

SLO_S = 0.05
REQUEST_BOUNDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, SLO_S),
    *(0.06, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds in seconds, dense around the SLO; above the last one there is only +Inf."""
STAGE_BOUNDS = (0.0001, 0.00025, 0.0005, *REQUEST_BOUNDS)
"""Of a part of a request, which may be far shorter."""
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

STAGES = ("request", "queue", "input", "compute", "output")
HELP = {
    "request": "From the request's arrival to its answer.",
    "queue": "Waiting for a batch to begin.",
    "input": "Parsing and tokenizing.",
    "compute": "The run of the model over the request's batch.",
    "output": "From logits to the answer's bytes.",
}
MOST_VERSIONS = 32
OTHER = "other"
"""Label of versions beyond MOST_VERSIONS, of any that a client made up, and of requests that were
refused before a version was chosen."""
COUNTED_FROM_THE_START = (200, 500, 503, 504)


class _Times:
    """The five histograms of one (version, status). Counts are not cumulative here."""

    __slots__ = ("counts", "requests", "sums")

    def __init__(self) -> None:
        self.requests = 0
        self.counts = [
            [0] * (len(REQUEST_BOUNDS if stage == "request" else STAGE_BOUNDS) + 1)
            for stage in STAGES
        ]
        self.sums = [0.0] * len(STAGES)


class ServingMetrics:
    """The metrics of one model's server, in a registry of its own. Safe to call from any thread.

    Labels are ``model``, ``version`` and ``status``. What is refused is fast and would flatter the
    latencies, so it is counted apart. A version's series begin at 0 when it is first named: a
    counter that appears with its first failure shows no increase, because nobody saw the 0.

    Parameters
    ----------
    model
        Name of the model, the label of every series.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._times: dict[tuple[str, int], _Times] = {}
        self._versions: set[str] = set()
        self._refused: dict[tuple[str, int], int] = defaultdict(int)
        self._batches: dict[str, list[int]] = {}
        self._batched: dict[str, int] = defaultdict(int)
        self._depth: dict[str, int] = {}
        self._limit: dict[str, int] = {}
        self._info: dict[str, dict[str, str]] = {}
        self._impossible = 0
        self.registry.register(_Collector(self))

    def observe(
        self,
        version: str,
        status: int,
        *,
        queue_s: float,
        input_s: float,
        compute_s: float,
        output_s: float,
        total_s: float,
    ) -> None:
        """Count one answered request and its times in seconds.

        ``status`` is the answer's. Times that no clock gives (negative, NaN) never fail a request:
        it is counted in ``serving_impossible_times_total`` and left out of the histograms.
        """
        times = self._times.get((version, status)) or self._first(version, status)
        counts, sums = times.counts, times.sums
        with self._lock:
            times.requests += 1
            if not (
                queue_s >= 0 and input_s >= 0 and compute_s >= 0 and output_s >= 0 and total_s >= 0
            ):
                self._impossible += 1
                return
            # One line a stage: a loop over five costs as much again.
            counts[0][bisect_left(REQUEST_BOUNDS, total_s)] += 1
            counts[1][bisect_left(STAGE_BOUNDS, queue_s)] += 1
            counts[2][bisect_left(STAGE_BOUNDS, input_s)] += 1
            counts[3][bisect_left(STAGE_BOUNDS, compute_s)] += 1
            counts[4][bisect_left(STAGE_BOUNDS, output_s)] += 1
            sums[0] += total_s
            sums[1] += queue_s
            sums[2] += input_s
            sums[3] += compute_s
            sums[4] += output_s

    def refused(self, version: str, status: int) -> None:
        """Count a request that was not run (4xx, 503): it has no times.

        With 404 the version is one that somebody made up, and every such name would begin a series
        that Prometheus keeps for weeks; it is labelled ``other``. With any other status the caller
        must know that the version exists, and say :data:`OTHER` if it does not.
        """
        with self._lock:
            known = OTHER if status == 404 and version not in self._versions else version
            known = self._named(known)
            self._refused[known, status] += 1

    def batch(self, version: str, size: int) -> None:
        """Count one run of the model over ``size`` requests."""
        require(size >= 1, "size", size, "must be >= 1")
        with self._lock:
            version = self._named(version)
            self._batches[version][bisect_left(BATCH_BOUNDS, size)] += 1
            self._batched[version] += size

    def queue_depth(self, version: str, n: int) -> None:
        """Say that ``n`` requests wait now."""
        with self._lock:
            self._depth[self._named(version)] = n

    def queue_limit(self, version: str, n: int) -> None:
        """Say how many may wait; the next one is refused. Saturation is depth over limit."""
        require(n >= 1, "n", n, "must be >= 1")
        with self._lock:
            self._limit[self._named(version)] = n

    def info(self, version: str, *, precision: str, digest: str = "") -> None:
        """Announce a loaded version: ``serving_model_info``, and its series at 0.

        Parameters
        ----------
        precision
            ``fp32`` or ``int8``.
        digest
            SHA-256 of the model file (its first 12 digits are shown).
        """
        with self._lock:
            version = self._named(version)
            self._info[version] = {"precision": precision, "sha256": digest[:12]}

    def unloaded(self, version: str) -> None:
        """Take back what is said of a version's present; its counters stay."""
        with self._lock:
            for present in (self._depth, self._limit, self._info):
                present.pop(version, None)

    def exposition(self) -> tuple[bytes, str]:
        """The body of ``/metrics`` and its content type (Prometheus text format 0.0.4)."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def _named(self, version: str) -> str:
        """The version's label; the first time, its series begin at 0. The lock must be held."""
        if version in self._versions:
            return version
        if len(self._versions) >= MOST_VERSIONS:
            version = OTHER
        if version not in self._versions:
            self._versions.add(version)
            self._batches[version] = [0] * (len(BATCH_BOUNDS) + 1)
            self._times[version, 200] = _Times()
            self._refused[version, 503] = 0
        return version

    def _first(self, version: str, status: int) -> _Times:
        with self._lock:
            return self._times.setdefault((self._named(version), status), _Times())

    def _snapshot(self) -> Iterator[Metric]:
        labels = ["model", "version", "status"]
        with self._lock:
            times = {
                key: ([list(counts) for counts in each.counts], list(each.sums))
                for key, each in self._times.items()
            }
            requests = {
                (version, status): 0
                for version in self._versions
                for status in COUNTED_FROM_THE_START
            }
            refused = dict(self._refused)
            for key, each in self._times.items():
                requests[key] = each.requests
            for key, n in refused.items():
                requests[key] = requests.get(key, 0) + n
            batches = {version: list(counts) for version, counts in self._batches.items()}
            batched = dict(self._batched)
            depth, limit, info = dict(self._depth), dict(self._limit), dict(self._info)
            impossible = self._impossible
        for place, stage in enumerate(STAGES):
            bounds = REQUEST_BOUNDS if stage == "request" else STAGE_BOUNDS
            histogram = HistogramMetricFamily(
                f"serving_{stage}_seconds", HELP[stage], labels=labels
            )
            for (version, status), (counts, sums) in sorted(times.items()):
                histogram.add_metric(
                    [self.model, version, str(status)],
                    buckets=_cumulative(bounds, counts[place]),
                    sum_value=sums[place],
                )
            yield histogram
        for name, text, numbers in (
            ("serving_requests", "Requests by status, refused ones included.", requests),
            ("serving_refused", "Requests that were not run.", refused),
        ):
            counter = CounterMetricFamily(name, text, labels=labels)
            for (version, status), n in sorted(numbers.items()):
                counter.add_metric([self.model, version, str(status)], n)
            yield counter
        histogram = HistogramMetricFamily(
            "serving_batch_size", "Requests in a run of the model.", labels=labels[:2]
        )
        for version, sizes in sorted(batches.items()):
            histogram.add_metric(
                [self.model, version],
                buckets=_cumulative(BATCH_BOUNDS, sizes),
                sum_value=batched.get(version, 0),
            )
        yield histogram
        for name, text, present in (
            ("serving_queue_depth", "Requests that wait now.", depth),
            ("serving_queue_limit", "Requests that may wait.", limit),
        ):
            gauge = GaugeMetricFamily(name, text, labels=labels[:2])
            for version, n in sorted(present.items()):
                gauge.add_metric([self.model, version], n)
            yield gauge
        about = InfoMetricFamily("serving_model", "Loaded versions.", labels=labels[:2])
        for version, facts in sorted(info.items()):
            about.add_metric([self.model, version], facts)
        yield about
        yield CounterMetricFamily(
            "serving_impossible_times", "Requests with negative or NaN times.", value=impossible
        )


class _Collector:
    """What the registry asks at each scrape."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics._snapshot()


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*bounds, float("inf")], counts):
        total += count
        buckets.append((floatToGoString(bound), float(total)))
    return buckets
