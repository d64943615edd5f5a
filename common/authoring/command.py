"""``course verify``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import EXIT_FAILED, EXIT_OK, InputError

DESCRIPTION = "check that no exercise, lesson, link or command is broken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course verify``."""
    parser.add_argument(
        "--fast", action="store_true", help="only what needs no program to be run: seconds"
    )
    parser.add_argument(
        "--lab", metavar="LAB", help="run the exercises of this lab only (default: of all)"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=2, help="exercises run at a time (default: 2)"
    )
    parser.add_argument("--external", action="store_true", help="also open every outside address")
    parser.add_argument("--json", metavar="FILE", help="write what was found as JSON")


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    from rich.console import Console

    from common.authoring import curriculum, links, pages, report, verify
    from common.exercises.catalog import find_lab, lab_folders

    if arguments.jobs < 1:
        raise InputError(f"--jobs {arguments.jobs} must be at least 1")
    if arguments.fast and arguments.lab:
        raise InputError("--lab says whose exercises are run, and --fast runs none; leave one out")
    file = Path(arguments.json).absolute() if arguments.json else None
    if file and not file.parent.is_dir():
        raise InputError(f"--json {file}: there is no folder {file.parent}")
    map_ = curriculum.load(root)
    console = Console(highlight=False, emoji=False)
    progress = Console(stderr=True, highlight=False)
    if arguments.fast:
        verified, _ = verify.verify_fast(root, map_)
    else:
        labs = [folder.name for folder in lab_folders(root)]
        chosen = [find_lab(root, arguments.lab)] if arguments.lab else labs
        with progress.status("verifying") as status:
            verified = verify.verify_whole(
                root, map_, chosen, arguments.jobs, lambda text: status.update(f"verifying: {text}")
            )
    if arguments.external:
        verified.checks.append(links.check_external(root, pages.pages(root)))
    report.show(verified, map_, console)
    if file:
        _write(file, verified.as_json())
    return EXIT_OK if verified.passed else EXIT_FAILED


def _write(file: Path, found: object) -> None:
    import json

    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
