"""The gateway as traffic: what is sent to it, and how its event log becomes windows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
from capstone.gateway_traffic import GatewayTraffic, count_arms
from common.errors import InputError, RunError
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MICROSECOND = 1_000_000


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    tables = FeedTables(folder)
    log = WriteAheadLog.open(tables.log(kind), first_lsn=1)
    log.commit(log.append_many([json.dumps(row).encode() for row in rows]))
    log.close()


def exposure(number: int, variant: int, *, age_s: float = 10.0, **more: Any) -> dict[str, Any]:
    at = int((NOW - timedelta(seconds=age_s)).timestamp() * MICROSECOND)
    row = {
        "request_id": f"r{number}", "unit_id": f"u{number}", "user_id": 1, "variant": variant,
        "in_experiment": True, "fallback": None, "latency_ms": 10.0, "at": at,
    }  # fmt: skip
    return row | more


def reaction(request: int, item: int, kind: str) -> dict[str, Any]:
    return {
        "event_id": f"e{request}-{item}-{kind}", "request_id": f"r{request}", "user_id": 1,
        "item_id": item, "reaction": kind, "at": int(NOW.timestamp() * MICROSECOND),
    }  # fmt: skip


def test_windows_count_what_the_log_says_of_each_arm(tmp_path: Path) -> None:
    """The rollout decides on these counts: each fault must land in its own, in its own arm."""
    write(
        tmp_path,
        EXPOSURES,
        [
            exposure(1, 0),
            exposure(2, 0, latency_ms=80.0),
            exposure(3, 1, fallback="score"),
            exposure(4, 1),
            exposure(5, 1, in_experiment=False),
            exposure(6, 1, age_s=0.2),
            exposure(7, 1, age_s=900.0),
            exposure(8, 2),
        ],
    )
    write(
        tmp_path,
        REACTIONS,
        [
            reaction(1, 11, "click"),
            reaction(1, 12, "like"),
            reaction(1, 12, "click"),
            reaction(4, 13, "share"),
            reaction(4, 14, "hide"),
            reaction(4, 15, "hide"),
            reaction(5, 11, "click"),
        ],
    )
    champion, candidate = count_arms(
        FeedTables(tmp_path),
        NOW - timedelta(seconds=60),
        NOW - timedelta(seconds=1),
        slow_ms=50.0,
    )
    assert (champion.feeds, champion.slow, champion.fallbacks) == (2, 1, 0), champion
    assert (champion.clicks, champion.squares) == (2.0, 4.0), "an item counts once a feed"
    assert (candidate.feeds, candidate.fallbacks, candidate.hidden) == (2, 1, 1), candidate
    assert (candidate.clicks, candidate.sessions) == (1.0, 2), candidate


class Handler(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, Any]]
    shadow: dict[str, Any] | None
    status: int

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer({"coverage": 0.5, "arms": [{}, {}, {}], "shadow": self.shadow})

    def do_PUT(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], content))
        self._answer({})

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Fresh", (Handler,), {"asked": [], "shadow": None, "status": 200})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def traffic(url: str, folder: Path) -> GatewayTraffic:
    return GatewayTraffic(url, "admin", folder, slow_ms=50.0, candidate=2, clock=lambda: NOW)


def test_weights_go_to_the_two_arms_and_nobody_else(
    gateway: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    """An old arm that keeps a share would serve a bundle that nobody watches."""
    url, handler = gateway
    found = traffic(url, tmp_path)
    found.route(0.05, shadow=False)
    found.route(0.0, shadow=True)
    found.close()
    (first, second) = handler.asked
    assert first[:2] == ("/experiment", "Bearer admin")
    assert first[2] == {"weights": [0.95, 0.0, 0.05], "coverage": 0.5, "shadow_share": 0.25}
    assert second[2]["weights"] == [1.0, 0.0, 0.0]
    assert second[2]["shadow"] == 2


def test_a_shadow_is_counted_from_where_its_window_began(
    gateway: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    """A shadow writes no log; its counts of an earlier rollout are none of this one's."""
    url, handler = gateway
    found = traffic(url, tmp_path)
    handler.shadow = {"same": 40, "other": 10, "failed": 5}
    window = found.begin()
    handler.shadow = {"same": 100, "other": 45, "failed": 8}
    seen = found.windows(window)
    assert (seen.candidate.feeds, seen.candidate.errors) == (98, 3), seen
    assert seen.id == window
    handler.shadow = {"same": 3, "other": 0, "failed": 0}
    lost = found.windows(window)
    found.close()
    assert lost.id != window, "the gateway began to count anew: this window is lost"


def test_a_refusal_and_an_outage_are_two_errors(
    gateway: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    """An outage is asked again, a refusal is not: asking again gets the same."""
    url, handler = gateway
    found = traffic(url, tmp_path)
    for status, error in ((503, RunError), (422, InputError)):
        handler.status = status
        with pytest.raises(error, match=str(status)):
            found.begin()
    found.close()
    away = traffic("http://127.0.0.1:9", tmp_path)
    with pytest.raises(RunError, match="did not answer"):
        away.begin()
    away.close()
