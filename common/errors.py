"""The two errors a user meets, and the exit status each one means."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


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
