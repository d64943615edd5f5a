"""How large a gap chance gives between groups that do not differ, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from common.errors import require
from labs.lab3_fairness.cell_bootstrap import Cells, gap_null_from_counts
from labs.lab3_fairness.resampling import GapNull
from labs.lab3_fairness.row_metrics import selection_rate


@dataclass(frozen=True)
class FairGap:
    """What the largest difference and the four-fifths rule make of groups that do not differ."""

    n_groups: int
    size: int
    rate: float
    expected_gap: float
    four_fifths_fails: float


def fair_gap(n_groups: int, size: int, rate: float) -> FairGap:
    """E[max - min], and P(min < 0.8 max), over groups of one size and one true rate, exactly.

    The selected of each group are Binomial(size, rate), independent, so that
    ``P(min >= a, max <= b) = (F(b) - F(a - 1))^g``.

    Raises
    ------
    InputError
        For fewer than two groups, a size below 1, or a rate outside 0 to 1.

    References
    ----------
    David and Nagaraja: Order Statistics, 2003, section 2.3 (the range).
    """
    require(n_groups >= 2, "n_groups", n_groups, "must be >= 2")
    require(size >= 1, "size", size, "must be >= 1")
    require(0 < rate < 1, "rate", rate, "must be between 0 and 1")
    below = np.concatenate([[0.0], binom.cdf(np.arange(size + 1), size, rate)])
    # E[max] and E[min] as sums of their tail probabilities.
    largest = np.sum(1 - below[1:-1] ** n_groups)
    smallest = np.sum((1 - below[1:-1]) ** n_groups)
    # The rule holds with maximum b when all are in ceil(0.8 b) .. b and one of them is b.
    top = np.arange(size + 1)
    bottom = -(-4 * top // 5)
    all_in = (below[top + 1] - below[bottom]) ** n_groups
    without_b = np.where(bottom < top, below[top] - below[np.minimum(bottom, top)], 0.0) ** n_groups
    holds = float(np.sum(all_in - without_b))
    return FairGap(n_groups, size, rate, float(largest - smallest) / size, 1 - holds)


def fair_gaps(
    n_groups: Sequence[int] = (2, 4, 8, 16),
    sizes: Sequence[int] = (10, 20, 50, 100, 200, 500, 1000, 2000),
    rate: float = 0.3,
) -> tuple[FairGap, ...]:
    """:func:`fair_gap` of every number and size of groups."""
    return tuple(fair_gap(g, size, rate) for g in n_groups for size in sizes)


def null_of_fair_data(
    n_groups: int, size: int, rate: float, *, n_permutations: int = 999, seed: int = 0
) -> GapNull:
    """One data set whose groups do not differ, with the permutation null of its gap.

    The null knows neither the rate nor that the data is fair, and its mean is near
    ``fair_gap(...).expected_gap``.
    """
    rng = np.random.default_rng(seed)
    hits = rng.binomial(size, rate, size=n_groups)
    no_one = np.zeros(2, dtype=np.int64)
    cells = Cells(no_one, np.array([0, 1]), np.stack([size - hits, hits], axis=1))
    return gap_null_from_counts(cells, selection_rate, n_permutations=n_permutations, seed=rng)
