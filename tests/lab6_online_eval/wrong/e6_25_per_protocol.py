"""Those who did not do what the coin said are left out."""

import numpy as np


def wald_estimate(outcome, received, assigned):
    followed, others = assigned & received, ~assigned & ~received
    effect = outcome[followed].mean() - outcome[others].mean()
    variance = sum(outcome[arm].var(ddof=1) / arm.sum() for arm in (followed, others))
    return float(effect), float(np.sqrt(variance))
