"""The client of the load generator, against servers that answer in every way they may."""

import asyncio

import httptools
import numpy as np
import pytest

from common.errors import InputError
from common.ports import LOOPBACK, free_port
from labs.lab4_model_serving.http_client import HttpClient, HttpFailure, build_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Model-Version: 2.0\r\n\r\n"
    b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
)


def exchange(answer, use, *, total=10, connections=1, on_answer=None):
    """Run ``use(client)`` against a server that does ``answer(writer, number of the request)``."""

    async def main():
        requests = 0

        async def serve(reader, writer):
            nonlocal requests
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(
                        int(head.lower().split(b"content-length: ")[1].split()[0])
                    )
                    requests += 1
                    await answer(writer, requests)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, LOOPBACK, 0)
        url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/predictions/m"
        client = HttpClient(
            url,
            [build_request(url, b'{"text": "a"}'), build_request(url, b"{}")],
            total,
            connections=connections,
            on_answer=on_answer,
        )
        try:
            return await asyncio.wait_for(use(client), 10)
        finally:
            await client.close()
            server.close()

    return asyncio.run(main())


def writes(*pieces):
    async def answer(writer, number):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def test_a_request_has_its_length_its_host_and_its_headers():
    """The bytes of a request, header by header: a server that reads strictly must accept them."""
    built = build_request("http://h:81/p/m?v=1", b"{}", {"Authorization": "Bearer t"})
    head, body = built.split(b"\r\n\r\n")
    assert body == b"{}"
    assert head.split(b"\r\n") == [
        b"POST /p/m?v=1 HTTP/1.1",
        b"Host: h:81",
        b"Content-Length: 2",
        b"Content-Type: application/json",
        b"Authorization: Bearer t",
    ]


def test_many_requests_share_one_connection():
    """Opening a connection costs more than the request: ten requests, one connection."""

    async def use(client):
        await client.connect(1)
        statuses = [await client.send(i) for i in range(10)]
        return statuses, client.opened

    assert exchange(writes(OK), use) == ([200] * 10, 1)


def test_an_answer_in_pieces_and_in_chunks_is_one_answer():
    """TCP has no messages: the same bytes one at a time give the same headers and body."""
    seen = []

    async def use(client):
        return [await client.send(i) for i in range(2)]

    pieces = [bytes([byte]) for byte in CHUNKED]
    exchange(writes(*pieces), use, on_answer=lambda *answer: seen.append(answer))
    headers = {"transfer-encoding": "chunked", "x-model-version": "2.0"}
    assert seen == [(0, 200, headers, b"abcde"), (1, 200, headers, b"abcde")]


def test_a_connection_that_the_server_closes_is_replaced():
    """Connection: close after every answer: nothing fails, each request has a new connection."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async def use(client):
        return [await client.send(i) for i in range(3)], client.opened

    assert exchange(writes(closing), use) == ([200] * 3, 3)


def test_an_idle_connection_that_was_closed_fails_nobody():
    """A server ends connections that are idle; the next request gets a fresh one."""

    async def answer(writer, number):
        writer.write(OK)
        await writer.drain()
        writer.close()

    async def use(client):
        first = await client.send(0)
        while client._connections:
            await asyncio.sleep(0.001)
        return first, await client.send(1), client.opened

    assert exchange(answer, use) == (200, 200, 2)


@pytest.mark.parametrize(
    ("answer", "name", "kind"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP 503", HttpFailure),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "", httptools.HttpParserError),
    ],
)
def test_what_is_no_200_is_a_failure_with_its_name(answer, name, kind):
    async def use(client):
        return await asyncio.gather(client.send(0), return_exceptions=True), client.failures[0]

    (found,), noted = exchange(writes(answer), use)
    assert found is noted
    assert isinstance(found, kind)
    assert name in str(found)


def test_a_connection_lost_before_the_answer_is_complete_is_a_failure():
    """Half of an answer is none: the body is shorter than its Content-Length."""

    async def answer(writer, number):
        writer.write(OK[:-1])
        await writer.drain()
        writer.close()

    async def use(client):
        return (await asyncio.gather(client.send(0), return_exceptions=True))[0]

    assert isinstance(exchange(answer, use), ConnectionResetError)


def test_a_late_answer_is_not_taken_for_that_of_the_next_request():
    """The first request is given up, its answer comes later: it must not answer the second."""
    late = asyncio.Event()
    seen = []

    async def answer(writer, number):
        if number == 1:
            await late.wait()
        body = str(number).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body)

    async def use(client):
        first = client.send(0)
        await asyncio.sleep(0.05)
        first.cancel()
        late.set()
        await client.send(1)
        return client.failures[0]

    failure = exchange(
        answer, use, on_answer=lambda i, status, headers, body: seen.append((i, body))
    )
    assert isinstance(failure, TimeoutError)
    assert seen == [(1, b"2")]


def test_requests_beyond_the_connections_wait_for_one():
    """Two connections and six requests at once: all are answered, over two connections."""

    async def use(client):
        statuses = await asyncio.gather(*(client.send(i) for i in range(6)))
        return statuses, client.opened, client.most_under_way

    assert exchange(writes(OK), use, connections=2) == ([200] * 6, 2, 6)


def test_bodies_are_sent_in_turn_and_times_are_noted():
    async def use(client):
        for i in range(3):
            await client.send(i)
        return client.answered_at

    times = exchange(writes(OK), use, total=4)
    assert np.all(np.diff(times[:3]) > 0)
    assert np.isnan(times[3])


def test_a_port_where_nobody_listens_refuses_every_request():
    """Connections cannot be opened before the run either, and that alone is no error."""

    async def main():
        url = f"http://{LOOPBACK}:{free_port()}/"
        client = HttpClient(url, [build_request(url, b"{}")], 2, connections=2)
        opened = await client.connect(2)
        found = await asyncio.gather(client.send(0), client.send(1), return_exceptions=True)
        await client.close()
        return opened, found

    opened, found = asyncio.run(main())
    assert opened == 0
    assert [type(error) for error in found] == [ConnectionRefusedError] * 2


@pytest.mark.parametrize("url", ["https://h/", "h:80/p", "ftp://h/"])
def test_only_plain_http_is_spoken(url):
    with pytest.raises(InputError, match="must be http://host"):
        build_request(url, b"")
