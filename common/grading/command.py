"""``course grade``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = "grade every submission of a folder, each confined in a process of its own"
MORE = """
SUBMISSIONS holds a folder or a zip of work/ for each student, named as the student. One lab is
graded at a time; without --lab it is the one lab that the submissions hold, and when they hold
several the command names them and ends. Tests, data and everything else come from this repository.

What it writes: <out>/<student>/results.json (Gradescope) and junit.xml; for the class grades.csv
(nbgrader's columns), gradebook.html and junit.xml; for you alone <out>/.grading, with the secret
seed. The same command goes on where it was stopped and grades again only what has changed.

Exit status: 0 everything was graded, whatever the grades; 1 something could not be, for a fault
that is the grader's; 2 bad arguments or input.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course grade``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{DESCRIPTION}\n{MORE}"
    parser.add_argument("submissions", metavar="SUBMISSIONS", help="a folder of submissions")
    parser.add_argument("--lab", metavar="LAB", help="lab5, 5, lab5_distillation or capstone")
    parser.add_argument("--out", metavar="DIR", default="grades", help="default: grades")
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="submissions at a time (default: as the machine has)"
    )
    parser.add_argument(
        "--secret-seed",
        metavar="S",
        type=int,
        help="whole number, mixed into the tests' inputs (default: the one in DIR, else a new one)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=180.0,
        help="for the tests of one exercise; one test may take a third (default: 180)",
    )
    parser.add_argument(
        "--memory", metavar="MB", type=int, default=6144, help="of one exercise (default: 6144)"
    )
    parser.add_argument(
        "--reset", action="store_true", help="grade all again, with a new secret seed"
    )


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    from common.grading.grade_class import Request, grade_class

    return grade_class(
        Request(
            root=root,
            submissions=Path(arguments.submissions),
            lab=arguments.lab,
            out=Path(arguments.out),
            jobs=arguments.jobs,
            secret_seed=arguments.secret_seed,
            timeout_s=arguments.timeout,
            memory_mb=arguments.memory,
            reset=arguments.reset,
        )
    )
