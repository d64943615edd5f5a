"""Loopback ports, with real sockets."""

from __future__ import annotations

import socket

import pytest

from common.errors import InputError
from common.ports import LOOPBACK, free_port, require_port_free


def test_a_free_port_can_be_bound_at_once() -> None:
    port = free_port()
    require_port_free(port, "the gateway")
    with socket.socket() as server:
        server.bind((LOOPBACK, port))


@pytest.mark.parametrize("address", [LOOPBACK, "0.0.0.0"])
def test_a_port_that_someone_listens_on_is_named_with_what_wanted_it(address: str) -> None:
    with socket.socket() as server:
        server.bind((address, 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(InputError) as refusal:
            require_port_free(port, "the gateway", option="--port 8090")
    for part in (f"port {port} for the gateway", "in use", "--port 8090"):
        assert part in str(refusal.value)


def test_a_port_whose_connections_just_closed_is_free() -> None:
    """Without SO_REUSEADDR the second run within a minute would find its port in use."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            connection, _ = server.accept()
            connection.close()  # this side closes first: the port stays in TIME_WAIT
    require_port_free(port, "the gateway")


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=f"port {port} for TorchServe must be between 1 and 65535"):
        require_port_free(port, "TorchServe")
