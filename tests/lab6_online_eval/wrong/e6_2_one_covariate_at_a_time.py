"""Each covariate gets the slope it would have alone."""

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
    centred, y = covariate - centre, metric - metric.mean()
    theta = (centred * y[:, None]).sum(axis=0) / (centred**2).sum(axis=0)
    return Adjusted(
        control=control - (control_covariate - centre) @ theta,
        treatment=treatment - (treatment_covariate - centre) @ theta,
        theta=theta,
    )
