"""Prove that a release holds no solution: search every file for what the stubs took out.

A reference is compared by logical lines, so that layout, comments and line breaks do not matter.
Two searches: in every file, whatever its kind, for the text of the lines; in every top-level
definition of Python (and of Python blocks in Markdown) for the lines with all names replaced, so
that a copy under other names is found too.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import textwrap
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.exercises.catalog import Entry, locate, read_source

SHORTEST = 12
"""Characters of a line below which it says nothing: ``return x``."""
TELLING = 40
"""Characters from which one line of a solution in a text (no program) is a leak."""
MOST_SHARED = 0.75
"""Share of what was taken out, by characters, that one file or function may hold: neighbours of an
exercise check the same inputs and call the same helpers."""
LAYOUT = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Line:
    """A logical line without white space: its text, and with names replaced by numbers.

    ``words`` are the names that stay: of attributes, modules and what is called.
    """

    text: str
    shape: str
    words: frozenset[str]


@dataclass(frozen=True)
class Reference:
    """What the stub of an exercise lacks."""

    exercise: str
    lines: tuple[Line, ...]

    def share(self, held: Iterable[Line]) -> float:
        """Characters of ``held`` over those of all lines."""
        return sum(len(line.text) for line in held) / sum(len(line.text) for line in self.lines)


@dataclass(frozen=True)
class Leak:
    """A file that holds (much of) the solution of an exercise."""

    exercise: str
    file: str
    share: float
    example: str

    def __str__(self) -> str:
        return (
            f"{self.file} holds {self.share:.0%} of the solution of {self.exercise}: {self.example}"
        )


def reference(entry: Entry, stubbed: str) -> Reference:
    """The logical lines of a solution that are not in ``stubbed``, the text of its stub."""
    ours, theirs = (_definition(text, entry.name) for text in (read_source(entry.file), stubbed))
    gone = Counter(logical_lines(ours)) - Counter(logical_lines(theirs))
    telling = tuple(line for line in gone.elements() if len(line.text) >= SHORTEST)
    return Reference(entry.id, telling or tuple(gone))


def search(references: Sequence[Reference], files: Mapping[str, bytes]) -> list[Leak]:
    """Every leak of a release, worst first.

    Parameters
    ----------
    references
        What must not be found.
    files
        Path to content; what is no UTF-8 is searched as bytes are.
    """
    by_id = {each.exercise: each for each in references}
    starts = defaultdict(set)
    for each in references:
        for line in each.lines:
            starts[line.text[:SHORTEST]].add(each.exercise)
    leaks: list[Leak] = []
    for name, data in files.items():
        leaks += _in_text(by_id, starts, name, data)
        for each, block in _likely(references, name, data):
            found = {line.shape for line in logical_lines(block)}
            held = [line for line in each.lines if line.shape in found]
            if held and each.share(held) >= MOST_SHARED:
                leaks.append(Leak(each.exercise, name, each.share(held), held[0].text))
    worst: dict[tuple[str, str], Leak] = {}
    for leak in sorted(leaks, key=lambda leak: -leak.share):
        worst.setdefault((leak.exercise, leak.file), leak)
    return list(worst.values())


def logical_lines(source: str) -> Iterator[Line]:
    """The logical lines of a program, docstrings left out; it may end or break anywhere."""
    tokens: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
                if tokens and not (len(tokens) == 1 and tokens[0][-1] in "\"'"):
                    yield _line(tokens)
                tokens = []
            elif token.type not in LAYOUT:
                tokens.append(token.string)
    except (tokenize.TokenError, SyntaxError):
        return


def _line(tokens: list[str]) -> Line:
    names: dict[str, str] = {}
    shape, words = [], set()
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        if NAME.fullmatch(token) and not keyword.iskeyword(token):
            if following not in ("(", ".") and (at == 0 or tokens[at - 1] != "."):
                token = names.setdefault(token, f"${len(names)}")
            else:
                words.add(token)
        if token == "," and following in (")", "]", "}"):
            continue  # a trailing comma is layout
        shape.append(token.replace("'", '"'))
    return Line("".join("".join(tokens).split()), "".join(shape), frozenset(words))


def _definition(source: str, name: str) -> str:
    node = locate(source, name)
    assert node is not None, name
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    lines = source.splitlines(keepends=True)[first - 1 : node.end_lineno]
    return textwrap.dedent("".join(lines))


def _in_text(
    references: Mapping[str, Reference], starts: Mapping[str, set[str]], name: str, data: bytes
) -> Iterator[Leak]:
    """Leaks of the text of a file, in comments and strings too.

    ``starts`` maps the first characters of each line to the exercises it stands in.
    """
    text = "".join(data.decode("utf-8", errors="replace").split())
    windows = {text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1)}
    for exercise in sorted({one for start in windows & starts.keys() for one in starts[start]}):
        each = references[exercise]
        held = [line for line in each.lines if line.text in text]
        if not held:
            continue
        share, longest = each.share(held), max((line.text for line in held), key=len)
        told = len(longest) >= TELLING and not name.endswith(".py")
        if told or share >= MOST_SHARED:
            yield Leak(exercise, name, share, longest)


def _likely(
    references: Sequence[Reference], name: str, data: bytes
) -> Iterator[tuple[Reference, str]]:
    """The definitions with enough words of a reference; to read all others would take minutes."""
    likely = _with_words(references, data.decode("utf-8", errors="replace"))
    for block in _programs(name, data) if likely else ():
        yield from ((each, block) for each in _with_words(likely, block))


def _with_words(references: Sequence[Reference], text: str) -> list[Reference]:
    words = set(NAME.findall(text))
    return [
        each
        for each in references
        if each.share(line for line in each.lines if line.words <= words) >= MOST_SHARED
    ]


def _programs(name: str, data: bytes) -> Iterator[str]:
    """The top-level definitions of a Python file, or the blocks of a page."""
    if not name.endswith((".py", ".md")):
        return
    text = data.decode("utf-8", errors="replace")
    if name.endswith(".md"):
        yield from BLOCK.findall(text)
        return
    lines = text.splitlines(keepends=True)
    try:
        body = ast.parse(text, name).body
    except SyntaxError:
        yield text
        return
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield "".join(lines[node.lineno - 1 : node.end_lineno])
