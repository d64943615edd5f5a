"""The error is that of the predicted effects, without the noise of the correction."""

import numpy as np


def aipw_estimate(outcome, treated, propensity, control_outcome, treated_outcome):
    psi = (
        treated_outcome
        - control_outcome
        + treated * (outcome - treated_outcome) / propensity
        - ~treated * (outcome - control_outcome) / (1 - propensity)
    )
    predicted = treated_outcome - control_outcome
    return float(psi.mean()), float(predicted.std(ddof=1) / np.sqrt(len(psi)))
