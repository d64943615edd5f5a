"""A text as token ids on disk: written once, whole or not at all, and mapped by every rank.

Layout of a folder::

    index.json                what it was made from, how many bytes and tokens
    tokenizer.json
    train/index.json          tokens, the type of an id, bytes and CRC-32 of each shard
    train/00000.bin, ...      ids, one document after the other, an end of document after each
    validation/...
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.fetch import cache_folder, locked
from common.errors import InputError, RunError, require
from labs.lab1_fsdp_advanced.tokenizer import Tokenizer

INDEX = "index.json"
TOKENIZER = "tokenizer.json"
PARTS = ("train", "validation")
FORMAT = 2
TRAINED_ON_BYTES = 16 * 2**20
"""Text from which the merges are learned; more changes the rare tokens only."""
ENCODED_AT_ONCE = 2000


@dataclass(frozen=True)
class TokenFiles:
    """A prepared text. ``bytes_per_token`` of the training text: what one token stands for."""

    folder: Path
    vocabulary: int
    train_tokens: int
    validation_tokens: int
    bytes_per_token: float

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / TOKENIZER)


def prepare_tokens(
    texts: Sequence[str],
    folder: Path,
    *,
    vocabulary: int,
    validation_share: float = 0.05,
    seed: int = 0,
    shard_tokens: int = 2**22,
) -> TokenFiles:
    """Hold some texts back, learn a tokenizer from the others, and write both as ids.

    A folder that was made from the same texts and arguments is used as it is. Otherwise everything
    is written beside it and renamed when whole.

    Parameters
    ----------
    texts
        One a document; at least two.
    validation_share
        Of the documents, drawn by ``seed``: whole documents, so that no held-out window continues
        a text that was trained on.
    vocabulary
        See ``Tokenizer.train``. Ids up to 65,535 take two bytes.
    shard_tokens
        Tokens a file.

    Raises
    ------
    InputError
        For fewer than two texts, a share that leaves a part without any, or a folder that holds
        something else.
    RunError
        When the files of an earlier preparation were damaged.
    """
    # Half a surrogate pair, which some docstrings hold, cannot be encoded.
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    held_out = round(len(texts) * validation_share)
    require(len(texts) >= 2, "texts", len(texts), "must be at least 2 documents")
    require(
        1 <= held_out < len(texts),
        "validation_share",
        validation_share,
        f"must leave at least one of {len(texts)} documents on each side",
    )
    made_from = fingerprint(texts, vocabulary, validation_share, seed, shard_tokens)
    if (found := existing(folder, made_from)) is not None:
        return found
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise InputError(f"{folder} holds something else; give a folder of its own")
    order = np.random.default_rng(seed).permutation(len(texts))
    parts = {
        "validation": [texts[at] for at in order[:held_out]],
        "train": [texts[at] for at in order[held_out:]],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The cache clears such a folder when a killed process has left it.
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as beside:
        partial = Path(beside) / "whole"
        partial.mkdir()
        tokenizer = Tokenizer.train(beginning(parts["train"], TRAINED_ON_BYTES), vocabulary)
        tokenizer.save(partial / TOKENIZER)
        counts = {
            part: write_shards(partial / part, parts[part], tokenizer, shard_tokens)
            for part in PARTS
        }
        size = sum(len(text.encode()) for text in parts["train"])
        about = {
            "format": FORMAT,
            "made_from": made_from,
            "vocabulary": tokenizer.vocabulary,
            "train_tokens": counts["train"],
            "validation_tokens": counts["validation"],
            "bytes_per_token": size / counts["train"],
        }
        (partial / INDEX).write_text(json.dumps(about), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    made = existing(folder, made_from)
    assert made is not None
    return made


def cached_tokens(
    texts: Sequence[str], *, vocabulary: int, validation_share: float = 0.05, seed: int = 0
) -> TokenFiles:
    """:func:`prepare_tokens` in the data cache, once a text and vocabulary on this machine.

    Of two processes that ask at once, one waits for the other.
    """
    name = fingerprint(texts, vocabulary, validation_share, seed, 2**22)[:16]
    folder = cache_folder() / "tokens" / name
    with locked(folder.parent):
        return prepare_tokens(
            texts, folder, vocabulary=vocabulary, validation_share=validation_share, seed=seed
        )


def fingerprint(texts: Sequence[str], *arguments: object) -> str:
    """SHA-256 of the texts, in their order, and of what is done to them."""
    found = hashlib.sha256(repr((FORMAT, TRAINED_ON_BYTES, arguments)).encode())
    for text in texts:
        content = text.encode()
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def existing(folder: Path, made_from: str) -> TokenFiles | None:
    """The prepared text in a folder, if it is whole and made from this."""
    if not (folder / INDEX).is_file():
        return None
    about = read_index(folder)
    if about.get("made_from") != made_from:
        return None
    for part in PARTS:
        shard_paths(folder / part, verify=True)
    return TokenFiles(
        folder,
        about["vocabulary"],
        about["train_tokens"],
        about["validation_tokens"],
        about["bytes_per_token"],
    )


def beginning(texts: Sequence[str], limit: int) -> Iterator[str]:
    """Texts until ``limit`` bytes are reached."""
    size = 0
    for text in texts:
        if size >= limit:
            return
        size += len(text.encode())
        yield text


def write_shards(
    folder: Path, texts: Sequence[str], tokenizer: Tokenizer, shard_tokens: int
) -> int:
    """Write the ids of all texts, ``shard_tokens`` a file; the number of tokens."""
    folder.mkdir()
    kind = np.dtype("<u2" if tokenizer.vocabulary <= 2**16 else "<u4")
    end = np.array([tokenizer.end_of_document])
    shards: list[tuple[int, int]] = []
    waiting: list[NDArray[np.int64]] = []
    held = total = 0

    def flush(ids: NDArray[np.int64]) -> None:
        content = ids.astype(kind).tobytes()
        (folder / f"{len(shards):05d}.bin").write_bytes(content)
        shards.append((len(content), zlib.crc32(content)))

    for start in range(0, len(texts), ENCODED_AT_ONCE):
        for ids in tokenizer.encode(texts[start : start + ENCODED_AT_ONCE]):
            waiting += [ids, end]
            held += len(ids) + 1
        if held >= shard_tokens:
            stream = np.concatenate(waiting)
            full = held - held % shard_tokens
            for at in range(0, full, shard_tokens):
                flush(stream[at : at + shard_tokens])
            waiting, total, held = [stream[full:]], total + full, held - full
    if held:
        flush(np.concatenate(waiting))
    total += held
    about = {"tokens": total, "dtype": kind.str, "shards": shards}
    (folder / INDEX).write_text(json.dumps(about), encoding="utf-8")
    return total


def shard_paths(folder: Path, *, verify: bool = False) -> list[Path]:
    """The shards of a part, each as long as the index says; with ``verify``, of its checksum too.

    Raises
    ------
    InputError
        For a folder without an index.
    RunError
        For a shard that is missing, has another length or another content: the folder must be made
        again.
    """
    about = read_index(folder)
    paths = []
    for number, (size, checksum) in enumerate(about["shards"]):
        path = folder / f"{number:05d}.bin"
        found = path.stat().st_size if path.exists() else 0
        wrong = f"has {found:,} bytes, its index says {size:,}" if found != size else ""
        if verify and not wrong and zlib.crc32(path.read_bytes()) != checksum:
            wrong = "has another content than its index says"
        if wrong:
            raise RunError(f"{path} {wrong}: delete {folder.parent} and run again")
        paths.append(path)
    return paths


def read_index(folder: Path) -> dict[str, Any]:
    """``index.json`` of a folder."""
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder} holds no tokens (no {INDEX}); make them with prepare_tokens")
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not JSON ({error}): delete {folder} and run again") from error
    return about
