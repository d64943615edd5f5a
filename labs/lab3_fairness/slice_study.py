"""Does the search find what is there, and nothing where there is nothing?

Both questions need data whose truth is known. Planted slices (synthetic) show how many are found
and how many reports are right; permuted losses, on any table, show how often something is
reported about nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from common.errors import require
from labs.lab3_fairness.multiple_testing import benjamini_hochberg, bonferroni
from labs.lab3_fairness.slice_confirmation import confirm, discover, halves
from labs.lab3_fairness.slice_inputs import Ints, Literals, RowLoss
from labs.lab3_fairness.slices import search_slices

Interval = tuple[float, float]
Key = tuple[tuple[int, int], ...]

COLUMNS, VALUES = 10, (0.4, 0.3, 0.2, 0.1)  # ten independent columns, the shares of their values
BASE, LIFT = 0.15, 0.2
PLANTED: tuple[Key, ...] = (
    ((0, 1), (1, 1)),  # 9 % of the rows
    ((2, 0), (3, 2)),  # 8 %
    ((4, 2), (5, 1)),  # 6 %
)


@dataclass(frozen=True)
class Rate:
    """A share of repetitions with its exact (Clopper-Pearson) 95 % interval."""

    value: float
    n: int
    ci95: Interval


@dataclass(frozen=True)
class NullStudy:
    """What is reported when no slice is worse than another.

    ``any_*`` are shares of data sets in which a procedure reports at least one slice; every such
    report is false, so each is at once a false discovery rate and a family-wise error rate.
    ``uncorrected`` and ``worst_effect`` are of shape [data sets]: slices with p <= alpha, and the
    largest mean loss inside minus outside.
    """

    tested: int
    alpha: float
    fdr: float
    any_uncorrected: Rate
    any_bonferroni: Rate
    any_benjamini_hochberg: Rate
    any_confirmed: Rate
    uncorrected: Ints
    worst_effect: NDArray[np.float64]


@dataclass(frozen=True)
class PlantedStudy:
    """What is reported when ``planted`` slices are worse by ``lift``.

    ``recall`` is the share of planted slices named exactly, ``precision`` the share of confirmed
    slices that really are worse than the rest (NaN when nothing was confirmed), each over all
    repetitions; their intervals take slices of one data set for independent. ``exact`` is the share
    of confirmed slices that are planted ones. ``shrinkage`` is held-out over discovery effect, of
    the slices found.
    """

    n_rows: int
    repetitions: int
    planted: int
    lift: float
    recall: Rate
    precision: Rate
    exact: float
    shrinkage: float


def null_study(
    literals: Literals,
    loss: RowLoss,
    *,
    n_datasets: int = 200,
    max_literals: int = 2,
    min_rows: int = 50,
    alpha: float = 0.05,
    fdr: float = 0.1,
    seed: int = 0,
) -> NullStudy:
    """Deal the losses out anew among the rows that count, and search each time.

    The columns stay as they are, with all their dependence, so the null is exact: no slice of any
    such data set is worse than another except by chance.

    Parameters
    ----------
    literals, loss
        Of the same n rows.
    n_datasets
        Permutations, each searched and split anew.
    max_literals, min_rows, fdr
        As for :func:`discover`. The procedures without a split have twice the rows to search.
    alpha
        Of the confirmation, and of the two procedures without control of the false discovery
        rate.
    seed
        Of the permutations and the splits.

    Raises
    ------
    InputError
        When no slice has enough rows, or for a number out of range.
    """
    require(n_datasets >= 1, "n_datasets", n_datasets, "must be >= 1", "try 200")
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    rng = np.random.default_rng(seed)
    reported = np.zeros((n_datasets, 4), dtype=bool)
    uncorrected, worst = np.zeros(n_datasets, dtype=np.int64), np.zeros(n_datasets)
    tested = 0
    for number in range(n_datasets):
        values = loss.values.copy()
        values[loss.counted] = rng.permutation(values[loss.counted])
        shuffled = RowLoss(loss.name, values, loss.counted)
        table = search_slices(literals, shuffled, max_literals=max_literals, min_rows=min_rows)
        tested = len(table)
        require(tested > 0, "min_rows", min_rows, "leaves no slice", "lower it")
        uncorrected[number] = np.sum(table.p_value <= alpha)
        worst[number] = table.effect.max()
        first, second = halves(loss.counted, seed=int(rng.integers(2**31)))
        found = discover(
            literals, shuffled.on(first), fdr=fdr, max_literals=max_literals, min_rows=min_rows
        )
        reported[number] = (
            uncorrected[number] > 0,
            (bonferroni(table.p_value) <= alpha).any(),
            (benjamini_hochberg(table.p_value) <= fdr).any(),
            any(each.confirmed for each in confirm(found, shuffled.on(second), alpha=alpha)),
        )
    plain, corrected, controlled, confirmed = (
        _rate(int(column.sum()), n_datasets) for column in reported.T
    )
    return NullStudy(
        tested=tested,
        alpha=alpha,
        fdr=fdr,
        any_uncorrected=plain,
        any_bonferroni=corrected,
        any_benjamini_hochberg=controlled,
        any_confirmed=confirmed,
        uncorrected=uncorrected,
        worst_effect=worst,
    )


def planted_data(
    n_rows: int, *, lift: float = LIFT, planted: tuple[Key, ...] = PLANTED, seed: int = 0
) -> tuple[Literals, RowLoss]:
    """Independent columns and errors of 0 and 1, more frequent in the planted slices (synthetic).

    ``P(error) = BASE + lift * (planted slices the row is in)``.

    Parameters
    ----------
    n_rows
        n.
    lift
        0 gives data in which no slice is worse.
    planted
        Keys of (column, value) pairs, for columns of their own.
    seed
        Of the rows and the errors.
    """
    top = BASE + lift * len(planted)
    require(BASE >= 0 and top <= 1, "lift", lift, f"makes a risk of {top:g}", "try 0.2")
    rng = np.random.default_rng(seed)
    codes = rng.choice(len(VALUES), size=(n_rows, COLUMNS), p=VALUES).astype(np.int64)
    risk = np.full(n_rows, BASE)
    for key in planted:
        risk += lift * np.all([codes[:, column] == value for column, value in key], axis=0)
    columns = tuple(f"c{number}" for number in range(COLUMNS))
    names = tuple(tuple(f"{name} = {value}" for value in range(len(VALUES))) for name in columns)
    errors = (rng.random(n_rows) < risk).astype(np.float64)
    return Literals(columns, codes, names), RowLoss("error", errors, np.ones(n_rows, dtype=bool))


def expected_effect(key: Key, *, lift: float = LIFT, planted: tuple[Key, ...] = PLANTED) -> float:
    """How much worse than everybody a slice of :func:`planted_data` is in expectation.

    The columns are independent, so given the slice a planted one holds with the product of the
    shares of its other literals, or not at all if the two contradict each other.
    """
    own = dict(key)
    extra = 0.0
    for other in planted:
        given = before = 1.0
        for column, value in other:
            before *= VALUES[value]
            given *= (own[column] == value) if column in own else VALUES[value]
        extra += lift * (given - before)
    return extra


def planted_study(
    *,
    n_rows: int = 8000,
    repetitions: int = 50,
    lift: float = LIFT,
    planted: tuple[Key, ...] = PLANTED,
    max_literals: int = 2,
    min_rows: int = 50,
    alpha: float = 0.05,
    fdr: float = 0.1,
    seed: int = 0,
) -> PlantedStudy:
    """Search data with known bad slices, many times.

    Parameters
    ----------
    n_rows, lift, planted
        Of :func:`planted_data`; half of the rows discover, half confirm.
    repetitions
        Data sets.
    max_literals, min_rows, alpha, fdr
        Of the search and the confirmation.
    seed
        Of the first data set; the others count up.
    """
    require(repetitions >= 1, "repetitions", repetitions, "must be >= 1", "try 50")
    named = right = exact = confirmed = 0
    before = after = 0.0
    for number in range(repetitions):
        literals, loss = planted_data(n_rows, lift=lift, planted=planted, seed=seed + number)
        first, second = halves(loss.counted, seed=seed + number)
        found = discover(
            literals, loss.on(first), fdr=fdr, max_literals=max_literals, min_rows=min_rows
        )
        slices = confirm(found, loss.on(second), alpha=alpha)
        keys = [_key(found.table.keys[each]) for each in found.found]
        sure = [key for key, each in zip(keys, slices) if each.confirmed]
        confirmed += len(sure)
        named += sum(key in sure for key in planted)
        exact += sum(key in planted for key in sure)
        right += sum(expected_effect(key, lift=lift, planted=planted) > 1e-9 for key in sure)
        before += sum(each.effect_discovery for each in slices)
        after += sum(each.effect for each in slices)
    return PlantedStudy(
        n_rows=n_rows,
        repetitions=repetitions,
        planted=len(planted),
        lift=lift,
        recall=_rate(named, repetitions * len(planted)),
        precision=_rate(right, confirmed),
        exact=exact / confirmed if confirmed else float("nan"),
        shrinkage=after / before if before else float("nan"),
    )


def _key(key: Ints) -> Key:
    return tuple((int(column), int(value)) for column, value in key if column >= 0)


def _rate(successes: int, n: int) -> Rate:
    if not n:
        return Rate(float("nan"), 0, (float("nan"), float("nan")))
    low, high = proportion_confint(successes, n, method="beta")
    return Rate(successes / n, n, (float(low), float(high)))
