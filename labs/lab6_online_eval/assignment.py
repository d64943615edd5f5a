"""Who sees what: deterministic assignment of units to arms by hashing.

No table of users is kept. The arm is a function of the experiment's name and the unit's id, so
every server, in every language, today and next week, gives the same answer.

The hash is GrowthBook's version 2 (its SDK specification), so assignments agree with that engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise

FNV_OFFSET = 0x811C9DC5
FNV_PRIME = 0x01000193
BUCKETS = 10_000
WEIGHT_TOLERANCE = 1e-6
NOT_IN_EXPERIMENT = -1


def fnv32a(text: str) -> int:
    """FNV-1a hash of a string, 32 bits: for each character, exclusive-or, then multiply.

    Returns
    -------
    int
        In [0, 2**32).

    Notes
    -----
    Fowler, Noll & Vo; draft-eastlake-fnv. Characters are Unicode code points, as in GrowthBook's
    Python SDK.
    """
    state = FNV_OFFSET
    for character in text:
        state = ((state ^ ord(character)) * FNV_PRIME) & 0xFFFFFFFF
    return state


@exercise(
    "6.1",
    points=5,
    title="Assign a unit to an arm by hashing",
    hint="The arm must depend on the experiment's name as well as on the unit. Where does an arm's "
    "range of buckets begin while coverage is still 10 %, and where when it is 100 %?",
)
def assign(
    unit_id: str, experiment: str, weights: Sequence[float], coverage: float = 1.0
) -> int | None:
    """The arm of one unit, or None when the unit is not in the experiment.

    The unit's point is ``n = (h % 10000) / 10000`` with
    ``h = fnv32a(str(fnv32a(experiment + unit_id)))``: hashed twice, since one pass leaves the last
    characters too little time to spread. Arm i owns the points

        [ w_0 + ... + w_{i-1},  w_0 + ... + w_{i-1} + coverage * w_i )

    so raising ``coverage`` lets units in and never moves one that is in already.

    Parameters
    ----------
    unit_id
        The unit of randomisation, usually a user.
    experiment
        Name of the experiment: its seed.
    weights
        Share of each arm; they sum to 1.
    coverage
        Share of the units that enter the experiment, 0 to 1.

    Returns
    -------
    int or None
        Index into ``weights``; None outside the coverage.

    Raises
    ------
    InputError
        Negative weights, weights that do not sum to 1, a coverage outside [0, 1].

    Examples
    --------
    >>> assign("user-7", "new-ranker", [0.5, 0.5])
    1
    """
    check_shares(weights, coverage)
    # BEGIN SOLUTION
    point = fnv32a(str(fnv32a(experiment + unit_id))) % BUCKETS / BUCKETS
    start = 0.0
    for arm, weight in enumerate(weights):
        if start <= point < start + coverage * weight:
            return arm
        start += weight
    return None
    # END SOLUTION


def assign_many(
    unit_ids: Sequence[str] | NDArray[np.str_],
    experiment: str,
    weights: Sequence[float],
    coverage: float = 1.0,
) -> NDArray[np.int64]:
    """`assign` for many units at once: the same arms, about a hundred times faster.

    Returns
    -------
    int64 [n]
        The arm of each unit; -1 outside the coverage.

    Raises
    ------
    InputError
        As `assign`; also ids that are not text.
    """
    check_shares(weights, coverage)
    points = unit_points(unit_ids, experiment)
    arms = np.full(len(points), NOT_IN_EXPERIMENT, dtype=np.int64)
    start = 0.0
    for arm, weight in enumerate(weights):
        arms[(points >= start) & (points < start + coverage * weight)] = arm
        start += weight
    return arms


def unit_points(unit_ids: Sequence[str] | NDArray[np.str_], experiment: str) -> NDArray[np.float64]:
    """The point in [0, 1) of each unit under hash version 2, float64 [n]."""
    ids = np.asarray(unit_ids)
    if ids.dtype.kind != "U":
        raise InputError(f"unit ids of type {ids.dtype} must be text; convert them with str()")
    first = _fnv32a_many(ids, fnv32a(experiment))
    return _fnv32a_many(first.astype("U10"), FNV_OFFSET) % BUCKETS / BUCKETS


def unit_points_v1(
    unit_ids: Sequence[str] | NDArray[np.str_], experiment: str
) -> NDArray[np.float64]:
    """The point of each unit under hash version 1, ``fnv32a(unit + experiment) % 1000 / 1000``.

    Kept to show its fault (see `labs.lab6_online_eval.traps`): two experiments whose names differ
    in the last character do not assign independently.
    """
    ids = np.asarray(unit_ids)
    return _fnv32a_many(np.char.add(ids, experiment), FNV_OFFSET) % 1000 / 1000


def check_shares(weights: Sequence[float], coverage: float) -> None:
    """Raise `InputError` unless ``weights`` sum to 1 and ``coverage`` is a share."""
    require(len(weights) >= 1, "weights", list(weights), "must name at least one arm")
    require(min(weights) >= 0, "weights", list(weights), "must not be negative")
    total = float(sum(weights))
    require(
        abs(total - 1) <= WEIGHT_TOLERANCE,
        "weights",
        list(weights),
        f"must sum to 1, not {total:g}",
        "divide each by their sum",
    )
    require(0 <= coverage <= 1, "coverage", coverage, "must be between 0 and 1")


def _fnv32a_many(texts: NDArray[np.str_], state: int) -> NDArray[np.uint32]:
    """`fnv32a` of each text [n], continued from ``state``, one character position at a time."""
    if texts.size == 0:
        return np.zeros(0, dtype=np.uint32)
    lengths = np.char.str_len(texts)
    codes = np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), -1)
    states = np.full(len(texts), state, dtype=np.uint32)
    for position in range(codes.shape[1]):
        following = (states ^ codes[:, position]) * np.uint32(FNV_PRIME)
        states = np.where(position < lengths, following, states)
    return states
