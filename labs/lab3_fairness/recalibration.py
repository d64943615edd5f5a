"""Make a score mean what it says: Platt, temperature and isotonic, for all or for each group.

One map for everybody keeps the order of people and moves the share above a threshold. One map a
group reorders people across groups, uses the group at decision time, and moves both gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score

from common.errors import InputError, require
from labs.lab3_fairness.calibration import Floats, calibration_errors, checked_scores, logits
from labs.lab3_fairness.calibration_report import calibration_report, fit_logistic
from labs.lab3_fairness.decisions import Interval, Outcome, outcome
from labs.lab3_fairness.resampling import percentile_interval
from labs.lab3_fairness.row_metrics import group_codes

ScoreMap = Callable[[ArrayLike], Floats]
FitMap = Callable[[ArrayLike, ArrayLike], ScoreMap]


@dataclass(frozen=True)
class LogitMap:
    """``s -> sigmoid(intercept + slope logit(s))``."""

    intercept: float
    slope: float

    def __call__(self, scores: ArrayLike) -> Floats:
        """Map scores [n] to scores [n]."""
        return np.asarray(expit(self.intercept + self.slope * logits(scores)), dtype=np.float64)


@dataclass(frozen=True)
class StepMap:
    """A rising step function, constant outside the scores it was fitted on."""

    model: Any

    def __call__(self, scores: ArrayLike) -> Floats:
        """Map scores [n] to scores [n]."""
        return np.asarray(self.model.predict(np.asarray(scores, dtype=float)), dtype=np.float64)


@dataclass(frozen=True)
class GroupMap:
    """A map for each group; InputError for a group that had none."""

    maps: dict[Any, ScoreMap]

    def __call__(self, scores: ArrayLike, groups: ArrayLike) -> Floats:
        """Map scores [n] of rows in groups [n]."""
        values, members = np.asarray(scores, dtype=float), np.asarray(groups)
        if values.shape != members.shape:
            raise InputError(f"scores {values.shape} and groups {members.shape} must both be [n]")
        out = np.full(len(values), np.nan)
        for name, each in self.maps.items():
            own = members == name
            if own.any():
                out[own] = each(values[own])
        if np.isnan(out).any():
            unknown = members[np.isnan(out)][0]
            raise InputError(f"group {str(unknown)!r} was not fitted; known: {sorted(self.maps)}")
        return out


def platt(y_true: ArrayLike, scores: ArrayLike) -> LogitMap:
    """Platt scaling: logistic regression of the label on the logit of the score.

    Parameters
    ----------
    y_true, scores : arrays of shape [n]
        Out of fold: on rows the model was trained on, its scores are too extreme.

    Raises
    ------
    InputError
        For bad labels or scores, one label only, or scores that separate the labels.

    References
    ----------
    Platt: Probabilistic Outputs for Support Vector Machines, 1999 (without its smoothed targets).
    """
    truth, chance = _both_labels(y_true, scores)
    design = np.stack([np.ones(len(truth)), logits(chance)], axis=1)
    coefficients, _ = fit_logistic(design, truth)
    if not np.isfinite(coefficients).all():
        raise InputError("scores separate the labels or are one value; give more rows, or pool")
    return LogitMap(float(coefficients[0]), float(coefficients[1]))


def temperature_scaling(y_true: ArrayLike, scores: ArrayLike) -> LogitMap:
    """Temperature scaling: divide the logit by the T with the least log loss, 0.01 to 100.

    Only how extreme scores are can change: at a threshold of 0.5 no decision does. Parameters and
    errors as for :func:`platt`.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    truth, chance = _both_labels(y_true, scores)
    odds = logits(chance)

    def loss(log_temperature: float) -> float:
        scaled = odds * np.exp(-log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))

    found = minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded")
    return LogitMap(0.0, float(np.exp(-found.x)))


def isotonic(y_true: ArrayLike, scores: ArrayLike) -> StepMap:
    """Isotonic regression: the rising step function with the least squared error.

    It can have any shape, and so needs more rows; it makes ties, which cost AUC.

    References
    ----------
    Zadrozny and Elkan: Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, KDD 2002.
    """
    truth, chance = _both_labels(y_true, scores)
    return StepMap(IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(chance, truth))


METHODS: dict[str, FitMap] = {
    "platt": platt,
    "temperature": temperature_scaling,
    "isotonic": isotonic,
}


def per_group(
    fit: FitMap, y_true: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, min_rows: int = 50
) -> GroupMap:
    """Fit one map a group.

    Raises
    ------
    InputError
        For a group with fewer than ``min_rows`` rows, or with one label only.
    """
    truth, chance = checked_scores(y_true, scores)
    codes, names = group_codes(groups, len(truth))
    maps = {}
    for code, name in enumerate(names):
        own = codes == code
        require(
            int(own.sum()) >= min_rows,
            f"rows of group {name!r}",
            int(own.sum()),
            f"must be >= min_rows = {min_rows}",
            "pool it with another group",
        )
        if len(np.unique(truth[own])) < 2:
            raise InputError(f"group {name!r} has only the label {truth[own][0]:.0f}; pool it")
        maps[name] = fit(truth[own], chance[own])
    return GroupMap(maps)


@dataclass(frozen=True)
class Scored:
    """Rows on which a map is fitted or judged: labels, scores and groups, arrays of shape [n]."""

    y_true: NDArray[Any]
    scores: Floats
    groups: NDArray[Any]


@dataclass(frozen=True)
class Recalibrated:
    """What one recalibration does on rows it was not fitted on.

    ``worst_group`` has the largest calibration error ``worst_rms`` (debiased, with its interval).
    ``n_rejected`` groups differ from a perfectly calibrated score at 5 % / groups. AUC compares
    everybody, across groups.
    """

    method: str
    scope: str
    scores: Floats
    worst_group: str
    worst_rms: float
    worst_rms_ci95: Interval
    n_rejected: int
    auc: float
    auc_ci95: Interval
    log_loss: float
    outcome: Outcome


def compare_recalibrations(
    fitted_on: Scored,
    judged_on: Scored,
    *,
    threshold: float = 0.5,
    n_bins: int = 10,
    n_boot: int = 500,
    seed: int = 0,
) -> tuple[Recalibrated, ...]:
    """Fit every method for all and for each group; judge calibration and price on other rows.

    Parameters
    ----------
    fitted_on
        Out-of-fold scores of the training rows.
    judged_on
        Test rows with the scores of the final model.
    threshold
        Scores above it are a positive decision; the same for all groups.
    n_bins, n_boot, seed
        Of the calibration error and the intervals; the null takes ``n_boot`` simulations.

    Returns
    -------
    tuple of Recalibrated
        The scores as they are, then each of ``METHODS`` with scope ``pooled`` and ``per group``.
    """
    require(0 < threshold < 1, "threshold", threshold, "must be between 0 and 1")
    results = [
        _judge("none", "pooled", judged_on.scores, judged_on, threshold, n_bins, n_boot, seed)
    ]
    for name, fit in METHODS.items():
        pooled = fit(fitted_on.y_true, fitted_on.scores)(judged_on.scores)
        each = per_group(fit, fitted_on.y_true, fitted_on.scores, fitted_on.groups)
        grouped = each(judged_on.scores, judged_on.groups)
        for scope, new in (("pooled", pooled), ("per group", grouped)):
            results.append(_judge(name, scope, new, judged_on, threshold, n_bins, n_boot, seed))
    return tuple(results)


def _judge(
    method: str,
    scope: str,
    scores: Floats,
    rows: Scored,
    threshold: float,
    n_bins: int,
    n_boot: int,
    seed: int,
) -> Recalibrated:
    groups = calibration_report(
        rows.y_true, scores, rows.groups, n_bins=n_bins, n_simulations=n_boot, seed=seed
    )
    debiased = calibration_errors(rows.y_true, scores, rows.groups, n_bins=n_bins)["debiased"]
    worst = groups[int(np.nanargmax(debiased.to_numpy()))]
    return Recalibrated(
        method=method,
        scope=scope,
        scores=scores,
        worst_group=worst.group,
        worst_rms=worst.rms,
        worst_rms_ci95=worst.rms_ci95,
        n_rejected=sum(group.p_value <= 0.05 / len(groups) for group in groups),
        auc=float(roc_auc_score(rows.y_true, scores)),
        auc_ci95=_auc_interval(rows.y_true, scores, n_boot, seed),
        log_loss=float(log_loss(rows.y_true, np.clip(scores, 1e-6, 1 - 1e-6))),
        outcome=outcome(rows.y_true, scores > threshold, rows.groups, n_boot=n_boot, seed=seed),
    )


def _auc_interval(y_true: NDArray[Any], scores: Floats, n_boot: int, seed: int) -> Interval:
    """Bootstrap over positives and over negatives; rows are weighted, so scores sort once."""
    positive = np.asarray(y_true) == 1
    _, place = np.unique(scores, return_inverse=True)
    counts = [np.bincount(place[rows], minlength=place.max() + 1) for rows in (positive, ~positive)]
    rng = np.random.default_rng(seed)
    values = np.empty(n_boot)
    for number in range(n_boot):
        up, down = (rng.multinomial(n.sum(), n / n.sum()).astype(float) for n in counts)
        below = np.cumsum(down) - down / 2
        values[number] = up @ below / (up.sum() * down.sum())
    return percentile_interval(values)


def _both_labels(y_true: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    truth, chance = checked_scores(y_true, scores)
    if len(np.unique(truth)) < 2:
        raise InputError(f"y_true has only the label {truth[0]:.0f}; a map needs both")
    return truth, chance
