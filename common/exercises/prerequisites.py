"""Which exercises an exercise builds on: read from the sources, nothing is imported.

An exercise builds on another of its lab when its definition or one of its tests names it, directly
or through what these name: helpers, fixtures, classes. A method is reached when its class is and
something reached names it (rapid type analysis). What only one branch of an ``if`` names is not
followed, for it may never run, nor is an annotation. So a few are missed; a test that meets
another's stub says so when it runs.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from common.errors import InputError
from common.exercises.catalog import (
    CAPSTONE,
    Definition,
    Entry,
    discover_tests,
    order,
    read_source,
    statements,
)


def prerequisites(
    root: Path, entries: Iterable[Entry], work: Path | None = None
) -> dict[str, list[str]]:
    """Ids of the exercises that each of ``entries`` builds on, in their order.

    Parameters
    ----------
    entries
        All exercises of one or more labs.
    work
        The learner's folder: what is written there counts beside our own sources, which are stubs
        in a student's repository.

    Notes
    -----
    Of two exercises whose tests use each other, the first builds on nothing of the second.
    """
    found: dict[str, list[str]] = {}
    for lab, own in _by_lab(entries).items():
        names = _Names(root, lab, work)
        marked = {f"{entry.dotted}.{entry.name}": entry.id for entry in own}
        tests: dict[str, list[str]] = {}
        for test in discover_tests(root, lab):
            name = ".".join(test.node.split("::")[1:])
            tests.setdefault(test.exercise, []).append(f"{_dotted(root, test.file)}.{name}")
        reach = {
            entry.id: {
                marked[name]
                for name in names.reached(
                    [f"{entry.dotted}.{entry.name}", *tests.get(entry.id, [])]
                )
                if name in marked
            }
            for entry in own
        }
        for entry in own:
            others = {
                other
                for other in reach[entry.id] - {entry.id}
                if entry.id not in reach[other] or order(other) < order(entry.id)
            }
            found[entry.id] = sorted(others, key=order)
    return found


def reached_modules(root: Path, entry: Entry, tests: Iterable[Path]) -> set[str]:
    """Modules of the lab that an exercise's module and its tests import, directly or not."""
    package = _package(entry.lab)
    folder = root / package.replace(".", "/")
    found, queue = {entry.module}, [folder / f"{entry.module}.py", *tests]
    while queue:
        file = queue.pop()
        for _, name in _imports(ast.parse(read_source(file), str(file))):
            if name.startswith(f"{package}."):
                module = name.removeprefix(f"{package}.").partition(".")[0]
                if module not in found and (folder / f"{module}.py").is_file():
                    found.add(module)
                    queue.append(folder / f"{module}.py")
    return found


class _Names:
    """The names of one lab's package and tests, and what they use."""

    def __init__(self, root: Path, lab: str, work: Path | None) -> None:
        self.root, self.work = root, work
        self.packages = (f"{_package(lab)}.", f"tests.{lab}.")
        self.fixtures = f"tests.{lab}.conftest"

    def reached(self, begin: Iterable[str]) -> set[str]:
        found: set[str] = set()
        methods: dict[str, set[str]] = {}  # by name: those of the classes that are reached
        attributes: set[str] = set()
        queue = list(begin)
        while queue:
            name = self._defined(queue.pop())
            if not name or name in found:
                continue
            found.add(name)
            queue += self._used_by(name)
            for method in self._methods(name):
                last = method.rpartition(".")[2]
                methods.setdefault(last, set()).add(method)
                if last in attributes or last.startswith("__"):
                    queue.append(method)
            for attribute in self._attributes(name) - attributes:
                attributes.add(attribute)
                queue += methods.get(attribute, ())
        return found

    def _defined(self, dotted: str) -> str | None:
        """The definition a dotted name means: ``module.Class`` for an attribute of the class."""
        if not dotted.startswith(self.packages):
            return None
        module, name = self._split(dotted)
        while name and not any(name in file.top for file in self._files(module)):
            name = name.rpartition(".")[0]
        return f"{module}.{name}" if name else None

    def _used_by(self, dotted: str) -> Iterator[str]:
        module, name = self._split(dotted)
        for used in (used for file in self._files(module) for used in file.used_by(name)):
            yield used
            if module.startswith("tests.") and used.startswith(f"{module}."):
                yield f"{self.fixtures}.{used.removeprefix(f'{module}.')}"

    def _methods(self, dotted: str) -> Iterator[str]:
        module, name = self._split(dotted)
        for file in self._files(module):
            yield from (f"{module}.{other}" for other in file.top if other.startswith(f"{name}."))

    def _attributes(self, dotted: str) -> set[str]:
        """Names that stand behind a dot in a definition."""
        module, name = self._split(dotted)
        return {
            attribute
            for file in self._files(module)
            for written in file.written(name)
            for attribute in written.split(".")[1:]
        }

    @cache  # noqa: B019 - lives as long as one command
    def _split(self, dotted: str) -> tuple[str, str]:
        """Module and name; the module may be of any depth."""
        parts = dotted.split(".")
        for end in range(len(parts) - 1, 1, -1):
            if self.root.joinpath(*parts[:end]).with_suffix(".py").is_file():
                return ".".join(parts[:end]), ".".join(parts[end:])
        return dotted, ""

    @cache  # noqa: B019 - lives as long as one command
    def _files(self, module: str) -> list[_File]:
        """The module as it is here, and as the learner wrote it."""
        file = self.root / f"{module.replace('.', '/')}.py"
        if not file.is_file():
            return []
        found = [_File(module, read_source(file))]
        mine = self.work / file.parent.name / file.name if self.work else None
        if mine and not module.startswith("tests.") and mine.is_file():
            with contextlib.suppress(SyntaxError, InputError, RecursionError):
                found.append(_File(module, read_source(mine)))
        return found


class _File:
    """The top-level names of one file and its classes' methods, and what each uses."""

    def __init__(self, module: str, source: str) -> None:
        tree = ast.parse(source)
        self.module, self.bound = module, dict(_imports(tree))
        self.top: dict[str, list[ast.AST]] = {}
        for node in tree.body:
            for name in _names_of(node):
                self.top.setdefault(name, []).append(node)
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, Definition):
                        self.top.setdefault(f"{node.name}.{inner.name}", []).append(inner)

    @cache  # noqa: B019 - lives as long as one command
    def written(self, name: str) -> set[str]:
        """Names and attributes as they stand in a definition; of a class, outside its methods."""
        return {one for node in self.top.get(name, []) for one in _written(node)}

    def used_by(self, name: str) -> Iterator[str]:
        """Dotted names, as in ``"labs.lab2_vector_db.search.probe"``."""
        owner = name.rpartition(".")[0]
        for written in self.written(name):
            first, _, rest = written.partition(".")
            if owner and first == "self" and rest:
                yield f"{self.module}.{owner}.{rest}"
            elif whole := self._imported(written):
                yield whole
            elif first in self.top or (first and self.module.startswith("tests.")):
                yield f"{self.module}.{written}"

    def _imported(self, written: str) -> str | None:
        """A written name with what its longest imported beginning stands for."""
        parts = written.split(".")
        for end in range(len(parts), 0, -1):
            if whole := self.bound.get(".".join(parts[:end])):
                return ".".join([whole, *parts[end:]])
        return None


def _written(node: ast.AST) -> Iterator[str]:
    """Names and attributes in a definition: ``"probe"``, ``"search.probe"``, ``".probe"``.

    A parameter counts: in a test it is a fixture.
    """
    if isinstance(node, ast.Attribute):
        parts, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        yield ".".join([inner.id if isinstance(inner, ast.Name) else "", *reversed(parts)])
        yield from () if isinstance(inner, ast.Name) else _written(inner)
        return
    if isinstance(node, ast.Name | ast.arg):
        yield node.id if isinstance(node, ast.Name) else node.arg
        return
    skipped: tuple[str, ...] = ("annotation", "returns")
    if isinstance(node, ast.If | ast.IfExp):
        skipped = ("body", "orelse")
    for field, value in ast.iter_fields(node):
        if field in skipped:
            continue
        for below in value if isinstance(value, list) else [value]:
            method = isinstance(node, ast.ClassDef) and isinstance(below, Definition)
            if isinstance(below, ast.AST) and not method:
                yield from _written(below)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, Definition):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [
        name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
    ]


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The name that each absolute import binds, and the whole dotted name it stands for."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _by_lab(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    labs: dict[str, list[Entry]] = {}
    for entry in entries:
        labs.setdefault(entry.lab, []).append(entry)
    return labs


def _package(lab: str) -> str:
    return lab if lab == CAPSTONE else f"labs.{lab}"


def _dotted(root: Path, file: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts)
