"""A server whose capacity is known: what a load generator and a search are checked against.

One worker with a fixed service time and a bounded queue, in simulated time: the answer to a request
is sent when the worker would have finished it, and computing nothing costs no CPU. So its capacity
is ``1000 / service_ms`` requests/s on every machine, and with ``service_ms = 0`` it is as fast as a
server of this kind can be: what a generator reaches against it is the generator's own limit.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError, require
from common.ports import LOOPBACK
from common.process import supervised
from labs.lab4_model_serving.http_client import run_on_fast_loop

ROOT = Path(__file__).resolve().parents[2]

BODY = b'{"label": "reference", "probability": 1.0, "version": "1.0"}'
BUSY = b'{"error": {"code": 503, "message": "the queue is full"}}'


def answer_bytes(status: str, body: bytes, headers: str = "") -> bytes:
    """One HTTP/1.1 answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
    return f"{head}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


OK = answer_bytes("200 OK", BODY, "X-Model-Version: 1.0\r\n")
REFUSED = answer_bytes("503 Service Unavailable", BUSY, "Retry-After: 1\r\n")


@dataclass
class Worker:
    """One worker in simulated time.

    ``service`` is seconds for a request, ``queue`` how many may wait (None: any number),
    ``free_at`` when the worker has finished all that it took.
    """

    service: float
    queue: int | None = None
    free_at: float = 0.0

    def take(self, now: float) -> float | None:
        """When a request that comes now is finished; None when the queue is full."""
        begin = max(now, self.free_at)
        if self.queue is not None and begin - now > self.queue * self.service + 1e-9:
            return None
        self.free_at = begin + self.service
        return self.free_at


@dataclass
class ReferenceServer:
    """The worker, and a pause of the whole process some time after the first request.

    ``stall`` is (seconds after the first request, length in seconds): as a full garbage collection
    or a reload of the model would, it stops everything, the reading of sockets included.
    """

    worker: Worker
    stall: tuple[float, float] | None = None

    def request_came(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.stall:
            start, length = self.stall
            loop.call_later(start, time.sleep, length)
            self.stall = None


class _Connection(asyncio.Protocol):
    def __init__(self, server: ReferenceServer) -> None:
        self.server = server
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (length := _request_length(self.buffer)) is not None:
            self.buffer = self.buffer[length:]
            self._answer()

    def _answer(self) -> None:
        self.server.request_came(self.loop)
        now = time.monotonic()
        done = self.server.worker.take(now)
        if done is None:
            self.transport.write(REFUSED)
        elif done <= now:
            self.transport.write(OK)
        else:
            self.loop.call_later(done - now, self._write, OK)

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


def _request_length(data: bytes) -> int | None:
    """Bytes of the first request in ``data`` when it is complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = data.lower().find(b"content-length:", 0, end)
    body = int(data[at + 15 : data.find(b"\r", at)]) if at >= 0 else 0
    length = end + 4 + body
    return length if len(data) >= length else None


@contextmanager
def reference_server(
    *,
    service_ms: float = 0.0,
    queue: int | None = None,
    stall: tuple[float, float] | None = None,
) -> Iterator[str]:
    """Run the server in a process of its own; yields its URL.

    Parameters
    ----------
    service_ms
        What one request takes: the capacity is ``1000 / service_ms`` requests/s.
    queue
        Requests that may wait; one more gets 503 with ``Retry-After: 1``.
    stall
        The process stops (seconds after the first request, for so many seconds), once.

    Raises
    ------
    InputError
        A negative time or queue.
    RunError
        The server did not start.
    """
    require(service_ms >= 0, "service_ms", service_ms, "must be >= 0")
    require(queue is None or queue >= 0, "queue", queue, "must be >= 0")
    require(stall is None or min(stall) >= 0, "stall", stall, "must be two times >= 0")
    command = [sys.executable, "-m", __name__, "--service-ms", str(service_ms)]
    if queue is not None:
        command += ["--queue", str(queue)]
    if stall is not None:
        command += ["--stall", str(stall[0]), str(stall[1])]
    with supervised(command, name="reference server", grace_s=1.0, cwd=ROOT) as child:
        line = child.output.readline()
        if not line.startswith("port "):
            raise RunError(f"the reference server did not start: {line}{child.output.read()}")
        yield f"http://{LOOPBACK}:{line.split()[1]}/predictions/reference"


async def serve(server: ReferenceServer) -> None:
    """Listen on a free loopback port, print it, and serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    listening = await loop.create_server(lambda: _Connection(server), LOOPBACK, 0, backlog=1024)
    print("port", listening.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    listening.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--queue", type=int)
    parser.add_argument("--stall", type=float, nargs=2)
    options = parser.parse_args()
    run_on_fast_loop(
        serve(
            ReferenceServer(
                Worker(options.service_ms / 1000, options.queue),
                tuple(options.stall) if options.stall else None,
            )
        )
    )
