"""Which exercises exist, and which tests grade them: read from the source, nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import InputError
from common.exercises.marker import Exercise

LAB_FOLDER = re.compile(r"lab(\d+)_\w+")
CAPSTONE, CAPSTONE_NUMBER = "capstone", 7
"""The capstone's exercises are numbered after the labs': 7.1, 7.2, ..."""
EXERCISE_ID = re.compile(r"([1-9]\d*)\.([1-9]\d*)")
WRONG_FILE = re.compile(r"e(\d+)_(\d+)_\w+\.py")
NO_TOPIC = {"__init__", "__main__", "config", "traps"}
FIELDS = ("points", "title", "hint")
MARKER = re.compile(r"@[\s\w.]*\bexercise\b")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class CatalogError(InputError):
    """The exercises of the labs are not marked as they must be; the message lists every fault."""


@dataclass(frozen=True)
class Entry(Exercise):
    """An exercise and where it stands; ``name`` is qualified (``"Index.search"`` for a method)."""

    lab: str
    module: str
    name: str
    file: Path
    line: int

    @property
    def dotted(self) -> str:
        """The name the module is imported by."""
        package = self.lab if self.lab == CAPSTONE else f"labs.{self.lab}"
        return f"{package}.{self.module}"

    def work_file(self, work: Path) -> Path:
        """The learner's file of this exercise below the folder ``work``."""
        return work / self.lab / f"{self.module}.py"


@dataclass(frozen=True)
class ExerciseTest:
    """A test function marked with an exercise. ``node`` is its pytest id without parameters."""

    exercise: str
    node: str
    file: Path
    line: int
    doc: str

    @property
    def sentence(self) -> str:
        return sentence(self.node)


def find_root() -> Path:
    """The repository: the folder with ``pyproject.toml`` that holds this package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        raise InputError(
            f"{root} is no clone of the repository: it has no pyproject.toml; "
            "install with `pip install -e .` inside the clone"
        )
    return root


def read_source(file: Path) -> str:
    """The text of a source file; :class:`InputError` when it is not UTF-8 or holds a null byte."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{file} holds a null byte, so it is no Python source; restore it")
    return text


def order(exercise: str) -> tuple[int, int]:
    """Sort key of an id: ``"5.2"`` comes before ``"5.10"``."""
    lab, number = exercise.split(".")
    return int(lab), int(number)


def sentence(node: str) -> str:
    """A pytest id as a sentence: ``…::test_it_falls[2.0]`` reads ``it falls (2.0)``."""
    base, bracket, parameters = node.partition("[")
    words = base.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    return words + (f" ({parameters.removesuffix(']')})" if bracket else "")


def lab_folders(root: Path) -> list[Path]:
    """The folders ``labs/lab<number>_<name>`` in number order, and the capstone if it is there."""
    found = [path for path in (root / "labs").glob("lab*") if LAB_FOLDER.fullmatch(path.name)]
    found.append(root / CAPSTONE)
    return sorted((path for path in found if path.is_dir()), key=lambda path: lab_number(path.name))


def lab_number(lab: str) -> int:
    """First number of the ids of a lab's exercises; the capstone's is 7."""
    if lab == CAPSTONE:
        return CAPSTONE_NUMBER
    match = LAB_FOLDER.fullmatch(lab)
    if match is None:
        raise InputError(f"{lab!r} is no name of a lab, such as 'lab5_distillation'")
    return int(match[1])


def find_lab(root: Path, given: str) -> str:
    """The folder name of a lab given as ``lab5``, ``5`` or ``lab5_distillation``."""
    labs = [folder.name for folder in lab_folders(root)]
    for lab in labs:
        if given in (lab, f"lab{lab_number(lab)}", str(lab_number(lab))):
            return lab
    raise InputError(f"{given!r} is no lab; choose {', '.join(labs)} (or lab5, or 5)")


def discover(root: Path) -> list[Entry]:
    """Every exercise of a repository, ordered by number.

    Raises
    ------
    CatalogError
        For a duplicated id, an argument that is no literal, a missing or empty title or hint, an
        id whose first number is not the lab's, or a marker where no stub can be made.
    """
    entries: list[Entry] = []
    faults: list[str] = []
    for folder in lab_folders(root):
        for file in sorted(folder.glob("*.py")):
            source = read_source(file)
            if MARKER.search(source):
                found, wrong = _read_module(root, file, source)
                entries += found
                faults += wrong
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.id in seen:
            faults.append(
                f"{_place(root, entry.file, entry.line)}: exercise {entry.id} is also "
                f"{_place(root, seen[entry.id].file, seen[entry.id].line)}; give it its own number"
            )
        seen[entry.id] = entry
    if faults:
        raise CatalogError("; ".join(faults))
    return sorted(entries, key=lambda entry: order(entry.id))


def find_exercise(entries: list[Entry], given: str) -> Entry:
    """The exercise with the id ``given``; :class:`InputError` names the valid ones."""
    for entry in entries:
        if entry.id == given:
            return entry
    lab = given.partition(".")[0]
    near = [entry.id for entry in entries if entry.id.partition(".")[0] == lab]
    valid = ", ".join(near or [entry.id for entry in entries]) or "none are marked yet"
    raise InputError(f"{given!r} is no exercise; choose {valid}")


def discover_tests(root: Path, lab: str) -> list[ExerciseTest]:
    """The test functions in ``tests/<lab>`` marked ``@pytest.mark.exercise(id)``."""
    tests: list[ExerciseTest] = []
    for file in sorted((root / "tests" / lab).glob("**/test_*.py")):
        source = read_source(file)
        if "mark.exercise" in source:
            tests += _read_tests(file, file.relative_to(root).as_posix(), source)
    return tests


@cache
def _read_tests(file: Path, prefix: str, source: str) -> tuple[ExerciseTest, ...]:
    """The marked tests of one file with this text."""
    tree = ast.parse(source, str(file))
    return tuple(_tests_of(tree.body, file, prefix, _module_mark(tree)))


def wrong_solutions(root: Path, entry: Entry) -> list[Path]:
    """The files ``tests/<lab>/wrong/e5_1_<mistake>.py`` of an exercise."""
    found = sorted((root / "tests" / entry.lab / "wrong").glob("e*.py"))
    return [file for file in found if wrong_id(file) == entry.id]


def wrong_id(file: Path) -> str | None:
    """The exercise a wrong solution belongs to, by its file name."""
    match = WRONG_FILE.fullmatch(file.name)
    return f"{match[1]}.{match[2]}" if match else None


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions, classes and their methods with qualified names, outermost first."""
    for node in body:
        if isinstance(node, Definition):
            name = prefix + node.name
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{name}.")


def locate(source: str, name: str) -> Definition | None:
    """The definition ``name`` in a source text: the marked one, else the last."""
    found = [node for qualified, node in definitions(ast.parse(source).body) if qualified == name]
    marked = [node for node in found if marker_of(node) is not None]
    chosen = marked or found
    return chosen[-1] if chosen else None


def marker_of(node: ast.AST) -> ast.Call | None:
    """The ``@exercise(...)`` call on a definition."""
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "exercise":
            return decorator
    return None


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _place(root: Path, file: Path, line: int) -> str:
    return f"{file.relative_to(root)}:{line}"


@cache
def _read_module(root: Path, file: Path, source: str) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """The exercises of one file with this text, and what is wrong with its markers."""
    try:
        tree = ast.parse(source, str(file))
    except SyntaxError as error:
        return (), (f"{_place(root, file, error.lineno or 0)}: {error.msg}",)
    entries, faults = [], []
    reachable = {id(node): name for name, node in definitions(tree.body)}
    inside: set[int] = set()
    for node in statements(tree):
        marker = marker_of(node)
        if marker is None:
            continue
        fault = ""
        if id(node) not in reachable:
            fault = "only a function, a class or a method at the top of a module can be an exercise"
        elif id(node) in inside:
            fault = "an exercise inside another exercise has no stub of its own"
        elif file.stem in NO_TOPIC:
            fault = f"{file.name} is no topic module; exercises stand in topic modules"
        inside |= {id(below) for below in statements(node)}
        if not fault:
            found = _entry(file, reachable[id(node)], node, marker)
            if isinstance(found, Entry):
                entries.append(found)
                continue
            fault = found
        faults.append(f"{_place(root, file, marker.lineno)}: {fault}")
    return tuple(entries), tuple(faults)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements below it, outermost first; no expression holds a definition."""
    level = [tree]
    while level:
        yield from level
        level = [
            inner
            for node in level
            for block in ("body", "handlers", "cases", "orelse", "finalbody")
            if isinstance(below := getattr(node, block, None), list)
            for inner in below
        ]


def _entry(file: Path, name: str, node: ast.AST, marker: ast.Call) -> Entry | str:
    """The exercise of one marker, or what is wrong with it."""
    given: dict[str, object] = {}
    named: list[tuple[str | None, ast.expr]] = [(word.arg, word.value) for word in marker.keywords]
    for key, value in [*zip(["id"], marker.args), *named]:
        if key is None or not isinstance(value, ast.Constant):
            return f"@exercise: {key or '**'} must be a literal, the stub is made from this text"
        given[key] = value.value
    if len(marker.args) > 1 or (unknown := set(given) - {"id", *FIELDS}):
        return f"@exercise takes an id and {', '.join(FIELDS)}" + (
            "" if len(marker.args) > 1 else f", not {', '.join(sorted(unknown))}"
        )
    identifier = given.get("id")
    match = EXERCISE_ID.fullmatch(identifier) if isinstance(identifier, str) else None
    if not isinstance(identifier, str) or match is None:
        return f"@exercise: id {identifier!r} must read '<lab>.<number>', such as '5.1'"
    lab = file.parent.name
    if int(match[1]) != lab_number(lab):
        return f"exercise {identifier} stands in {lab}; its id must begin with {lab_number(lab)}."
    points, title, hint = (given.get(field) for field in FIELDS)
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        return f"exercise {identifier}: points = {points!r} must be a whole number of at least 1"
    if not isinstance(title, str) or not title.strip():
        return f"exercise {identifier} has no title"
    if not isinstance(hint, str) or not hint.strip():
        return f"exercise {identifier} has no hint"
    return Entry(
        id=identifier,
        points=points,
        title=title,
        hint=hint,
        lab=lab,
        module=file.stem,
        name=name,
        file=file,
        line=getattr(node, "lineno", 0),
    )


def _mark(nodes: list[ast.expr]) -> str | None:
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "exercise"
            and _last_name(node.func.value) == "mark"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            return str(node.args[0].value)
    return None


def _module_mark(tree: ast.Module) -> str | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            value = node.value
            return _mark(value.elts if isinstance(value, ast.List | ast.Tuple) else [value])
    return None


def _tests_of(
    body: list[ast.stmt], file: Path, prefix: str, inherited: str | None
) -> list[ExerciseTest]:
    tests: list[ExerciseTest] = []
    for node in body:
        if not isinstance(node, Definition):
            continue
        mark = _mark(node.decorator_list) or inherited
        path = f"{prefix}::{node.name}"
        if isinstance(node, ast.ClassDef):
            tests += _tests_of(node.body, file, path, mark)
        elif mark and node.name.startswith("test"):
            doc = ast.get_docstring(node) or ""
            tests.append(ExerciseTest(mark, path, file, node.lineno, doc))
    return tests
