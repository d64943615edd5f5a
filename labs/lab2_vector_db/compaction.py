"""Compaction: segments become one, tombstones go, and drifted quantizers are trained again.

A new segment is written beside the old ones and takes their place in the next manifest; until
then, and after a crash, nothing has happened. Writers go on meanwhile: what they bury in the old
segments is buried in the new one when it takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db import tombstones
from labs.lab2_vector_db.drift import SAMPLE_ROWS, Drift
from labs.lab2_vector_db.manifest import Options, Schema, SegmentEntry
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.segment_index import (
    Stopped,
    drift_of,
    index_builder,
    least_rows,
)
from labs.lab2_vector_db.segments import Segment, write_segment
from labs.lab2_vector_db.snapshot import LiveSegment

SLICE_ROWS = 65_536
NEW_SHARE = 0.05  # of a segment's rows: fewer drifted ones are not worth training for
Retrain = Literal["auto"] | bool


@dataclass(frozen=True)
class Plan:
    """What a compaction merges, and why."""

    sources: tuple[LiveSegment, ...]
    reason: str


def choose(segments: Sequence[LiveSegment], schema: Schema, options: Options) -> Plan | None:
    """What should be compacted now, if anything.

    In this order: a segment with too many tombstones, alone (its dead rows cost memory and every
    search skips over them); rows without an index, when there are enough for one; the smallest
    segments, when there are too many, down to half the limit, so that a row is rewritten about
    log(n) times and not at each flush (size-tiered compaction).
    """
    for live in segments:
        if live.dead_share >= options.max_tombstone_share:
            return Plan((live,), f"{live.dead_share:.0%} of {live.segment.name} is dead")
    plain = tuple(live for live in segments if live.segment.index is None)
    rows = sum(live.n_alive for live in plain)
    if rows and rows >= rows_for_index(segments, schema, options):
        return Plan(plain, f"{rows} rows have no index")
    if len(segments) > options.max_segments:
        smallest = sorted(segments, key=lambda live: live.n_alive)
        chosen = smallest[: len(segments) - options.max_segments // 2]
        in_order = tuple(live for live in segments if live in chosen)
        return Plan(in_order, f"{len(segments)} segments")
    return None


def choose_all(
    segments: Sequence[LiveSegment], schema: Schema, options: Options, retrain: Retrain
) -> Plan | None:
    """All segments; None when they are one already that a compaction would only copy."""
    if not segments:
        return None
    changes = len(segments) > 1 or retrain is True or segments[0].n_alive < len(segments[0].segment)
    plain = segments[0].segment.index is None
    if changes or (plain and len(segments[0].segment) >= rows_for_index(segments, schema, options)):
        return Plan(tuple(segments), "asked for")
    return None


def rows_for_index(segments: Sequence[LiveSegment], schema: Schema, options: Options) -> float:
    """Rows from which a new segment gets an index; infinite without a recipe."""
    recipe = schema.index_recipe
    if recipe is None:
        return math.inf
    trained = any(live.segment.index is not None for live in segments)
    return max(1, options.index_rows, 0 if trained else least_rows(recipe))


def donor_for(segments: Sequence[LiveSegment]) -> Segment | None:
    """The largest segment with an index: its quantizers have seen the most."""
    indexed = [live.segment for live in segments if live.segment.index is not None]
    return max(indexed, key=len, default=None)


def needs_training(
    sources: Sequence[LiveSegment], donor: Segment | None, schema: Schema, retrain: Retrain
) -> tuple[bool, Drift | None]:
    """Whether to train anew, and the drift that says so.

    New vectors are those in sources without an index: the others were compared when they got
    theirs. They count when they are 5 % of the rows or more. Without rows enough to train on, the
    donor's quantizers stay.
    """
    rows = sum(live.n_alive for live in sources)
    recipe = schema.index_recipe
    if donor is None or recipe is None:
        return True, None
    if retrain is False or rows < least_rows(recipe):
        return False, None
    if retrain is True:
        return True, None
    new = [live for live in sources if live.segment.index is None]
    if sum(live.n_alive for live in new) < NEW_SHARE * rows:
        return False, None
    step = -(-rows // SAMPLE_ROWS)
    sample = [live.segment.vectors[live.living_rows()[::step]] for live in new]
    drift = drift_of(donor, np.concatenate(sample)) if sample else None
    return bool(drift and drift.retrain), drift


def merge(
    root: Path,
    name: str,
    sources: Sequence[LiveSegment],
    schema: Schema,
    options: Options,
    *,
    donor: Segment | None,
    stop: Callable[[], bool] = lambda: False,
) -> SegmentEntry | None:
    """Write the living rows of the sources into one new segment; None when there are none.

    Raises
    ------
    RunError
        When there is no room; nothing is left behind.
    Stopped
        When ``stop()`` says so.
    """
    rows = [live.living_rows() for live in sources]
    if not sum(map(len, rows)):
        return None
    ids = np.concatenate([live.segment.ids[each] for live, each in zip(sources, rows)])
    payload = PayloadColumns.concat(
        [live.segment.columns.take(each) for live, each in zip(sources, rows)]
    )

    def vectors() -> Iterator[NDArray[np.float32]]:
        for live, each in zip(sources, rows):
            for start in range(0, len(each), SLICE_ROWS):
                if stop():
                    raise Stopped
                yield live.segment.vectors[each[start : start + SLICE_ROWS]]

    build = index_builder(schema, options, donor, stop=stop)
    return write_segment(root, name, vectors(), ids, payload, build=build)


def carry_tombstones(
    before: Sequence[LiveSegment], now: Sequence[LiveSegment], merged: Segment
) -> LiveSegment:
    """The merged segment without the rows that died in its sources while it was written."""
    fresh = LiveSegment.whole(merged)
    for old, new in zip(before, now):
        died = tombstones.rows_of(old.alive & ~new.alive, len(old.segment))
        fresh = fresh.bury(merged.rows_of(old.segment.ids[died]))
    return fresh
