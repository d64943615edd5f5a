"""A class whose grades are known beforehand: ``python -m tests.known_class lab2``.

Thirty or so submissions of one lab: every wrong solution once, ours, stubs, an empty folder, an
unreadable zip, a file that does not parse. A submission with mistakes has one in every third
exercise, so that the points it must lose are known and a mistake that costs a neighbour its points
shows. What `course grade` gives is compared with what it must give. It takes minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common.exercises import cli
from common.exercises.catalog import Entry, discover, find_lab, find_root, wrong_solutions
from common.exercises.start import start
from common.exercises.stubs import splice
from common.grading.output_folder import PRIVATE

APART = 3
SMALLEST = 30


def hand_in(root: Path, entries: list[Entry], folder: Path) -> dict[str, set[str]]:
    """Write the submissions; the exercises that each must fail, by student."""
    everything = {entry.id for entry in entries}
    must_fail: dict[str, set[str]] = {}
    wrong = {entry.id: wrong_solutions(root, entry) for entry in entries}
    for number in range(max(map(len, wrong.values()))):
        for first in range(APART):
            mistaken = [entry for entry in entries[first::APART] if number < len(wrong[entry.id])]
            if mistaken:
                student = f"wrong{number + 1}-{first + 1}"
                _reference(entries, folder / student)
                for entry in mistaken:
                    file = entry.work_file(folder / student)
                    mistake = wrong[entry.id][number].read_text(encoding="utf-8")
                    text = splice(file.read_text(encoding="utf-8"), entry.name, mistake)
                    file.write_text(text, encoding="utf-8")
                must_fail[student] = {entry.id for entry in mistaken}
    _reference(entries, folder / "reference")
    must_fail["reference"] = set()
    start(entries, folder / "stubs")
    (folder / "empty").mkdir()
    (folder / "unreadable.zip").write_bytes(b"PK no zip")
    must_fail |= dict.fromkeys(("stubs", "empty", "unreadable"), everything)
    broken = _reference(entries, folder / "syntax")[entries[0].module]
    broken.write_text("def (\n", encoding="utf-8")
    must_fail["syntax"] = {entry.id for entry in entries if entry.module == entries[0].module}
    for number in range(SMALLEST - len(must_fail)):
        _reference(entries, folder / f"copy{number + 1}")
        must_fail[f"copy{number + 1}"] = set()
    return must_fail


def _reference(entries: list[Entry], work: Path) -> dict[str, Path]:
    """Our solutions as a learner's files, by module."""
    files = {entry.module: entry.work_file(work) for entry in entries}
    for entry in entries:
        files[entry.module].parent.mkdir(parents=True, exist_ok=True)
        files[entry.module].write_bytes(entry.file.read_bytes())
    return files


def compare(out: Path, must_fail: dict[str, set[str]]) -> list[str]:
    """Print each grade; a line for each that is not what it must be."""
    differences = []
    for student, expected in sorted(must_fail.items()):
        record = out / PRIVATE / "records" / f"{student}.json"
        graded = json.loads(record.read_text(encoding="utf-8"))
        failed = {each["id"] for each in graded["exercises"] if each["status"] == "failed"}
        print(f"{student:<12} {graded['score']:>4} of {graded['max_score']}  {graded['seconds']} s")
        if failed != expected:
            differences.append(
                f"{student}: failed {sorted(failed - expected)} beside what it must, "
                f"passed {sorted(expected - failed)}"
            )
    return differences


def main() -> int:
    """Exit status 1 when a grade is not what it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lab")
    parser.add_argument("--jobs", default="2")
    arguments = parser.parse_args()
    root = find_root()
    lab = find_lab(root, arguments.lab)
    entries = [entry for entry in discover(root) if entry.lab == lab]
    with tempfile.TemporaryDirectory(prefix="known-class-") as name:
        submissions, out = Path(name, "submissions"), Path(name, "grades")
        submissions.mkdir()
        must_fail = hand_in(root, entries, submissions)
        asked = ["grade", str(submissions), "--lab", lab, "--out", str(out)]
        if status := cli.main([*asked, "--jobs", arguments.jobs], root=root):
            return status
        differences = compare(out, must_fail)
    print("\n".join(differences) or f"{len(must_fail)} submissions have the grades they must have")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
