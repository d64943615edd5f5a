"""An overload: what is refused, what is late, and how long it lasts after its end."""

from math import inf, isnan

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.load_result import LoadResult
from labs.lab4_model_serving.overload import (
    Answers,
    analyse,
    measure_overload,
    recovery_seconds,
    timeline,
    valid_retry_after,
)
from labs.lab4_model_serving.reference_server import Worker, reference_server

GENERATOR = LoadResult(np.zeros(1), np.zeros(1), 1.0, 1.0, 5.0, "made")


def simulated(queue, *, service=0.01, seed=0):
    """Answers of one worker of 100/s: 1 s at 50/s, 2 s at 300/s, 6 s at 50/s."""
    from labs.lab4_model_serving.arrivals import phased_schedule

    due = phased_schedule([(50, 1), (300, 2), (50, 6)], seed)
    worker = Worker(service, queue)
    done = np.array([inf if (end := worker.take(t)) is None else end for t in due])
    refused = np.isinf(done)
    return Answers(
        due=due,
        latency=done - due,
        status=np.where(refused, 503, 200),
        answered=np.where(refused, due + 0.001, done),
        retry_after=refused,
    )


def judged(answers):
    return analyse(answers, begin=1, end=3, slo_ms=50, hold_s=1.0, generator=GENERATOR)


def test_a_short_queue_keeps_its_promise_to_those_who_are_let_in():
    """Three places in the queue: two thirds are refused, the rest is served within 40 ms."""
    found = judged(simulated(queue=3))
    assert found.refused_share == pytest.approx(2 / 3, abs=0.05)
    assert found.accepted_p99_ms <= 40.001
    assert found.goodput == pytest.approx(100, rel=0.05)
    assert found.lost_share == 0
    assert found.retry_after_share == 1
    assert found.recovery_s <= 0.2


def test_a_long_queue_is_late_for_everybody_and_long_after():
    """No bound: 400 requests wait at the end, and at half load it takes 8 s to be rid of them.

    Not one request is refused, hardly one is in time, and within the 6 s of watching it never
    recovers: a queue without a bound turns two bad seconds into ten.
    """
    found = judged(simulated(queue=None))
    assert found.refused_share == 0
    assert isnan(found.retry_after_share)
    assert found.goodput < 15
    assert found.accepted_p99_ms > 3000
    assert found.recovery_s == inf
    assert found.watched_s == pytest.approx(6, abs=0.2)
    assert found.largest_recovery_s == pytest.approx(5, abs=0.2), "the window has to fit"


def test_recovery_is_when_the_next_second_keeps_the_slo():
    """Late until 0.75 s after the end: windows of a second keep it from 0.8 s on."""
    due = np.arange(0, 5, 0.005)
    late = (due >= 1) & (due < 2.75)
    assert recovery_seconds(due, late, end=2.0, hold_s=1.0) == pytest.approx(0.8)
    assert recovery_seconds(due, due >= 1, end=2.0, hold_s=1.0) == inf
    assert recovery_seconds(due, due < 0, end=2.0, hold_s=1.0) == 0


def test_the_largest_recovery_is_the_last_window_that_fits():
    """Watched for 5 s with windows of 1 s: 3.9 s is seen, and what takes 4.1 s is inf."""
    due = np.arange(0, 7.001, 0.005)
    for recovered, seen in ((3.9, 3.9), (4.1, inf)):
        late = (due >= 1) & (due < 2 + recovered - 0.05)
        assert recovery_seconds(due, late, end=2.0, hold_s=1.0) == pytest.approx(seen)


def test_one_late_request_in_a_hundred_is_no_relapse():
    due = np.arange(0, 4, 0.005)
    late = np.zeros(len(due), bool)
    late[np.searchsorted(due, 2.5)] = True
    assert recovery_seconds(due, late, end=2.0, hold_s=1.0) == 0


def test_the_timeline_counts_requests_when_due_and_answers_when_they_came():
    """Two requests at 0.05 s, answered at 0.25 s; one at 0.15 s, refused at once; one lost."""
    found = timeline(
        Answers(
            due=np.array([0.05, 0.05, 0.15, 0.16]),
            latency=np.array([0.2, 0.2, inf, inf]),
            status=np.array([200, 200, 503, 0]),
            answered=np.array([0.25, 0.25, 0.151, inf]),
            retry_after=np.array([False, False, True, False]),
        )
    )
    assert found.start == pytest.approx([0, 0.1, 0.2])
    assert found.offered.tolist() == [2, 2, 0]
    assert found.answered.tolist() == [0, 0, 2]
    assert found.refused.tolist() == [0, 1, 0]
    assert found.p99_ms[0] == pytest.approx(200)
    assert np.isnan(found.p99_ms[1:]).all()


def test_what_got_no_answer_is_lost():
    """One of four without an answer, one with a 500: shedding load properly loses nobody."""
    due = np.array([1.1, 1.2, 1.3, 1.4, 3.5])
    answers = Answers(
        due=due,
        latency=np.array([0.01, inf, inf, inf, 0.01]),
        status=np.array([200, 503, 0, 500, 200]),
        answered=due + 0.01,
        retry_after=np.array([False, False, False, False, False]),
    )
    found = judged(answers)
    assert found.lost_share == 0.5
    assert found.refused_share == 0.25
    assert found.retry_after_share == 0


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("1", True),
        ("120", True),
        ("Wed, 21 Oct 2026 07:28:00 GMT", True),
        (None, False),
        ("soon", False),
        ("-1", False),
        ("1.5", False),
        ("", False),
    ],
)
def test_retry_after_is_whole_seconds_or_a_date(value, valid):
    assert valid_retry_after(value) == valid


@pytest.mark.slow
def test_a_real_server_is_overloaded_and_recovers():
    """200/s of capacity and a queue of 4, three times that for a second: 503 with Retry-After."""
    with reference_server(service_ms=5, queue=4) as url:
        found = measure_overload(
            url,
            [b"{}"],
            capacity=200,
            before_s=0.5,
            overload_s=1.0,
            after_s=1.5,
            hold_s=0.5,
            warmup_s=0.2,
            slo_ms=200,
        )
    assert found.offered_rate == pytest.approx(600, rel=0.2)
    assert 0.4 < found.refused_share < 0.85
    assert found.retry_after_share == 1
    assert found.lost_share == 0
    assert found.recovery_s < 1
    counted = found.timeline.answered.sum() + found.timeline.refused.sum()
    assert counted == found.timeline.offered.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity = 0 must be > 0"),
        ({"multiple": 1}, "must be > 1 to be an overload"),
        ({"normal": 1}, "normal = 1 must be between 0 and 1"),
        ({"hold_s": 9.0}, "hold_s = 9.0 must be at most after_s"),
    ],
)
def test_what_is_no_overload_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        measure_overload("http://localhost/", [b"{}"], **{"capacity": 10, **options})
