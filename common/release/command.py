"""``course release``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import EXIT_OK, InputError

DESCRIPTION = "write the student repository and the files of a grading service"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course release``."""
    parser.add_argument(
        "--out", metavar="DIR", help="write the student repository: stubs, public tests, no answers"
    )
    parser.add_argument(
        "--lab",
        metavar="LAB",
        action="append",
        default=[],
        help="only this lab (may be repeated; default: all labs and the capstone)",
    )
    parser.add_argument(
        "--classroom",
        action="store_true",
        help="with --out: add the workflow that gives points in GitHub Classroom",
    )
    parser.add_argument(
        "--autograder", metavar="FILE", help="write the zip of a Gradescope autograder (one --lab)"
    )


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    from common.release import contents

    if arguments.classroom and not arguments.out:
        raise InputError("--classroom adds to the student repository: give --out DIR too")
    if not arguments.out and not arguments.autograder:
        raise InputError(
            "nothing to write: give --out DIR for the student repository, "
            "or --autograder FILE for Gradescope"
        )
    labs = contents.chosen_labs(root, arguments.lab)
    if arguments.out:
        _student_repository(root, labs, Path(arguments.out).absolute(), arguments.classroom)
    if arguments.autograder:
        _autograder(root, labs, Path(arguments.autograder).absolute())
    return EXIT_OK


def _student_repository(root: Path, labs: list[str], out: Path, classroom: bool) -> None:
    from common.release.student_repository import build, refuse_existing, write

    refuse_existing(out)
    files = build(root, labs, classroom=classroom)
    write(files, out)
    print(f"wrote {out}: {len(files)} files, {', '.join(labs)}; searched, no solution in any file")
    print(f"next: cd {out} && git init -b main && git add -A && git commit -m 'The labs'")


def _autograder(root: Path, labs: list[str], file: Path) -> None:
    from common.release.autograder import write

    if len(labs) != 1:
        raise InputError("an autograder grades one lab (one Gradescope assignment): give one --lab")
    write(root, labs[0], file)
    print(f"wrote {file}: setup.sh, run_autograder and the grader for {labs[0]}")
