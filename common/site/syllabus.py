"""The pages of the site in reading order: start, labs, capstone, guides, reference."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exercises.catalog import read_source
from common.site.extras import questions_page, traps_page
from common.site.pages import Page, Part
from common.site.reference import Package, Sources, read_package

LINK = re.compile(r"\]\(([^)\s#]+\.md)(?:#[^)]*)?\)")
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
FIRST_GUIDES = ("first_hour", "instructor_guide", "author_guide")
WORDS_A_MINUTE = 200
RESULTS = "\n## Results\n"
"""The heading of the measured results, which the README of a student's repository lacks."""


@dataclass(frozen=True)
class Card:
    """What the start page says of a lab or the capstone."""

    name: str
    topic: str
    address: str
    deliverable: str
    minutes: int
    command: str
    lessons: int
    reading_minutes: int
    exercises: int
    results: str
    """Address of the measured figures, with anchor."""


def labs(root: Path) -> list[str]:
    """Folders of the labs and the capstone, those that have a lesson, in order."""
    found = sorted(path.parent for path in (root / "labs").glob("lab*/README.md"))
    folders = [folder.relative_to(root).as_posix() for folder in found]
    return folders + ["capstone"] * (root / "capstone/README.md").is_file()


def chapters(root: Path, folders: Sequence[str]) -> list[Part]:
    """A part for each lab and the capstone: README, its lessons in its order, documents, extras."""
    return [_chapter(root, folder) for folder in folders]


def guides(root: Path) -> list[Part]:
    """What is read before the labs, and beside them; whatever ``docs/`` has is there."""
    docs = {path.stem: path for path in sorted((root / "docs").glob("*.md"))}
    ordered = [name for name in FIRST_GUIDES if name in docs]
    ordered += [name for name in docs if name not in ordered]
    pages = [_page(root, f"docs/{name}.md", "guide") for name in ordered]
    begin = [page for page in pages if page.source == "docs/first_hour.md"]
    overview = _page(root, "README.md", "guide", address="overview.html")
    whole = RESULTS in overview.text
    title = "Commands, options, results, data" if whole else "The labs and how you work"
    begin.append(replace(overview, title=title))
    rest = [page for page in pages if page not in begin]
    others = ("CONTRIBUTING.md", "docker/README.md")
    rest += [_page(root, name, "guide") for name in others if (root / name).is_file()]
    return [Part("Begin", tuple(begin)), Part("Guides", tuple(rest))]


def reference(root: Path, folders: Sequence[str]) -> list[Package]:
    """The reference of each package of ``folders``."""
    sources = Sources(root)
    return [
        read_package(root, sources.module(folder), folder, f"Modules of {folder.replace('/', '.')}")
        for folder in folders
    ]


def cards(root: Path, parts: Sequence[Part], exercises: dict[str, int]) -> list[Card]:
    """One card a chapter; ``exercises`` counts them by lab."""
    minutes = _toml(Path(__file__).with_name("course.toml"))["minutes"]
    curriculum = _toml(root / "docs/curriculum.toml").get("curriculum", {})
    made = []
    for part in parts:
        name, _, topic = part.title.partition(":")
        first = part.pages[0]
        lessons = [page for page in part.pages if page.source.endswith(".md")]
        words = sum(len(page.text.split()) for page in lessons)
        lab = part.folder.removeprefix("labs/")
        deliverable = _deliverable(curriculum.get(lab, {}))
        results = "#what-you-should-see" if "\n## What you should see" in first.text else ""
        made.append(
            Card(
                name=name,
                topic=_sentence(topic.strip()),
                address=first.address,
                deliverable=deliverable,
                minutes=minutes.get(lab, 0),
                command=_command(part.folder, "lab"),
                lessons=len(lessons),
                reading_minutes=round(words / WORDS_A_MINUTE),
                exercises=exercises.get(lab, 0),
                results=first.address + results,
            )
        )
    return made


def _deliverable(asked: dict[str, str]) -> str:
    """What the curriculum wants delivered; the capstone delivers several things."""
    several = [
        text.partition(": ")[2] for text in asked.values() if text.startswith("deliverable:")
    ]
    text = asked.get("deliverable", "; ".join(several))
    return _sentence(text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _toml(file: Path) -> dict[str, Any]:
    """The file's content; nothing where there is no such file."""
    return tomllib.loads(read_source(file)) if file.is_file() else {}


def _chapter(root: Path, folder: str) -> Part:
    readme = _page(root, f"{folder}/README.md", "lesson")
    pages = [replace(readme, title="Overview")]
    order = list(dict.fromkeys(LINK.findall(readme.text)))
    for below, kind in (("lessons", "lesson"), ("docs", "guide")):
        names = {f"{below}/{path.name}" for path in (root / folder / below).glob("*.md")}
        ordered = [name for name in order if name in names] + sorted(names - set(order))
        pages += [_page(root, f"{folder}/{name}", kind) for name in ordered]
    name = readme.title.partition(":")[0]
    traps = traps_page(
        root, folder, f"{name}: silent failures", f"make {_command(folder, 'traps')}"
    )
    questions = questions_page(root, folder, f"{name}: questions")
    for stem, title, text in (
        ("traps", "Silent failures", traps),
        ("questions", "Questions", questions),
    ):
        if text:
            pages.append(Page(f"{folder}/{stem}.html", title, text))
    return Part(readme.title, tuple(pages), folder)


def _command(folder: str, verb: str) -> str:
    number = re.match(r"labs/lab(\d+)_", folder)
    if number:
        return f"{verb}{number[1]}"
    return "capstone" if verb == "lab" else f"{verb}-capstone"


def _page(root: Path, source: str, kind: str, address: str = "") -> Page:
    text = read_source(root / source)
    title = HEADING.search(text)
    if title is None:
        raise InputError(f"{source} has no title: its first line must be '# ...'")
    address = address or source.removesuffix(".md") + ".html"
    address = re.sub(r"(^|/)README\.html$", r"\1index.html", address)
    return Page(address, re.sub(r"[`*]", "", title[1]).strip(), text, source, kind)
