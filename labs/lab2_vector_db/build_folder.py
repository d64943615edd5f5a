"""The folder of a build that can be killed: what is in it belongs to one build, and is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from common.errors import InputError, RunError
from labs.lab2_vector_db.durable import disk_errors, lock_for_writing, sync, write_beside
from labs.lab2_vector_db.ground_truth import Source, fingerprint
from labs.lab2_vector_db.index_types import Recipe, recipe_to_dict
from labs.lab2_vector_db.persistence import write_synced

PLAN = "build.json"
SCHEMA = 1


@dataclass(frozen=True)
class Build:
    """``build.json``, ``trained.faiss``, ``part-<first row>.faiss`` and, at last, ``index.faiss``.

    A file has its name only once it is whole and synced, so that a name says how far the build is.
    """

    folder: Path
    n_vectors: int
    slice_rows: int

    @classmethod
    def open(
        cls,
        folder: Path,
        source: Source,
        recipe: Recipe,
        train_size: int,
        slice_rows: int,
        seed: int,
    ) -> Build:
        """Begin a build in this folder, or go on with the same one.

        Raises
        ------
        InputError
            When the folder holds the build of something else.
        """
        n, dimension = source.shape
        plan = {
            "schema": SCHEMA,
            "recipe": recipe_to_dict(recipe),
            "shape": [n, dimension],
            "source": fingerprint(source, np.empty((0, dimension), np.float32), 0, "l2"),
            "train_size": train_size,
            "slice_rows": slice_rows,
            "seed": seed,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PLAN
        if path.exists():
            _require_same(path, plan)
        else:
            write_beside(path, (json.dumps(plan, indent=2) + "\n").encode())
            sync(folder)
        return cls(folder, n, slice_rows)

    @property
    def starts(self) -> range:
        """The first row of each slice."""
        return range(0, self.n_vectors, self.slice_rows)

    @property
    def trained(self) -> Path:
        """The trained, empty index."""
        return self.folder / "trained.faiss"

    @property
    def result(self) -> Path:
        """The whole index."""
        return self.folder / "index.faiss"

    def part(self, start: int) -> Path:
        """The trained index with the slice from row ``start`` on."""
        return self.folder / f"part-{start:012d}.faiss"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only builder in the folder; remove what a killed one left half written."""
        release = lock_for_writing(self.folder)
        try:
            for partial in self.folder.glob("*.partial"):
                partial.unlink()
            yield
        finally:
            release()

    def save(self, index: faiss.Index, path: Path) -> None:
        """Write an index whole or not at all.

        Raises
        ------
        RunError
            When the disk is full.
        """
        partial = path.with_name(path.name + ".partial")
        with disk_errors("writing", path):
            try:
                write_synced(index, partial)
                partial.replace(path)
                sync(self.folder)
            finally:
                partial.unlink(missing_ok=True)

    def read_part(self, start: int) -> faiss.Index:
        """A saved slice.

        Raises
        ------
        RunError
            When it does not hold the rows it should.
        """
        path = self.part(start)
        index = faiss.read_index(str(path))
        expected = min(self.slice_rows, self.n_vectors - start)
        if index.ntotal != expected:
            raise RunError(f"{path} holds {index.ntotal} rows, expected {expected}; delete it")
        return index

    def finished(self) -> faiss.Index:
        """The saved whole index, whose slices are not needed any more."""
        for start in self.starts:
            self.part(start).unlink(missing_ok=True)
        sync(self.folder)
        return faiss.read_index(str(self.result))


@contextmanager
def threads_of_faiss(threads: int | None) -> Iterator[None]:
    """Let faiss use so many threads inside the block; None keeps its setting."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _require_same(path: Path, plan: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); delete the folder") from error
    changed = [key for key in plan if not isinstance(found, dict) or found.get(key) != plan[key]]
    if changed:
        raise InputError(
            f"{path.parent} holds another build: {', '.join(changed)} differ; use another folder, "
            "or delete it"
        )
