"""Figures: those that a lab's code makes, and those that its lessons name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.authoring.model import Check, listed, place
from common.authoring.pages import Page, pages_of
from common.exercises.catalog import lab_folders, read_source

FILE = re.compile(r"(?:[\w./-]+/)?([\w-]+)\.(?:png|svg)")
REPORT = re.compile(r"Figures? in your run's report:(.*?)(?:\.(?=\s|$)|$)", re.DOTALL)
NEAR = re.compile(r"`([\w-]+)` figures?\b|[Ff]igures? `([\w-]+)`|[Ff]igure[^.`]{0,40} \(`([\w-]+)`")
SPAN = re.compile(r"`([^`]+)`")


def check_figures(root: Path) -> Check:
    """Every figure that a lesson names is one that the lab's run makes, or a file beside it."""
    check = Check("figures", "named in a lesson: made by run.figure(...) in the lab, or a file")
    for folder in lab_folders(root):
        made = list(made_figures(folder))
        for page in pages_of(root, folder):
            for line, name, file in named_figures(page):
                check.counted += 1
                beside = bool(file) and any(
                    (base / file).exists() for base in (page.file.parent, folder, root)
                )
                if not beside and not any(re.fullmatch(pattern, name) for pattern in made):
                    near = listed(sorted(made), most=12)
                    check.fault(
                        place(root, page.file, line),
                        f"no run makes the figure {name}; it has {near}",
                    )
    return check


def made_figures(folder: Path) -> Iterator[str]:
    """A pattern for each figure of ``run.figure(name, ...)`` in the modules of a lab.

    A name that a loop runs through is taken from the tuples it runs over, and the variable part of
    an f-string matches everything.
    """
    for file in sorted(folder.glob("*.py")):
        source = read_source(file)
        if ".figure(" not in source:
            continue
        tree = ast.parse(source)
        loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "figure"
                and node.args
            ):
                around = [loop for loop in loops if any(node is below for below in ast.walk(loop))]
                yield from _patterns(node.args[0], around)


def _patterns(name: ast.expr, around: Sequence[ast.For]) -> Iterator[str]:
    if isinstance(name, ast.Constant):
        yield re.escape(str(name.value))
    elif isinstance(name, ast.JoinedStr):
        yield "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
            for part in name.values
        )
    elif isinstance(name, ast.BinOp) and isinstance(name.left, ast.Constant):
        yield re.escape(str(name.left.value)) + ".+"
    elif isinstance(name, ast.Name):
        for loop in around:
            if isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Tuple):
                names = [getattr(part, "id", "") for part in loop.target.elts]
                if name.id in names:
                    at = names.index(name.id)
                    for row in loop.iter.elts:
                        if isinstance(row, ast.Tuple):
                            yield from _patterns(row.elts[at], ())


def named_figures(page: Page) -> Iterator[tuple[int, str, str]]:
    """Line, name and file (or nothing) of each figure that a page names.

    Named are: a picture file in a code span, code spans after "Figures in your run's report:", and
    a code span beside the word "figure". Pictures that a page shows are links, and checked there.
    """
    for paragraph in page.paragraphs:
        for span in paragraph.code:
            if match := FILE.fullmatch(span):
                yield paragraph.line, match[1], span
        for after in REPORT.findall(paragraph.text):
            for name in SPAN.findall(after) or [f"(none in {after.strip()!r})"]:
                if not FILE.fullmatch(name):
                    yield paragraph.line, name, ""
        for names in NEAR.findall(paragraph.text):
            yield paragraph.line, "".join(names), ""
