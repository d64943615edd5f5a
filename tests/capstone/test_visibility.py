"""The late filter and what fills its holes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.catalogue import Catalogue
from capstone.visibility import backfill, visible


@pytest.fixture
def catalogue() -> Catalogue:
    """Five items, number 4 withdrawn."""
    shown = np.array([False, True, True, True, False, True])
    nothing = np.zeros(6, dtype=np.int64)
    return Catalogue(tuple("-abcde"), ((),) * 6, nothing, nothing, shown)


def test_withdrawn_hidden_seen_and_unknown_items_may_not_be_shown(catalogue: Catalogue) -> None:
    """Each for a reason of its own; an id that is not in the catalogue is not looked up."""
    ids = np.array([1, 2, 3, 4, 5, 0, -1, 6, 10**9])
    found = visible(ids, catalogue, hidden={2}, seen=[3])
    assert found.tolist() == [True, False, False, False, True, False, False, False, False]
    assert visible(ids, catalogue).sum() == 4


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 99))
def test_the_next_best_fill_exactly_the_holes(allowed: list[bool], k: int, seed: int) -> None:
    """Nothing barred is shown, the order stays, only who was not among the first k is marked."""
    order = np.random.default_rng(seed).permutation(len(allowed))
    rows, filled = backfill(order, np.array(allowed), k)
    assert rows.tolist() == [row for row in order if allowed[row]]
    first = set(order[:k].tolist())
    assert filled.tolist() == [
        place < k and row not in first for place, row in enumerate(rows.tolist())
    ]
