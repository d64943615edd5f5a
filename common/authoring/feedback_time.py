"""How long a learner waits for ``course check LAB ID``: every exercise, from a cold start.

    python -m common.authoring.feedback_time [--lab LAB] [--json FILE]

Each solution of ours is put into a learner's folder and checked in a process of its own, one after
the other: start of Python, imports, tests and answer. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from common.errors import EXIT_FAILED, EXIT_OK, InputError, RunError, exit_status
from common.exercises.catalog import Entry, discover, find_lab, find_root, lab_folders, order
from common.exercises.explain import short
from common.process import supervised
from common.results import write_json

LIMIT_S = 10.0


@dataclass(frozen=True)
class Feedback:
    """What one check took: seconds on the clock, and of CPU over all its processes."""

    id: str
    lab: str
    seconds: float
    cpu_s: float


def measure(root: Path, entry: Entry, work: Path, log: Path) -> Feedback:
    """Check one exercise in a fresh process.

    Raises
    ------
    RunError
        When our solution does not pass: then it is no measurement.
    """
    command = [sys.executable, "-m", "common.exercises.cli", "check", entry.lab, entry.id]
    command += ["--work", str(work)]
    began, before = time.monotonic(), _cpu()
    with supervised(command, log=log, cwd=root, name=f"check of {entry.id}") as child:
        status = child.wait()
    seconds, cpu_s = time.monotonic() - began, _cpu() - before
    if status:
        raise RunError(f"the check of {entry.id} ended with status {status}: {child.tail()}")
    return Feedback(entry.id, entry.lab, round(seconds, 2), round(cpu_s, 2))


def measure_all(
    root: Path, entries: Sequence[Entry], say: Callable[[Feedback], None] = lambda _: None
) -> list[Feedback]:
    """Check one exercise after the other, our solutions in the place of the learner's."""
    found = []
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        work, log = Path(folder, "work"), Path(folder, "log.txt")
        for entry in entries:
            file = entry.work_file(work)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.file.read_bytes())
        for entry in entries:
            log.unlink(missing_ok=True)
            found.append(measure(root, entry, work, log))
            say(found[-1])
    return found


def as_table(found: Sequence[Feedback]) -> str:
    """Seconds by lab and number of the exercise, as a Markdown table."""
    labs = list(dict.fromkeys(each.lab for each in found))
    cells = {(each.lab, order(each.id)[1]): f"{each.seconds:.1f}" for each in found}
    lines = ["| exercise | " + " | ".join(short(lab) for lab in labs) + " |"]
    lines.append("|---:" * (len(labs) + 1) + "|")
    for number in sorted({number for _, number in cells}):
        row = [cells.get((lab, number), "") for lab in labs]
        lines.append(f"| .{number} | " + " | ".join(row) + " |")
    for label, of in (("median", median), ("slowest", max)):
        row = [f"{of([each.seconds for each in found if each.lab == lab]):.1f}" for lab in labs]
        lines.append(f"| {label} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all in time; 1 one took too long or failed; 2 bad input; 130 interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lab", metavar="LAB", help="only this lab's (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write every time as JSON")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    root = find_root()
    labs = [folder.name for folder in lab_folders(root)]
    chosen = [find_lab(root, arguments.lab)] if arguments.lab else labs
    file = Path(arguments.json).absolute() if arguments.json else None
    if file and not file.parent.is_dir():
        raise InputError(f"--json {file}: there is no folder {file.parent}")
    entries = [entry for entry in discover(root) if entry.lab in chosen]
    load = os.getloadavg()[0]
    found = measure_all(root, entries, lambda each: print(_line(each), file=sys.stderr))
    if file:
        described = {"schema": 1, "cores": os.cpu_count(), "load_before": round(load, 2)}
        write_json(file, described | {"exercises": [asdict(each) for each in found]})
    print(as_table(found))
    late = [each for each in found if each.seconds >= LIMIT_S]
    print(
        f"\n{len(found)} exercises, {len(late)} at or over {LIMIT_S:g} s; load before: {load:.2f}"
    )
    return EXIT_FAILED if late else EXIT_OK


def _line(each: Feedback) -> str:
    return f"{each.id:>5}  {each.seconds:5.2f} s  {each.cpu_s:5.2f} s of CPU"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
