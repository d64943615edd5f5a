"""The controls are weighted by the probability of the treatment, not of theirs."""

import numpy as np


def aipw_estimate(outcome, treated, propensity, control_outcome, treated_outcome):
    psi = (
        treated_outcome
        - control_outcome
        + treated * (outcome - treated_outcome) / propensity
        - ~treated * (outcome - control_outcome) / propensity
    )
    return float(psi.mean()), float(psi.std(ddof=1) / np.sqrt(len(psi)))
