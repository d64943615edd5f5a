"""What a record of the write-ahead log says: an upsert or a delete of a batch, as bytes.

A record is the raw buffers of its arrays one after another, each padded to 8 bytes, behind a
small head. Decoding gives views into the record, nothing is copied, and nothing can be executed
(a pickle from a file can).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError, require
from labs.lab2_vector_db.dictionary import Dictionary
from labs.lab2_vector_db.payload import DTYPES, Column, FieldType, PayloadColumns

FORMAT = 1
UPSERT, DELETE = 1, 2
HEAD = struct.Struct("<BBHIQ")  # format, kind, number of fields, dimension, rows
FIELD = struct.Struct("<BxHIQ")  # type, bytes of the name, words, bytes of the words
TYPES: tuple[FieldType, ...] = get_args(FieldType)
ALIGNMENT = 8


@dataclass(frozen=True, eq=False)
class Upsert:
    """Vectors to insert, or to put in the place of what their ids had; the payload as well.

    Parameters
    ----------
    ids : int64 array of shape [n]
    vectors : float32 array of shape [n, d]
    payload
        n rows, with the fields of the collection's schema.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    payload: PayloadColumns


@dataclass(frozen=True, eq=False)
class Delete:
    """Ids to remove : int64 array of shape [n]."""

    ids: NDArray[np.int64]


Write = Upsert | Delete


def encode(write: Write) -> bytes:
    """The record of a write.

    Raises
    ------
    InputError
        When the numbers of ids, vectors and payload rows differ.
    """
    n = len(write.ids)
    if isinstance(write, Delete):
        return b"".join([HEAD.pack(FORMAT, DELETE, 0, 0, n), _raw(write.ids, np.int64)])
    shape, rows = write.vectors.shape, len(write.payload)
    require(len(shape) == 2 and shape[0] == n, "vectors.shape", shape, f"must be [{n}, d]")
    require(rows == n, "payload rows", rows, f"must be {n}, one an id")
    parts: list[Any] = [HEAD.pack(FORMAT, UPSERT, len(write.payload.columns), shape[1], n)]
    parts.append(_raw(write.ids, np.int64))
    parts += _padded(_raw(write.vectors, np.float32))
    for name, column in write.payload.columns.items():
        words = column.words
        counts = (len(words), words.text.nbytes) if words is not None else (0, 0)
        encoded = name.encode()
        parts += [FIELD.pack(TYPES.index(column.type), len(encoded), *counts)]
        parts += _padded(encoded)
        parts += _padded(np.packbits(column.valid).tobytes())
        parts += _padded(_raw(column.values, DTYPES[column.type]))
        if words is not None:
            parts += [_raw(words.offsets, np.int64), *_padded(_raw(words.text, np.uint8))]
    return b"".join(parts)


def decode(record: bytes | memoryview) -> Write:
    """The inverse of :func:`encode`; the arrays are read-only views into the record.

    Raises
    ------
    RunError
        For a record of another format or length (the log's checksum has passed, so it was
        written by another program).
    """
    reader = _Reader(memoryview(record))
    form, kind, n_fields, dimension, n = HEAD.unpack(reader.take(HEAD.size))
    if form != FORMAT or kind not in (UPSERT, DELETE):
        raise RunError(f"a record has format {form} and kind {kind}; this code reads {FORMAT}")
    ids = reader.array(np.int64, n)
    if kind == DELETE:
        return Delete(ids)
    vectors = reader.array(np.float32, n * dimension).reshape(n, dimension)
    columns = {}
    for _ in range(n_fields):
        code, name_size, n_words, text_size = FIELD.unpack(reader.take(FIELD.size))
        name = bytes(reader.take(name_size)).decode()
        bits = reader.array(np.uint8, (n + 7) // 8)
        valid = np.unpackbits(bits, count=n).astype(np.bool_)
        values = reader.array(DTYPES[TYPES[code]], n)
        words = None
        if TYPES[code] == "keyword":
            offsets = reader.array(np.int64, n_words + 1)
            words = Dictionary(reader.array(np.uint8, text_size), offsets)
        columns[name] = Column(TYPES[code], values, valid, words)
    return Upsert(ids, vectors, PayloadColumns(columns, n))


class _Reader:
    """Takes padded pieces off a record, one after another."""

    def __init__(self, record: memoryview) -> None:
        self._record, self._at = record, 0

    def take(self, size: int) -> memoryview:
        piece = self._record[self._at : self._at + size]
        if len(piece) != size:
            raise RunError(f"a record has {len(self._record)} bytes, which is too few")
        self._at += size + -size % ALIGNMENT
        return piece

    def array(self, dtype: type[np.generic], count: int) -> NDArray[Any]:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)


def _raw(array: NDArray[Any], dtype: type[np.generic]) -> memoryview:
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def _padded(piece: bytes | memoryview) -> Sequence[bytes | memoryview]:
    return piece, bytes(-len(piece) % ALIGNMENT)
