"""``course start``: write the learner's files, and give one exercise back."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import InputError
from common.exercises import stubs
from common.exercises.catalog import Entry, locate, read_source


def start(entries: list[Entry], work: Path) -> list[tuple[Path, bool]]:
    """Write ``work/<lab>/<module>.py`` for every module with exercises.

    Returns
    -------
    list of (Path, bool)
        Each file, and whether it was written: one that exists is never touched.
    """
    written: list[tuple[Path, bool]] = []
    for file, entry in {entry.work_file(work): entry for entry in entries}.items():
        absent = not os.path.lexists(file)
        if absent:
            text = stubs.stub(read_source(entry.file), str(entry.file))
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, text)
        written.append((file, absent))
    return written


def reset(entry: Entry, work: Path) -> Path:
    """Give one exercise back as its stub; the rest of the learner's file stays as it is.

    Returns
    -------
    Path
        The copy of the file as it was.

    Raises
    ------
    InputError
        When there is no such file, or it does not parse.
    """
    file = entry.work_file(work)
    if not file.is_file():
        raise InputError(f"there is no {file}; `course start {entry.lab}` writes it")
    mine = read_source(file)
    fresh = stubs.stub(read_source(entry.file), str(entry.file))
    try:
        present = locate(mine, entry.name) is not None
    except SyntaxError as error:
        raise InputError(
            f"{file}:{error.lineno}: {error.msg}; correct this line first, or move the file away "
            f"and run `course start {entry.lab}`"
        ) from error
    if not present and "." in entry.name:
        raise InputError(
            f"{file} has no {entry.name}; move the file away and run `course start {entry.lab}`"
        )
    if present:
        text = stubs.splice(mine, entry.name, fresh, keep_decorators=False)
    else:
        text = stubs.append(mine, entry.name, fresh)
    backup = _free(file)
    backup.write_text(mine, encoding="utf-8")
    _replace(file, text)
    return backup


def _free(file: Path) -> Path:
    """``<file>.bak``, or ``.bak2`` and so on: an earlier copy is never lost."""
    backup, count = file.with_name(f"{file.name}.bak"), 1
    while backup.exists():
        count += 1
        backup = file.with_name(f"{file.name}.bak{count}")
    return backup


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
