"""The mixture sequential probability ratio test: always-valid p-values from a prior on effects.

Wald's SPRT compares "no effect" with one given effect. Nobody knows the effect, so the mixture SPRT
averages the likelihood ratio over a normal distribution of effects, centred on 0 with variance
tau^2: the size of effects that experiments here tend to have.

Johari, Pekelis & Walsh (2017), Peeking at A/B Tests, KDD; and Johari, Koomen, Pekelis & Walsh
(2022), Always Valid Inference, Operations Research 70 (https://arxiv.org/abs/1512.04922). The test
itself is Robbins (1970), Annals of Mathematical Statistics 41.

It is the same mixture as in `confidence_sequences`, tuned differently: there by a number of units,
here by a size of effect. With ``n rho^2 = tau^2 / se^2`` they agree to the last digit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require

Floats = NDArray[np.float64]


def log_mixture_ratio(effect: ArrayLike, se: ArrayLike, mixing_variance: float) -> Floats:
    """Logarithm of the mixture likelihood ratio Lambda at each look.

        Lambda = sqrt( v / (v + tau^2) ) * exp( tau^2 d^2 / (2 v (v + tau^2)) ),    v = se^2

    Parameters
    ----------
    effect, se
        Estimate d of the effect, and its standard error: float [...].
    mixing_variance
        tau^2, in the square of the effect's units, > 0; fixed before the run.

    Notes
    -----
    Johari et al. (2017), equation 5, with v for the variance of the estimate at that look.
    """
    require(
        bool(np.isfinite(mixing_variance)) and mixing_variance > 0,
        "mixing_variance",
        mixing_variance,
        "must be > 0",
        "the square of a typical effect",
    )
    estimate, error = np.asarray(effect, dtype=float), np.asarray(se, dtype=float)
    bad = int(np.count_nonzero(~(np.isfinite(error) & (error > 0) & np.isfinite(estimate))))
    require(bad == 0, "looks without a usable estimate", bad, "must be 0", "look later")
    variance = error**2
    total = variance + mixing_variance
    exponent = mixing_variance * estimate**2 / (2 * variance * total)
    return np.asarray(exponent + np.log(variance / total) / 2)


def always_valid_p_values(effect: ArrayLike, se: ArrayLike, mixing_variance: float) -> Floats:
    """The always-valid p-value after each look, looks on the last axis: float [..., looks].

    ``p_n = min(1, p_{n-1}, 1 / Lambda_n)``: it never rises, and under no effect the probability
    that it *ever* falls to alpha is at most alpha (Ville's inequality, as Lambda is a martingale
    of mean 1).
    """
    log_ratio = np.atleast_1d(log_mixture_ratio(effect, se, mixing_variance))
    smallest = np.exp(-np.maximum(log_ratio, 0.0))
    return np.asarray(np.minimum.accumulate(smallest, axis=-1))


def interval_half_width(se: ArrayLike, mixing_variance: float, *, alpha: float = 0.05) -> Floats:
    """Half-width of the interval at each look: the effects that the test has not rejected.

    ``half^2 = v (v + tau^2) / tau^2 * log( (v + tau^2) / (v alpha^2) )``
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    log_mixture_ratio(0.0, se, mixing_variance)  # for its checks of both
    variance = np.asarray(se, dtype=float) ** 2
    total = variance + mixing_variance
    squared = variance * total / mixing_variance * np.log(total / (variance * alpha**2))
    return np.asarray(np.sqrt(squared))


def mixing_variance_from_past(effects: ArrayLike, ses: ArrayLike) -> float:
    """tau^2 from finished experiments: how much their true effects varied.

    What was *observed* varies by the true effects and by noise, so the noise is subtracted:
    ``tau^2 = mean(effect^2) - mean(se^2)``, the moment estimate under effects of mean 0. Using
    ``mean(effect^2)`` alone tunes the test for effects larger than there are.

    Parameters
    ----------
    effects, ses
        Estimates of past experiments on this metric, and their standard errors: float [n], n >= 5,
        every experiment and not only those that were reported.

    Raises
    ------
    InputError
        Fewer than five; values that are not finite; past effects no larger than their noise, from
        which no variance can be learned.

    Notes
    -----
    Johari et al. (2022), section 5, on the choice of the mixing distribution; the estimator is
    that of DerSimonian & Laird (1986) with equal weights and a known mean.
    """
    past, noise = np.asarray(effects, dtype=float), np.asarray(ses, dtype=float)
    require(past.ndim == 1 and len(past) >= 5, "past effects", past.size, "must be at least 5")
    require(noise.shape == past.shape, "ses", noise.shape, f"must be {past.shape}")
    finite = bool(np.isfinite(past).all() and np.isfinite(noise).all() and (noise > 0).all())
    require(finite, "finite past effects", finite, "must be true, with standard errors > 0")
    variance = float((past**2).mean() - (noise**2).mean())
    require(
        variance > 0,
        "variance of past effects beyond their noise",
        variance,
        "must be > 0",
        "take the square of the smallest effect worth finding",
    )
    return variance
