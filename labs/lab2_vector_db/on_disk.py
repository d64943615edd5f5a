"""Indexes larger than memory: inverted lists in a file, of which a search reads what it probes.

Two ways. :func:`merge_on_disk` writes the lists of many parts into one file without ever holding
them (:class:`faiss.OnDiskInvertedLists`). :func:`open_mapped` maps the file of any finished index,
fast-scan codes and refined vectors included. The kernel keeps the pages that are asked for often.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.index_types import Recipe
from labs.lab2_vector_db.merging import require_mergeable
from labs.lab2_vector_db.persistence import write_synced
from labs.lab2_vector_db.search import search, unwrap
from labs.lab2_vector_db.sharding import train

ROOT = Path(__file__).resolve().parents[2]
INDEX, LISTS = "index.faiss", "lists.ivfdata"
MMAP_IFC: int = faiss.IO_FLAG_MMAP_IFC  # type: ignore[attr-defined]
SAME_DIR: int = faiss.IO_FLAG_ONDISK_SAME_DIR  # type: ignore[attr-defined]


def merge_on_disk(
    trained: faiss.Index, parts: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> faiss.Index:
    """Merge saved parts into one index whose lists are in a file.

    Memory holds the trained index, 8 bytes a vector for the check of the ids, and one list.

    Parameters
    ----------
    trained
        The empty index that every part was filled from.
    parts
        Index files, with ids that are unique over all of them.
    folder
        Made here, whole or not at all: ``index.faiss`` and ``lists.ivfdata``.

    Returns
    -------
    faiss.Index
        As :func:`open_on_disk` opens it.

    Raises
    ------
    InputError
        For a folder that exists, parts trained otherwise or with an id in two of them, and codes
        in fast-scan blocks, for which faiss has no lists on disk.
    """
    target = Path(folder)
    require(len(parts) > 0, "parts", 0, "must be at least one index file")
    require(not target.exists(), "folder", str(target), "must not exist", "remove it, or another")
    layers = unwrap(trained)
    if layers.ivf is None or layers.refine is not None:
        raise InputError(
            f"{type(faiss.downcast_index(trained)).__name__} has vectors outside inverted lists; "
            "use IVF without refine, or save it and open it with open_mapped"
        )
    if isinstance(layers.ivf, faiss.IndexIVFFastScan):
        raise InputError(
            f"{type(layers.ivf).__name__} keeps codes in blocks of 32, which faiss has no lists on "
            "disk for; use PQ of 8 bits or SQ, or save it and open it with open_mapped"
        )
    require(trained.ntotal == 0, "trained.ntotal", trained.ntotal, "must be 0", "give it empty")
    # Mapped, not read: together they may be larger than memory.
    opened = [faiss.read_index(str(part), faiss.IO_FLAG_MMAP) for part in parts]
    require_mergeable([trained, *opened])
    building = target.with_name(f".{target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _write(trained, opened, building)
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _sync(target.parent)
    return open_on_disk(target)


def open_on_disk(folder: str | os.PathLike[str]) -> faiss.Index:
    """Open what :func:`merge_on_disk` wrote; nothing but the index file is read.

    The index file names its lists by an absolute path. faiss follows it: a copied folder then
    searches the lists of the original, or whatever is there by now. Here the lists beside the
    index are opened, and their size is compared (a file cut short would end the process when a
    search touches the missing part).

    Raises
    ------
    InputError
        When the folder holds no such index.
    RunError
        When the lists have another size than the index says.
    """
    path = Path(folder) / INDEX
    lists = path.with_name(LISTS)
    for file in (path, lists):
        if not file.is_file():
            raise InputError(f"{file} is missing; write the folder with merge_on_disk")
    with _silenced():
        index = faiss.read_index(str(path), SAME_DIR)
    kept: Any = faiss.downcast_InvertedLists(unwrap(index).ivf.invlists)
    expected, size = kept.totsize, lists.stat().st_size
    if size != expected:
        raise RunError(f"{lists} has {size} bytes, expected {expected}; build the index again")
    return index


def open_mapped(path: str | os.PathLike[str]) -> faiss.Index:
    """Open any saved index without reading its vectors into memory, for searching only.

    ``IO_FLAG_MMAP`` does so for inverted lists alone, and reads fast-scan blocks and refined
    vectors whole; ``IO_FLAG_MMAP_IFC`` maps every array of the file.

    Raises
    ------
    InputError
        When there is no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is no file; save an index there first")
    return faiss.read_index(str(path), MMAP_IFC)


@dataclass(frozen=True)
class Resident:
    """Memory of a fresh process, in bytes, more than before it opened the index.

    ``anonymous`` memory is the process's own and has to fit; ``mapped`` pages belong to the file
    and are dropped when memory is short. Each after opening and after searching.
    """

    opened_anonymous: int
    opened_mapped: int
    searched_anonymous: int
    searched_mapped: int


def resident(
    path: str | os.PathLike[str],
    how: str,
    queries: NDArray[np.float32],
    k: int = 10,
    *,
    nprobe: int | None = None,
) -> Resident:
    """Open and search an index in a process of its own, and read what it keeps in memory.

    Parameters
    ----------
    path
        An index file, or the folder of :func:`merge_on_disk`.
    how
        ``"read"``, ``"mapped"`` (:func:`open_mapped`) or ``"on_disk"`` (:func:`open_on_disk`).
    queries : float32 array of shape [q, d]
    k, nprobe
        Of the search.

    Raises
    ------
    RunError
        Where the kernel does not say (it needs Linux), or the index cannot be opened.
    """
    require(how in OPEN, "how", how, f"must be one of {list(OPEN)}")
    if not Path("/proc/self/status").is_file():
        raise RunError("resident memory is read from /proc, which only Linux has")
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(Path(path).resolve()), how, str(k), str(nprobe or 0)],
        input=np.ascontiguousarray(queries, dtype=np.float32).tobytes(),
        capture_output=True,
        cwd=ROOT,
    )
    if child.returncode:
        raise RunError(f"{path} could not be measured: {child.stderr.decode().strip()[-500:]}")
    return Resident(**json.loads(child.stdout))


@dataclass(frozen=True)
class OnDiskReport:
    """The same index in memory and on disk. ``same_ids`` is the share of equal results."""

    same_ids: float
    index_file_bytes: int
    lists_file_bytes: int
    in_memory: Resident
    on_disk: Resident
    mapped: Resident


def compare(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    recipe: Recipe,
    folder: Path,
    *,
    k: int = 10,
    nprobe: int | None = None,
    n_parts: int = 4,
    seed: int = 0,
) -> OnDiskReport:
    """Build an index in parts and merge them on disk; build it at once in memory; compare both.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    queries : float32 array of shape [q, d]
    recipe
        IVF, neither fast scan nor refined.
    folder
        An empty or missing folder, for all files.
    k, nprobe
        Of the searches.
    n_parts
        Parts that are built one after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(vectors, recipe, seed=seed)
    whole = faiss.clone_index(trained)
    whole.add(vectors)
    write_synced(whole, folder / INDEX)
    parts = []
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), n_parts)):
        part = faiss.clone_index(trained)
        part.add_with_ids(np.ascontiguousarray(vectors[rows], dtype=np.float32), rows)
        parts.append(folder / f"part-{number}.faiss")
        write_synced(part, Path(parts[-1]))
    merged = folder / "merged"
    index = merge_on_disk(trained, parts, merged)
    _, expected = search(whole, queries, k, nprobe=nprobe)
    _, found = search(index, queries, k, nprobe=nprobe)
    return OnDiskReport(
        same_ids=float((found == expected).mean()),
        index_file_bytes=(merged / INDEX).stat().st_size,
        lists_file_bytes=(merged / LISTS).stat().st_size,
        in_memory=resident(folder / INDEX, "read", queries, k, nprobe=nprobe),
        on_disk=resident(merged, "on_disk", queries, k, nprobe=nprobe),
        mapped=resident(folder / INDEX, "mapped", queries, k, nprobe=nprobe),
    )


OPEN: dict[str, Any] = {
    "read": lambda path: faiss.read_index(path),
    "mapped": open_mapped,
    "on_disk": open_on_disk,
}


def _write(trained: faiss.Index, parts: Sequence[faiss.Index], folder: Path) -> None:
    index = faiss.clone_index(trained)
    ivf = unwrap(index).ivf
    lists: Any = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(folder / LISTS))
    sources: Any = faiss.InvertedListsPtrVector()  # type: ignore[attr-defined]
    for part in parts:
        sources.push_back(unwrap(part).ivf.invlists)
    with _silenced():
        count = lists.merge_from_multiple(sources.data(), sources.size(), False)
    ivf.replace_invlists(lists, False)
    index.ntotal = ivf.ntotal = count
    write_synced(index, folder / INDEX)
    for file in (folder / LISTS, folder / INDEX, folder):
        _sync(file)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what faiss prints about file names and sizes off standard output."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _memory() -> NDArray[np.int64]:
    """Anonymous and file-mapped resident memory of this process, in bytes."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    return np.array([int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")])


def _measure(path: str, how: str, k: int, nprobe: int | None) -> Resident:
    """What :func:`resident` runs in a process of its own."""
    faiss.omp_set_num_threads(1)
    sent = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32)
    # faiss loads code and makes buffers on the first call, whatever the index.
    faiss.knn(np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32), 1)
    before = _memory()
    index = OPEN[how](path)
    opened = _memory() - before
    search(index, sent.reshape(-1, index.d), k, nprobe=nprobe)
    searched = _memory() - before
    return Resident(*(int(value) for value in (*opened, *searched)))


if __name__ == "__main__":
    _path, _how, _k, _nprobe = sys.argv[1:]
    print(json.dumps(asdict(_measure(_path, _how, int(_k), int(_nprobe) or None))))
