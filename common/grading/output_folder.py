"""The folder that grades are written to: its names, and who may write there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError
from common.grading.model import Submission
from common.results import FULL

PRIVATE = ".grading"
RESERVED = {"grades.csv", "gradebook.html", "junit.xml"}
PLAIN_NAME = re.compile(r"\w[\w@+ -]*(\.[\w@+ -]+)*")
LONGEST_NAME = 80


def folder_names(submissions: Sequence[Submission]) -> list[str]:
    """A name for each submission's folder: the student's, where a file system takes it as it is.

    Any other name (of signs, too long, reserved, taken by an earlier one) becomes readable letters
    and the beginning of a hash.
    """
    taken: set[str] = set()
    names = []
    for each in submissions:
        name = each.student
        plain = PLAIN_NAME.fullmatch(name) and len(name.encode()) <= LONGEST_NAME
        if not plain or name.casefold() in taken | RESERVED:
            whole = os.fsencode(each.path.name) + b"/" + name.encode("utf-8", "surrogateescape")
            letters = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-")
            name = f"{letters}-{hashlib.sha256(whole).hexdigest()[:10]}".lstrip("-")
        taken.add(name.casefold())
        names.append(name)
    return names


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold ``out`` for this process: :class:`InputError` while another one grades into it."""
    try:
        private = out / PRIVATE
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(private / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(
            f"--out {out}: cannot write there ({error.strerror}); name a folder you can write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"--out {out}: another `course grade` is writing there; wait for it or name another"
        ) from error
    else:
        yield
    finally:
        os.close(lock)
