"""Search for the slices on which a model does worst: conjunctions of up to three conditions.

A slice is "education = Masters and 35 < age <= 47". All slices of the same columns are the cells
of one contingency table, so counting them is one ``bincount``; thousands of slices take
milliseconds. Which of them mean anything is the business of ``slice_confirmation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from common.errors import InputError, require
from labs.lab3_fairness.slice_inputs import Floats, Ints, Literals, Mask, RowLoss

Sums = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class SliceTable:
    """Every slice of enough rows, with its loss against everybody else's.

    Attributes
    ----------
    literals : Literals
    loss : RowLoss
    keys : int64 array of shape [m, max_literals, 2]
        (column, code) of each literal, columns increasing; (-1, -1) where there are fewer.
    n : int64 array of shape [m]
        Rows of the slice that count.
    total, square : float64 arrays of shape [m]
        Sum, and sum of squares, of the loss inside; a loss that is not 0 or 1 is centred first,
        so that a large mean does not swallow the variance.
    mean, rest : float64 arrays of shape [m]
        Mean loss inside and outside.
    p_value : float64 array of shape [m]
        One-sided: is the loss inside larger?
    """

    literals: Literals
    loss: RowLoss
    keys: Ints
    n: Ints
    total: Floats
    square: Floats
    mean: Floats
    rest: Floats
    p_value: Floats

    def __len__(self) -> int:
        return len(self.n)

    @property
    def effect(self) -> Floats:
        """Mean inside minus mean outside, of shape [m]."""
        return self.mean - self.rest

    def text(self, number: int) -> str:
        """The slice in words."""
        names = self.literals.names
        return " and ".join(names[c][v] for c, v in self.keys[number] if c >= 0)

    def rows(self, number: int) -> Mask:
        """The rows of the slice, those included that do not count; of shape [n]."""
        return slice_rows(self.literals, self.keys[number])


def slice_rows(literals: Literals, key: Ints) -> Mask:
    """Which rows satisfy every literal of a [k, 2] key; a literal (-1, -1) asks for nothing."""
    chosen = np.ones(len(literals), dtype=bool)
    for column, code in key:
        if column >= 0:
            chosen &= literals.codes[:, column] == code
    return chosen


def search_slices(
    literals: Literals, loss: RowLoss, *, max_literals: int = 2, min_rows: int = 50
) -> SliceTable:
    """Count every conjunction of up to ``max_literals`` literals, and test it against the rest.

    Level by level, as apriori and SliceLine do: columns are combined only if each smaller
    combination of them had a slice with enough rows, since a slice never has more rows than its
    parents. Support does not look at the loss. SliceLine's second pruning, by a bound on the
    score that a child could reach, does, and is left out on purpose: a slice pruned for its loss
    was looked at, and must be counted among the tests.

    Parameters
    ----------
    literals, loss
        Of the same n rows.
    max_literals
        1 to 3.
    min_rows
        Least number of counted rows inside a slice, and outside.

    Returns
    -------
    SliceTable
        Shorter slices first. It may be empty.

    Raises
    ------
    InputError
        For lengths that differ or a limit out of range.

    References
    ----------
    Sagadeeva and Boehm: SliceLine, SIGMOD 2021 (level-wise enumeration).
    Pastor, de Alfaro, Baralis: Looking for Trouble (DivExplorer), SIGMOD 2021.
    """
    require(1 <= max_literals <= 3, "max_literals", max_literals, "must be 1, 2 or 3")
    require(min_rows >= 2, "min_rows", min_rows, "must be >= 2", "try 50")
    if len(literals) != len(loss.values):
        raise InputError(f"{len(literals)} rows of features, {len(loss.values)} of loss; align")
    codes, values = literals.codes[loss.counted], loss.values[loss.counted]
    n_rows = len(values)
    centre = 0.0 if loss.binary or not n_rows else float(values.mean())
    values = values - centre
    squares = values * values
    sizes = [len(names) for names in literals.names]
    supported: set[tuple[int, ...]] = {()}
    keys: list[Ints] = []
    counts: list[Ints] = []
    totals: list[Floats] = []
    powers: list[Floats] = []
    for level in range(1, max_literals + 1):
        alive: set[tuple[int, ...]] = set()
        for chosen in combinations(range(len(sizes)), level):
            if not all(parent in supported for parent in combinations(chosen, level - 1)):
                continue
            shape = tuple(sizes[column] for column in chosen)
            cell = np.ravel_multi_index(tuple(codes[:, column] for column in chosen), shape)
            n = np.bincount(cell, minlength=int(np.prod(shape)))
            enough = np.flatnonzero(n >= min_rows)
            if not len(enough):
                continue
            alive.add(chosen)
            enough = enough[n[enough] <= n_rows - min_rows]
            key = np.full((len(enough), max_literals, 2), -1, dtype=np.int64)
            key[:, :level, 0] = chosen
            key[:, :level, 1] = np.stack(np.unravel_index(enough, shape), axis=1)
            keys.append(key)
            counts.append(n[enough])
            for sums, weights in ((totals, values), (powers, squares)):
                added = np.bincount(cell, weights=weights, minlength=len(n))[enough]
                sums.append(np.asarray(added, dtype=np.float64))
        supported = alive
    none = np.empty(0)
    n_all = np.concatenate([none.astype(np.int64), *counts])
    total, square = np.concatenate([none, *totals]), np.concatenate([none, *powers])
    inside = (n_all.astype(np.float64), total, square)
    outside = (n_rows - inside[0], values.sum() - total, squares.sum() - square)
    p_value = larger_mean_p(inside, outside, binary=loss.binary)
    return SliceTable(
        literals,
        loss,
        np.concatenate([np.empty((0, max_literals, 2), np.int64), *keys]),
        n_all,
        total,
        square,
        total / inside[0] + centre,
        outside[1] / outside[0] + centre,
        p_value,
    )


def larger_mean_p(inside: Sums, outside: Sums, *, binary: bool) -> Floats:
    """One-sided p-values for "the mean inside is larger", from counts, sums and sums of squares.

    For losses of 0 and 1 the exact hypergeometric test (Fisher's): given the number of errors,
    the probability that a random set of as many rows holds at least as many of them. Otherwise
    Welch's t-test, which lets the two variances differ.

    Parameters
    ----------
    inside, outside : (n, sum, sum of squares)
        float64 arrays of one shape [m]; at least 2 rows each for Welch's test, else p is 1.
    binary
        Whether the losses are 0 and 1.

    References
    ----------
    Welch: The Generalization of "Student's" Problem, Biometrika 1947.
    """
    (n_in, sum_in, square_in), (n_out, sum_out, square_out) = inside, outside
    if binary:
        errors, n = np.rint(sum_in), n_in + n_out
        wrong = np.rint(sum_in + sum_out)
        return np.clip(stats.hypergeom.sf(errors - 1, n, wrong, n_in), 0.0, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_in / n_in - sum_out / n_out
        part_in = np.maximum(square_in - sum_in**2 / n_in, 0) / (n_in - 1) / n_in
        part_out = np.maximum(square_out - sum_out**2 / n_out, 0) / (n_out - 1) / n_out
        spread = part_in + part_out
        freedom = spread**2 / (part_in**2 / (n_in - 1) + part_out**2 / (n_out - 1))
        p_value = stats.t.sf(gap / np.sqrt(spread), freedom)
    return np.where(np.isnan(p_value), 1.0, p_value)


def sliceline_score(table: SliceTable, *, alpha: float = 0.95) -> Floats:
    """SliceLine's ranking: relative error weighed against relative size; above 0 is interesting.

    ``alpha (mean / overall mean - 1) - (1 - alpha) (n / n_slice - 1)``. It ranks and knows no
    chance: under pure noise some slices score above 0.

    Parameters
    ----------
    table : SliceTable of m slices
    alpha
        0 to 1; near 1 prefers a large error to a large slice.

    Returns
    -------
    float64 array of shape [m]

    References
    ----------
    Sagadeeva and Boehm: SliceLine, SIGMOD 2021 (the scoring function).
    """
    require(0 < alpha <= 1, "alpha", alpha, "must be above 0 and at most 1", "try 0.95")
    values = table.loss.values[table.loss.counted]
    overall = float(values.mean())
    require(overall > 0, "mean loss", overall, "must be > 0", "take a loss that is never negative")
    return alpha * (table.mean / overall - 1) - (1 - alpha) * (len(values) / table.n - 1)
