"""Find bad slices on one half of the data, and believe only what the other half says of them.

The search may be as greedy as it likes: its half is spent. The few slices it names are tested on
rows that had no say in choosing them, so that there the tests are few and the effects are not
the largest of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from common.errors import InputError, require
from labs.lab3_fairness.multiple_testing import benjamini_hochberg, holm
from labs.lab3_fairness.slice_inputs import Floats, Literals, Mask, RowLoss
from labs.lab3_fairness.slice_redundancy import adding_slices, distinct_slices
from labs.lab3_fairness.slices import SliceTable, larger_mean_p, search_slices, slice_rows

Interval = tuple[float, float]


@dataclass(frozen=True)
class Discovery:
    """What the first half suggests: ``found`` numbers the slices of ``table``, best first.

    ``adjusted`` holds the Benjamini-Hochberg p-value of every slice searched, ``rejected`` how
    many of them are at or below the level, before those that repeat each other were left out.
    """

    table: SliceTable
    adjusted: Floats
    found: tuple[int, ...]

    def rejected(self, fdr: float) -> int:
        """How many slices the first half alone would report."""
        return int(np.sum(self.adjusted <= fdr))


@dataclass(frozen=True)
class HeldOutSlice:
    """A slice that the first half found, on the second.

    Effects are mean loss inside minus outside; ``ci95`` belongs to the one on held-out rows, and
    is NaN with fewer than two counted rows inside or outside, where p is 1. ``p_holm`` is
    adjusted for all the slices that were found.
    """

    text: str
    n_discovery: int
    effect_discovery: float
    n: int
    mean: float
    rest: float
    effect: float
    ci95: Interval
    p_value: float
    p_holm: float
    confirmed: bool


@dataclass(frozen=True)
class SliceReport:
    """A search with confirmation: how many were tested, rejected, found, and confirmed."""

    loss: str
    n_discovery: int
    n_held_out: int
    tested: int
    rejected: int
    slices: tuple[HeldOutSlice, ...]

    @property
    def confirmed(self) -> tuple[HeldOutSlice, ...]:
        return tuple(each for each in self.slices if each.confirmed)

    @property
    def shrinkage(self) -> float:
        """Mean held-out effect over mean effect at discovery; NaN when nothing was found.

        1 would mean that the search did not flatter what it chose.
        """
        known = [each for each in self.slices if np.isfinite(each.effect)]
        before = sum(each.effect_discovery for each in known)
        return sum(each.effect for each in known) / before if before else float("nan")

    def table(self) -> pd.DataFrame:
        """One row a found slice: the fields of :class:`HeldOutSlice`."""
        return pd.DataFrame([vars(each) for each in self.slices])


def halves(counted: Mask, *, seed: int = 0) -> tuple[Mask, Mask]:
    """Deal the rows that count into two halves at random.

    Parameters
    ----------
    counted : bool array of shape [n]
    seed
        Of the deal.

    Returns
    -------
    discovery, held_out : bool arrays of shape [n]
        Disjoint; their union is ``counted``.

    Raises
    ------
    InputError
        For fewer than four rows that count.
    """
    rows = np.flatnonzero(counted)
    require(len(rows) >= 4, "rows that count", len(rows), "must be at least 4")
    shuffled = np.random.default_rng(seed).permutation(rows)
    discovery, held_out = np.zeros((2, len(counted)), dtype=bool)
    discovery[shuffled[: len(rows) // 2]] = True
    held_out[shuffled[len(rows) // 2 :]] = True
    return discovery, held_out


def discover(
    literals: Literals,
    loss: RowLoss,
    *,
    fdr: float = 0.1,
    max_literals: int = 2,
    min_rows: int = 50,
    limit: int = 10,
) -> Discovery:
    """Search, control the false discovery rate, and leave out what repeats.

    Parameters
    ----------
    literals, loss
        Of the same n rows; only those that ``loss`` counts are looked at.
    fdr
        Level of Benjamini and Hochberg over every slice that was counted.
    max_literals, min_rows
        As for :func:`search_slices`.
    limit
        Slices to name at most: each costs power at the confirmation.
    """
    require(0 < fdr < 1, "fdr", fdr, "must be between 0 and 1", "try 0.1")
    require(limit >= 1, "limit", limit, "must be >= 1", "try 10")
    table = search_slices(literals, loss, max_literals=max_literals, min_rows=min_rows)
    if not len(table):
        return Discovery(table, np.empty(0), ())
    adjusted = benjamini_hochberg(table.p_value)
    kept = adding_slices(table, np.flatnonzero(adjusted <= fdr), level=fdr)
    kept = kept[np.lexsort((-table.effect[kept], table.p_value[kept]))]
    return Discovery(table, adjusted, distinct_slices(table, kept.tolist(), limit=limit))


def confirm(
    discovery: Discovery, loss: RowLoss, *, alpha: float = 0.05
) -> tuple[HeldOutSlice, ...]:
    """Test each slice that was found on rows that did not find it.

    The chance that anything at all is confirmed wrongly is at most ``alpha``, whatever the search
    did on its own rows: given them, these are a fixed handful of hypotheses.

    Parameters
    ----------
    discovery
        Of :func:`discover`.
    loss
        Counting the held-out rows only.
    alpha
        Level of Holm's test over the slices found.

    Raises
    ------
    InputError
        When a row counts in both halves.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    table = discovery.table
    both = int(np.sum(table.loss.counted & loss.counted))
    if both:
        raise InputError(f"{both} rows count in both halves; a row that chose cannot confirm")
    if not discovery.found:
        return ()
    tested = [
        _on(loss, slice_rows(table.literals, table.keys[number])) for number in discovery.found
    ]
    adjusted = holm([each[0] for each in tested])
    return tuple(
        HeldOutSlice(
            text=table.text(number),
            n_discovery=int(table.n[number]),
            effect_discovery=float(table.effect[number]),
            n=n,
            mean=mean,
            rest=rest,
            effect=mean - rest,
            ci95=interval,
            p_value=p_value,
            p_holm=float(p_holm),
            confirmed=bool(p_holm <= alpha),
        )
        for number, (p_value, n, mean, rest, interval), p_holm in zip(
            discovery.found, tested, adjusted
        )
    )


def _on(loss: RowLoss, chosen: Mask) -> tuple[float, int, float, float, Interval]:
    """P-value, rows, mean, mean of the rest, and interval of the difference."""
    inside, outside = loss.values[loss.counted & chosen], loss.values[loss.counted & ~chosen]
    if min(len(inside), len(outside)) < 2:
        unknown = float("nan")
        mean = float(inside.mean()) if len(inside) else unknown
        rest = float(outside.mean()) if len(outside) else unknown
        return 1.0, len(inside), mean, rest, (unknown, unknown)
    sums = [
        (np.array([float(len(part))]), part.sum()[None], (part**2).sum()[None])
        for part in (inside, outside)
    ]
    p_value = float(larger_mean_p(sums[0], sums[1], binary=loss.binary)[0])
    interval = difference_interval(inside, outside, binary=loss.binary)
    return p_value, len(inside), float(inside.mean()), float(outside.mean()), interval


def difference_interval(inside: Floats, outside: Floats, *, binary: bool) -> Interval:
    """95 % interval of mean inside minus mean outside.

    Newcombe's for losses of 0 and 1, which keeps its coverage near 0 and 1 and for small slices;
    Welch's otherwise.

    Parameters
    ----------
    inside, outside : float64 arrays of shape [a] and [b]
        At least two rows each.
    binary
        Whether the losses are 0 and 1.

    References
    ----------
    Newcombe: Interval Estimation for the Difference between Independent Proportions, Statistics
    in Medicine 1998, method 10.
    """
    if binary:
        low, high = confint_proportions_2indep(
            inside.sum(), len(inside), outside.sum(), len(outside), method="newcomb"
        )
    else:
        found = stats.ttest_ind(inside, outside, equal_var=False).confidence_interval(0.95)
        low, high = found.low, found.high
    return float(low), float(high)


def confirm_slices(
    literals: Literals,
    loss: RowLoss,
    *,
    fdr: float = 0.1,
    alpha: float = 0.05,
    max_literals: int = 2,
    min_rows: int = 50,
    limit: int = 10,
    seed: int = 0,
) -> SliceReport:
    """Split, search on one half, confirm on the other.

    Parameters
    ----------
    literals, loss
        Of the same n rows.
    fdr, max_literals, min_rows, limit
        Of :func:`discover`.
    alpha
        Of :func:`confirm`.
    seed
        Of the split. Choose it before looking: trying seeds until a slice is confirmed is one
        more search.
    """
    first, second = halves(loss.counted, seed=seed)
    discovery = discover(
        literals,
        loss.on(first),
        fdr=fdr,
        max_literals=max_literals,
        min_rows=min_rows,
        limit=limit,
    )
    return SliceReport(
        loss=loss.name,
        n_discovery=int(first.sum()),
        n_held_out=int(second.sum()),
        tested=len(discovery.table),
        rejected=discovery.rejected(fdr),
        slices=confirm(discovery, loss.on(second), alpha=alpha),
    )
