"""Texts as sparse TF-IDF vectors, in batches that a torch model reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor


@dataclass(frozen=True)
class Bags:
    """Sparse rows: row i has ``words[offsets[i]:offsets[i + 1]]`` with these ``weights``."""

    words: Tensor
    offsets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class TextSet:
    """Features [N, n_features], classes [N], and how they are cut into batches."""

    features: csr_matrix
    labels: NDArray[np.int64]
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: NDArray[np.int64]) -> tuple[Bags, Tensor]:
        """The given rows as ``(bags, labels [B])``."""
        part = self.features[rows]
        bags = Bags(
            torch.from_numpy(part.indices.astype(np.int64)).to(self.device),
            torch.from_numpy(part.indptr[:-1].astype(np.int64)).to(self.device),
            torch.from_numpy(part.data.astype(np.float32)).to(self.device),
        )
        return bags, torch.from_numpy(self.labels[rows]).to(self.device)


class Batches:
    """Batches of a :class:`TextSet`, in another order every time it is iterated, or in its own.

    Parameters
    ----------
    seed
        Order of the first pass and, from it, of all others; None keeps the set's order.
    """

    def __init__(self, texts: TextSet, size: int, seed: int | None = None) -> None:
        self.texts, self.size = texts, size
        self.rng = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.texts) // self.size)

    def __iter__(self) -> Iterator[tuple[Bags, Tensor]]:
        rows = np.arange(len(self.texts))
        if self.rng is not None:
            rows = self.rng.permutation(rows)
        for start in range(0, len(rows), self.size):
            yield self.texts.batch(rows[start : start + self.size])


def vectorizer(n_features: int) -> Pipeline:
    """Hashed words and word pairs, weighted by TF-IDF; ``fit_transform`` it on training texts.

    Hashing needs no vocabulary, so the width of the first layer is chosen, not found.
    """
    return make_pipeline(
        HashingVectorizer(n_features=n_features, alternate_sign=False, norm=None),
        TfidfTransformer(sublinear_tf=True),
    )
