"""Are answers missing more often in one group? Missing is an answer too, and a model reads it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labs.lab3_fairness.multiple_testing import holm

MISSING = "(missing)"  # the group of those whose sensitive attribute is not known


@dataclass(frozen=True)
class Missingness:
    """How often a column is missing in each group of ``by`` (an attribute or the label).

    ``p_value`` is of a permutation test of Pearson's chi-square; ``p_corrected`` (Holm) allows
    for every test of the audit.
    """

    column: str
    by: str
    missing: int
    rates: Mapping[str, float]
    counts: Mapping[str, tuple[int, int]]
    p_value: float
    p_corrected: float

    @property
    def spread(self) -> float:
        """The largest minus the smallest group's rate."""
        return max(self.rates.values()) - min(self.rates.values())


def is_missing(table: pd.DataFrame, missing: Sequence[str]) -> pd.DataFrame:
    """Where an answer is NaN or one of the texts ``missing``; bool of the table's shape."""
    return table.isna() | table.isin(list(missing))


def groups_of(column: pd.Series, missing: Sequence[str]) -> pd.Series:
    """A sensitive column as text, with a group of its own for those who are not known."""
    return column.astype(str).mask(column.isna() | column.isin(list(missing)), MISSING)


def missingness_tests(
    absent: pd.DataFrame, by: Mapping[str, pd.Series], draws: int, rng: np.random.Generator
) -> tuple[Missingness, ...]:
    """Test every column with missing answers by every attribute other than itself.

    Parameters
    ----------
    absent : bool DataFrame of n rows
        Where answers are missing; columns that miss none or all are left out.
    by
        Attribute to a Series of shape [n] with its groups.
    draws
        Permutations a test.
    rng
        Of the permutations.
    """
    made: list[Missingness] = []
    columns = [name for name in absent.columns if 0 < int(absent[name].sum()) < len(absent)]
    for column, (name, values) in itertools.product(columns, by.items()):
        if column == name:
            continue
        codes, names = pd.factorize(values, sort=True)
        n = np.bincount(codes)
        counts = np.bincount(codes[absent[column].to_numpy()], minlength=len(n))
        total = int(counts.sum())
        _, p = chi_square_null(counts, n, draws, rng)
        rates = {str(group): float(k / size) for group, k, size in zip(names, counts, n)}
        pairs = {str(group): (int(k), int(size)) for group, k, size in zip(names, counts, n)}
        made.append(Missingness(column, name, total, rates, pairs, p, float("nan")))
    corrected = holm_of_known([test.p_value for test in made])
    return tuple(
        Missingness(**{**test.__dict__, "p_corrected": p}) for test, p in zip(made, corrected)
    )


def chi_square_null(
    counts: NDArray[np.intp], n: NDArray[np.intp], draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], float]:
    """Deal marked rows out to the groups at random, and test Pearson's chi-square.

    Shuffling a mark over the rows and counting it in each group *is* a draw from the multivariate
    hypergeometric distribution, so that no row needs to be touched. Exact for small groups, where
    the chi-square distribution is not.

    Parameters
    ----------
    counts, n : int arrays of shape [g]
        Marked rows and all rows of each group; some, but not all, are marked.
    draws
        B.
    rng
        Of the draws.

    Returns
    -------
    dealt : int array of shape [B, g]
        Marked rows of each group when the groups mean nothing.
    p_value
        ``(1 + #{chi2 of a deal >= observed}) / (1 + B)``.
    """
    total, rows = int(counts.sum()), int(n.sum())
    dealt = rng.multivariate_hypergeometric(n, total, size=draws, method="marginals")
    expected = n * (total / rows)
    scale = expected * (1 - total / rows)  # both cells of a group in one term
    observed = float(((counts - expected) ** 2 / scale).sum())
    null = ((dealt - expected) ** 2 / scale).sum(axis=1)
    return dealt, (1 + int(np.sum(null >= observed * (1 - 1e-12)))) / (1 + draws)


def holm_of_known(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of those that are numbers; NaN stays."""
    values = np.array(p_values, dtype=float)
    known = ~np.isnan(values)
    if known.any():
        values[known] = holm(values[known])
    return values.tolist()
