"""One report a group: bias, slope, calibration error, Brier score, beside what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.isotonic import isotonic_regression

from common.statistics import Z95
from labs.lab3_fairness.calibration import (
    Floats,
    bin_codes,
    calibration_errors,
    checked_scores,
    ece_null,
    equal_mass_edges,
    logits,
)
from labs.lab3_fairness.row_metrics import group_codes


@dataclass(frozen=True)
class GroupCalibration:
    """One group's calibration, each value beside its error or what chance gives.

    Attributes
    ----------
    in_the_large
        Mean score minus base rate: above 0, the score says more than happens.
    slope, intercept
        Of a logistic regression of the label on the score's logit. A slope below 1: too extreme.
        NaN where the group holds one label only.
    ece
        Plug-in expected calibration error, never 0.
    ece_null_mean, ece_null_q95, p_value
        Its distribution under perfect calibration, and the share of that above ``ece``.
    rms
        ``sqrt(max(0, debiased squared error))``, with an interval.
    brier, miscalibration, discrimination, uncertainty
        ``brier = miscalibration - discrimination + uncertainty``.
    """

    group: str
    n: int
    base_rate: float
    mean_score: float
    in_the_large: float
    in_the_large_ci95: tuple[float, float]
    intercept: float
    slope: float
    slope_ci95: tuple[float, float]
    ece: float
    ece_null_mean: float
    ece_null_q95: float
    p_value: float
    rms: float
    rms_ci95: tuple[float, float]
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float


def calibration_report(
    y_true: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    n_bins: int = 10,
    n_simulations: int = 1000,
    seed: int = 0,
) -> tuple[GroupCalibration, ...]:
    """Calibration of each group with its intervals and its null, groups in sorted order.

    Parameters
    ----------
    y_true, scores, groups, n_bins
        As for :func:`calibration_errors`.
    n_simulations
        Perfectly calibrated data sets for the null of the ECE.
    seed
        Of these.
    """
    truth, chance = checked_scores(y_true, scores)
    codes, names = group_codes(groups, len(truth))
    errors = calibration_errors(truth, chance, codes, n_bins=n_bins)
    reports = []
    for code, name in enumerate(names):
        y, s = truth[codes == code], chance[codes == code]
        edges = equal_mass_edges(s, max(1, min(n_bins, len(s) // 2)))
        null = ece_null(s, edges, n_simulations=n_simulations, seed=seed)
        plug_in, debiased = errors["ece"].iloc[code], errors["debiased"].iloc[code]
        residual = s - y
        several = len(s) > 1
        half = Z95 * residual.std(ddof=1) / np.sqrt(len(s)) if several else float("nan")
        large = float(residual.mean())
        intercept, slope, slope_error = calibration_line(y, s)
        spread = Z95 * _debiased_error(y, s, edges)
        miscalibration, discrimination, uncertainty = brier_decomposition(y, s)
        reports.append(
            GroupCalibration(
                group=str(name),
                n=len(s),
                base_rate=float(y.mean()),
                mean_score=float(s.mean()),
                in_the_large=large,
                in_the_large_ci95=(large - half, large + half),
                intercept=intercept,
                slope=slope,
                slope_ci95=(slope - Z95 * slope_error, slope + Z95 * slope_error),
                ece=float(plug_in),
                ece_null_mean=float(null.mean()),
                ece_null_q95=float(np.quantile(null, 0.95)),
                p_value=float((1 + np.sum(null >= plug_in - 1e-12)) / (1 + n_simulations)),
                rms=_root(debiased),
                rms_ci95=(_root(debiased - spread), _root(debiased + spread)),
                brier=float(np.mean((y - s) ** 2)),
                miscalibration=miscalibration,
                discrimination=discrimination,
                uncertainty=uncertainty,
            )
        )
    return tuple(reports)


def calibration_table(reports: Sequence[GroupCalibration]) -> pd.DataFrame:
    """One row a group, indexed by it, with the fields of :class:`GroupCalibration`."""
    return pd.DataFrame([asdict(report) for report in reports]).set_index("group")


def brier_decomposition(y_true: ArrayLike, scores: ArrayLike) -> tuple[float, float, float]:
    """Miscalibration, discrimination and uncertainty: ``Brier = MCB - DSC + UNC``, exactly.

    The reference is the score recalibrated by isotonic regression (PAV) on the same rows, so
    there are no bins to choose: ``MCB = B(s) - B(pav)``, ``DSC = B(ȳ) - B(pav)``, ``UNC = B(ȳ)``.
    When a rising score has a rising positive rate, value by value, it is Murphy's decomposition
    (1973). In-sample like the plug-in ECE, MCB is never below 0 and biased upward.

    References
    ----------
    Dimitriadis, Gneiting, Jordan: Stable reliability diagrams, PNAS 2021, equation 3.
    """
    truth, chance = checked_scores(y_true, scores)
    _, place, n = np.unique(chance, return_inverse=True, return_counts=True)
    rates = np.bincount(place, truth) / n
    fitted = isotonic_regression(rates, sample_weight=n)[place]
    best = float(np.mean((truth - fitted) ** 2))
    constant = float(truth.mean() * (1 - truth.mean()))
    return float(np.mean((truth - chance) ** 2)) - best, constant - best, constant


def calibration_line(y_true: ArrayLike, scores: ArrayLike) -> tuple[float, float, float]:
    """Intercept, slope and the slope's standard error of Cox's calibration line.

    ``logit P(Y=1) = a + b logit(s)``; a perfect score has a = 0 and b = 1. NaN where the rows hold
    one label or one score only, or where the score separates the labels.

    References
    ----------
    Cox: Two further applications of a model for binary regression, Biometrika 1958.
    """
    truth, chance = checked_scores(y_true, scores)
    if len(np.unique(truth)) < 2 or len(np.unique(chance)) < 2:
        return float("nan"), float("nan"), float("nan")
    design = np.stack([np.ones(len(truth)), logits(chance)], axis=1)
    coefficients, covariance = fit_logistic(design, truth)
    if not np.isfinite(coefficients).all():
        return float("nan"), float("nan"), float("nan")
    return float(coefficients[0]), float(coefficients[1]), float(np.sqrt(covariance[1, 1]))


def fit_logistic(design: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Logistic regression without penalty by Newton's method: coefficients and covariance.

    Parameters
    ----------
    design : array of shape [n, k]
        The intercept is a column like any other.
    labels : array of shape [n]
        0 or 1.

    Returns
    -------
    coefficients [k], covariance [k, k]
        NaN where there is no maximum: one label only, or labels that the columns separate.
    """
    beta = np.zeros(design.shape[1])
    nothing = np.full(len(beta), np.nan), np.full((len(beta), len(beta)), np.nan)
    loss = np.inf
    for _ in range(100):
        fitted = expit(design @ beta)
        information = (design * (fitted * (1 - fitted))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            return nothing
        step = np.linalg.solve(information, design.T @ (labels - fitted))
        # A full step can overshoot; halve it until the loss falls.
        for _ in range(30):
            odds = design @ (beta + step)
            new = float(np.logaddexp(0, odds).sum() - odds @ labels)
            if new <= loss + 1e-9 * abs(loss) or not np.isfinite(loss):
                break
            step = step / 2
        beta, loss = beta + step, new
        if abs(step).max() < 1e-10:
            return beta, np.asarray(np.linalg.inv(information), dtype=np.float64)
    return nothing


def _debiased_error(y: Floats, s: Floats, edges: Floats) -> float:
    """Standard error of the debiased squared error: ``var(r̄²) = 4 r̄² v + 2 v²``, v = var(r̄)."""
    codes = bin_codes(s, edges)
    n = np.bincount(codes)
    kept = n > 1
    n = n[kept]
    residual = y - s
    mean = np.bincount(codes, residual)[kept] / n
    spread = (np.bincount(codes, residual**2)[kept] / n - mean**2) / (n - 1)
    weight = n / n.sum() if n.size else n
    # 4 r̄² v with the bias of r̄² taken out, so that the noise is not counted twice.
    return float(
        np.sqrt(weight**2 @ (4 * np.maximum(0, mean**2 - spread) * spread + 2 * spread**2))
    )


def _root(value: float) -> float:
    return float(np.sqrt(max(0.0, value))) if np.isfinite(value) else float("nan")
