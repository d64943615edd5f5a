"""What was withdrawn stays withdrawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from capstone.withdrawn import Withdrawn
from common.errors import InputError


def test_a_restart_does_not_bring_withdrawn_items_back(tmp_path: Path) -> None:
    """An item is withdrawn because somebody must not see it: a crash is no reason to show it."""
    path = tmp_path / "deep" / "withdrawn.json"
    first = Withdrawn(path)
    assert first == set()
    first.replace([7, 3, 7])
    assert first == {3, 7} == Withdrawn(path)
    first.replace([])
    assert Withdrawn(path) == set()


def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    """To start without it would show what was withdrawn."""
    path = tmp_path / "withdrawn.json"
    path.write_text('{"items": "?"')
    with pytest.raises(InputError, match="damaged"):
        Withdrawn(path)
