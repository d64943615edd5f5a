"""What the service reads and writes as JSON. The OpenAPI document is made from these models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from labs.lab2_vector_db.request_checks import MAX_ID

MAX_ROWS = 10_000  # of one upsert or delete
MAX_QUERIES = 256  # of one search
MAX_K = 1_000

PointId = Annotated[int, Field(strict=True, ge=0, le=MAX_ID)]
Vector = list[Annotated[float, Field(strict=True)]]
Value = StrictBool | StrictInt | StrictFloat | StrictStr | None


class Model(BaseModel):
    """A field that does not exist is refused: a misspelt ``filter`` would search everything."""

    model_config = ConfigDict(extra="forbid")


class Points(Model):
    """Rows to insert, or to put in the place of those with the same ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ids": [7, 8],
                    "vectors": [[0.1, 0.9, 0.0], [0.8, 0.1, 0.3]],
                    "payload": {"price": [9.5, None], "category": ["film", "book"]},
                }
            ]
        }
    )

    ids: list[PointId] = Field(min_length=1, max_length=MAX_ROWS, description="Each once.")
    vectors: list[Vector] = Field(max_length=MAX_ROWS, description="One for each id.")
    payload: dict[str, list[Value]] | None = Field(
        default=None,
        description="A column for each field, with one value for each id; null: no value. A "
        "replaced row keeps nothing of its earlier payload.",
    )


class Ids(Model):
    """Rows to delete."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [7, 8]}]})

    ids: list[PointId] = Field(min_length=1, max_length=MAX_ROWS, description="Each once.")


class SearchParameters(Model):
    """How to search."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"k": 10}]})

    k: int = Field(default=10, strict=True, ge=1, le=MAX_K, description="Neighbours of each query.")
    filter: dict[str, Any] | None = Field(
        default=None,
        description="One of and, or (lists of filters), not (a filter); or a field with eq, in (a "
        "list), exists (true), or bounds gt, gte, lt, lte.",
    )
    nprobe: int | None = Field(
        default=None, strict=True, ge=1, description="Lists to visit; null: the recipe's number."
    )
    k_factor: float | None = Field(
        default=None, ge=1, description="Candidates to refine for each neighbour wanted."
    )
    rerank: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=10 * MAX_K,
        description="Candidates to score again with the raw vectors.",
    )
    with_payload: bool = Field(default=False, description="Return the payload of each neighbour.")


class Search(SearchParameters):
    """A batch of queries."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "queries": [[0.1, 0.8, 0.1]],
                    "k": 3,
                    "filter": {
                        "and": [
                            {"field": "category", "in": ["film", "book"]},
                            {"field": "price", "lt": 20},
                        ]
                    },
                    "with_payload": True,
                }
            ]
        }
    )

    queries: list[Vector] = Field(min_length=1, max_length=MAX_QUERIES)


class Upserted(BaseModel):
    """On disk when this is sent."""

    upserted: int


class Deleted(BaseModel):
    """On disk when this is sent; ``deleted`` counts the ids that were there."""

    deleted: int


class Point(BaseModel):
    """A stored row. Under cosine the vector has length 1; missing payload is left out."""

    id: int
    vector: list[float]
    payload: dict[str, Value]


class Neighbours(BaseModel):
    """One list a query, best first, shorter than k where fewer rows match.

    ``scores`` are squared distances, inner products or cosines, null beyond the range of float32.
    ``payloads``, when asked for, are those of now; null for a row deleted since the search.
    """

    ids: list[list[int]]
    scores: list[list[float | None]]
    payloads: list[list[dict[str, Value] | None]] | None = None


class Done(BaseModel):
    """The state after a flush or a compaction."""

    rows: int
    segments: int
    tombstone_share: float


class Health(BaseModel):
    """The process answers."""

    status: str = "alive"


class Readiness(BaseModel):
    """``writes``: "ok", or why the last one failed; searches are answered all the same."""

    status: str = "ready"
    writes: str = "ok"


class Problem(BaseModel):
    """What is wrong with the request or the service, in one sentence."""

    detail: str
