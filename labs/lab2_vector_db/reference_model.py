"""What a collection must hold after a stream of operations: the model of the crash test.

Each operation is a pure function of (seed, number), so that the process that writes and the one
that checks need not exchange vectors. The model is two arrays, its search is brute force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.filters import Range
from labs.lab2_vector_db.index_types import IVF, Recipe

Kind = Literal["upsert", "delete", "flush", "compact"]
DIMENSION, N_IDS, LARGEST_BATCH = 16, 480, 24
# Every list is visited, so that an indexed segment answers exactly too.
SCHEMA = Schema(DIMENSION, "l2", {"operation": "int"}, recipe=Recipe(IVF(2, nprobe=2)))
OPTIONS = {"flush_rows": 150, "index_rows": 80, "max_segments": 3}
KINDS: tuple[Kind, ...] = ("upsert", "delete", "flush", "compact")
MIX = (0.6, 0.22, 0.1, 0.08)


@dataclass(frozen=True)
class Operation:
    """A write, with its ids [n] and vectors [n, d]; a flush or compaction has none."""

    number: int
    kind: Kind
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


def operation(seed: int, number: int, *, writers: int = 1) -> Operation:
    """The operation of this number: the same for the writer that does it and the model.

    Operation ``number`` belongs to writer ``number % writers`` and touches its ids only
    (``id % writers``), so that concurrent writers do not depend on one another's order.
    """
    rng = np.random.default_rng([seed, number])
    kind: Kind = KINDS[rng.choice(len(KINDS), p=MIX)]
    rows = int(rng.integers(1, LARGEST_BATCH + 1)) if kind in ("upsert", "delete") else 0
    ids = rng.choice(N_IDS // writers, size=rows, replace=False) * writers + number % writers
    shape = (rows if kind == "upsert" else 0, DIMENSION)
    return Operation(number, kind, ids, rng.standard_normal(shape, dtype=np.float32))


class Model:
    """The truth: for each id the number of the operation that wrote it (-1: none) and its vector.

    The number is also stored as payload, so a read says which write it is that it sees.
    """

    def __init__(self) -> None:
        self.written_by = np.full(N_IDS, -1, np.int64)
        self.vectors = np.zeros((N_IDS, DIMENSION), np.float32)

    def apply(self, operation: Operation) -> None:
        if operation.kind == "upsert":
            self.written_by[operation.ids] = operation.number
            self.vectors[operation.ids] = operation.vectors
        elif operation.kind == "delete":
            self.written_by[operation.ids] = -1

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.written_by >= 0)


@dataclass
class Findings:
    """How a collection differs from the model; ``done`` are the in-flight operations it holds."""

    done: list[int] = field(default_factory=list)
    lost: int = 0
    phantom: int = 0
    mismatches: int = 0
    first: str = ""

    @property
    def any(self) -> bool:
        return bool(self.lost or self.phantom or self.mismatches)

    def add(self, what: Literal["lost", "phantom", "mismatches"], n: int, text: str) -> None:
        if n:
            setattr(self, what, getattr(self, what) + int(n))
            self.first = self.first or f"{text[:500]} ({n})"


def compare(collection: Collection, model: Model, in_flight: Sequence[Operation] = ()) -> Findings:
    """Compare every id, the count, filtered ids and exact search with the model.

    Parameters
    ----------
    model
        With every acknowledged operation applied. The in-flight ones that the collection holds are
        applied to it here.
    in_flight
        Operations that began and were not acknowledged, of disjoint ids.
    """
    findings = Findings()
    written_by = np.full(N_IDS, -1, np.int64)
    vectors = np.zeros_like(model.vectors)
    for row, record in enumerate(collection.get(np.arange(N_IDS))):
        if record is not None:
            written_by[row], vectors[row] = record.payload["operation"], record.vector
    undecided = np.zeros(N_IDS, bool)
    for pending in in_flight:
        ids = pending.ids
        after = pending.number if pending.kind == "upsert" else -1
        if (written_by[ids] == model.written_by[ids]).all():
            continue
        if (written_by[ids] == after).all():
            findings.done.append(pending.number)
            model.apply(pending)
            continue
        undecided[ids] = True
        findings.add("mismatches", 1, f"{pending.kind} {pending.number} is done in part")
    differs = ~undecided & (written_by != model.written_by)
    for what, wrong in (
        ("lost", differs & (written_by < model.written_by)),
        ("phantom", differs & (written_by > model.written_by)),
    ):
        first = int(np.argmax(wrong))
        text = f"id {first} is of operation {written_by[first]}, not {model.written_by[first]}"
        findings.add(what, int(wrong.sum()), f"{what}: {text}")  # type: ignore[arg-type]
    if findings.any:
        return findings
    live = model.ids
    wrong = (vectors[live] != model.vectors[live]).any(axis=1)
    findings.add("mismatches", int(wrong.sum()), f"vectors of ids {live[wrong][:5].tolist()}")
    findings.add("mismatches", len(collection) != live.size, f"len {len(collection)} {live.size}")
    _compare_searches(collection, model, findings)
    return findings


def _compare_searches(collection: Collection, model: Model, findings: Findings) -> None:
    """Filtered and unfiltered search against brute force; ties may come in any order."""
    live = model.ids
    rng = np.random.default_rng(live.size)
    queries = rng.standard_normal((6, DIMENSION), dtype=np.float32)
    queries[:3] += model.vectors[rng.integers(N_IDS, size=3)]
    least = int(np.median(model.written_by[live])) if live.size else 0
    newer = live[model.written_by[live] >= least]
    matching = np.sort(collection.matching(Range("operation", gte=least)))
    findings.add("mismatches", not np.array_equal(matching, newer), "matching ids differ")
    for allowed, chosen in ((live, None), (newer, Range("operation", gte=least))):
        k = 10
        hits = collection.search(queries, k, filter=chosen)
        exact = ((queries[:, None] - model.vectors[None]) ** 2).sum(axis=2)
        found = min(k, allowed.size)
        truth = np.sort(exact[:, allowed], axis=1)[:, :found]
        for row in range(len(queries)):
            ids = hits.ids[row]
            strange = np.setdiff1d(ids[ids >= 0], allowed)
            findings.add("phantom", strange.size, f"search returned ids {strange[:5].tolist()}")
            scores = np.sort(exact[row, ids[:found]])
            agree = np.unique(ids[:found]).size == found and (ids[found:] == -1).all()
            agree = agree and np.allclose(scores, truth[row], rtol=1e-4, atol=1e-4)
            findings.add("mismatches", not agree, f"search found {ids.tolist()}, filter {chosen}")


def perform(collection: Collection, step: Operation) -> None:
    """Do the operation on a collection."""
    if step.kind == "upsert":
        collection.upsert(step.ids, step.vectors, {"operation": [step.number] * step.ids.size})
    elif step.kind == "delete":
        collection.delete(step.ids)
    elif step.kind == "flush":
        collection.flush()
    else:
        collection.compact()
