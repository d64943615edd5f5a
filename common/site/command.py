"""``course docs``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common.errors import EXIT_OK, InputError

DESCRIPTION = "build the static site of lessons, API and capstone"
PORT = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course docs``."""
    parser.add_argument(
        "--out", metavar="DIR", default="site", help="folder to write (default: site)"
    )
    parser.add_argument(
        "--serve",
        metavar="PORT",
        nargs="?",
        type=int,
        const=PORT,
        help=f"then serve it on 127.0.0.1 until Ctrl-C (default: {PORT}; 0: a free port)",
    )


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    try:
        from common.site.build import build
    except ModuleNotFoundError as error:
        raise InputError(
            f"the site needs the package {error.name}, which is not installed; run `make setup`"
        ) from error
    out = Path(arguments.out).resolve()
    start = time.perf_counter()
    built = build(root, out)
    took = time.perf_counter() - start
    print(f"{built.pages} pages, {built.links:,} links followed, none broken; {took:.1f} s")
    print(f"open {built.out / 'index.html'} in a browser; it needs no server and no network")
    if arguments.serve is not None:
        _serve(out, arguments.serve)
    return EXIT_OK


def _serve(folder: Path, port: int) -> None:
    """Serve ``folder`` on 127.0.0.1 until Ctrl-C."""
    from contextlib import suppress
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--serve {port}: {reason}; another port, or 0 for one that is free"
        ) from error
    with server, suppress(KeyboardInterrupt):
        print(f"serving http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
        server.serve_forever()
