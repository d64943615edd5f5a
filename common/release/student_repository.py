"""Make the student's repository, prove that it holds no solution, and write it in one move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.errors import InputError, RunError
from common.exercises.catalog import CAPSTONE, Entry, discover, lab_number, read_source
from common.exercises.overlay import RELEASE
from common.exercises.stubs import stub
from common.release import contents, leaks
from common.release.contents import File

TEMPLATES = Path(__file__).parent / "templates"
MOST_NAMED = 10


def build(root: Path, labs: Sequence[str], *, classroom: bool = False) -> dict[str, File]:
    """Every file of the student's repository, by path: the same for the same tracked files.

    Parameters
    ----------
    root
        The instructor's clone.
    labs
        Folder names, as :func:`common.release.contents.chosen_labs` gives them.
    classroom
        Whether the workflow of GitHub Classroom is among them.

    Raises
    ------
    InputError
        When ``root`` is no clone, or a file cannot be released.
    RunError
        When a file holds a solution; the message names file and exercise.
    """
    tracked = contents.tracked(root)
    entries = [entry for entry in discover(root) if entry.lab in labs]
    texts = {file: stub(read_source(file), str(file)) for file in {each.file for each in entries}}
    files = contents.select(root, tracked, labs)
    files |= contents.stubbed(entries, root, texts)
    files |= _made(root, tracked, entries, labs, classroom)
    contents.refuse_unsearchable(files)
    prove(entries, texts, files)
    return dict(sorted(files.items()))


def prove(entries: Sequence[Entry], texts: Mapping[Path, str], files: Mapping[str, File]) -> None:
    """Search every file for what the stubs took out; RunError names what was found."""
    references = [leaks.reference(entry, texts[entry.file]) for entry in entries]
    found = leaks.search(references, {name: file.data for name, file in files.items()})
    if found:
        shown = "\n  ".join(map(str, found[:MOST_NAMED]))
        more = f"\n  and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise RunError(
            f"nothing was written: the release would hold solutions\n  {shown}{more}\n"
            "take the lines out of these files, or write them in another way"
        )


def write(files: Mapping[str, File], out: Path) -> None:
    """Write a release to ``out``, which must not exist or be empty; beside it first, then in place.

    Raises
    ------
    InputError
        When something is there already.
    """
    refuse_existing(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, file in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def refuse_existing(out: Path) -> None:
    """InputError when something would be lost."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise InputError(
            f"--out {out} exists, and a release is never written over one; choose a new folder"
        )
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")


def _made(
    root: Path,
    tracked: Mapping[str, File],
    entries: Sequence[Entry],
    labs: Sequence[str],
    classroom: bool,
) -> dict[str, File]:
    """The files that are written for students, and release.json."""
    about = {
        "schema": 1,
        "commit": contents.commit(root),
        "labs": list(labs),
        "exercises": len(entries),
        "points": sum(entry.points for entry in entries),
    }
    made = {
        RELEASE: json.dumps(about, indent=2) + "\n",
        "README.md": render("README.md.j2", labs=_described(root, entries, labs), about=about),
        "Makefile": contents.makefile(tracked["Makefile"].data.decode(), labs),
        ".gitignore": contents.gitignore(tracked[".gitignore"].data.decode()),
        ".github/workflows/public-tests.yml": render("public-tests.yml.j2"),
    }
    if classroom:
        names = [f"exercise-{entry.id.replace('.', '-')}" for entry in entries]
        made[".github/workflows/classroom.yml"] = render(
            "classroom.yml.j2", exercises=list(zip(names, entries)), runners=",".join(names)
        )
    return {name: File(text.encode()) for name, text in made.items()}


def render(template: str, **values: Any) -> str:
    """One of the templates; a value that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        variable_start_string="<<",
        variable_end_string=">>",
    )
    return environment.get_template(template).render(**values)


def _described(root: Path, entries: Sequence[Entry], labs: Sequence[str]) -> list[dict[str, Any]]:
    """What the README says of each lab."""
    rows = []
    for lab in labs:
        own = [entry for entry in entries if entry.lab == lab]
        folder = lab if lab == CAPSTONE else f"labs/{lab}"
        title = (root / folder / "README.md").read_text(encoding="utf-8").partition("\n")[0]
        short = lab if lab == CAPSTONE else f"lab{lab_number(lab)}"
        rows.append(
            {
                "short": short,
                "title": title.lstrip("# "),
                "lesson": str(PurePosixPath(folder) / "README.md"),
                "exercises": len(own),
                "points": sum(entry.points for entry in own),
                "start": f"start{'-' if lab == CAPSTONE else ''}{short.removeprefix('lab')}",
            }
        )
    return rows
