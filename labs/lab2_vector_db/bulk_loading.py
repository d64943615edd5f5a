"""Bulk load: millions of rows straight into one segment, past the log, in one commit.

The rows are written to ``loading/`` and their index is built there, slice by slice. A process that
is killed leaves that folder; the same call goes on where it stopped. Nothing is visible until the
segment is renamed into its place and the manifest names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab2_vector_db.drift import SAMPLE_ROWS, measure
from labs.lab2_vector_db.durable import disk_errors, sync, write_beside
from labs.lab2_vector_db.index_building import build_large, sample_rows
from labs.lab2_vector_db.index_types import HNSW
from labs.lab2_vector_db.manifest import Schema
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.request_checks import check_id_array, check_rows
from labs.lab2_vector_db.segment_index import Stopped, index_builder, least_rows
from labs.lab2_vector_db.segments import (
    INDEX,
    TRAINED,
    VECTORS,
    Build,
    Built,
    finish_segment,
    mapped,
)
from labs.lab2_vector_db.storage import LOADING
from labs.lab2_vector_db.writer import Writer

SLICE_ROWS = 65_536
SAMPLED_ROWS = 4096  # of the vectors, in the fingerprint
INPUT = "input.json"
SEGMENT = "segment"
Progress = Callable[[int], object]


def bulk_load(
    writer: Writer,
    vectors: NDArray[Any],
    ids: ArrayLike | None,
    payload: Mapping[str, Sequence[Any]] | None,
    *,
    progress: Progress | None,
) -> None:
    """See ``Collection.bulk_load``."""
    schema = writer.manifest.schema
    shape = getattr(vectors, "shape", None)
    require(
        isinstance(vectors, np.ndarray) and vectors.ndim == 2 and len(vectors) > 0,
        "vectors.shape",
        shape,
        "must be [n, d], an array or np.memmap",
    )
    n_rows = len(vectors)
    checked = check_id_array(np.arange(n_rows) if ids is None else ids, unique=True)
    require(len(checked) == n_rows, "ids", len(checked), f"must be {n_rows}, one a vector")
    check_rows(vectors[:1], schema)
    columns = PayloadColumns.from_dict(schema.fields, payload, n_rows)
    source = fingerprint(vectors, checked, columns, schema)
    with writer.compacting:
        if any(entry.source == source for entry in writer.manifest.segments):
            return  # done before, by a process that died after the commit
        folder = writer.root / LOADING
        with disk_errors("loading into", folder):
            _resume(folder, source)
            try:
                _write_vectors(folder, vectors, schema)
            except InputError:
                shutil.rmtree(folder)
                raise
            _commit(writer, folder, source, checked, columns, progress)
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(
    vectors: NDArray[Any], ids: NDArray[np.int64], columns: PayloadColumns, schema: Schema
) -> str:
    """What tells one input from another: all ids and payload, and 4096 rows of the vectors."""
    digest = hashlib.sha256(repr((vectors.shape, str(vectors.dtype), schema)).encode())
    digest.update(ids.data)
    rows = np.linspace(0, len(vectors) - 1, min(len(vectors), SAMPLED_ROWS)).astype(np.int64)
    digest.update(np.ascontiguousarray(vectors[rows]).data)
    for column in columns.columns.values():
        digest.update(np.ascontiguousarray(column.values).data)
        digest.update(np.ascontiguousarray(column.valid).data)
        if column.words is not None:
            digest.update(np.ascontiguousarray(column.words.text).data)
    return digest.hexdigest()


def _resume(folder: Path, source: str) -> None:
    """Keep what an earlier call with the same input left, and nothing else."""
    path = folder / INPUT
    if path.is_file() and json.loads(path.read_text()) == source:
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / SEGMENT).mkdir(parents=True)
    write_beside(path, json.dumps(source).encode())
    sync(folder)


def _write_vectors(folder: Path, vectors: NDArray[Any], schema: Schema) -> None:
    """Check and copy the vectors; the file has its name when it is whole."""
    path = folder / SEGMENT / VECTORS
    if path.is_file():
        return
    partial = folder / "vectors.partial"
    with partial.open("wb") as stream:
        for start in range(0, len(vectors), SLICE_ROWS):
            name = f"vectors[{start}:]"
            rows = check_rows(vectors[start : start + SLICE_ROWS], schema, name=name)
            stream.write(rows.data)
    sync(partial)
    partial.rename(path)
    sync(path.parent)


def _commit(
    writer: Writer,
    folder: Path,
    source: str,
    ids: NDArray[np.int64],
    columns: PayloadColumns,
    progress: Progress | None,
) -> None:
    place = folder / SEGMENT
    for leftover in place.iterdir():  # of a call that was killed while it finished
        if leftover.name != VECTORS:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    build = _builder(writer, folder, progress)
    built = build(place, mapped(place / VECTORS, np.float32, writer.manifest.schema.dimension))
    entry = replace(finish_segment(place, ids, columns, built), source=source)
    writer.adopt(place, entry)
    if progress is not None:
        progress(len(ids))


def _builder(writer: Writer, folder: Path, progress: Progress | None) -> Build:
    """How to make the index: in slices that outlive the process, where its kind can be merged."""
    schema, options = writer.manifest.schema, writer.manifest.options
    recipe = schema.index_recipe
    if recipe is None or isinstance(recipe.structure, HNSW):
        return index_builder(schema, options, None, stop=writer.stopping)

    def told(done: int, text: str) -> None:
        if writer.stopping():
            raise Stopped
        if progress is not None:
            progress(done)

    def build(place: Path, vectors: NDArray[np.float32]) -> Built | None:
        if len(vectors) < max(1, options.index_rows, least_rows(recipe)):
            return None
        work = folder / "index"
        build_large(vectors, recipe, work, seed=options.seed, progress=told)
        for name in (TRAINED, INDEX):
            os.link(work / name, place / name)  # should this call die too, the build stays whole
        empty = faiss.read_index(str(place / TRAINED))
        sample = sample_rows(vectors, min(len(vectors), SAMPLE_ROWS), seed=options.seed)
        profile = measure(empty, sample) if len(sample) > 1 else None
        return Built(True, None if profile is None else asdict(profile))

    return build
