"""The most accurate rule within bounds on both gaps: a linear programme over score bins.

Give every group and every bin of the score a probability of the positive decision. Accuracy,
selection rates, true and false positive rates are then linear in these probabilities, so "most
accurate, with a demographic parity difference of at most d and an equalized odds difference of
at most e" is a linear programme, and the whole frontier of a model is solved, not searched for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from sklearn.isotonic import IsotonicRegression

from common.errors import InputError, RunError, require
from common.exercises import exercise
from labs.lab3_fairness.postprocessing import rows_to_decide
from labs.lab3_fairness.row_metrics import group_codes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreBins:
    """Validation rows counted by group and score.

    Attributes
    ----------
    groups : tuple of length G
        Sorted.
    edges : G arrays of ascending inner edges
        A score equal to an edge falls into the bin above it.
    positives, negatives : float64 arrays of shape [G, B]
        Rows with label 1 and 0, from the lowest bin to the highest. Not whole when the labels
        were smoothed; 0 in bins that a group does not use.
    """

    groups: tuple[Any, ...]
    edges: tuple[Array, ...]
    positives: Array
    negatives: Array

    def locate(self, scores: ArrayLike, groups: ArrayLike) -> tuple[NDArray[np.intp], ...]:
        """(group, bin) of each row, two int arrays of shape [n].

        InputError for a score that is not finite, or a group without validation rows.
        """
        values, members = rows_to_decide(scores, groups)
        where = np.full(len(values), -1, dtype=np.intp)
        bins = np.zeros(len(values), dtype=np.intp)
        for code, group in enumerate(self.groups):
            rows = members == group
            where[rows] = code
            bins[rows] = np.searchsorted(self.edges[code], values[rows], side="right")
        if (where < 0).any():
            unknown = members[where < 0].tolist()[0]
            raise InputError(f"group {unknown!r} was not in the validation rows {self.groups}")
        return where, bins


@dataclass(frozen=True)
class LinearProgram:
    """Maximise ``constant + gain @ q`` with ``rows @ q <= limits`` and 0 <= q <= 1.

    ``q`` of shape [G * B] is P(Ŷ=1) of group g and bin b at ``g * B + b``. ``gain`` is of shape
    [G * B], ``rows`` [m, G * B] and ``limits`` [m].
    """

    constant: float
    gain: Array
    rows: Array
    limits: Array


@dataclass(frozen=True)
class BinnedRule:
    """P(Ŷ=1) by group and score bin, and what it promises on the validation rows.

    ``accept`` is of shape [G, B]; the three numbers are in expectation over the rule's coin.
    """

    bins: ScoreBins
    accept: Array
    accuracy: float
    dp_diff: float
    eo_diff: float

    def positive(self, scores: ArrayLike, groups: ArrayLike) -> Array:
        """P(Ŷ=1) of each row, float64 of shape [n]."""
        return self.accept[self.bins.locate(scores, groups)]

    @property
    def fractional(self) -> int:
        """Bins in which the rule tosses a coin."""
        return int(np.sum((self.accept > 1e-9) & (self.accept < 1 - 1e-9)))

    @property
    def roc_points(self) -> Array:
        """(FPR, TPR) of each group on the validation rows, shape [G, 2]."""
        _, tpr, fpr = bin_rates(self.accept, self.bins.positives, self.bins.negatives)
        return np.stack([fpr, tpr], axis=1)


def score_bins(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, n_bins: int = 200
) -> ScoreBins:
    """Count rows in bins of equal size inside each group.

    Parameters
    ----------
    scores : array of shape [n]
        Finite; equal scores share a bin.
    labels : array of shape [n]
        0 or 1, or P(Y=1) of the row, as by :func:`isotonic_labels`: counts are then expected.
    groups : array of shape [n]
    n_bins
        B. More bins cut finer and follow more noise.

    Raises
    ------
    InputError
        For lengths that differ, scores that are not finite, labels outside 0 to 1, fewer than two
        groups, or a group without positives or negatives.
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if values.shape != truth.shape or values.ndim != 1:
        raise InputError(f"scores {values.shape} and labels {truth.shape} must both be [n]")
    require(bool(np.isfinite(values).all()), "scores", "NaN or infinite", "must be finite")
    outside = truth[~((truth >= 0) & (truth <= 1))]
    require(not outside.size, "labels", outside[:1].tolist(), "must be from 0 to 1")
    require(n_bins >= 2, "n_bins", n_bins, "must be >= 2", "try 200")
    codes, names = group_codes(groups, len(values))
    positives, negatives = np.zeros((2, len(names), n_bins))
    edges = []
    for code in range(len(names)):
        rows = codes == code
        inner = np.quantile(values[rows], np.arange(1, n_bins) / n_bins, method="higher")
        edges.append(np.unique(inner))
        bins = np.searchsorted(edges[-1], values[rows], side="right")
        positives[code] = np.bincount(bins, weights=truth[rows], minlength=n_bins)
        negatives[code] = np.bincount(bins, weights=1 - truth[rows], minlength=n_bins)
    _check_counts(positives, negatives, names)
    return ScoreBins(names, tuple(edges), positives, negatives)


def isotonic_labels(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> Array:
    """P(Y=1) of each row given score and group, by isotonic regression inside each group.

    In place of labels it takes out of :func:`score_bins` what no rule should follow: bins of a
    higher score with fewer positives. Parameters as there; float64 of shape [n].
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    codes, names = group_codes(groups, len(values))
    out = np.empty(len(values))
    for code in range(len(names)):
        rows = codes == code
        out[rows] = IsotonicRegression().fit_transform(values[rows], truth[rows])
    return np.clip(out, 0, 1)


def bin_rates(accept: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
    """Selection rate, TPR and FPR of each group, each of shape [G]; all arguments are [G, B]."""
    hits, alarms = (accept * positives).sum(axis=1), (accept * negatives).sum(axis=1)
    n_positive, n_negative = positives.sum(axis=1), negatives.sum(axis=1)
    return (hits + alarms) / (n_positive + n_negative), hits / n_positive, alarms / n_negative


@exercise(
    "3.12",
    points=10,
    title="Relaxed equalized odds as a linear programme",
    hint="Write one coefficient for each group and bin: what does accepting that bin add to the "
    "accuracy of everybody, to its group's selection rate, TPR and FPR? A bound on |a - b| is two "
    "rows.",
)
def relaxed_odds_program(
    positives: Array, negatives: Array, *, dp_bound: float, eo_bound: float
) -> LinearProgram:
    """The linear programme of the most accurate rule within both bounds.

    With p[g,b] and n[g,b] the positives and negatives, P[g] and N[g] their sums over the bins and
    n the number of all rows::

        maximise   (sum n[g,b] + sum (p[g,b] - n[g,b]) q[g,b]) / n           accuracy
        subject to |S[g] - S[h]| <= dp_bound      S[g] = sum_b (p + n)[g,b] q[g,b] / (P[g] + N[g])
                   |T[g] - T[h]| <= eo_bound      T[g] = sum_b p[g,b] q[g,b] / P[g]
                   |F[g] - F[h]| <= eo_bound      F[g] = sum_b n[g,b] q[g,b] / N[g]

    for every two groups g and h: six rows for two groups.

    Parameters
    ----------
    positives, negatives : float64 arrays of shape [G, B]
        As in :class:`ScoreBins`; every group has some of both.
    dp_bound, eo_bound
        The largest differences allowed, 0 to 1; 1 allows everything.

    Returns
    -------
    LinearProgram
        :func:`solve` finds its optimum.

    References
    ----------
    Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning, 2016, section 4.
    Cruz and Hardt: Unprocessing Seven Years of Algorithmic Fairness, ICLR 2024, section 3.
    """
    n_groups, n_bins = positives.shape
    everybody = float(positives.sum() + negatives.sum())
    gain = ((positives - negatives) / everybody).ravel()
    constant = float(negatives.sum()) / everybody
    selected = positives + negatives
    rates = (
        (selected / selected.sum(axis=1, keepdims=True), dp_bound),
        (positives / positives.sum(axis=1, keepdims=True), eo_bound),
        (negatives / negatives.sum(axis=1, keepdims=True), eo_bound),
    )
    rows, limits = [], []
    for shares, bound in rates:
        for high in range(n_groups):
            for low in range(n_groups):
                if high != low:
                    row = np.zeros((n_groups, n_bins))
                    row[high], row[low] = shares[high], -shares[low]
                    rows.append(row.ravel())
                    limits.append(bound)
    return LinearProgram(constant, gain, np.array(rows), np.array(limits))


def solve(program: LinearProgram) -> Array:
    """An optimal ``q`` of shape [G * B], a vertex.

    A vertex has at most as many fractional entries as rows that hold with equality: three for
    two groups. Where a group must be made worse than its score allows, many vertices are equally
    good, and which of them the solver returns means nothing.
    """
    return _maximise(program.gain, program.rows, program.limits, upper=1.0)


def relaxed_odds(bins: ScoreBins, *, dp_bound: float = 1.0, eo_bound: float = 1.0) -> BinnedRule:
    """The most accurate rule on score bins within both bounds, any bin for itself.

    Raises
    ------
    InputError
        For a bound outside 0 to 1.
    """
    program = _bounded(bins, dp_bound, eo_bound)
    return _rule(bins, solve(program).reshape(bins.positives.shape))


def monotone_relaxed_odds(
    bins: ScoreBins, *, dp_bound: float = 1.0, eo_bound: float = 1.0
) -> BinnedRule:
    """As :func:`relaxed_odds`, but within a group a higher score never has a smaller chance.

    Such a rule is a mixture of thresholds: ``q[g,b]`` is the weight of the thresholds at or below
    bin b. The weights are the variables, at least 0, of sum at most 1 in each group, and the
    programme stays linear. A vertex has at most G + 3 (G - 1) thresholds.
    """
    program = _bounded(bins, dp_bound, eo_bound)
    n_groups, n_bins = bins.positives.shape

    def by_threshold(rows: Array) -> Array:
        # Threshold t accepts the bins t, t + 1, ...: its coefficient is a sum from above.
        shaped = rows.reshape(*rows.shape[:-1], n_groups, n_bins)
        return shaped[..., ::-1].cumsum(axis=-1)[..., ::-1].reshape(rows.shape)

    total = np.kron(np.eye(n_groups), np.ones(n_bins))
    weights = _maximise(
        by_threshold(program.gain),
        np.vstack([by_threshold(program.rows), total]),
        np.concatenate([program.limits, np.ones(n_groups)]),
        upper=None,
    )
    accept = weights.reshape(n_groups, n_bins).cumsum(axis=1)
    return _rule(bins, np.clip(accept, 0, 1))


def _bounded(bins: ScoreBins, dp_bound: float, eo_bound: float) -> LinearProgram:
    for name, bound in (("dp_bound", dp_bound), ("eo_bound", eo_bound)):
        require(0 <= bound <= 1, name, bound, "must be from 0 to 1", "1 allows everything")
    return relaxed_odds_program(
        bins.positives, bins.negatives, dp_bound=dp_bound, eo_bound=eo_bound
    )


def _maximise(gain: Array, rows: Array, limits: Array, *, upper: float | None) -> Array:
    found = linprog(-gain, A_ub=rows, b_ub=limits, bounds=(0, upper), method="highs-ds")
    if found.status != 0:
        raise RunError(f"the linear programme has no solution: {found.message}")
    return np.asarray(found.x, dtype=np.float64)


def _rule(bins: ScoreBins, accept: Array) -> BinnedRule:
    accept = np.where(accept < 1e-9, 0.0, np.where(accept > 1 - 1e-9, 1.0, accept))
    correct = bins.negatives.sum() + (accept * (bins.positives - bins.negatives)).sum()
    accuracy = float(correct / (bins.positives.sum() + bins.negatives.sum()))
    gaps = [float(np.ptp(r)) for r in bin_rates(accept, bins.positives, bins.negatives)]
    return BinnedRule(bins, accept, accuracy, gaps[0], max(gaps[1:]))


def _check_counts(positives: Array, negatives: Array, names: tuple[Any, ...]) -> None:
    for label, counts in ((1, positives), (0, negatives)):
        empty = np.flatnonzero(counts.sum(axis=1) <= 0)
        if empty.size:
            raise InputError(
                f"group {names[empty[0]]!r} has no row with label {label}, so a rate among them "
                "does not exist; merge the group with another, or leave it out and say so"
            )
