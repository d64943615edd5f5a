"""Save an index with what it is, and refuse to load anything else.

A folder holds one index file, named by its own hash, and ``manifest.json``. The manifest is
replaced last and atomically: a crash at any point leaves the previous index or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss

from common.errors import InputError, RunError
from labs.lab2_vector_db.durable import FileEntry, disk_errors, sync, write_beside
from labs.lab2_vector_db.index_types import Recipe, recipe_from_dict, recipe_to_dict

MANIFEST = "manifest.json"
SCHEMA = 1
WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a saved index is.

    ``version`` names what the vectors came from, such as the checkpoint of the embedding model:
    queries of another version are points of another space, and are answered without an error.
    """

    version: str
    recipe: dict[str, Any]
    dimension: int
    count: int
    file: str
    sha256: str
    size: int
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def typed_recipe(self) -> Recipe:
        """The recipe as the dataclass it was."""
        return recipe_from_dict(self.recipe)


def save_index(
    index: faiss.Index,
    directory: str | os.PathLike[str],
    *,
    recipe: Recipe,
    version: str,
    extra: dict[str, Any] | None = None,
) -> Manifest:
    """Write the index and its manifest, replacing an earlier pair in the same folder.

    Parameters
    ----------
    index
        A trained index.
    directory
        Made when missing.
    recipe
        What the index was built from.
    version
        Of the embeddings, for example the checkpoint's name or hash; not empty.
    extra
        Anything JSON can hold, kept in the manifest.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        For an empty version or an extra that JSON cannot hold.
    RunError
        When the disk is full; the earlier pair is still there.
    """
    if not version:
        raise InputError("version = '' must name what the vectors came from; give the checkpoint")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as partial, disk_errors("writing an index to", folder):
        written = write_synced(index, partial)
        manifest = Manifest(
            version=version,
            recipe=recipe_to_dict(recipe),
            dimension=index.d,
            count=index.ntotal,
            file=f"index-{written.sha256[:16]}.faiss",
            sha256=written.sha256,
            size=written.size,
            extra=dict(extra or {}),
        )
        text = _json(manifest)
        partial.replace(folder / manifest.file)
        sync(folder)
        write_beside(folder / MANIFEST, text.encode())
        sync(folder)
    for other in folder.glob("index-*.faiss"):
        if other.name != manifest.file:
            other.unlink()
    return manifest


def load_index(
    directory: str | os.PathLike[str],
    *,
    expected_version: str | None = None,
    memory_map: bool = False,
) -> tuple[faiss.Index, Manifest]:
    """Read an index, having checked that it is whole and the one asked for.

    Parameters
    ----------
    directory
        A folder written by :func:`save_index`.
    expected_version
        The version the caller's query embeddings come from; None accepts any.
    memory_map
        Map the file in place of copying it: pages come in when they are searched, processes
        share them, and the index can be searched only. faiss maps vectors, codes and ids of
        flat indexes, plain inverted lists and refining layers; it still copies graphs and
        fast-scan lists. The check of the hash reads the file once all the same.

    Returns
    -------
    (index, manifest)

    Raises
    ------
    InputError
        When the folder has no index, or one of another version.
    RunError
        When the manifest or the index file is missing, cut short or changed.
    """
    folder = Path(directory)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"no {MANIFEST} in {folder}; save an index there with save_index")
    manifest = read_manifest(path)
    if expected_version is not None and manifest.version != expected_version:
        raise InputError(
            f"{path}: the index is of version {manifest.version!r}, expected {expected_version!r}; "
            "build the index again from that checkpoint"
        )
    file = folder / manifest.file
    if not file.is_file():
        raise RunError(f"{file} is missing, though {path} names it; build the index again")
    size = file.stat().st_size
    if size != manifest.size:
        raise RunError(f"{file} has {size} bytes, expected {manifest.size}; build the index again")
    digest = sha256_of(file)
    if digest != manifest.sha256:
        raise RunError(
            f"{file} has sha256 {digest}, expected {manifest.sha256}; build the index again"
        )
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if memory_map else 0)
    if (index.d, index.ntotal) != (manifest.dimension, manifest.count):
        raise RunError(
            f"{file} holds {index.ntotal} vectors of dimension {index.d}, expected "
            f"{manifest.count} of {manifest.dimension}; build the index again"
        )
    return index, manifest


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest.

    Raises
    ------
    RunError
        When it is no JSON, of another schema, or lacks a field.
    """
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); build the index again") from error
    found = fields.get("schema") if isinstance(fields, dict) else None
    if found != SCHEMA:
        raise RunError(f"{path} has schema {found!r}, expected {SCHEMA}; build the index again")
    expected = set(Manifest.__dataclass_fields__)
    if set(fields) != expected:
        raise RunError(
            f"{path} has the fields {sorted(fields)}, expected {sorted(expected)}; "
            "build the index again"
        )
    manifest = Manifest(**fields)
    if Path(manifest.file).name != manifest.file:
        raise RunError(f"{path} names the file {manifest.file!r}, expected one beside it")
    return manifest


def write_synced(index: faiss.Index, path: Path) -> FileEntry:
    """Write an index to a file and sync it; its size and hash come from the bytes written.

    :func:`faiss.write_index` to a path reports no error when the disk is full at the very end: the
    last buffer is lost when the file is closed, where C++ cannot raise.

    Raises
    ------
    OSError
        When the disk is full or the file may not be written.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:

        def write(chunk: bytes) -> None:
            nonlocal size
            digest.update(chunk)
            size += stream.write(chunk)

        writer = faiss.PyCallbackIOWriter(write, WRITE_BYTES)  # type: ignore[attr-defined]
        faiss.write_index(index, writer)
        stream.flush()
        os.fsync(stream.fileno())
    return FileEntry(size, digest.hexdigest())


def sha256_of(path: Path) -> str:
    """The file's sha256 as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json(manifest: Manifest) -> str:
    try:
        return json.dumps(asdict(manifest), indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"extra = {manifest.extra!r} does not fit into JSON: {error}") from error


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A new name in the folder, taken away again unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".index-", suffix=".partial", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
