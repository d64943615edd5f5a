"""Of many bad slices, those that say something of their own.

One bad slice makes its neighbours look bad: every narrower slice inside it, every wider one around
it, and other names for the same rows. A list of the ten worst is often one slice told ten times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labs.lab3_fairness.multiple_testing import benjamini_hochberg
from labs.lab3_fairness.slice_inputs import Floats, Ints
from labs.lab3_fairness.slices import SliceTable, Sums, larger_mean_p


def gain_over_parents_p(table: SliceTable) -> Floats:
    """For each slice the largest p-value of "worse than the rest of this parent".

    A parent has one literal less. A slice that is no worse than what its parent holds besides
    owes its effect to the parent, and repeats it in more words. Slices of one literal get 0, as
    does a slice whose parent is nearly everybody and not in the table.

    Returns
    -------
    float64 array of shape [m]
        These p-values weed, they prove nothing: they are made on the rows that chose the slice.

    References
    ----------
    Pastor, de Alfaro, Baralis: DivExplorer, SIGMOD 2021 (redundancy pruning, there by a least
    difference).
    """
    worst = np.zeros(len(table))
    if not len(table):
        return worst
    base = max(map(len, table.literals.names)) + 1
    width = len(table.literals.columns) + 1
    literal = (table.keys[..., 0] + 1) * base + table.keys[..., 1] + 1
    number = _numbered(literal, base * width)
    order = np.argsort(number)
    level = (table.keys[..., 0] >= 0).sum(axis=1)
    sums = (table.n.astype(np.float64), table.total, table.square)
    for drop in range(table.keys.shape[1]):
        child = np.flatnonzero((level > 1) & (drop < level))
        rest = np.delete(literal[child], drop, axis=1)
        wanted = _numbered(np.pad(rest, ((0, 0), (0, 1))), base * width)
        place = np.minimum(np.searchsorted(number[order], wanted), len(order) - 1)
        parent = order[place]
        there = (number[parent] == wanted) & (table.n[parent] > table.n[child])
        same = (number[parent] == wanted) & ~there  # the literal leaves the parent as it is
        worst[child[same]] = 1.0
        child, parent = child[there], parent[there]
        inside: Sums = (sums[0][child], sums[1][child], sums[2][child])
        outside: Sums = (
            sums[0][parent] - inside[0],
            sums[1][parent] - inside[1],
            sums[2][parent] - inside[2],
        )
        p_value = larger_mean_p(inside, outside, binary=table.loss.binary)
        worst[child] = np.maximum(worst[child], p_value)
    return worst


def adding_slices(table: SliceTable, candidates: Ints, *, level: float = 0.1) -> Ints:
    """The candidates that add something to each of their parents, in the order given.

    A slice really worse has dozens of children that are as bad, and by chance one in twenty of
    them looks worse than its siblings at 5 %. So the gains are corrected for one another, by
    Benjamini and Hochberg over the candidates of more than one literal.

    Parameters
    ----------
    table
    candidates : int array of shape [c]
        Numbers of slices.
    level
        Of the false discovery rate among the gains.
    """
    several = (table.keys[candidates, :, 0] >= 0).sum(axis=1) > 1
    adds = ~several
    if several.any():
        gain = gain_over_parents_p(table)[candidates[several]]
        adds[several] = benjamini_hochberg(gain) <= level
    return candidates[adds]


def _numbered(literal: Ints, base: int) -> Ints:
    """[m, k] literal numbers as one integer each; a missing literal is 0."""
    number = np.zeros(len(literal), dtype=np.int64)
    for column in range(literal.shape[1]):
        number = number * base + literal[:, column]
    return number


def distinct_slices(
    table: SliceTable, candidates: Sequence[int], *, level: float = 0.05, limit: int = 10
) -> tuple[int, ...]:
    """The first candidates, leaving out what those before them explain.

    One slice makes its neighbours look bad: other names for the same rows, and every larger slice
    that contains it. Each candidate is tested again on the rows outside those already chosen
    (its own parents excepted, to which it is an addition) and dropped if nothing is left.

    Parameters
    ----------
    table
    candidates
        Numbers of slices, best first.
    level
        Largest p-value on the rows that are left.
    limit
        How many to return at most.
    """
    values, counted = table.loss.values, table.loss.counted
    chosen: list[int] = []
    for number in candidates:
        if len(chosen) == limit:
            break
        others = [c for c in chosen if not _literals(table, c) <= _literals(table, number)]
        left = counted.copy()
        for other in others:
            left &= ~table.rows(other)
        inside = left & table.rows(number)
        sums = [_sums(values[rows]) for rows in (inside, left & ~inside)]
        if min(float(each[0][0]) for each in sums) >= 2:
            p_value = larger_mean_p(sums[0], sums[1], binary=table.loss.binary)[0]
            if p_value <= level:
                chosen.append(int(number))
    return tuple(chosen)


def _literals(table: SliceTable, number: int) -> set[tuple[int, int]]:
    return {(int(column), int(code)) for column, code in table.keys[number] if column >= 0}


def _sums(values: Floats) -> Sums:
    return np.array([len(values)], dtype=np.float64), values.sum()[None], (values**2).sum()[None]
