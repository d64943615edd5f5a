"""The gateway as a rollout's traffic: weights by ``PUT /experiment``, windows from its own log.

What a candidate did is read where everything else reads it, in the event log: a row a feed, a row a
reaction, joined by the request. A window is a time in that log, so a controller that was killed
finds the window it began, and one gateway restart more or less changes nothing.

A shadow's feeds are seen by nobody and are in no log; the gateway counts them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
from capstone.rollout import Windows
from capstone.rollout_decision import ArmWindow
from common.errors import InputError, RunError

SETTLE_S = 1.0
"""A feed this young may still be waiting for its reactions, or for the disk: not yet counted."""


class GatewayTraffic:
    """Champion and candidate, two variants of a running gateway; any other arm gets nobody.

    Parameters
    ----------
    url, admin_token
        Of the gateway.
    log
        Folder of the gateway's event log.
    slow_ms
        Feeds above it are slow.
    champion, candidate
        Their variants.
    shadow_share
        Share of the champion's feeds that are copied to a shadow.
    settle_s
        Feeds younger than this are not counted yet.

    Raises
    ------
    InputError
        The gateway refused (4xx); the message is its own.
    RunError
        It did not answer, or failed (5xx).
    """

    def __init__(
        self,
        url: str,
        admin_token: str,
        log: Path,
        *,
        slow_ms: float,
        champion: int = 0,
        candidate: int = 1,
        shadow_share: float = 0.25,
        settle_s: float = SETTLE_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log, self._slow_ms, self._clock = FeedTables(log), slow_ms, clock
        self._variants, self._shadow_share = (champion, candidate), shadow_share
        self._settle = timedelta(seconds=settle_s)
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {admin_token}"},
            trust_env=False,
            timeout=10.0,
        )

    def close(self) -> None:
        self._client.close()

    def route(self, weight: float, *, shadow: bool) -> None:
        """Give the candidate ``weight`` of the units, or copies of the champion's requests."""
        champion, candidate = self._variants
        now = self._ask("GET", "/experiment")
        weights = [0.0] * len(now["arms"])
        weights[champion], weights[candidate] = 1 - weight, weight
        content = {
            "weights": weights,
            "coverage": now["coverage"],
            "shadow_share": self._shadow_share,
        }
        if shadow:
            content["shadow"] = candidate
        self._ask("PUT", "/experiment", content)

    def begin(self) -> str:
        """A window that begins now. Its id says all of it, so it outlives both processes."""
        counted, failed = self._shadow()
        return f"{self._clock().isoformat()} {counted} {failed}"

    def windows(self, window: str) -> Windows:
        """Counts of both arms since the window began.

        A feed counts once it is ``settle_s`` old; its reactions are those that came by then.
        """
        began, counted, failed = window.split()
        now_counted, now_failed = self._shadow()
        if now_counted < int(counted):
            return Windows("", ArmWindow(), ArmWindow())  # restarted: its counters began anew
        since = datetime.fromisoformat(began)
        arms = count_arms(
            self._log,
            since,
            self._clock() - self._settle,
            slow_ms=self._slow_ms,
            variants=self._variants,
        )
        copies = now_counted - int(counted)
        if copies and arms[1] == ArmWindow():
            arms = arms[0], ArmWindow(feeds=copies, errors=now_failed - int(failed))
        return Windows(window, *arms)

    def _shadow(self) -> tuple[int, int]:
        """Shadow feeds so far, and those of them that failed."""
        report = self._ask("GET", "/experiment")["shadow"]
        if report is None:
            return 0, 0
        return report["same"] + report["other"] + report["failed"], report["failed"]

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._client.request(method, path, json=content)
        except httpx.TransportError as error:
            raise RunError(f"{path} did not answer: {error!r}") from error
        if answer.status_code >= 500:
            raise RunError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        if answer.status_code >= 400:
            raise InputError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()


def count_arms(
    log: FeedTables,
    since: datetime,
    until: datetime,
    *,
    slow_ms: float,
    variants: tuple[int, int] = (0, 1),
) -> tuple[ArmWindow, ArmWindow]:
    """Champion's and candidate's windows from the event log: units of the experiment only.

    A feed that was answered with 5xx has no row; the SLO's alert sees it. A fallback feed counts
    for the arm that the unit was assigned to, whatever was shown: an arm whose fallbacks are left
    out looks better the more often it fails.
    """
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    tables: dict[str, pa.Table] = {kind: log.read(kind) for kind in (EXPOSURES, REACTIONS)}
    for kind, rows in tables.items():
        connection.register(kind, rows)
    found = connection.execute(
        """
        WITH feeds AS (
            SELECT request_id, variant, fallback IS NOT NULL AS fell, latency_ms > ? AS slow
            FROM exposures
            WHERE in_experiment AND "at" >= ?::TIMESTAMPTZ AND "at" < ?::TIMESTAMPTZ),
        reacted AS (
            SELECT request_id,
                   count(DISTINCT item_id) FILTER (reaction <> 'hide') AS clicks,
                   count(*) FILTER (reaction = 'hide') AS hides
            FROM reactions GROUP BY request_id)
        SELECT variant, count(*), count(*) FILTER (fell), count(*) FILTER (slow),
               count(*) FILTER (coalesce(hides, 0) > 0),
               coalesce(sum(clicks), 0), coalesce(sum(clicks * clicks), 0)
        FROM feeds LEFT JOIN reacted USING (request_id) GROUP BY variant
        """,
        [slow_ms, since.isoformat(), until.isoformat()],
    ).fetchall()
    arms: dict[int, ArmWindow] = {}
    for variant, n, fell, slow, hidden, clicks, squares in found:
        arms[variant] = ArmWindow(n, 0, fell, slow, n, hidden, float(clicks), float(squares))
    return arms.get(variants[0], ArmWindow()), arms.get(variants[1], ArmWindow())
