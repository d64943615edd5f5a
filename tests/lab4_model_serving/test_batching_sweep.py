"""The sweep measures what the model predicts; the rules of batching differ as the lesson says."""

import time

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.admission import ServiceTime
from labs.lab4_model_serving.batching_policies import (
    compare_bounds,
    compare_padding,
    compare_policies,
    longest_queue,
)
from labs.lab4_model_serving.batching_sweep import (
    ServiceMeasurement,
    arrivals_of,
    measure_service_time,
    predict,
    sweep,
)
from labs.lab4_model_serving.queueing import bulk_wait


def sleeping(texts):
    time.sleep(0.004 + 0.0005 * len(texts))
    return texts


def test_the_service_time_of_a_batch_is_measured():
    """4 ms a batch and half a millisecond a text are found, give or take how long sleeps last."""
    found = measure_service_time(sleeping, ["a", "b", "c"], sizes=(1, 8, 32), repeats=4)
    assert len(found.sizes) == 12
    assert found.service.batch_s(32) >= 0.0195
    assert 0.0002 < found.service.item_s < 0.005


@pytest.mark.slow
def test_a_small_sweep_has_every_point_with_its_prediction():
    """Two batch sizes, a delay and a load each: measured latencies are at least the service time.

    How near the model comes depends on what else the machine does, so that is for the lesson.
    """
    found = sweep(sleeping, ["a"] * 8, batches=(1, 8), loads=(0.4,), seconds=0.4)
    assert [point.max_batch for point in found.points] == [1, 8]
    for point in found.points:
        assert point.n >= 20
        assert point.p99_s >= point.mean_s >= 0.0045
        assert point.predicted_p99_s >= point.predicted_mean_s >= 0.0045
        assert point.mean_batch >= 1
    assert found.relative_error >= 0
    assert found.drift > 0
    assert 0 < found.overhead_s < 0.5
    assert found.points[1].rate > 2 * found.points[0].rate, "batching raises the limit"


def test_the_prediction_is_that_of_the_exact_chain():
    """With service times that do not scatter and no delay, the mean is known."""
    service = ServiceTime(0.002, 0.0002)
    sizes = np.array([1, 32])
    known = ServiceMeasurement(sizes, 0.002 + 0.0002 * sizes, service)
    found = predict(known, arrivals_of(1500, 10, 0), max_batch=32, max_delay_s=0.0)
    assert found.mean_s == pytest.approx(bulk_wait(1500, service, 32).mean_latency_s, rel=0.03)
    assert found.p99_s > found.mean_s


def test_a_load_of_one_is_refused():
    """At its limit a queue has no mean; the message names the loads."""
    with pytest.raises(InputError, match="loads"):
        sweep(sleeping, ["a"], loads=(1.0,))


def test_the_rules_of_leaving_rank_as_the_lesson_says():
    """From dequeue is later at every load below saturation; a clock of its own collapses first."""
    enqueue, dequeue, clock, none = compare_policies(requests=3000)
    for i in range(4):
        assert dequeue.mean_s[i] > enqueue.mean_s[i] > none.mean_s[i]
    assert clock.mean_s[-1] > 2 * enqueue.mean_s[-1]


def test_goodput_survives_overload_only_with_the_bound_of_time():
    """At three times the limit: throughput is the same for all; answers in time are not."""
    none, many, timed = compare_bounds(loads=(0.5, 3.0), seconds=1.0)
    assert none.throughput[1] == pytest.approx(timed.throughput[1], rel=0.05)
    assert none.goodput[1] < 0.1 * none.throughput[1]
    assert many.goodput[1] < 0.15 * many.throughput[1]
    assert timed.goodput[1] == pytest.approx(timed.throughput[1])
    assert timed.p99_s[1] <= timed.slo_s
    assert timed.refused[1] == pytest.approx(2 / 3, abs=0.05)


def test_the_bound_is_what_can_be_answered_in_time():
    """50 ms hold five full batches of 8.4 ms: the running one and four that wait (128 requests)."""
    assert longest_queue(ServiceTime(0.002, 0.0002), max_batch=32, slo_s=0.05) == 128
    assert longest_queue(ServiceTime(1.0, 0.0), max_batch=32, slo_s=0.05) == 1


def test_padding_by_length_is_a_fraction_of_padding_in_order():
    """Texts of 4 to 30 tokens: mixed batches are nearly half padding, sorted ones a fraction."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(8, 1.4, 2000), 4, 30).astype(int)
    found = compare_padding([int(n) for n in lengths], batches=60)
    assert found.by_length < 0.25 < found.in_order < found.to_maximum
    assert found.mean_batch_by_length > 20
