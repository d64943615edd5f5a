"""What the drills break, and how: processes, files, limits of the running service.

Every fault is a real one: signals to real processes, a real file-size limit on the real gateway,
a bundle with a flipped byte. Nothing in the service knows that it is being tested.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from capstone import bundle
from capstone.bundle import PARTS, Bundle
from capstone.event_tables import REACTIONS, FeedTables
from capstone.fault_drills import Fault
from capstone.serving import Service

RESTART_S = 6.0
"""Seconds in which TorchServe, killed and started again, answers on an ordinary machine."""
STATE_ERRORS = re.compile(r"^feed_user_state_errors_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


def logged_events(service: Service) -> set[str]:
    """Ids of all reactions in the service's log."""
    rows = FeedTables(service.log).read(REACTIONS)
    return set(rows["event_id"].to_pylist())


def torchserve_killed(service: Service) -> Fault:
    """``kill -9`` of TorchServe and its workers; mended by starting it again."""

    def kill() -> None:
        family = psutil.Process(service.torchserve.child.pid)
        for process in [*family.children(recursive=True), family]:
            if "java" in process.name() or "python" in process.name():
                process.kill()

    return Fault(
        "TorchServe killed", kill, service.restart_torchserve,
        "feeds fall back to the last ranking or the popular ones until it is started again",
        mended_s=RESTART_S,
    )  # fmt: skip


def slow_ranker(service: Service) -> Fault:
    """The ranker's workers are stopped (SIGSTOP): connections stay open, answers do not come."""

    def send(number: int) -> Callable[[], None]:
        def to_all() -> None:
            for pid in service.torchserve.worker_pids():
                os.kill(pid, number)

        return to_all

    return Fault(
        "ranker hangs", send(signal.SIGSTOP), send(signal.SIGCONT),
        "the score stage misses its deadline, then the circuit breaker spares the wait",
    )  # fmt: skip


def redis_gone(service: Service, pid: int, start_again: Callable[[], object]) -> Fault:
    """``kill -9`` of Redis; mended by starting it on the same port and folder."""

    def errors() -> float:
        found = STATE_ERRORS.findall(service.metrics())
        return sum(map(float, found))

    before = errors()
    return Fault(
        "Redis gone", lambda: os.kill(pid, signal.SIGKILL), start_again,
        "histories come from the gateway's copy; reactions wait in the event log",
        showed=lambda drill: errors() > before,
    )  # fmt: skip


def disk_full(service: Service) -> Fault:
    """No file of the gateway may grow: writes fail as on a full disk (EFBIG for ENOSPC)."""
    pid = gateway_pid(service)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))

    def free() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    return Fault(
        "disk full", fill, free,
        "reactions are refused and not acknowledged, feeds go on",
        showed=lambda drill: drill.refused > 0,
    )  # fmt: skip


def index_corrupt(service: Service, corrupt: str, refused: list[int]) -> Fault:
    """A bundle whose index has a flipped byte is offered to the running service.

    ``refused`` receives the status of the answer: 409.
    """

    def offer() -> None:
        answer = httpx.post(
            f"{service.url}/bundles", json={"folder": corrupt, "arm": "corrupt"},
            headers=service.admin_headers, timeout=10, trust_env=False,
        )  # fmt: skip
        refused.append(answer.status_code)

    return Fault(
        "index file corrupt", offer, lambda: None,
        "the bundle is refused (409) and counted; the one that is served goes on",
        showed=lambda drill: refused == [409],
    )  # fmt: skip


def gateway_pid(service: Service) -> int:
    """The gateway's own process (the child that is supervised is its guard)."""
    family = psutil.Process(service.gateway.pid).children(recursive=True)
    found = [each for each in family if "capstone.gateway" in " ".join(each.cmdline())]
    return found[0].pid if found else service.gateway.pid


def corrupt_copy(made: Bundle, folder: Path) -> Path:
    """A copy of a bundle with one byte of its index file flipped."""
    shutil.copytree(made.folder, folder)
    index = max((folder / PARTS["index"]).iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 0xFF
    index.write_bytes(data)
    return folder


def poisoned_copy(made: Bundle, folder: Path) -> Bundle:
    """A whole bundle, correctly hashed, whose ranker answers NaN: what a gate would have refused.

    It stands for everything that gates do not foresee: only live traffic shows it.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(made.ranker)
    name = "p_engage"
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if out == name else out for out in node.output]
        node.input[:] = [f"{name}_before" if given == name else given for given in node.input]
    poison = helper.make_tensor("poison", TensorProto.FLOAT, [], [float("nan")])
    model.graph.initializer.append(poison)
    model.graph.node.append(helper.make_node("Mul", [f"{name}_before", "poison"], [name]))
    ranker = folder.parent / f"{folder.name}.ranker.onnx"
    folder.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, ranker)
    parts = {part: made.folder / file for part, file in PARTS.items()}
    facts = made.facts
    return bundle.assemble(folder, parts | {"ranker": ranker}, facts)
