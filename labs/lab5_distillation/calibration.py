"""Does a confidence of 0.9 mean right nine times in ten? Of many classes, the chosen one's.

A mean of absolute gaps is above 0 for a perfect model too, and most with few texts, so the error
stands beside what a calibrated model with the same confidences would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from common.statistics import proportion_ci

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
LIMITS = (0.05, 20.0)  # of the temperature
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram that hold texts, by rising confidence; arrays are [bins].

    ``low`` to ``high`` is the Wilson 95 % interval of ``accuracy``.
    """

    n: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Temperature:
    """A divisor of the logits, fitted to labels.

    ``at_limit``: every text was right, so that the likelihood only rises as T falls, or the fit
    ended at an end of 0.05 to 20. Then it is no estimate.
    """

    value: float
    nll_before: float
    nll_after: float
    at_limit: bool


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart, on one student's answers to n texts.

    Attributes
    ----------
    accuracy, confidence
        Their means; confidence above accuracy is overconfidence.
    ece
        `expected_calibration_error`, bins of equal width.
    adaptive
        The same with bins of equal mass.
    chance
        Mean ``ece`` of a calibrated model with these confidences: what the number of texts gives.
    chance_95
        95 % of such models have less.
    debiased
        Mean squared gap without its bias, in bins of equal mass; may be below 0.
    nll, brier
        Proper scores: means over texts of ``-log p[label]`` and ``sum_c (p_c - y_c)**2``.
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    adaptive: float
    chance: float
    chance_95: float
    debiased: float
    nll: float
    brier: float


def log_softmax(logits: ArrayLike) -> Floats:
    """Log-probabilities, float64 [..., C], without overflow."""
    x = np.asarray(logits, dtype=float)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities, float64 [..., C]."""
    return np.asarray(np.exp(log_softmax(logits)))


def equal_width(confidence: ArrayLike, n_bins: int) -> Codes:
    """The bin of each confidence: bin b is ``(b / n_bins, (b + 1) / n_bins]``, the first with 0."""
    require(n_bins >= 1, "n_bins", n_bins, "must be at least 1", "try 15")
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], np.asarray(confidence, dtype=float))


def equal_mass(confidence: ArrayLike, n_bins: int) -> Codes:
    """The bin of each confidence, with about as many texts in each; equal ones stay together."""
    require(n_bins >= 1, "n_bins", n_bins, "must be at least 1", "try 15")
    values = np.asarray(confidence, dtype=float)
    edges = np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.searchsorted(edges, values)


def reliability(
    logits: ArrayLike, labels: ArrayLike, *, n_bins: int = BINS, mass: bool = False
) -> Reliability:
    """Accuracy against confidence in bins, with intervals; empty bins stay out.

    Parameters
    ----------
    logits : [N, C]
    labels : int [N]
    mass
        Bins of equal mass instead of equal width.
    """
    confidence, right = confidence_and_right(logits, labels)
    codes = (equal_mass if mass else equal_width)(confidence, n_bins)
    n = np.bincount(codes)
    kept = np.flatnonzero(n)
    hits = np.bincount(codes, right)[kept]
    bars = np.array([proportion_ci(int(k), int(m)) for k, m in zip(hits, n[kept])])
    mean = np.bincount(codes, confidence)[kept] / n[kept]
    return Reliability(n[kept], mean, hits / n[kept], bars[:, 0], bars[:, 1])


@exercise(
    "5.19",
    points=8,
    title="Expected calibration error",
    hint="Which class does the model stand by, and with which probability? Then one gap a bin, "
    "weighted by the share of texts in it.",
)
def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = BINS
) -> float:
    """Mean gap between accuracy and confidence over bins of equal width.

    ``ECE = sum_b n_b / N * |accuracy_b - confidence_b|``, where the confidence of a text is the
    largest of its probabilities, ``accuracy_b`` the share of texts of bin b whose likeliest class
    is the label, and ``confidence_b`` their mean confidence. ``equal_width`` gives the bin of each
    text; an empty bin counts nothing.

    Parameters
    ----------
    probabilities : [N, C]
        Each row sums to 1.
    labels : int [N]
        0 to C - 1.
    n_bins
        Number of bins between 0 and 1.

    Returns
    -------
    float
        0 to 1.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, *On Calibration of Modern Neural Networks* (2017), equation 5.
    """
    p, truth = np.asarray(probabilities, dtype=float), np.asarray(labels)
    confidence = p.max(axis=1)
    codes = equal_width(confidence, n_bins)
    # n_b * |accuracy_b - confidence_b| is the size of the sum of the gaps in b.
    gaps = np.bincount(codes, (p.argmax(axis=1) == truth) - confidence)
    return float(np.abs(gaps).sum() / len(truth))


def adaptive_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = BINS
) -> float:
    """`expected_calibration_error` with bins of equal mass.

    A good classifier has most confidences above 0.95: bins of equal width put nearly all texts into
    the last, and what happens inside it cancels.
    """
    confidence, right = _stated(probabilities, labels)
    gaps = np.bincount(equal_mass(confidence, n_bins), right - confidence)
    return float(np.abs(gaps).sum() / len(right))


def debiased_squared_error(
    probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = BINS
) -> float:
    """Mean squared gap of bins of equal mass, less what noise adds to it; below 0 half the time.

    ``sum_b w_b (gap_b**2 - v_b / n_b)``, with the sample variance ``v_b`` of the gaps of single
    texts. Bins of one text have none and stay out.

    References
    ----------
    Kumar, Liang, Ma, *Verified Uncertainty Calibration* (2019), section 5.
    """
    confidence, right = _stated(probabilities, labels)
    codes, gaps = equal_mass(confidence, n_bins), right - confidence
    n = np.bincount(codes)
    kept = n >= 2
    if not kept.any():
        raise InputError(f"{len(gaps)} texts in {n_bins} bins: none holds two; use fewer bins")
    n, means = n[kept], np.bincount(codes, gaps)[kept] / n[kept]
    squares = np.bincount(codes, gaps**2)[kept]
    variance = (squares - n * means**2) / (n - 1)
    return float((n / n.sum() * (means**2 - variance / n)).sum())


def chance_error(
    confidence: ArrayLike, *, n_bins: int = BINS, n_draws: int = 200, seed: int = 0
) -> Floats:
    """ECE of a perfectly calibrated model with these confidences: ``n_draws`` simulated values.

    Each text is right with the probability that its confidence says. With N texts and B occupied
    bins the mean is about ``sqrt(2 / pi) * sum_b sqrt(w_b v_b / N)``: it falls with the root of N.
    """
    values = np.asarray(confidence, dtype=float)
    codes, rng = equal_width(values, n_bins), np.random.default_rng(seed)
    found = np.empty(n_draws)
    for i in range(n_draws):
        gaps = np.bincount(codes, (rng.random(len(values)) < values) - values)
        found[i] = np.abs(gaps).sum() / len(values)
    return found


def calibration(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    n_bins: int = BINS,
    n_draws: int = 200,
    seed: int = 0,
) -> Calibration:
    """Errors of calibration and proper scores of one model.

    Parameters
    ----------
    logits : [N, C]
    labels : int [N]
    n_draws, seed
        Of `chance_error`.
    """
    confidence, right = confidence_and_right(logits, labels)
    p, truth = softmax(logits), np.asarray(labels)
    null = chance_error(confidence, n_bins=n_bins, n_draws=n_draws, seed=seed)
    return Calibration(
        n=len(truth),
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        ece=expected_calibration_error(p, truth, n_bins=n_bins),
        adaptive=adaptive_calibration_error(p, truth, n_bins=n_bins),
        chance=float(null.mean()),
        chance_95=float(np.quantile(null, 0.95)),
        debiased=debiased_squared_error(p, truth, n_bins=n_bins),
        nll=float(nll(logits, labels).mean()),
        brier=float(brier(logits, labels).mean()),
    )


def nll(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """``-log p[label]`` of each text, [..., N] for logits [..., N, C]."""
    rows = np.arange(np.asarray(labels).shape[-1])
    return np.asarray(-log_softmax(logits)[..., rows, np.asarray(labels)])


def brier(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """``sum_c (p_c - y_c)**2`` of each text, [..., N]; 0 to 2."""
    p, truth = softmax(logits), np.asarray(labels)
    own = p[..., np.arange(len(truth)), truth]
    return np.asarray((p**2).sum(axis=-1) - 2 * own + 1)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Temperature:
    """The divisor of all logits that makes the labels likeliest: temperature scaling.

    It changes no answer, only confidences. Fit on validation texts, judge on test texts.

    Parameters
    ----------
    logits : [N, C]
        Of validation texts.
    labels : int [N]

    Notes
    -----
    The negative log-likelihood is convex in 1 / T, so the one minimum is found by a bounded search
    over log T. Guo et al. (2017), section 4.2. A student that learned from softened targets is not
    to be divided by the T of its training: that loss compares both models at T, and the student's
    own probabilities are those at 1.
    """
    from scipy.optimize import minimize_scalar

    _, right = confidence_and_right(logits, labels)
    x = np.asarray(logits, dtype=float)

    def loss(log_temperature: float) -> float:
        return float(nll(x / exp(log_temperature), labels).mean())

    low, high = log(LIMITS[0]), log(LIMITS[1])
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    at = float(found.x)
    near = 1e-3
    at_limit = bool(right.all()) or at < low + near or at > high - near
    return Temperature(exp(at), loss(0.0), loss(at), at_limit)


def confidence_and_right(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Largest probability [N] and whether it is the label's, 0.0 or 1.0 [N], of logits [N, C]."""
    x, truth = np.asarray(logits, dtype=float), np.asarray(labels)
    if x.ndim != 2 or truth.shape != x.shape[:1] or not len(truth):
        raise InputError(f"logits {x.shape} and labels {truth.shape} must be [N, C] and [N], N > 0")
    require(bool(np.isfinite(x).all()), "logits", "NaN or infinity", "must be finite")
    inside = bool(((truth >= 0) & (truth < x.shape[1])).all())
    require(
        inside, "labels", (int(truth.min()), int(truth.max())), f"must be 0 to {x.shape[1] - 1}"
    )
    return _stated(softmax(x), truth)


def _stated(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    p = np.asarray(probabilities, dtype=float)
    return p.max(axis=1), (p.argmax(axis=1) == np.asarray(labels)).astype(float)
