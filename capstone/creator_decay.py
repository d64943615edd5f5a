"""Creator decay: the second item of a creator counts for less, the third for less again.

Without it one prolific creator fills a feed, since what the model likes of them it likes of all
their items. X publishes a factor of .5 a repeat and a floor of .25 for its author decay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises.marker import exercise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def repeats(value: Floats, creator: Ints) -> Ints:
    """How many items of the same creator have a greater value (ties: stand earlier): [n]."""
    # By creator, and within a creator from the greatest value on; lexsort is stable.
    order = np.lexsort((-value, creator))
    grouped = creator[order]
    place = np.arange(len(order))
    first = np.empty(len(order), dtype=bool)
    first[:1] = True
    np.not_equal(grouped[1:], grouped[:-1], out=first[1:])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return found


@exercise(
    "7.9",
    points=5,
    title="Creator decay with a floor",
    hint="Which repeat an item is depends on its value's rank within its creator. What does a "
    "factor below 1 do to a value that is negative?",
)
def decay(value: Floats, creator: Ints, factor: float, floor: float) -> Floats:
    """What a repeated creator takes off each value, >= 0: [n].

    The item that is number r of its creator, counted from 0 in order of value, keeps the share
    ``floor + (1 - floor) * factor ** r``. The rest of ``|value|`` is the penalty, so that a
    negative value falls as well. Sorting by ``value - penalty`` equals picking one item after the
    other and decaying what is left of its creator: within a creator the order stays.

    ``repeats(value, creator)`` gives r; ``check_decay`` checks factor and floor.

    Parameters
    ----------
    value : [n]
        Expected value of showing each candidate.
    creator : [n]
        Number of each candidate's creator.
    factor
        Above 0, at most 1; 1 means no decay.
    floor
        0 to 1: the share that every repeat keeps at least.

    Raises
    ------
    InputError
        For a factor or a floor outside its limits.

    References
    ----------
    X: the-algorithm, home-mixer, author-based diversity of the scorer (2023, 2026).
    """
    check_decay(factor, floor)
    kept = floor + (1 - floor) * factor ** repeats(value, creator)
    return np.asarray((1 - kept) * np.abs(value))


def check_decay(factor: float, floor: float) -> None:
    """Refuse a factor or a floor outside the limits of :func:`decay`."""
    require(0 < factor <= 1, "creator factor", factor, "must be above 0, at most 1", "try 0.5")
    require(0 <= floor <= 1, "creator floor", floor, "must be 0 to 1", "try 0.25")
