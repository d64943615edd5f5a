"""Beyond one covariate: regression with interactions, users without a past, how much past helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from labs.lab6_online_eval.cuped import as_columns
from labs.lab6_online_eval.estimates import Estimate, finite

if TYPE_CHECKING:
    from common.data import Dataset

Floats = NDArray[np.float64]


def lin_regression(
    control: ArrayLike,
    treatment: ArrayLike,
    control_covariate: ArrayLike,
    treatment_covariate: ArrayLike,
) -> Estimate:
    """The effect by regression on treatment, centred covariates and their interactions.

        y = a + tau w + (x - mean x)' b + w (x - mean x)' g + error

    which is a regression in each arm, read at the mean covariate of *both* arms. CUPED fits one
    slope for both arms; when slopes differ and arms are of unequal size that can cost variance,
    and this cannot (asymptotically it is never worse than the raw difference).

    Parameters
    ----------
    control, treatment
        The metric, one value a unit: float [n_control], float [n_treatment].
    control_covariate, treatment_covariate
        From before the experiment: float [n] or [n, k], in the same order.

    Returns
    -------
    Estimate
        ``tau`` with its HC2 standard error, and ``n - 2 k - 2`` degrees of freedom. The error is
        for the mean effect on the units at hand; for the population add
        ``g' Var(x) g / n`` where slopes differ.

    Raises
    ------
    InputError
        Columns that depend on each other within an arm, too few units for k, NaN or infinity.

    Notes
    -----
    Lin (2013), Agnostic notes on regression adjustments to experimental data: Reexamining
    Freedman's critique, Annals of Applied Statistics 7(1). HC2: MacKinnon & White (1985).
    """
    y = finite("control", control), finite("treatment", treatment)
    x = (
        as_columns("control_covariate", control_covariate, len(y[0])),
        as_columns("treatment_covariate", treatment_covariate, len(y[1])),
    )
    k = x[0].shape[1]
    require(x[1].shape[1] == k, "columns of treatment_covariate", x[1].shape[1], f"must be {k}")
    least = min(len(each) for each in y)
    require(least >= k + 3, "units in the smaller arm", least, f"must be at least {k + 3}")
    centre = np.concatenate(x).mean(axis=0)
    levels, variances = [], []
    for name, values, columns in zip(("control", "treatment"), y, x, strict=True):
        design = np.column_stack([np.ones(len(values)), columns - centre])
        q, r = np.linalg.qr(design)
        scale = np.abs(np.diag(r))
        require(
            bool((scale > 1e-9 * np.linalg.norm(design, axis=0).clip(1e-300)).all()),
            f"rank of the covariates in {name}",
            int((scale > 1e-9).sum()) - 1,
            f"must be {k}",
            "drop columns that are constant or sums of others",
        )
        # row 0 of the pseudo-inverse: how each unit's value enters the level at the centre
        influence = np.linalg.solve(r, q.T)[0]
        residual = values - q @ (q.T @ values)
        leverage = (q**2).sum(axis=1)
        levels.append(float(influence @ values))
        variances.append(
            float((influence**2 * residual**2 / np.maximum(1 - leverage, 1e-12)).sum())
        )
    total = sum(variances)
    require(total > 0, "variance of the estimate", total, "must be > 0", "a constant needs no test")
    return Estimate(levels[1] - levels[0], total**0.5, len(y[0]) + len(y[1]) - 2 * k - 2)


def with_missing_indicator(covariate: ArrayLike) -> Floats:
    """Covariates in which new users have NaN, made usable: float [n] or [n, k] -> [n, k + missing].

    A missing value becomes the mean of the known ones, and every column with missing values gets
    an indicator column. Dropping new users instead changes who the effect is for; filling without
    the indicator presses "unknown" onto the line of the others. Apply it to both arms *together*,
    so that they are filled alike.

    Raises
    ------
    InputError
        Infinite values, or a column of which nothing is known.

    Notes
    -----
    Zhao & Ding (2022), To adjust or not to adjust? Estimating the average treatment effect in
    randomized experiments with missing covariates, JASA: sound under randomisation, because who
    is new is itself known before.
    """
    columns = np.asarray(covariate, dtype=float)
    if columns.ndim == 1:
        columns = columns[:, None]
    require(columns.ndim == 2, "shape of covariate", np.shape(covariate), "must be [n] or [n, k]")
    infinite = int(np.isinf(columns).sum())
    require(infinite == 0, "infinite values in covariate", infinite, "must be 0")
    missing = np.isnan(columns)
    known = (~missing).sum(axis=0)
    require(
        bool((known > 0).all()), "known values of a column", int(known.min()), "must be at least 1"
    )
    filled = np.where(missing, np.nansum(columns, axis=0) / known, columns)
    return np.column_stack([filled, missing[:, missing.any(axis=0)].astype(float)])


def variance_reduction(metric: ArrayLike, covariate: ArrayLike) -> float:
    """Share of the metric's variance that the covariates explain, R squared adjusted for k columns.

    It is what CUPED removes, less what fitting k slopes costs. Near 0, or below, CUPED does not
    help: the covariate says nothing of the metric, or there are too few units for so many columns.
    """
    y = finite("metric", metric)
    x = as_columns("covariate", covariate, len(y))
    k = x.shape[1]
    require(len(y) >= k + 3, "units", len(y), f"must be at least {k + 3}")
    centred = y - y.mean()
    require(float(centred @ centred) > 0, "variance of metric", 0.0, "must be > 0")
    columns = x - x.mean(axis=0)
    slopes = np.linalg.lstsq(columns, centred, rcond=None)[0]
    residual = centred - columns @ slopes
    left = float(residual @ residual) / float(centred @ centred)
    return 1 - left * (len(y) - 1) / (len(y) - 1 - k)


@dataclass(frozen=True)
class PastGain:
    """What a past of ``length`` events takes off the variance, of ``n_units`` units."""

    metric: str
    length: int
    variance_reduction: float
    n_units: int


def movielens_past(
    dataset: Dataset, lengths: Sequence[int] = (1, 2, 5, 10, 20, 40)
) -> tuple[PastGain, ...]:
    """How much past CUPED needs, on MovieLens users whose history is cut in the middle.

    Two metrics of the second half: the mean rating, which persists, and whether the very next
    rating is five stars, a single noisy event. The covariate is the mean rating, or the share of
    fives, of the last ``length`` ratings before the cut; users with fewer keep what they have, so
    all lengths are compared on the same 943 users.
    """
    table = dataset.table("interactions").sort_values("timestamp", kind="stable")
    ratings = [group.to_numpy(float) for _, group in table.groupby("user_id")["rating"]]
    halves = [(r[: len(r) // 2], r[len(r) // 2 :]) for r in ratings]
    mean_after = np.array([after.mean() for _, after in halves])
    five_after = np.array([float(after[0] == 5) for _, after in halves])
    gains = []
    for length in lengths:
        require(length >= 1, "length", length, "must be at least 1")
        past = [before[-length:] for before, _ in halves]
        for name, metric, covariate in (
            ("mean rating", mean_after, np.array([p.mean() for p in past])),
            ("next rating is five", five_after, np.array([(p == 5).mean() for p in past])),
        ):
            gain = variance_reduction(metric, covariate)
            gains.append(PastGain(name, length, gain, len(metric)))
    return tuple(gains)
