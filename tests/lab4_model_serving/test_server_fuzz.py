"""Anything at all is sent to a running server: it answers 4xx or closes, and serves on."""

import json
import re
import socket

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.lab4_model_serving.server import serve_bundle
from labs.lab4_model_serving.versions import BatchSettings

pytestmark = pytest.mark.slow

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    patient = BatchSettings(slo_s=20, deadline_s=30)
    with serve_bundle(
        tiny_bundle.folder,
        folder=tmp_path_factory.mktemp("fuzz"),
        settings=patient,
        options=["--connections", '{"head_s": 0.4, "body_s": 0.4, "linger_s": 0.1}'],
    ) as running:
        yield running
        assert "Traceback" not in running.log.read_text(), running.log.read_text()[-3000:]


def exchange(server, data):
    """Statuses of everything that comes back for these bytes on a connection of its own."""
    host, port = server.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        # A good request behind it ends the exchange, unless the server has ended it before, or
        # takes it for the rest of the first one and loses patience.
        try:
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while part := connection.recv(65_536):
                received += part
        except ConnectionError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


CLIENT = httpx.Client(trust_env=False, timeout=30)


def serves(server):
    found = CLIENT.post(server.prediction_url(), json={"text": "hello"}, headers=server.headers)
    return found.status_code == 200


def prediction(server, body, *, headers=(), path=b"/predictions/intents"):
    authorization = server.headers["Authorization"].encode()
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: a", b"Authorization: " + authorization]
    lines += [b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


AS_JSON = (b"Content-Type: application/json",)


@FUZZ
@given(data=st.binary(min_size=1, max_size=400))
def test_bytes_that_are_no_http(server, data):
    """TLS to the wrong port, a scanner, a broken proxy: 400 or a closed connection, never a 500."""
    assert all(status < 500 for status in exchange(server, data)), data
    assert serves(server)


@FUZZ
@given(
    method=st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"TRACE", b"PATCH"]),
    path=st.binary(max_size=60).map(lambda raw: b"/" + raw.replace(b" ", b"").replace(b"\n", b"")),
    name=st.from_regex(rb"\A[A-Za-z-]{1,20}\Z"),
    value=st.binary(max_size=60),
)
def test_paths_and_headers(server, method, path, name, value):
    """Any method, path, header: control characters, half escapes, names that mean something."""
    data = method + b" " + path + b" HTTP/1.1\r\nHost: a\r\n" + name + b": " + value + b"\r\n\r\n"
    assert all(status < 500 for status in exchange(server, data)), data


@FUZZ
@given(body=st.binary(max_size=300))
def test_bodies_that_are_no_text(server, body):
    """With the right token and type: random bytes are 400, unless they happen to be a text."""
    (status, *_) = exchange(server, prediction(server, body, headers=AS_JSON))
    assert status in (200, 400), (status, body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "a", ""]), children, max_size=4)
    ),
    max_leaves=8,
)


@FUZZ
@given(value=JSON_VALUES | st.fixed_dictionaries({"text": st.text(max_size=60)}))
def test_json_of_every_shape(server, value):
    """Null, NaN, nested lists, lone surrogates, right-to-left texts: 200 or 400, by the content."""
    body = json.dumps(value).encode()
    (status, *_) = exchange(server, prediction(server, body, headers=AS_JSON))
    text = value.get("text") if isinstance(value, dict) else None
    good = isinstance(text, str) and text.strip() and text.isprintable()
    assert status == 200 if good else status in (200, 400), (status, value)


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b'{"text": "\\ud800"}', {400}),
        (b'{"text": "a\\u0000b"}', {200, 400}),
        (b'{"text": ' + b"[" * 7000 + b"]" * 7000 + b"}", {400}),
        (b'{"text": ' + b"9" * 10_000 + b"}", {400}),
        (b'{"text": 1e999}', {400}),
        (b'{"text": "' + b"a" * 17_000 + b'"}', {413}),
        (b'{"text": "' + "\U0001f4a9".encode() * 3900 + b'"}', {200}),
        (b'\xef\xbb\xbf{"text": "with a byte order mark"}', {200, 400}),
    ],
)
def test_texts_that_have_broken_servers(server, data, statuses):
    """Half a character, NUL, depth, huge numbers, too long a body, four bytes a character."""
    (status, *_) = exchange(server, prediction(server, data, headers=AS_JSON))
    assert status in statuses
    assert serves(server)


@FUZZ
@given(
    chunks=st.lists(st.binary(max_size=30), max_size=6),
    break_at=st.integers(0, 400),
    junk=st.binary(max_size=5),
)
def test_chunked_bodies_whole_and_broken(server, chunks, break_at, junk):
    """Chunks with rubbish somewhere inside: 4xx, or what the text deserves."""
    authorization = server.headers["Authorization"].encode()
    data = b"POST /predictions/intents HTTP/1.1\r\nHost: a\r\nAuthorization: " + authorization
    data += b"\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunk in chunks:
        if chunk:
            data += b"%x\r\n" % len(chunk) + chunk + b"\r\n"
    data += b"0\r\n\r\n"
    data = data[:break_at] + junk + data[break_at:]
    assert all(status < 500 for status in exchange(server, data)), data


def test_after_all_that_it_serves(server):
    """No connection, no place in the queue and no memory of it is left."""
    assert serves(server)
    metrics = CLIENT.get(f"{server.url}/metrics").text
    assert 'serving_requests_total{model="intents",status="500",version="1.0"} 0.0' in metrics
