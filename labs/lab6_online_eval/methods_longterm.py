"""Methods of the framework and of long-term effects, for validation on simulated truth."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, ncx2, norm

from labs.lab6_online_eval.novelty import Z95, fit_profile
from labs.lab6_online_eval.srm import srm_test
from labs.lab6_online_eval.surrogate_index import LongTermWorld
from labs.lab6_online_eval.validation import Findings, Method

Floats = NDArray[np.float64]

SRM_UNITS, SRM_SHIFT = 100_000, 0.005
SURROGATE_UNITS, HISTORY, SURROGATE_EFFECT = 400, 400, 0.5
AT_ONCE = 200
DAYS, DAY_SE, SHARED = 21, 0.010, 0.2
CHANGE, CHANGE_DAYS, LEVEL = 0.06, 3.0, 0.02


def _srm(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """The share of the treatment is ``.5 + effect``; the interval is Wald's."""
    treated = rng.binomial(SRM_UNITS, 0.5 + effect, n)
    p = [srm_test([SRM_UNITS - int(t), int(t)], [0.5, 0.5]).p for t in treated]
    share = treated / SRM_UNITS
    half = Z95 * np.sqrt(share * (1 - share) / SRM_UNITS)
    return Findings(share - 0.5, share - 0.5 - half, share - 0.5 + half, np.array(p))


def surrogate_batch(
    control: Floats, treatment: Floats, history: Floats, outcome: Floats
) -> tuple[Floats, Floats]:
    """Effect and standard error of `surrogate_index` for m experiments at once: float [m] each.

    Parameters
    ----------
    control, treatment, history, outcome
        Float [m, n_c, k], [m, n_t, k], [m, n_h, k], [m, n_h].
    """
    centred = history - history.mean(axis=1, keepdims=True)
    y = outcome - outcome.mean(axis=1, keepdims=True)
    inverse = np.linalg.inv(np.swapaxes(centred, 1, 2) @ centred)
    slopes = inverse @ (np.swapaxes(centred, 1, 2) @ y[:, :, None])
    residuals = y[:, :, None] - centred @ slopes
    scores = centred * residuals
    covariance = inverse @ (np.swapaxes(scores, 1, 2) @ scores) @ inverse
    apart = (treatment.mean(axis=1) - control.mean(axis=1))[:, None, :]
    variance = (apart @ covariance @ np.swapaxes(apart, 1, 2))[:, 0, 0]
    for arm in (control, treatment):
        variance += (arm @ slopes)[:, :, 0].var(axis=1, ddof=1) / arm.shape[1]
    return (apart @ slopes)[:, 0, 0], np.sqrt(variance)


def _surrogates(rng: np.random.Generator, n: int, effect: float, direct: float) -> Findings:
    """What the index finds where ``effect`` is the true one, of which ``direct`` bypasses it."""
    world = LongTermWorld(effects=(effect - direct, 0.0), direct=direct)
    estimates, errors = [], []
    for start in range(0, n, AT_ONCE):
        m = min(AT_ONCE, n - start)
        history, outcome = world.draw(rng, np.zeros((m, HISTORY)))
        control, _ = world.draw(rng, np.zeros((m, SURROGATE_UNITS // 2)))
        treatment, _ = world.draw(rng, np.ones((m, SURROGATE_UNITS // 2)))
        estimate, se = surrogate_batch(control, treatment, history, outcome)
        estimates.append(estimate)
        errors.append(se)
    found, se = np.concatenate(estimates), np.concatenate(errors)
    return Findings(found, found - Z95 * se, found + Z95 * se, 2 * norm.sf(np.abs(found) / se))


def _surrogacy_holds(rng: np.random.Generator, n: int, effect: float) -> Findings:
    return _surrogates(rng, n, effect, direct=0.0)


def _surrogacy_violated(rng: np.random.Generator, n: int, effect: float) -> Findings:
    return _surrogates(rng, n, effect, direct=-0.3)


def _days(rng: np.random.Generator, n: int, level: float) -> tuple[Floats, Floats]:
    """Daily effects that fade to ``level``: float [n, days], and their covariance."""
    t = np.arange(DAYS) + 0.5
    covariance = DAY_SE**2 * ((1 - SHARED) * np.eye(DAYS) + SHARED)
    noise = rng.standard_normal((n, DAYS)) @ np.linalg.cholesky(covariance).T
    return level + CHANGE * np.exp(-t / CHANGE_DAYS) + noise, covariance


def _long_run(rng: np.random.Generator, n: int, effect: float) -> Findings:
    effects, covariance = _days(rng, n, effect)
    fit = fit_profile(effects, covariance)
    return Findings(fit.level, fit.low, fit.high, fit.p)


def _all_days(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """The plain mean of the days, read as the long-run effect."""
    effects, covariance = _days(rng, n, effect)
    mean, se = effects.mean(axis=1), sqrt(float(covariance.mean()))
    return Findings(mean, mean - Z95 * se, mean + Z95 * se, 2 * norm.sf(np.abs(mean) / se))


def _srm_power() -> float:
    """Of Pearson's test at 5 %: the noncentral chi-square law."""
    shift = SRM_UNITS * 4 * SRM_SHIFT**2
    return float(ncx2.sf(chi2.isf(0.05, 1), 1, shift))


def _surrogate_power() -> float:
    """Normal law; the index has variance 3, the outcome's noise variance 4, two surrogates."""
    experiment = 3 * 4 / SURROGATE_UNITS
    # inverse of the surrogates' covariance [[2, 1], [1, 1.5]]; the difference has mean (d, d / 2)
    precision = np.linalg.inv(np.array([[2.0, 1.0], [1.0, 1.5]]))
    mean = np.array([SURROGATE_EFFECT, SURROGATE_EFFECT / 2])
    history = 4 / HISTORY * (float(mean @ precision @ mean) + 2 * 4 / SURROGATE_UNITS)
    distance = SURROGATE_EFFECT / sqrt(experiment + history)
    return float(norm.sf(Z95 - distance) + norm.cdf(-Z95 - distance))


def methods() -> list[Method]:
    """The methods of this topic, and two that must fail."""
    return [
        Method("srm", _srm, SRM_SHIFT, _srm_power()),
        Method("surrogate_index", _surrogacy_holds, SURROGATE_EFFECT, _surrogate_power()),
        Method("novelty_long_run", _long_run, LEVEL),
        Method("surrogacy_violated", _surrogacy_violated, SURROGATE_EFFECT, flawed=True),
        Method("novelty_ignored", _all_days, LEVEL, flawed=True),
    ]
