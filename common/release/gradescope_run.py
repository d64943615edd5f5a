"""What ``run_autograder`` calls: grade the one submission that Gradescope put beside it.

``prepare`` runs while the image is built: it draws the secret seed of the assignment, and runs the
reference once, so that a submission does not wait for it. ``grade`` writes ``results.json``. When
the grader itself fails there is no results.json and the status is 1: Gradescope then says that the
autograder failed, and nobody has lost a point by it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import EXIT_OK, InputError, RunError, exit_status
from common.exercises.catalog import find_root

SEED, CACHE = "secret_seed", "manifests"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the grader failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prepare", "grade"])
    parser.add_argument("--lab", required=True)
    parser.add_argument("--autograder", required=True, type=Path, help="usually /autograder")
    given = parser.parse_args(argv)

    def command() -> int:
        (prepare if given.what == "prepare" else grade)(given.autograder, given.lab)
        return EXIT_OK

    return exit_status(command)


def prepare(autograder: Path, lab: str) -> None:
    """Draw the seed once and keep the manifest of the tests, both readable by the owner alone."""
    from common.grading.one import LabGrader

    seed = autograder / "source" / SEED
    if not seed.exists():
        partial = seed.with_name(f".{seed.name}.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            out.write(str(secrets.randbelow(1 << 31)))
        partial.replace(seed)
    cache = autograder / "source" / CACHE
    cache.mkdir(mode=0o700, exist_ok=True)
    with LabGrader(find_root(), lab, secret_seed=int(seed.read_text()), cache=cache) as grader:
        tests = grader.manifest.tests
    print(f"{lab}: {len(tests)} exercises, {sum(map(len, tests.values()))} tests")


def grade(autograder: Path, lab: str) -> None:
    """Grade ``submission/`` and write ``results/results.json``."""
    from common.grading.gradescope import results
    from common.grading.model import Submission
    from common.grading.one import grade_one
    from common.results import write_json

    seed = autograder / "source" / SEED
    if not seed.is_file():
        raise RunError(f"there is no {seed}: setup.sh did not run to its end")
    folder = autograder / "submission"
    if not folder.is_dir():
        raise InputError(f"there is no {folder}")
    graded = grade_one(
        find_root(),
        Submission("submission", folder),
        lab,
        int(seed.read_text()),
        cache=autograder / "source" / CACHE,
    )
    print(f"{lab}: {graded.score} of {graded.max_score} points; isolation: {graded.isolation}")
    for alert in graded.alerts:  # standard output is hidden from students
        print(f"alert: {alert}")
    out = autograder / "results"
    out.mkdir(exist_ok=True)
    write_json(out / "results.json", results(graded))


if __name__ == "__main__":
    sys.exit(main())
