"""A process of ``course grade`` that grades one submission after the other.

It is told of the lab, then of each submission, on a connection that it inherits, and answers there;
it ends when the connection does. A fault of its own ends it: the last line it wrote says which.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.grading.model import GradedSubmission, Submission

READY = b"ready"


def connect(descriptor: int) -> tuple[Connection, dict[str, Any]]:
    """The connection to the batch, and what it says of the lab."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)  # so that temporary files are removed

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    return connection, json.loads(connection.recv_bytes())


def serve(connection: Connection, grade: Callable[[dict[str, Any]], GradedSubmission]) -> None:
    """Say that it is ready, then answer each request until the connection closes."""
    connection.send_bytes(READY)
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(json.dumps(grade(request).as_json()).encode())


def main(descriptor: int) -> None:
    """Grade with the lab's own grader."""
    from common.grading.one import LabGrader
    from common.grading.sandbox import Limits

    connection, setup = connect(descriptor)
    with LabGrader(
        Path(setup["root"]),
        setup["lab"],
        secret_seed=setup["secret_seed"],
        limits=Limits(**setup["limits"]),
        cache=Path(setup["cache"]),
    ) as grader:

        def grade(request: dict[str, str]) -> GradedSubmission:
            path = Path(request["path"])
            return grader.grade(Submission(request["student"], path, request["problem"]))

        serve(connection, grade)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (InputError, RunError) as error:
        sys.exit(str(error))
