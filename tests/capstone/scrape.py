"""Which metrics a scrape has."""

from __future__ import annotations

import re

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


def names_in(text: str) -> set[str]:
    """Names of the series that a scrape announces, labelled ones without a series yet included."""
    return {
        name + suffix
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE)
        for suffix in SUFFIXES.get(kind, ("",))
    }
