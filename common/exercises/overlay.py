"""Let the learner's file take the place of ours, in every process.

``import labs`` and ``import capstone`` install one finder. While the environment variable
``LABS_WORK`` names a folder, ``labs.<lab>.<module>`` is loaded from ``<folder>/<lab>/<module>.py``
when that file exists, and ``capstone.<module>`` from ``<folder>/capstone``. The variable is
inherited, so torchrun ranks and model-server workers load the same code.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

VARIABLE = "LABS_WORK"
ROOT = Path(__file__).resolve().parents[2]
RELEASE = "release.json"
"""A student's repository holds this file: our modules are stubs there, and ``work/`` is used."""


def work_folder() -> Path | None:
    """The learner's folder as an absolute path, or None when no overlay is asked for."""
    value = os.environ.get(VARIABLE)
    return Path(value).resolve() if value else None


def overlaid_files(lab: str = "*") -> list[Path]:
    """The learner's files that replace one of ours (of one lab, or of all), sorted."""
    folder = work_folder()
    if folder is None:
        return []
    found = sorted(folder.glob(f"{lab}/*.py"))
    return [
        file
        for file in found
        if any((ours / file.parent.name / file.name).is_file() for ours in (ROOT / "labs", ROOT))
    ]


def in_student_repository() -> bool:
    """Whether this code was written by ``course release``."""
    return (ROOT / RELEASE).is_file()


def use_work_unasked() -> None:
    """In a student's repository, let ``LABS_WORK`` be its ``work/`` unless it is set."""
    if VARIABLE not in os.environ and in_student_repository() and (ROOT / "work").is_dir():
        os.environ[VARIABLE] = str(ROOT / "work")


class _WorkLoader(importlib.machinery.SourceFileLoader):
    """Loads source without a bytecode cache: two saves within a second are two versions."""

    def get_code(self, fullname: str):  # type: ignore[no-untyped-def]
        return self.source_to_code(self.get_data(self.path), self.path)


class _WorkFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = fullname.removeprefix("labs.").partition(".")
        folder = work_folder()
        if folder is None or not module or "." in module:
            return None
        if not fullname.startswith("labs.") and package != "capstone":
            return None
        file = folder / package / f"{module}.py"
        if not file.is_file():
            return None
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_WorkLoader(fullname, str(file))
        )


def install() -> None:
    """Put the finder first on ``sys.meta_path`` (once), and make ``LABS_WORK`` absolute."""
    use_work_unasked()
    folder = work_folder()
    if folder is not None:
        os.environ[VARIABLE] = str(folder)
    if not any(isinstance(finder, _WorkFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WorkFinder())
