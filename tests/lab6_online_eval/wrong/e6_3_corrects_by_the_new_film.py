"""The residual is taken against the prediction for the new ranker's film, not for the shown one."""

import numpy as np


def doubly_robust(clicks, logged, target, predicted_logged, predicted_target):
    correction = target / logged * clicks - predicted_target / logged
    return np.asarray((predicted_target + correction).sum(axis=1))
