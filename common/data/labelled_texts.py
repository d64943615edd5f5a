"""Texts with one label each, in parts for training, choosing and judging.

What users ask (CLINC150), docstrings, or files of the caller's. CLINC150 has to come from its
address or from ``LABS_DATA_DIR``. Where neither is in reach a lab goes on with docstrings of the
installed packages, labelled by the library they come from: longer texts and fewer classes, so
accuracies of the two are not comparable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.data.dataset import Dataset, Provenance
from common.data.docstrings import topics
from common.data.fetch import DataError, sha256_of
from common.data.registry import Entry
from common.errors import InputError, require

if TYPE_CHECKING:
    import pandas as pd

Source = Literal["auto", "clinc150", "docstrings"]

VALIDATION_SHARE = TEST_SHARE = 0.15
LIBRARIES = 12
CHARACTERS = 400  # of a docstring: three times what 32 tokens hold


@dataclass(frozen=True)
class Part:
    """Texts and the numbers of their labels [n], in [0, classes)."""

    texts: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, n: int) -> Part:
        """The first ``n`` rows (they are shuffled)."""
        return Part(self.texts[:n], self.labels[:n])


@dataclass(frozen=True)
class Split:
    """What a model is trained on, chosen on and judged on; ``names`` are the labels' names."""

    names: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    dataset: Dataset


def read_split(
    source: Source = "auto", *, limit: int = 0, libraries: int = LIBRARIES, seed: int = 0
) -> Split:
    """Texts of a dataset, each part shuffled.

    Parameters
    ----------
    source
        ``"auto"`` takes CLINC150 where it can be had, and docstrings elsewhere.
    limit
        Training texts at most; 0 takes all.
    libraries
        Classes of the docstrings: the libraries with the most of them.

    Raises
    ------
    InputError
        Unknown source, or a limit below 100.
    DataError
        ``source="clinc150"`` and it cannot be had.
    """
    require(source in get_args(Source), "source", source, f"must be one of {get_args(Source)}")
    require(limit == 0 or limit >= 100, "limit", limit, "must be 0 (all) or >= 100")
    if source == "docstrings":
        return _docstrings(limit, libraries, seed)
    try:
        return _clinc(load("clinc150"), limit, seed)
    except DataError:
        if source == "clinc150":
            raise
        return _docstrings(limit, libraries, seed)


def read_files(train: Path, test: Path, *, seed: int = 0) -> Split:
    """Texts of a caller's: CSV, JSON (a list) or JSON lines with ``text`` and ``label``.

    A part of the training texts (15 %) becomes the validation part, in proportion to the labels.

    Raises
    ------
    InputError
        A file that is missing, not of these kinds, without the two columns, or empty; one file
        for both; one label alone; a label of the test file that the training file lacks.
    """
    if train.resolve() == test.resolve():
        raise InputError(
            f"train and test are the same file, {train}; how a model judges texts that it was "
            "trained on says nothing of others: give it texts that it has not seen"
        )
    first, second = _read_table(train), _read_table(test)
    names = sorted(first["label"].unique())
    if len(names) < 2:
        raise InputError(
            f"{train}: all {len(first)} texts have the label {names[0]!r}; there is nothing to "
            "tell apart: give at least two labels"
        )
    if unknown := sorted(set(second["label"]) - set(names)):
        raise InputError(
            f"{test}: label {unknown[0]!r} is not among the {len(names)} of {train}; a model can "
            "give no label that it was never shown"
        )
    number = {name: i for i, name in enumerate(names)}
    rng = np.random.default_rng(seed)
    # Every 1 / 0.15-th text of the list sorted by label: each label gives its share.
    order = rng.permutation(len(first))
    order = order[np.argsort(first["label"].to_numpy()[order], kind="stable")]
    held = np.zeros(len(order), bool)
    held[np.linspace(0, len(order) - 1, max(1, int(VALIDATION_SHARE * len(order)))).astype(int)] = (
        True
    )
    parts = []
    for table, rows in (
        (first, rng.permutation(order[~held])),
        (first, rng.permutation(order[held])),
        (second, rng.permutation(len(second))),
    ):
        chosen = table.iloc[rows]
        parts.append(Part(chosen["text"].tolist(), chosen["label"].map(number).to_numpy(np.int64)))
    digest = hashlib.sha256("".join(sha256_of(path) for path in (train, test)).encode())
    provenance = Provenance(
        train.stem, f"{train} and {test}", digest.hexdigest(), len(first) + len(second)
    )
    own = Entry(train.stem, "texts of the caller's", "the caller's", "", "", files=())
    files = {path.name: path for path in (train, test)}
    training, validation, judging = parts
    return Split(tuple(names), training, validation, judging, Dataset(own, files, provenance))


def _read_table(path: Path) -> pd.DataFrame:
    """Columns ``text`` and ``label``, both strings."""
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path} is not a file; give a CSV, JSON or JSON lines file")
    readers = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".json": lambda: pd.read_json(path, dtype=False),
        ".jsonl": lambda: pd.read_json(path, dtype=False, lines=True),
    }
    reader = readers.get(path.suffix.lower())
    require(reader is not None, "file", path.name, f"must end with {', '.join(readers)}")
    assert reader is not None
    try:
        table = reader()
    except (ValueError, UnicodeDecodeError) as error:  # both are what pandas raises on a bad file
        raise InputError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from error
    if missing := {"text", "label"} - set(table.columns):
        raise InputError(
            f"{path} has the columns {', '.join(map(str, table.columns)) or 'none'}; "
            f"{' and '.join(sorted(missing))} is missing"
        )
    if not len(table):
        raise InputError(f"{path} holds no text")
    table = table[["text", "label"]].fillna("").astype(str)
    for column, what in (("text", "are empty"), ("label", "have no label")):
        if empty := int((table[column].str.strip() == "").sum()):
            raise InputError(f"{path}: {empty} of {len(table)} texts {what}")
    return table


def _clinc(dataset: Dataset, limit: int, seed: int) -> Split:
    tables = {name: dataset.table(name) for name in ("train", "validation", "test")}
    names = sorted(tables["train"]["intent"].unique())
    number = {name: i for i, name in enumerate(names)}
    rng = np.random.default_rng(seed)
    parts = {}
    for name, table in tables.items():
        order = rng.permutation(len(table))[: (limit or None) if name == "train" else None]
        chosen = table.iloc[order]
        labels = chosen["intent"].map(number).to_numpy(np.int64)
        parts[name] = Part(chosen["text"].tolist(), labels)
    return Split(tuple(names), **parts, dataset=dataset)


def _docstrings(limit: int, libraries: int, seed: int) -> Split:
    dataset = load("docstrings")
    table = topics(dataset.table("docstrings"), n=libraries)
    names = sorted(table["label"].unique())
    numbers = table["label"].map({name: i for i, name in enumerate(names)}).to_numpy(np.int64)
    texts = np.asarray(table["text"].str.slice(0, CHARACTERS), dtype=object)
    order = np.random.default_rng(seed).permutation(len(texts))
    n_test, n_validation = (int(len(order) * s) for s in (TEST_SHARE, VALIDATION_SHARE))
    n_train = limit or len(order)
    at = np.split(order, [n_test, n_test + n_validation, n_test + n_validation + n_train])[:3]
    test, validation, train = (Part(texts[rows].tolist(), numbers[rows]) for rows in at)
    return Split(tuple(names), train, validation.head(5000), test.head(5000), dataset)
