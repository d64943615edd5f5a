"""How sure a percentile is: how many requests it needs, and its interval from ranks alone.

The number of latencies below the true q-quantile is binomial (n, q), whatever the distribution of
the latencies. So two *ranks* can be named before the run between whose latencies the quantile will
lie: no normal distribution, no bootstrap, no assumption but independence.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise


@dataclass(frozen=True)
class PercentileInterval:
    """A percentile with its interval; ``high`` is inf when n is too small for an upper limit."""

    value: float
    low: float
    high: float
    n: int
    q: float
    confidence: float

    @property
    def is_bounded(self) -> bool:
        return self.high < inf


def quantile(values: ArrayLike, q: float) -> float:
    """An observed quantile, ``sorted[int(n * q)]`` (MLPerf Inference)."""
    ordered = np.sort(np.ravel(np.asarray(values, dtype=np.float64)))
    require(len(ordered) >= 1, "number of values", 0, "must be at least 1")
    return float(ordered[min(int(len(ordered) * q), len(ordered) - 1)])


def binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """P(B <= k) for k = 0..n, B binomial (n, p), 0 < p < 1: float64 array [n + 1]."""
    _check(n, p)
    k = np.arange(n)
    # log P(k + 1) - log P(k); the logarithm of P(0) alone can be below any float's.
    steps = np.log(n - k) - np.log(k + 1) + np.log(p) - np.log1p(-p)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * np.log1p(-p)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)


@exercise(
    "4.18",
    points=10,
    title="The interval of a percentile, from ranks",
    hint="The j-th smallest value is above the quantile when fewer than j values are below it: "
    "P(B <= j - 1). Each side of the interval may be wrong with (1 - confidence) / 2.",
)
def percentile_interval(
    values: ArrayLike, q: float, confidence: float = 0.95
) -> PercentileInterval:
    """Distribution-free confidence interval of the q-quantile.

    With B ~ binomial(n, q) the number of values below the true quantile, and x(1) <= ... <= x(n)
    the values in order, each side of the interval is wrong with probability at most
    alpha = (1 - confidence) / 2:

    - low is x(l) with the largest rank l for which P(B <= l - 1) <= alpha, 0 when there is none
      (a latency is never below 0);
    - high is x(u) with the smallest rank u for which P(B >= u) <= alpha, and infinity when even
      u = n does not reach that: the sample is too small for an upper limit.

    Parameters
    ----------
    values
        Latencies [n], n >= 1, of any unit; infinite ones (failures) are allowed.
    q
        For example 0.99.
    confidence
        Probability that the interval covers the quantile.

    Returns
    -------
    PercentileInterval
        ``value`` is the observed quantile, ``sorted[int(n * q)]``.

    References
    ----------
    David and Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    ordered = np.sort(np.ravel(np.asarray(values, dtype=np.float64)))
    n = len(ordered)
    _check(n, q)
    require(0 < confidence < 1, "confidence", confidence, "must be between 0 and 1", "try 0.95")
    cdf = binomial_cdf(n, q)  # P(B <= k) at [k]; a helper of this module
    value = quantile(ordered, q)
    # BEGIN SOLUTION
    alpha = (1 - confidence) / 2
    lower_rank = int(np.searchsorted(cdf, alpha, side="right"))  # ranks l with cdf[l-1] <= alpha
    below = np.concatenate([[0.0], cdf])  # P(B <= u - 1) at [u]
    upper_rank = int(np.searchsorted(below, 1 - alpha, side="left"))
    low = float(ordered[lower_rank - 1]) if lower_rank >= 1 else 0.0
    high = float(ordered[upper_rank - 1]) if upper_rank <= n else inf
    # END SOLUTION
    return PercentileInterval(value, low, high, n, q, confidence)


def minimum_samples(q: float, confidence: float = 0.99, over: int = 1) -> int:
    """Fewest requests that can show that the q-quantile is below a limit.

    The smallest n with P(B <= over) <= 1 - confidence, B ~ binomial(n, 1 - q): had more than
    1 - q of all requests been over the limit, as few as ``over`` among n would hardly have been
    seen. For a p99 at 99 % that is 459 with none over the limit (0.99^459 < 0.01), and 662 with
    one: MLPerf's number, since a run of which not one request may be late fails by any accident.
    """
    require(0 < q < 1, "q", q, "must be between 0 and 1", "try 0.99")
    require(0 < confidence < 1, "confidence", confidence, "must be between 0 and 1", "try 0.99")
    require(over >= 0, "over", over, "must be >= 0")

    def shows(n: int) -> bool:
        return bool(binomial_cdf(n, 1 - q)[over] <= 1 - confidence)

    high = over + 1
    while not shows(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def samples_for_margin(q: float, margin: float, confidence: float = 0.99) -> int:
    """Requests for which the share over the q-quantile is known to +- ``margin``.

    ``n = z^2 q (1 - q) / margin^2``. MLPerf takes margin = (1 - q) / 20: 262,742 for a p99, which
    it rounds up to a multiple of 2^13, 270,336.
    """
    from statistics import NormalDist

    _check(1, q)
    require(margin > 0, "margin", margin, "must be > 0", "try (1 - q) / 20")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return ceil(z**2 * q * (1 - q) / margin**2)


def too_few(n: int, q: float = 0.99, confidence: float = 0.99) -> str | None:
    """What to say when ``n`` requests are too few for the q-quantile; None when they are enough."""
    needed = minimum_samples(q, confidence)
    if n >= needed:
        return None
    return (
        f"{n} requests are too few for a p{100 * q:g}: {needed} are needed for "
        f"{100 * confidence:g} % confidence"
    )


def share_over_interval(over: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of the share of requests over a limit (Clopper and Pearson 1934).

    Parameters
    ----------
    over, n
        Counts, 0 <= over <= n, n >= 1.
    """
    from scipy.special import betaincinv

    require(n >= 1, "n", n, "must be at least 1")
    require(0 <= over <= n, "over", over, f"must be between 0 and n = {n}")
    alpha = (1 - confidence) / 2
    low = float(betaincinv(over, n - over + 1, alpha)) if over else 0.0
    high = float(betaincinv(over + 1, n - over, 1 - alpha)) if over < n else 1.0
    return low, high


def _check(n: int, q: float) -> None:
    require(n >= 1, "number of values", n, "must be at least 1")
    require(0 < q < 1, "q", q, "must be between 0 and 1", "try 0.99")
