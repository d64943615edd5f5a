"""The texts that the lab's model learns from: what users ask (CLINC150), or docstrings.

CLINC150 has to come from its address or from ``LABS_DATA_DIR``. Where neither is in reach the lab
goes on with docstrings of the installed packages, labelled by the library they come from: longer
texts and fewer classes, so accuracies of the two are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.data.dataset import Dataset
from common.data.docstrings import topics
from common.data.fetch import DataError
from common.errors import require

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


def read_split(source: Source = "auto", *, limit: int = 0, seed: int = 0) -> Split:
    """Texts of a dataset, each part shuffled.

    Parameters
    ----------
    source
        ``"auto"`` takes CLINC150 where it can be had, and docstrings elsewhere.
    limit
        Training texts at most; 0 takes all.

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
        return _docstrings(limit, seed)
    try:
        return _clinc(load("clinc150"), limit, seed)
    except DataError:
        if source == "clinc150":
            raise
        return _docstrings(limit, seed)


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


def _docstrings(limit: int, seed: int) -> Split:
    dataset = load("docstrings")
    table = topics(dataset.table("docstrings"), n=LIBRARIES)
    names = sorted(table["label"].unique())
    numbers = table["label"].map({name: i for i, name in enumerate(names)}).to_numpy(np.int64)
    texts = np.asarray(table["text"].str.slice(0, CHARACTERS), dtype=object)
    order = np.random.default_rng(seed).permutation(len(texts))
    n_test, n_validation = (int(len(order) * s) for s in (TEST_SHARE, VALIDATION_SHARE))
    n_train = limit or len(order)
    at = np.split(order, [n_test, n_test + n_validation, n_test + n_validation + n_train])[:3]
    test, validation, train = (Part(texts[rows].tolist(), numbers[rows]) for rows in at)
    return Split(tuple(names), train, validation.head(5000), test.head(5000), dataset)
