"""The weights are the shares of the strata in the control arm alone."""

import numpy as np


def post_stratified(control, treatment, control_stratum, treatment_stratum):
    strata = check_strata(control, treatment, control_stratum, treatment_stratum)
    n = len(control) + len(treatment)
    effect, pieces, dofs = 0.0, [], []
    for stratum in strata:
        arms = treatment[treatment_stratum == stratum], control[control_stratum == stratum]
        weight = len(arms[1]) / len(control)
        effect += weight * (arms[0].mean() - arms[1].mean())
        for arm in arms:
            pieces.append(weight**2 * arm.var(ddof=1) / len(arm))
            dofs.append(len(arm) - 1)
    return summed(effect, np.array(pieces), np.array(dofs))
