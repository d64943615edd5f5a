"""The two errors a user meets, and how a program answers for them: one line and an exit status."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable, Container

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""As a shell says it of Ctrl-C: 128 and the signal's number."""

INTERRUPTED = "interrupted: nothing is left running"


class InputError(ValueError):
    """A bad argument or input; the message names value, limit and fix. Exit status 2."""


class RunError(RuntimeError):
    """The run could not be completed (a server died, no source has the data). Exit status 1."""


def require(condition: bool, name: str, value: object, limit: str, fix: str = "") -> None:
    """Raise :class:`InputError` unless ``condition`` holds.

    Parameters
    ----------
    name, value
        The option and what was given for it.
    limit
        What it must satisfy, for example ``"must be > 0"``.
    fix
        What to do instead, for example ``"try 2.0"``.
    """
    if not condition:
        raise InputError(f"{name} = {value!r} {limit}" + (f"; {fix}" if fix else ""))


def exit_status(
    command: Callable[[], int],
    *,
    interrupted: str = INTERRUPTED,
    told: Container[int] | None = None,
) -> int:
    """Run a program's ``command`` and answer for it: its own status, or that of its error.

    The error is one line on stderr; with ``LABS_TRACEBACK`` set, where it came from stands before
    it. A reader of the output that has seen enough, as in ``course list | head``, is not told.

    Parameters
    ----------
    command
        Returns the exit status of a run without errors.
    interrupted
        What is said after Ctrl-C.
    told
        Numbers of the system's errors that are the user's to mend (``errno``); all by default.
        Others are raised: they are mistakes of the program.
    """
    try:
        status = command()
        _flush()
        return status
    except InputError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except RunError as error:
        return _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail(interrupted, EXIT_INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            return EXIT_FAILED
        if told is not None and error.errno not in told:
            raise
        what = error.strerror or str(error) or type(error).__name__
        return _fail(f"{error.filename}: {what}" if error.filename else what, EXIT_FAILED)


def _fail(message: str, status: int) -> int:
    if os.environ.get("LABS_TRACEBACK"):
        traceback.print_exc()
    try:
        _flush()
    except OSError:  # its disk is full or its reader is gone: without this Python would say so too
        _discard_output()
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status


def _flush() -> None:
    print(end="", flush=True)  # does nothing where standard output was closed (``>&-``)


def _reader_is_gone() -> bool:
    """Whether nobody reads the output any more; another pipe of the program may have broken."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in waiting.poll(0))


def _discard_output() -> None:
    """What is left to write goes nowhere, so that the program's end does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
