"""The map of the curriculum, ``docs/curriculum.toml``: read, and compared with the repository."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.authoring.model import Check
from common.authoring.pages import read_page
from common.errors import InputError
from common.exercises.catalog import CAPSTONE, Entry, definitions, lab_number, read_source

FILE = "docs/curriculum.toml"
CLAIM_CALLS = {"Claim", "_claim", "claim"}


@dataclass(frozen=True)
class Row:
    """One place where a topic is taught and graded. Paths are relative to the lab's folder."""

    lab: str
    topic: str
    teaches: str
    modules: tuple[str, ...] = ()
    lesson: str = ""
    exercises: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Criterion:
    """What a learner can do in the end: deliverables of ``results.json``, and exercises."""

    id: str
    text: str
    deliverables: tuple[str, ...] = ()
    exercises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curriculum:
    """``topics`` maps each lab to its topics, key to text."""

    topics: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    criteria: tuple[Criterion, ...] = ()


def load(root: Path) -> Curriculum:
    """Read the map.

    Raises
    ------
    InputError
        When the file is missing, is no TOML, or holds a field that is unknown, missing or of
        another type.
    """
    file = root / FILE
    if not file.is_file():
        raise InputError(f"there is no {file}; it maps the topics of the curriculum")
    try:
        text = tomllib.loads(read_source(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is no TOML: {error}") from error
    if unknown := set(text) - {"curriculum", "row", "criterion"}:
        raise InputError(f"{file} has an unknown table {sorted(unknown)[0]}")
    return Curriculum(
        text.get("curriculum", {}),
        tuple(Row(**_fields(file, Row, each)) for each in text.get("row", [])),
        tuple(Criterion(**_fields(file, Criterion, each)) for each in text.get("criterion", [])),
    )


def _fields(file: Path, kind: type[Row] | type[Criterion], given: dict[str, Any]) -> dict[str, Any]:
    annotations = kind.__annotations__
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in annotations:
            raise InputError(f"{file}: {name} is no field of a {kind.__name__.lower()}")
        many = annotations[name].startswith("tuple")
        words = value if many and isinstance(value, list) else [value]
        if many != isinstance(value, list) or not all(isinstance(each, str) for each in words):
            raise InputError(f"{file}: {name} = {value!r} must be {'a list of ' * many}text")
        found[name] = tuple(value) if many else value
    required = [name for name in annotations if not hasattr(kind, name)]
    if missing := [name for name in required if name not in found]:
        raise InputError(f"{file}: a {kind.__name__.lower()} has no {missing[0]}: {given}")
    return found


def folder_of(root: Path, lab: str) -> Path:
    """Where a lab's files are."""
    return root / lab if lab == CAPSTONE else root / "labs" / lab


def check_topics(root: Path, entries: Sequence[Entry], curriculum: Curriculum) -> Check:
    """Every topic has rows, and no cell of a row is empty or names what does not exist."""
    check = Check("topics", "module and heading exist; exercise is the lab's, or the test exists")
    labs = {entry.id: entry.lab for entry in entries}
    taught = {(row.lab, row.topic) for row in curriculum.rows}
    for lab, topics in curriculum.topics.items():
        if not folder_of(root, lab).is_dir():
            check.fault(f"[curriculum.{lab}]", "there is no such lab")
        for topic in topics:
            check.counted += 1
            if (lab, topic) not in taught:
                check.fault(f"{lab}: {topic}", "has no row: it is neither taught nor graded")
    for row in curriculum.rows:
        where = f"{row.lab}: {row.topic} ({row.teaches})"
        if row.topic not in curriculum.topics.get(row.lab, {}):
            check.fault(where, f"{row.topic} is no topic of [curriculum.{row.lab}]")
        for fault in _faults(root, row, labs):
            check.fault(where, fault)
    used = {exercise for row in curriculum.rows for exercise in row.exercises}
    for entry in entries:
        if entry.id not in used:
            check.fault(entry.id, "the exercise belongs to no topic")
    return check


def _faults(root: Path, row: Row, labs: dict[str, str]) -> Iterator[str]:
    folder = folder_of(root, row.lab)
    if not row.modules:
        yield "names no module"
    for module in row.modules:
        if not (folder / module).is_file():
            yield f"there is no module {module}"
    path, _, anchor = row.lesson.partition("#")
    if not path or not anchor:
        yield f"lesson = {row.lesson!r} must name a page and a heading: lessons/loss.md#the-idea"
    elif not (folder / path).is_file():
        yield f"there is no page {path}"
    elif anchor not in read_page(folder / path).anchors:
        yield f"{path} has no heading #{anchor}"
    if not row.exercises and not row.tests:
        yield "names neither exercise nor test"
    for exercise in row.exercises:
        if labs.get(exercise) != row.lab:
            yield f"{exercise} is no exercise of {row.lab}"
    for test in row.tests:
        name, _, function = test.partition("::")
        file = root / "tests" / row.lab / name
        if not file.is_file():
            yield f"there is no tests/{row.lab}/{name}"
        elif function not in _functions(file):
            yield f"{name} has no {function}"


def _functions(file: Path) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in definitions(ast.parse(read_source(file)).body)}


def check_criteria(root: Path, entries: Sequence[Entry], curriculum: Curriculum) -> Check:
    """Every success criterion is measured by claims that a run makes, and by exercises."""
    check = Check("success criteria", "each deliverable is a claim of a run, each exercise exists")
    ids = {entry.id for entry in entries}
    claims = {claim for lab in curriculum.topics for claim in claims_of(root, lab)}
    used: set[str] = set()
    seen: set[str] = set()
    for criterion in curriculum.criteria:
        check.counted += 1
        if criterion.id in seen:
            check.fault(criterion.id, "stands in the map twice")
        seen.add(criterion.id)
        used |= set(criterion.exercises)
        if not criterion.deliverables or not criterion.exercises:
            check.fault(criterion.id, "needs deliverables and exercises")
        for claim in criterion.deliverables:
            if claim not in claims:
                check.fault(criterion.id, f"no run claims {claim}")
        for exercise in criterion.exercises:
            if exercise not in ids:
                check.fault(criterion.id, f"there is no exercise {exercise}")
    for exercise in sorted(ids - used):
        check.fault(exercise, "counts for no criterion")
    return check


def claims_of(root: Path, lab: str) -> set[str]:
    """Ids of the claims in a lab's source, such as ``L2.recall``.

    They are the first arguments of ``Claim(...)``, and of a ``_claim(...)`` that adds the prefix.
    """
    folder = folder_of(root, lab)
    prefix = "C." if lab == CAPSTONE else f"L{lab_number(lab)}."
    found: set[str] = set()
    for file in [folder / "claims.py", folder / "__main__.py"]:
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(read_source(file))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in CLAIM_CALLS
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                name = str(node.args[0].value)
                found.add(name if name.startswith(prefix) else prefix + name)
    return found
