"""Did it change anything: the two-sample comparison of an experiment's metric."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from common.errors import InputError, require
from labs.lab6_online_eval.cuped import Floats, as_columns, cuped_adjust


@dataclass(frozen=True)
class Moments:
    """What the test needs of one arm: size, mean, and sample variance (n - 1)."""

    n: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """The moments of one value a unit, float [n]."""
        return cls(len(values), float(values.mean()), float(values.var(ddof=1)))

    @classmethod
    def of_sums(cls, n: int, total: float, squares: float) -> Moments:
        """The moments from n, the sum and the sum of squares, as event logs keep them."""
        return cls(n, total / n, (squares - total**2 / n) / (n - 1))


@dataclass(frozen=True)
class Comparison:
    """Treatment against control.

    ``effect`` is the difference of means, ``relative`` that difference as a share of the control's
    mean. The intervals are at level ``1 - alpha``: 95 % unless another alpha was asked for.
    ``p`` tests the effect, ``relative_p`` the relative effect; near the threshold they disagree.
    ``variance_reduction`` is the share of the effect's variance that the covariate removed (0
    without one). The relative fields are None when the control's mean is 0.
    """

    effect: float
    ci95: tuple[float, float]
    p: float
    relative: float | None
    relative_ci95: tuple[float, float] | None
    se: float
    n_control: int
    n_treatment: int
    variance_reduction: float = 0.0
    relative_p: float | None = None
    mean_control: float = 0.0
    mean_treatment: float = 0.0


def compare(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    control_covariate: ArrayLike | None = None,
    treatment_covariate: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Welch's test of treatment against control, with CUPED when covariates are given.

    Parameters
    ----------
    control, treatment
        The metric, one value a unit of randomisation: float [n_control], float [n_treatment].
    control_covariate, treatment_covariate
        What was known of the same units before the experiment, float [n] or [n, k]; both or none.
    alpha
        Two-sided error rate; the intervals are at level ``1 - alpha``.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Fewer than two units in an arm, values that are missing, one covariate without the other,
        or a metric that does not vary in either arm.

    Notes
    -----
    Welch (1947), Biometrika 34. With CUPED (Deng et al. 2013) the test is on the adjusted metric;
    the k degrees of freedom of theta are not counted, which matters below about 100 units.
    """
    raw = _metric("control", control), _metric("treatment", treatment)
    if control_covariate is None and treatment_covariate is None:
        return compare_moments(Moments.of(raw[0]), Moments.of(raw[1]), alpha=alpha)
    if control_covariate is None or treatment_covariate is None:
        raise InputError("covariates must be given for both arms or for none: one is None")
    adjusted = cuped_adjust(
        *raw,
        as_columns("control_covariate", control_covariate, len(raw[0])),
        as_columns("treatment_covariate", treatment_covariate, len(raw[1])),
    )
    before = _squared_se(Moments.of(raw[0]), Moments.of(raw[1]))
    after = Moments.of(adjusted.control), Moments.of(adjusted.treatment)
    reduction = 1 - _squared_se(*after) / before if before > 0 else 0.0
    return compare_moments(*after, alpha=alpha, variance_reduction=reduction)


def compare_moments(
    control: Moments, treatment: Moments, *, alpha: float = 0.05, variance_reduction: float = 0.0
) -> Comparison:
    """`compare` from each arm's moments, for metrics that are summed where the logs are.

        se^2 = s_t^2 / n_t + s_c^2 / n_c

    and, by the delta method, for the relative effect ``m_t / m_c - 1``

        se_rel^2 = s_t^2 / (n_t m_c^2) + m_t^2 s_c^2 / (n_c m_c^4).
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    for name, arm in (("control", control), ("treatment", treatment)):
        require(arm.n >= 2, f"units in {name}", arm.n, "must be at least 2")
        require(isfinite(arm.mean), f"mean of {name}", arm.mean, "must be finite")
        usable = isfinite(arm.variance) and arm.variance >= 0
        require(usable, f"variance of {name}", arm.variance, "must be finite and >= 0")
    se = sqrt(_squared_se(control, treatment))
    require(se > 0, "variance of the metric", 0.0, "must be > 0", "a constant needs no test")
    effect = treatment.mean - control.mean
    dof = _degrees_of_freedom(control, treatment)
    relative = relative_ci = relative_p = None
    if control.mean != 0:
        relative = effect / control.mean
        relative_se = sqrt(
            treatment.variance / treatment.n / control.mean**2
            + control.variance / control.n * treatment.mean**2 / control.mean**4
        )
        relative_ci = _interval(relative, relative_se, dof, alpha)
        relative_p = _two_sided(relative, relative_se, dof)
    return Comparison(
        effect=effect,
        ci95=_interval(effect, se, dof, alpha),
        p=_two_sided(effect, se, dof),
        relative=relative,
        relative_ci95=relative_ci,
        se=se,
        n_control=control.n,
        n_treatment=treatment.n,
        variance_reduction=variance_reduction,
        relative_p=relative_p,
        mean_control=control.mean,
        mean_treatment=treatment.mean,
    )


def _metric(name: str, values: ArrayLike) -> Floats:
    metric = np.asarray(values, dtype=float)
    require(metric.ndim == 1, f"shape of {name}", metric.shape, "must be [n], one value a unit")
    require(len(metric) >= 2, f"units in {name}", len(metric), "must be at least 2")
    missing = int(np.count_nonzero(~np.isfinite(metric)))
    require(
        missing == 0,
        f"missing values in {name}",
        missing,
        "must be 0",
        "a unit without events counts as 0; dropping it breaks the randomisation",
    )
    return metric


def _squared_se(control: Moments, treatment: Moments) -> float:
    return control.variance / control.n + treatment.variance / treatment.n


def _degrees_of_freedom(control: Moments, treatment: Moments) -> float:
    """Welch-Satterthwaite."""
    parts = [(arm.variance / arm.n, arm.n - 1) for arm in (control, treatment)]
    return sum(part for part, _ in parts) ** 2 / sum(part**2 / dof for part, dof in parts)


def _interval(estimate: float, se: float, dof: float, alpha: float) -> tuple[float, float]:
    half = -float(stdtrit(dof, alpha / 2)) * se
    return estimate - half, estimate + half


def _two_sided(estimate: float, se: float, dof: float) -> float:
    ratio = abs(estimate) / se if se > 0 else inf
    return float(2 * stdtr(dof, -ratio))
