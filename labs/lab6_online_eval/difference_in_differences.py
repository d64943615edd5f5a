"""Difference in differences: the control group shows what time alone would have done.

Before and after, treated and not: the change of the treated, minus the change of the others. It
needs no treated and control groups that are alike, only that both would have *moved* alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    Study,
    check_finite,
    check_units,
)
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.propensity import fit_propensity, require_overlap

NEVER = -1


@exercise(
    "6.23",
    points=5,
    title="Difference in differences with its clustered standard error",
    hint="The effect is a weighted sum of the rows. Which weight has a row of each of the four "
    "cells? A unit is in two cells: add up what its rows contribute before you square.",
)
def did_with_clustered_error(
    outcome: Floats, treated: Bools, after: Bools, unit: NDArray[np.int64]
) -> tuple[float, float]:
    """The difference of differences, and its standard error clustered by unit.

        effect = (Y_11 - Y_10) - (Y_01 - Y_00)        Y_tp: mean of the cell treated t, after p
        a_i    = +1/n_tp where t = p, -1/n_tp where t != p        the weight of row i
        e_i    = Y_i - mean of its cell
        se^2   = G/(G-1) (N-1)/(N-4) sum_g ( sum_{i in g} a_i e_i )^2

    Parameters
    ----------
    outcome
        Float [N], one row a unit and period.
    treated, after
        Bool [N]: whether the row's *unit* is one of the treated, in both periods; whether the row
        is of the period after the start.
    unit
        Int [N], 0 to G - 1: rows of one unit are correlated.

    Returns
    -------
    (effect, se)

    Notes
    -----
    The coefficient d of ``Y = a + b T + c P + d T P`` with the covariance CR1. Bertrand, Duflo &
    Mullainathan (2004), How Much Should We Trust Differences-in-Differences Estimates?, QJE 119.
    """
    # BEGIN SOLUTION
    cell = 2 * treated.astype(np.int64) + after
    count = np.bincount(cell, minlength=4)
    mean = np.bincount(cell, outcome, minlength=4) / count
    weight = np.array([1.0, -1.0, -1.0, 1.0]) / count
    effect = (mean[3] - mean[2]) - (mean[1] - mean[0])
    sums = np.bincount(unit, weight[cell] * (outcome - mean[cell]))
    n, groups = len(outcome), len(sums)
    variance = groups / (groups - 1) * (n - 1) / (n - 4) * float(sums @ sums)
    return float(effect), float(np.sqrt(variance))
    # END SOLUTION


def difference_in_differences(
    outcome: ArrayLike, treated: ArrayLike, after: ArrayLike, unit: ArrayLike
) -> Estimate:
    """`did_with_clustered_error`, checked, with an interval of Student's t on G - 1.

    Parameters
    ----------
    outcome, treated, after, unit
        [N] each, one row a unit and period; ``unit`` holds any labels.

    Raises
    ------
    InputError
        An empty cell, a unit that changes its group, missing values, or fewer than two units in a
        group.
    """
    y = np.asarray(outcome, dtype=float)
    t, p = np.asarray(treated, dtype=bool), np.asarray(after, dtype=bool)
    labels = np.unique(np.asarray(unit), return_inverse=True)[1].ravel()
    require(
        y.ndim == 1 and t.shape == p.shape == labels.shape == y.shape,
        "shapes of outcome, treated, after, unit",
        (y.shape, t.shape, p.shape, labels.shape),
        "must be equal, [N] each",
    )
    check_finite("outcome", y)
    cells = np.bincount(2 * t + p, minlength=4)
    require(
        int(cells.min()) >= 1,
        "rows a cell (control before, control after, treated before, treated after)",
        cells.tolist(),
        "must all be at least 1",
    )
    share = np.bincount(labels, t) / np.bincount(labels)
    moving = int(np.count_nonzero((share > 0) & (share < 1)))
    require(moving == 0, "units that change their group", moving, "must be 0")
    n_treated = int(np.count_nonzero(share == 1))
    n_control = len(share) - n_treated
    require(min(n_treated, n_control) >= 2, "units", [n_control, n_treated], "must be at least 2")
    effect, se = did_with_clustered_error(y, t, p, labels)
    return Estimate.of(
        effect,
        se,
        estimand=Estimand.ATT,
        n_treated=n_treated,
        n_control=n_control,
        dof=len(share) - 1,
    )


def did_of_panel(before: Floats, after: Floats, treated: Bools) -> Estimate:
    """`difference_in_differences` of a balanced panel: before, after float [n], treated [n]."""
    check_units(before, treated)
    check_units(after, treated)
    n = len(before)
    return difference_in_differences(
        np.concatenate([before, after]),
        np.tile(treated, 2),
        np.arange(2 * n) >= n,
        np.tile(np.arange(n), 2),
    )


def did_with_covariates(
    before: Floats, after: Floats, treated: Bools, covariates: Floats
) -> Estimate:
    """The change regressed on the treatment and covariates [n, k]: trends parallel given these.

    Raises
    ------
    InputError
        No overlap: the regression would extrapolate without a word.
    """
    check_units(before, treated)
    score = fit_propensity(Study(after - before, treated, covariates)).score
    require_overlap(score, treated, Estimand.ATT)
    fit = least_squares(with_intercept(covariates, treated.astype(float)), after - before)
    n_treated = int(treated.sum())
    return Estimate.of(
        float(fit.coefficients[1]),
        float(fit.se[1]),
        estimand=Estimand.ATT,
        n_treated=n_treated,
        n_control=len(treated) - n_treated,
        dof=fit.dof,
    )


def parallel_trends(earlier: Floats, before: Floats, treated: Bools) -> Estimate:
    """The same difference between two periods *before* the start, where the truth is 0.

    An interval away from 0 refutes parallel trends. One around 0 does not prove them: it may only
    be wide, and the trends may part later (Roth 2022, AER: Insights 4).
    """
    return did_of_panel(earlier, before, treated)


@dataclass(frozen=True)
class GroupTime:
    """Effects of a staggered rollout.

    ``cohort``, ``period`` int [m] and ``effect`` float [m], one a pair after the start; ``mean``:
    average over treated units and periods.
    """

    cohort: NDArray[np.int64]
    period: NDArray[np.int64]
    effect: Floats
    mean: float


def two_way_fixed_effects(outcome: Floats, start: NDArray[np.int64]) -> float:
    """The coefficient of "is treated now" with unit and period effects: wrong when staggered.

    Units treated early serve as controls of those treated later. If effects grow with time, that
    growth is subtracted, and the coefficient may be far too small or of the wrong sign.

    Parameters
    ----------
    outcome
        Float [n_units, n_periods].
    start
        Int [n_units]: first treated period; -1 (`NEVER`) for never.

    Notes
    -----
    Goodman-Bacon (2021), Journal of Econometrics 225. By the Frisch-Waugh theorem the coefficient
    is that of the doubly demeaned treatment.
    """
    treated_now = _treated_now(outcome, start).astype(float)
    d = _demeaned(treated_now)
    return float((d * outcome).sum() / (d * d).sum())


def group_time_effects(outcome: Floats, start: NDArray[np.int64]) -> GroupTime:
    """Each cohort against the never treated, from the last period before its own start.

        ATT(g, t) = mean of Y_t - Y_{g-1} over cohort g  -  the same over the never treated

    Parameters
    ----------
    outcome, start
        As `two_way_fixed_effects`.

    Raises
    ------
    InputError
        No unit that is never treated, or a cohort that starts in the first period.

    Notes
    -----
    Callaway & Sant'Anna (2021), Journal of Econometrics 225, without covariates.
    """
    now = _treated_now(outcome, start)
    never = start == NEVER
    require(bool(never.any()), "never treated units", 0, "must be at least 1", "keep a holdout")
    rows = []
    for cohort in np.unique(start[~never]):
        mine = start == cohort
        for period in range(cohort, outcome.shape[1]):
            change = outcome[:, period] - outcome[:, cohort - 1]
            rows.append((cohort, period, change[mine].mean() - change[never].mean(), mine.sum()))
    cohorts, periods, effects, sizes = (np.array(column) for column in zip(*rows))
    assert sizes.sum() == now.sum()
    return GroupTime(cohorts, periods, effects, float((effects * sizes).sum() / sizes.sum()))


def simulate_rollout(
    rng: np.random.Generator, *, n_units: int = 400, growth: float = 1.0
) -> tuple[Floats, NDArray[np.int64], float]:
    """A simulated rollout in three waves over 12 periods; the effect grows by ``growth`` a period.

    Returns
    -------
    (outcome, start, truth)
        Float [n_units, 12]; int [n_units]; the mean effect over treated units and periods.
    """
    periods = np.arange(12)
    start = rng.choice(np.array([2, 5, 8, NEVER]), n_units, p=[0.3, 0.3, 0.3, 0.1])
    since = np.where(start[:, None] == NEVER, -1, periods - start[:, None])
    effect = np.where(since >= 0, growth * (since + 1), 0.0)
    outcome = (
        rng.normal(0, 1, (n_units, 1))
        + 0.3 * periods
        + effect
        + rng.normal(0, 0.5, (n_units, len(periods)))
    )
    return outcome, start, float(effect[since >= 0].mean())


def _treated_now(outcome: Floats, start: NDArray[np.int64]) -> Bools:
    require(outcome.ndim == 2, "shape of outcome", outcome.shape, "must be [n_units, n_periods]")
    check_finite("outcome", outcome)
    require(len(start) == len(outcome), "start", len(start), f"must be {len(outcome)}, one a unit")
    known = start[start != NEVER]
    require(len(known) > 0, "units that are ever treated", 0, "must be at least 1")
    require(
        int(known.min()) >= 1,
        "first treated period",
        int(known.min()),
        "must be at least 1",
        "a unit without a period before its start has no difference to take",
    )
    periods = np.arange(outcome.shape[1])
    return np.asarray((start[:, None] != NEVER) & (periods >= start[:, None]))


def _demeaned(values: Floats) -> Floats:
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    return np.asarray(values - rows - columns + values.mean())
