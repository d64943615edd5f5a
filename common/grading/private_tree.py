"""The tree that a submission sees: the instructor's tests and code, stubs where a solution stood.

It is built once for a lab and mounted read-only at the repository's own path. There are no wrong
solutions in it, no tests of other labs, no history, nothing that another student handed in.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.exercises.catalog import CAPSTONE, Entry, discover, read_source
from common.exercises.stubs import stub

LEFT_OUT = {"__pycache__", "wrong", "work", "runs", "node_modules", "hostile"}
GRADER = (
    "common/grading",
    "common/release",
    "common/authoring",
    "common/assessment",
    "common/site",
)
"""Tools of instructors: of these the tests need only the trusted part of the grader."""
NEEDED = ("__init__.py", "trusted_*.py")
WORK, CANARIES = "work", ".canaries"
"""Where a submission's files and the grader's own checks are mounted, below the root."""


def sources(root: Path, lab: str) -> list[Path]:
    """The files of the instructor's tree that a lab is graded with, sorted."""
    return sorted(set(_sources(root, lab)))


def _sources(root: Path, lab: str) -> Iterator[Path]:
    folders = ["common", f"labs/{lab}", *(("labs", lab) if lab == CAPSTONE else ())]
    for folder in folders:
        yield from _files(root, root / folder)
    yield root / "labs/__init__.py"
    for name in GRADER:
        for pattern in NEEDED:
            yield from (root / name).glob(pattern)
    tests = root / "tests"
    yield from (file for file in tests.glob("*.py") if not file.name.startswith("test_"))
    yield from _files(root, tests / lab)
    yield root / "pyproject.toml"


def _files(root: Path, folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(root).as_posix()
        folders[:] = [name for name in folders if name not in LEFT_OUT and name[0] != "."]
        if below not in GRADER:
            yield from (Path(place, name) for name in names if not name.endswith(".pyc"))


def hidden(root: Path, lab: str) -> list[Entry]:
    """The exercises whose solutions are taken out of the tree for one lab.

    The labs' stay for the capstone, which composes them; no other lab is in the tree of a lab.
    """
    return [entry for entry in discover(root) if entry.lab == lab]


def digest(root: Path, lab: str) -> str:
    """SHA-256 of everything that decides a grade and is the instructor's."""
    total = hashlib.sha256(f"{sys.version} {sorted(_versions())}".encode())
    for file in [*sources(root, lab), *sorted((root / "common/grading").glob("*.py"))]:
        total.update(file.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    from importlib.metadata import distributions

    return tuple(f"{each.name}=={each.version}" for each in distributions())


def build(root: Path, lab: str, target: Path) -> None:
    """Write the private tree of a lab to ``target``, readable by everybody, with bytecode."""
    target.mkdir(parents=True, exist_ok=True)
    solved = {entry.file for entry in hidden(root, lab)}
    for file in sources(root, lab):
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file in solved:
            copy.write_text(stub(read_source(file), str(file)), encoding="utf-8")
        else:
            shutil.copy2(file, copy)
    for name in (WORK, CANARIES, *_inside(root)):
        (target / name).mkdir(parents=True, exist_ok=True)
    compileall.compile_dir(
        target, quiet=2, stripdir=str(target), prependdir=str(root), ddir=None, legacy=False
    )
    target.chmod(0o755)
    for place, folders, names in os.walk(target):
        for name in folders:
            Path(place, name).chmod(0o755)
        for name in names:
            Path(place, name).chmod(0o644)


@dataclass(frozen=True)
class Data:
    """Where a run finds data: ``LABS_CACHE``, ``LABS_DATA_DIR``, and what to mount for them."""

    cache: str
    folders: str
    binds: list[tuple[str, str]]


def data_folders(*, private: bool) -> Data:
    """The instructor's data: read where they lie, or mounted at places of their own."""
    from common.data.fetch import cache_folder

    cache = cache_folder()
    given = [place for place in os.environ.get("LABS_DATA_DIR", "").split(os.pathsep) if place]
    if not private:
        return Data(str(cache), os.pathsep.join(given), [])
    binds = [
        (place, f"/data/{number}") for number, place in enumerate(given) if Path(place).is_dir()
    ]
    folders = os.pathsep.join(target for _, target in binds)
    if cache.is_dir():
        binds.append((str(cache), "/data/cache"))
    return Data("/data/cache", folders, binds)


def lab_text(root: Path, lab: str) -> str:
    """All source text of a lab and its tests."""
    package = root / lab if lab == CAPSTONE else root / "labs" / lab
    files = [*package.glob("*.py"), *(root / "tests" / lab).glob("*.py")]
    return "\n".join(read_source(file) for file in sorted(files))


def import_path() -> list[str]:
    """``sys.path`` of a worker: Python's own folders and its packages, no one's project."""
    homes = [sys.prefix, sys.base_prefix, "/usr"]
    return [
        place
        for place in sys.path
        if place.endswith(("site-packages", "dist-packages"))
        or any(Path(place).is_relative_to(home) for home in homes if place)
    ]


def _inside(root: Path) -> list[str]:
    """Folders of Python itself that lie in the repository, such as ``.venv``."""
    return [
        str(Path(prefix).relative_to(root))
        for prefix in {sys.prefix, sys.base_prefix}
        if Path(prefix).is_relative_to(root)
    ]


def python_folders(root: Path) -> list[str]:
    """Folders outside the system's own that Python and its packages are in, outermost first."""
    real = [str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)]
    places = {sys.prefix, sys.base_prefix, *real}
    places |= {place for place in import_path() if os.path.isdir(place)}
    chosen: list[str] = []
    for place in sorted(places):
        outside = not any(Path(place).is_relative_to(kept) for kept in ("/usr", "/opt", *chosen))
        if outside and (".venv" in Path(place).parts or not Path(place).is_relative_to(root)):
            chosen.append(place)
    return chosen
