"""The zip that Gradescope builds an autograder from: setup.sh, run_autograder and the grader.

Gradescope unpacks it to ``/autograder/source``, runs ``setup.sh`` once while it builds the image,
and ``run_autograder`` for each submission in a container of its own.
Reference: https://gradescope-autograders.readthedocs.io/en/latest/specs/
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from common.errors import InputError
from common.release import contents
from common.release.contents import File
from common.release.student_repository import render

REPOSITORY = "repository"
SCRIPTS = ("setup.sh", "run_autograder")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, so that the same files make the same zip."""
FOLDERS = {"common", "labs", "capstone", "requirements"}


def files(root: Path, lab: str) -> dict[str, File]:
    """The entries of the zip, by path: the part of the tree that one lab is graded with."""
    scripts = {
        name: File(render(f"{name}.j2", lab=lab).encode(), executable=True) for name in SCRIPTS
    }
    kept = {
        f"{REPOSITORY}/{name}": file
        for name, file in contents.tracked(root).items()
        if _is_graded_with(name, lab)
    }
    return scripts | dict(sorted(kept.items()))


def write(root: Path, lab: str, out: Path) -> None:
    """Write the zip to ``out``, beside it first; an autograder that is there is replaced.

    Raises
    ------
    InputError
        When ``out`` is no ``.zip`` in a folder that exists.
    """
    if out.suffix != ".zip" or not out.parent.is_dir() or out.is_dir():
        raise InputError(f"--autograder {out}: name a file ending in .zip in a folder that exists")
    partial = out.with_name(f".{out.name}.partial")
    try:
        _zip(files(root, lab), partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _zip(entries: Mapping[str, File], out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in entries.items():
            about = zipfile.ZipInfo(name, FIRST_DAY)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = (0o100755 if file.executable else 0o100644) << 16
            archive.writestr(about, file.data)


def _is_graded_with(name: str, lab: str) -> bool:
    first, _, rest = name.partition("/")
    if first == "tests":
        return (rest.startswith(f"{lab}/") and "/wrong/" not in rest) or "/" not in rest
    return first in FOLDERS or name == "pyproject.toml"
