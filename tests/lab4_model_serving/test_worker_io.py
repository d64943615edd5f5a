"""A buffered worker reads what a plain one reads, in fewer calls."""

import socket
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.protocol import otf_message_handler as codec

from labs.lab4_model_serving.worker_io import BufferedReader

NAMES = st.text(min_size=1, max_size=20)
HEADERS = st.lists(st.tuples(NAMES, NAMES), max_size=6)
REQUESTS = st.lists(st.tuples(NAMES, HEADERS, st.binary(max_size=3000)), min_size=1, max_size=5)


def part(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def message(requests) -> bytes:
    """What TorchServe's frontend sends for a batch."""
    found = b"I"
    for name, headers, body in requests:
        found += part(name.encode())
        for key, value in headers:
            found += part(key.encode()) + part(value.encode())
        found += struct.pack("!i", -1)
        found += part(b"body") + part(b"application/octet-stream") + part(body)
        found += struct.pack("!i", -1)
    return found + struct.pack("!i", -1)


class Counted:
    """A connection that counts its calls and gives at most ``most`` bytes in one."""

    def __init__(self, connection, most):
        self.connection, self.most, self.calls = connection, most, 0

    def recv(self, length):
        self.calls += 1
        return self.connection.recv(min(length, self.most))


def sent(contents):
    ours, theirs = socket.socketpair()

    def send():
        for content in contents:
            theirs.sendall(content)
        theirs.close()

    threading.Thread(target=send, daemon=True).start()
    return ours


def read_all(connection, batches, monkeypatch, reader=None):
    with monkeypatch.context() as patched:
        if reader:
            patched.setattr(codec, "_retrieve_buffer", lambda _, length: reader.read(length))
        return [codec.retrieve_msg(connection) for _ in range(batches)]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(batches=st.lists(REQUESTS, min_size=1, max_size=3), most=st.integers(1, 500))
def test_both_read_the_same(batches, most):
    """However the bytes are cut on their way."""
    contents = [message(batch) for batch in batches]
    with pytest.MonkeyPatch.context() as patched, sent(contents) as plain:
        expected = read_all(plain, len(batches), patched)
    with pytest.MonkeyPatch.context() as patched, sent(contents) as buffered:
        counted = Counted(buffered, most)
        found = read_all(counted, len(batches), patched, BufferedReader(counted))
    assert found == expected


def test_a_batch_is_a_few_calls_and_not_hundreds(monkeypatch):
    batch = [(f"id-{i}", [("accept", "*/*")] * 7, b"x" * 50) for i in range(8)]
    calls = []
    for buffered in (False, True):
        with sent([message(batch)]) as connection:
            counted = Counted(connection, 1 << 20)
            reader = BufferedReader(counted) if buffered else None
            read_all(counted, 1, monkeypatch, reader)
            calls.append(counted.calls)
    plain, few = calls
    assert plain > 200, f"{plain} calls"
    assert few <= 5, f"{few} calls"


def test_a_frontend_that_has_gone_ends_the_worker():
    """As the plain worker does: there is nobody left to answer."""
    with sent([b"I"]) as connection:
        reader = BufferedReader(connection)
        assert reader.read(1) == b"I"
        with pytest.raises(SystemExit):
            reader.read(4)
