"""Intervals for what is measured: the bootstrap and the normal interval of a mean."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from common.errors import require

Statistic = Callable[..., np.ndarray]
CHUNK = 4_000_000
Z95 = 1.959963984540054


def bootstrap_ci(
    values: ArrayLike,
    statistic: Statistic = np.mean,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of a statistic of one sample.

    Parameters
    ----------
    values
        Float array [n] of independent units (users, not their events), n >= 1, all finite.
    statistic
        A numpy reduction that takes ``axis``: ``np.mean``, ``np.median``, ``np.std``.
    n_boot
        Number of resamples.
    seed
        Seed of the resampling.

    Returns
    -------
    (low, high)
        The 2.5 % and 97.5 % quantiles of the statistic over the resamples.

    Raises
    ------
    InputError
        No values, a value that is not finite, or ``n_boot`` < 100.

    Notes
    -----
    Efron (1979), Annals of Statistics 7(1). It is too narrow for a few values (n below about 20),
    and no interval at all for an extreme such as the maximum.
    """
    sample = _checked(values)
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 1000")
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(sample))
    estimates = []
    for start in range(0, n_boot, rows):
        drawn = rng.integers(0, len(sample), size=(min(rows, n_boot - start), len(sample)))
        estimates.append(np.asarray(statistic(sample[drawn], axis=1), dtype=float))
    low, high = np.quantile(np.concatenate(estimates), [0.025, 0.975])
    return float(low), float(high)


def mean_ci(values: ArrayLike) -> tuple[float, float, float]:
    """Mean and its normal 95 % interval, ``mean +- 1.96 s / sqrt(n)``.

    Parameters
    ----------
    values
        Float array [n] of independent units, n >= 2, all finite.

    Returns
    -------
    (mean, low, high)
    """
    sample = _checked(values)
    require(len(sample) >= 2, "number of values", len(sample), "must be at least 2")
    mean = float(sample.mean())
    half = Z95 * float(sample.std(ddof=1)) / sqrt(len(sample))
    return mean, mean - half, mean + half


def proportion_ci(successes: int, n: int) -> tuple[float, float]:
    """Wilson 95 % interval of a proportion (Wilson 1927, JASA 22); sound near 0 and 1.

    Parameters
    ----------
    successes, n
        Counts with 0 <= successes <= n and n >= 1.
    """
    require(n >= 1, "n", n, "must be at least 1")
    require(0 <= successes <= n, "successes", successes, f"must be between 0 and n = {n}")
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(values: ArrayLike) -> np.ndarray:
    sample = np.asarray(values, dtype=float)
    require(sample.ndim == 1, "shape of values", sample.shape, "must be [n]", "flatten them")
    require(sample.size > 0, "number of values", 0, "must be at least 1")
    bad = int(np.count_nonzero(~np.isfinite(sample)))
    require(bad == 0, "values that are not finite", bad, "must be 0", "drop them before")
    return sample
