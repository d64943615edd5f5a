"""Say in one line which exercise a run, a trap or a test has met before it was solved."""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.errors import InputError
from common.exercises.catalog import discover, find_exercise
from common.exercises.overlay import ROOT, work_folder

STUB = re.compile(r"exercise (\d+\.\d+): ")
PRINTED = re.compile(rf"NotImplementedError: {STUB.pattern}")


def unsolved(error: BaseException) -> str | None:
    """The exercise whose stub raised ``error``, in this process or in one that it reports of."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        own = isinstance(seen, NotImplementedError)
        found = (STUB.match if own else PRINTED.search)(str(seen))
        if found:
            return found[1]
        seen = seen.__cause__ or seen.__context__
    return None


def advice(error: BaseException, root: Path = ROOT) -> str | None:
    """What to write where, and with which command; None when ``error`` is of another kind."""
    given = unsolved(error)
    if given is None:
        return None
    try:
        entry = find_exercise(discover(root), given)
    except InputError:  # the tree cannot be read, so the stub's own words must do
        return f"{error} (not solved yet)"
    lab = entry.lab.partition("_")[0]
    file = entry.work_file(work_folder() or root / "work")
    shown = os.path.relpath(file)
    begin = f"write {entry.name} in {shown}"
    if not file.is_file():
        begin = f"`course start {lab}` puts {entry.name} into {shown}"
    return (
        f"exercise {entry.id}: {entry.title}: not solved yet, and this needs it; {begin}, "
        f"`course check {lab} {entry.id}` checks it"
    )
