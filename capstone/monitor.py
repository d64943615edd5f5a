"""The monitor: a process that reads the event log every minute and exports what it says.

``python -m capstone.monitor CONFIG`` serves ``/metrics`` on a port of its own. It is not the
gateway's work: a join over a day of feeds would cost requests their deadline, and what it needs,
groups of users and references, the gateway need not know.

Each statistic comes with its limit and its number of rows, so that an alert is ``x > x_limit`` with
a guard, and no threshold is repeated in a rule.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from capstone.drift import Reference, load_references, save_references
from capstone.online_quality import Groups, OnlineQuality, measure, score_references
from common.errors import EXIT_BAD_INPUT, EXIT_OK, InputError, RunError, require
from common.ports import LOOPBACK, require_port_free
from labs.lab4_model_serving.metrics_endpoint import metrics_endpoint

LEAST_REFERENCE_FEEDS = 200


@dataclass(frozen=True)
class MonitorConfig:
    """What the monitor reads and where it answers."""

    events: str
    """Folder of the gateway's event log, or of the logs of several gateways, one below it each."""
    port: int
    references: str = ""
    """File of :func:`capstone.drift.save_references`. When it is not there, the first users' scores
    become the reference and are written to it."""
    groups: str = ""
    """JSON: attribute to (user id to group). Empty: no gaps are computed."""
    version: str = ""
    """Of the bundle that is looked at; empty is every feed."""
    interval_s: float = 60.0
    window_h: float = 24.0
    host: str = LOOPBACK

    def __post_init__(self) -> None:
        require(self.interval_s >= 0.1, "interval_s", self.interval_s, "must be >= 0.1", "try 60")
        require(self.window_h > 0, "window_h", self.window_h, "must be > 0", "try 24")

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> MonitorConfig:
        """Raises :class:`InputError` for a file that is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is no configuration of the monitor: {error}") from error


class MonitorMetrics:
    """Every metric of the monitor, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.success = self._gauge(
            "feed_monitor_last_success_timestamp_seconds", "Unix time of the newest result.", []
        )
        self.success.set(time.time())  # a monitor that has just started is not stale
        self.failures = Counter(
            "feed_monitor_failures", "Computations that failed.", registry=self.registry
        )
        self.seconds = self._gauge("feed_monitor_seconds", "Seconds of the newest result.", [])
        self.logged = self._gauge("feed_logged_feeds", "Feeds in the window.", [])
        self.users = self._gauge("feed_logged_users", "Users in the window.", [])
        self.reactions = self._gauge("feed_logged_reactions", "Reactions in the window.", [])
        self.engaged = self._gauge(
            "feed_engaged_share", "Share of shown items clicked, liked or shared.", []
        )
        self.exploration = self._gauge(
            "feed_exploration_share", "Share of shown items that explore.", []
        )
        self.fallback = self._gauge("feed_fallback_share", "Share of feeds without a ranker.", [])
        self.calibration, self.calibration_limit, self.calibration_rows = self._judged(
            "feed_calibration_error", "Expected calibration error given a reaction", "head"
        )
        self.predicted = self._gauge(
            "feed_predicted_rate", "Mean probability of items reacted to.", ["head"]
        )
        self.observed = self._gauge(
            "feed_observed_rate", "Share of items reacted to with label 1.", ["head"]
        )
        self.gap, self.gap_limit, self.gap_rows = self._judged(
            "feed_group_gap", "Largest difference of engagement between groups", "attribute"
        )
        self.group_share = self._gauge(
            "feed_group_engaged_share", "Engaged share by group.", ["attribute", "group"]
        )
        self.psi, self.psi_limit, self.psi_rows = self._judged(
            "feed_score_psi", "Population stability index against the reference", "head"
        )

    def show(self, found: OnlineQuality, took_s: float) -> None:
        """Set everything; a head or attribute that is no longer judged disappears."""
        for gauge, value in (
            (self.logged, found.feeds),
            (self.users, found.users),
            (self.reactions, found.reactions),
            (self.engaged, found.engaged_share),
            (self.exploration, found.exploration_share),
            (self.fallback, found.fallback_share),
            (self.seconds, took_s),
        ):
            gauge.set(value)
        for gauge in self._labelled:
            gauge.clear()
        for head in found.calibration:
            self.calibration.labels(head.head).set(head.error)
            self.calibration_limit.labels(head.head).set(head.limit)
            self.calibration_rows.labels(head.head).set(head.rows)
            self.predicted.labels(head.head).set(head.predicted)
            self.observed.labels(head.head).set(head.observed)
        for gap in found.gaps:
            self.gap.labels(gap.attribute).set(gap.gap)
            self.gap_limit.labels(gap.attribute).set(gap.limit)
            self.gap_rows.labels(gap.attribute).set(gap.rows)
            for group, share in gap.shares.items():
                self.group_share.labels(gap.attribute, group).set(share)
        for drift in found.drift:
            self.psi.labels(drift.name).set(drift.psi)
            self.psi_limit.labels(drift.name).set(drift.limit)
            self.psi_rows.labels(drift.name).set(drift.rows)
        self.success.set(time.time())

    def exposition(self) -> tuple[bytes, str]:
        """The body of ``/metrics`` and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    @property
    def _labelled(self) -> list[Gauge]:
        return [
            self.calibration, self.calibration_limit, self.calibration_rows, self.predicted,
            self.observed, self.gap, self.gap_limit, self.gap_rows, self.group_share, self.psi,
            self.psi_limit, self.psi_rows,
        ]  # fmt: skip

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _judged(self, name: str, text: str, label: str) -> tuple[Gauge, Gauge, Gauge]:
        return (
            self._gauge(name, f"{text}.", [label]),
            self._gauge(f"{name}_limit", f"{text}: what chance alone does not exceed.", [label]),
            self._gauge(f"{name}_rows", f"{text}: rows or users behind it.", [label]),
        )


class Monitor:
    """Recomputes on demand; :func:`serve` calls :meth:`refresh` every interval."""

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self.metrics = MonitorMetrics()
        self.groups = read_groups(Path(config.groups)) if config.groups else {}
        self.references: dict[str, Reference] = {}
        if config.references and Path(config.references).exists():
            self.references = load_references(Path(config.references))

    def refresh(self) -> OnlineQuality | None:
        """Compute once; None, counted, when the log cannot be read now."""
        import duckdb
        import pyarrow

        started = time.monotonic()
        try:
            found = self._measure()
        except (RunError, OSError, duckdb.Error, pyarrow.ArrowException) as error:
            self.metrics.failures.inc()
            print(f"the log {self.config.events} cannot be read: {error}", file=sys.stderr)
            return None
        self.metrics.show(found, time.monotonic() - started)
        return found

    def _measure(self) -> OnlineQuality:
        config = self.config
        found = measure(
            Path(config.events),
            references=self.references,
            groups=self.groups,
            since=datetime.now(UTC) - timedelta(hours=config.window_h),
            version=config.version or None,
        )
        if not self.references and found.users >= LEAST_REFERENCE_FEEDS:
            self.references = score_references(Path(config.events), version=config.version or None)
            if config.references:
                save_references(self.references, Path(config.references))
        return found


def read_groups(path: Path) -> Groups:
    """Groups of users: JSON, attribute to (user id to group).

    Raises
    ------
    InputError
        There is no such file, or it holds something else.
    """
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {
            attribute: {int(user): str(group) for user, group in of_user.items()}
            for attribute, of_user in content.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no groups of users: {error}") from error


def write_groups(groups: Mapping[str, ArrayLike], users: ArrayLike, path: Path) -> Path:
    """Write what :func:`read_groups` reads.

    Parameters
    ----------
    groups
        Attribute to the group of each user, arrays [n].
    users
        Their ids, array [n].
    """
    ids = np.asarray(users).tolist()
    content = {
        attribute: dict(zip(map(str, ids), np.asarray(of_user).astype(str).tolist(), strict=True))
        for attribute, of_user in groups.items()
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@contextmanager
def serve(config: MonitorConfig) -> Iterator[Monitor]:
    """Answer ``/metrics`` and recompute every interval until the block ends.

    Raises
    ------
    InputError
        The port is taken, or a file of the configuration is wrong.
    """
    if config.port:
        require_port_free(config.port, "the monitor")
    monitor, stop = Monitor(config), threading.Event()

    def work() -> None:
        monitor.refresh()
        while not stop.wait(config.interval_s):
            monitor.refresh()

    thread = threading.Thread(target=work, name="monitor", daemon=True)
    with metrics_endpoint(monitor.metrics, port=config.port, host=config.host) as target:
        print(f"http://{target}/metrics", flush=True)
        thread.start()
        try:
            yield monitor
        finally:
            stop.set()
            thread.join(timeout=30)


def main(path: str) -> int:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    try:
        with serve(MonitorConfig.read(Path(path))):
            ended.wait()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_OK


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m capstone.monitor CONFIG", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT)
    raise SystemExit(main(sys.argv[1]))
