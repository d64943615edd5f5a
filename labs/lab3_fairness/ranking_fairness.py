"""Fairness of a ranking: who is seen, and for whom it works.

To those who are ranked (applicants, providers, authors) a position is worth the attention that it
gets. To those who read it (users) a ranking is worth what they find. Both are a number a person,
so both are audited as any mean is: by group, with interval and null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.group_metrics import Disparity, GroupReport, group_metrics
from labs.lab3_fairness.row_metrics import group_codes, mean_prediction


def position_weights(n: int) -> NDArray[np.float64]:
    """The attention that each rank gets, ``1 / log2(1 + rank)`` for rank 1 to n: DCG's discount.

    A model of attention, not a measurement of it. Where clicks are logged, estimate it.
    """
    require(n >= 1, "n", n, "must be >= 1")
    return 1 / np.log2(1 + np.arange(1, n + 1))


def exposure(ranking: ArrayLike, n: int) -> NDArray[np.float64]:
    """The attention that each of n candidates gets; 0 for those not ranked.

    Parameters
    ----------
    ranking : int array of shape [k]
        Row numbers of the candidates shown, best position first.
    n
        Candidates, shown or not.

    Returns
    -------
    float64 array of shape [n]

    Raises
    ------
    InputError
        For a row number outside 0 to n - 1, or one that stands twice.
    """
    rows = np.asarray(ranking)
    require(rows.ndim == 1 and len(rows) >= 1, "shape of ranking", rows.shape, "must be [k]")
    inside = np.issubdtype(rows.dtype, np.integer) and bool(np.all((rows >= 0) & (rows < n)))
    require(inside, "ranking", "a row", f"must be a row number from 0 to {n - 1}")
    require(len(np.unique(rows)) == len(rows), "ranking", "a row", "must not stand twice")
    seen = np.zeros(n)
    seen[rows] = position_weights(len(rows))
    return seen


@dataclass(frozen=True)
class ExposureReport:
    """What attention each group gets, beside what it would merit.

    Attributes
    ----------
    by_group : DataFrame
        Indexed by group, sorted: n, exposure (mean of a member), relevance (mean), per_relevance
        (exposure / relevance), impact (mean of exposure * relevance).
    demographic_parity_ratio
        Smallest exposure over largest: is attention independent of the group?
    treatment_ratio
        DTR: smallest exposure per relevance over largest. Is attention in proportion to merit?
    impact_ratio
        DIR: the same of impact per relevance. Are *clicks* in proportion to merit, if a seen
        candidate is clicked as often as it is relevant?
    undefined
        Groups without relevance, which have no exposure per relevance and stay out of the last
        two ratios. A ratio between fewer than two groups is NaN.
    """

    by_group: pd.DataFrame
    demographic_parity_ratio: float
    treatment_ratio: float
    impact_ratio: float
    undefined: tuple[str, ...]


def group_exposure(ranking: ArrayLike, relevance: ArrayLike, groups: ArrayLike) -> ExposureReport:
    """Exposure by provider group, as it is and in relation to relevance.

    Parameters
    ----------
    ranking : int array of shape [k]
        Row numbers of the candidates shown, best position first.
    relevance : float array of shape [n]
        Merit of each candidate, shown or not, >= 0: a label, or a calibrated score.
    groups : array of shape [n]

    Raises
    ------
    InputError
        For a ranking that is none, relevance that is negative or NaN, lengths that differ, a
        missing group or only one.

    References
    ----------
    Singh and Joachims: Fairness of Exposure in Rankings, KDD 2018, sections 4.1 to 4.3. Theirs
    compare one group with another; here it is the smallest with the largest of any number.
    """
    merit = np.asarray(relevance, dtype=np.float64)
    require(merit.ndim == 1, "shape of relevance", merit.shape, "must be [n]")
    require(bool(np.all(merit >= 0)), "relevance", "a value", "must be >= 0, and not NaN")
    codes, names = group_codes(groups, len(merit))
    seen = exposure(ranking, len(merit))
    n = np.bincount(codes)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(codes, weights=values) / n)

    table = pd.DataFrame(
        {
            "n": n,
            "exposure": mean(seen),
            "relevance": mean(merit),
            "impact": mean(seen * merit),
        },
        index=pd.Index([str(name) for name in names], name="group"),
    )
    deserved = table["relevance"].where(table["relevance"] > 0)
    table.insert(3, "per_relevance", table["exposure"] / deserved)
    return ExposureReport(
        table,
        _ratio(table["exposure"]),
        _ratio(table["per_relevance"]),
        _ratio(table["impact"] / deserved),
        tuple(str(group) for group in table.index[deserved.isna()]),
    )


def _ratio(values: pd.Series) -> float:
    known = values.dropna()
    if len(known) < 2 or known.max() == 0:
        return float("nan")
    return float(known.min() / known.max())


def exposure_disparity(
    ranking: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Disparity:
    """The gap in mean exposure between groups, with the null of random places.

    Exposure is a number a candidate, so :func:`group_metrics` audits it with
    ``mean_prediction``. The interval resamples candidates at the places they have; it does not
    rank anew (`ranking_comparison` does). The null deals the groups out among the places.

    Parameters
    ----------
    ranking : int array of shape [k]
    groups : array of shape [n]
        The group of every candidate, shown or not.
    n_boot, n_permutations, seed
        Of the interval and of the null.
    """
    n = len(np.asarray(groups))
    report = _audit(exposure(ranking, n), groups, "exposure", n_boot, n_permutations, seed)
    return report.disparity("exposure")


def ndcg(ranked: ArrayLike, k: int, *, judged: ArrayLike | None = None) -> NDArray[np.float64]:
    """NDCG@k of each of q rankings: DCG over the best DCG that the judged items allow.

    ``DCG@k = sum_r relevance_r / log2(1 + r)``, r = 1 ... k.

    Parameters
    ----------
    ranked : float array of shape [q, m]
        Relevance (gain) of the items shown, best position first, >= 0; m >= k.
    k
        Positions counted.
    judged : float array of shape [q, j], optional
        Relevance of all items that could have been shown, in any order; default: those ranked.

    Returns
    -------
    float64 array of shape [q]
        NaN where nothing is relevant: such a user has no NDCG, not one of 0.

    References
    ----------
    Järvelin and Kekäläinen: Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002.
    """
    gains = np.asarray(ranked, dtype=np.float64)
    pool = gains if judged is None else np.asarray(judged, dtype=np.float64)
    if gains.ndim != 2 or pool.ndim != 2 or len(gains) != len(pool):
        raise InputError(f"ranked {gains.shape} and judged {pool.shape} must be [q, m] and [q, j]")
    require(1 <= k <= gains.shape[1], "k", k, f"must be 1 to {gains.shape[1]}, the positions")
    for name, values in (("ranked", gains), ("judged", pool)):
        require(bool(np.all(values >= 0)), name, "a value", "must be >= 0, and not NaN")
    best = -np.sort(-pool, axis=1)[:, :k]
    ideal = best @ position_weights(best.shape[1])
    got = gains[:, :k] @ position_weights(k)
    if np.any(got > ideal * (1 + 1e-9)):
        row = int(np.argmax(got - ideal))
        raise InputError(f"ranked[{row}] holds more relevance than judged[{row}]; judge all shown")
    return np.divide(got, ideal, out=np.full(len(gains), np.nan), where=ideal > 0)


@dataclass(frozen=True)
class NdcgReport:
    """NDCG by user group; ``left_out`` counts each group's users without any relevant item."""

    report: GroupReport
    left_out: Mapping[str, int]

    @property
    def gap(self) -> Disparity:
        """Largest minus smallest group mean, with interval and permutation null."""
        return self.report.disparity("ndcg")


def ndcg_by_group(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
    min_rows: int = 50,
) -> NdcgReport:
    """Does the ranking work equally well for every group of users?

    Parameters
    ----------
    values : float array of shape [users]
        :func:`ndcg` of each user; NaN for a user without a relevant item, who is left out and
        counted.
    groups : array of shape [users]
    n_boot, n_permutations, seed, min_rows
        As for :func:`labs.lab3_fairness.group_metrics.group_metrics`.

    Raises
    ------
    InputError
        For a value outside 0 to 1, or a group all of whose users would be left out.
    """
    quality = np.asarray(values, dtype=np.float64)
    require(quality.ndim == 1, "shape of values", quality.shape, "must be [users]")
    codes, names = group_codes(groups, len(quality))
    known = ~np.isnan(quality)
    inside = bool(np.all((quality[known] >= 0) & (quality[known] <= 1 + 1e-9)))
    require(inside, "values", "an NDCG", "must be 0 to 1, or NaN for a user without relevant items")
    counts = np.bincount(codes[~known], minlength=len(names))
    for name, out, total in zip(names, counts, np.bincount(codes)):
        require(out < total, "users left out", int(out), f"must be < {total} in group {name!r}")
    labels = np.array([str(name) for name in names], dtype=object)[codes]
    report = _audit(
        quality[known],
        labels[known],
        "ndcg",
        n_boot,
        n_permutations,
        seed,
        min_rows=min_rows,
        bounds=(0.0, 1.0),
    )
    return NdcgReport(report, {str(name): int(out) for name, out in zip(names, counts)})


def _audit(
    values: NDArray[np.float64],
    groups: ArrayLike,
    name: str,
    n_boot: int,
    n_permutations: int,
    seed: int,
    *,
    min_rows: int = 50,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> GroupReport:
    return group_metrics(
        np.zeros(len(values)),
        values,
        groups,
        {name: mean_prediction},
        bounds={name: bounds},
        n_boot=n_boot,
        n_permutations=n_permutations,
        seed=seed,
        min_rows=min_rows,
    )
