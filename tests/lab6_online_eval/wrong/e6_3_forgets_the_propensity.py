"""Agreement is used as the weight, without dividing by how often the log shows the film there."""

import numpy as np


def doubly_robust(clicks, logged, target, predicted_logged, predicted_target):
    return np.asarray((predicted_target + target * (clicks - predicted_logged)).sum(axis=1))
