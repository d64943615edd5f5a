"""A real Prometheus on loopback that lives as long as its block, and its rule checker.

Prometheus asks every target for its text each interval, stores the samples, evaluates rules and
answers queries. Nothing of it is imitated here: the program itself runs, so what a lesson says of
``rate`` and ``histogram_quantile`` is what production does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common.errors import InputError, RunError, require
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised

MONITORING = Path(__file__).with_name("monitoring")
RECORDING_RULES, ALERT_RULES = MONITORING / "recording.yml", MONITORING / "alerts.yml"
RULE_TESTS = MONITORING / "alerts_test.yml"


@dataclass(frozen=True)
class Sample:
    """One series of an answer, at one moment."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Alert:
    """An alert that is ``pending`` (its ``for`` is not over) or ``firing``."""

    name: str
    state: str
    labels: Mapping[str, str]


class Prometheus:
    """A running Prometheus. Made by :func:`prometheus`."""

    def __init__(self, url: str, child: Child) -> None:
        self.url = url
        self._child = child
        self._client = httpx.Client(trust_env=False, timeout=30)

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression now, or ``at`` a Unix time.

        Returns
        -------
        list of Sample
            A scalar is one sample without labels. NaN and infinities are floats.

        Raises
        ------
        InputError
            Prometheus does not understand the expression, or it is no instant vector or scalar.
        RunError
            Prometheus does not answer.
        """
        data = {"query": expression} | ({} if at is None else {"time": str(at)})
        found = self._api("query", data)
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        if found["resultType"] != "vector":
            raise InputError(f"{expression!r} is a {found['resultType']}; ask for one moment")
        return [Sample(each["metric"], float(each["value"][1])) for each in found["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """The value of an expression that has exactly one.

        Raises
        ------
        InputError
            It has none, or several series.
        """
        samples = self.query(expression, at)
        if len(samples) != 1:
            raise InputError(f"{expression!r} gave {len(samples)} series, not 1; aggregate it")
        return samples[0].value

    def wait_for(
        self, expression: str, holds: Callable[[float], bool], *, timeout: float = 30
    ) -> float:
        """Ask until the expression has one value for which ``holds``, and return it.

        Raises
        ------
        RunError
            The time was up; the message has the last answer.
        """
        deadline = time.monotonic() + timeout
        while True:
            samples = self.query(expression)
            if len(samples) == 1 and holds(samples[0].value):
                return samples[0].value
            if time.monotonic() > deadline:
                raise RunError(f"{expression!r} was still {samples} after {timeout:g} s")
            time.sleep(0.05)

    def alerts(self) -> list[Alert]:
        """What is pending or firing."""
        return [
            Alert(each["labels"]["alertname"], each["state"], each["labels"])
            for each in self._api("alerts")["alerts"]
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its ``health`` and ``lastError``."""
        return [rule for group in self._api("rules")["groups"] for rule in group["rules"]]

    def _api(self, path: str, data: Mapping[str, str] | None = None) -> Any:
        url = f"{self.url}/api/v1/{path}"
        try:
            answer = self._client.post(url, data=data) if data else self._client.get(url)
        except httpx.TransportError as error:
            raise RunError(f"{url} did not answer: {error}\n{self._child.tail()}") from error
        try:
            parsed = answer.json()
        except ValueError:
            parsed = {}
        if parsed.get("status") != "success":
            message = parsed.get("error", answer.text[:500])
            raise InputError(f"Prometheus refused {path} {dict(data or {})}: {message}")
        return parsed["data"]

    def _wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self._client.get(f"{self.url}/-/ready").is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"Prometheus did not start in {timeout:g} s:\n{self._child.tail()}")
            time.sleep(0.05)


@contextmanager
def prometheus(
    targets: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    folder: Path,
    rules: Sequence[Path] = (),
    interval_s: float = 1.0,
    token: str | None = None,
    history: str = "",
    start_timeout: float = 30,
    alertmanagers: Sequence[str] = (),
    port: int = 0,
) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends.

    Parameters
    ----------
    targets
        ``"host:port"`` of servers with ``/metrics``; they get the label ``job="serving"``. Or a
        mapping of such lists by job.
    folder
        Receives configuration, data and log.
    rules
        Rule files, such as :data:`RECORDING_RULES`.
    interval_s
        Seconds between scrapes and between evaluations. Production takes 15 to 60.
    token
        Bearer token for the targets; it is read from a file that only this user may read.
    history
        Samples of the past in OpenMetrics text (with times, ending in ``# EOF``), loaded before
        the start.
    alertmanagers
        ``"host:port"`` of the Alertmanagers that firing alerts are sent to.
    port
        On 127.0.0.1; 0 picks a free one.

    Raises
    ------
    InputError
        Prometheus is not installed, or a rule file does not exist or is wrong.
    RunError
        It did not start.
    """
    program = _program("prometheus")
    require(interval_s >= 0.05, "interval_s", interval_s, "must be >= 0.05")
    for path in rules:
        check_rules(path)
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    token_file = None
    if token is not None:
        token_file = folder / "token"
        with os.fdopen(
            os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
        ) as stream:
            stream.write(token)
    jobs = targets if isinstance(targets, Mapping) else {"serving": targets}
    config.write_text(
        _configuration(jobs, rules, interval_s, token_file, alertmanagers), encoding="utf-8"
    )
    if history:
        _load_history(history, folder)
    port = port or free_port()
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    ]
    with supervised(command, log=log, name="Prometheus") as child:
        server = Prometheus(f"http://{LOOPBACK}:{port}", child)
        try:
            server._wait_ready(start_timeout)
            yield server
        finally:
            server._client.close()


def _configuration(
    jobs: Mapping[str, Sequence[str]],
    rules: Sequence[Path],
    interval_s: float,
    token_file: Path | None,
    alertmanagers: Sequence[str],
) -> str:
    from jinja2 import Environment, StrictUndefined

    template = (MONITORING / "prometheus.yml.j2").read_text(encoding="utf-8")
    return (
        Environment(undefined=StrictUndefined)
        .from_string(template)
        .render(
            jobs={job: list(targets) for job, targets in jobs.items()},
            alertmanagers=list(alertmanagers),
            rules=[str(path.resolve()) for path in rules],
            interval=f"{round(interval_s * 1000)}ms",
            token_file=str(token_file.resolve()) if token_file else None,
        )
    )


def _load_history(history: str, folder: Path) -> None:
    text = folder / "history.om"
    text.write_text(history, encoding="utf-8")
    _promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data"))


def check_rules(path: Path) -> None:
    """Have promtool check a rule file.

    Raises
    ------
    InputError
        There is no such file, promtool is not installed, or it found a fault.
    """
    if not path.is_file():
        raise InputError(f"no rule file at {path}")
    _promtool("check", "rules", str(path))


def check_expressions(expressions: Sequence[str], folder: Path) -> None:
    """Have promtool parse every expression.

    Raises
    ------
    InputError
        One is wrong; the message says which and where.
    """
    rules = [{"record": f"checked:{i}", "expr": each} for i, each in enumerate(expressions)]
    file = folder / "expressions.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"groups": [{"name": "checked", "rules": rules}]}), encoding="utf-8")
    check_rules(file)


def run_rule_tests(*paths: Path) -> str:
    """Run promtool's unit tests of rules (:data:`RULE_TESTS`), and return what it printed.

    Raises
    ------
    InputError
        A test failed: the message has what was expected and what was got.
    """
    return _promtool("test", "rules", *map(str, paths or (RULE_TESTS,)))


def _promtool(*arguments: str) -> str:
    done = subprocess.run(
        [_program("promtool"), *arguments], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise InputError(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InputError(
            f"{name} is not installed; apt-get install prometheus (it brings promtool)"
        )
    return found
