"""Poisson arrivals, latency from the scheduled time, and the search for the highest rate."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.ports import LOOPBACK
from labs.lab4_model_serving.load_generator import (
    LoadResult,
    load_http,
    max_rate,
    poisson_schedule,
    run_closed_loop,
    run_open_loop,
)


@pytest.mark.exercise("4.1")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(rate=st.floats(20, 2000), seconds=st.floats(0.5, 5), seed=st.integers(0, 2**31 - 1))
def test_arrivals_are_ascending_and_inside_the_run(rate, seconds, seed):
    """Offsets ascend and lie in [0, seconds): the run ends when you said, and never sleeps back."""
    offsets = poisson_schedule(rate, seconds, seed)
    assert len(offsets) > 0, f"no arrivals at {rate:.0f}/s in {seconds:.1f} s: 1 / rate is the gap"
    assert np.all(np.diff(offsets) >= 0), "offsets must ascend"
    assert offsets[0] >= 0, f"first offset {offsets[0]} is before the start"
    assert offsets[-1] < seconds, f"last offset {offsets[-1]} is not below {seconds}"


@pytest.mark.exercise("4.1")
def test_gaps_are_exponential():
    """Gaps have mean 1/rate and a standard deviation as large as their mean.

    Evenly spaced requests (standard deviation 0) never meet in the queue, so the server looks
    far better than with users.
    """
    offsets = poisson_schedule(200, 50, seed=3)
    assert len(offsets) > 100, f"200/s for 50 s should give about 10,000, got {len(offsets)}"
    gaps = np.diff(offsets)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05), f"mean gap {gaps.mean():.5f} s"
    ratio = gaps.std() / gaps.mean()
    assert ratio == pytest.approx(1, abs=0.05), f"std / mean of the gaps is {ratio:.3f}, not 1"


@pytest.mark.exercise("4.1")
def test_the_number_of_arrivals_varies_like_a_poisson_number():
    """Over many seeds the count has mean and variance rate * seconds.

    A schedule with exactly rate * seconds arrivals, or never more, has no busy runs.
    """
    counts = np.array([len(poisson_schedule(50, 1, seed)) for seed in range(400)])
    assert counts.mean() == pytest.approx(50, abs=1.8), f"mean count {counts.mean():.1f}, not 50"
    assert 35 < counts.var() < 68, f"variance of the count {counts.var():.1f}, should be near 50"


@pytest.mark.exercise("4.1")
def test_a_seed_gives_one_schedule():
    """The same seed repeats a load test exactly; another seed does not."""
    first, again, other = (poisson_schedule(100, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again), "the same seed gave two schedules"
    assert not np.array_equal(first, other), "seeds 1 and 2 gave the same schedule"


@pytest.mark.exercise("4.3")
def test_a_stall_is_charged_to_every_request_that_was_due_in_it():
    """The server answers nobody for 0.4 s; a request due at t waited 0.4 - t, slot or no slot.

    Taking the time of sending as the start hides the wait for a connection: the few requests that
    got one look slow, everybody behind them looks fast (coordinated omission).
    """
    schedule = np.arange(0.02, 0.5, 0.02)

    async def measure():
        loop = asyncio.get_running_loop()
        stall_ends = loop.time() + 0.4

        async def send(i):
            await asyncio.sleep(max(0, stall_ends - loop.time()))

        return await run_open_loop(send, schedule, max_in_flight=2, timeout=5)

    result = asyncio.run(measure())
    waited = np.maximum(0, 0.4 - schedule)
    short = waited - result.latencies
    worst = int(short.argmax())
    assert short.max() < 0.03, (
        f"request {worst}, due at {schedule[worst]:.2f} s, has latency "
        f"{result.latencies[worst]:.3f} s; it waited {waited[worst]:.3f} s"
    )
    assert result.latencies.max() < 1, f"largest latency {result.latencies.max():.2f} s, not ~0.4"


@pytest.mark.exercise("4.3")
def test_requests_do_not_wait_for_earlier_answers():
    """20 requests, 10 ms apart, 0.2 s each: all at once on the way, each with latency 0.2 s.

    Waiting for one answer before the next request is a closed loop: it lets the server set its
    own load.
    """
    under_way, most = 0, 0

    async def send(i):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.2)
        under_way -= 1

    result = asyncio.run(run_open_loop(send, np.arange(20) * 0.01))
    assert most >= 10, f"at most {most} requests were on the way at once, expected about 20"
    median = float(np.median(result.latencies))
    assert 0.19 < median < 0.4, f"median latency {median:.3f} s, expected about 0.2"


@pytest.mark.exercise("4.3")
def test_failures_and_timeouts_stay_in_the_count():
    """A refused request ends fast, a hanging one never: both failed, and neither is a latency.

    Dropping them, or taking the time to the error, makes an overloaded server look quick.
    """

    async def send(i):
        if i % 4 == 1:
            raise ConnectionRefusedError("no")
        if i % 4 == 2:
            await asyncio.sleep(60)

    result = asyncio.run(run_open_loop(send, np.arange(20) * 0.005, timeout=0.3))
    assert result.n == 20, f"{result.n} latencies for 20 requests"
    failed = np.flatnonzero(np.isinf(result.latencies))
    expected = [i for i in range(20) if i % 4 in (1, 2)]
    assert failed.tolist() == expected, f"failed {failed.tolist()}, expected {expected}"
    assert result.errors == {"ConnectionRefusedError": 5, "TimeoutError": 5}, result.errors
    assert result.summary.p99_ms == pytest.approx(300), "failures count at the timeout"


@pytest.mark.exercise("4.3")
def test_the_number_in_flight_is_bounded():
    """Never more than max_in_flight at once: without a bound the generator runs out of sockets."""
    under_way, most = 0, 0

    async def send(i):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1

    asyncio.run(run_open_loop(send, np.zeros(12), max_in_flight=3))
    assert most == 3, f"{most} at once, the bound is 3"


def test_an_empty_schedule_is_refused():
    async def send(i):
        return None

    with pytest.raises(InputError, match="no requests"):
        asyncio.run(run_open_loop(send, np.array([])))


def test_a_closed_loop_hides_a_stall_that_an_open_loop_shows():
    """One stall of 0.4 s in 1 s: two of the closed loop's requests are slow, 40 % of the open's."""

    def server():
        started = None

        async def send(i):
            nonlocal started
            loop = asyncio.get_running_loop()
            started = started or loop.time()
            await asyncio.sleep(max(0.002, started + 0.4 - loop.time()))

        return send

    closed = asyncio.run(run_closed_loop(server(), 200, clients=2))
    opened = asyncio.run(run_open_loop(server(), np.arange(100) * 0.01))
    assert (closed.latencies > 0.1).mean() < 0.02
    assert (opened.latencies > 0.1).mean() > 0.2


def result_with_p99(ms: float) -> LoadResult:
    return LoadResult(
        np.full(1000, ms / 1000), np.zeros(1000), 1.0, 1000.0, 5.0, "made for this test"
    )


def test_the_search_finds_the_highest_rate_below_the_limit():
    """Latency of an M/M/1 queue with 1,000/s of capacity: p99 < 50 ms up to about 908/s."""

    def measure(rate):
        return result_with_p99(1000 * 4.6 / (1000 - rate) if rate < 1000 else 5000)

    search = max_rate(measure, 100, 4000, p99_limit_ms=50, tries=12)
    found = max(rate for rate, result in search.tried if result.summary.p99_ms < 50)
    assert found == pytest.approx(908, rel=0.02)
    assert not search.at_limit


def test_the_search_says_when_even_the_lowest_rate_misses_the_limit():
    search = max_rate(lambda rate: result_with_p99(80), 100, 1000, p99_limit_ms=50)
    assert search.best is None
    assert search.qps == 0
    assert len(search.tried) == 1


def test_http_errors_are_failures():
    """A server that answers 503 to all: nothing is answered, 503 is named, p99 is the timeout."""

    class Overloaded(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Overloaded) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://{LOOPBACK}:{server.server_port}/"
        result = load_http(url, [b"{}"], np.arange(10) * 0.01, timeout=2)
        server.shutdown()
    assert result.failed == 10
    assert result.errors == {"HTTP 503": 10}
    assert result.summary.p99_ms == 2000
