"""Pages made of a lab's traps and questions, read as source and as data."""

from __future__ import annotations

import ast
import html
import tomllib
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exercises.catalog import read_source


def traps_page(root: Path, folder: str, title: str, command: str) -> str:
    """Markdown of the silent failures in ``folder``; empty when it has none.

    What a trap measures is not here: the page says what goes wrong and how to see it happen.
    """
    shown: list[str] = []
    files = sorted((root / folder).glob("*traps.py"), key=lambda file: len(file.name))
    for file in files:
        functions = [n for n in ast.parse(read_source(file)).body if isinstance(n, ast.FunctionDef)]
        shown += [_trap_text(f, call, command) for f in functions if (call := _trap(f))]
    if not shown:
        return ""
    lead = (
        f"Mistakes after which everything runs, nothing fails, and a number is wrong. "
        f"`{command}` measures each one, the wrong number beside the right one; with "
        f"`ARGS=name` one alone."
    )
    return "\n\n".join([f"# {title}", lead, *shown])


def _trap(function: ast.FunctionDef) -> ast.Call | None:
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Trap"
        ):
            return node
    return None


def _trap_text(function: ast.FunctionDef, call: ast.Call, command: str) -> str:
    given = dict(zip(("title", "wrong", "right", "why"), call.args))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    lines = [f"## {_text(given.get('title'))}", (ast.get_docstring(function) or "").strip()]
    rows = []
    for name in ("wrong", "right"):
        pair = given.get(name)
        if isinstance(pair, ast.Tuple) and pair.elts:
            rows.append(f"| {name} | {_text(pair.elts[0])} |".replace("\n", " "))
    if rows:
        lines.append("\n".join(["| | what is measured |", "|---|---|", *rows]))
    lines += [_text(given.get("why")), f"```\n{command} ARGS={function.name}\n```"]
    return "\n\n".join(line for line in lines if line)


def _text(node: ast.expr | None) -> str:
    """A string of the source; where a measured value would stand, an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…" if isinstance(node, ast.FormattedValue) else ""


def questions_page(root: Path, folder: str, title: str) -> str:
    """Markdown of the questions with fixed options in ``folder``'s ``quiz.toml``, or empty.

    A question whose numbers are drawn, or whose answer is a number, belongs to ``course assess``.
    """
    file = root / folder / "quiz.toml"
    if not file.is_file():
        return ""
    try:
        content = tomllib.loads(read_source(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{folder}/quiz.toml is no TOML: {error}") from error
    questions = content.get("question", [])
    shown = [q for q in questions if "options" in q and not _is_drawn(q)]
    if not shown:
        return ""
    parts = [f"# {title}", "Think first, then open the answer."]
    for number, question in enumerate(shown, start=1):
        options = "\n".join(
            f"{i}. {_inline(o)}" for i, o in enumerate(question["options"], start=1)
        )
        parts += [
            f"## Question {number}",
            _inline(question["prompt"]),
            options,
            f"<details><summary>Answer</summary>\n\n{_answer(question)} "
            f"{_inline(question['why'])}\n\n</details>",
        ]
    if len(questions) > len(shown):
        parts.append(
            f"{len(questions) - len(shown)} more have numbers that are drawn for you: "
            "`course assess`."
        )
    return "\n\n".join(parts)


def _is_drawn(question: dict[str, Any]) -> bool:
    return bool(question.get("parameters")) or not isinstance(question.get("answer"), int | list)


def _answer(question: dict[str, Any]) -> str:
    answer = question["answer"]
    chosen = answer if isinstance(answer, list) else [answer]
    return "**" + ", ".join(str(int(index) + 1) for index in chosen) + ".**"


def _inline(text: object) -> str:
    """Text of a TOML file as Markdown: ``<`` is a sign, not a tag."""
    return html.escape(str(text).strip(), quote=False)
