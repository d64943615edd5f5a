"""The commands that a page shows: taken out of its code, one by one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.authoring.pages import Block, Page

SHELL = {"", "sh", "bash", "shell", "console"}
OWN = re.compile(r"(\$ )?([A-Z_]+=\S+ )*((make|course)(?=\s|$)|python3? -m |\.venv/bin/|\.ci/)")
"""How a command of this repository begins."""
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>")
ALTERNATIVES = re.compile(r"(?<=\w)(\|\w+)+")
KEYWORDS = {"do", "then", "else", "while", "until", "if", "!", "{", "time"}
CLOSING = {"done", "fi", "}", "in"}
BUILTINS = {"cd", "export", "source", "umask", "ulimit", "sleep", "printf", "echo"}
EXAMPLES = {
    *("cat", "cp", "curl", "docker", "git", "grep", "head", "kill", "kubectl", "ls", "mkdir"),
    *("openssl", "pgrep", "prlimit", "redis-cli", "redis-server", "sort", "tail", "torchfrtrace"),
    *(
        "torchrun",
        "nc",
        "uniq",
        "wc",
        "apt-get",
        "pip",
        "sbatch",
        "rm",
        "nvidia-smi",
        "unzip",
        "tar",
    ),
}
"""Programs of the system or of another machine: named in pages, not run by the check."""


@dataclass(frozen=True)
class Command:
    """One simple command: its words after assignments, redirections left out."""

    file: Path
    line: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Text:
    """A line of a block that is no command: what a program printed, or a format."""

    file: Path
    line: int
    text: str


def commands(page: Page) -> Iterator[Command | Text]:
    """Every command in the blocks and code spans of a page, and the lines that are none.

    A block whose lines have a prompt (``$ ``) holds commands on those lines. Without a prompt, one
    that begins with a command holds nothing else; in any other, only lines that begin as commands
    of this repository do are read. Of code spans only those are read too.
    """
    for block in page.blocks:
        if block.language in SHELL:
            yield from _of_block(page.file, block)
    for paragraph in page.paragraphs:
        for span in paragraph.code:
            if OWN.match(span):
                words = _words(ALTERNATIVES.sub("", span)) or []
                yield from _split(page.file, paragraph.line, words)


def _of_block(file: Path, block: Block) -> Iterator[Command | Text]:
    lines = block.text.splitlines()
    prompts = any(line.startswith("$ ") for line in lines)
    first = _words(lines[0]) if lines else None
    whole = not prompts and _begins(first or _words(lines[0] + "'") or [])
    functions: set[str] = set()
    at = 0
    while at < len(lines):
        line, number = lines[at], block.line + at
        at += 1
        if not line.strip():
            continue
        if not (whole or line.startswith("$ ") or (not prompts and OWN.match(line))):
            yield Text(file, number, line)
            continue
        text = line.removeprefix("$ ")
        words = _words(text)
        while words is None and at < len(lines):
            text += "\n" + lines[at]
            at += 1
            words = _words(text)
        functions |= set(re.findall(r"^(\w+)\(\) *\{", text))
        for found in _split(file, number, words or []):
            if isinstance(found, Text) or found.words[0] not in functions:
                yield found


def _begins(words: list[str]) -> bool:
    """Whether a line is a command, by its first word."""
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
        if not words:
            return True
    known = {"make", "course", "python", "python3", "for", "$"} | KEYWORDS | BUILTINS | EXAMPLES
    return bool(words) and (words[0] in known or words[0].startswith((".venv/", ".ci/", "$")))


def _words(text: str) -> list[str] | None:
    """The words and operators of a command; None when it goes on in the next line."""
    if text.endswith("\\"):
        return None
    text = PLACEHOLDER.sub("PLACEHOLDER", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return None


def _split(file: Path, line: int, words: list[str]) -> Iterator[Command]:
    """The simple commands between the operators of a line."""
    part: list[str] = []
    skip = False
    for at, word in enumerate([*words, ";"]):
        if skip:
            skip = False
        elif word and set(word) <= set("();|&"):
            opens = "((" in word or (word == "(" and at > 0 and words[at - 1] != "$")
            if found := _simple(part):
                yield Command(file, line, tuple(found))
            part = ["for"] if opens or word[0] == ")" else []
        elif word and set(word) <= set("<>&"):
            skip = True
        else:
            part.append(word)


def _simple(part: list[str]) -> list[str]:
    words = [word for word in part if word not in ("...", "…")]
    while words and (words[0] in KEYWORDS or ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    if not words or words[0] in ("for", *CLOSING) or words[0].startswith("$"):
        return []
    return words
