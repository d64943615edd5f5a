"""The closed loop over HTTP, and the correction of what it omits."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving.closed_loop import (
    correct_coordinated_omission,
    load_http_closed,
    run_closed_loop,
)
from labs.lab4_model_serving.reference_server import reference_server


def test_a_stall_is_filled_with_the_requests_that_were_not_sent():
    """One answer after 50 ms where one was to be asked for every 10 ms: 40, 30, 20 and 10 more."""
    found = correct_coordinated_omission([0.001, 0.05, 0.002], 0.01)
    assert found == pytest.approx([0.001, 0.05, 0.002, 0.04, 0.03, 0.02, 0.01])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    latencies=st.lists(st.integers(0, 500), min_size=1, max_size=50),
    interval=st.integers(1, 100),
)
def test_the_correction_is_that_of_hdr_histogram(latencies, interval):
    """As recordValueWithExpectedInterval does it, one value at a time, in whole milliseconds."""
    expected = list(latencies)
    for latency in latencies:
        missing = latency - interval
        while missing >= interval:
            expected.append(missing)
            missing -= interval
    found = correct_coordinated_omission(np.array(latencies) / 1000, interval / 1000)
    assert sorted(found) == pytest.approx(sorted(np.array(expected) / 1000), abs=1e-9)


def test_failures_and_quick_answers_add_nothing():
    given_values = [0.001, 0.019, np.inf]
    assert correct_coordinated_omission(given_values, 0.01).tolist() == given_values
    with pytest.raises(InputError, match="interval = 0 must be > 0"):
        correct_coordinated_omission([1.0], 0)


def test_a_closed_loop_over_http_is_paced_by_its_server():
    """One worker of 2 ms and four clients: no more than 500/s, whatever the clients would like."""
    with reference_server(service_ms=2) as url:
        result = load_http_closed(url, [b"{}"], 100, clients=4)
    assert result.failed == 0
    assert result.n == 100
    assert result.achieved_rate < 550
    assert np.median(result.latencies) > 0.006
    assert result.how.startswith("closed loop, 4 clients")


def test_a_failure_stays_in_the_count_of_a_closed_loop():
    async def send(i):
        if i == 3:
            raise ConnectionResetError
        if i == 5:
            await asyncio.sleep(60)

    result = asyncio.run(run_closed_loop(send, 10, clients=2, timeout=0.1))
    assert np.flatnonzero(np.isinf(result.latencies)).tolist() == [3, 5]
    assert result.errors == {"ConnectionResetError": 1, "TimeoutError": 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asyncio.run(run_closed_loop(None, 0, clients=1)), "requests = 0"),
        (lambda: asyncio.run(run_closed_loop(None, 1, clients=0)), "clients = 0"),
        (lambda: load_http_closed("http://h/", [], 1, clients=1), "at least one body"),
    ],
)
def test_a_closed_loop_of_nobody_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
