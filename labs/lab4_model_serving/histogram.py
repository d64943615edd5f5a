"""Percentiles from bucket counts: Prometheus' ``histogram_quantile`` by hand, and its error.

A Prometheus histogram says, for each bound ``le``, how many values were at or below it. The counts
are cumulative, the last bound is +Inf, and they only grow until the process restarts. A quantile
is found by looking for the bucket that holds it and going through that bucket in a straight line,
so the estimate cannot be further off than the bucket is wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise

Buckets = Sequence[tuple[float, float]]
"""(upper bound, count at or below it), bounds ascending, the last one ``inf``."""

CLIENT_DEFAULT_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""What prometheus-client takes when nobody chooses."""


@exercise(
    "4.16",
    points=8,
    title="histogram_quantile by hand",
    hint="The rank is q times the count of the +Inf bucket. Find the first bucket that reaches it, "
    "take off what lies below that bucket, and interpolate between its bounds. Which bounds has "
    "the first bucket, and which the last?",
)
def quantile(buckets: Buckets, q: float) -> float:
    r"""The q-quantile of a histogram, by the rules of Prometheus.

    Let bucket b be the first whose cumulative count reaches the rank :math:`r = q\,n`. Values are
    taken to be evenly spread in it:

    .. math:: \ell_{b} + (u_b - \ell_b)\,\frac{r - c_{b-1}}{c_b - c_{b-1}}

    Parameters
    ----------
    buckets
        (upper bound, cumulative count), bounds ascending.
    q
        Quantile, 0.99 for the p99.

    Returns
    -------
    float
        - The first bucket begins at 0 if its bound is above 0; otherwise its bound is returned.
        - In the +Inf bucket there is no width to interpolate: the last finite bound is returned.
          A p99 that equals the largest bound means "at least that".
        - NaN without values, with fewer than two buckets, without a last bound of +Inf, and where
          the rank is 0 and the first bucket empty.
        - A count below the one before it (scrapes are not atomic) is raised to it.
        - ``q`` below 0 gives -inf, above 1 +inf, NaN NaN.

    References
    ----------
    ``bucketQuantile`` in promql/quantile.go of Prometheus.
    """
    if math.isnan(q) or len(buckets) < 2 or not math.isinf(buckets[-1][0]):
        return math.nan
    if not 0 <= q <= 1:
        return -math.inf if q < 0 else math.inf
    bounds = [bound for bound, _ in buckets]
    counts = np.maximum.accumulate([count for _, count in buckets])
    if counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    place = int(np.searchsorted(counts, rank))
    if place >= len(bounds) - 1:
        return bounds[-2]
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    if inside == 0:
        return math.nan
    return float(start + (bounds[place] - start) * (rank - below) / inside)


@exercise(
    "4.17",
    points=8,
    title="What a fleet of counters grew by, restarts included",
    hint="A counter that is lower than it was has begun again at 0: all that it shows now is new. "
    "In which order: differences and then the sum over replicas, or the sum first?",
)
def merged_increase(replicas: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """By how much the bucket counts of all replicas together grew over a window.

    This is what ``sum by (le) (increase(x_bucket[w]))`` does, before it extrapolates to the ends of
    the window: the increase of each counter of each replica, restarts included, and then the sum.

    Parameters
    ----------
    replicas
        For each replica an array [samples, buckets]: its counters at successive scrapes, oldest
        first. The number of samples may differ. A replica that was scraped once tells nothing
        about growth, and one that was never scraped (0 samples) neither.

    Returns
    -------
    float64 array [buckets]

    Raises
    ------
    InputError
        No replicas, or numbers of buckets that differ.
    """
    _require_same_buckets([each.shape for each in replicas])
    # BEGIN SOLUTION
    total = np.zeros(replicas[0].shape[1])
    for counters in replicas:
        steps = np.diff(counters, axis=0)
        restarted = steps < 0
        total += np.where(restarted, counters[1:], steps).sum(axis=0)
    # END SOLUTION
    return total


def _require_same_buckets(shapes: Sequence[tuple[int, ...]]) -> None:
    require(len(shapes) > 0, "replicas", 0, "must be >= 1")
    for shape in shapes:
        require(len(shape) == 2, "replicas", shape, "must be arrays [samples, buckets]")
    buckets = sorted({shape[1] for shape in shapes})
    require(len(buckets) == 1, "buckets", buckets, "must be the same number in every replica")


def bucketed(values: ArrayLike, bounds: Sequence[float]) -> Buckets:
    """The histogram of values.

    Parameters
    ----------
    values : array of shape [n]
    bounds
        Finite upper bounds, ascending; +Inf is added.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    counts = [float(each) for each in np.searchsorted(ordered, bounds, side="right")]
    return [*zip(map(float, bounds), counts), (math.inf, float(ordered.size))]


def merged(histograms: Sequence[Buckets]) -> Buckets:
    """The histogram of all replicas: counts added bound by bound.

    Raises
    ------
    InputError
        Bounds differ. Prometheus adds what carries the same ``le`` and says nothing, and the result
        is the percentile of no set of requests: replicas of two releases must keep their bounds.
    """
    require(len(histograms) > 0, "histograms", 0, "must be >= 1")
    bounds = [bound for bound, _ in histograms[0]]
    for each in histograms[1:]:
        other = [bound for bound, _ in each]
        if other != bounds:
            raise InputError(f"bounds differ: {bounds} and {other}; observe with the same ones")
    totals = np.sum([[count for _, count in each] for each in histograms], axis=0)
    return [*zip(bounds, map(float, totals))]


def share_within(buckets: Buckets, bound: float) -> float:
    """The share of values at or below a bound of the histogram: exact, nothing is interpolated.

    Raises
    ------
    InputError
        ``bound`` is none of the histogram's bounds, or there are no values.
    """
    counts = dict(buckets)
    if bound not in counts:
        near = sorted(counts, key=lambda each: abs(each - bound))[:2]
        raise InputError(
            f"{bound} is no bound of this histogram (nearest: {sorted(near)}); "
            "give the histogram the bound it is asked for"
        )
    n = buckets[-1][1]
    require(n > 0, "count", n, "must be > 0 to take a share")
    return counts[bound] / n


def from_exposition(text: str, name: str, labels: Mapping[str, str] | None = None) -> Buckets:
    """One histogram out of the text of ``/metrics``.

    Parameters
    ----------
    name
        Without ``_bucket``.
    labels
        Series with these labels; several of them are added, as ``sum by (le)`` does.

    Raises
    ------
    InputError
        There is no such histogram.
    """
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[float, float] = {}
    wanted = dict(labels or {})
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket" and wanted.items() <= sample.labels.items():
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sample.value
    if not counts:
        raise InputError(f"no histogram {name} with the labels {wanted}")
    return sorted(counts.items())


@dataclass(frozen=True)
class BucketError:
    """How far a histogram's quantile was from the exact one, for one layout of bounds."""

    layout: str
    bounds: int
    exact: float
    """Seconds, ``sorted[int(n * q)]``."""
    estimate: float
    """Seconds, by :func:`quantile`."""

    @property
    def relative(self) -> float:
        """(estimate - exact) / exact."""
        return (self.estimate - self.exact) / self.exact


def bucket_errors(
    values: ArrayLike, layouts: Mapping[str, Sequence[float]], q: float = 0.99
) -> list[BucketError]:
    """The quantile of the same values through several layouts of bounds.

    Parameters
    ----------
    values : array of shape [n], n >= 1
        Seconds.
    layouts
        Name to ascending finite bounds.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    require(ordered.size > 0, "values", 0, "must not be empty")
    exact = float(ordered[min(int(ordered.size * q), ordered.size - 1)])
    return [
        BucketError(name, len(bounds), exact, quantile(bucketed(ordered, bounds), q))
        for name, bounds in layouts.items()
    ]


def exponential_bounds(least: float, most: float, per_decade: int) -> tuple[float, ...]:
    """Bounds that grow by the factor :math:`10^{1/k}`, k of them a decade.

    A value between two neighbours is misjudged by at most that factor, wherever it lies:
    k = 10 gives 26 %, k = 30 gives 8 %.
    """
    require(0 < least < most, "least", least, f"must be above 0 and below {most}")
    require(per_decade >= 1, "per_decade", per_decade, "must be >= 1")
    steps = math.ceil(round(math.log10(most / least) * per_decade, 9))
    return tuple(float(least * 10 ** (i / per_decade)) for i in range(steps + 1))


@dataclass(frozen=True)
class FleetP99:
    """The p99 of a fleet, three ways; seconds."""

    replicas: tuple[float, ...]
    """The exact p99 of each."""
    exact: float
    """Of all requests together."""
    mean_of_p99s: float
    from_merged_buckets: float


def fleet_p99(latencies: Sequence[ArrayLike], bounds: Sequence[float]) -> FleetP99:
    """What a fleet's p99 is, what the mean of its replicas' p99s says, and what added buckets say.

    Parameters
    ----------
    latencies
        For each replica its latencies, seconds, at least one.
    """
    each = [np.sort(np.asarray(values, dtype=np.float64)) for values in latencies]
    require(all(values.size > 0 for values in each), "latencies", "an empty replica", "has no p99")

    def exact(ordered: NDArray[np.float64]) -> float:
        return float(ordered[min(int(ordered.size * 0.99), ordered.size - 1)])

    p99s = tuple(exact(values) for values in each)
    return FleetP99(
        replicas=p99s,
        exact=exact(np.sort(np.concatenate(each))),
        mean_of_p99s=float(np.mean(p99s)),
        from_merged_buckets=quantile(merged([bucketed(v, bounds) for v in each]), 0.99),
    )
