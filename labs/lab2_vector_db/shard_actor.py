"""One shard: the process that holds the index of its rows, as a Ray actor runs it."""

from __future__ import annotations

import mmap
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import Recipe
from labs.lab2_vector_db.search import search
from labs.lab2_vector_db.vectors import check_vectors


@dataclass(frozen=True)
class ShardInfo:
    """Where a shard runs and what it holds."""

    host: str
    pid: int
    n_vectors: int
    build_s: float


@dataclass(frozen=True)
class MappedFile:
    """A memory-mapped array by its file, so that each shard can map it by itself."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: NDArray[Any]) -> MappedFile | None:
        """The file below a whole memory map; None for any other array, a slice of one included."""
        if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
            return None  # a slice keeps the offset of the whole
        if array.filename is None or not array.flags.c_contiguous:
            return None
        return cls(str(Path(array.filename).resolve()), array.dtype.str, array.offset, array.shape)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, read."""
        mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        return np.asarray(mapped[rows])


class Shard:
    """The actor: one index over some rows of the source, which it numbers from 0."""

    def __init__(self, threads: int) -> None:
        faiss.omp_set_num_threads(threads)

    def build(
        self,
        source: MappedFile | NDArray[np.float32],
        rows: NDArray[np.int64] | None,
        recipe: Recipe,
        trained: NDArray[np.uint8] | None,
        seed: int,
    ) -> ShardInfo:
        """Build from ``rows`` of a mapped file, or from all rows of an array."""
        start = time.perf_counter()
        read = source.rows(rows) if isinstance(source, MappedFile) and rows is not None else source
        vectors = check_vectors(read)  # type: ignore[arg-type]
        if trained is None:
            self.index = build_index(vectors, recipe, seed=seed)
        else:
            self.index = faiss.deserialize_index(trained)
            self.index.add(vectors)
        seconds = time.perf_counter() - start
        return ShardInfo(socket.gethostname(), os.getpid(), self.index.ntotal, seconds)

    def search(
        self, queries: NDArray[np.float32], k: int, how: dict[str, Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best, or all, of this shard's rows."""
        return search(self.index, queries, min(k, self.index.ntotal), **how)

    def export(self) -> NDArray[np.uint8]:
        """The index as bytes."""
        return np.asarray(faiss.serialize_index(self.index))
