"""What a submission's source reaches for that the reference does not: for an instructor to read.

No points hang on it. An attack that the sandbox does not see has to be written down somewhere, and
a solution seldom needs the garbage collector, the test framework or a socket.
"""

from __future__ import annotations

import ast

MODULES = {
    *("_pytest", "atexit", "builtins", "cffi", "code", "common.grading", "ctypes", "faulthandler"),
    *("gc", "hypothesis", "importlib", "inspect", "marshal", "mmap", "multiprocessing", "pluggy"),
    *("pty", "pytest", "requests", "runpy", "signal", "socket", "subprocess", "threading"),
    *("tracemalloc", "unittest", "urllib", "httpx"),
}
NAMES = {"__builtins__", "__import__", "compile", "eval", "exec", "globals", "vars", "setattr"}
ATTRIBUTES = {
    *("__builtins__", "__closure__", "__code__", "__defaults__", "__dict__", "__globals__"),
    *("__subclasses__", "__traceback__", "_current_frames", "_exit", "_getframe", "f_back"),
    *("f_globals", "f_locals", "fork", "get_objects", "kill", "modules", "setprofile", "settrace"),
    *("system", "tb_frame", "MonkeyPatch"),
}
SHOWN = 6


def signs(source: bytes, reference: str) -> list[str]:
    """What ``source`` uses of the above and ``reference`` does not, with its first line.

    A source that does not parse has none: it cannot run either.
    """
    try:
        mine = _used(source.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    known = _used(reference)
    found = sorted((line, what) for what, line in mine.items() if what not in known)
    shown = [f"line {line} {what}" for line, what in found[:SHOWN]]
    return shown + ([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])


def _used(source: str) -> dict[str, int]:
    found: dict[str, int] = {}
    aliases: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            aliases |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if {name, name.partition(".")[0]} & MODULES:
                found.setdefault(f"imports {name.partition('.')[0]}", line)
        if isinstance(node, ast.Name) and node.id in NAMES:
            found.setdefault(f"uses {node.id}", line)
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            found.setdefault(f"uses .{node.attr}", line)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            base: ast.expr = node
            while isinstance(base, ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name) and base.id in aliases:
                found.setdefault(f"assigns to {ast.unparse(node)[:60]}", line)
    return found
