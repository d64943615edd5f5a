"""Permutation tests: what would the difference have been, had the coin fallen otherwise?

If the treatment did nothing, each unit would have had the same value in the other arm. So every
assignment of the same values to arms of the same sizes was as likely as the one that happened, and
how extreme ours is among them needs no law for the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from labs.lab6_online_eval.estimates import finite

Floats = NDArray[np.float64]

CELLS = 4_000_000
TIE = 1e-9


@dataclass(frozen=True)
class PermutationResult:
    """Of one permutation test.

    Attributes
    ----------
    statistic
        Of the assignment that happened.
    p
        Two-sided.
    exact
        Whether every assignment was looked at; otherwise a random sample of them.
    n_assignments
        How many were looked at; the smallest p that can come out is one over it (plus one, when
        they are a sample).
    """

    statistic: float
    p: float
    exact: bool
    n_assignments: int


def permutation_test(
    control: ArrayLike, treatment: ArrayLike, *, n_resamples: int = 2000, seed: int = 0
) -> PermutationResult:
    """Whether the arms come from one distribution, by the difference of their means.

        exact:   p = #{|T*| >= |T|} / (all assignments)
        sample:  p = (1 + #{|T*| >= |T|}) / (1 + n_resamples)

    The assignment that happened belongs to the sample: without the 1 a p of 0 could come out, and
    the test would reject too often. All assignments are tried when there are at most
    ``n_resamples``.

    Parameters
    ----------
    control, treatment
        One value a unit of randomisation, float [n]; for clusters, one value a cluster.

    Raises
    ------
    InputError
        Fewer than two units in an arm, values that are not finite or are all the same,
        ``n_resamples`` < 99.

    Notes
    -----
    Fisher (1935), The Design of Experiments; the 1: Phipson & Smyth (2010), Permutation P-values
    Should Never Be Zero. The hypothesis is that the arms do not differ at all. A treatment that
    changes the spread and not the mean is rejected too, more or less often than 5 %: see
    `studentised_permutation_test`.
    """
    values, n_treated = _pooled(control, treatment, n_resamples)
    total, n = values.sum(), len(values)

    def difference(chosen: NDArray[np.intp]) -> Floats:
        treated = values[chosen].sum(axis=1)
        return np.asarray(treated / n_treated - (total - treated) / (n - n_treated))

    observed = float(difference(np.arange(n - n_treated, n)[None])[0])
    return _result(observed, _assignments(n, n_treated, n_resamples, seed), difference)


def studentised_permutation_test(
    control: ArrayLike, treatment: ArrayLike, *, n_resamples: int = 2000, seed: int = 0
) -> PermutationResult:
    """Whether the arms have one *mean*, by Welch's t among the assignments.

        T = (m_t - m_c) / sqrt(s_t^2 / n_t + s_c^2 / n_c)

    Exact like `permutation_test` when the arms do not differ at all, and right in large samples
    when they differ in spread only: the statistic has the same law in all assignments.

    Raises
    ------
    InputError
        As `permutation_test`.

    Notes
    -----
    Janssen (1997), Studentized permutation tests for non-i.i.d. hypotheses; Chung & Romano (2013),
    Annals of Statistics 41.
    """
    values, n_treated = _pooled(control, treatment, n_resamples)
    values = values - values.mean()
    total, squares, n = values.sum(), float(values @ values), len(values)

    def welch(chosen: NDArray[np.intp]) -> Floats:
        picked = values[chosen]
        return welch_t(picked.sum(axis=1), (picked**2).sum(axis=1), total, squares, n_treated, n)

    observed = float(welch(np.arange(n - n_treated, n)[None])[0])
    return _result(observed, _assignments(n, n_treated, n_resamples, seed), welch)


def permutation_interval(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    n_resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the difference of means that goes with the studentised test.

    The critical value is the ``1 - alpha`` quantile of ``|T*|`` among the assignments of the
    values less their own arm's mean (so that no effect is left in them), in place of Student's.

    Raises
    ------
    InputError
        As `permutation_test`; alpha outside (0, 1).
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    values, n_treated = _pooled(control, treatment, n_resamples)
    n = len(values)
    arms = values[: n - n_treated], values[n - n_treated :]
    effect = float(arms[1].mean() - arms[0].mean())
    se = sqrt(sum(float(arm.var(ddof=1)) / len(arm) for arm in arms))
    centred = np.concatenate([arm - arm.mean() for arm in arms])
    total, squares = centred.sum(), float(centred @ centred)
    require(squares > 0, "variance within arms", squares, "must be > 0")
    t = [
        welch_t(picked.sum(axis=1), (picked**2).sum(axis=1), total, squares, n_treated, n)
        for picked in (centred[b] for b in _assignments(n, n_treated, n_resamples, seed)[0])
    ]
    half = float(np.quantile(np.abs(np.concatenate(t)), 1 - alpha, method="higher")) * se
    return effect - half, effect + half


def welch_t(
    treated_sum: Floats,
    treated_squares: Floats,
    total: Floats | float,
    squares: Floats | float,
    n_treated: int,
    n: int,
) -> Floats:
    """Welch's t of many assignments of the same values, from sums over the treated units.

    Parameters
    ----------
    treated_sum, treated_squares
        Sum and sum of squares of the treated values, of any shape.
    total, squares
        The same over all units; must broadcast to that shape.
    n_treated, n
        Units in the treatment, and in both arms.
    """
    rest, rest_squares = total - treated_sum, squares - treated_squares
    n_rest = n - n_treated
    means = treated_sum / n_treated, rest / n_rest
    pieces = (treated_squares - n_treated * means[0] ** 2) / (n_treated - 1) / n_treated + (
        rest_squares - n_rest * means[1] ** 2
    ) / (n_rest - 1) / n_rest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means[0] - means[1]) / np.sqrt(np.maximum(pieces, 0))
    return np.asarray(np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf))


def _result(
    observed: float,
    assignments: tuple[Iterator[NDArray[np.intp]], bool],
    statistic: Callable[[NDArray[np.intp]], Floats],
) -> PermutationResult:
    batches, exact = assignments
    # sums in another order differ in the last digits; an equal assignment must count as equal
    least = abs(observed) * (1 - TIE)
    extreme = looked_at = 0
    for chosen in batches:
        extreme += int((np.abs(statistic(chosen)) >= least).sum())
        looked_at += len(chosen)
    p = extreme / looked_at if exact else (1 + extreme) / (1 + looked_at)
    return PermutationResult(observed, p, exact, looked_at)


def _assignments(
    n: int, n_treated: int, n_resamples: int, seed: int
) -> tuple[Iterator[NDArray[np.intp]], bool]:
    """Batches of the treated units' places, int [batch, n_treated], and whether they are all."""
    rows = max(1, CELLS // n)
    if comb(n, n_treated) <= n_resamples:
        every = combinations(range(n), n_treated)

        def all_of_them() -> Iterator[NDArray[np.intp]]:
            while batch := list(islice(every, rows)):
                yield np.array(batch, dtype=np.intp)

        return all_of_them(), True
    rng = np.random.default_rng(seed)

    def sampled() -> Iterator[NDArray[np.intp]]:
        for start in range(0, n_resamples, rows):
            places = np.broadcast_to(np.arange(n), (min(rows, n_resamples - start), n))
            yield rng.permuted(places, axis=1)[:, :n_treated]

    return sampled(), False


def _pooled(control: ArrayLike, treatment: ArrayLike, n_resamples: int) -> tuple[Floats, int]:
    """Values of both arms, the control first, and how many are treated."""
    arms = finite("control", control), finite("treatment", treatment)
    require(n_resamples >= 99, "n_resamples", n_resamples, "must be at least 99", "try 2000")
    values = np.concatenate(arms)
    spread = float(np.ptp(values))
    require(spread > 0, "spread of the metric", spread, "must be > 0", "a constant needs no test")
    return values, len(arms[1])
