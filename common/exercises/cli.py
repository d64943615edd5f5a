"""The command ``course``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from common.errors import EXIT_OK, InputError, exit_status
from common.exercises import catalog
from common.exercises.catalog import Entry

DESCRIPTION = "Begin an exercise, check it, get a hint, see how far you are."

# Everything else is imported by the command that needs it: --help answers at once.

INSTRUCTORS = {
    "assess": "assessment",
    "grade": "grading",
    "release": "release",
    "verify": "authoring",
    "docs": "site",
}
"""Commands and their packages; a student's repository lacks those that need the solutions."""


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """The console script. Exit status: 0 done; 1 tests failed; 2 bad input; 130 interrupted."""
    return exit_status(lambda: _run(argv, root))


def _run(argv: Sequence[str] | None, root: Path | None) -> int:
    arguments = build_parser().parse_args(argv)
    root = root or catalog.find_root()
    work = Path(arguments.work).resolve() if arguments.work else root / "work"
    status: int = arguments.command(arguments, root, work)
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="course", description=DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        below = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        below.add_argument(
            "--work", metavar="DIR", help="your folder (default: work in the repository)"
        )
        below.set_defaults(command=command)
        return below

    lab = "lab5, 5 or lab5_distillation"
    start = add("start", _start, "write the exercises of a lab to your folder, never overwriting")
    start.add_argument("lab", metavar="LAB", help=lab)
    start.add_argument("exercise", metavar="ID", nargs="?", help="only this one's file, as in 5.1")
    start.add_argument("--reset", metavar="ID", help="give one exercise back as it was, as in 5.1")
    check = add("check", _check, "run the public tests of a lab on your code")
    check.add_argument("lab", metavar="LAB", help=lab)
    check.add_argument("exercise", metavar="ID", nargs="?", help="only this exercise, as in 5.1")
    check.add_argument("--watch", action="store_true", help="check again on every save")
    hint = add("hint", _hint, "one hint for an exercise")
    hint.add_argument("exercise", metavar="ID", help="as in 5.1")
    progress = add("progress", _progress, "exercises passed and deliverables measured")
    progress.add_argument("--runs", metavar="DIR", help="folder of runs (default: runs)")
    progress.add_argument("--html", metavar="FILE", help="write it as a page instead")
    add("list", _list, "every exercise")
    for name, package in INSTRUCTORS.items():
        if (Path(__file__).parents[1] / package / "command.py").is_file():
            module = import_module(f"common.{package}.command")
            module.add_arguments(add(name, module.run, module.DESCRIPTION))
    return parser


def _of_lab(root: Path, given: str) -> tuple[str, list[Entry]]:
    lab = catalog.find_lab(root, given)
    entries = [entry for entry in catalog.discover(root) if entry.lab == lab]
    if not entries:
        raise InputError(f"{lab} has no exercises")
    return lab, entries


def _start(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    from common.exercises.start import reset, start

    lab, entries = _of_lab(root, arguments.lab)
    if arguments.reset:
        entry = catalog.find_exercise(entries, arguments.reset)
        backup = reset(entry, work)
        print(f"{entry.id} is a stub again in {entry.work_file(work)}; your version: {backup}")
        return EXIT_OK
    if arguments.exercise:
        entries = [catalog.find_exercise(entries, arguments.exercise)]
    for file, written in start(entries, work):
        print(f"wrote {file}" if written else f"kept  {file} (it exists, nothing was changed)")
    only = f" {arguments.exercise}" if arguments.exercise else ""
    print(f"next: edit, then `course check {lab.partition('_')[0]}{only}`")
    return EXIT_OK


def _check(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    from common.exercises.check import check, watch

    lab, entries = _of_lab(root, arguments.lab)
    if arguments.exercise:
        entries = [catalog.find_exercise(entries, arguments.exercise)]
    return (watch if arguments.watch else check)(root, work, lab, entries)


def _hint(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    entry = catalog.find_exercise(catalog.discover(root), arguments.exercise)
    print(f"{entry.id} {entry.title}\n{entry.hint}")
    return EXIT_OK


def _list(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    lab = ""
    for entry in catalog.discover(root):
        if entry.lab != lab:
            lab = entry.lab
            print(lab)
        print(f"{entry.id:>6}  {entry.points:>2} points  {entry.title}  ({entry.module}.py)")
    return EXIT_OK


def _progress(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    from common.exercises import progress

    rows = progress.rows(root, catalog.discover(root), work)
    following = progress.next_command(rows, progress.load(work))
    measured = progress.deliverables(progress.runs_folder(arguments.runs, root))
    if arguments.html:
        from common.exercises import progress_page

        file = Path(arguments.html).absolute()
        progress_page.write(file, progress_page.render(rows, measured, following))
        print(f"wrote {file}")
        return EXIT_OK
    from common.exercises.progress_table import show

    show(rows, measured, following)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
