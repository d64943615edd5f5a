"""Write a text file whole or not at all, and never over what it was made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, RunError


def write_whole(path: Path, text: str, option: str, inputs: Sequence[Path] = ()) -> None:
    """Write beside ``path`` and rename; what stood there before stays until the rename.

    A symbolic link is followed: the file it names is replaced, and the link stays.

    Parameters
    ----------
    path
        Where to.
    text
        Written as UTF-8.
    option
        The command-line option that named ``path``, for the error.
    inputs
        Files that must not be overwritten, under whatever name.

    Raises
    ------
    InputError
        When the folder is missing, ``path`` is a folder or a device, or is one of the inputs.
    RunError
        When the disk is full or may not be written.
    """
    target = Path(os.path.realpath(path))
    if not os.path.isdir(target.parent) or (os.path.lexists(target) and not os.path.isfile(target)):
        raise InputError(f"{option} {path}: name a file in a folder that exists")
    for each in inputs:
        if os.path.exists(target) and os.path.exists(each) and os.path.samefile(target, each):
            raise InputError(f"{option} {path} is the input {each}; name another file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        raise RunError(f"{option} {path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
