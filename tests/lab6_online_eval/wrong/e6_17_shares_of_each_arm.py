"""Each arm is averaged with its own shares of the strata, which is the raw mean again."""

import numpy as np


def post_stratified(control, treatment, control_stratum, treatment_stratum):
    strata = check_strata(control, treatment, control_stratum, treatment_stratum)
    n = len(control) + len(treatment)
    effect, pieces, dofs = 0.0, [], []
    for stratum in strata:
        arms = treatment[treatment_stratum == stratum], control[control_stratum == stratum]
        weights = len(arms[0]) / len(treatment), len(arms[1]) / len(control)
        effect += weights[0] * arms[0].mean() - weights[1] * arms[1].mean()
        for arm, weight in zip(arms, weights):
            pieces.append(weight**2 * arm.var(ddof=1) / len(arm))
            dofs.append(len(arm) - 1)
    return summed(effect, np.array(pieces), np.array(dofs))
