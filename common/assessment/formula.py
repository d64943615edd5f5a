"""Arithmetic in texts: the answers of numeric questions, and the numbers in their explanations.

A formula is parsed with :mod:`ast` and only the nodes listed here are computed, always in floating
point: no attribute, no index, no comparison, no call but of the functions below. It is never given
to ``eval``.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import string
from collections.abc import Callable, Mapping
from functools import cache

from common.errors import InputError

LONGEST = 300
GROUPED = re.compile(r"(?<![\d.])\d{1,3}(,\d{3})+(?![\d,])")
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: math.pow,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The value of a formula such as ``16 * billions / ranks``.

    Parameters
    ----------
    formula
        ``+ - * / // % **``, parentheses, numbers, the names in ``values``, and the functions
        ``abs ceil exp floor log log2 max min round sqrt``.
    values
        What the names stand for.

    Raises
    ------
    InputError
        For anything else, and for a value that is not finite.
    """
    try:
        value = float(_value(_parsed(formula), values, formula))
    except (ArithmeticError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{formula!r} cannot be computed: {error}") from error
    if not math.isfinite(value):
        raise InputError(f"{formula!r} is {value}, not a finite number")
    return value


def parse_number(text: str) -> float:
    """A number as a person types it: ``12.5``, ``1,024``, ``3e9`` or ``16 * 7e9 / 8``."""
    return evaluate(GROUPED.sub(lambda match: match[0].replace(",", ""), text.strip()), {})


def fill(template: str, values: Mapping[str, float]) -> str:
    """A text with its formulas in braces computed.

    ``{ranks}`` and ``{16 * P / ranks}`` are written by :func:`number`, ``{p:.2f}`` as its format
    says; ``{{`` is a brace.
    """
    parts = []
    for text, formula, form, _ in string.Formatter().parse(template):
        parts.append(text)
        if formula is not None:
            value = evaluate(formula, values)
            parts.append(format(value, form) if form else number(value))
    return "".join(parts)


def number(value: float) -> str:
    """A number to read: whole ones in groups of three digits, others with four digits."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:,.4g}"


@cache
def _parsed(formula: str) -> ast.expr:
    if len(formula) > LONGEST:
        raise InputError(f"a formula of {len(formula)} characters; at most {LONGEST} are read")
    try:
        return ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{formula!r} is no number and no arithmetic") from error


def _value(node: ast.expr, values: Mapping[str, float], formula: str) -> float:
    constant = node.value if isinstance(node, ast.Constant) else None
    if isinstance(constant, float | int) and not isinstance(constant, bool):
        return float(constant)
    if isinstance(node, ast.Name) and node.id in values:
        return float(values[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, values, formula), _value(node.right, values, formula)
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, values, formula)
        return -value if isinstance(node.op, ast.USub) else value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in FUNCTIONS
        and not node.keywords
    ):
        return FUNCTIONS[node.func.id](*(_value(each, values, formula) for each in node.args))
    shown = ast.unparse(node) if isinstance(node, ast.Name) else type(node).__name__
    raise InputError(f"{formula!r}: {shown} is not known here; only arithmetic is computed")
