"""The mean of the predictions alone: a wrong regression is not corrected."""

import numpy as np


def aipw_estimate(outcome, treated, propensity, control_outcome, treated_outcome):
    psi = treated_outcome - control_outcome
    return float(psi.mean()), float(psi.std(ddof=1) / np.sqrt(len(psi)))
