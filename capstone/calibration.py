"""A predicted 3 % must happen 3 times in 100: Platt scaling, and how far scores are from it.

The value of an item multiplies probabilities by weights, so a head that is twice too high doubles
its own weight. Ranking by one head would not notice; a weighted sum of heads does. The fits and
the curves are lab 3's; here are the map that is served, its file, and normalised entropy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, xlogy

from common.errors import InputError, require

if TYPE_CHECKING:
    from labs.lab3_fairness.calibration import ReliabilityCurve

Floats = NDArray[np.float64]
BINS = 15
TINY = 1e-12
"""Distance that a score keeps from 0 and 1, which have no logit."""


@dataclass(frozen=True)
class Platt:
    """``p -> sigmoid(a logit(p) + b)``: rising, so the order of items within a head stays.

    ``a = 1, b = 0`` changes nothing. ``a < 1`` pulls scores that are too extreme together; ``b``
    moves all odds by the factor ``exp(b)``, as sampling does (:mod:`capstone.downsampling`).

    Raises
    ------
    InputError
        For a slope that is not above 0 (it would turn the ranking upside down) or not finite.

    References
    ----------
    Platt, *Probabilistic Outputs for Support Vector Machines* (1999).
    """

    a: float = 1.0
    b: float = 0.0

    def __post_init__(self) -> None:
        require(
            bool(np.isfinite(self.a)) and self.a > 0,
            "slope a of a Platt map", self.a, "must be finite and > 0",
            "a score whose order is reversed is a bug of the head, not of its calibration",
        )  # fmt: skip
        require(bool(np.isfinite(self.b)), "intercept b of a Platt map", self.b, "must be finite")

    def apply(self, p: ArrayLike) -> Floats:
        """Calibrated probabilities, same shape as ``p``, strictly between 0 and 1."""
        clipped = np.clip(np.asarray(p, dtype=np.float64), TINY, 1 - TINY)
        return np.asarray(expit(self.a * logit(clipped) + self.b))


def fit_platt(p: ArrayLike, y: ArrayLike) -> Platt:
    """The Platt map with the greatest likelihood (lab 3's logistic regression on the logit).

    Parameters
    ----------
    p : [n]
        Scores between 0 and 1 of rows that the model was *not* trained on.
    y : [n]
        0 or 1.

    Raises
    ------
    InputError
        For bad scores or labels, labels of one kind, or a fitted slope <= 0.
    """
    from labs.lab3_fairness.recalibration import platt

    fitted = platt(_numbers(y), _numbers(p))
    return Platt(fitted.slope, fitted.intercept)


def fit_isotonic(p: ArrayLike, y: ArrayLike) -> Callable[[ArrayLike], Floats]:
    """Lab 3's isotonic regression: any rising shape, needs more rows, and makes ties.

    Parameters and errors as for :func:`fit_platt`; returns a map of scores [n] to scores [n].
    """
    from labs.lab3_fairness.recalibration import isotonic

    return isotonic(_numbers(y), _numbers(p))


def expected_calibration_error(p: ArrayLike, y: ArrayLike, bins: int = BINS) -> float:
    """``sum_b n_b / n |mean y - mean p|`` over the bins of :func:`reliability`.

    Never 0 in a sample: compare it with :attr:`Calibration.chance_95`.

    Parameters
    ----------
    p, y : [n]
        Probabilities, and labels of 0 or 1.
    """
    curve = reliability(p, y, bins)
    return float(curve.n @ np.abs(curve.positive_rate - curve.mean_score) / curve.n.sum())


def log_loss(p: ArrayLike, y: ArrayLike) -> float:
    """Mean of ``-y log p - (1 - y) log(1 - p)``, in nats; p, y : [n]."""
    chance, truth = np.clip(_numbers(p), TINY, 1 - TINY), _numbers(y)
    return float(-(xlogy(truth, chance) + xlogy(1 - truth, 1 - chance)).mean())


def normalised_entropy(p: ArrayLike, y: ArrayLike) -> float:
    """Log loss divided by that of always predicting the mean of ``y``; below 1 the head knows more.

    A rare event has a small log loss however bad the model is; the ratio can be compared across
    heads and days. Unlike AUC it sees calibration: multiply all scores by 2 and it rises.

    Parameters
    ----------
    p, y : [n]
        Probabilities, and labels of 0 or 1, some of each.

    Raises
    ------
    InputError
        For labels of one kind: their entropy is 0.

    References
    ----------
    He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook* (2014), equation 1,
    with the mean of these labels as the background rate.
    """
    truth = _numbers(y)
    rate = float(truth.mean()) if len(truth) else 0.0
    require(0 < rate < 1, "mean of y", rate, "must be between 0 and 1", "give rows of both kinds")
    return log_loss(p, truth) / log_loss(np.full(len(truth), rate), truth)


def reliability(p: ArrayLike, y: ArrayLike, bins: int = BINS) -> ReliabilityCurve:
    """Lab 3's reliability curve over bins of equal mass, with Wilson intervals; p, y : [n]."""
    from labs.lab3_fairness.calibration import equal_mass_edges, reliability_curve

    return reliability_curve(_numbers(y), _numbers(p), equal_mass_edges(_numbers(p), bins))


@dataclass(frozen=True)
class Calibration:
    """How far one head's scores are from what happened, on n rows.

    Attributes
    ----------
    rate, predicted
        Means of the labels and of the scores.
    ece
        :func:`expected_calibration_error`.
    chance_95
        95 % of perfectly calibrated models with these scores have a smaller ``ece`` here.
    normalised_entropy
        :func:`normalised_entropy`.
    """

    n: int
    rate: float
    predicted: float
    ece: float
    chance_95: float
    normalised_entropy: float


def measure(p: ArrayLike, y: ArrayLike, *, bins: int = BINS, seed: int = 0) -> Calibration:
    """Calibration of one head; p, y : [n], ``seed`` of the 100 simulated perfect models."""
    from labs.lab3_fairness.calibration import ece_null, equal_mass_edges

    scores, truth = _numbers(p), _numbers(y)
    null = ece_null(scores, equal_mass_edges(scores, bins), n_simulations=100, seed=seed)
    return Calibration(
        n=len(truth),
        rate=float(truth.mean()),
        predicted=float(scores.mean()),
        ece=expected_calibration_error(scores, truth, bins),
        chance_95=float(np.quantile(null, 0.95)),
        normalised_entropy=normalised_entropy(scores, truth),
    )


def calibrated(maps: Mapping[str, Platt], scores: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Each head of ``scores`` through its own map.

    Raises
    ------
    InputError
        For a head without a map: served uncalibrated beside calibrated ones it would change the
        value of every item without an error.
    """
    if missing := sorted(set(scores) - set(maps)):
        raise InputError(f"heads {missing} have no calibration; known: {sorted(maps)}")
    return {head: maps[head].apply(p) for head, p in scores.items()}


def save(path: Path, maps: Mapping[str, Platt]) -> Path:
    """Write ``calibration.json``: head to ``{"a": slope, "b": intercept}``."""
    content = {head: {"a": each.a, "b": each.b} for head, each in sorted(maps.items())}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> dict[str, Platt]:
    """Read ``calibration.json``.

    Raises
    ------
    InputError
        For a file that is absent or no such file, naming it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(head): Platt(float(m["a"]), float(m["b"])) for head, m in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no calibration file ({type(error).__name__}: {error}); write it with "
            "capstone.calibration.save"
        ) from error


def _numbers(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
