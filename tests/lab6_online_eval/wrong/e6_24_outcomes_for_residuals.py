"""Weighted outcomes are added to the predictions where their residuals belong."""

import numpy as np


def aipw_estimate(outcome, treated, propensity, control_outcome, treated_outcome):
    psi = (
        treated_outcome
        - control_outcome
        + treated * outcome / propensity
        - ~treated * outcome / (1 - propensity)
    )
    return float(psi.mean()), float(psi.std(ddof=1) / np.sqrt(len(psi)))
