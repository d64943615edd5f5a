"""Errors carried forward: an exercise is not failed for another one that it builds on.

Where an exercise failed, and its code reaches another exercise that failed too, it runs once more
with the reference's solution in place of those others. What it then earns is its own. Nothing of
that run is shown to the student, for the reference was in reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.errors import InputError
from common.exercises.catalog import Entry, read_source
from common.exercises.stubs import splice


def with_reference(files: Mapping[str, bytes], others: Sequence[Entry]) -> dict[str, bytes]:
    """A submission's files with the reference's definition of each of ``others`` in them."""
    changed = dict(files)
    for other in others:
        name = f"{other.lab}/{other.module}.py"
        reference = read_source(other.file)
        try:
            mine = changed[name].decode("utf-8")
            changed[name] = splice(mine, other.name, reference, keep_decorators=False).encode()
        except (KeyError, UnicodeError, InputError, RecursionError):
            changed[name] = reference.encode()
    return changed
