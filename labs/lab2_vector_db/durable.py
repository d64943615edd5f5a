"""Files that survive: synced, checksummed, replaced atomically, locked by their one writer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, RunError

HASH_ON_OPEN_BYTES = 256 * 2**20  # what is larger is hashed only on demand
LOCK = "lock"


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of a file: its size in bytes and its sha256."""

    size: int
    sha256: str


def describe(path: Path) -> FileEntry:
    """Size and hash of a file as it is now."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)


def check_file(path: Path, expected: FileEntry, *, every_byte: bool = False) -> None:
    """Compare a file with its entry: the size always, the hash up to 256 MiB or on demand.

    Raises
    ------
    FileNotFoundError
        When it is gone, which a newer manifest may explain.
    RunError
        When it is cut short or changed; names it.
    """
    size = path.stat().st_size
    if size != expected.size:
        raise RunError(f"{path} has {size} bytes, expected {expected.size}; restore a copy of it")
    if every_byte or size <= HASH_ON_OPEN_BYTES:
        found = describe(path).sha256
        if found != expected.sha256:
            raise RunError(
                f"{path} has sha256 {found}, expected {expected.sha256}: its content changed; "
                "restore a copy of it"
            )


def sync(path: Path) -> None:
    """fsync a file, or a folder: the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> dict[str, FileEntry]:
    """Sync every file and folder below, and describe the files by their relative names."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file():
            entries[str(path.relative_to(folder))] = describe(path)
    sync(folder)
    return entries


def write_beside(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside, synced, renamed; the folder is not synced yet."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn the kernel's answer (no space left, a file too large) into one error that says it.

    Raises
    ------
    RunError
        For an OSError, and for the RuntimeError that faiss makes of a short write.
    """
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(
            f"{what} {path} failed: {error.strerror or error}; nothing was changed: free some "
            "space and do it again"
        ) from error
    except RuntimeError as error:
        if "write error" not in str(error) and "could not open" not in str(error):
            raise
        raise RunError(
            f"{what} {path} failed: {error}; nothing was changed: free some space and do it again"
        ) from error


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[Path]:
    """Make a folder to be filled, and take it away again when that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def lock_for_writing(folder: Path) -> Callable[[], None]:
    """Become the folder's only writer, until the returned function is called or the process dies.

    The kernel holds the lock (flock), so a process that was killed leaves none behind.

    Raises
    ------
    InputError
        When there is a writer already; names its process.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise InputError(
            f"{folder} is open for writing by process {holder}; close it there, or open it with "
            "read_only=True"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release() -> None:
        os.close(descriptor)

    return release
