"""What a checkpoint is on disk: a folder that is whole or absent, and a manifest of its files.

Layout below one directory::

    step-00000100/           complete
        __0_0.distcp ...     the pieces of each rank, written by torch.distributed.checkpoint (DCP)
        .metadata            where in which file each piece of each tensor lies
        manifest.json        step, ranks, model, and the size and checksum of each file
    step-00000200.partial/   being written, or left by a run that was killed; never read
    latest                   the name of the newest complete checkpoint

Nothing here talks to other ranks: see ``checkpoint.py`` for what they agree on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.filesystem import FileSystem, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.optim import Optimizer

from common.errors import RunError

SCHEMA = 1
POINTER = "latest"
MANIFEST = "manifest.json"
METADATA = ".metadata"
PARTIAL = ".partial"
REPLACED = ".replaced"
NAME = re.compile(r"step-(\d{8,})(\.replaced)?")
COPY_AHEAD = 10_000_000
CHUNK = 1 << 24


@dataclass(frozen=True)
class File:
    """Size and CRC-32 (hexadecimal) of the bytes handed to the operating system."""

    bytes: int
    crc32: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, whatever number of ranks and strategy wrote it.

    Attributes
    ----------
    world
        Ranks that saved it.
    model
        Each parameter and buffer by name: type and shape of the whole, ``"float32 [7, 5]"``.
    optimizer
        Its class, the names of its state, and its number of parameter groups; None without one.
    extra
        JSON values of the caller.
    """

    step: int
    world: int
    model: dict[str, str]
    optimizer: dict[str, Any] | None
    extra: dict[str, Any]
    files: dict[str, File]

    @property
    def fingerprint(self) -> str:
        """Equal for models with the same names, types and shapes, in any order."""
        return hashlib.sha256(json.dumps(self.model, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        content = {"schema": SCHEMA, "fingerprint": self.fingerprint} | asdict(self)
        write_whole(folder / MANIFEST, json.dumps(content, indent=1))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises RunError when it is missing, not whole, or of another schema."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            schema = content.pop("schema")
            del content["fingerprint"]
            content["files"] = {name: File(**file) for name, file in content["files"].items()}
            manifest = cls(**content)
        except FileNotFoundError:
            raise RunError(f"{path} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
        if schema != SCHEMA:
            raise RunError(f"{path} has schema {schema}; this version reads {SCHEMA}")
        return manifest


def describe(model_state: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of the whole of each tensor of a model's state dict, sharded or not."""
    return {
        name: f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
        for name, value in model_state.items()
        if isinstance(value, Tensor)
    }


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Class, names of the state, and number of parameter groups."""
    names = {name for state in optimizer.state.values() for name in state}
    groups = len(optimizer.param_groups)
    return {"class": type(optimizer).__name__, "state": sorted(names), "groups": groups}


def differences(saved: Mapping[str, str], mine: Mapping[str, str]) -> list[str]:
    """One line for each tensor that a checkpoint and a model do not have alike."""
    names = [*mine, *(name for name in saved if name not in mine)]
    return [
        f"{name} is {saved.get(name, 'absent')} in the checkpoint and "
        f"{mine.get(name, 'absent')} in the model"
        for name in names
        if saved.get(name) != mine.get(name)
    ]


def step_folder(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step belongs."""
    return directory / f"step-{step:08d}"


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint, or None.

    The folder that the pointer names counts, even if somebody damaged it since: ``load`` says so
    rather than go back in silence. A pointer to nothing is ignored.
    """
    pointer = directory / POINTER
    if pointer.is_file():
        name = pointer.read_text(encoding="utf-8").strip()
        for named in (directory / name, directory / (name + REPLACED)):
            if NAME.fullmatch(named.name) and named.is_dir():
                return named
    found = complete(directory)
    return found[-1] if found else None


def complete(directory: Path) -> list[Path]:
    """Folders with a manifest, the oldest step first."""
    folders = [path.parent for path in directory.glob(f"step-*/{MANIFEST}")]
    matches = [(NAME.fullmatch(folder.name), folder) for folder in folders]
    found = [(int(match[1]), match[2] is None, folder) for match, folder in matches if match]
    return [folder for *_, folder in sorted(found)]


def check(folder: Path) -> Manifest:
    """Read the manifest and compare names and sizes, and the checksum of the index.

    That much is done on each load: it asks the file system for a few numbers. It finds what is
    missing or cut short, not a byte that changed: see :func:`mismatched`.

    Raises
    ------
    RunError
        Naming the file.
    """
    manifest = Manifest.read(folder)
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing")
        if (size := path.stat().st_size) != file.bytes:
            raise RunError(f"{path} has {size:,} bytes, and {MANIFEST} says {file.bytes:,}")
    if mismatched(folder, manifest, [METADATA]):
        raise RunError(f"{folder / METADATA} does not have the checksum in {MANIFEST}")
    return manifest


def mismatched(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """Those of the named files whose bytes are not those that were saved.

    Reads each whole: a second reading of the checkpoint, at the speed of the disk.
    """
    return [name for name in names if checksum(folder / name) != manifest.files[name].crc32]


def checksum(path: Path) -> str:
    """CRC-32 of a file: made for accidents of disks and networks, not for attackers."""
    crc = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def advice(directory: Path, damaged: Path) -> str:
    """What to do instead of reading a damaged checkpoint."""
    for folder in reversed(complete(directory)):
        if folder != damaged:
            with suppress(RunError):
                return (
                    f"remove {damaged.name} to go on from {folder.name} (step {check(folder).step})"
                )
    return f"no other complete checkpoint is in {directory}; remove {damaged.name} to start anew"


def clear(directory: Path) -> None:
    """Remove what killed runs left half-written."""
    for path in directory.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(path)


def publish(partial: Path, final: Path, manifest: Manifest, keep: int) -> None:
    """Give a folder whose files are all written its final name; then move the pointer.

    Each rename is atomic, and in this order: a kill between any two of them leaves a complete
    checkpoint that :func:`latest` finds.
    """
    directory = final.parent
    replaced = final.with_name(final.name + REPLACED)
    manifest.write(partial)
    sync(partial)
    if final.exists():
        remove(replaced)
        final.rename(replaced)
    partial.rename(final)
    sync(directory)
    write_whole(directory / POINTER, final.name)
    sync(directory)
    remove(replaced)
    found = complete(directory)
    older = found[: found.index(final)]
    for folder in older[: max(0, len(older) - keep + 1)]:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a complete checkpoint: renamed first, so that a kill leaves no half of one."""
    if folder.exists():
        going = folder.with_name(folder.name + PARTIAL)
        folder.rename(going)
        shutil.rmtree(going)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that its name holds either the old text or all of the new one."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def sync(directory: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Stream(io.BufferedWriter):
    """A file that is counted and checked on the way, and that remembers what the disk said."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.crc32 = 0
        self.bytes = 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise
        self.crc32 = zlib.crc32(data, self.crc32)
        self.bytes += written
        return written


class _Files(FileSystem):
    """Files as DCP writes them; what was written stands in ``written``."""

    def __init__(self) -> None:
        self.written: dict[str, File] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        stream = _Stream(Path(path))
        try:
            yield stream
            if not stream.closed:  # DCP closes shards, synced, and leaves its index to us
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
        except Exception as error:
            stream.raw.close()
            # torch.save answers a full disk with "unexpected pos 704 vs 598".
            cause = stream.failure or error
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            raise
        self.written[Path(path).name] = File(stream.bytes, f"{stream.crc32:08x}")

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class Writer(FileSystemWriter):
    """DCP's writer; ``files`` holds what this rank has written.

    Parameters
    ----------
    copy_ahead
        Bytes copied from the GPU ahead of the disk. 0 for tensors that are on the CPU already:
        another thread than the main one would otherwise open a context on the first GPU.
    """

    def __init__(self, folder: Path, *, copy_ahead: int = COPY_AHEAD) -> None:
        super().__init__(folder, per_thread_copy_ahead=copy_ahead)
        self.fs = _Files()

    @property
    def files(self) -> dict[str, File]:
        assert isinstance(self.fs, _Files)
        return dict(self.fs.written)


class _Unpickler(pickle.Unpickler):
    """Knows the classes of DCP's index, and no other: unpickling anything else may run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module == dcp_metadata.__name__:
            found = getattr(dcp_metadata, name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        if module == "torch":
            found = getattr(torch, name, None)
            if found is torch.Size or isinstance(found, torch.dtype):
                return found
        if module == "pathlib" or module.startswith("pathlib."):
            return Path if name == "PosixPath" else self._refuse(module, name)
        if (module, name) == (_StorageInfo.__module__, _StorageInfo.__name__):
            return _StorageInfo
        if (module, name) == ("torch.serialization", "_get_layout"):
            return super().find_class(module, name)
        return self._refuse(module, name)

    def _refuse(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which DCP never writes")


class Reader(FileSystemReader):
    """DCP's reader, without its ``pickle.load`` of a file that may come from elsewhere."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as stream:
            found = _Unpickler(stream).load()
        if not isinstance(found, Metadata):
            raise RunError(f"{Path(self.path) / METADATA} holds no index but a {type(found)}")
        return found


class Planner(DefaultLoadPlanner):
    """DCP's planner, which would unpickle values that are no tensors (a learning rate)."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for all but plain values and tensors
        value.seek(0)
        super().load_bytes(read_item, value)
