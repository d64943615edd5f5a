"""`load`: a dataset by name, its files verified, its tables typed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.data import registry
from common.data.fetch import DataError, find
from common.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Provenance:
    """Where a dataset came from, as it is written into ``results.json``.

    ``sha256`` is the file's hash; with several files, the hash of the lines ``<sha256>  <name>``.
    ``rows`` is the number of rows of the first table (0 for files that are no table).
    """

    name: str
    source: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Dataset:
    """A dataset whose files are on this machine and verified."""

    entry: registry.Entry
    files: dict[str, Path]
    provenance: Provenance

    def path(self, name: str) -> Path:
        """Path of a verified file; `InputError` lists the names there are."""
        if name not in self.files:
            raise InputError(
                f"dataset {self.entry.name} has no file {name!r}; its files: "
                + ", ".join(self.files)
            )
        return self.files[name]

    def table(self, name: str) -> pd.DataFrame:
        """A table as a typed DataFrame; `InputError` lists the names there are.

        See `common.data.tables` for the columns of each. The number of rows is checked against the
        registry (`DataError`).
        """
        from common.data.tables import READERS

        reader = READERS.get(self.entry.name, {}).get(name)
        if reader is None:
            known = ", ".join(READERS.get(self.entry.name, {})) or "none, only files"
            raise InputError(
                f"dataset {self.entry.name} has no table {name!r}; its tables: {known}"
            )
        table = reader(self)
        expected = self.entry.rows.get(name)
        if expected is not None and len(table) != expected:
            raise DataError(
                f"table {name} of dataset {self.entry.name} has {len(table)} rows, "
                f"expected {expected}; the reader in common/data/tables.py is at fault"
            )
        return table

    def array(self, name: str) -> np.ndarray:
        """An array of the dataset: ``"vectors"`` of word-vectors, float32 [26423, 300]."""
        from common.data.tables import ARRAYS

        reader = ARRAYS.get(self.entry.name, {}).get(name)
        if reader is None:
            known = ", ".join(ARRAYS.get(self.entry.name, {})) or "none"
            raise InputError(
                f"dataset {self.entry.name} has no array {name!r}; its arrays: {known}"
            )
        return reader(self)


def load(name: str) -> Dataset:
    """A dataset by name, fetched if need be, every file's SHA-256 verified.

    Parameters
    ----------
    name
        One of `common.data.registry.REGISTRY`, for example ``"ml-100k"``.

    Raises
    ------
    InputError
        No dataset is called so (the message lists the known names).
    DataError
        No source serves it, or a file in the caller's own folder is not the registered one.
    """
    entry = registry.entry(name)
    if name == "docstrings":
        from common.data.docstrings import build

        path, rows, digest = build()
        source = "the installed packages of this environment"
        return Dataset(entry, {path.name: path}, Provenance(name, source, digest, rows))
    files, source = find(entry)
    if len(entry.files) == 1:
        digest = entry.files[0].sha256
    else:
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in entry.files)
        digest = hashlib.sha256(lines.encode()).hexdigest()
    rows = next(iter(entry.rows.values()), 0)
    return Dataset(entry, files, Provenance(name, source, digest, rows))
