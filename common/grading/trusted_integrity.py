"""Whether a submission changed what it is judged with."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

PROTECTED = (
    *("builtins", "operator", "math", "cmath", "time", "json", "random", "functools", "warnings"),
    *("socket", "_socket", "signal", "unittest.case", "unittest.mock", "importlib"),
    *("numpy", "numpy.testing", "numpy.testing._private.utils", "numpy.linalg", "numpy.random"),
    *("numpy._core.numeric", "numpy._core.fromnumeric", "numpy._core._methods"),
    *("numpy._core._multiarray_umath", "numpy.linalg._linalg"),
    *("pytest", "_pytest.approx", "_pytest.raises", "_pytest.outcomes", "_pytest.runner"),
    *("_pytest.reports", "_pytest.assertion", "_pytest.assertion.rewrite", "_pytest.python"),
    *(
        "_pytest.assertion.util",
        "_pytest.skipping",
        "_pytest.main",
        "_pytest.config",
        "_pytest.nodes",
    ),
    *("_pytest.fixtures", "_pytest.monkeypatch", "_pytest.recwarn", "_pytest._code.code"),
    *("pluggy._callers", "pluggy._hooks", "pluggy._manager", "pluggy._result", "pytest_timeout"),
    *("hypothesis", "hypothesis.core", "hypothesis.control", "hypothesis._settings"),
    *("hypothesis.internal.conjecture.engine", "hypothesis.internal.conjecture.data"),
    *("_hypothesis_pytestplugin", "torch", "torch.testing", "torch.testing._comparison"),
    *(
        "pandas.testing",
        "pandas._testing.asserters",
        "scipy.stats",
        "common.exercises.pytest_plugin",
    ),
    *("common.exercises.pytest_grader", "common.exercises.grading", "common.exercises.catalog"),
)
EXITS = ("_exit", "write", "read", "fork", "kill", "waitpid", "fstat", "stat", "open", "urandom")
COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__")
VARYING = {
    ("warnings", "showwarning"),
    ("warnings", "_showwarnmsg_impl"),
    ("_pytest.assertion.util", "_reprcompare"),
    ("_pytest.assertion.util", "_assertion_pass"),
    ("_pytest.assertion.util", "_config"),
}
CLASSES = ("_pytest", "pluggy", "unittest", "common.")
Watched = FunctionType | BuiltinFunctionType | type
SHOWN = 8


SEALED = ("builtins", "operator", "math", "time", "numpy", "pytest", "unittest.case")
"""And every protected module of numpy's and pytest's; torch's compiler looks at its own."""


def sealable() -> list[ModuleType]:
    """Modules whose functions nothing that a submission calls may replace."""
    return [
        sys.modules[name]
        for name in PROTECTED
        if name in sys.modules
        and (name in SEALED or name.startswith(("numpy.", "_pytest.", "torch.testing", "common.")))
    ]


def changed_since() -> Callable[[], list[str]]:
    """Remember everything that is protected now; what is returned names what is another."""
    import importlib

    for name in PROTECTED:
        if name.split(".")[0] in sys.modules or name.startswith(("common", "numpy", "unittest")):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    modules = {name: sys.modules[name] for name in PROTECTED if name in sys.modules}
    parts = list(_parts(modules))
    functions = [
        (name, value, value.__code__, value.__defaults__)
        for name, _, _, value in parts
        if isinstance(value, FunctionType)
    ]
    loaded, table, missing = sys.modules, dict, object()
    told = list(modules.items())

    def changed() -> list[str]:
        if sys.modules is not loaded or type(loaded) is not table:
            return ["sys.modules"]
        found = [f"sys.modules[{name!r}]" for name, kept in told if loaded.get(name) is not kept]
        found += [name for name, space, key, kept in parts if space.get(key, missing) is not kept]
        found += [
            f"{name}.__code__"
            for name, function, code, defaults in functions
            if function.__code__ is not code or function.__defaults__ is not defaults
        ]
        return found[:SHOWN]

    return changed


def _parts(
    modules: Mapping[str, ModuleType],
) -> Iterator[tuple[str, Mapping[str, object], str, object]]:
    """Functions, classes and methods: name, where it is looked up, its key there, and itself."""
    seen: set[int] = set()
    for name, module in modules.items():
        for key, value in list(vars(module).items()):
            if not isinstance(value, Watched) or (name, key) in VARYING:
                continue
            yield f"{name}.{key}", vars(module), key, value
            ours = isinstance(value, type) and value.__module__.startswith(CLASSES)
            if ours and id(value) not in seen:
                seen.add(id(value))
                for method, part in list(vars(value).items()):
                    if isinstance(part, FunctionType):
                        yield f"{name}.{key}.{method}", vars(value), method, part
    for key in EXITS:
        yield f"os.{key}", vars(os), key, getattr(os, key)


def equal_to_anything(work: Path) -> list[str]:
    """Classes of the submission whose instances claim to equal what they cannot know."""
    inside = str(work) + os.sep
    found = []
    for kind in _classes():
        for name in COMPARISONS:
            method = vars(kind).get(name)
            code = getattr(method, "__code__", None)
            if code is None or not code.co_filename.startswith((inside, "<")):
                continue
            if name != "__bool__" and _agrees(kind, method):
                found.append(f"{kind.__qualname__}.{name}")
    return found[:SHOWN]


def _classes() -> list[type]:
    return [each for each in gc.get_objects() if issubclass(type(each), type)]


def _agrees(kind: type, method: Any) -> bool:
    """Whether an empty instance says yes to values of no kind at all."""

    class Nothing:
        pass

    instances: list[object] = [None]
    for arguments in ((), (1,)):
        try:
            instances.append(kind.__new__(kind, *arguments))
        except BaseException:
            continue
    for instance in instances:
        for other in (Nothing(), object, float("nan")):
            try:
                answer = method(instance, other)
                if answer is not NotImplemented and bool(answer):
                    return True
            except BaseException:
                continue
    return False
