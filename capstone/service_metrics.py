"""The service's Prometheus metrics: names, types and labels in one place.

Latencies are histograms, so that a p99 can be aggregated over replicas. No label takes its value
from a client: user, item and request ids belong in logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5
)  # fmt: skip
SCORE_BUCKETS = (
    0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0
)  # fmt: skip


class ScoreHistogram(Collector):
    """A histogram by head that takes all items of a feed in one step.

    The library's own takes one number a call: 80 calls for 20 items and four heads, which would
    cost as much as re-ranking them.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._edges = np.array(SCORE_BUCKETS)
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}

    def observe_many(self, scores: Mapping[str, NDArray[np.floating]]) -> None:
        """Count the probabilities [n] of each head."""
        for head, values in scores.items():
            if head not in self._counts:
                self._counts[head] = np.zeros(len(self._edges) + 1, dtype=np.int64)
                self._sums[head] = 0.0
            bucket = self._edges.searchsorted(values)  # the first edge that is >= the value
            self._counts[head] += np.bincount(bucket, minlength=len(self._edges) + 1)
            self._sums[head] += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self.text, labels=["head"])
        edges = [*map(str, SCORE_BUCKETS), "+Inf"]
        for head, counts in self._counts.items():
            buckets = list(zip(edges, np.cumsum(counts).tolist(), strict=True))
            family.add_metric([head], buckets, self._sums[head])
        yield family


class ServiceMetrics:
    """Every metric of one gateway process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "feed_requests", "HTTP requests by route and status.", ["route", "status"]
        )
        self.feeds = self._counter(
            "feed_feeds", "Feeds served by arm and bundle version.", ["arm", "version"]
        )
        self.latency = self._histogram("feed_seconds", "Seconds of a whole feed request.", [])
        self.stage = self._histogram("feed_stage_seconds", "Seconds in each stage.", ["stage"])
        self.fallbacks = self._counter(
            "feed_fallbacks", "Fallback feeds by stage and cause.", ["stage", "reason"]
        )
        self.empty = self._counter("feed_empty", "Feeds that had no item at all.", [])
        self.short = self._counter("feed_short", "Feeds with fewer items than asked for.", [])
        self.cold = self._counter("feed_cold_start", "Feeds of users without a history.", [])
        self.items = self._counter("feed_items", "Served items by source.", ["source"])
        self.slots = self._counter("feed_slots", "Served items by slot.", ["slot"])
        self.events = self._counter(
            "feed_events", "Reactions by kind and outcome.", ["reaction", "outcome"]
        )
        self.score = ScoreHistogram(
            "feed_score", "Calibrated probability of each head, of served items."
        )
        self.registry.register(self.score)
        self.filtered = self._counter(
            "feed_filtered",
            "Items kept from candidates: seen by the user, or withdrawn.",
            ["reason"],
        )
        self.breaker_open = self._gauge(
            "feed_scorer_breaker_open", "1 while the ranker is not asked because it failed.", []
        )
        self.state_errors = self._counter(
            "feed_user_state_errors", "Commands that the store of user state failed.", ["operation"]
        )
        self.state_degraded = self._gauge(
            "feed_user_state_degraded", "1 while histories may be out of date.", []
        )
        self.mismatch = self._counter(
            "feed_bundle_mismatch", "Bundles refused, by what did not fit.", ["part"]
        )
        self.bundle = self._gauge(
            "feed_bundle_info", "1 for each loaded bundle.", ["version", "checkpoint", "arm"]
        )
        self.weight = self._gauge("feed_arm_weight", "Share of units in each arm.", ["arm"])
        self.ready = self._gauge("feed_ready", "1 while the service takes requests.", [])
        self.log_errors = self._counter(
            "feed_event_log_errors", "Writes of the event log that failed.", ["kind"]
        )
        self.pending = self._gauge("feed_event_log_pending", "Events not yet on disk.", [])
        self.in_flight = self._gauge("feed_in_flight", "Feed requests being worked on.", [])
        self.shadow = self._counter(
            "feed_shadow", "Shadow feeds by outcome: same top item, other, failed.", ["outcome"]
        )

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, buckets=LATENCY_BUCKETS, registry=self.registry)
