"""Accuracy against disparity: the frontier of one model, and whether any method lies beyond it.

Every method of mitigation is a point: accuracy, and two gaps. Post-processing one good model gives
not a point but a surface, the most accurate rule for every pair of bounds. So each method can be
asked one question: what does the surface offer at the gaps that this method has?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.decisions import Outcome, outcome
from labs.lab3_fairness.mitigation import Mitigated, timed
from labs.lab3_fairness.postprocessing import Constraint, fairlearn_positive
from labs.lab3_fairness.relaxed_odds import Array, ScoreBins, monotone_relaxed_odds, score_bins
from labs.lab3_fairness.resampling import percentile_interval
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.target_rules import BINS, ScoredRows

Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The best accuracy of the programme at each of k bounds, promised and on the test rows.

    Arrays of shape [k]. ``promised`` is on the validation rows; ``accuracy``, ``dp_diff`` and
    ``eo_diff`` are what the rule does on rows that did not choose it.
    """

    bounds: Array
    promised: Array
    accuracy: Array
    dp_diff: Array
    eo_diff: Array


@dataclass(frozen=True)
class Comparison:
    """A method, and the programme's rule at the method's own gaps on the same test rows.

    ``gain`` is the programme's accuracy minus the method's; ``dp_excess`` and ``eo_excess`` are
    its gaps minus the method's (it was held to the method's gaps on validation rows, so on the
    test rows it can miss them). Intervals are of paired, stratified resamples.
    """

    method: Mitigated
    method_outcome: Outcome
    programme_outcome: Outcome
    gain: float
    gain_ci95: Interval
    dp_excess: float
    dp_excess_ci95: Interval
    eo_excess: float
    eo_excess_ci95: Interval

    @property
    def beaten(self) -> bool:
        """The programme is more accurate, and chance does not explain it."""
        return self.gain_ci95[0] > 0

    @property
    def ahead(self) -> bool:
        """The method is more accurate than the programme, and chance does not explain it."""
        return self.gain_ci95[1] < 0


def pareto(accuracy: ArrayLike, *gaps: ArrayLike) -> NDArray[np.bool_]:
    """Which of n points no other point beats.

    A point is beaten by another at least as accurate with gaps at most as large, and better in
    one of these. Equal points do not beat each other.

    Parameters
    ----------
    accuracy : array of shape [n]
        Larger is better.
    gaps : arrays of shape [n]
        One or more; smaller is better.

    Returns
    -------
    bool array of shape [n]

    Raises
    ------
    InputError
        For lengths that differ, NaN, or no gap.
    """
    columns = [np.asarray(accuracy, dtype=float), *(-np.asarray(gap, dtype=float) for gap in gaps)]
    require(len(columns) >= 2, "gaps", len(gaps), "must be at least one")
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise InputError(f"shapes {[c.shape for c in columns]} must be one [n]; align the points")
    values = np.stack(columns, axis=1)
    require(not np.isnan(values).any(), "points", "NaN", "must be numbers", "leave the point out")
    no_worse = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def frontier_curve(
    validation: ScoredRows,
    test: ScoredRows,
    dp_bounds: Sequence[float],
    eo_bounds: Sequence[float],
    *,
    n_bins: int = BINS,
) -> Curve:
    """The programme's rule at each pair of bounds, applied to the test rows.

    Parameters
    ----------
    validation
        Chooses.
    test
        Judges.
    dp_bounds, eo_bounds
        Of one length k, 0 to 1; 1 is no bound. ``bounds`` of the result is the tighter of a pair.
    """
    if len(dp_bounds) != len(eo_bounds):
        raise InputError(f"dp_bounds {len(dp_bounds)} and eo_bounds {len(eo_bounds)} must pair up")
    bins = _bins(validation, n_bins)
    found = np.empty((4, len(dp_bounds)))
    for number, (dp_bound, eo_bound) in enumerate(zip(dp_bounds, eo_bounds)):
        rule = monotone_relaxed_odds(bins, dp_bound=dp_bound, eo_bound=eo_bound)
        result = outcome(
            test.labels, rule.positive(test.scores, test.groups), test.groups, n_boot=1
        )
        found[:, number] = rule.accuracy, result.accuracy, result.dp_diff, result.eo_diff
    return Curve(np.minimum(dp_bounds, eo_bounds), *found)


def frontier_surface(
    bins: ScoreBins, dp_bounds: Sequence[float], eo_bounds: Sequence[float]
) -> Array:
    """The best accuracy, promised on validation rows, for every pair of bounds.

    Returns
    -------
    float64 array of shape [len(dp_bounds), len(eo_bounds)]
        Never falls in either direction.
    """
    return np.array(
        [
            [monotone_relaxed_odds(bins, dp_bound=dp, eo_bound=eo).accuracy for eo in eo_bounds]
            for dp in dp_bounds
        ]
    )


def compare_with_programme(
    methods: Sequence[Mitigated],
    validation: ScoredRows,
    test: ScoredRows,
    *,
    n_bins: int = BINS,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Ask of every method what post-processing the given model offers at the method's gaps.

    The method's gaps on the test rows become the bounds of the programme, which is solved on
    validation rows and applied to the same test rows. The bounds are the only thing taken from
    the test rows, and they favour the method: its gaps are met exactly, the programme's are not.

    Parameters
    ----------
    methods
        Of whatever family, their decisions about the test rows in the order of ``test``.
    validation, test
        Scores of the model that is post-processed.
    n_boot, seed
        Paired resamples, and their seed.

    Raises
    ------
    InputError
        For a method that decided about another number of rows, or two of one name.
    """
    names = [method.name for method in methods]
    twice = {name for name in names if names.count(name) > 1}
    require(not twice, "methods", sorted(twice), "must have names of their own")
    bins = _bins(validation, n_bins)
    return tuple(_compare(method, bins, test, n_boot, seed) for method in methods)


def paired_gaps(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[Array, Array]:
    """(accuracy, DP, EO) of two rules on the same rows, observed and in paired resamples.

    Parameters
    ----------
    labels, first, second, groups : arrays of shape [n]
        ``first`` and ``second`` are P(Ŷ=1) by the two rules.

    Returns
    -------
    observed : float64 array of shape [2, 3]
    replicates : float64 array of shape [n_boot, 2, 3]
        Every replicate draws the same rows for both rules, as many of each group as there are.
    """
    truth, one, two = (np.asarray(a, dtype=float) for a in (labels, first, second))
    if not truth.shape == one.shape == two.shape or truth.ndim != 1:
        raise InputError(f"labels {truth.shape}, rules {one.shape} and {two.shape} must be [n]")
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    codes, names = group_codes(groups, len(truth))
    rng = np.random.default_rng(seed)
    sums = np.empty((n_boot + 1, len(names), 7))
    for code in range(len(names)):
        rows = codes == code
        cells, counts = np.unique(
            np.stack([truth[rows], one[rows], two[rows]], axis=1), axis=0, return_counts=True
        )
        y, a, b = cells.T
        values = np.stack([np.ones(len(y)), y, 1 - y, a * y, a * (1 - y), b * y, b * (1 - y)], 1)
        n = int(counts.sum())
        sums[0, code] = counts @ values
        sums[1:, code] = rng.multinomial(n, counts / n, size=n_boot) @ values
    measured = np.stack([_measure(sums, 3), _measure(sums, 5)], axis=1)
    return measured[0], measured[1:]


def _compare(
    method: Mitigated, bins: ScoreBins, test: ScoredRows, n_boot: int, seed: int
) -> Comparison:
    own = outcome(test.labels, method.positive, test.groups, n_boot=n_boot, seed=seed)
    rule = monotone_relaxed_odds(bins, dp_bound=own.dp_diff, eo_bound=own.eo_diff)
    positive = rule.positive(test.scores, test.groups)
    offered = outcome(test.labels, positive, test.groups, n_boot=n_boot, seed=seed)
    observed, replicates = paired_gaps(
        test.labels, positive, method.positive, test.groups, n_boot=n_boot, seed=seed
    )
    difference = observed[0] - observed[1]
    spread = replicates[:, 0] - replicates[:, 1]
    accuracy, dp, eo = ((float(difference[k]), percentile_interval(spread[:, k])) for k in range(3))
    return Comparison(method, own, offered, *accuracy, *dp, *eo)


def _measure(sums: Array, column: int) -> Array:
    """[b, groups, 7] sums to (accuracy, DP, EO) of the rule at ``column``, shape [b, 3]."""
    n, positives, negatives = sums[..., 0], sums[..., 1], sums[..., 2]
    hits, alarms = sums[..., column], sums[..., column + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        selection, tpr, fpr = (hits + alarms) / n, hits / positives, alarms / negatives
    accuracy = (hits + negatives - alarms).sum(axis=-1) / n.sum(axis=-1)
    odds = np.maximum(np.ptp(tpr, axis=-1), np.ptp(fpr, axis=-1))
    return np.stack([accuracy, np.ptp(selection, axis=-1), odds], axis=-1)


def _bins(rows: ScoredRows, n_bins: int) -> ScoreBins:
    return score_bins(rows.scores, rows.labels, rows.groups, n_bins=n_bins)


def fairlearn_rules(validation: ScoredRows, test: ScoredRows) -> list[Mitigated]:
    """fairlearn's ``ThresholdOptimizer`` on the same scores, for both constraints."""

    def rule(name: str, constraint: Constraint) -> Mitigated:
        return timed(
            name,
            "post",
            lambda: fairlearn_positive(
                validation.scores,
                validation.labels,
                validation.groups,
                test.scores,
                test.groups,
                constraint,
            ),
            randomised=True,
            needs_group=True,
        )

    return [
        rule("threshold_optimizer_dp", "demographic_parity"),
        rule("threshold_optimizer_eo", "equalized_odds"),
    ]
