"""The effect of being encouraged is given for that of the treatment."""

import numpy as np


def wald_estimate(outcome, received, assigned):
    effect = outcome[assigned].mean() - outcome[~assigned].mean()
    variance = sum(outcome[arm].var(ddof=1) / arm.sum() for arm in (assigned, ~assigned))
    return float(effect), float(np.sqrt(variance))
