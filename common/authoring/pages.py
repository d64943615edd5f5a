"""The lessons and documents of the repository, parsed: headings, links, code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from common.exercises.catalog import read_source

FOLDERS = ("labs", "capstone", "docker", "docs", "common", "tests", ".github", "requirements")
INLINE = ("text", "code_inline", "softbreak")


@dataclass(frozen=True)
class Heading:
    """A heading; ``anchor`` is what a link to it ends with, as GitHub makes it."""

    line: int
    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Block:
    """A fenced block of code; ``line`` is that of its first line of text."""

    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text: a paragraph, an item or a cell, with its code spans and links apart."""

    line: int
    text: str
    code: tuple[str, ...]
    links: tuple[str, ...]
    images: tuple[str, ...]


@dataclass
class Page:
    """A Markdown file."""

    file: Path
    headings: list[Heading] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    paragraphs: list[Paragraph] = field(default_factory=list)

    @property
    def anchors(self) -> set[str]:
        return {heading.anchor for heading in self.headings}

    def section(self, line: int) -> Heading | None:
        """The heading that stands above a line."""
        above = [heading for heading in self.headings if heading.line <= line]
        return above[-1] if above else None


def pages(root: Path) -> list[Page]:
    """Every page that belongs to the repository: the root's own, and those below its folders."""
    found = sorted(root.glob("*.md"))
    for folder in FOLDERS:
        found += sorted((root / folder).glob("**/*.md"))
    return [read_page(file) for file in found]


def pages_of(root: Path, folder: Path) -> list[Page]:
    """The pages of a lab: its front page first, then lessons and documents."""
    files = sorted(folder.glob("**/*.md"), key=lambda file: (len(file.parts), file))
    return [read_page(file) for file in files]


def read_page(file: Path) -> Page:
    """A Markdown file, parsed; :class:`InputError` when it is no text."""
    stat = file.stat()
    return _parse(file, stat.st_mtime_ns, stat.st_size)


def slug(text: str) -> str:
    """The anchor of a heading: lower case, punctuation gone, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def _parse(file: Path, changed: int, size: int) -> Page:
    from markdown_it import MarkdownIt

    page = Page(file)
    tokens = MarkdownIt("commonmark").enable("table").parse(read_source(file))
    used: dict[str, int] = {}
    heading = 0
    line = 0
    for token in tokens:
        if token.map:
            line = token.map[0] + 1
        if token.type == "heading_open":
            heading = int(token.tag[1])
        elif token.type == "fence":
            page.blocks.append(Block(line + 1, token.info.strip(), token.content))
        elif token.type == "inline":
            parts = list(_flat(token.children or []))
            text = "".join(part.content or " " for part in parts if part.type in INLINE)
            if heading:
                anchor = slug(text)
                count = used.get(anchor, 0)
                used[anchor] = count + 1
                anchor += f"-{count}" if count else ""
                page.headings.append(Heading(line, heading, text, anchor))
                heading = 0
            page.paragraphs.append(
                Paragraph(
                    line,
                    "".join(_written(part) for part in parts),
                    tuple(part.content for part in parts if part.type == "code_inline"),
                    tuple(str(part.attrs["href"]) for part in parts if part.type == "link_open"),
                    tuple(str(part.attrs["src"]) for part in parts if part.type == "image"),
                )
            )
    return page


def _flat(tokens: list) -> Iterator:  # type: ignore[type-arg]  # markdown-it's Token
    for token in tokens:
        yield token
        if token.type != "image":
            yield from _flat(token.children or [])


def _written(token: object) -> str:
    """The text of a part of a paragraph, code spans in backticks."""
    kind, content = getattr(token, "type", ""), getattr(token, "content", "")
    if kind == "code_inline":
        return f"`{content}`"
    return " " if kind == "softbreak" else content if kind == "text" else ""
