"""One fork server for a test session and for all that it starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.exercises.overlay import VARIABLE as WORK
from tests.fork_server import VARIABLE, fork_server

# Workers of pytest-xdist share the cores out. With a thread a core in each of them, and in all that
# they start, threads that wait in a spin hold up those that work: five times slower and more.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    CORES = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))

# A shell starts what it puts into the background with SIGINT ignored, and nohup with SIGHUP, and
# whatever that starts inherits it: a test of either would wait for a program that cannot hear it.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


if os.environ.get("LABS_NO_SHRINK"):
    # A session that only asks whether a wrong solution is caught needs no smallest example.
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    settings.register_profile("no-shrink", phases=phases)
    settings.load_profile("no-shrink")


@pytest.fixture(scope="session")
def server() -> Iterator[Path | None]:
    """The socket of the fork server; None while a learner's folder is graded, which forks nothing.

    A session that this one starts, such as the check of a wrong solution, uses the same server.
    """
    if VARIABLE in os.environ:
        yield Path(os.environ[VARIABLE])
    elif WORK in os.environ:
        yield None
    else:
        with fork_server() as path:
            os.environ[VARIABLE] = str(path)
            yield path
            del os.environ[VARIABLE]
