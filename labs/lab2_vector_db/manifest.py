"""The manifest: which files are the collection, and up to where the log is in them.

It is replaced atomically, and it is the only thing that changes a collection's files: a segment
counts from the moment a manifest names it, and until the next one does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.durable import FileEntry, disk_errors, write_beside
from labs.lab2_vector_db.index_building import new_index
from labs.lab2_vector_db.index_types import (
    SQ,
    Exact,
    Flat,
    Metric,
    Recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from labs.lab2_vector_db.payload import Fields, check_fields

MANIFEST = "manifest.json"
FORMAT = 1
METRICS = ("l2", "inner_product", "cosine")
CollectionMetric = Literal["l2", "inner_product", "cosine"]


@dataclass(frozen=True)
class Schema:
    """What every row of a collection has.

    Parameters
    ----------
    dimension
        Components of a vector.
    metric
        ``"l2"`` (squared distances, smaller is nearer), ``"inner_product"``, or ``"cosine"``
        (vectors and queries are scaled to length 1, and stored so; a zero vector is refused).
    fields
        Typed payload fields by name: int, float, keyword or bool. A row may lack any of them.
    recipe
        The index of a large segment; its metric is taken from the schema. None: every search
        compares with all vectors, which is exact.
    """

    dimension: int
    metric: CollectionMetric = "l2"
    fields: Fields = field(default_factory=dict)
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        require(self.dimension >= 1, "dimension", self.dimension, "must be >= 1")
        require(self.metric in METRICS, "metric", self.metric, f"must be one of {METRICS}")
        require(isinstance(self.fields, Mapping), "fields", self.fields, "must be {name: type}")
        check_fields(self.fields)

        recipe = self.index_recipe
        if recipe is not None:
            new_index(self.dimension, recipe)  # refuses what faiss cannot build
            require(
                not isinstance(recipe.structure, Flat) or isinstance(recipe.code, Exact | SQ),
                "recipe",
                recipe.factory,
                "must be able to skip rows: faiss takes no selector for flat PQ or RaBitQ codes",
                "use IVF or HNSW",
            )

    @property
    def index_recipe(self) -> Recipe | None:
        """The recipe with the metric by which the stored vectors are compared."""
        metric: Metric = "l2" if self.metric == "l2" else "inner_product"
        return None if self.recipe is None else replace(self.recipe, metric=metric)

    @property
    def larger_is_better(self) -> bool:
        """Whether the best score is the largest."""
        return self.metric != "l2"


@dataclass(frozen=True)
class Options:
    """How a collection is kept; stored in the manifest.

    Parameters
    ----------
    flush_rows
        Rows in memory at which the next write flushes them to a segment first.
    index_rows
        Rows from which a segment gets an index; smaller ones are searched exactly.
    max_tombstone_share
        Share of deleted and superseded rows at which a segment is compacted.
    max_segments
        Segments above which the smallest are merged.
    auto_compact
        Compact in a background thread when one of the two limits is passed.
    sync
        False: a write does not wait for the disk (it survives the process, not the machine).
    seed
        Of the k-means runs.
    """

    flush_rows: int = 50_000
    index_rows: int = 20_000
    max_tombstone_share: float = 0.2
    max_segments: int = 8
    auto_compact: bool = True
    sync: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.flush_rows >= 1, "flush_rows", self.flush_rows, "must be >= 1")
        require(self.index_rows >= 0, "index_rows", self.index_rows, "must be >= 0")
        share = self.max_tombstone_share
        require(0 < share <= 1, "max_tombstone_share", share, "must be above 0, at most 1")
        require(self.max_segments >= 1, "max_segments", self.max_segments, "must be >= 1")


def options_from(given: Mapping[str, Any]) -> Options:
    """Options by name.

    Raises
    ------
    InputError
        For a name that is none of them, or a value out of range.
    """
    unknown = sorted(set(given) - set(Options.__dataclass_fields__))
    if unknown:
        known = ", ".join(Options.__dataclass_fields__)
        raise InputError(f"option {', '.join(unknown)} is unknown; use {known}")
    return Options(**given)


@dataclass(frozen=True)
class Tombstones:
    """The file that says which rows of a segment are dead, and how many are."""

    file: str
    entry: FileEntry
    dead: int


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest names it.

    ``files`` are relative to the segment's folder and never change; tombstones are in a file of
    their own, which each manifest that needs to replaces. ``profile`` is what :mod:`drift`
    compares; ``trained`` says whether this segment's index was trained on its own rows.
    ``source`` identifies the input of a bulk load.
    """

    name: str
    rows: int
    files: dict[str, FileEntry]
    tombstones: Tombstones | None = None
    trained: bool = False
    profile: dict[str, float] | None = None
    source: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A collection's committed state. ``lsn``: the last write that the segments contain."""

    schema: Schema
    options: Options
    generation: int = 0
    lsn: int = 0
    next_segment: int = 0
    segments: tuple[SegmentEntry, ...] = ()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically. The caller syncs the folder.

    Raises
    ------
    RunError
        When there is no room; the earlier manifest stays.
    """
    body = asdict(manifest)
    recipe = manifest.schema.recipe
    body["schema"]["recipe"] = None if recipe is None else recipe_to_dict(recipe)
    body["schema"]["fields"] = dict(manifest.schema.fields)
    text = json.dumps(body, indent=1, sort_keys=True)
    content = json.dumps({"format": FORMAT, "sha256": _digest(text), "body": body}, indent=1)
    with disk_errors("writing", folder / MANIFEST):
        write_beside(folder / MANIFEST, content.encode())


def read_manifest(folder: Path) -> Manifest:
    """Read a collection's manifest.

    Raises
    ------
    InputError
        When the folder has none.
    RunError
        When it is damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} holds no collection (no {MANIFEST}); make one with Collection.create"
        ) from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged ({error}); restore a copy of it") from error
    try:
        outer = json.loads(text)
        found = outer["format"]
        if found != FORMAT:
            raise RunError(f"{path} has format {found}, this code reads {FORMAT}")
        body, digest = outer["body"], outer["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}); restore a copy of it") from error
    if _digest(json.dumps(body, indent=1, sort_keys=True)) != digest:
        raise RunError(f"{path} is damaged: its checksum does not match; restore a copy of it")
    return _from_json(body)


def _from_json(body: dict[str, Any]) -> Manifest:
    schema = body["schema"]
    recipe = schema["recipe"]
    schema = Schema(**{**schema, "recipe": None if recipe is None else recipe_from_dict(recipe)})
    segments = tuple(
        SegmentEntry(
            **{
                **entry,
                "files": {name: FileEntry(**file) for name, file in entry["files"].items()},
                "tombstones": entry["tombstones"]
                and Tombstones(
                    **{**entry["tombstones"], "entry": FileEntry(**entry["tombstones"]["entry"])}
                ),
            }
        )
        for entry in body["segments"]
    )
    options = Options(**body["options"])
    return Manifest(**{**body, "schema": schema, "options": options, "segments": segments})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
