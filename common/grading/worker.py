"""A process of ``course grade`` that grades one submission after the other.

It is told of each on a connection that it inherits and answers there; it ends when the connection
does. What it cannot grade for a fault of its own ends it: the reason is the last line of its log.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from common.grading.model import GradedSubmission


def serve(descriptor: int, grade: Callable[[dict[str, Any]], GradedSubmission]) -> None:
    """Answer each request that comes by ``descriptor`` until it closes."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)  # so that temporary files are removed

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    with Connection(descriptor) as connection:
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            connection.send_bytes(json.dumps(grade(request).as_json()).encode())
