"""Find what was handed in, and take from it only what can be graded.

A submission is a folder or a zip of a learner's ``work/``, with or without that folder and with or
without one more around it, or a clone of the student's repository. Only regular files
``<lab>/<module>.py`` of modules with exercises are taken, by copying their bytes; nothing is
unpacked, no link is followed, and whatever is wrong is named.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from common.errors import InputError
from common.exercises.catalog import Entry, locate
from common.exercises.overlay import RELEASE
from common.grading.model import NOT_HANDED_IN, Submission

LARGEST_FILE = 1 << 20
MOST_FILES = 20_000
LARGEST_ZIP = 1 << 30
LONGEST_LIST = 20
NOISE = re.compile(r"(^|/)(__MACOSX|__pycache__|\.git|\.[^/]*|[^/]*\.(bak\d*|pyc))(/|$)")
LONGEST_NAME = 120


@dataclass
class Taken:
    """The files of one submission that are graded, and what is wrong with the others.

    ``files`` maps ``"<lab>/<module>.py"`` to its bytes; ``problems`` is for the student, too.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find(folder: Path) -> list[Submission]:
    """Every submission in a folder, by student; those that cannot be graded say why.

    Raises
    ------
    InputError
        When there is no such folder or nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of submissions")
    found: list[Submission] = []
    for path in sorted(folder.iterdir(), key=lambda each: each.name):
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        is_zip = path.suffix.lower() == ".zip"
        student = path.stem if is_zip else path.name
        problem = ""
        if path.is_symlink():
            problem = "it is a symbolic link; hand in the folder or the zip itself"
        elif not student.isprintable() or len(student) > LONGEST_NAME:
            problem = f"its name is no name: at most {LONGEST_NAME} characters, all printable"
        elif path.is_dir():
            pass
        elif not path.is_file():
            problem = "it is neither a folder nor a file"
        elif not is_zip:
            problem = "it is neither a folder nor a zip"
        found.append(Submission(student, path, problem))
    if not found:
        raise InputError(f"{folder} holds no submission: a folder or a zip for each student")
    twice = {_spelled_alike(each.student) for each in found}
    if len(twice) < len(found):
        names: dict[str, list[str]] = {}
        for each in found:
            names.setdefault(_spelled_alike(each.student), []).append(each.path.name)
        found = [
            replace(each, problem=f"handed in more than once: {', '.join(same)}; leave one")
            if len(same := names[_spelled_alike(each.student)]) > 1
            else each
            for each in found
        ]
    return found


def _spelled_alike(name: str) -> str:
    """One form of a name whatever its case, and however its accents are stored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def take(submission: Submission, entries: Sequence[Entry], others: Sequence[Entry] = ()) -> Taken:
    """Read the graded files of one submission; what is wrong is in ``problems``, never raised.

    Parameters
    ----------
    entries
        The exercises that are graded.
    others
        Exercises of other labs: that their files lie in the same ``work/`` is no problem.
    """
    taken = Taken()
    if submission.problem:
        taken.problems.append(submission.problem)
        return taken
    wanted = {f"{entry.lab}/{entry.module}.py" for entry in entries}
    quiet = {f"{entry.lab}/{entry.module}.py" for entry in others} - wanted
    unread = ""
    try:
        if submission.path.is_dir():
            _from_folder(submission.path, wanted, quiet, taken)
        else:
            _from_zip(submission.path, wanted, quiet, taken)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        unread = f"it cannot be read: {error}"
    except (zlib.error, EOFError, ValueError, KeyError, UnicodeError) as error:
        unread = f"the zip is damaged: {error}"
    if unread:
        taken.problems.insert(0, unread)
        if not taken.files:
            return taken
    for name in sorted(wanted):
        if name in taken.files:
            taken.problems += _faults(name, taken.files[name], entries)
        elif not any(problem.startswith(f"{name}:") for problem in taken.problems):
            taken.problems.append(f"{name}: {NOT_HANDED_IN}")
    return taken


def _faults(name: str, content: bytes, entries: Sequence[Entry]) -> list[str]:
    """What is wrong with one file, read without running it."""
    if not content.strip():
        return [f"{name}: the file is empty"]
    if b"\0" in content:
        return [f"{name}: this is a binary file, not Python source"]
    try:
        text = content.decode("utf-8")
        compile(text, name, "exec", dont_inherit=True)
    except UnicodeDecodeError as error:
        return [f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8"]
    except SyntaxError as error:
        return [f"{name}:{error.lineno}: {error.msg}"]
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return [f"{name}: Python cannot read it ({type(error).__name__})"]
    mine = [entry for entry in entries if name == f"{entry.lab}/{entry.module}.py"]
    try:
        gone = [entry for entry in mine if locate(text, entry.name) is None]
    except (SyntaxError, RecursionError, MemoryError):
        gone = []
    return [f"{name}: {entry.name} of exercise {entry.id} is gone" for entry in gone]


def _place(parts: Sequence[str], wanted: set[str]) -> str | None:
    """``<lab>/<module>.py`` when a path ends so below at most two folders, one of them ``work``."""
    if not 2 <= len(parts) <= 4:
        return None
    name = "/".join(parts[-2:])
    around = parts[:-2]
    if len(around) == 2 and around[-1] != "work":
        return None
    return name if name in wanted else None


def _sort(
    found: Iterator[tuple[str, str]], wanted: set[str], quiet: set[str], taken: Taken
) -> Iterator[tuple[str, str]]:
    """Of ``(path, fault)`` pairs, those to read as ``(path, name)``; the others are listed."""
    chosen: dict[str, str] = {}
    ignored: list[str] = []
    listed = list(islice(found, MOST_FILES + 1))
    # A clone of the student's repository holds the stubs too: there only what is in work/ counts.
    clone = any(PurePosixPath(path).parts[:2][-1] == RELEASE for path, _ in listed)
    for count, (path, fault) in enumerate(listed):
        if count >= MOST_FILES:
            taken.problems.append(f"more than {MOST_FILES:,} files; the others were not looked at")
            break
        if clone and fault != "unsafe path" and "work" not in PurePosixPath(path).parts[:2]:
            continue
        name = None if fault == "unsafe path" else _place(PurePosixPath(path).parts, wanted)
        if name is None:
            known = _place(PurePosixPath(path).parts, quiet) is not None and not fault
            if not known and not NOISE.search(path):
                ignored.append(f"{path[:200]!r}" + (f" ({fault})" if fault else ""))
        elif fault:
            taken.problems.append(f"{name}: {fault}")
        elif name in chosen:
            taken.problems.append(f"{name}: handed in twice, as {chosen[name]} and as {path}")
        else:
            chosen[name] = path
    if ignored:
        more = f" and {len(ignored) - LONGEST_LIST} more" if len(ignored) > LONGEST_LIST else ""
        taken.problems.append(f"ignored: {', '.join(sorted(ignored)[:LONGEST_LIST])}{more}")
    for name, path in sorted(chosen.items()):
        yield path, name


def _from_folder(folder: Path, wanted: set[str], quiet: set[str], taken: Taken) -> None:
    for path, name in _sort(_walk(folder), wanted, quiet, taken):
        # No link may take the place of the file, or of a folder on the way, meanwhile.
        try:
            content = _read(folder, path)
        except OSError as error:
            taken.problems.append(f"{name}: cannot be read ({error.strerror})")
            continue
        _keep(name, content, taken)


def _keep(name: str, content: bytes, taken: Taken) -> None:
    if len(content) > LARGEST_FILE:
        taken.problems.append(f"{name}: larger than {LARGEST_FILE >> 20} MB")
    else:
        taken.files[name] = content


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        if len(below.parts) >= 4:
            folders[:] = []
        for name in sorted(folders):
            if os.path.islink(os.path.join(place, name)):
                yield (below / name).as_posix(), "a symbolic link"
        for name in sorted(names):
            path = (below / name).as_posix()
            found = os.lstat(os.path.join(place, name))
            if stat.S_ISLNK(found.st_mode):
                yield path, "a symbolic link"
            elif not stat.S_ISREG(found.st_mode):
                yield path, "no regular file"
            elif found.st_size > LARGEST_FILE and path.endswith(".py"):
                yield path, f"larger than {LARGEST_FILE >> 20} MB ({found.st_size >> 20:,} MB)"
            else:
                yield path, ""


def _read(folder: Path, path: str) -> bytes:
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        *between, last = PurePosixPath(path).parts
        for part in between:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        opened.append(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1]))
        with os.fdopen(opened.pop(), "rb") as stream:
            return stream.read(LARGEST_FILE + 1)
    finally:
        for fd in opened:
            os.close(fd)


def _from_zip(path: Path, wanted: set[str], quiet: set[str], taken: Taken) -> None:
    if path.stat().st_size > LARGEST_ZIP:
        taken.problems.append(f"the zip is larger than {LARGEST_ZIP >> 20:,} MB")
        return
    with zipfile.ZipFile(path) as archive:
        for member, name in _sort(_members(archive), wanted, quiet, taken):
            info = archive.getinfo(member)
            with archive.open(info) as stream:
                _keep(name, stream.read(LARGEST_FILE + 1), taken)


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        path = PurePosixPath(info.filename)
        unsafe = path.is_absolute() or ".." in path.parts or "\\" in info.filename
        if unsafe or ":" in info.filename:
            yield info.filename, "unsafe path"
        elif stat.S_ISLNK(info.external_attr >> 16):
            yield info.filename, "a symbolic link"
        elif info.flag_bits & 1:
            yield info.filename, "encrypted"
        elif info.file_size > LARGEST_FILE and info.filename.endswith(".py"):
            size = info.file_size >> 20
            yield info.filename, f"larger than {LARGEST_FILE >> 20} MB ({size:,} MB)"
        else:
            yield info.filename, ""
