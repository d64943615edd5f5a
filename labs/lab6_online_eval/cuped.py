"""CUPED: use what was known before the experiment to take noise out of its metric.

Deng, Xu, Kohavi & Walker (2013), Improving the Sensitivity of Online Controlled Experiments by
Utilizing Pre-Experiment Data, WSDM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adjusted:
    """Both arms after the adjustment; ``theta`` [k], one coefficient a covariate."""

    control: Floats
    treatment: Floats
    theta: Floats


@exercise(
    "6.2",
    points=5,
    title="Adjust a metric by a covariate from before the experiment (CUPED)",
    hint="One theta for the whole experiment, from both arms together. After the adjustment the "
    "mean over all units must be what it was, so what must be subtracted from the covariate?",
)
def cuped_adjust(
    control: Floats,
    treatment: Floats,
    control_covariate: Floats,
    treatment_covariate: Floats,
) -> Adjusted:
    """Subtract from each unit's metric what its covariate predicts.

        theta = Var(X)^-1 Cov(X, Y)        over all units of both arms
        Y_adj = Y - (X - mean(X)) theta    mean(X) over all units of both arms

    Randomisation gives both arms the same E[X], so the effect keeps its expectation, and its
    variance falls by the share R^2 of the metric that the covariate explains.

    Parameters
    ----------
    control, treatment
        The metric, one value a unit: float [n_control] and float [n_treatment].
    control_covariate, treatment_covariate
        What was measured *before* the experiment, in the same order:
        float [n_control, k] and float [n_treatment, k].

    Returns
    -------
    Adjusted
        ``control`` [n_control], ``treatment`` [n_treatment], ``theta`` [k].

    Notes
    -----
    Deng et al. (2013), equations 4 to 6. A covariate that does not vary gets theta 0.
    """
    # BEGIN SOLUTION
    metric = np.concatenate([control, treatment])
    covariate = np.concatenate([control_covariate, treatment_covariate])
    centre = covariate.mean(axis=0)
    theta = np.linalg.lstsq(covariate - centre, metric - metric.mean(), rcond=None)[0]
    return Adjusted(
        control=control - (control_covariate - centre) @ theta,
        treatment=treatment - (treatment_covariate - centre) @ theta,
        theta=theta,
    )
    # END SOLUTION


def as_columns(name: str, covariate: ArrayLike, n: int) -> Floats:
    """A covariate as float [n, k]; `InputError` when it is not one row a unit, or not finite.

    Parameters
    ----------
    name
        What to call it in the error.
    covariate
        Float [n] or [n, k].
    n
        Number of units of the arm.
    """
    columns = np.asarray(covariate, dtype=float)
    if columns.ndim == 1:
        columns = columns[:, None]
    require(
        columns.ndim == 2 and len(columns) == n,
        f"shape of {name}",
        np.shape(covariate),
        f"must be one row a unit, [{n}] or [{n}, k]",
        "keep the covariate in the order of the metric",
    )
    missing = int(np.count_nonzero(~np.isfinite(columns)))
    require(
        missing == 0,
        f"missing values in {name}",
        missing,
        "must be 0",
        "give new units a constant and add an indicator column",
    )
    return columns
