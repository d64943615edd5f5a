"""Each arm is centred on its own mean, so a chance imbalance is never corrected."""

import numpy as np


def cuped_adjust(
    control: Floats,
    treatment: Floats,
    control_covariate: Floats,
    treatment_covariate: Floats,
) -> Adjusted:
    metric = np.concatenate([control, treatment])
    covariate = np.concatenate([control_covariate, treatment_covariate])
    centre = covariate.mean(axis=0)
    theta = np.linalg.lstsq(covariate - centre, metric - metric.mean(), rcond=None)[0]
    return Adjusted(
        control=control - (control_covariate - control_covariate.mean(axis=0)) @ theta,
        treatment=treatment - (treatment_covariate - treatment_covariate.mean(axis=0)) @ theta,
        theta=theta,
    )
