"""One weight for the whole list: two lists hardly ever agree everywhere, and all others count 0."""

import numpy as np


def doubly_robust(clicks, logged, target, predicted_logged, predicted_target):
    weight = (target / logged).prod(axis=1, keepdims=True)
    return np.asarray((predicted_target + weight * (clicks - predicted_logged)).sum(axis=1))
