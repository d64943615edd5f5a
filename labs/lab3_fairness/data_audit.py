"""An audit of a table before any model: who is in it, what is said of them, and what is missing.

A model learns the table. Groups that are rare, labels that differ between groups, and answers
missing more often in one group are there before the first line of training, and no constraint on
the model says where they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from common.errors import InputError, require
from common.statistics import proportion_ci
from labs.lab3_fairness.missingness import (
    Missingness,
    chi_square_null,
    groups_of,
    holm_of_known,
    is_missing,
    missingness_tests,
)
from labs.lab3_fairness.sample_size import CellSize, cell_sizes, rows_for_gap

Interval = tuple[float, float]

ALPHA = 0.05


@dataclass(frozen=True)
class GroupShare:
    """How much of the table one group is; ``reference`` is its share of the population.

    ``p_value`` is of the exact binomial test against the reference, corrected (Holm) for all
    groups that have one. Both are NaN without a reference.
    """

    attribute: str
    group: str
    n: int
    share: float
    ci95: Interval
    reference: float
    p_value: float


@dataclass(frozen=True)
class BaseRate:
    """How often the label is 1 in one group; NaN for a group without rows."""

    attribute: str
    group: str
    n: int
    positives: int
    rate: float
    ci95: Interval


@dataclass(frozen=True)
class BaseRateGap:
    """Largest minus smallest base rate of an attribute, beside what dealt-out labels give.

    ``p_gap`` asks whether chance gives such a gap. Two tiny groups give any gap, so that it can
    miss a difference between large ones; ``p_any``, of Pearson's chi-square, weighs groups by
    their size and asks whether the rates differ anywhere.
    """

    attribute: str
    gap: float
    null_mean: float
    null_q95: float
    p_gap: float
    p_any: float


@dataclass(frozen=True)
class Duplicates:
    """Rows that occur before: ``exact`` in all columns, ``contradicting`` with another label.

    ``exact`` counts the copies after the first; ``contradicting`` all rows whose features occur
    with both labels: no model can be right about all of them. ``ignored`` columns do not count.
    """

    exact: int
    contradicting: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class DataAudit:
    """What a table says about groups before a model is fitted."""

    rows: int
    label: str
    representation: tuple[GroupShare, ...]
    base_rates: tuple[BaseRate, ...]
    base_rate_gaps: tuple[BaseRateGap, ...]
    missingness: tuple[Missingness, ...]
    duplicates: Duplicates
    sizes: tuple[CellSize, ...]
    rows_needed: int
    warnings: tuple[str, ...]

    def representation_table(self) -> pd.DataFrame:
        """One row a group: n, share, low, high, reference, p_value."""
        return _flat(self.representation)

    def base_rate_table(self) -> pd.DataFrame:
        """One row a group: n, positives, rate, low, high."""
        return _flat(self.base_rates)

    def base_rate_gap_table(self) -> pd.DataFrame:
        """One row an attribute: gap, null_mean, null_q95, p_gap, p_any."""
        return pd.DataFrame([asdict(gap) for gap in self.base_rate_gaps])

    def missing_table(self) -> pd.DataFrame:
        """One row a column and attribute: missing, lowest and highest group and rate, p-values."""
        rows = []
        for test in self.missingness:
            lowest = min(test.rates, key=lambda group: test.rates[group])
            highest = max(test.rates, key=lambda group: test.rates[group])
            rows.append(
                {
                    "column": test.column,
                    "by": test.by,
                    "missing": test.missing,
                    "lowest": lowest,
                    "lowest_rate": test.rates[lowest],
                    "highest": highest,
                    "highest_rate": test.rates[highest],
                    "p_value": test.p_value,
                    "p_corrected": test.p_corrected,
                }
            )
        return pd.DataFrame(rows)

    def size_table(self) -> pd.DataFrame:
        """One row a group and intersection: the fields of :class:`CellSize`."""
        return pd.DataFrame([asdict(size) for size in self.sizes])


def data_audit(
    table: pd.DataFrame,
    *,
    label: str,
    sensitive: Sequence[str],
    reference: Mapping[str, Mapping[str, float]] | None = None,
    missing: Sequence[str] = ("?", ""),
    ignore: Sequence[str] = (),
    gap: float = 0.05,
    power: float = 0.8,
    n_permutations: int = 1000,
    seed: int = 0,
) -> DataAudit:
    """Audit a table of people with a binary label.

    Parameters
    ----------
    table : DataFrame of n rows
    label
        Column of 0 and 1.
    sensitive
        Columns of groups. Their intersections are sized too.
    reference
        Attribute to group to share of the population the decisions are about, each between 0 and
        1, at most 1 together. A group of it that the table lacks is reported with n = 0.
    missing
        Texts that mean "no answer", besides NaN.
    ignore
        Columns that do not make two rows different (ids, survey weights), and are not tested for
        missing answers.
    gap
        The gap in a rate that the audit of a model is to see; groups too small for it are named
        in ``warnings``.
    power
        With which probability it is to be seen.
    n_permutations
        For the base rates' null; the tests of missing answers take ten times as many, since they
        are corrected for their number.
    seed
        Of the permutations.

    Raises
    ------
    InputError
        For a column that is not there or has two roles, labels other than 0 and 1, an attribute
        with fewer than two groups, an impossible reference.
    """
    require(len(table) > 0, "rows", 0, "must be at least 1")
    require(len(sensitive) > 0, "sensitive", list(sensitive), "must name at least one column")
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    roles = [label, *sensitive, *ignore]
    for name in roles:
        require(name in table.columns, "column", name, "is not in the table")
        require(roles.count(name) == 1, "column", name, "must have one role")
    y = binary_label(table, label)
    require(0 < y.sum() < len(y), f"{label}: positives", int(y.sum()), "must be some, but not all")
    groups = {name: groups_of(table[name], missing) for name in sensitive}
    for name, values in groups.items():
        require(values.nunique() >= 2, f"groups of {name}", list(values.unique()), "must be two")
    rng = np.random.default_rng(seed)
    shares = _representation(groups, reference or {})
    rates = tuple(
        _base_rate(name, str(group), y[(values == group).to_numpy()])
        for name, values in groups.items()
        for group in sorted(values.unique())
    )
    gaps = tuple(
        base_rate_gap(name, y, values, n_permutations, rng) for name, values in groups.items()
    )
    rest = table.drop(columns=list(ignore))
    by = {**groups, label: pd.Series(y, index=table.index).astype(str)}
    absent = is_missing(rest.drop(columns=label), missing)
    tests = missingness_tests(absent, by, 10 * n_permutations, rng)
    sizes = cell_sizes(groups, y, power)
    needed = rows_for_gap(0.5, gap, power=power)
    return DataAudit(
        rows=len(table),
        label=label,
        representation=shares,
        base_rates=rates,
        base_rate_gaps=gaps,
        missingness=tests,
        duplicates=_duplicates(rest, label, tuple(ignore)),
        sizes=sizes,
        rows_needed=needed,
        warnings=_warnings(shares, tests, sizes, gap, power, needed),
    )


def binary_label(table: pd.DataFrame, label: str) -> NDArray[np.int64]:
    """The label column as 0 and 1, int64 of shape [n]; InputError for anything else."""
    others = table[label][~table[label].isin([0, 1])]
    if len(others):
        raise InputError(f"{label} holds {others.iloc[0]} ({len(others)} such rows); use 0 and 1")
    return table[label].to_numpy(dtype=np.int64)


def base_rate_gap(
    attribute: str,
    y: NDArray[np.int64],
    groups: pd.Series,
    n_permutations: int,
    rng: np.random.Generator,
) -> BaseRateGap:
    """The max-min gap in base rate and its permutation null.

    The same null as ``gap_null`` in ``resampling`` gives, without touching a row: see
    ``chi_square_null``.
    """
    codes, _ = pd.factorize(groups, sort=True)
    n = np.bincount(codes)
    positives = np.bincount(codes[y == 1], minlength=len(n))
    observed = float(np.ptp(positives / n))
    dealt, p_any = chi_square_null(positives, n, n_permutations, rng)
    null = np.ptp(dealt / n, axis=1)
    p_gap = (1 + int(np.sum(null >= observed - 1e-12))) / (1 + n_permutations)
    return BaseRateGap(
        attribute, observed, float(null.mean()), float(np.quantile(null, 0.95)), p_gap, p_any
    )


def _representation(
    groups: Mapping[str, pd.Series], reference: Mapping[str, Mapping[str, float]]
) -> tuple[GroupShare, ...]:
    for name, shares in reference.items():
        require(name in groups, "reference", name, "must be a sensitive column")
        for group, share in shares.items():
            require(0 < share < 1, f"reference of {group!r}", share, "must lie between 0 and 1")
        total = sum(shares.values())
        require(total <= 1 + 1e-9, f"reference shares of {name}", total, "must add up to <= 1")
    made = []
    for name, values in groups.items():
        known = reference.get(name, {})
        n = values.value_counts()
        for group in sorted({*n.index, *known}):
            count = int(n.get(group, 0))
            expected = known.get(group, float("nan"))
            p = binomtest(count, len(values), expected).pvalue if group in known else float("nan")
            interval = proportion_ci(count, len(values))
            made.append(
                GroupShare(name, group, count, count / len(values), interval, expected, float(p))
            )
    corrected = holm_of_known([share.p_value for share in made])
    return tuple(
        GroupShare(**{**share.__dict__, "p_value": p}) for share, p in zip(made, corrected)
    )


def _base_rate(attribute: str, group: str, y: NDArray[np.int64]) -> BaseRate:
    positives, n = int(y.sum()), len(y)
    return BaseRate(attribute, group, n, positives, positives / n, proportion_ci(positives, n))


def _duplicates(table: pd.DataFrame, label: str, ignored: tuple[str, ...]) -> Duplicates:
    features = [name for name in table.columns if name != label]
    exact = int(table.duplicated().sum())
    repeated = table[table.duplicated(features, keep=False)]
    labels = repeated.groupby(features, dropna=False, sort=False)[label].transform("nunique")
    return Duplicates(exact, int((labels > 1).sum()), ignored)


def _warnings(
    shares: Sequence[GroupShare],
    tests: Sequence[Missingness],
    sizes: Sequence[CellSize],
    gap: float,
    power: float,
    needed: int,
) -> tuple[str, ...]:
    said = [
        f"{share.attribute} {share.group!r}: share {share.share:.3f}, reference "
        f"{share.reference:.3f}, corrected p {_p(share.p_value)}"
        for share in shares
        if share.p_value < ALPHA
    ]
    said += [
        f"{test.column} is missing by {test.by}: {min(test.rates.values()):.3f} to "
        f"{max(test.rates.values()):.3f}, corrected p {_p(test.p_corrected)}"
        for test in tests
        if test.p_corrected < ALPHA
    ]
    blind = 0
    for size in sizes:
        if size.n == 0:
            said.append(f"{size.attribute} {size.group!r}: nobody; no model can be audited on it")
            continue
        rates = {"TPR": size.detectable_tpr_gap, "FPR": size.detectable_fpr_gap}
        seen = [
            f"{rate} from {least:.2f}" if np.isfinite(least) else f"{rate} not at all"
            for rate, least in rates.items()
            if not least <= gap
        ]
        if seen:
            blind += 1
            said.append(
                f"{size.attribute} {size.group!r}, {size.positives} positives and "
                f"{size.negatives} negatives: gaps are seen in {', in '.join(seen)}"
            )
    if blind:
        said.append(
            f"{blind} of {len(sizes)} groups and intersections are too small to see a gap of "
            f"{gap:g} with power {power:g}: that takes {needed:,} positives (for the FPR: "
            "negatives) in each of two groups of one size"
        )
    return tuple(said)


def _p(value: float) -> str:
    return f"= {value:.2g}" if value > 1e-12 else "< 1e-12"


def _flat(rows: Sequence[GroupShare] | Sequence[BaseRate]) -> pd.DataFrame:
    table = pd.DataFrame([asdict(row) for row in rows])
    place = int(table.columns.get_loc("ci95"))  # type: ignore[arg-type]
    table.insert(place, "low", [interval[0] for interval in table["ci95"]])
    table.insert(place + 1, "high", [interval[1] for interval in table["ci95"]])
    return table.drop(columns="ci95")
