"""What a student's repository holds: the tracked files, less what is the instructor's."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import InputError
from common.exercises.catalog import CAPSTONE, Entry, discover_tests, lab_folders, lab_number

TEXTS = {
    ".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".j2", ".html", ".css", ".js",
    ".sbatch", ".properties", ".svg", "",
}  # fmt: skip
PICTURES = {".png", ".ico", ".jpg", ".woff2"}
INSTRUCTORS = (
    "common/release/", "common/authoring/", "docs/instructor_guide.md", "docs/author_guide.md",
    "CONTRIBUTING.md", ".ci/", ".github/",
)  # fmt: skip
"""Not for students: none of it holds an answer, and none of it is of use without the answers."""
GRADING_KEPT = {"__init__.py", "model.py", "gradescope.py", "text.py"}
"""What writes results.json; how submissions are confined and watched stays with the instructor."""
MADE = {"README.md", "Makefile", ".gitignore"}
TARGETS_LEFT_OUT = {"grade", "release", "verify", "lint", "format"}
PARAGRAPH = re.compile(r"\n\n+")


@dataclass(frozen=True)
class File:
    """One file of a release."""

    data: bytes
    executable: bool = False


def tracked(root: Path) -> dict[str, File]:
    """Every file that git tracks, as it is in the working tree.

    Raises
    ------
    InputError
        Outside a clone, and for a link or a file that is missing.
    """
    listed = _git(root, "ls-files", "--stage", "-z")
    found: dict[str, File] = {}
    for line in filter(None, listed.split("\0")):
        mode, name = line.partition(" ")[0], line.partition("\t")[2]
        path = root / name
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{path} is tracked by git and is no file; restore it, or remove it")
        found[name] = File(path.read_bytes(), mode == "100755")
    return found


def refuse_unsearchable(files: Mapping[str, File]) -> None:
    """InputError for a file of a kind in which a solution could not be found."""
    for name, file in files.items():
        kind = PurePosixPath(name).suffix
        if kind in PICTURES:
            continue
        if kind not in TEXTS or b"\0" in file.data:
            raise InputError(f"{name}: files of this kind cannot be searched for solutions")


def commit(root: Path) -> str:
    """The commit that is released, ``+`` behind it when tracked files were changed since."""
    return _git(root, "rev-parse", "--short=12", "HEAD").strip() + (
        "+" if _git(root, "status", "--porcelain", "--untracked-files=no").strip() else ""
    )


def chosen_labs(root: Path, given: Sequence[str]) -> list[str]:
    """Folder names of the labs to release: those given, else all; the capstone needs every lab."""
    from common.exercises.catalog import find_lab

    every = [folder.name for folder in lab_folders(root)]
    chosen = {find_lab(root, one) for one in given} or set(every)
    if CAPSTONE in chosen and len(chosen) < len(every):
        missing = ", ".join(lab for lab in every if lab not in chosen)
        raise InputError(f"--lab capstone runs on every lab; add {missing}, or leave --lab out")
    return [lab for lab in every if lab in chosen]


def select(root: Path, files: Mapping[str, File], labs: Sequence[str]) -> dict[str, File]:
    """The files a student gets unchanged or as stubs, from those of the repository."""
    tests = set(student_tests(root, files, labs))
    return {
        name: file
        for name, file in files.items()
        if (name in tests if name.startswith("tests/") else _is_students(name, labs))
    }


def student_tests(root: Path, files: Mapping[str, File], labs: Sequence[str]) -> Iterator[str]:
    """The files that hold tests of exercises, and every file below tests/ that those import."""
    folders = {f"tests/{lab}" for lab in labs} | {"tests"}
    waiting = [f"{folder}/conftest.py" for folder in folders]
    for lab in labs:
        waiting += {test.node.partition("::")[0] for test in discover_tests(root, lab)}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        yield name
        for module in _imports(files[name].data.decode("utf-8")):
            if module.startswith("tests."):
                stem = module.replace(".", "/")
                waiting += [f"{stem}.py", f"{stem.rpartition('/')[0]}.py", f"{stem}/__init__.py"]


def makefile(text: str, labs: Sequence[str]) -> str:
    """The Makefile without the commands of instructors and of labs that are not released."""
    numbers = [str(lab_number(lab)) for lab in labs if lab != CAPSTONE]
    gone = set(TARGETS_LEFT_OUT)
    if CAPSTONE not in labs:
        gone |= {"serve", *(f"{verb}capstone" for verb in ("", "start-", "check-", "traps-"))}
        text = text.replace(") capstone; do", "); do").replace(" and the capstone at", " at")
    every = re.search(r"^LABS := (.*)$", text, re.MULTILINE)
    assert every is not None, "the Makefile has no LABS"
    gone |= {f"bench-lab{number}" for number in every[1].split() if number not in numbers}
    text = text.replace(every[0], f"LABS := {' '.join(numbers)}")
    kept = [part for part in PARAGRAPH.split(text) if part.partition(":")[0] not in gone]
    head = "\n\n".join(kept)
    phony = re.search(r"^\.PHONY:.*?[^\\]$", head, re.MULTILINE | re.DOTALL)
    assert phony is not None, "the Makefile has no .PHONY"
    names = " ".join(word for word in phony[0].split(" ") if word not in gone)
    return head.replace(phony[0], names).rstrip() + "\n"


def gitignore(text: str) -> str:
    """Solutions are committed in a student's repository: ``work/`` is ignored no more."""
    kept = [line for line in text.splitlines() if line != "work/"]
    return "\n".join([*kept, "work/**/*.bak*", ""])


def stubbed(entries: Sequence[Entry], root: Path, texts: Mapping[Path, str]) -> dict[str, File]:
    """The modules with exercises as a student gets them, by path below the root."""
    return {
        entry.file.relative_to(root).as_posix(): File(texts[entry.file].encode())
        for entry in entries
    }


def _is_students(name: str, labs: Sequence[str]) -> bool:
    first, _, rest = name.partition("/")
    if name in MADE or name.startswith(INSTRUCTORS):
        return False
    if name.startswith("common/grading/"):
        return PurePosixPath(name).name in GRADING_KEPT
    if first == "labs" and "/" in rest:
        return rest.partition("/")[0] in labs
    return first not in (CAPSTONE, "docker") or CAPSTONE in labs


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _git(root: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise InputError(
            f"{root} is no git clone ({answer.stderr.strip()}); a release is made of tracked files"
        )
    return answer.stdout
