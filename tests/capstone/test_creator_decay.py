"""Creator decay against the loop that it replaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import creator_decay
from common.errors import InputError


def one_after_the_other(value, creator, factor, floor):
    """Pick the best of what is left, then decay what is left of its creator."""
    left, picked, count = list(range(len(value))), [], dict.fromkeys(creator.tolist(), 0)
    while left:
        kept = [floor + (1 - floor) * factor ** count[int(creator[row])] for row in left]
        worth = [
            value[row] - (1 - share) * abs(value[row])
            for row, share in zip(left, kept, strict=True)
        ]
        best = left.pop(int(np.argmax(worth)))
        count[int(creator[best])] += 1
        picked.append(best)
    return picked


@pytest.mark.exercise("7.9")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.9]), st.sampled_from([0.0, 0.25, 1.0]))
def test_sorting_decayed_values_equals_picking_one_after_the_other(
    seed: int, factor: float, floor: float
) -> None:
    """The decay of an item depends on what was picked before it, which looks like a loop over the
    feed. Within a creator the order stays, so one sort does the same; also for negative values."""
    rng = np.random.default_rng(seed)
    value, creator = rng.normal(size=25), rng.integers(1, 5, 25)
    penalty = creator_decay.decay(value, creator, factor, floor)
    found = np.argsort(penalty - value, kind="stable").tolist()
    expected = one_after_the_other(value, creator, factor, floor)
    assert found == expected, f"order {found}, one after the other {expected}"


@pytest.mark.exercise("7.9")
def test_the_shares_kept_are_those_that_x_publishes() -> None:
    """Factor .5, floor .25: all of the first, then .625, .4375, ... and never less than .25."""
    value, creator = np.array([8.0, 8.0, 8.0, 8.0, 1.0]), np.array([3, 3, 3, 3, 4])
    kept = value - creator_decay.decay(value, creator, 0.5, 0.25)
    expected = [8.0, 8 * 0.625, 8 * 0.4375, 8 * 0.34375, 1.0]
    assert np.allclose(kept, expected), f"kept {kept.tolist()}, not {expected}"


@pytest.mark.exercise("7.9")
def test_a_negative_value_never_rises() -> None:
    """Half of -4 is -2: a decay by multiplication would *promote* what people hide."""
    value, creator = np.array([-2.0, -4.0]), np.array([1, 1])
    penalty = creator_decay.decay(value, creator, 0.5, 0.0)
    assert np.allclose(penalty, [0.0, 2.0]), f"penalties {penalty.tolist()}, not [0, 2]"


def test_repeats_are_counted_by_value_and_ties_by_row() -> None:
    """The best item of a creator is number 0, wherever it stands."""
    value, creator = np.array([1.0, 5.0, 5.0, 2.0, 3.0]), np.array([7, 7, 7, 2, 7])
    assert creator_decay.repeats(value, creator).tolist() == [3, 0, 1, 0, 2]
    assert creator_decay.repeats(np.zeros(0), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(("factor", "floor"), [(0.0, 0.2), (1.1, 0.2), (0.5, -0.1), (0.5, 1.1)])
def test_a_factor_or_a_floor_outside_its_limits_is_refused(factor: float, floor: float) -> None:
    """A factor above 1 would reward repeats."""
    with pytest.raises(InputError, match="creator"):
        creator_decay.decay(np.ones(2), np.ones(2, np.int64), factor, floor)
