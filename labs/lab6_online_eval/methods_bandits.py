"""Inference from bandits and from logs, as validation tries it: five that hold, two mistakes.

`adaptive_weighted`: the difference of two arms that Thompson sampling collected. `ope_...`: by how
much a new policy would beat the one that wrote the log, of which only the log is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import norm

from labs.lab6_online_eval import bandit_inference
from labs.lab6_online_eval.bandit_inference import AdaptiveLog, ArmEstimate
from labs.lab6_online_eval.bandits import Floats
from labs.lab6_online_eval.validation import ALPHA, Findings, Method

ADAPTIVE_EFFECT = 0.16
ROWS = 4000
UPLIFT = 0.03

CONTEXT_SHARE = np.array([0.5, 0.3, 0.2])
LOGGING = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
TARGET = np.array([[0.2, 0.2, 0.6], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])
"""Probability of each action in each context, float [contexts, actions]."""
CLICK = np.array([[0.30, 0.25, 0.20], [0.40, 0.55, 0.30], [0.15, 0.30, 0.40]])


@dataclass(frozen=True)
class Cells:
    """Logs as counts of each (context, action): rows and clicks, float [n, contexts, actions]."""

    rows: Floats
    clicks: Floats

    def __add__(self, other: Cells) -> Cells:
        return Cells(self.rows + other.rows, self.clicks + other.clicks)


def methods() -> list[Method]:
    """Adaptive weighting and its naive rival; IPW, SNIPW, doubly robust, and a model alone."""
    weight = TARGET / LOGGING
    return [
        Method("adaptive_weighted", _adaptive(bandit_inference.adaptive_weighted), ADAPTIVE_EFFECT),
        Method(
            "adaptive_sample_mean",
            _adaptive(bandit_inference.sample_mean),
            ADAPTIVE_EFFECT,
            flawed=True,
        ),
        Method("ope_ipw", _logged(_ipw), UPLIFT, power=_power(weight - 1)),
        Method("ope_snipw", _logged(_snipw), UPLIFT),
        Method("ope_doubly_robust", _logged(_doubly_robust), UPLIFT),
        Method("ope_model_alone", _logged(_model_alone), UPLIFT, flawed=True),
    ]


def _adaptive(estimate: Callable[[AdaptiveLog], ArmEstimate]) -> Callable[..., Findings]:
    def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
        arms = estimate(bandit_inference.collect((0.0, effect), n, rng))
        return _normal(arms.mean[:, 1] - arms.mean[:, 0], np.sqrt((arms.se**2).sum(axis=1)))

    return simulate


def click_rates(effect: float) -> Floats:
    """Click probability [contexts, actions] for which the target beats the logging policy by
    exactly ``effect``: `CLICK`, tilted along the difference of the two policies."""
    difference = TARGET - LOGGING
    along = CONTEXT_SHARE @ (difference**2).sum(axis=1)
    now = CONTEXT_SHARE @ (difference * CLICK).sum(axis=1)
    return np.asarray(CLICK + (effect - now) / along * difference)


def _logged(
    estimate: Callable[[Cells, Cells], tuple[Floats, Floats]],
) -> Callable[..., Findings]:
    """Logs of `ROWS` rows in two halves, so that a model can be fitted on the other half."""

    def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
        rates = click_rates(effect)
        chance = (CONTEXT_SHARE[:, None] * LOGGING).ravel()
        halves = []
        for _ in range(2):
            rows = rng.multinomial(ROWS // 2, chance, n).reshape(n, *rates.shape)
            halves.append(Cells(rows.astype(float), rng.binomial(rows, rates).astype(float)))
        return _normal(*estimate(halves[0], halves[1]))

    return simulate


def _ipw(first: Cells, second: Cells) -> tuple[Floats, Floats]:
    """Mean of ``(w - 1) r``: the target's IPW less the log's own mean, row by row."""
    both = first + second
    gain = TARGET / LOGGING - 1
    return _mean_of_rows(both, gain, np.zeros_like(gain))


def _snipw(first: Cells, second: Cells) -> tuple[Floats, Floats]:
    """SNIPW less the log's mean, standard error from ``w (r - v) / mean(w) - (r - r_bar)``."""
    both = first + second
    weight = TARGET / LOGGING
    total = (both.rows * weight).sum(axis=(1, 2))
    value = (both.clicks * weight).sum(axis=(1, 2)) / total
    mean = both.clicks.sum(axis=(1, 2)) / ROWS
    scaled = weight / (total / ROWS)[:, None, None]
    clicked = scaled * (1 - value)[:, None, None] - (1 - mean)[:, None, None]
    not_clicked = -scaled * value[:, None, None] + mean[:, None, None]
    return value - mean, _se_of_rows(both, clicked, not_clicked, np.zeros(len(mean)))


def _doubly_robust(first: Cells, second: Cells) -> tuple[Floats, Floats]:
    """A model that ignores the context, corrected by the weighted residual, cross-fitted."""
    weight = TARGET / LOGGING
    values, variances = [], []
    for fold, other in ((first, second), (second, first)):
        model = _model(other)[:, None, :]
        predicted = (TARGET * model).sum(axis=2, keepdims=True)
        not_clicked = predicted - weight * model
        value, se = _mean_of_rows(fold, not_clicked + weight - 1, not_clicked)
        values.append(value)
        variances.append(se**2)
    return (values[0] + values[1]) / 2, np.sqrt(variances[0] + variances[1]) / 2


def _model_alone(first: Cells, second: Cells) -> tuple[Floats, Floats]:
    """The same model believed: its prediction for the target less the log's mean.

    The logging policy showed each action mostly to those who like it, and the model takes that for
    the action's merit.
    """
    both = first + second
    share = both.rows.sum(axis=2, keepdims=True) / ROWS
    model = _model(both)[:, None, :]
    value = (share * TARGET * model).sum(axis=(1, 2)) - both.clicks.sum(axis=(1, 2)) / ROWS
    rows = both.rows.sum(axis=1)
    rate = _model(both)
    weight = (share * TARGET).sum(axis=1) - rows / ROWS
    return value, np.sqrt((weight**2 * rate * (1 - rate) / np.maximum(rows, 1)).sum(axis=1))


def _model(cells: Cells) -> Floats:
    """Click rate of each action over all contexts, float [n, actions]."""
    return np.asarray(cells.clicks.sum(axis=1) / np.maximum(cells.rows.sum(axis=1), 1))


def _mean_of_rows(cells: Cells, clicked: Floats, not_clicked: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error of a term that is ``clicked`` or ``not_clicked`` in each cell."""
    n = cells.rows.sum(axis=(1, 2))
    others = cells.rows - cells.clicks
    mean = (cells.clicks * clicked + others * not_clicked).sum(axis=(1, 2)) / n
    return mean, _se_of_rows(cells, clicked, not_clicked, mean)


def _se_of_rows(cells: Cells, clicked: Floats, not_clicked: Floats, mean: Floats) -> Floats:
    n = cells.rows.sum(axis=(1, 2))
    others = cells.rows - cells.clicks
    squares = (cells.clicks * clicked**2 + others * not_clicked**2).sum(axis=(1, 2)) / n
    return np.asarray(np.sqrt((squares - mean**2) / (n - 1)))


def _power(gain: Floats) -> float:
    """Power of IPW at `UPLIFT`: the exact variance of ``(w - 1) r`` in the simulated world."""
    chance = CONTEXT_SHARE[:, None] * LOGGING * click_rates(UPLIFT)
    variance = float((chance * gain**2).sum()) - UPLIFT**2
    shift = UPLIFT / sqrt(variance / ROWS)
    z = float(norm.isf(ALPHA / 2))
    return float(norm.sf(z - shift) + norm.cdf(-z - shift))


def _normal(effect: Floats, se: Floats) -> Findings:
    z = float(norm.isf(ALPHA / 2))
    return Findings(effect, effect - z * se, effect + z * se, 2 * norm.sf(np.abs(effect) / se))
