"""Each arm is adjusted by its own theta."""

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
    adjusted = []
    for y, x in ((control, control_covariate), (treatment, treatment_covariate)):
        theta = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
        adjusted.append(y - (x - centre) @ theta)
    return Adjusted(control=adjusted[0], treatment=adjusted[1], theta=theta)
