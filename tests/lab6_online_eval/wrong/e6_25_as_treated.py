"""Those who took it against those who did not: people are compared, not the treatment."""

import numpy as np


def wald_estimate(outcome, received, assigned):
    effect = outcome[received].mean() - outcome[~received].mean()
    variance = sum(outcome[arm].var(ddof=1) / arm.sum() for arm in (received, ~received))
    return float(effect), float(np.sqrt(variance))
