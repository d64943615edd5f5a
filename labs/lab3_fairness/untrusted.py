"""Text from outside, in a log: it may be read there and nothing else."""

from __future__ import annotations

import re

from common.errors import InputError

# What ends a line, drives a terminal, or is a command to a pipeline that reads the log.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]|##(?=\w*\[)")


def safe(text: str, name: str) -> str:
    """The text, if it can be printed in a log as it is.

    Raises
    ------
    InputError
        For a control character or the beginning of a pipeline's command (``##[``, ``##vso[``).
    """
    if UNSAFE.search(text):
        raise InputError(
            f"{name} {one_line(shown(text))} holds a control character or a command to a pipeline; "
            "a name is plain text on one line"
        )
    return text


def one_line(text: str) -> str:
    """The text with whatever :func:`safe` refuses spelt out, so that it cannot act in a log."""
    return UNSAFE.sub(lambda found: "".join(f"\\x{ord(c):02x}" for c in found.group()), text)


def shown(value: object) -> str:
    """``repr`` for an error, short, of values that may be too long or too deep to have one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:77]}..."
