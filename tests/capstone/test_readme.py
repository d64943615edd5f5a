"""The capstone's front page is complete: every module, lesson page and exercise is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.exercises.catalog import CAPSTONE, Entry, discover

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / CAPSTONE
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ENTRIES = [entry for entry in discover(ROOT) if entry.lab == CAPSTONE]
ROW = r"^\| {id} \| `{file}` \| .*`{name}`.* \| {points} \|$"


def test_every_module_is_in_the_table_of_topics() -> None:
    """A reader finds the page of a module, and the module of a topic."""
    table = README[README.index("## How to read") : README.index("## Running it")]
    named = set(re.findall(r"`([a-z0-9_]+)`", table))
    named |= {f"{each}_stages" for each in named}
    modules = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__")}
    assert not modules - named, f"not in the table: {sorted(modules - named)}"


@pytest.mark.parametrize("folder", ["lessons", "docs"])
def test_every_page_is_linked_from_the_front_page(folder: str) -> None:
    """A page that nothing links to is not read."""
    pages = {f"{folder}/{path.name}" for path in (FOLDER / folder).glob("*.md")}
    assert pages, f"no page in {folder}"
    assert not {page for page in pages if f"({page})" not in README}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_every_exercise_is_on_the_front_page_and_in_one_lesson(entry: Entry) -> None:
    """Id, file, function and points, as the marker has them."""
    row = ROW.format(
        id=re.escape(entry.id), file=entry.file.name, name=entry.name, points=entry.points
    )
    assert re.search(row, README, re.MULTILINE), f"README.md has no row of {entry.id}"
    lessons = sorted((FOLDER / "lessons").glob("*.md"))
    found = [page.name for page in lessons if re.search(row, page.read_text(), re.MULTILINE)]
    assert len(found) == 1, f"{entry.id} is in the exercises of {found}"
