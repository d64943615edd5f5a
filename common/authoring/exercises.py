"""Exercises as authors left them: ids, points, hints, tests, wrong solutions, lessons, quiz."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from common.authoring.model import Check, ExerciseRecord, listed
from common.authoring.pages import pages_of
from common.exercises.catalog import (
    CatalogError,
    Entry,
    discover,
    discover_tests,
    lab_folders,
    read_source,
    wrong_id,
    wrong_solutions,
)

LEAST_EXERCISES = LEAST_TESTS = LEAST_WRONG = 2
LEAST_HINT = 30
LEAST_QUESTIONS = 12
ROW = re.compile(r"^\| *([1-9]\.\d+) *\|(.*)\|\s*$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\d.])[1-9]\.\d+(?![\d%]|\.\d)")


def find_exercises(root: Path) -> tuple[list[Entry], Check]:
    """The exercises of all labs, and whether their markers are sound."""
    check = Check("markers", "id, points, title and hint of every @exercise, read from the source")
    try:
        entries = discover(root)
    except CatalogError as error:
        for fault in str(error).split("; "):
            check.fault("catalog", fault)
        return [], check
    check.counted = len(entries)
    for entry in entries:
        if len(entry.hint.strip()) < LEAST_HINT:
            check.fault(entry.id, f"the hint {entry.hint!r} says too little")
    for folder in lab_folders(root):
        numbers = [int(entry.id.split(".")[1]) for entry in entries if entry.lab == folder.name]
        if len(numbers) < LEAST_EXERCISES:
            check.fault(folder.name, f"has {len(numbers)} exercise(s), not {LEAST_EXERCISES}")
        if numbers != list(range(1, len(numbers) + 1)):
            check.fault(
                folder.name, f"the numbers are not 1, 2, 3 ...: {listed(map(str, numbers))}"
            )
    return entries, check


def check_tests(root: Path, entries: Sequence[Entry]) -> tuple[list[ExerciseRecord], Check]:
    """Every exercise has tests with a reason, and wrong solutions that say their mistake."""
    check = Check("tests and wrong solutions", "at least two of each, and what each is for")
    records = []
    for lab in dict.fromkeys(entry.lab for entry in entries):
        tests = discover_tests(root, lab)
        ids = {entry.id for entry in entries if entry.lab == lab}
        for test in tests:
            if test.exercise not in ids:
                check.fault(test.node, f"grades exercise {test.exercise}, which {lab} has not")
        for file in sorted((root / "tests" / lab / "wrong").glob("*.py")):
            if wrong_id(file) not in ids:
                check.fault(file.name, "belongs to no exercise; name it e5_1_<mistake>.py")
            elif len((ast.get_docstring(ast.parse(read_source(file))) or "").splitlines()) != 1:
                check.fault(file.name, "say in a docstring of one line which mistake it makes")
        for entry in (entry for entry in entries if entry.lab == lab):
            own = [test for test in tests if test.exercise == entry.id]
            wrong = wrong_solutions(root, entry)
            check.counted += 1
            records.append(ExerciseRecord(entry.id, lab, entry.points, len(own), len(wrong)))
            if len(own) < LEAST_TESTS:
                check.fault(entry.id, f"has {len(own)} test(s), at least {LEAST_TESTS} are needed")
            if len(wrong) < LEAST_WRONG:
                check.fault(entry.id, f"has {len(wrong)} wrong solution(s), not {LEAST_WRONG}")
            for test in own:
                if not test.doc.strip():
                    check.fault(test.node, "has no docstring: say what it expects, and why")
    return records, check


def check_mentions(root: Path, entries: Sequence[Entry]) -> Check:
    """The front page of a lab lists every exercise with its points, and a lesson leads to it."""
    check = Check(
        "exercises in lessons", "row on the front page with its points; named in a lesson"
    )
    for folder in lab_folders(root):
        own = [entry for entry in entries if entry.lab == folder.name]
        front = folder / "README.md"
        if not own or not front.is_file():
            if own:
                check.fault(folder.name, "has no README.md")
            continue
        rows: dict[str, list[str]] = {}
        for number, rest in ROW.findall(read_source(front)):
            rows[number] = [cell.strip() for cell in rest.split("|")]
        named = _in_lessons(root, folder)
        for entry in own:
            check.counted += 1
            cells = rows.pop(entry.id, None)
            if cells is None:
                check.fault(entry.id, f"has no row in {folder.name}/README.md")
            else:
                if cells[-1] != str(entry.points):
                    check.fault(entry.id, f"has {entry.points} points; README.md says {cells[-1]}")
                if not any(f"`{entry.module}.py`" in cell for cell in cells):
                    check.fault(entry.id, f"stands in {entry.module}.py; README.md does not say so")
            if named is not None and entry.id not in named:
                check.fault(entry.id, "is under the exercises of no lesson")
        for number in rows:
            check.fault(number, f"has a row in {folder.name}/README.md and does not exist")
    return check


def _in_lessons(root: Path, folder: Path) -> set[str] | None:
    """Ids below a heading "Exercises" of a page in ``lessons/``; None for a lab without lessons."""
    if not (folder / "lessons").is_dir():
        return None
    found: set[str] = set()
    for page in pages_of(root, folder / "lessons"):
        for paragraph in page.paragraphs:
            heading = page.section(paragraph.line)
            if heading and "exercise" in heading.text.lower():
                found |= set(NUMBER.findall(paragraph.text))
    return found


def check_quizzes(root: Path) -> Check:
    """Every lab asks enough questions."""
    check = Check("questions", f"at least {LEAST_QUESTIONS} in quiz.toml of each lab")
    for folder in lab_folders(root):
        file = folder / "quiz.toml"
        if not file.is_file():
            check.fault(folder.name, "has no quiz.toml")
            continue
        try:
            questions = tomllib.loads(read_source(file)).get("question", [])
        except tomllib.TOMLDecodeError as error:
            check.fault(f"{folder.name}/quiz.toml", str(error))
            continue
        check.counted += len(questions)
        if len(questions) < LEAST_QUESTIONS:
            check.fault(folder.name, f"asks {len(questions)} questions, not {LEAST_QUESTIONS}")
    return check
