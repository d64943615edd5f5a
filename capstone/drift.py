"""Drift of scores and features, judged by what chance alone gives at this sample size.

The population stability index compares two histograms. It is never 0 for two samples of one
distribution, and how large it gets by chance depends on how many rows were looked at: the usual
cut-offs (0.1, 0.25) raise alarms on small samples and sleep through real change in large ones.
Under the null hypothesis it is ``(1/n + 1/m)`` times a chi-square variable, so its critical value
is a formula (Yurdakul and Naranjo 2020).

Rows must be independent. Scores of one feed are not: look at one item a user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise

Floats = NDArray[np.float64]
N_BINS = 10
ALPHA = 0.01
"""Chance that any head or feature raises an alarm when nothing has changed."""
LEAST_PSI = 0.01
"""Below this a change is too small to matter, however certain it is."""


@dataclass(frozen=True)
class Reference:
    """The histogram of a score or feature when the bundle was made.

    Attributes
    ----------
    edges
        Inner edges [B - 1] of B bins; a value on an edge is in the lower bin.
    counts
        Rows in each bin, [B].
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def count(self, values: ArrayLike) -> NDArray[np.int64]:
        """Rows of new values in each bin, [B]; values beyond the reference are in the end bins."""
        found = np.asarray(values, dtype=np.float64)
        bad = int(np.count_nonzero(~np.isfinite(found)))
        require(bad == 0, "values that are not finite", bad, "must be 0", "count them apart")
        return np.bincount(np.searchsorted(self.edges, found), minlength=len(self.counts))


def reference_of(values: ArrayLike, *, n_bins: int = N_BINS) -> Reference:
    """Bins of equal mass and their counts; many equal values leave fewer bins.

    Parameters
    ----------
    values : array of shape [n]
        Independent rows, at least 10 a bin.
    """
    found = np.asarray(values, dtype=np.float64)
    require(n_bins >= 2, "n_bins", n_bins, "must be >= 2", "try 10")
    require(found.ndim == 1, "shape of values", found.shape, "must be [n]")
    require(len(found) >= 10 * n_bins, "number of values", len(found), f"must be >= {10 * n_bins}")
    # The largest value is no edge: nothing would lie above it.
    inner = np.unique(np.quantile(found, np.linspace(0, 1, n_bins + 1)[1:-1], method="lower"))
    inner = inner[inner < found.max()]
    require(len(inner) >= 1, "different values", 1, "must be >= 2", "a constant cannot drift")
    empty = Reference(tuple(inner.tolist()), (0,) * (len(inner) + 1))
    return Reference(empty.edges, tuple(empty.count(found).tolist()))


def save_references(references: Mapping[str, Reference], path: Path) -> Path:
    """Write the references of heads and features as JSON."""
    path.write_text(json.dumps({name: asdict(each) for name, each in references.items()}))
    return path


def load_references(path: Path) -> dict[str, Reference]:
    """Read :func:`save_references`.

    Raises
    ------
    InputError
        There is no such file, or it holds something else.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Reference(tuple(map(float, each["edges"])), tuple(map(int, each["counts"])))
            for name, each in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no references of drift: {error!r}") from error


def psi(reference: ArrayLike, new: ArrayLike) -> float:
    """The population stability index of two histograms with the same bins.

        PSI = sum_b (q_b - p_b) ln(q_b / p_b)

    with half a row added to each count, so that an empty bin is finite.

    Parameters
    ----------
    reference, new : arrays of shape [B]
        Counts, not shares; each with at least one row.
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(new, dtype=np.float64)
    require(p.shape == q.shape, "shape of new", q.shape, f"must be {p.shape}")
    require(bool(p.sum() > 0 and q.sum() > 0), "rows", (p.sum(), q.sum()), "must be > 0")
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (p, q))
    return float(np.sum((q - p) * np.log(q / p)))


@exercise(
    "7.12",
    points=6,
    title="How large a PSI chance alone gives",
    hint="Two histograms of one distribution: both sizes matter, and B shares that sum to 1 have "
    "how many degrees of freedom?",
)
def psi_limit(n_reference: int, n_new: int, n_bins: int, alpha: float) -> float:
    """The PSI that two samples of one distribution exceed with probability ``alpha``.

        PSI ~ (1/n + 1/m) * chi2(B - 1),    so    limit = (1/n + 1/m) * chi2_{1 - alpha}(B - 1)

    Parameters
    ----------
    n_reference, n_new
        Rows n and m of the two samples, >= 1.
    n_bins
        B >= 2.
    alpha
        In (0, 1).

    References
    ----------
    Yurdakul and Naranjo: Statistical properties of the population stability index, Journal of Risk
    Model Validation 14(4), 2020.
    """
    # BEGIN SOLUTION
    from scipy.stats import chi2

    return float((1 / n_reference + 1 / n_new) * chi2.ppf(1 - alpha, n_bins - 1))
    # END SOLUTION


def psi_p_value(value: float, n_reference: int, n_new: int, n_bins: int) -> float:
    """The chance of a PSI of at least ``value`` when nothing has changed."""
    from scipy.stats import chi2

    return float(chi2.sf(value / (1 / n_reference + 1 / n_new), n_bins - 1))


@dataclass(frozen=True)
class Drift:
    """One head or feature against its reference.

    Attributes
    ----------
    psi, limit
        It has drifted when ``psi > limit``: the critical value at this sample size and number of
        heads, and at least the change that matters.
    p
        Adjusted by Holm over all that was looked at.
    """

    name: str
    psi: float
    limit: float
    p: float
    rows: int

    @property
    def drifted(self) -> bool:
        return self.psi > self.limit


def drifts(
    references: Mapping[str, Reference],
    values: Mapping[str, ArrayLike],
    *,
    alpha: float = ALPHA,
    least: float = LEAST_PSI,
) -> list[Drift]:
    """Every head or feature that has a reference and values, tested together.

    Parameters
    ----------
    values
        Name to array [m], independent rows; names without rows or reference are left out.
    alpha
        Family-wise error rate over all names (Holm 1979).
    least
        The smallest PSI that matters: with a million rows everything is significant.

    Notes
    -----
    ``limit`` is the critical value at the level at which Holm's procedure judged the name, so
    ``psi > critical value`` holds exactly where the adjusted p is below ``alpha``.
    """
    from labs.lab6_online_eval.multiple_testing import holm

    require(0 < alpha < 1, "alpha", alpha, "must be in (0, 1)")
    require(least >= 0, "least", least, "must be >= 0")
    names = [name for name in values if name in references and len(np.atleast_1d(values[name]))]
    if not names:
        return []
    counts = {name: references[name].count(values[name]) for name in names}
    found = {name: psi(references[name].counts, counts[name]) for name in names}
    sizes = {
        name: (references[name].rows, int(counts[name].sum()), len(counts[name])) for name in names
    }
    p = np.array([psi_p_value(found[name], *sizes[name]) for name in names])
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    rejected = int(np.count_nonzero(adjusted < alpha))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    levels = alpha / (len(names) - np.minimum(rank, rejected))
    return [
        Drift(
            name,
            found[name],
            max(least, psi_limit(*sizes[name], alpha=float(level))),
            float(each),
            sizes[name][1],
        )
        for name, level, each in zip(names, levels, adjusted)
    ]


def ks(reference: ArrayLike, new: ArrayLike) -> tuple[float, float]:
    """The Kolmogorov-Smirnov distance of two samples and its p-value: no bins to choose.

    For samples that are kept whole; its null too depends on both sizes (``scipy.stats.ks_2samp``).
    """
    from scipy.stats import ks_2samp

    result = ks_2samp(np.asarray(reference, dtype=float), np.asarray(new, dtype=float))
    return float(result.statistic), float(result.pvalue)


@dataclass(frozen=True)
class NullStudy:
    """How often an unchanged score raises an alarm, by the number of new rows; arrays [sizes].

    ``power`` is how often a real change (a shift of ``shift`` standard deviations) is found.
    """

    sizes: tuple[int, ...]
    n_reference: int
    n_bins: int
    alpha: float
    cutoff: float
    shift: float
    limit: Floats
    p99: Floats
    """The simulated 99 % quantile of the PSI without a change."""
    false_by_cutoff: Floats
    false_by_null: Floats
    power_by_cutoff: Floats
    power_by_null: Floats


def study_null(
    *,
    sizes: tuple[int, ...] = (100, 200, 500, 1000, 3000, 10_000, 100_000),
    n_reference: int = 20_000,
    n_bins: int = N_BINS,
    cutoff: float = 0.1,
    alpha: float = ALPHA,
    shift: float = 0.15,
    repeats: int = 2000,
    seed: int = 0,
) -> NullStudy:
    """Fixed cut-off against the null, on simulated normal scores with and without a shift.

    The bins are of equal mass in the population, so a sample's counts are multinomial and are drawn
    directly.
    """
    from scipy.stats import norm

    require(repeats >= 100, "repeats", repeats, "must be >= 100")
    rng = np.random.default_rng(seed)
    edges = norm.ppf(np.arange(1, n_bins) / n_bins)
    same = np.full(n_bins, 1 / n_bins)
    moved = np.diff(norm.cdf(edges, loc=shift), prepend=0.0, append=1.0)
    rows: list[list[float]] = []
    for size in sizes:
        reference = rng.multinomial(n_reference, same, repeats)
        null, other = (
            _psi_rows(reference, rng.multinomial(size, shares, repeats)) for shares in (same, moved)
        )
        limit = psi_limit(n_reference, size, n_bins, alpha)
        rows.append(
            [
                limit,
                float(np.quantile(null, 1 - alpha)),
                *(float((each > bound).mean()) for each in (null, other)
                  for bound in (cutoff, limit)),
            ]
        )  # fmt: skip
    table = np.array(rows).T
    return NullStudy(sizes, n_reference, n_bins, alpha, cutoff, shift, *table)


def _psi_rows(reference: NDArray[Any], new: NDArray[Any]) -> Floats:
    """The PSI of each row of counts, [repeats, B] each."""
    p, q = (
        (counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 0.5 * counts.shape[1])
        for counts in (reference, new)
    )
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=1))
