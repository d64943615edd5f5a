"""The scripts and fonts that draw diagrams and formulas without a network: pinned, hash-checked.

They come as a dataset comes: from your folders, the cache, the official address, or a Python
package that carries the same bytes. None of them is in the repository.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from common.data.fetch import DataError, find
from common.data.registry import DataFile, Entry, Wheel
from common.errors import RunError

NAME = "site-assets"


def entry() -> Entry:
    """What ``assets.toml`` names: every file with its size, SHA-256 and sources."""
    text = Path(__file__).with_name("assets.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    files = tuple(DataFile(**file) for file in values.pop("files"))
    return Entry(name=NAME, files=files, wheel=Wheel(**values.pop("wheel")), **values)


def copy_assets(folder: Path) -> str:
    """Put every script and font below ``folder``; returns where they came from.

    Raises
    ------
    RunError
        No source has one of them. The message lists what was tried and how to supply it; later
        builds need no source, for the cache has them.
    """
    try:
        files, source = find(entry())
    except DataError as error:
        raise RunError(
            f"the site cannot draw diagrams and formulas without them: {error}"
        ) from error
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return source
