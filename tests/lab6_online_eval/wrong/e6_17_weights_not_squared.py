"""The variance of a weighted sum takes the weights once instead of squared."""

import numpy as np


def post_stratified(control, treatment, control_stratum, treatment_stratum):
    strata = check_strata(control, treatment, control_stratum, treatment_stratum)
    n = len(control) + len(treatment)
    effect, pieces, dofs = 0.0, [], []
    for stratum in strata:
        arms = treatment[treatment_stratum == stratum], control[control_stratum == stratum]
        weight = (len(arms[0]) + len(arms[1])) / n
        effect += weight * (arms[0].mean() - arms[1].mean())
        for arm in arms:
            pieces.append(weight * arm.var(ddof=1) / len(arm))
            dofs.append(len(arm) - 1)
    return summed(effect, np.array(pieces), np.array(dofs))
