"""Loopback ports."""

from __future__ import annotations

import errno
import socket

from common.errors import InputError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_port_free(port: int, what: str, *, option: str = "another port") -> None:
    """Raise :class:`InputError` when ``port`` is out of range or taken.

    Parameters
    ----------
    what
        What wants the port, for the message.
    option
        How the user chooses another one, for example ``"--port 8090"``.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"port {port} for {what} must be between 1 and 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"port {port} for {what}: {error.strerror}; choose {option}"
                ) from error
            raise InputError(
                f"port {port} for {what} is in use; "
                f"stop what listens there, or choose {option} (0 picks a free one)"
            ) from error
