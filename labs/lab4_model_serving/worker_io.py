"""What a TorchServe worker does for every request besides the model, made cheaper.

TorchServe 0.12 is not developed any more, so what its worker wastes is mended from the handler:

- it reads a request from its socket field by field, about thirty system calls for a request with
  seven headers: :class:`BufferedReader` reads what is there in one;
- it logs two lines a batch to the frontend, which parses each of them: warnings only.

``LABS_WORKER_IO=plain`` leaves the worker as it comes, for a comparison.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any

CHUNK = 1 << 18
WORKER_IO = "LABS_WORKER_IO"


class BufferedReader:
    """``recv`` in large pieces, handed out in the sizes asked for.

    A worker answers a batch before the frontend sends the next one, so reading ahead cannot take
    what somebody else waits for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""
        self._at = 0

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes; ends the process when the frontend has gone, as before."""
        end = self._at + length
        if end > len(self._buffer):
            pieces = [self._buffer[self._at :]]
            missing = end - len(self._buffer)
            while missing > 0:
                piece = self.connection.recv(max(CHUNK, missing))
                if not piece:
                    logging.info("Frontend disconnected.")
                    sys.exit(0)
                pieces.append(piece)
                missing -= len(piece)
            self._buffer, self._at, end = b"".join(pieces), 0, length
        found = self._buffer[self._at : end]
        self._at = end
        return found


def tune() -> None:
    """Called by a handler when it is loaded; once a process, and nothing outside a worker."""
    codec = sys.modules.get("ts.protocol.otf_message_handler")
    in_worker = getattr(sys.modules.get("__main__"), "TorchModelServiceWorker", None)
    if codec is None or in_worker is None or os.environ.get(WORKER_IO) == "plain":
        return
    logging.getLogger().setLevel(logging.WARNING)
    readers: dict[int, BufferedReader] = {}

    def retrieve_buffer(connection: Any, length: int) -> bytes:
        reader = readers.get(id(connection))
        if reader is None:
            reader = readers[id(connection)] = BufferedReader(connection)
        return reader.read(length)

    codec._retrieve_buffer = retrieve_buffer  # type: ignore[attr-defined]
