"""The residuals are those of the second stage, with the predicted treatment in them."""

import numpy as np


def wald_estimate(outcome, received, assigned):
    take_up = received[assigned].mean() - received[~assigned].mean()
    effect = (outcome[assigned].mean() - outcome[~assigned].mean()) / take_up
    predicted = np.where(assigned, received[assigned].mean(), received[~assigned].mean())
    u = outcome - effect * predicted
    variance = sum(u[arm].var(ddof=1) / arm.sum() for arm in (assigned, ~assigned))
    return float(effect), float(np.sqrt(variance) / abs(take_up))
