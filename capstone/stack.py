"""Monitoring beside a running service: monitor, Prometheus and Alertmanager as supervised children.

Everything listens on loopback and ends with the block. Prometheus and Alertmanager are used where
they are installed; where not, the service runs without them and says what is missing. Rules and
routes are the files of ``docker/``: what runs here is what runs there.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from capstone.alerts import DOCKER, RULES_FILE
from capstone.monitor import MonitorConfig
from common.errors import RunError
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised
from labs.lab4_model_serving.prometheus import Prometheus, prometheus

ROUTES_FILE = DOCKER / "alertmanager.yml"
START_TIMEOUT_S = 30.0
ALERTMANAGER = ("alertmanager", "prometheus-alertmanager")
"""The program's name, upstream and in Debian."""


@dataclass(frozen=True)
class Monitoring:
    """What runs beside the service."""

    monitor: str
    """``host:port`` of the monitor's metrics."""
    prometheus: Prometheus | None
    alertmanager: str | None
    """URL, None where it is not installed."""
    missing: tuple[str, ...]
    """What is not installed, and how to get it."""

    def lines(self) -> list[str]:
        """For the operator's screen."""
        found = [f"monitor        http://{self.monitor}/metrics"]
        if self.prometheus:
            found.append(f"prometheus     {self.prometheus.url}/alerts")
        if self.alertmanager:
            found.append(f"alertmanager   {self.alertmanager}")
        return found + [f"not running    {each}" for each in self.missing]


def missing_programs() -> list[str]:
    """What is not installed of Prometheus (with promtool) and Alertmanager."""
    found = []
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        found.append("prometheus: apt-get install prometheus")
    if alertmanager_program() is None:
        found.append("alertmanager: apt-get install prometheus-alertmanager")
    return found


def alertmanager_program() -> str | None:
    """The path of Alertmanager, or None."""
    return next(filter(None, map(shutil.which, ALERTMANAGER)), None)


@contextmanager
def monitoring(
    gateways: Sequence[str],
    config: MonitorConfig,
    *,
    folder: Path,
    interval_s: float = 5.0,
    token: str | None = None,
    prometheus_port: int = 0,
) -> Iterator[Monitoring]:
    """Run the monitor, and Prometheus and Alertmanager where they are installed.

    Parameters
    ----------
    gateways
        ``"host:port"`` of the gateways' metrics.
    config
        Of the monitor; a port of 0 picks a free one.
    folder
        Receives configurations, data and logs.
    interval_s
        Seconds between scrapes.
    token
        Bearer token that the gateways ask of a scrape.
    prometheus_port
        0 picks a free one.

    Raises
    ------
    InputError
        A port is taken, or a file of the configuration is wrong.
    RunError
        Something that is installed did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        port = config.port or free_port()
        running.enter_context(_monitor(replace(config, port=port), folder))
        target = f"{LOOPBACK}:{port}"
        alertmanager = None
        if program := alertmanager_program():
            alertmanager = running.enter_context(_alertmanager(program, folder))
        server = None
        if shutil.which("prometheus") and shutil.which("promtool"):
            server = running.enter_context(
                prometheus(
                    {"feed": gateways, "monitor": [target]},
                    folder=folder / "prometheus",
                    rules=[RULES_FILE],
                    interval_s=interval_s,
                    token=token,
                    alertmanagers=[alertmanager.removeprefix("http://")] if alertmanager else [],
                    port=prometheus_port,
                )
            )
        yield Monitoring(target, server, alertmanager, tuple(missing_programs()))


@contextmanager
def _monitor(config: MonitorConfig, folder: Path) -> Iterator[None]:
    repository = str(Path(__file__).parents[1])
    paths = [repository, *filter(None, [os.environ.get("PYTHONPATH")])]
    with supervised(
        [sys.executable, "-m", "capstone.monitor", config.write(folder / "monitor.json")],
        log=folder / "monitor.log",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        name="monitor",
    ) as child:
        _wait(f"http://{LOOPBACK}:{config.port}/metrics", child)
        yield


@contextmanager
def _alertmanager(program: str, folder: Path) -> Iterator[str]:
    url = f"http://{LOOPBACK}:{free_port()}"
    command = [
        program,
        f"--config.file={ROUTES_FILE}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",  # no gossip: there is one
        "--log.level=warn",
    ]
    with supervised(command, log=folder / "alertmanager.log", name="Alertmanager") as child:
        _wait(f"{url}/-/ready", child)
        yield url


def received(alertmanager: str) -> list[dict[str, Any]]:
    """The alerts that an Alertmanager has, as its API gives them."""
    answer = httpx.get(f"{alertmanager}/api/v2/alerts", timeout=5, trust_env=False)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def _wait(url: str, child: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RunError(f"{child.name} ended at start:\n{child.tail()}")
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.05)
    raise RunError(f"{child.name} was not ready after {START_TIMEOUT_S:.0f} s:\n{child.tail()}")
