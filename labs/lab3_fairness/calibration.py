"""Does a score of 0.7 mean 7 of 10, in every group? Curves and errors, and what chance gives.

A calibration error is a mean of absolute or squared values, so like a max-min gap it is above 0
even for a perfect model, and most in small groups. Two remedies are here: subtract what the
noise adds (the debiased squared error), and simulate the perfect model (the consistency null).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from common.errors import InputError, require
from common.exercises import exercise
from common.statistics import Z95, proportion_ci
from labs.lab3_fairness.resampling import blocks
from labs.lab3_fairness.row_metrics import group_codes

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
CLIP = 1e-6  # scores of 0 and 1 have no logit


@dataclass(frozen=True)
class ReliabilityCurve:
    """The bins of a reliability diagram that hold rows, by rising score; each array is [bins].

    ``low`` to ``high`` is the Wilson 95 % interval of ``positive_rate``. ``consistent_low`` to
    ``consistent_high`` is where the positive rate of a perfectly calibrated model with these
    very scores lies in 95 % of samples.
    """

    n: NDArray[np.int64]
    mean_score: Floats
    positive_rate: Floats
    low: Floats
    high: Floats
    consistent_low: Floats
    consistent_high: Floats


def equal_width_edges(n_bins: int) -> Floats:
    """``n_bins + 1`` edges from 0 to 1 at equal distances."""
    require(n_bins >= 1, "n_bins", n_bins, "must be >= 1", "try 10")
    return np.linspace(0.0, 1.0, n_bins + 1)


def equal_mass_edges(scores: ArrayLike, n_bins: int) -> Floats:
    """Edges between which about equally many scores lie; many equal scores leave bins empty."""
    require(n_bins >= 1, "n_bins", n_bins, "must be >= 1", "try 10")
    return np.quantile(np.asarray(scores, dtype=float), np.linspace(0, 1, n_bins + 1))


def bin_codes(scores: ArrayLike, edges: ArrayLike) -> Codes:
    """The bin of each score, 0 to ``len(edges) - 2``.

    The lowest bin takes in all below it, the highest all above it. A score on an inner edge is
    in the lower bin, as in scikit-learn's ``calibration_curve``.
    """
    return np.searchsorted(np.asarray(edges, dtype=float)[1:-1], np.asarray(scores, dtype=float))


def reliability_curve(y_true: ArrayLike, scores: ArrayLike, edges: ArrayLike) -> ReliabilityCurve:
    """Positive rate against mean score in bins, with intervals; empty bins stay out.

    Parameters
    ----------
    y_true, scores : arrays of shape [n]
    edges
        Of the bins, from :func:`equal_width_edges` or :func:`equal_mass_edges`.

    Notes
    -----
    The consistency bar is a normal approximation: ``mean ± 1.96 sqrt(sum s (1 - s)) / n``, cut at
    0 and 1.

    References
    ----------
    Bröcker and Smith: Increasing the Reliability of Reliability Diagrams, 2007, section 3.
    """
    truth, chance = checked_scores(y_true, scores)
    codes = bin_codes(chance, edges)
    n = np.bincount(codes)
    kept = np.flatnonzero(n)
    mean_score = np.bincount(codes, chance)[kept] / n[kept]
    positives = np.bincount(codes, truth)[kept]
    intervals = np.array([proportion_ci(int(k), int(m)) for k, m in zip(positives, n[kept])])
    half = Z95 * np.sqrt(np.bincount(codes, chance * (1 - chance))[kept]) / n[kept]
    return ReliabilityCurve(
        n=n[kept],
        mean_score=mean_score,
        positive_rate=positives / n[kept],
        low=intervals[:, 0],
        high=intervals[:, 1],
        consistent_low=np.clip(mean_score - half, 0, 1),
        consistent_high=np.clip(mean_score + half, 0, 1),
    )


@exercise(
    "3.15",
    points=8,
    title="Calibration error of each group",
    hint="Work with the residual, label minus score. A bin's squared mean residual is too large by "
    "the variance of that mean, which the bin itself tells you.",
)
def calibration_errors(
    y_true: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, n_bins: int = 10
) -> pd.DataFrame:
    """Expected calibration error of each group, and the squared error without its bias.

    With residuals ``r = y - s`` of the rows of bin b, their mean ``r̄_b``, and the bin's share of
    the group's rows ``w_b = n_b / n``:

    ============  ================================================================
    ``ece``       ``sum_b w_b |r̄_b|``
    ``squared``   ``sum_b w_b r̄_b²``
    ``debiased``  ``sum_b w_b (r̄_b² - v_b / n_b)``, v_b the sample variance of r in b
    ============  ================================================================

    ``E[r̄²] = (E r)² + var(r) / n``, so ``debiased`` is right on average, 0 for a calibrated
    model, and hence often below 0. Bins of one row have no variance: they and their weight stay
    out of ``debiased``. ``checked_scores`` and ``group_codes`` check the arguments;
    ``equal_mass_edges`` of the group's own scores and ``bin_codes`` make the bins.

    Parameters
    ----------
    y_true : array of shape [n]
        0 or 1.
    scores : array of shape [n]
        P(Y=1), not the confidence in the likelier label.
    groups : array of shape [n]
    n_bins
        Of equal mass in each group. A group of n rows gets at most n // 2 of them.

    Returns
    -------
    DataFrame
        Indexed by group, sorted; n, ece, squared, debiased. ``debiased`` is NaN for one row.

    Raises
    ------
    InputError
        For labels other than 0 and 1, scores outside 0 to 1, lengths that differ, a missing group.

    References
    ----------
    Kumar, Liang, Ma: Verified Uncertainty Calibration, NeurIPS 2019, definition 5.1: the same
    with ``ȳ (1 - ȳ) / (n_b - 1)`` for ``v_b / n_b``, equal when a bin has one score.
    """
    truth, chance = checked_scores(y_true, scores)
    codes, names = group_codes(groups, len(truth))
    require(n_bins >= 1, "n_bins", n_bins, "must be >= 1", "try 10")
    rows = []
    for code in range(len(names)):
        own = codes == code
        residual, own_scores = truth[own] - chance[own], chance[own]
        total = len(residual)
        bins = bin_codes(own_scores, equal_mass_edges(own_scores, max(1, min(n_bins, total // 2))))
        n = np.bincount(bins)
        n, sums, squares = (
            values[n > 0]
            for values in (n, np.bincount(bins, residual), np.bincount(bins, residual**2))
        )
        mean = sums / n
        several = n > 1
        m = n[several]
        variance = (squares[several] - m * mean[several] ** 2) / (m - 1)
        unbiased = mean[several] ** 2 - variance / m
        rows.append(
            {
                "n": total,
                "ece": float(n @ abs(mean) / total),
                "squared": float(n @ mean**2 / total),
                "debiased": float(m @ unbiased / m.sum()) if m.size else float("nan"),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))


def ece_null(
    scores: ArrayLike, edges: ArrayLike, *, n_simulations: int = 1000, seed: int = 0
) -> Floats:
    """The plug-in ECE of a perfectly calibrated model with these scores, [n_simulations].

    Labels are drawn as the scores say, ``y ~ Bernoulli(s)``, and the ECE is computed in the same
    bins.

    References
    ----------
    Bröcker and Smith 2007, section 3 (consistency resampling). Vaicenavicius et al.: Evaluating
    Model Calibration in Classification, AISTATS 2019, section 5.
    """
    require(n_simulations >= 1, "n_simulations", n_simulations, "must be >= 1", "try 1000")
    chance = np.asarray(scores, dtype=float)
    codes = bin_codes(chance, edges)
    order = np.argsort(codes, kind="stable")
    chance, codes = chance[order], codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    expected = np.add.reduceat(chance, starts)
    rng = np.random.default_rng(seed)
    errors = np.empty(n_simulations)
    for start, stop in blocks(n_simulations, len(chance)):
        labels = rng.random((stop - start, len(chance)), dtype=np.float32) < chance
        positives = np.add.reduceat(labels, starts, axis=1, dtype=np.int64)
        errors[start:stop] = abs(positives - expected).sum(axis=1) / len(chance)
    return errors


def logits(scores: ArrayLike) -> Floats:
    """``log(s / (1 - s))``; scores are kept 1e-6 away from 0 and 1."""
    return np.asarray(logit(np.clip(np.asarray(scores, dtype=float), CLIP, 1 - CLIP)))


def checked_scores(y_true: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Labels and scores as float64 [n].

    Raises
    ------
    InputError
        For labels other than 0 and 1, scores outside 0 to 1 or NaN, lengths that differ, no rows.
    """
    truth, chance = np.asarray(y_true, dtype=float), np.asarray(scores, dtype=float)
    if truth.shape != chance.shape or truth.ndim != 1:
        raise InputError(f"y_true {truth.shape} and scores {chance.shape} must both be [n]")
    require(len(truth) > 0, "number of rows", 0, "must be >= 1")
    _refuse(truth, ~np.isin(truth, (0, 1)), "y_true", "use 0 and 1")
    _refuse(chance, ~((chance >= 0) & (chance <= 1)), "scores", "a probability is from 0 to 1")
    return truth, chance


def _refuse(values: Floats, bad: NDArray[Any], name: str, fix: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{name}[{row}] = {values[row]}; {fix}")
