"""Proxies: how well do the other columns tell who belongs to a group?

Removing the sensitive column removes nothing that others repeat. The question has a number: the
AUC of a model that guesses the group from all other columns, on rows it has not seen. .5 says
that the columns do not tell; 1 that the group is written in the table a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency, norm, rankdata
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.mitigation import binary_labels
from labs.lab3_fairness.scoring import Fit, boosting, cross_fitted
from labs.lab3_fairness.tabular import Task

Interval = tuple[float, float]

BINS = 20  # of a number, when a column stands alone
MAX_CATEGORIES = 255  # of the boosting's native categories


@dataclass(frozen=True)
class ColumnProxy:
    """One column alone.

    ``auc`` is out of fold, from the group's share in each category or bin of the column;
    ``cramers_v`` is the bias-corrected association of those categories with the group, 0 to 1.
    """

    column: str
    auc: float
    cramers_v: float


@dataclass(frozen=True)
class WithoutColumns:
    """What is left when columns are dropped: of the group's AUC, and of the label's."""

    dropped: tuple[str, ...]
    auc: float
    auc_ci95: Interval
    label_auc: float


@dataclass(frozen=True)
class ProxyReport:
    """How well the columns tell ``group`` from all others.

    ``auc`` is of a model on all columns, out of fold. ``drop_one`` leaves out one of the
    strongest columns at a time, ``drop_many`` the strongest, then the two strongest, and so on.
    """

    sensitive: str
    group: str
    rows: int
    members: int
    auc: float
    auc_ci95: Interval
    label_auc: float
    columns: tuple[ColumnProxy, ...]
    drop_one: tuple[WithoutColumns, ...]
    drop_many: tuple[WithoutColumns, ...]

    def table(self) -> pd.DataFrame:
        """One row a column, strongest first: column, auc, cramers_v."""
        return pd.DataFrame([asdict(column) for column in self.columns])

    def drop_table(self) -> pd.DataFrame:
        """One row a set of dropped columns: dropped, auc, low, high, label_auc."""
        rows = [
            {
                "dropped": ", ".join(left.dropped) or "none",
                "auc": left.auc,
                "low": left.auc_ci95[0],
                "high": left.auc_ci95[1],
                "label_auc": left.label_auc,
            }
            for left in (
                WithoutColumns((), self.auc, self.auc_ci95, self.label_auc),
                *self.drop_one,
                *(left for left in self.drop_many if len(left.dropped) > 1),
            )
        ]
        return pd.DataFrame(rows)


@exercise(
    "3.7",
    points=6,
    title="Out-of-fold proxy AUC",
    hint="Which columns would give the answer away, and which rows? And what can you do with a "
    "score that ranks everybody the wrong way round?",
)
def proxy_auc(
    table: pd.DataFrame,
    *,
    sensitive: str,
    group: str,
    label: str,
    make: Fit = boosting,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """How well a model tells a group from all others by the other columns.

    ``proxy_task`` checks the arguments and makes a task of some columns; ``cross_fitted`` gives
    each row the score of a model that was fitted without it.

    Parameters
    ----------
    table : DataFrame of n rows
    sensitive
        The column whose value is to be guessed.
    group
        The value, against all others.
    label
        The outcome, 0 or 1. Whether it tells the group is another question (the base rates'), and
        at the time of the decision it is not known.
    make
        ``make(seed)`` returns an unfitted model.
    folds
        Of the cross-fitting.
    seed
        Of folds and models.

    Returns
    -------
    float
        ``max(AUC, 1 - AUC)``, .5 to 1: whoever has a score that ranks the group last needs only
        turn it round. Where nothing tells the group it lies a little above .5, by chance.

    Raises
    ------
    InputError
        For a column or group that is not there, fewer members or others than folds, a label other
        than 0 and 1 or with one of them only, a text column of more than 255 values.

    References
    ----------
    Feldman et al.: Certifying and Removing Disparate Impact, KDD 2015, section 4 (predict the
    group from the rest of the data).
    """
    columns = [name for name in table.columns if name not in (sensitive, label)]
    task = proxy_task(table, columns, sensitive=sensitive, group=group, label=label, folds=folds)
    scores = cross_fitted(make, task, folds=folds, seed=seed)
    auc = float(roc_auc_score(task.labels, scores))
    return max(auc, 1 - auc)


def proxy_task(
    table: pd.DataFrame,
    columns: Sequence[str],
    *,
    sensitive: str,
    group: str,
    label: str,
    folds: int = 5,
) -> Task:
    """The task of guessing whether ``sensitive`` is ``group`` from some columns.

    Parameters
    ----------
    columns
        What the model may see: numbers stay numbers, everything else becomes text, missing text
        "?". Others as for :func:`proxy_auc`.

    Returns
    -------
    Task
        ``labels`` is 1 for members; ``groups`` is one value for all.
    """
    for name in (sensitive, label, *columns):
        require(name in table.columns, "column", name, "is not in the table")
    require(len(columns) > 0, "columns", list(columns), "must be at least one")
    _outcomes(table, label)
    member = (table[sensitive].astype(str) == group).to_numpy()
    for said, n in ((f"members of {group!r}", member.sum()), ("others", (~member).sum())):
        require(n >= folds, said, int(n), f"must be >= folds = {folds}", "is the group spelt so?")
    features = as_features(table[list(columns)])
    return Task(features, member.astype(np.int64), np.full(len(table), "all", dtype=object))


def _outcomes(table: pd.DataFrame, label: str) -> NDArray[np.int64]:
    """The label of each row, 0 or 1 and some of both; InputError otherwise."""
    outcomes = binary_labels(table[label], f"label column {label!r}")
    found = np.unique(outcomes).tolist()
    require(len(found) == 2, f"label column {label!r}", found, "must hold 0 and 1, not one alone")
    return outcomes


def as_features(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are, everything else as text with "?" for the missing.

    Raises
    ------
    InputError
        For a text column of more than 255 values: an id, or free text.
    """
    features = table.reset_index(drop=True).copy()
    for name in features.columns:
        column = features[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            continue
        features[name] = column.astype(str).where(column.notna(), "?")
        values = features[name].nunique()
        if values > MAX_CATEGORIES:
            raise InputError(
                f"column {name!r} has {values} different texts, the limit is {MAX_CATEGORIES}; "
                "leave it out or group its values"
            )
    return features


def proxy_report(
    table: pd.DataFrame,
    *,
    sensitive: str,
    group: str,
    label: str,
    ignore: Sequence[str] = (),
    make: Fit = boosting,
    n_drop: int = 3,
    folds: int = 5,
    seed: int = 0,
) -> ProxyReport:
    """All columns together, each alone, and what dropping the strongest leaves.

    Parameters
    ----------
    table, sensitive, group, label, make, folds, seed
        As for :func:`proxy_auc`.
    ignore
        Columns no model is to see.
    n_drop
        How many of the strongest columns are dropped, one at a time and one after the other. A
        model is fitted ``2 folds`` times for each.

    Raises
    ------
    InputError
        As for :func:`proxy_auc`, and when no column would be left.
    """
    columns = [name for name in table.columns if name not in (sensitive, label, *ignore)]
    require(0 <= n_drop < len(columns), "n_drop", n_drop, f"must be from 0 to {len(columns) - 1}")
    task = proxy_task(table, columns, sensitive=sensitive, group=group, label=label, folds=folds)
    outcome = replace(task, labels=_outcomes(table, label))
    alone = sorted(
        (
            ColumnProxy(
                name,
                column_auc(task.features[name], task.labels, folds=folds, seed=seed),
                cramers_v(categories(task.features[name]), task.labels),
            )
            for name in columns
        ),
        key=lambda column: -column.auc,
    )

    def without(dropped: tuple[str, ...]) -> WithoutColumns:
        kept = task.features.drop(columns=list(dropped))
        guess = cross_fitted(make, replace(task, features=kept), folds=folds, seed=seed)
        predicted = cross_fitted(make, replace(outcome, features=kept), folds=folds, seed=seed)
        auc, low, high = auc_interval(guess, task.labels)
        return WithoutColumns(
            dropped, auc, (low, high), float(roc_auc_score(outcome.labels, predicted))
        )

    strongest = tuple(column.column for column in alone[:n_drop])
    everything = without(())
    one = tuple(without((name,)) for name in strongest)
    many = tuple(without(strongest[:n]) for n in range(2, n_drop + 1))
    return ProxyReport(
        sensitive=sensitive,
        group=group,
        rows=len(task),
        members=int(task.labels.sum()),
        auc=everything.auc,
        auc_ci95=everything.auc_ci95,
        label_auc=everything.label_auc,
        columns=tuple(alone),
        drop_one=one,
        drop_many=(*one[:1], *many),
    )


def categories(column: pd.Series) -> pd.Series:
    """A column as at most a few dozen categories, text of shape [n].

    Text stays as it is. A number's value that more than one row in ``BINS`` has (the zeros of a
    gain) is a category; the others are cut into ``BINS`` quantiles; NaN is a category.
    """
    if not pd.api.types.is_numeric_dtype(column):
        return column
    shares = column.value_counts(normalize=True)
    common = column.isin(shares.index[shares > 1 / BINS])
    bins = pd.qcut(column.mask(common), BINS, duplicates="drop") if not common.all() else column
    return bins.astype(str).mask(common, column.astype(str)).where(column.notna(), "?")


def column_auc(
    column: pd.Series, member: NDArray[np.int64], *, folds: int = 5, seed: int = 0
) -> float:
    """How well one column alone tells the group, on rows that did not say how.

    Each category (or bin of a number) scores the share of members it has in the other folds, with
    one row of prior for the overall share; so a category of one row tells nothing about itself,
    and a column that falls where the group rises is as good as one that rises.

    Parameters
    ----------
    column : Series of shape [n]
        Numbers or text, none missing (NaN is a bin of its own).
    member : array of shape [n], 0 or 1

    Returns
    -------
    float
        AUC; about .5 for nothing, and below it by chance only.
    """
    codes, names = pd.factorize(categories(column))
    scores = np.empty(len(column))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(codes, member):
        prior = member[train].mean()
        n = np.bincount(codes[train], minlength=len(names))
        hits = np.bincount(codes[train], weights=member[train], minlength=len(names))
        # Minus the prior, so that folds whose shares differ by a row can be ranked together.
        scores[held_out] = ((hits + prior) / (n + 1) - prior)[codes[held_out]]
    return float(roc_auc_score(member, scores))


def cramers_v(column: ArrayLike, member: ArrayLike) -> float:
    r"""Association of two categorical columns, corrected for its bias, 0 to 1.

    .. math:: \tilde V = \sqrt{\frac{\max(0,\ \chi^2/n - (r-1)(c-1)/(n-1))}{\min(\tilde r,
              \tilde c) - 1}}, \qquad \tilde r = r - \frac{(r-1)^2}{n-1}

    Without the correction a column of many rare values is associated with everything.

    References
    ----------
    Bergsma: A Bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean
    Statistical Society 42, 2013, equations 6 to 9.
    """
    counts = pd.crosstab(np.asarray(column), np.asarray(member)).to_numpy()
    rows, others = counts.shape
    n = int(counts.sum())
    if min(rows, others) < 2:
        return 0.0
    chi2 = float(chi2_contingency(counts, correction=False).statistic)
    phi2 = max(0.0, chi2 / n - (rows - 1) * (others - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), others - (others - 1) ** 2 / (n - 1))
    return float(min(1.0, np.sqrt(phi2 / (smaller - 1)))) if smaller > 1 else 0.0


def auc_interval(
    scores: ArrayLike, member: ArrayLike, confidence: float = 0.95
) -> tuple[float, float, float]:
    """AUC and its DeLong interval.

    The AUC is the mean over members of the share of others they outrank (ties count half), and
    over others likewise; the variances of those two sets of shares, over their sizes, add up to
    its variance. All come from ranks.

    Parameters
    ----------
    scores : array of shape [n]
    member : array of shape [n], 0 or 1
        Two of each at least.
    confidence
        Of the two-sided interval.

    Returns
    -------
    (auc, low, high)
        The interval has no width at an AUC of exactly 1.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988; by ranks: Sun and Xu, IEEE Signal
    Processing Letters 21, 2014.
    """
    values, inside = np.asarray(scores, dtype=float), np.asarray(member) == 1
    require(bool(np.isfinite(values).all()), "scores", "NaN or infinity", "must be finite")
    m, n = int(inside.sum()), int((~inside).sum())
    require(min(m, n) >= 2, "members and others", (m, n), "must be at least 2 each")
    ranks = rankdata(values)
    outranked = (ranks[inside] - rankdata(values[inside])) / n
    beaten_by = 1 - (ranks[~inside] - rankdata(values[~inside])) / m
    auc = float(outranked.mean())
    error = float(np.sqrt(outranked.var(ddof=1) / m + beaten_by.var(ddof=1) / n))
    half = float(norm.ppf((1 + confidence) / 2)) * error
    return auc, max(0.0, auc - half), min(1.0, auc + half)
