"""Run the tests of one exercise beside a submission's code, out of its reach.

:class:`Sandbox` starts a zygote (:mod:`common.grading.zygote`), and for each task hands it a
channel, reads what the tests report, and ends the task at its limits. Verdicts are made here, in a
process that the submission shares nothing with: what it may send is announced beforehand, each
announcement is answered with a number that is used once, and everything out of order is kept as a
sign of tampering. :mod:`common.grading.trusted_driver` says what the other end does, and what is
not promised.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.grading.confinement import NAMESPACES

PRELOADED = (
    *("pytest", "hypothesis", "numpy", "pandas", "scipy.stats", "_hypothesis_pytestplugin"),
    *("anyio.pytest_plugin", "pytest_timeout", "libcst", "hypothesis.strategies"),
    *("numpy.testing", "unittest.mock", "_pytest.recwarn"),
)
FIRST_USER, USERS = 1_879_048_192, 65_536 * 1024
"""Users that no system gives to anybody; each run has one of its own."""
START_S, STOP_S = 240.0, 30.0
MESSAGE_BYTES = 1 << 18
MOST_MESSAGES = 20_000


@dataclass(frozen=True)
class Limits:
    """What one exercise of one submission may use.

    Parameters
    ----------
    test_s
        Seconds for one test, and as many to import the code.
    exercise_s
        Seconds for all tests of an exercise.
    memory_mb
        Memory of all processes together, and of each.
    processes
        Processes and threads.
    file_mb, disk_mb
        Size of one file; of everything in ``/tmp``, which is memory.
    output_kb
        Text on standard output and error that is kept; four times as much ends the run.
    """

    test_s: float = 60.0
    exercise_s: float = 180.0
    memory_mb: int = 6144
    processes: int = 256
    file_mb: int = 256
    disk_mb: int = 512
    output_kb: int = 1024


@dataclass
class Ran:
    """What came out of one task: ``results`` by node id, and everything that was odd."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)
    collected: list[str] | None = None
    canaries: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    tampering: list[str] = field(default_factory=list)
    ended: str = ""
    """Why it ended before it was complete: a limit, a signal, an exit status."""
    running: str = ""
    """The test that was running then."""
    output: str = ""
    seconds: float = 0.0
    namespaces: list[str] = field(default_factory=list)


class Sandbox:
    """A zygote and the folders it needs. May be used from several threads at once.

    Parameters
    ----------
    limits
        Of each run.
    preloaded
        Modules to import once, beside :data:`PRELOADED`.
    namespaces
        Which of the kernel's namespaces to ask for (default: all).
    user
        Whether to run as another user; only root can. Default: when root.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        preloaded: Sequence[str] = (),
        namespaces: Sequence[str] = tuple(NAMESPACES),
        user: bool | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._wanted = list(namespaces)
        self.namespaces: list[str] = []
        self._user = os.geteuid() == 0 if user is None else user
        self._preloaded = [*PRELOADED, *preloaded]
        self._users = itertools.count(secrets.randbelow(USERS))
        self.users: set[int] = set()
        """Those that runs had so far."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        self._folder = tempfile.TemporaryDirectory(prefix="grading-")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o711)
        self.stage = self.folder / "stage"
        self.stage.mkdir()
        self._log = self.folder / "zygote.log"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-s", "-m", "common.grading.zygote", str(theirs.fileno())]
        command += [str(self.stage), ",".join(self._wanted)]
        quiet = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        quiet |= {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"}
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *self._preloaded],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root,
                env=quiet | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._zygote = ours
        ours.settimeout(START_S)
        try:
            self.namespaces = json.loads(ours.recv(MESSAGE_BYTES))
        except (OSError, ValueError) as error:
            said = self._log.read_text(errors="replace")[-2000:]
            self.__exit__()
            raise RunError(f"the sandbox did not start: {said or error}") from error
        if not self.private_root and not _open_to_others(Path(sys.executable).resolve()):
            self._user = False
        return self

    @property
    def private_root(self) -> bool:
        """Whether a run sees a file system of its own."""
        return "mount" in self.namespaces

    def __exit__(self, *_: object) -> None:
        self._zygote.close()
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def isolation(self, ran: Ran) -> dict[str, str]:
        """How a run was confined, in words."""
        had = set(ran.namespaces)
        limits = self.limits
        return {
            "network": "none: a network namespace with a loopback of its own"
            if "net" in had
            else "blocked in Python only: the system gave no network namespace",
            "files": f"a private root, read-only but for {limits.disk_mb} MB in memory"
            if "mount" in had
            else f"the machine's, as far as the user may read them; {limits.file_mb} MB a file",
            "user": "another one, new for each run"
            if self._user
            else "mapped to the grader's, without capabilities"
            if "user" in had
            else "the grader's own",
            "processes": f"a namespace of their own, {limits.processes} at most"
            if "pid" in had
            else f"the machine's, {limits.processes} at most, ended by descent",
            "limits": f"{limits.test_s:g} s a test, {limits.exercise_s:g} s an exercise, "
            f"{limits.memory_mb} MB of memory",
        }

    def run(self, task: dict[str, Any], binds: Sequence[tuple[str, str]]) -> Ran:
        """Run a task (see :func:`common.grading.trusted_driver.run`) to its end.

        Parameters
        ----------
        task
            ``cwd``, ``env``, ``path``, ``nodes``, ``entries``, ``secret_seed``, ``fixed``.
        binds
            Folders that are there, read-only: ``(source, target)``.
        """
        limits = self.limits
        with self._lock:
            user = FIRST_USER + next(self._users) % USERS
            self.users.add(user)
        whole = task | {
            "namespaces": [name for name in self.namespaces if name in NAMESPACES],
            "stage": str(self.stage),
            "binds": [list(each) for each in binds],
            "uid": user if self._user else None,
            "memory_mb": limits.memory_mb,
            "processes": limits.processes,
            "file_mb": limits.file_mb,
            "disk_mb": limits.disk_mb,
            "cpu_s": int(limits.exercise_s * 2) + 10,
            "test_s": limits.test_s,
        }
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            channel, far_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            read, write = os.pipe()
            stack.callback(os.close, read)
            for each in (control, channel):
                stack.enter_context(each)
            with far_control, far_channel:
                try:
                    with self._lock:
                        socket.send_fds(
                            self._zygote,
                            [json.dumps(whole).encode()],
                            [far_control.fileno(), far_channel.fileno(), write],
                        )
                except OSError as error:
                    raise RunError(f"the sandbox has ended: {error}") from error
                finally:
                    os.close(write)
            ran = _Supervisor(limits, control, channel, read).follow()
        ran.seconds = time.monotonic() - started
        return ran


class _Supervisor:
    """Follows one run: the channel's protocol, the deadlines, the output."""

    def __init__(
        self, limits: Limits, control: socket.socket, channel: socket.socket, output: int
    ) -> None:
        self.limits, self.control, self.channel, self.output = limits, control, channel, output
        self.ran = Ran()
        self.number = ""
        self.text = bytearray()
        self.written = 0
        self.messages = 0
        self.end: float = time.monotonic() + limits.exercise_s
        self.deadline = self._next()

    def _next(self) -> float:
        # pytest-timeout ends an honest test first, and the others then still run
        spare = min(5.0, self.limits.test_s)
        return min(self.end, time.monotonic() + self.limits.test_s * 1.25 + spare)

    def follow(self) -> Ran:
        stop = ""
        sources: list[Any] = [self.control, self.channel, self.output]
        while not stop:
            left = self.deadline - time.monotonic()
            ready, _, _ = select.select(sources, [], [], max(0.0, left))
            if not ready:
                stop = "time"
            if self.output in ready and not self._read_output():
                sources.remove(self.output)
            if self.channel in ready and not self._read_channel():
                sources.remove(self.channel)
            if self.written > 4096 * self.limits.output_kb:
                stop = "output"
            if self.ran.tampering:
                stop = "tampering"
            elif self.ran.complete:
                stop = "complete"
            elif self.control in ready:
                break
        return self._finish(stop)

    def _finish(self, stop: str) -> Ran:
        ran = self.ran
        if stop:
            self.control.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = {}
        self.control.settimeout(STOP_S)
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads(self.control.recv(MESSAGE_BYTES) or b"{}")
        while select.select([self.channel], [], [], 0)[0] and self._read_channel():
            continue
        while select.select([self.output], [], [], 0)[0] and self._read_output():
            continue
        ran.namespaces = answer.get("namespaces", [])
        ran.output = self.text.decode(errors="replace")
        if not ran.complete:
            ran.ended = stop or _why(answer, self.limits)
            if stop == "time":
                ran.ended = f"it took longer than {self.limits.test_s:g} s"
                if time.monotonic() > self.end:
                    ran.ended = f"its tests took longer than {self.limits.exercise_s:g} s"
            elif stop == "output":
                ran.ended = f"it wrote more than {4 * self.limits.output_kb} KB"
        return ran

    def _read_output(self) -> bool:
        found = os.read(self.output, 1 << 16)
        self.written += len(found)
        self.text += found[: max(0, 1024 * self.limits.output_kb - len(self.text))]
        return bool(found)

    def _read_channel(self) -> bool:
        try:
            message = self.channel.recv(MESSAGE_BYTES)
            if not message:
                return False
            self.messages += 1
            if self.messages > MOST_MESSAGES:
                raise ValueError("more messages than tests")
            self._take(json.loads(message))
        except ConnectionError:
            return False
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.ran.tampering.append(f"the channel carried what no driver sends ({error})")
        return True

    def _take(self, message: dict[str, Any]) -> None:
        ran = self.ran
        if ran.complete:
            raise ValueError("a report after the last")
        if "begin" in message:
            if self.number or ran.collected is None:
                raise ValueError("a test began before the last had ended")
            if message["begin"] in ran.results or message["begin"] not in ran.collected:
                raise ValueError(f"{message['begin']} began twice or was not collected")
            self.number, ran.running = secrets.token_hex(16), message["begin"]
            self.deadline = self._next()
            self.channel.sendall(self.number.encode())
        elif "node" in message:
            given = str(message["number"])
            if not self.number or not secrets.compare_digest(given, self.number):
                raise ValueError("a report without its number")
            if message["node"] != ran.running:
                raise ValueError("a report of another test")
            ran.results[ran.running] = dict(message["result"])
            self.number = ran.running = ""
            self._signs(message)
        elif "collected" in message:
            if ran.collected is not None:
                raise ValueError("collected twice")
            ran.collected = [str(node) for node in message["collected"]]
            ran.broken = [{str(k): str(v) for k, v in each.items()} for each in message["broken"]]
        elif "end" in message:
            if self.number or ran.collected is None or set(ran.collected) != set(ran.results):
                raise ValueError("the end before every test had reported")
            self._signs(message)
            ran.complete = True
        else:
            raise ValueError("an unknown message")

    def _signs(self, message: dict[str, Any]) -> None:
        ran = self.ran
        ran.tampering += [f"changed {what}" for what in message["changed"]]
        ran.tampering += [f"{what}" for what in message["refused"]]
        ran.tampering += [f"{what} agrees with everything" for what in message.get("classes", [])]


def _open_to_others(path: Path) -> bool:
    """Whether any user may reach a file."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def _why(answer: dict[str, Any], limits: Limits) -> str:
    match answer.get("ended"):
        case "memory":
            return f"it used more than {limits.memory_mb} MB of memory"
        case "processes":
            return f"it had more than {limits.processes} processes"
        case "exit":
            status = int(answer["status"])
            if status > 128:
                return f"its process was ended by signal {status - 128}"
            return f"its process ended by itself with status {status}"
    return "its process was lost"


@contextlib.contextmanager
def readable_folder(parent: Path) -> Iterator[Path]:
    """A folder that another user can read, gone afterwards."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
