"""Items that nobody may be shown any more, kept on disk: a restart must not bring them back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError
from common.results import write_json


class Withdrawn(set[int]):
    """The withdrawn items of one gateway; each gateway has to be told.

    Raises
    ------
    InputError
        When the file is damaged: to show what was withdrawn would be worse than not to start.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        if path.exists():
            try:
                self.update(map(int, json.loads(path.read_text(encoding="utf-8"))))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path} is damaged ({error}); write the withdrawn items into it as a JSON "
                    "list, [] for none"
                ) from error

    def replace(self, items: Iterable[int]) -> None:
        """These items and no others; on disk before this returns."""
        kept = sorted(set(items))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, kept)
        self.clear()
        self.update(kept)
