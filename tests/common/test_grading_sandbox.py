"""Confinement at every level that a machine may offer, and what the report says of it.

The strongest (root: private root, namespaces, another user) is what ``test_grading_hostile`` uses.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.exercises.catalog import find_root
from common.grading.model import GradedSubmission, Submission
from common.grading.one import LabGrader
from common.grading.sandbox import Limits, Ran, Sandbox, _Supervisor
from tests.common.tiny_lab import write_repository, write_work

LIMITS = Limits(test_s=10, exercise_s=30, memory_mb=1024, processes=40, disk_mb=32)
ATTACK = """
import os, socket, subprocess, sys, time
CODE = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", CODE, "left-by-a-test"], start_new_session=True)

def mean(values):
    answers = []
    for target in (("1.1.1.1", 53), ("127.0.0.1", int(os.environ.get("NO_PORT", "9")))):
        try:
            socket.create_connection(target, timeout=0.5)
            answers.append("reached")
        except OSError as error:
            answers.append(type(error).__name__)
    raise RuntimeError(f"{os.getuid()} {answers} {os.access('/etc/shadow', os.R_OK)}")
"""


def left() -> list[str]:
    """Command lines of processes that a submission of these tests left."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [text] if "left-by-a-test" in text else []
    return found


def attacked(folder: Path, **options: Any) -> tuple[GradedSubmission, GradedSubmission]:
    """An honest grade and that of :data:`ATTACK` under the sandbox's ``options``."""
    root = write_repository(folder / "repository")
    honest, hostile = write_work(folder / "honest"), write_work(folder / "bad", arithmetic=ATTACK)
    with LabGrader(root, "lab9", secret_seed=3, limits=LIMITS, sandbox=options) as grader:
        first = grader.grade(Submission("honest", honest))
        return first, grader.grade(Submission("hostile", hostile))


@pytest.mark.slow
def test_without_namespaces_it_still_confines_and_says_how_weakly(tmp_path: Path) -> None:
    """A container without privileges: no root of its own, sockets refused in Python only."""
    honest, hostile = attacked(tmp_path, namespaces=(), user=False)
    assert [each.score for each in honest.exercises] == [4, 3, 0], honest.exercises
    assert honest.isolation["network"].startswith("blocked in Python only")
    assert honest.isolation["files"].startswith("the machine's")
    assert honest.isolation["user"] == "the grader's own"
    assert hostile.exercises[0].score == 0
    assert "reached" not in hostile.exercises[0].feedback
    assert any("connects to another machine" in alert for alert in hostile.alerts), hostile.alerts
    assert left() == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter; pytest closes its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


AS_USER = """
set -e
mount --make-rprivate /
if [ -n "$CLOSED" ]; then
    mount --bind "$CLOSED" /mnt && mount -t tmpfs -o mode=755 tmpfs "$ABOVE"
    mkdir -p "$CLOSED" && mount --bind /mnt "$CLOSED"
fi
exec setpriv --reuid 54321 --regid 54321 --clear-groups "$@"
"""


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"),
    reason="only root can become an ordinary user",
)
def test_an_ordinary_user_gets_namespaces_of_their_own(open_folder: Path) -> None:
    """A user namespace gives a private root and no network, without any privilege."""
    tmp_path = open_folder
    script = tmp_path / "grade.py"
    script.write_text(
        textwrap.dedent(f"""
            import json, sys
            from pathlib import Path
            sys.path.insert(0, {str(find_root())!r})
            from tests.common.test_grading_sandbox import attacked
            honest, hostile = attacked(Path({str(tmp_path / "own")!r}))
            print(json.dumps([honest.as_json(), hostile.as_json()]))
        """)
    )
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 54321, 54321)
    home = Path(sys.base_prefix).resolve()
    shut = [place for place in (home, *home.parents) if not place.stat().st_mode & 0o001]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "own")}
    env |= {"CLOSED": str(home) if shut else "", "ABOVE": str(shut[-1]) if shut else ""}
    env |= {"LABS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", AS_USER, "sh", sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=env,
        cwd=find_root(),
    )
    if "no network" in done.stderr:
        pytest.skip("the kernel gives ordinary users no namespaces")
    assert done.returncode == 0, done.stderr[-3000:]
    honest, hostile = map(GradedSubmission.from_json, json.loads(done.stdout.splitlines()[-1]))
    assert [each.score for each in honest.exercises] == [4, 3, 0], honest.exercises
    assert honest.isolation["network"].startswith("none"), honest.isolation
    assert honest.isolation["files"].startswith("a private root")
    assert "reached" not in hostile.exercises[0].feedback
    assert "False" in hostile.exercises[0].feedback, "the machine's password file is closed"
    assert left() == []


# The protocol, without any process: what a submission could send, the supervisor judges.


def followed(*messages: dict[str, Any] | bytes, answers: bool = True) -> Ran:
    """What a supervisor makes of messages; ``"number"`` of a report is the one it gave."""
    control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    supervisor = _Supervisor(Limits(), control, channel, read)
    try:
        for message in messages:
            if isinstance(message, bytes):
                far.send(message)
            else:
                if "node" in message and answers:
                    message = message | {"number": far.recv(64).decode()}
                far.send(json.dumps(message).encode())
            supervisor._read_channel()
        return supervisor.ran
    finally:
        for each in (control, far_control, channel, far):
            each.close()
        os.close(read)
        os.close(write)


COLLECTED = {"collected": ["a::t"], "broken": []}
BEGIN = {"begin": "a::t"}
CLEAN: dict[str, list[str]] = {"changed": [], "refused": []}
REPORT = {"node": "a::t", "result": {"outcome": "passed"}} | CLEAN
END = {"end": True, "classes": []} | CLEAN


def test_a_run_in_order_is_complete() -> None:
    ran = followed(COLLECTED, BEGIN, REPORT, END)
    assert ran.complete
    assert ran.tampering == []
    assert ran.results == {"a::t": {"outcome": "passed"}}


@pytest.mark.parametrize(
    "messages",
    [
        (COLLECTED, REPORT | {"number": ""}),
        (COLLECTED, BEGIN, REPORT | {"number": "0" * 32}),
        (COLLECTED, BEGIN, BEGIN),
        (BEGIN,),
        (COLLECTED, {"begin": "b::t"}),
        (COLLECTED, END),
        (COLLECTED, COLLECTED),
        (b"no json",),
        (b"[]",),
        (b'{"end": 1}',),
        (b"[" * 100_000,),
    ],
    ids=str,
)
def test_what_is_out_of_order_is_a_sign_of_tampering(messages: tuple[Any, ...]) -> None:
    """A report needs the number of a test that began; the end needs every report."""
    ran = followed(*messages, answers=False)
    assert ran.tampering
    assert not ran.complete


def test_a_report_after_the_last_is_a_sign_of_tampering() -> None:
    ran = followed(COLLECTED, BEGIN, REPORT, END, COLLECTED)
    assert ran.tampering == ["the channel carried what no driver sends (a report after the last)"]


def test_a_second_report_of_a_test_is_a_sign_of_tampering() -> None:
    """A forged one came first, or this one is."""
    control = followed(COLLECTED, BEGIN, REPORT)
    assert control.tampering == []
    ran = followed(COLLECTED, BEGIN, REPORT, BEGIN)
    assert ran.tampering


def test_a_sandbox_that_cannot_start_says_why() -> None:
    """A folder that is no folder of Python's: what it printed is in the message."""
    with Sandbox(namespaces=()) as sandbox:
        assert sandbox.namespaces == []
        assert not sandbox.private_root
