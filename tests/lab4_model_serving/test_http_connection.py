"""One connection without a network: what comes in as bytes, what goes out, and when it ends."""

import asyncio
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab4_model_serving.http_connection import (
    PIPELINED,
    Connection,
    ConnectionLimits,
    Site,
)
from labs.lab4_model_serving.protocol import Response


class Wire:
    """A transport that keeps what was written."""

    def __init__(self):
        self.out, self.closed, self.ended, self.paused = b"", False, False, False

    def set_write_buffer_limits(self, high):
        pass

    def is_closing(self):
        return self.closed

    def can_write_eof(self):
        return True

    def write(self, data):
        assert not self.ended, "written after the end"
        self.out += data

    def write_eof(self):
        self.ended = True

    def close(self):
        self.closed = True

    abort = close

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    @property
    def statuses(self):
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.out)]


class Harness:
    """A site whose requests are kept until the test answers them."""

    def __init__(self, **limits):
        self.requests = []
        self.site = Site(self.handle, ConnectionLimits(**limits))

    def handle(self, request, slot):
        self.requests.append((request, slot))
        if request.target == b"/now":
            slot.reply(Response(200, b"now"))

    def connect(self):
        connection, wire = Connection(self.site), Wire()
        connection.connection_made(wire)
        return connection, wire

    def answer(self, i, body=b"ok"):
        self.requests[i][1].reply(Response(200, body))


def request(path="/", body=b"", *, method="POST", headers=""):
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{length}{headers}\r\n".encode() + body


def test_a_request_is_read_and_answered():
    """Method, target, headers in lower case, body; the answer has a length and a date."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request("/x?y", b"body", headers="X-A: 1\r\nx-a: 2\r\n"))
    ((found, slot),) = harness.requests
    assert (found.method, found.target, found.body) == ("POST", b"/x?y", b"body")
    assert found.headers[b"x-a"] == b"1, 2"
    slot.reply(Response(200, b"ok", (("x-b", "3"),)))
    slot.reply(Response(500, b"twice"))
    assert wire.out.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert wire.out.endswith(b"content-length: 2\r\nx-b: 3\r\n\r\nok")
    assert not wire.ended


def test_pipelined_answers_leave_in_the_order_of_the_requests():
    """The second is ready first and waits: order is all that tells the answers apart."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request("/1") + request("/2") + request("/3"))
    harness.answer(1, b"two")
    assert wire.out == b""
    harness.answer(0, b"one")
    assert wire.out.index(b"one") < wire.out.index(b"two")
    harness.answer(2, b"three")
    assert wire.statuses == [200, 200, 200]


def test_who_pipelines_without_end_is_not_read_further():
    """Reading stops at so many open requests and goes on when half of them are answered."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request() * PIPELINED)
    assert wire.paused
    for i in range(PIPELINED):
        harness.answer(i)
    assert not wire.paused


@settings(derandomize=True, deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(1, 200), max_size=8), data=st.data())
def test_however_the_bytes_are_cut_the_requests_are_the_same(cuts, data):
    """TCP keeps no borders: one byte at a time or all at once."""
    stream = (
        request("/a", b"12345")
        + b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"3\r\nabc\r\n2\r\nde\r\n0\r\nContent-Type: evil\r\n\r\n"
        + request("/c", method="GET")
    )
    harness = Harness()
    connection, _ = harness.connect()
    places = sorted({min(cut, len(stream)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        connection.data_received(stream[start:end])
    found = [(r.target, r.body, r.headers.get(b"content-type")) for r, _ in harness.requests]
    assert found == [(b"/a", b"12345", None), (b"/b", b"abcde", None), (b"/c", b"", None)]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (request(headers="Authorization: a\r\nAuthorization: b\r\n"), 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (request("/", b"a", headers="Transfer-Encoding: chunked\r\n"), 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 9000 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
         + b"4000\r\n" + b"a" * 0x4000 + b"\r\n4000\r\n" + b"a" * 0x4000 + b"\r\n", 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_the_connection_ends(data, status):
    """Where the next request would begin is unknown, so none is read (request smuggling)."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(data)
    connection.data_received(request("/smuggled"))
    assert wire.statuses == [status]
    assert b"connection: close" in wire.out
    assert wire.ended
    assert all(r.target != b"/smuggled" for r, _ in harness.requests)


def test_a_refusal_waits_its_turn():
    """Two good requests, then rubbish: the 400 comes third."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request("/1") + request("/2") + b"rubbish\r\n\r\n")
    assert wire.out == b""
    harness.answer(0)
    harness.answer(1)
    assert wire.statuses == [200, 200, 400]


def test_head_is_answered_without_a_body():
    """The length is that of the body that GET would have: nothing may follow the headers."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request("/now", method="HEAD"))
    assert wire.out.endswith(b"content-length: 3\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "ends"),
    [
        (b"GET /now HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET /now HTTP/1.0\r\n\r\n", True),
        (b"GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI", True),
    ],
)
def test_the_connection_stays_as_long_as_both_sides_want(head, ends):
    """1.1 stays unless told otherwise, 1.0 ends unless told otherwise; an upgrade is declined."""
    connection, wire = Harness().connect()
    connection.data_received(head)
    assert wire.statuses == [200]
    assert wire.ended is ends


@pytest.mark.parametrize("framing", [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_upgrade_with_a_body_is_refused_by_its_name(framing):
    """The parser gives up the body of such a request: "not JSON" would blame the wrong thing."""
    harness = Harness()
    connection, wire = harness.connect()
    head = b"POST /now HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    body = b"4\r\nbody\r\n0\r\n\r\n" if b"chunked" in framing else b"body"
    connection.data_received(head + framing + b"\r\n" + body)
    assert wire.statuses == [400]
    assert b"Upgrade is not offered here" in wire.out
    assert harness.requests == []
    assert wire.ended


def test_a_client_that_waits_for_leave_gets_it():
    """Expect: 100-continue (curl with a large body) is answered before the body comes."""
    harness = Harness()
    connection, wire = harness.connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    connection.data_received(head)
    assert wire.statuses == [100]
    connection.data_received(b"ab")
    assert harness.requests[0][0].body == b"ab"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [(b"", []), (b"GET / HTTP/1.1\r\nHo", [408]), (request("/", b"abc")[:-1], [408])],
)
def test_a_client_that_is_too_slow_is_cut_off(sent, answered):
    """Slow-loris: a header or a byte of the body now and then keeps a connection for ever.

    Told 408 if it had begun a request; closed without a word if it never said anything.
    """
    harness = Harness(head_s=0.0, body_s=0.0, idle_s=0.0)
    connection, wire = harness.connect()
    connection.data_received(sent)
    time.sleep(0.001)
    harness.site.tick()
    assert wire.statuses == answered
    assert wire.ended or wire.closed
    assert harness.site.closed_by_clock == 1


def test_a_request_that_waits_for_the_model_is_not_cut_off_by_the_clock():
    """Its deadline is the batcher's; the connection's clock is for clients that do not speak."""
    harness = Harness(head_s=0.0, body_s=0.0, idle_s=0.0)
    connection, wire = harness.connect()
    connection.data_received(request())
    time.sleep(0.001)
    harness.site.tick()
    assert not wire.closed
    harness.answer(0)
    time.sleep(0.001)
    harness.site.tick()
    assert wire.closed, "idle for longer than allowed"


def test_a_client_that_does_not_read_is_not_read_either_and_then_cut_off():
    """Answers that nobody takes would pile up in this process."""
    harness = Harness(write_s=0.0)
    connection, wire = harness.connect()
    connection.pause_writing()
    assert wire.paused
    time.sleep(0.001)
    harness.site.tick()
    assert wire.closed


class FullWire(Wire):
    """A transport whose peer does not read: every write asks the protocol to pause."""

    def write(self, data):
        super().write(data)
        self.connection.pause_writing()


@pytest.mark.parametrize("requests", [1, 2])
def test_an_answer_that_nobody_reads_does_not_make_the_connection_an_idle_one(requests):
    """The last answer fills the buffer: ``write_s`` counts, not the far longer ``idle_s``.

    With two requests in one packet the second one is read after the first filled the buffer.
    """
    harness = Harness(write_s=0.0, idle_s=1000.0)
    wire = FullWire()
    wire.connection = Connection(harness.site)
    wire.connection.connection_made(wire)
    wire.connection.data_received(request("/now") * requests)
    assert wire.statuses == [200] * requests
    time.sleep(0.001)
    harness.site.tick()
    assert wire.closed


def test_one_connection_too_many_is_told_so():
    """503 with Retry-After, and the others are not disturbed."""
    harness = Harness(connections=2)
    wires = [harness.connect()[1] for _ in range(3)]
    assert [wire.statuses for wire in wires] == [[], [], [503]]
    assert b"Retry-After: 1" in wires[2].out


def test_requests_of_a_client_that_is_gone_are_cancelled():
    """Nobody waits for them; the batcher need not run them."""

    async def scenario():
        harness = Harness()
        connection, _ = harness.connect()
        connection.data_received(request("/1") + request("/2"))
        futures = []
        for _, slot in harness.requests:
            slot.pending = asyncio.get_running_loop().create_future()
            futures.append(slot.pending)
        connection.connection_lost(None)
        harness.answer(0)  # too late: no error, no bytes
        return [future.cancelled() for future in futures], harness.site.connections

    assert asyncio.run(scenario()) == ([True, True], set())


def test_while_the_site_drains_every_answer_ends_its_connection():
    """Clients move to another server with their next request, none in the middle of one."""
    harness = Harness()
    connection, wire = harness.connect()
    connection.data_received(request())
    harness.site.draining = True
    harness.answer(0)
    assert wire.statuses == [200]
    assert b"connection: close" in wire.out
    assert wire.ended
