"""Text that came out of a submission, made safe to write and to show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

LONGEST = 4000
"""Characters of one text: a submission that prints without end fills no page."""


def clip(text: str, longest: int = LONGEST) -> str:
    """The text as valid UTF-8, cut to ``longest`` characters with words that say so."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\n... {len(text) - longest} more characters"


def printable(text: str, longest: int = 200) -> str:
    """One line to show: line ends, escape sequences and signs that turn the reading direction
    become visible escapes."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return line if len(line) <= longest else f"{line[:longest]}..."


def by_message(lines: Iterable[str]) -> list[str]:
    """``a/x.py: not handed in`` and the same of ``a/y.py`` as ``not handed in: x.py, y.py``."""
    grouped: dict[str, dict[str, str]] = {}
    for line in lines:
        found = re.fullmatch(r"([\w./]+\.py): (.+)", line)
        name, message = (found[1], found[2]) if found else ("", line)
        grouped.setdefault(message, {})[name] = line
    return [
        f"{message}: {', '.join(PurePosixPath(name).name for name in named)}"
        if len(named) > 1
        else next(iter(named.values()))
        for message, named in grouped.items()
    ]
