"""Errors carried forward: an exercise is not failed for another one that it builds on.

Where an exercise failed, and its code reaches another exercise that failed too, it runs once more
with the reference's solution in place of those others. What it then earns is its own. Nothing of
that run is shown to the student, for the reference was in reach.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import InputError
from common.exercises.catalog import CAPSTONE, Entry, read_source
from common.exercises.stubs import splice


def reached(root: Path, entry: Entry, tests: Iterable[Path]) -> set[str]:
    """Modules of the lab that an exercise's module and its tests import, directly or not."""
    package = CAPSTONE if entry.lab == CAPSTONE else f"labs.{entry.lab}"
    folder = root / package.replace(".", "/")
    found, queue = {entry.module}, [folder / f"{entry.module}.py", *tests]
    while queue:
        for module in _imported(queue.pop(), package):
            file = folder / f"{module}.py"
            if module not in found and file.is_file():
                found.add(module)
                queue.append(file)
    return found


def _imported(file: Path, package: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(read_source(file), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}
    return {name.partition(".")[0] for name in inside}


def with_reference(files: Mapping[str, bytes], others: Sequence[Entry]) -> dict[str, bytes]:
    """A submission's files with the reference's definition of each of ``others`` in them."""
    changed = dict(files)
    for other in others:
        name = f"{other.lab}/{other.module}.py"
        reference = read_source(other.file)
        try:
            mine = changed[name].decode("utf-8")
            changed[name] = splice(mine, other.name, reference, keep_decorators=False).encode()
        except (KeyError, UnicodeError, InputError, RecursionError):
            changed[name] = reference.encode()
    return changed
