"""Payload: typed columns beside the vectors, with missing values, memory-mapped when loaded.

A row's payload is a value or nothing for each field of the schema. Rows are numbered as the
vectors are; a column is one array, so that a filter over a million rows is a few passes of numpy.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.dictionary import Dictionary

FieldType = Literal["int", "float", "keyword", "bool"]
Fields = Mapping[str, FieldType]
Value = int | float | str | bool
DTYPES: dict[FieldType, type[np.generic]] = {
    "int": np.int64,
    "float": np.float64,
    "keyword": np.int32,  # codes into the column's dictionary
    "bool": np.bool_,
}
PYTHON_TYPES: dict[FieldType, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "keyword": (str,),
    "bool": (bool,),
}
PLAIN_TYPES: dict[FieldType, type] = {"int": int, "float": float, "bool": bool}
NUMPY_KINDS: dict[FieldType, str] = {"int": "iu", "float": "fiu", "keyword": "U", "bool": "b"}
MANIFEST = "payload.json"
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Column:
    """One field of n rows.

    Parameters
    ----------
    type
        Of the field.
    values : array of shape [n]
        int64, float64, bool, or int32 codes into ``words``; zero where nothing is.
    valid : bool array of shape [n]
        False where the value is missing.
    words
        The dictionary of a keyword column, in sorted order.
    """

    type: FieldType
    values: NDArray[Any]
    valid: NDArray[np.bool_]
    words: Dictionary | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays: 9 a row for int and float, 5 and the dictionary for keyword, 2."""
        return self.values.nbytes + self.valid.nbytes + (self.words.nbytes if self.words else 0)

    def value(self, row: int) -> Value | None:
        """The row's value as a Python object, None where it is missing."""
        if not self.valid[row]:
            return None
        found = self.values[row].item()
        return self.words[found] if self.words is not None else found


class PayloadColumns:
    """The payload of n rows: a column for each field of the schema. Treated as immutable.

    Make it with :meth:`from_dict`, :meth:`empty`, :meth:`concat` or :meth:`load`.
    """

    def __init__(self, columns: dict[str, Column], n_rows: int) -> None:
        self.columns, self.n_rows = columns, n_rows

    def __len__(self) -> int:
        return self.n_rows

    @property
    def fields(self) -> dict[str, FieldType]:
        """The name and type of each field."""
        return {name: column.type for name, column in self.columns.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    @classmethod
    def empty(cls, fields: Fields, n_rows: int = 0) -> PayloadColumns:
        """Rows in which every value is missing."""
        return cls.from_dict(fields, None, n_rows)

    @classmethod
    def from_dict(
        cls, fields: Fields, payload: Mapping[str, Sequence[Any]] | None, n_rows: int
    ) -> PayloadColumns:
        """Columns from one sequence a field, checked against the schema.

        Parameters
        ----------
        fields
            The schema: a type for each name.
        payload
            n values for each field; None is a missing value, a field left out is missing in
            all rows. Lists, or numpy arrays of the field's type.
        n_rows
            n.

        Raises
        ------
        InputError
            For a field that the schema does not have, another number of values than n, or a
            value of another type: a bool is no int, 3.0 is no int, NaN and infinity are no float
            (a missing value is None). An int is taken for a float.
        """
        check_fields(fields)
        payload = payload or {}
        unknown = sorted(set(payload) - set(fields))
        if unknown:
            raise InputError(
                f"payload field {unknown[0]!r} is not in the schema, which has "
                f"{list(fields) or 'no fields'}"
            )
        columns = {}
        for name, kind in fields.items():
            if name not in payload:
                columns[name] = _missing(kind, n_rows)
                continue
            given = payload[name]
            listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes)
            require(listed, f"values of field {name!r}", given, "must be a list or an array")
            length = len(given)
            limit = f"must be {n_rows}, one value a row (None where it is missing)"
            require(length == n_rows, f"values of field {name!r}", length, limit)
            columns[name] = _column(name, kind, given)
        return cls(columns, n_rows)

    def row(self, row: int) -> dict[str, Value]:
        """The values of one row, without the missing ones."""
        found = {name: column.value(row) for name, column in self.columns.items()}
        return {name: value for name, value in found.items() if value is not None}

    def take(self, rows: NDArray[Any] | slice) -> PayloadColumns:
        """These rows, in this order (int rows, a bool mask of length n, or a slice)."""
        columns = {
            name: Column(each.type, each.values[rows], each.valid[rows], each.words)
            for name, each in self.columns.items()
        }
        if isinstance(rows, slice):
            count = len(range(*rows.indices(self.n_rows)))
        else:
            count = int(rows.sum()) if rows.dtype == np.bool_ else len(rows)
        return PayloadColumns(columns, count)

    @classmethod
    def concat(cls, parts: Sequence[PayloadColumns]) -> PayloadColumns:
        """The rows of all parts, one after another; keyword dictionaries are merged.

        Words that no row uses (any more) are dropped, also from a single part.

        Raises
        ------
        InputError
            For no parts, or parts with different fields.
        """
        require(len(parts) > 0, "parts", len(parts), "must be at least one")
        fields = parts[0].fields
        for part in parts[1:]:
            require(part.fields == fields, "fields", part.fields, f"must be {fields} in all parts")
        columns = {name: _join([part.columns[name] for part in parts]) for name in fields}
        return cls(columns, sum(len(part) for part in parts))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one .npy file an array and a manifest with checksums into a new folder; fsync.

        The caller writes it beside and renames, as the collection does with a whole segment.
        """
        place = Path(folder)
        place.mkdir(parents=True)
        described = []
        for number, (name, column) in enumerate(self.columns.items()):
            arrays = {"values": column.values, "valid": column.valid}
            if column.words is not None:
                arrays |= {"text": column.words.text, "offsets": column.words.offsets}
            files = {
                key: _save_array(place / f"{number}-{key}.npy", array)
                for key, array in arrays.items()
            }
            described.append({"name": name, "type": column.type, "files": files})
        text = json.dumps({"schema": SCHEMA, "n_rows": self.n_rows, "fields": described}, indent=2)
        _write(place / MANIFEST, lambda stream: stream.write(text.encode()))
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, mmap: bool = True, verify: bool = True
    ) -> PayloadColumns:
        """Open columns that :meth:`save` wrote.

        Parameters
        ----------
        folder
            Of the columns.
        mmap
            Map the arrays, read-only, in place of reading them.
        verify
            Compare checksums, which reads every byte once; sizes are compared anyway.

        Raises
        ------
        RunError
            For a file that is missing, cut short or changed; names it.
        """
        place = Path(folder)
        described = _read_manifest(place / MANIFEST)
        n_rows = int(described["n_rows"])
        columns = {}
        for number, each in enumerate(described["fields"]):
            arrays = {
                key: _load_array(place / f"{number}-{key}.npy", expected, mmap, verify)
                for key, expected in each["files"].items()
            }
            words = Dictionary(arrays["text"], arrays["offsets"]) if "text" in arrays else None
            columns[each["name"]] = Column(each["type"], arrays["values"], arrays["valid"], words)
        return cls(columns, n_rows)


def check_fields(fields: Fields) -> None:
    """Check a schema.

    Raises
    ------
    InputError
        For a name that is no text or empty, or a type that does not exist.
    """
    for name, kind in fields.items():
        require(isinstance(name, str) and bool(name), "field name", name, "must be a text")
        limit = f"must be one of {list(get_args(FieldType))}"
        require(kind in get_args(FieldType), f"type of field {name!r}", kind, limit)


def _missing(kind: FieldType, n_rows: int) -> Column:
    words = Dictionary.of([]) if kind == "keyword" else None
    return Column(kind, np.zeros(n_rows, DTYPES[kind]), np.zeros(n_rows, np.bool_), words)


def _column(name: str, kind: FieldType, given: Sequence[Any]) -> Column:
    values: Any = given
    if isinstance(given, np.ndarray) and given.dtype != np.object_:
        limit = f"must be [{len(given)}] of type {kind}"
        right = given.ndim == 1 and given.dtype.kind in NUMPY_KINDS[kind]
        require(right, f"array of field {name!r}", f"{given.dtype}{list(given.shape)}", limit)
        valid = np.ones(len(given), np.bool_)
        if kind == "int" and given.dtype.kind == "u" and len(given):
            largest = int(given.max())
            require(largest < 2**63, f"field {name!r}", largest, "must fit into int64")
        if kind == "keyword":
            values = given.tolist()
    else:
        valid = _check_types(name, kind, given)
        if kind != "keyword":
            values = [0 if value is None else value for value in given]
    if kind == "keyword":
        codes, words = Dictionary.encode(name, values)
        return Column(kind, codes, valid, words)
    try:
        if isinstance(values, list):
            values = list(map(PLAIN_TYPES[kind], values))
        array = np.array(values, dtype=DTYPES[kind])
    except OverflowError as error:
        raise InputError(f"field {name!r}: a value does not fit into 64 bits ({error})") from error
    if kind == "float" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(
            f"field {name!r}, row {row} is {array[row]}; a float must be finite, and a missing "
            "value is None"
        )
    return Column(kind, array, valid)


def _check_types(name: str, kind: FieldType, values: Sequence[Any]) -> NDArray[np.bool_]:
    """Where values are, having compared the type of each one with the field's."""
    wanted = PYTHON_TYPES[kind]
    for found in set(map(type, values)) - {type(None), *wanted}:
        is_numpy = issubclass(found, np.generic) and np.dtype(found).kind in NUMPY_KINDS[kind]
        if not is_numpy and not (issubclass(found, wanted) and found is not bool):
            row = next(i for i, value in enumerate(values) if type(value) is found)
            raise InputError(
                f"field {name!r}, row {row} is {values[row]!r} ({found.__name__}); the field is "
                f"of type {kind}"
            )
    return np.fromiter((value is not None for value in values), np.bool_, len(values))


def _join(columns: list[Column]) -> Column:
    valid = np.concatenate([column.valid for column in columns])
    if columns[0].type != "keyword":
        return Column(columns[0].type, np.concatenate([each.values for each in columns]), valid)
    words, tables = Dictionary.merge([each.words for each in columns if each.words is not None])
    codes = np.concatenate(
        [table[each.values] if len(table) else each.values for table, each in zip(tables, columns)]
    )
    used = np.flatnonzero(np.bincount(codes[valid], minlength=len(words)))
    if len(used) < len(words):
        words = words.take(used)
        codes = np.where(valid, np.searchsorted(used, codes), 0).astype(np.int32)
    return Column("keyword", codes, valid, words)


def _save_array(path: Path, array: NDArray[Any]) -> dict[str, int]:
    array = np.ascontiguousarray(array)
    _write(path, lambda stream: np.save(stream, array, allow_pickle=False))
    crc = zlib.crc32(array.view(np.uint8).data) if array.size else 0
    return {"size": path.stat().st_size, "crc32": crc}


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    with path.open("xb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def _load_array(path: Path, expected: dict[str, int], mmap: bool, verify: bool) -> NDArray[Any]:
    if not path.is_file():
        raise RunError(f"{path} is missing, though {MANIFEST} names it; restore the snapshot")
    size = path.stat().st_size
    if size != expected["size"]:
        raise RunError(
            f"{path} has {size} bytes, expected {expected['size']}; restore the snapshot"
        )
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except ValueError as error:
        raise RunError(f"{path} is no array ({error}); restore the snapshot") from error
    crc = zlib.crc32(array.view(np.uint8).data) if verify and array.size else expected["crc32"]
    if crc != expected["crc32"]:
        raise RunError(f"{path}: the checksum does not match; restore the snapshot")
    return array


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; restore the snapshot") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); restore the snapshot") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema!r}, this code reads {SCHEMA}")
    return dict(found)
