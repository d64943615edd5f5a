"""Runs the tests of one exercise beside a submission's code, and reports each as it ends.

The submission runs in this process, so nothing here is out of its reach in principle; what makes a
forged result hard is layered, and the process that decides is another one
(:mod:`common.grading.sandbox`), which the submission cannot reach at all:

- A test is announced before it runs and answered with a number that only its report may carry,
  once. A report that was made before its test, or a second one, is a sign of tampering. Without the
  closing message, or with one test missing, nothing is earned.
- Tests with known answers, made anew for each run and unknown to this module, run before and after
  the exercise's own: those that must fail have to fail (:mod:`common.grading.canaries`).
- What tests compare with (builtins, numpy, torch, pytest, hypothesis) is compared with what it was
  before the submission's code was imported (:mod:`common.grading.trusted_integrity`).
- Modules of comparisons are sealed: what a submission's code replaces in them is refused at once.
- The usual ways to find or patch a grader (frames, the garbage collector, ctypes, trace functions,
  signals to other processes) are refused by an audit hook, which Python cannot remove.

What is left to a determined author: to write into a module's dictionary, and have what is put there
put itself back before the next look; or native code of their own that takes over the interpreter.
Neither happens by accident, and :mod:`common.grading.source_signs` names the lines to read.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from common.exercises.catalog import Entry
from common.exercises.pytest_plugin import CATALOG
from common.grading import trusted_audit, trusted_integrity, trusted_seeds

MESSAGE_BYTES = 1 << 17
LONGEST = 6000
PLUGINS = (
    "common.exercises.pytest_plugin",
    "pytest_timeout",
    "_hypothesis_pytestplugin",
    "anyio.pytest_plugin",
)


def run(task: dict[str, Any], channel: socket.socket) -> int:
    """Run the tests of a task; pytest's exit status."""
    ask = _client(channel)
    root, work = Path(task["cwd"]), Path(task["env"]["LABS_WORK"])
    entries = [Entry(**each | {"file": Path(each["file"])}) for each in task["entries"]]
    seeds = trusted_seeds.install(task["secret_seed"], root / "tests", frozenset(task["fixed"]))
    audit = trusted_audit.Audit(root, work)
    wanted, own = frozenset(task["nodes"]), "net" in task["namespaces"]
    plugin = _plugin(ask, entries, wanted, seeds, audit, work, own)
    for name in [name for name in sys.modules if name.startswith("common.grading")]:
        del sys.modules[name]
    files = dict.fromkeys(node.partition("::")[0] for node in task["nodes"])
    arguments = [*files, "-o", "addopts=", "--import-mode=importlib"]
    arguments += [
        "--strict-markers",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminal",
        "-p",
        "no:legacypath",
    ]
    arguments += ["-o", f"timeout={task['test_s']}", "--continue-on-collection-errors"]
    arguments += ["--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    for name in PLUGINS:
        arguments += ["-p", name]
    status = pytest.main(arguments, plugins=[plugin])
    return int(status)


def _client(channel: socket.socket) -> Callable[..., str]:
    """Send one message, and wait for an answer if one is due."""
    send, receive, dumps = channel.sendall, channel.recv, json.dumps

    def ask(message: dict[str, Any], answered: bool = False) -> str:
        send(dumps(message).encode())
        return receive(64).decode() if answered else ""

    return ask


def _plugin(
    ask: Callable[..., str],
    entries: list[Entry],
    wanted: frozenset[str],
    seeds: Callable[[pytest.Item], None],
    audit: trusted_audit.Audit,
    work: Path,
    network_namespace: bool,
) -> object:
    """The pytest plugin. What it knows is held in closures, not in attributes."""
    clip = _clip

    class Driver:
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(self, config: pytest.Config) -> None:
            config.stash[CATALOG] = entries

        @pytest.hookimpl(tryfirst=True)
        def pytest_load_initial_conftests(self) -> None:
            # every plugin is there, and nothing of the submission's
            since.append(remember())
            audit.seal(sealable())
            if not network_namespace:
                audit.block_network()
            audit.install()

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            # A file of known answers is wanted whole, a test file for the tests named.
            items[:] = [
                item
                for item in items
                if item.nodeid.partition("[")[0] in wanted
                or item.nodeid.partition("::")[0] in wanted
            ]

        @pytest.hookimpl(trylast=True)
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            broken = [
                {"node": file.node, "outcome": file.outcome, "reason": clip(file.reason)}
                | {"exception": file.exception, "where": file.where}
                for plugin in session.config.pluginmanager.get_plugins()
                for file in getattr(plugin, "broken", [])
            ]
            nodes = [item.nodeid for item in session.items]
            ask({"collected": nodes, "broken": broken})

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
            number = ask({"begin": item.nodeid}, True)
            found: dict[str, Any] = {"outcome": "passed", "reason": "", "phases": []}
            running.append(found)
            seeds(item)
            try:
                return (yield)
            finally:
                running.pop()
                ask(
                    {"node": item.nodeid, "number": number, "result": found}
                    | {"changed": changed(), "refused": list(refused())}
                )

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            found = running[-1]
            told = dict(getattr(report, "exercise", {}))
            if not told:
                told = {"outcome": "passed" if report.passed else "failed"}
                told["reason"] = "" if report.passed else str(report.longrepr)
            found["phases"].append(report.when)
            found["doc"] = told.get("doc", "")
            if found["outcome"] == "passed":
                phases = found["phases"]
                found.update({key: clip(value) for key, value in told.items()}, phases=phases)

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(self) -> None:
            ask(
                {"end": True, "changed": changed(), "refused": list(refused())}
                | {"classes": trusted_classes(work)}
            )

    running: list[dict[str, Any]] = []
    since: list[Callable[[], list[str]]] = []
    remember, sealable = trusted_integrity.changed_since, trusted_integrity.sealable
    refused = audit.refused
    trusted_classes = trusted_integrity.equal_to_anything

    def changed() -> list[str]:
        return since[0]()

    return Driver()


def _clip(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST:
        return value[:LONGEST] + f"\n... {len(value) - LONGEST} more characters"
    return value
