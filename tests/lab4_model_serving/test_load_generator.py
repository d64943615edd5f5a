"""The open loop, and load over HTTP."""

import asyncio
import gc
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from common.errors import InputError
from common.ports import LOOPBACK, free_port
from labs.lab4_model_serving import load_generator
from labs.lab4_model_serving.early_stopping import EarlyStop, Slo
from labs.lab4_model_serving.load_generator import LoadResult, load_http
from labs.lab4_model_serving.reference_server import reference_server


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

        return await load_generator.run_open_loop(send, schedule, max_in_flight=2, timeout=5)

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

    result = asyncio.run(load_generator.run_open_loop(send, np.arange(20) * 0.01))
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

    result = asyncio.run(load_generator.run_open_loop(send, np.arange(20) * 0.005, timeout=0.3))
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

    asyncio.run(load_generator.run_open_loop(send, np.zeros(12), max_in_flight=3))
    assert most == 3, f"{most} at once, the bound is 3"


def test_an_empty_schedule_is_refused():
    async def send(i):
        return None

    with pytest.raises(InputError, match="no requests"):
        asyncio.run(load_generator.run_open_loop(send, np.array([])))


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

    closed = asyncio.run(load_generator.run_closed_loop(server(), 200, clients=2))
    opened = asyncio.run(load_generator.run_open_loop(server(), np.arange(100) * 0.01))
    assert (closed.latencies > 0.1).mean() < 0.02
    assert (opened.latencies > 0.1).mean() > 0.2


@pytest.mark.exercise("4.3")
def test_the_fast_client_gives_futures_and_not_coroutines():
    """What ``send`` returns is awaited, whatever it is: load_http's client returns a future."""

    async def measure():
        loop = asyncio.get_running_loop()

        def send(i):
            answer = loop.create_future()
            if i % 2:
                loop.call_later(0.01, answer.set_exception, ConnectionResetError("gone"))
            else:
                loop.call_later(0.01, answer.set_result, 200)
            return answer

        return await load_generator.run_open_loop(send, np.arange(10) * 0.002)

    result = asyncio.run(measure())
    failed = np.flatnonzero(np.isinf(result.latencies)).tolist()
    assert failed == [1, 3, 5, 7, 9], f"failed {failed}, expected the odd ones"
    assert result.errors == {"ConnectionResetError": 5}, result.errors
    fastest = result.latencies.min()
    assert fastest > 0.005, f"latency {fastest:.4f} s, the answers took 0.01"


@pytest.fixture(scope="module")
def url():
    with reference_server() as url:
        yield url


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
        try:
            result = load_http(url, [b"{}"], np.arange(10) * 0.01, timeout=2)
        finally:  # without the exercise there is no result, and the thread would outlive the tests
            server.shutdown()
    assert result.failed == 10
    assert result.errors == {"HTTP 503": 10}
    assert result.summary.p99_ms == 2000


def test_load_http_runs_the_open_loop_of_the_exercise(monkeypatch, url):
    """What a learner writes for 4.3 is what loads the server, on the fast client."""
    ran = []
    original = load_generator.run_open_loop

    async def learners(send, schedule, **options):
        ran.append((len(schedule), options))
        return await original(send, schedule, **options)

    monkeypatch.setattr(load_generator, "run_open_loop", learners)
    result = load_http(url, [b"{}"], np.arange(20) * 0.001, max_in_flight=7, timeout=3)
    assert ran == [(20, {"max_in_flight": 7, "timeout": 3})]
    assert result.failed == 0
    assert result.errors == {}


def test_a_timer_that_rings_early_gives_no_negative_latency(monkeypatch, url):
    """Half a millisecond early is the timer's; 50 ms early is a mistake, and it is said."""
    original = load_generator.run_open_loop

    def early_by(seconds):
        async def learners(send, schedule, **options):
            result = await original(send, schedule, **options)
            return replace(result, latencies=result.latencies * 0 - seconds)

        return learners

    monkeypatch.setattr(load_generator, "run_open_loop", early_by(0.0005))
    assert load_http(url, [b"{}"], np.arange(5) * 0.001).latencies.tolist() == [0] * 5
    monkeypatch.setattr(load_generator, "run_open_loop", early_by(0.05))
    with pytest.raises(InputError, match="must not send a request before it is due"):
        load_http(url, [b"{}"], np.arange(5) * 0.001)


def test_a_tally_of_answers_sees_status_headers_and_body(url):
    """Labels and versions are counted while the load runs; request i is told from j."""
    seen = {}

    def on_answer(i, status, headers, body):
        seen[i] = (status, headers["x-model-version"], body[:21])

    load_http(url, [b"{}"], np.arange(30) * 0.001, on_answer=on_answer)
    assert seen == dict.fromkeys(range(30), (200, "1.0", b'{"label": "reference"'))


def test_an_error_in_the_tally_is_no_failure_of_the_server(url):
    def on_answer(i, status, headers, body):
        raise KeyError("label")

    with pytest.raises(KeyError, match="label"):
        load_http(url, [b"{}"], np.arange(3) * 0.001, on_answer=on_answer)


def test_the_warm_up_is_sent_and_not_counted(url):
    """Of 0.4 s the first half is no result, and the times of the rest begin at its end."""
    sent = []
    schedule = np.arange(40) * 0.01
    result = load_http(
        url, [b"{}"], schedule, warmup=0.2, on_answer=lambda i, *answer: sent.append(i)
    )
    assert sorted(sent) == list(range(40))
    assert result.n == 20
    assert result.schedule[0] == pytest.approx(0)
    assert result.offered_rate == pytest.approx(20 / 0.19)
    assert "without the first 0.2 s" in result.summary.how


def test_failures_of_the_warm_up_are_not_counted():
    """One worker of 20 ms and no queue: at 10 at once nine are refused, later none are."""
    schedule = np.concatenate([np.zeros(10), 0.2 + np.arange(5) * 0.1])
    with reference_server(service_ms=20, queue=0) as url:
        everything = load_http(url, [b"{}"], schedule)
        warm = load_http(url, [b"{}"], schedule, warmup=0.1)
    assert everything.errors["HTTP 503"] >= 9
    assert warm.n == 5
    assert warm.failed == sum(warm.errors.values())
    assert warm.failed <= 1, warm.errors


def test_a_server_that_is_not_there_is_counted_as_refused():
    result = load_http(f"http://{LOOPBACK}:{free_port()}/", [b"{}"], np.arange(5) * 0.001)
    assert result.errors == {"ConnectionRefusedError": 5}


def test_a_hanging_server_costs_the_timeout_and_no_more():
    """Service of 60 s: every request is given up 0.3 s after it was due."""
    with reference_server(service_ms=60_000) as url:
        result = load_http(url, [b"{}"], np.arange(10) * 0.01, timeout=0.3)
    assert result.errors == {"TimeoutError": 10}
    assert result.duration < 3, f"{result.duration:.1f} s"


def test_a_run_ends_when_it_is_decided():
    """100/s of capacity, 400/s offered for a minute: it is over in seconds, and says why."""
    slo = Slo(p99_ms=50, failed_share=0)
    schedule = np.arange(0, 60, 1 / 400)
    stop = EarlyStop(slo, planned=1000, seconds=60)
    with reference_server(service_ms=10) as url:
        result = load_http(url, [b"{}"], schedule, stop=stop)
    assert result.stopped.startswith("missed: "), result.stopped
    assert result.n < 4000, f"{result.n} of {len(schedule)} requests were needed"
    assert result.summary.p99_ms > 50
    assert result.errors.keys() <= {"Unanswered"}


def test_the_garbage_collector_is_off_during_a_run_and_on_after_it(url):
    states = []
    load_http(
        url, [b"{}"], np.arange(3) * 0.001, on_answer=lambda *answer: states.append(gc.isenabled())
    )
    assert states == [False] * 3
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bodies": []}, "at least one body"),
        ({"url": "https://localhost/"}, "must be http://"),
        ({"schedule": np.array([])}, "no requests"),
        ({"warmup": 2.0}, "warmup = 2.0 must end before"),
        ({"max_in_flight": 0}, "max_in_flight = 0 must be >= 1"),
        ({"max_in_flight": 10**9}, "must leave 64 of the"),
        ({"headers": {"X": "a\r\nY: b"}}, "must be one line"),
    ],
)
def test_a_load_that_cannot_run_is_refused(arguments, message):
    given = {"url": "http://localhost/", "bodies": [b"{}"], "schedule": np.arange(2) * 0.01}
    with pytest.raises(InputError, match=message):
        load_http(**{**given, **arguments})


def made_result(latency, lag, **fields) -> LoadResult:
    n = len(latency)
    return LoadResult(
        np.asarray(latency), np.asarray(lag), 1.0, float(n), 5.0, "made for this test", **fields
    )


def test_a_result_says_when_the_generator_was_the_limit():
    """Lag of 8 ms in a p99 of 20 ms is the generator's; 2 ms is its timer, and 8 of 500 nothing."""
    fine = np.full(1000, 0.02)
    assert made_result(fine, np.full(1000, 0.008)).limited_by_generator
    assert not made_result(fine, np.full(1000, 0.002)).limited_by_generator
    assert not made_result(np.full(1000, 0.5), np.full(1000, 0.008)).limited_by_generator
    assert made_result(fine, np.zeros(1000), busy=0.97).limited_by_generator


def test_a_result_names_what_stands_against_its_p99():
    """Too few requests, an exhausted pool, a lagging generator: each is said, and only then."""
    assert made_result(np.full(662, 0.02), np.zeros(662)).caveats() == ()
    few = made_result(
        np.full(50, 0.02), np.full(50, 0.01), max_in_flight=16, most_in_flight=16
    ).caveats()
    assert [caveat.split(" ")[0] for caveat in few] == ["50", "the", "max_in_flight"], few
