"""A collection over HTTP, until Ctrl-C or SIGTERM; ``create_app`` is in ``service_app``.

Clients send a token: the environment's LABS_TOKEN, or a random one that is printed at the start.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import EXIT_OK, InputError, exit_status, require
from common.ports import LOOPBACK, require_port_free

if TYPE_CHECKING:
    from labs.lab2_vector_db.collection import Collection

TOKEN = "LABS_TOKEN"
MIN_TOKEN = 16
GRACE_S = 30  # for requests in flight, when the service is stopped
BACKLOG = 2048


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m labs.lab2_vector_db.service", description=__doc__
    )
    made.add_argument("--path", type=Path, required=True, help="folder of the collection")
    made.add_argument("--host", default=LOOPBACK, help="IPv4 address to listen on (%(default)s)")
    made.add_argument("--port", type=int, default=8092, help="0 picks a free one (%(default)s)")
    made.add_argument("--create", action="store_true", help="make the collection first")
    made.add_argument("--dimension", type=int, help="with --create: components of a vector")
    made.add_argument("--metric", help="with --create: l2, inner_product or cosine")
    made.add_argument(
        "--fields", help="with --create: payload, such as price:float,category:keyword"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; 0 when stopped, 1 when that failed, 2 for bad input."""
    signal.signal(signal.SIGTERM, _interrupt)
    options = parser().parse_args(argv)

    def command() -> int:
        try:
            return serve(options)
        except KeyboardInterrupt:
            print("\nstopped")
            return EXIT_OK

    return exit_status(command)


def serve(options: argparse.Namespace) -> int:
    """Open the collection, say how to ask it, and answer until a signal comes.

    The port is bound first, and listened on when the collection is open: until then a client is
    refused, and does not wait for a log to be replayed.
    """
    token = read_token()
    with listening_socket(options.host, options.port) as port, opened(options) as collection:
        import uvicorn

        from labs.lab2_vector_db.service_app import create_app

        config = uvicorn.Config(
            create_app(collection, token),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        try:
            port.listen(BACKLOG)
        except OSError as error:  # somebody bound it too, and listened first
            raise _taken(options, error) from error
        host, number = port.getsockname()
        print(f"{collection.path}: {len(collection)} rows on http://{host}:{number}")
        if TOKEN not in os.environ:
            print(f"token {token}")
        if not ipaddress.ip_address(host).is_loopback:
            print("token and data travel in the clear: put a proxy with TLS in front")
        print("Ctrl-C stops it", flush=True)
        uvicorn.Server(config).run(sockets=[port])
    return EXIT_OK


def opened(options: argparse.Namespace) -> Collection:
    """The collection to serve, made before if that is asked for.

    Raises
    ------
    InputError
        When there is none, another process writes to it, or the options do not fit together.
    """
    given = {name: getattr(options, name) for name in ("dimension", "metric", "fields")}
    for name, value in given.items():
        require(options.create or value is None, f"--{name}", value, "needs --create")
    from labs.lab2_vector_db.collection import Collection, Schema

    path = options.path.resolve()
    if not options.create:
        return Collection.open(path)
    require(options.dimension is not None, "--dimension", None, "must be given with --create")
    if (path / "manifest.json").exists():
        raise InputError(f"{path} holds a collection already; leave --create out")
    fields: Any = parse_fields(options.fields or "")
    return Collection.create(path, Schema(options.dimension, options.metric or "l2", fields))


def parse_fields(text: str) -> dict[str, str]:
    """Payload fields and their types from ``price:float,category:keyword``.

    Raises
    ------
    InputError
        For a part without a type, or a name given twice.
    """
    fields: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, colon, kind = part.strip().partition(":")
        require(bool(colon and name and kind), "--fields", part, "must be name:type")
        require(name not in fields, "--fields", name, "must be given once")
        fields[name] = kind
    return fields


def read_token() -> str:
    """LABS_TOKEN, or a random one when it is not set.

    Raises
    ------
    InputError
        For one that is short, or that no HTTP header can carry; it is not repeated.
    """
    token = os.environ.get(TOKEN)
    if token is None:
        return secrets.token_urlsafe(24)
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{TOKEN} must hold at least {MIN_TOKEN} printable ASCII characters without spaces; "
            "make one with `openssl rand -hex 24`"
        )
    return token


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 picks a free one.

    Raises
    ------
    InputError
        For an address that this machine does not have, or a port that is taken.
    """
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise InputError(
            f"--host {host} is no IPv4 address; give {LOOPBACK}, or 0.0.0.0 for every network"
        ) from None
    if port:
        require_port_free(port, "the service", option="--port 8093")
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(f"--host {host} --port {port}: {error.strerror}; choose others") from error
    return bound


def _taken(options: argparse.Namespace, error: OSError) -> InputError:
    return InputError(f"port {options.port} for the service: {error.strerror}; choose another")


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
