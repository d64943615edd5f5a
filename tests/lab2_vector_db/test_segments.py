"""Tombstones, segments and the memtable: what a snapshot is made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab2_vector_db import tombstones
from labs.lab2_vector_db.filters import Eq
from labs.lab2_vector_db.manifest import Schema
from labs.lab2_vector_db.memtable import Memtable
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.segments import open_segment, write_segment

FIELDS = {"number": "int"}


def vectors_of(ids):
    """A vector that says whose it is."""
    return np.repeat(np.asarray(ids, np.float32)[:, None], 4, axis=1)


def columns(numbers):
    return PayloadColumns.from_dict(FIELDS, {"number": list(numbers)}, len(numbers))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100), st.data())
def test_a_bitmap_is_a_mask_in_an_eighth_of_the_bytes(n_rows, data):
    dead = data.draw(st.lists(st.integers(0, n_rows - 1), unique=True))
    added = data.draw(st.integers(0, 20))
    mask = np.ones(n_rows, bool)
    before = tombstones.all_alive(n_rows)
    after = tombstones.bury(before, np.array(dead, np.int64))
    mask[dead] = False
    assert (tombstones.to_mask(after, n_rows) == mask).all()
    assert tombstones.count(after) == mask.sum()
    assert tombstones.count(before) == n_rows, "a bitmap that a searcher holds was changed"
    assert tombstones.rows_of(after, n_rows).tolist() == np.flatnonzero(mask).tolist()
    rows = np.arange(-1, n_rows)
    assert tombstones.alive(after, rows).tolist() == [False, *mask.tolist()]
    longer = tombstones.extended(after, n_rows, added)
    assert tombstones.to_mask(longer, n_rows + added).tolist() == mask.tolist() + [True] * added


@pytest.mark.parametrize("in_order", [True, False])
def test_a_segment_finds_the_row_of_each_id(tmp_path, in_order):
    rng = np.random.default_rng(0)
    ids = rng.choice(10_000, 500, replace=False)
    ids = np.sort(ids) if in_order else ids
    entry = write_segment(tmp_path, "000001", [vectors_of(ids)], ids, columns(ids.tolist()))
    assert ("order.i64" in entry.files) != in_order
    segment = open_segment(tmp_path, Schema(4, "l2", FIELDS), entry)
    asked = rng.permutation(np.r_[ids[:50], 10_000:10_050, 0])
    row_of = {int(each): row for row, each in enumerate(ids)}
    assert segment.rows_of(asked).tolist() == [row_of.get(each, -1) for each in asked.tolist()]
    assert (segment.vectors == vectors_of(ids)).all()
    wanted = Eq("number", int(ids[7]))
    assert tombstones.rows_of(segment.matching(wanted), 500).tolist() == [7]
    assert segment.matching(wanted) is segment.matching(wanted), "computed again"


def test_a_segment_written_in_slices_is_one(tmp_path):
    slices = [vectors_of([1, 2]), vectors_of([3])]
    entry = write_segment(tmp_path, "000001", iter(slices), np.array([1, 2, 3]), columns([1] * 3))
    segment = open_segment(tmp_path, Schema(4, "l2", FIELDS), entry)
    assert segment.vectors[:, 0].tolist() == [1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_view_of_the_memtable_never_changes(data):
    """Appends, replacements and deletes after it was taken must not show, nor lose anything."""
    memtable, model, views = Memtable(4, FIELDS), {}, []
    for step in range(data.draw(st.integers(1, 12))):
        ids = np.array(data.draw(st.lists(st.integers(0, 9), unique=True, min_size=1)), np.int64)
        if data.draw(st.booleans()):
            memtable.append(ids, vectors_of(ids) + step * 100, columns([step] * len(ids)))
            model |= {int(each): (float(each + step * 100), step) for each in ids}
        else:
            memtable.bury(ids)
            model = {key: value for key, value in model.items() if key not in ids}
        views.append((memtable.view(), dict(model)))
    for view, expected in views:
        assert view.n_alive == len(expected)
        rows = view.living_rows()
        assert set(view.ids[rows].tolist()) == set(expected)
        asked = np.arange(10)
        found = view.rows_of(asked)
        for each, row in zip(asked.tolist(), found.tolist()):
            living = row >= 0 and bool(tombstones.alive(view.alive, np.array([row]))[0])
            assert living == (each in expected), (each, row)
            if living:
                value = float(view.vectors[row, 0])
                assert (value, view.payload(np.array([row])).row(0)["number"]) == expected[each]
        if rows.size:
            numbers = [view.payload(rows).row(n)["number"] for n in range(len(rows))]
            assert numbers == [expected[each][1] for each in view.ids[rows].tolist()]
            some = numbers[0]
            matching = tombstones.to_mask(view.matching(Eq("number", some)), len(view))[rows]
            assert matching.tolist() == [number == some for number in numbers]
