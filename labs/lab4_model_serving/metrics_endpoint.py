"""``/metrics`` on a port of its own, answered by a thread.

A scrape makes some hundred lines of text. On the port of the requests it would wait behind them
when the server is busiest, which is when it matters; and what is said about the model's traffic
need not be readable by everybody who may ask the model.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from common.ports import LOOPBACK


class Exposed(Protocol):
    """What has metrics to show, such as ``ServingMetrics``."""

    def exposition(self) -> tuple[bytes, str]:
        """The body of ``/metrics`` and its content type."""


@contextmanager
def metrics_endpoint(
    metrics: Exposed, *, port: int = 0, token: str | None = None, host: str = LOOPBACK
) -> Iterator[str]:
    """Answer ``GET /metrics`` until the block ends.

    Parameters
    ----------
    port
        0 picks a free one.
    token
        Bearer token that a scrape must carry; None asks for none.
    host
        Address to listen on; another than loopback is for a container, whose network is its own.

    Yields
    ------
    str
        ``"host:port"``, a target for Prometheus.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if token is not None and not hmac.compare_digest(
                given.encode("latin-1"), f"Bearer {token}".encode()
            ):
                self.send_error(401)
            elif self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
            else:
                body, content_type = metrics.exposition()
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="metrics")
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
