"""Metrics of a model server: what is counted, what is labelled, and what it costs."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from common.errors import InputError
from labs.lab4_model_serving.histogram import bucketed, from_exposition, quantile
from labs.lab4_model_serving.serving_metrics import (
    MOST_VERSIONS,
    OTHER,
    REQUEST_BOUNDS,
    SLO_S,
    STAGE_BOUNDS,
    STAGES,
    ServingMetrics,
)

TIMES = {"queue_s": 0.001, "input_s": 0.0002, "compute_s": 0.003, "output_s": 0.0001}


def samples(metrics: ServingMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Values of the series ``name`` by (version, status), without the empty ones."""
    text, _ = metrics.exposition()
    return {
        tuple(s.labels[key] for key in ("version", "status") if key in s.labels): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
        if s.name == name
    }


def observed(metrics: ServingMetrics, stage: str, **labels: str):
    text, _ = metrics.exposition()
    return from_exposition(text.decode(), f"serving_{stage}_seconds", labels)


def test_the_slo_is_a_bound_of_every_histogram():
    """ "Within 50 ms" is read off a bucket; between two bounds it would be a guess."""
    assert SLO_S in REQUEST_BOUNDS
    assert SLO_S in STAGE_BOUNDS
    assert list(REQUEST_BOUNDS) == sorted(set(REQUEST_BOUNDS))
    metrics = ServingMetrics("intents")
    metrics.observe("1", 200, **TIMES, total_s=SLO_S)
    text, _ = metrics.exposition()
    assert (
        'serving_request_seconds_bucket{le="0.05",model="intents",status="200",version="1"} 1.0'
        in text.decode()
    )


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=100))
def test_counts_are_those_of_the_values(values):
    """Every value is in the buckets at or above it, its own bound included."""
    metrics = ServingMetrics("intents")
    for value in values:
        metrics.observe("1", 200, **{**TIMES, "queue_s": value / 2}, total_s=value)
    assert observed(metrics, "request") == bucketed(values, REQUEST_BOUNDS)
    halves = [value / 2 for value in values]
    assert observed(metrics, "queue") == bucketed(halves, STAGE_BOUNDS)
    sums = samples(metrics, "serving_request_seconds_sum")
    assert sums["1", "200"] == pytest.approx(sum(values))


def test_every_stage_is_counted_under_its_own_name():
    """A swap of two stages would send the reader to the wrong part of the server."""
    metrics = ServingMetrics("intents")
    metrics.observe("1", 200, queue_s=1, input_s=2, compute_s=3, output_s=4, total_s=10)
    sums = {stage: samples(metrics, f"serving_{stage}_seconds_sum")["1", "200"] for stage in STAGES}
    assert sums == {"request": 10, "queue": 1, "input": 2, "compute": 3, "output": 4}


def test_versions_and_statuses_are_apart():
    """The p99 of a canary must not hide in that of the old version, nor a 504 in the answers'."""
    metrics = ServingMetrics("intents")
    for _ in range(100):
        metrics.observe("1", 200, **TIMES, total_s=0.004)
        metrics.observe("2", 200, **TIMES, total_s=0.09)
    metrics.observe("2", 504, **TIMES, total_s=1.0)
    assert quantile(observed(metrics, "request", version="1"), 0.99) <= 0.004
    assert quantile(observed(metrics, "request", version="2", status="200"), 0.99) > 0.075
    assert samples(metrics, "serving_requests_total")["2", "504"] == 1


def test_a_refusal_is_counted_as_a_request_and_has_no_times():
    """503 is answered in microseconds. In the histogram it would make overload look fast."""
    metrics = ServingMetrics("intents")
    metrics.observe("1", 200, **TIMES, total_s=0.004)
    for _ in range(3):
        metrics.refused("1", 503)
    assert samples(metrics, "serving_refused_total")["1", "503"] == 3
    requests = samples(metrics, "serving_requests_total")
    assert (requests["1", "200"], requests["1", "503"]) == (1, 3)
    assert observed(metrics, "request")[-1] == (math.inf, 1.0)


def test_series_begin_at_zero_before_anything_happens():
    """A counter that first appears as 1 has no increase: the first failure would not alert."""
    metrics = ServingMetrics("intents")
    metrics.info("1.0", precision="int8", digest="ab" * 32)
    requests = samples(metrics, "serving_requests_total")
    assert requests == {("1.0", status): 0 for status in ("200", "500", "503", "504")}
    assert samples(metrics, "serving_refused_total") == {("1.0", "503"): 0}
    assert observed(metrics, "request", version="1.0", status="200")[-1] == (math.inf, 0.0)


def test_what_is_loaded_is_said_with_its_precision_and_taken_back():
    """During a rollout one sees which replica serves what; an unloaded version leaves no queue."""
    metrics = ServingMetrics("intents")
    metrics.info("1.0", precision="int8", digest="ab" * 32)
    metrics.queue_depth("1.0", 7)
    metrics.queue_limit("1.0", 100)
    text = metrics.exposition()[0].decode()
    info = (
        'serving_model_info{model="intents",precision="int8",sha256="abababababab",version="1.0"}'
    )
    assert f"{info} 1.0" in text
    assert samples(metrics, "serving_queue_depth") == {("1.0",): 7}
    assert samples(metrics, "serving_queue_limit") == {("1.0",): 100}
    metrics.unloaded("1.0")
    assert samples(metrics, "serving_queue_depth") == {}
    assert "serving_model_info{" not in metrics.exposition()[0].decode()
    assert ("1.0", "200") in samples(metrics, "serving_requests_total"), "counters stay"


def test_batches_are_a_histogram_of_sizes():
    """The mean size is sum over count."""
    metrics = ServingMetrics("intents")
    for size in (1, 8, 8, 32):
        metrics.batch("1", size)
    assert samples(metrics, "serving_batch_size_sum") == {("1",): 49}
    assert samples(metrics, "serving_batch_size_count") == {("1",): 4}
    with pytest.raises(InputError, match="size"):
        metrics.batch("1", 0)


def test_a_client_cannot_make_series():
    """Each new label value is a series for weeks: made-up versions share one label."""
    metrics = ServingMetrics("intents")
    metrics.info("1.0", precision="fp32")
    for i in range(200):
        metrics.refused(f"made-up-{i}", 404)
    metrics.refused("1.0", 404)
    assert samples(metrics, "serving_refused_total")[OTHER, "404"] == 200
    assert samples(metrics, "serving_refused_total")["1.0", "404"] == 1
    for i in range(200):
        metrics.refused(f"made-up-{i}", 401)
        metrics.observe(f"made-up-{i}", 200, **TIMES, total_s=0.01)
    versions = {version for version, _ in samples(metrics, "serving_requests_total")}
    assert len(versions) <= MOST_VERSIONS + 1
    assert sum(samples(metrics, "serving_requests_total").values()) == 601


@pytest.mark.parametrize("impossible", [-0.001, math.nan])
def test_times_that_no_clock_gives_fail_no_request_and_spoil_no_histogram(impossible):
    """A NaN would be sorted into the fastest bucket, and a negative time lowers the sum."""
    metrics = ServingMetrics("intents")
    metrics.observe("1", 200, **TIMES, total_s=0.01)
    metrics.observe("1", 200, **{**TIMES, "compute_s": impossible}, total_s=0.01)
    assert samples(metrics, "serving_impossible_times_total") == {(): 1}
    assert observed(metrics, "compute")[-1] == (math.inf, 1.0)
    assert samples(metrics, "serving_requests_total")["1", "200"] == 2


def test_nothing_is_lost_between_threads():
    """``+=`` on a list is three steps; without the lock updates vanish."""
    metrics = ServingMetrics("intents")
    each = 2000

    def work():
        for _ in range(each):
            metrics.observe("1", 200, **TIMES, total_s=0.004)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        buckets = observed(metrics, "request")  # scraped meanwhile
        counts = np.array([count for _, count in buckets])
        assert np.all(np.diff(counts) >= 0)
    for thread in threads:
        thread.join()
    assert observed(metrics, "request")[-1] == (math.inf, 4.0 * each)
    assert samples(metrics, "serving_requests_total")["1", "200"] == 4 * each


def test_two_servers_in_one_process_share_nothing():
    """A registry of its own: no global one that a second server, or a test, would collide with."""
    one, two = ServingMetrics("intents"), ServingMetrics("intents")
    one.refused("1", 503)
    assert samples(two, "serving_refused_total") == {}


def test_the_text_is_what_prometheus_and_its_client_parse():
    """Content type and body of /metrics."""
    metrics = ServingMetrics('a "quoted" name')
    metrics.observe("1", 200, **TIMES, total_s=0.004)
    body, content_type = metrics.exposition()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {f"serving_{stage}_seconds" for stage in STAGES} <= families
    assert {"serving_requests", "serving_refused", "serving_batch_size"} <= families
